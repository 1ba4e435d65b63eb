//! The loop around one shard: the same code over io_uring, the portable backend and the simulator.
//!
//! Each turn, in this order:
//!
//! 1. completions: what the kernel finished becomes inputs and follow-up operations;
//! 2. timers: pauses and lingering connections of the table whose time is over (the shard looks at its own in its step);
//! 3. rings: messages of other shards, at most [`Limits::messages_per_lane`] from each lane, and the mailbox;
//! 4. step: the shard takes all inputs and says what is to be done. Inside it, in this order: stage log, submit the
//!    batch, release the gate, flush outboxes;
//! 5. outputs: they become operations and messages, in the shard's order;
//! 6. publish rings: messages go into lanes, and sleepers are woken;
//! 7. submit: all operations of the turn go to the kernel in one call.
//!
//! Then, when nothing is left to do: spin for a bounded time, then announce the sleep, look at every lane and at the
//! mailbox once more, and sleep in the kernel until a completion, a wake-up or the next deadline.
//!
//! Ownership: the reactor owns the shard, the table with all buffers, and its ends of the lanes. Nothing is shared
//! but the lanes, the doorbells and the mailbox.
//!
//! Queues and what "full" means: lanes (bounded; full, messages wait in the lane's backlog), backlogs (bounded by
//! [`LANE_BACKLOG_MAX`]; while one is not empty the shard sees no room in that lane and answers BUSY; beyond the
//! bound the shard broke that promise, and the reactor panics), the mailbox (bounded; the control plane waits).

mod stance;

use std::collections::VecDeque;
use std::sync::Arc;

use ringdesk_ring::{Doorbell, Port};
use ringdesk_shard::io::{
    Control, Input, Inputs, ListenerKind, Now, Output, Outputs, Space, StoodConnections,
};
use ringdesk_shard::message::ShardMessage;
use ringdesk_shard::report::ShardReport;

use crate::kernel::{Completion, Kernel, KernelFailure};
use crate::mailbox::{Letter, Mailbox};
use crate::still::{Quiet, Stood};
use crate::table::{Effects, Table, TableCounts};
use crate::turn::Turn;
use stance::Stance;

/// Messages that may wait for a place in one lane. A turn may add all its messages before the shard sees that the
/// lane has no room, so this is far above what one turn's inputs can cause.
pub const LANE_BACKLOG_MAX: usize = 1 << 20;

/// Bounds of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Messages taken from one lane per turn.
    pub messages_per_lane: usize,
    /// Letters taken from the mailbox per turn.
    pub letters: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages_per_lane: 256, letters: 16 }
    }
}

/// What one turn came to.
#[derive(Default, Debug)]
pub struct TurnOutcome {
    /// Something happened or is due at once; the next turn should follow without sleep.
    pub busy: bool,
    /// The shard or the kernel cannot go on; no further turn may be taken.
    pub fatal: Option<String>,
    /// The shard said goodbye to its last connection, and no connection lingers.
    pub drained: bool,
    /// A [`Letter::Stop`] was read.
    pub stop: bool,
    /// What the shard says of its log's disk, if it says something.
    pub space: Option<Space>,
    /// The shard stands still and has nothing left to do, if that was not said before.
    pub quiet: Option<Quiet>,
    /// The connections of a shard that stands still, after [`Letter::Collect`].
    pub stood: Option<Box<Stood>>,
    /// Reports for the control plane, usually none.
    pub reports: Vec<Box<ShardReport>>,
}

/// What the reactor counted since start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ReactorCounts {
    /// Turns taken.
    pub turns: u64,
    /// Turns that found or produced something.
    pub turns_busy: u64,
    /// Completions taken.
    pub completions: u64,
    /// Messages taken out of lanes.
    pub messages_in: u64,
    /// Messages put into lanes.
    pub messages_out: u64,
    /// Wake-ups sent to other shards.
    pub wakes: u64,
    /// Turns that ended with a message waiting in a backlog.
    pub lanes_full: u64,
}

/// One shard's loop.
#[derive(Debug)]
pub struct Reactor<K, T> {
    // Before the table: its drop waits for operations that use the table's buffers.
    kernel: K,
    turn: T,
    table: Table,
    port: Port<ShardMessage>,
    doorbell: Arc<Doorbell>,
    mailbox: Mailbox,
    limits: Limits,
    backlogs: Vec<VecDeque<ShardMessage>>,
    inputs: Inputs,
    outputs: Outputs,
    effects: Effects,
    completions: Vec<Completion>,
    /// The shard said so, and connections still linger.
    drained: bool,
    stance: Stance,
    /// Letters for the shard that wait until it goes on.
    held: Vec<Control>,
    /// What the shard wrote down in this turn.
    stood: Option<Box<StoodConnections>>,
    /// Messages put into each lane, and taken out of each.
    put: Vec<u64>,
    taken: Vec<u64>,
    counts: ReactorCounts,
}

