//! What an upgrade asks of a reactor: stand still, write down, go on, let go; and to begin with another's connections.
//!
//! | Stance | Letters for the shard | Turns of the shard |
//! |---|---|---|
//! | running | taken | yes |
//! | settling | wait, reports excepted | yes |
//! | stood | wait | no: the table alone goes on, for what lingers |
//! | gone | dropped | no |
//!
//! The letters that wait are bounded by their senders: a revocation, new settings or a drain each belong to one request
//! of the control plane, which is not answered sooner.

use std::time::Duration;

use ringdesk_shard::carry::Carried;
use ringdesk_shard::io::{ConnId, Control, Input, Now, Stand};

use super::{Reactor, TurnOutcome};
use crate::kernel::Kernel;
use crate::still::{Quiet, Stood, StoodCounts};
use crate::turn::Turn;

/// Where the shard stands with regard to an upgrade.
#[derive(Debug)]
pub(super) enum Stance {
    Running,
    /// It finishes what was begun.
    Settling {
        /// When sends are taken back; `None`: they have been.
        late_ns: Option<u64>,
        /// What was last told.
        told: Option<Quiet>,
    },
    /// Its connections were written down; it takes no turns.
    Stood(Vec<ConnId>),
    /// They are another process's.
    Gone,
}

impl<K: Kernel, T: Turn> Reactor<K, T> {
    /// A connection that another process had before. `entry` of the kernel's descriptor table holds its socket already;
    /// the shard has it with its first turn, which must not have been taken.
    pub fn adopt(&mut self, entry: u32, carried: Carried) {
        assert!(self.counts.turns == 0, "entry {entry} is adopted after the first turn");
        let conn = self.table.take_over(entry);
        self.effects.inputs.push(Input::Adopted { conn, carried: Box::new(carried) });
    }

    /// Whether the shard takes turns.
    pub(super) fn is_frozen(&self) -> bool {
        matches!(self.stance, Stance::Stood(_) | Stance::Gone)
    }

    /// What was written down must stay as it is.
    pub(super) fn assert_untouched(&self) {
        let what = self.inputs.events.first();
        assert!(what.is_none(), "{what:?} at a shard whose connections were written down");
    }

    /// When the shard or the stance has something to do.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        let late = match self.stance {
            Stance::Settling { late_ns, .. } => late_ns,
            Stance::Running => None,
            Stance::Stood(_) | Stance::Gone => return None,
        };
        [self.turn.next_deadline_ns(), late].into_iter().flatten().min()
    }

    pub(super) fn take_control(&mut self, control: Control) {
        match (&self.stance, &control) {
            (Stance::Running, _) | (Stance::Settling { .. }, Control::Report) => {
                self.effects.inputs.push(Input::Control(control));
            }
            (Stance::Settling { .. } | Stance::Stood(_), _) => self.held.push(control),
            (Stance::Gone, _) => {}
        }
    }

    pub(super) fn stand_still(&mut self, now: Now, patience: Duration) {
        if !matches!(self.stance, Stance::Running) {
            return;
        }
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let late_ns = Some(now.mono_ns.saturating_add(patience_ns));
        self.stance = Stance::Settling { late_ns, told: None };
        self.table.stand_still();
        self.effects.inputs.push(Input::Stand(Stand::Still));
    }

    /// Takes sends back once patience is over.
    pub(super) fn run_late(&mut self, now: Now) {
        if let Stance::Settling { late_ns, .. } = &mut self.stance
            && late_ns.is_some_and(|at| at <= now.mono_ns)
        {
            *late_ns = None;
            self.table.take_back_sends();
        }
        self.table.give_back_sends(&mut self.effects);
    }

    /// Tells once that nothing is left to do here. After a turn that found nothing to do.
    pub(super) fn tell_quiet(&mut self, outcome: &mut TurnOutcome) {
        let Stance::Settling { told, .. } = &mut self.stance else { return };
        let lanes = self.backlogs.iter().all(|backlog| backlog.is_empty()) && !self.port.waiting();
        if !lanes || !self.turn.is_settled() || !self.table.is_quiet() {
            return;
        }
        let quiet = Quiet { put: self.put.clone(), taken: self.taken.clone() };
        if told.as_ref() != Some(&quiet) {
            *told = Some(quiet.clone());
            outcome.quiet = Some(quiet);
        }
    }

    /// Has the shard write its connections down, and freezes it.
    pub(super) fn collect(&mut self, now: Now, outcome: &mut TurnOutcome) {
        if !matches!(self.stance, Stance::Settling { .. }) {
            return;
        }
        assert!(
            self.turn.is_settled() && self.table.is_quiet(),
            "a shard that is not still cannot be written down"
        );
        self.collect_effects();
        assert!(
            self.inputs.events.is_empty(),
            "a shard that stands still has inputs: {:?}",
            self.inputs.events
        );
        self.inputs.events.push(Input::Stand(Stand::Collect));
        self.measure_lanes();
        self.turn.step(now, &mut self.inputs, &mut self.outputs);
        self.carry_out(outcome);
        let stood = self.stood.take().unwrap_or_default();
        let counts = StoodCounts { carried: stood.carried.len() as u64, tls: u64::from(stood.tls) };
        self.stance = Stance::Stood(stood.carried.iter().map(|(conn, _)| *conn).collect());
        outcome.stood = Some(Box::new(Stood { connections: stood.carried, counts }));
    }

    pub(super) fn go_on(&mut self) {
        if matches!(self.stance, Stance::Running | Stance::Gone) {
            return;
        }
        self.stance = Stance::Running;
        self.table.go_on();
        self.table.give_back_sends(&mut self.effects);
        self.effects.inputs.push(Input::Stand(Stand::GoOn));
        let held = std::mem::take(&mut self.held);
        self.effects.inputs.extend(held.into_iter().map(Input::Control));
    }

    /// Lets go of the connections that were written down. Those that linger are waited for as in a drain.
    pub(super) fn let_go(&mut self) {
        let Stance::Stood(conns) = std::mem::replace(&mut self.stance, Stance::Gone) else {
            panic!("connections are another process's that were never written down");
        };
        for conn in conns {
            self.table.forget(conn);
        }
        self.held.clear();
        self.drained = true;
    }
}
