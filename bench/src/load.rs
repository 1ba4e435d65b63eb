//! The load: people take turns in each conversation, at times the schedule sets and the server does not.
//!
//! Order: [`Load::drive`] sends every start that is due, then lets the fleet take one turn, until the end. A start
//! that leaves late is measured from when it was meant to leave, and its lateness is recorded.

use crate::fleet::Fleet;
use crate::ledger::Side;
use crate::report::Latency;
use crate::schedule::Schedule;

/// Starts sent between two looks at the sockets, so that a generator that fell behind still reads answers.
const STARTS_PER_TURN_MAX: usize = 256;

/// A schedule and whose turn it is in each conversation.
pub struct Load {
    schedule: Schedule,
    turns: Vec<Side>,
    /// From intended start to the write, of starts within the fleet's window.
    pub lateness: Latency,
    /// Starts within the fleet's window.
    pub offered: u64,
}

impl Load {
    /// The agent speaks first: each visitor has already said why it came.
    pub fn new(schedule: Schedule, conversations: usize) -> Self {
        Self { schedule, turns: vec![Side::Agent; conversations], lateness: Latency::new(), offered: 0 }
    }

    /// Begins again at `now_ns`: starts that fell into an outage were never meant.
    pub fn skip_to(&mut self, now_ns: u64) {
        self.schedule.skip_to(now_ns);
    }

    /// Runs until `end_ns` of the fleet's clock.
    pub fn drive(&mut self, fleet: &mut Fleet, end_ns: u64) {
        loop {
            let mut now = fleet.now_ns();
            for _ in 0..STARTS_PER_TURN_MAX {
                let Some(start) = self.schedule.due(now.min(end_ns)) else { break };
                let side = self.turns[start.conversation];
                self.turns[start.conversation] = side.other();
                fleet.say(start.conversation, side, start.at_ns);
                now = fleet.now_ns();
                if fleet.meter.window.contains(&start.at_ns) {
                    self.offered += 1;
                    self.lateness.record_ns(now - start.at_ns);
                }
            }
            if now >= end_ns && self.schedule.next_ns() > end_ns {
                return;
            }
            fleet.turn(self.schedule.next_ns().min(end_ns));
        }
    }
}