impl<K: Kernel, T: Turn> Reactor<K, T> {
    /// A reactor for the shard of `port`. `listeners` are the kernel's, in its order; accepts are armed by the first
    /// turn.
    pub fn new(
        kernel: K,
        turn: T,
        port: Port<ShardMessage>,
        listeners: &[ListenerKind],
        limits: Limits,
    ) -> Self {
        let doorbell = Arc::clone(&port.doorbells[usize::from(port.shard)]);
        let mailbox = Mailbox::new(Arc::clone(&doorbell), kernel.waker());
        let shards = port.to.len();
        Self {
            table: Table::new(port.shard, kernel.entries(), listeners),
            backlogs: (0..shards).map(|_| VecDeque::new()).collect(),
            kernel,
            turn,
            port,
            doorbell,
            mailbox,
            limits,
            inputs: Inputs { lane_room: vec![0; shards], ..Inputs::default() },
            outputs: Outputs::default(),
            effects: Effects::default(),
            completions: Vec::new(),
            drained: false,
            stance: Stance::Running,
            held: Vec::new(),
            stood: None,
            put: vec![0; shards],
            taken: vec![0; shards],
            counts: ReactorCounts::default(),
        }
    }

    /// The sending side of this shard's mailbox.
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// The driven shard.
    pub fn shard(&self) -> &T {
        &self.turn
    }

    /// The driven shard, to prepare it before the first turn.
    pub fn shard_mut(&mut self) -> &mut T {
        &mut self.turn
    }

    /// The kernel, for the simulator, which moves it along.
    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// The operation table, to look at.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Counters since start.
    pub fn counts(&self) -> (ReactorCounts, TableCounts) {
        (self.counts, self.table.counts())
    }

    /// One turn. Never sleeps.
    pub fn turn(&mut self, now: Now) -> TurnOutcome {
        let mut outcome = TurnOutcome::default();
        self.counts.turns += 1;
        self.take_completions(now);
        self.table.expire(now.mono_ns);
        // Once its connections were written down, what another shard says waits until this one goes on too.
        let starved = !self.is_frozen() && self.take_messages();
        self.take_letters(now, &mut outcome);
        self.run_late(now);
        self.collect_effects();

        let due = self.deadline_ns().is_some_and(|at| at <= now.mono_ns);
        let mut busy = starved || !self.completions.is_empty();
        if self.is_frozen() {
            self.assert_untouched();
        } else if due || !self.inputs.events.is_empty() {
            busy = true;
            self.measure_lanes();
            self.turn.step(now, &mut self.inputs, &mut self.outputs);
            assert!(self.inputs.events.is_empty(), "the shard left inputs behind");
            self.carry_out(&mut outcome);
        }
        self.inputs.bytes.clear();
        if outcome.fatal.is_some() {
            return outcome;
        }
        self.publish();
        busy |= self.table.has_ops();
        if let Err(KernelFailure(sentence)) = self.submit() {
            outcome.fatal = Some(sentence);
        }
        // Who ends the process now would reset the peers that have not read to the end.
        if self.drained && self.table.lingering() == 0 {
            (self.drained, outcome.drained) = (false, true);
        }
        if !busy {
            self.tell_quiet(&mut outcome);
        }
        outcome.busy = busy || outcome.drained || outcome.stop || outcome.quiet.is_some();
        self.counts.turns_busy += u64::from(outcome.busy);
        outcome
    }

    fn take_completions(&mut self, now: Now) {
        self.completions.clear();
        self.kernel.reap(&mut self.table.buffers, &mut self.inputs.bytes, &mut self.completions);
        self.counts.completions += self.completions.len() as u64;
        for completion in &self.completions {
            self.table.completed(now.mono_ns, *completion, &mut self.effects);
        }
        self.collect_effects();
    }

    /// Takes a bounded number of messages from each lane; `true` if one of them may hold more.
    fn take_messages(&mut self) -> bool {
        let Self { port, table, effects, limits, counts, taken: all_taken, .. } = self;
        let mut more = false;
        for (from, lane) in (0u16..).zip(&mut port.from) {
            let Some(lane) = lane else { continue };
            let taken = lane.pop_some(limits.messages_per_lane, |message| match message {
                ShardMessage::HandOver { token, state } => table.state_arrived(token, state, effects),
                message => effects.inputs.push(Input::FromShard { from, message }),
            });
            counts.messages_in += taken as u64;
            all_taken[usize::from(from)] += taken as u64;
            more |= taken == limits.messages_per_lane;
        }
        more
    }

