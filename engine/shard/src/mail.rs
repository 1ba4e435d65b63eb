//! Where a turn's messages go: to the driver for other shards, into a local queue for this one.

use std::collections::VecDeque;

use crate::io::{Output, Outputs};
use crate::message::ShardMessage;

/// Messages this turn sends. Local ones are handled before the turn ends; each is the answer to an input or the
/// release of a gate entry, so their number is bounded by both.
pub struct Mail<'a> {
    shard: u16,
    local: &'a mut VecDeque<ShardMessage>,
    outputs: &'a mut Outputs,
}

impl<'a> Mail<'a> {
    /// Mail of `shard`.
    pub fn new(shard: u16, local: &'a mut VecDeque<ShardMessage>, outputs: &'a mut Outputs) -> Self {
        Self { shard, local, outputs }
    }

    /// Sends to a shard, maybe this one.
    pub fn send(&mut self, to: u16, message: ShardMessage) {
        if to == self.shard {
            self.local.push_back(message);
        } else {
            self.outputs.events.push(Output::ToShard { to, message });
        }
    }

    /// The next message to this shard itself.
    pub fn next_local(&mut self) -> Option<ShardMessage> {
        self.local.pop_front()
    }

    /// An output for the driver.
    pub fn output(&mut self, output: Output) {
        self.outputs.events.push(output);
    }
}
