//! Production's way of taking turns: spin for a bounded time, then sleep, and measure both.

use std::ops::ControlFlow;
use std::time::Duration;

use ringdesk_shard::io::Space;
use ringdesk_shard::report::ShardReport;

use crate::clock::Clock;
use crate::kernel::{Kernel, KernelFailure};
use crate::reactor::Reactor;
use crate::still::{Quiet, Stood};
use crate::turn::Turn;

/// What the loop tells its surroundings while it runs.
#[derive(Debug)]
pub enum News {
    /// A report the control plane asked for.
    Report(Box<ShardReport>),
    /// The shard stands still and has nothing left to do ([`crate::mailbox::Letter::Still`]). Comes again when something
    /// came up in between.
    Quiet(Quiet),
    /// The shard's connections, after [`crate::mailbox::Letter::Collect`]. Answer `Break` to have the reactor back for
    /// the export of their descriptors; running it again, it still stands still.
    Still(Box<Stood>),
    /// The shard said goodbye to its last connection, or all of them are another process's. Answer `Break` to end the loop, `Continue` to keep serving
    /// the other shards.
    Drained,
    /// What the shard says of its log's disk: at each attempt that found it full, and once when it has space again.
    Space(Space),
    /// Told at most once a second, after a turn: an idle shard says nothing.
    Duty(DutyCycle),
}

/// How the loop ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunEnd {
    /// A [`crate::mailbox::Letter::Stop`] was read, or the listener to [`News`] said `Break`.
    Stopped,
    /// The shard or the kernel cannot go on.
    Fatal(String),
}

/// Where the time went since the start of the loop, nanoseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DutyCycle {
    /// In turns that found or produced something.
    pub busy_ns: u64,
    /// In turns that did not: spinning.
    pub spin_ns: u64,
    /// Asleep in the kernel.
    pub sleep_ns: u64,
    /// Number of sleeps.
    pub sleeps: u64,
    /// The longest busy turn.
    pub turn_ns_max: u64,
}

/// How long the loop spins without work before it sleeps, unless configured: what a wake-up costs on the measured
/// machine (limits.md: 23 us through MSG_RING, 53 us saved on an echo).
pub const SPIN_DEFAULT: Duration = Duration::from_micros(20);

const DUTY_EVERY_NS: u64 = 1_000_000_000;

impl<K: Kernel, T: Turn> Reactor<K, T> {
    /// Takes turns until the end. `spin`: how long to stay awake without work; zero sleeps at once.
    pub fn run(
        &mut self,
        clock: &mut dyn Clock,
        spin: Duration,
        tell: &mut dyn FnMut(News) -> ControlFlow<()>,
    ) -> RunEnd {
        let spin_ns = u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX);
        let mut duty = DutyCycle::default();
        let mut now = clock.now();
        let (mut worked_ns, mut told_ns) = (now.mono_ns, now.mono_ns);
        loop {
            let outcome = self.turn(now);
            let after = clock.now();
            let took = after.mono_ns - now.mono_ns;
            if outcome.busy {
                duty.busy_ns += took;
                duty.turn_ns_max = duty.turn_ns_max.max(took);
                worked_ns = after.mono_ns;
            } else {
                duty.spin_ns += took;
            }
            if let Some(sentence) = outcome.fatal {
                return RunEnd::Fatal(sentence);
            }
            let mut flow = if outcome.stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            for report in outcome.reports {
                flow = follow(flow, tell(News::Report(report)));
            }
            if let Some(space) = outcome.space {
                flow = follow(flow, tell(News::Space(space)));
            }
            if let Some(quiet) = outcome.quiet {
                flow = follow(flow, tell(News::Quiet(quiet)));
            }
            if let Some(stood) = outcome.stood {
                flow = follow(flow, tell(News::Still(stood)));
            }
            if outcome.drained {
                flow = follow(flow, tell(News::Drained));
            }
            let idle = !outcome.busy && after.mono_ns - worked_ns >= spin_ns;
            if after.mono_ns - told_ns >= DUTY_EVERY_NS {
                told_ns = after.mono_ns;
                flow = follow(flow, tell(News::Duty(duty)));
            }
            if flow.is_break() {
                return RunEnd::Stopped;
            }
            now = after;
            if idle {
                match self.sleep_until_work(clock, now.mono_ns, &mut duty) {
                    Ok(slept) if slept => now = clock.now(),
                    Ok(_) => {}
                    Err(KernelFailure(sentence)) => return RunEnd::Fatal(sentence),
                }
            }
        }
    }

    fn sleep_until_work(
        &mut self,
        clock: &mut dyn Clock,
        now_ns: u64,
        duty: &mut DutyCycle,
    ) -> Result<bool, KernelFailure> {
        let before = clock.now();
        let Some(deadline) = self.doze(before) else {
            std::hint::spin_loop();
            return Ok(false);
        };
        let wait_ns = if deadline == u64::MAX { u64::MAX } else { deadline - before.mono_ns };
        let slept = self.sleep(wait_ns);
        self.rouse();
        slept?;
        duty.sleeps += 1;
        duty.sleep_ns += clock.now().mono_ns - now_ns;
        Ok(true)
    }
}

fn follow(first: ControlFlow<()>, second: ControlFlow<()>) -> ControlFlow<()> {
    if first.is_break() { first } else { second }
}