    fn take_letters(&mut self, now: Now, outcome: &mut TurnOutcome) {
        for _ in 0..self.limits.letters {
            match self.mailbox.take() {
                Some(Letter::Control(control)) => self.take_control(control),
                Some(Letter::Still { patience }) => self.stand_still(now, patience),
                Some(Letter::Collect) => self.collect(now, outcome),
                Some(Letter::GoOn) => self.go_on(),
                Some(Letter::Gone) => self.let_go(),
                Some(Letter::Stop) => outcome.stop = true,
                None => break,
            }
        }
    }

    fn collect_effects(&mut self) {
        self.inputs.events.append(&mut self.effects.inputs);
        for (to, message) in self.effects.to_shards.drain(..) {
            self.backlogs[usize::from(to)].push_back(message);
        }
    }

    /// Tells the shard how much room each lane has: none while a backlog waits.
    fn measure_lanes(&mut self) {
        for (to, lane) in self.port.to.iter_mut().enumerate() {
            self.inputs.lane_room[to] = match lane {
                Some(lane) if self.backlogs[to].is_empty() => lane.room() as u32,
                _ => 0,
            };
        }
    }

    fn carry_out(&mut self, outcome: &mut TurnOutcome) {
        for output in self.outputs.events.drain(..) {
            match output {
                Output::Receive { conn, once } => self.table.receive(conn, once),
                Output::Pause { conn } => self.table.pause(conn),
                Output::Send { conn, buffer } => self.table.send(conn, buffer),
                Output::Close { conn } => self.table.close(conn),
                Output::HandOver { conn, to, state } => self.table.hand_over(conn, to, state),
                Output::Disk(op) => self.table.disk(op),
                Output::ToShard { to, message } => {
                    assert!(to != self.port.shard, "a message of shard {to} to itself");
                    self.backlogs[usize::from(to)].push_back(message);
                }
                Output::Report(report) => outcome.reports.push(report),
                Output::Stood(stood) => self.stood = Some(stood),
                Output::Space(space) => outcome.space = Some(space),
                Output::Drained => self.drained = true,
                Output::Fatal(sentence) => {
                    // What follows in the same turn was decided by a shard that cannot go on.
                    outcome.fatal = Some(sentence);
                    break;
                }
            }
        }
        self.outputs.events.clear();
    }

    /// Moves what waits into the lanes and rings whoever sleeps.
    fn publish(&mut self) {
        let mut full = false;
        for (to, backlog) in self.backlogs.iter_mut().enumerate() {
            if backlog.is_empty() {
                continue;
            }
            let lane = self.port.to[to].as_mut().expect("a lane to every other shard");
            let pushed = lane.push_from(backlog);
            self.counts.messages_out += pushed as u64;
            self.put[to] += pushed as u64;
            full |= !backlog.is_empty();
            let waiting = backlog.len();
            assert!(waiting <= LANE_BACKLOG_MAX, "{waiting} messages wait for the lane to shard {to}");
            if pushed > 0 && self.port.doorbells[to].ring() {
                self.counts.wakes += 1;
                self.table.wake(to as u16);
            }
        }
        self.counts.lanes_full += u64::from(full);
    }

    fn submit(&mut self) -> Result<(), KernelFailure> {
        let (ops, buffers) = self.table.take_ops();
        for (user, op) in ops {
            self.kernel.submit(user, op, buffers);
        }
        self.kernel.enter(None)
    }

    /// Announces that this shard is about to sleep. Returns when it has to be up again (monotonic nanoseconds,
    /// `u64::MAX`: only when woken), or `None` if it must not sleep because something waits. After `Some`, sleep in
    /// the kernel, then call [`Self::rouse`].
    pub fn doze(&mut self, now: Now) -> Option<u64> {
        self.doorbell.announce();
        let own = self.deadline_ns().unwrap_or(u64::MAX);
        let deadline = self.table.next_deadline_ns().unwrap_or(u64::MAX).min(own);
        // A full lane frees without a sound: its backlog is looked after by coming back soon.
        let backlog = self.backlogs.iter().any(|backlog| !backlog.is_empty());
        if self.port.waiting() || !self.mailbox.is_empty() || deadline <= now.mono_ns || backlog {
            self.doorbell.awake();
            return None;
        }
        Some(deadline)
    }

    /// The sleep is over, for whatever reason.
    pub fn rouse(&mut self) {
        self.doorbell.awake();
    }

    pub(crate) fn sleep(&mut self, ns: u64) -> Result<(), KernelFailure> {
        self.kernel.enter(Some(ns))
    }
}
