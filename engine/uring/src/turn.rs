//! What the reactor drives: one shard.

use ringdesk_shard::io::{Inputs, Now, Outputs};

/// One turn of a shard at a time. Implemented by the shard, and by small stand-ins in this crate's own tests.
pub trait Turn {
    /// Consumes all of `inputs.events`, appends to `outputs.events`. `inputs.bytes` is valid during the call.
    ///
    /// The reactor calls it when there is an input or the deadline is reached, and not otherwise: whoever wants to
    /// go on without a new input returns a deadline that is already due.
    fn step(&mut self, now: Now, inputs: &mut Inputs, outputs: &mut Outputs);

    /// When the next turn is due even without an input, on the clock of [`Now::mono_ns`]; `None`: never.
    fn next_deadline_ns(&self) -> Option<u64>;

    /// While it stands still ([`ringdesk_shard::io::Stand`]): whether it has nothing left to finish by itself. Asked
    /// only when no input is left.
    fn is_settled(&self) -> bool {
        true
    }
}

impl Turn for ringdesk_shard::Shard {
    fn step(&mut self, now: Now, inputs: &mut Inputs, outputs: &mut Outputs) {
        ringdesk_shard::Shard::step(self, now, inputs, outputs);
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        ringdesk_shard::Shard::next_deadline_ns(self)
    }

    fn is_settled(&self) -> bool {
        ringdesk_shard::Shard::is_settled(self)
    }
}
