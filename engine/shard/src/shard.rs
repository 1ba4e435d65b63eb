//! One shard: an owner and a front, and the turn that joins them.
//!
//! Order of a turn: inputs in order, then local messages until none are left, then the owner's ticks, gate and disk
//! work, then what that let out, then time, then the outboxes. A local message may cause another, but each step of
//! such a chain either ends at an outbox or waits at the gate, so the chain is short.

use std::collections::VecDeque;
use std::sync::Arc;

use ringdesk_persist::{Pages, Tail};

use crate::front::{Front, Most};
use crate::io::{Control, Input, Inputs, Now, Output, Outputs, Stand};
use crate::mail::Mail;
use crate::message::ShardMessage;
use crate::owner::{Owner, Replay, ReplayError};
use crate::report::ShardReport;
use crate::settings::Settings;

/// Times a turn goes through gate and local messages while they feed each other; what is left is due at once.
const ROUNDS: usize = 4;

/// One shard.
pub struct Shard {
    id: u16,
    owner: Owner,
    front: Front,
    local: VecDeque<ShardMessage>,
    turns: u64,
    wall_ms: u64,
    stopped: bool,
}

impl Shard {
    /// The shard of a finished replay, whose log goes on at `tail`. `log_epoch` is the epoch of clients' cursors; it
    /// changes only when a loss was declared.
    pub fn boot(
        id: u16,
        replay: Replay,
        settings: Arc<Settings>,
        tail: Tail,
        log_epoch: u32,
        now: Now,
    ) -> Result<Self, ReplayError> {
        let mut owner = replay.finish(settings.clone(), tail)?;
        owner.boot(now);
        let front = Front::new(id, log_epoch, settings);
        Ok(Self { id, owner, front, local: VecDeque::new(), turns: 0, wall_ms: now.wall_ms, stopped: false })
    }

    /// The owner side, for the simulator's oracle and for reports.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The most there was of what is bounded, for the simulator's oracle.
    pub fn most(&self) -> Most {
        self.front.most()
    }

    /// Takes buffers that the driver prepared for the log's writes, before the first turn
    /// ([`ringdesk_persist::Appender::supply`]).
    pub fn supply(&mut self, pages: Vec<Pages>) {
        self.owner.supply(pages);
    }

    /// One turn. Consumes `inputs.events`, appends to `outputs.events`. After [`Output::Fatal`] nothing more
    /// happens.
    pub fn step(&mut self, now: Now, inputs: &mut Inputs, outputs: &mut Outputs) {
        let mut events = std::mem::take(&mut inputs.events);
        if !self.stopped {
            self.turns += 1;
            self.wall_ms = now.wall_ms;
            self.owner.begin(now);
            self.front.begin(now, &inputs.lane_room);
            let mut local = std::mem::take(&mut self.local);
            let mut mail = Mail::new(self.id, &mut local, outputs);
            for event in events.drain(..) {
                if let Err(sentence) = self.input(event, &mut inputs.bytes, &mut mail) {
                    self.stopped = true;
                    outputs.events.clear();
                    outputs.events.push(Output::Fatal(sentence));
                    return;
                }
                self.deliver_local(&mut mail);
            }
            for _ in 0..ROUNDS {
                self.owner.finish(&mut mail);
                self.deliver_local(&mut mail);
                if !self.owner.is_ready() {
                    break;
                }
            }
            self.front.sweep(&mut self.owner, &mut mail);
            self.deliver_local(&mut mail);
            self.front.flush(&mut self.owner, &mut mail);
            self.deliver_local(&mut mail);
            self.local = local;
        }
        events.clear();
        inputs.events = events;
    }

    /// When the next turn is due without an input, on the clock of `Now::mono_ns`.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        if self.stopped {
            return None;
        }
        let dirty = self.front.is_dirty().then_some(0);
        [self.owner.next_deadline_ns(self.wall_ms), self.front.next_deadline_ns(), dirty]
            .into_iter()
            .flatten()
            .min()
    }

    fn input(&mut self, input: Input, bytes: &mut [u8], mail: &mut Mail<'_>) -> Result<(), String> {
        let (owner, front) = (&mut self.owner, &mut self.front);
        match input {
            Input::Accepted { conn, listener, peer } => {
                front.accepted(conn, listener, peer.map(|peer| peer.ip()), mail);
            }
            Input::Received { conn, start, len } => {
                let range = start as usize..start as usize + len as usize;
                front.received(conn, &mut bytes[range], owner, mail);
            }
            Input::Sent { conn, buffer } => front.sent(conn, buffer, owner, mail),
            Input::Hangup { conn } => front.hangup(conn, owner, mail),
            Input::HandedOver { conn, state } => front.handed_over(conn, *state, owner, mail),
            Input::HandOverFailed { conn, state } => front.hand_over_failed(conn, *state, owner, mail),
            Input::Unsent { conn, buffer, from } => front.unsent(conn, buffer, from, owner, mail),
            Input::Adopted { conn, carried } => front.adopted(conn, *carried, owner, mail),
            Input::Stand(stand) => self.stand(stand, mail),
            Input::Disk(done) => owner.disk_done(done, mail)?,
            Input::FromShard { message, .. } => self.message(message, mail),
            Input::Control(control) => self.control(control, mail),
        }
        Ok(())
    }

    fn deliver_local(&mut self, mail: &mut Mail<'_>) {
        while let Some(message) = mail.next_local() {
            self.message(message, mail);
        }
    }

    fn message(&mut self, message: ShardMessage, mail: &mut Mail<'_>) {
        match message {
            ShardMessage::Ask(ask) => self.owner.ask(ask.borrow(), mail),
            ShardMessage::Note { from, to, n, note } => self.owner.note(from, to, n, note),
            ShardMessage::Confirm { from, to, upto } => self.owner.confirmed(from, to, upto),
            ShardMessage::HandOver { .. } => panic!("the driver joins hand-overs with their descriptors"),
            message => self.front.deliver(message, &mut self.owner, mail),
        }
    }

    fn stand(&mut self, stand: Stand, mail: &mut Mail<'_>) {
        match stand {
            Stand::Still => {
                self.owner.stand_still(true);
                self.front.stand_still(mail);
            }
            Stand::Collect => mail.output(Output::Stood(Box::new(self.front.collect()))),
            Stand::GoOn => {
                self.owner.stand_still(false);
                self.front.go_on(&mut self.owner, mail);
            }
        }
    }

    /// While the shard stands still: whether all that was begun here is finished and durable, as far as it is this
    /// shard's to finish. Disk operations, sends and receives that are out are the driver's to wait for.
    pub fn is_settled(&self) -> bool {
        self.local.is_empty() && !self.front.is_dirty() && self.owner.is_settled()
    }

    fn control(&mut self, control: Control, mail: &mut Mail<'_>) {
        match control {
            Control::Report => {
                let mut report =
                    Box::new(ShardReport { shard: self.id, turns: self.turns, ..ShardReport::default() });
                self.owner.report(&mut report);
                self.front.report(&mut report);
                mail.output(Output::Report(report));
            }
            Control::Settings(settings) => {
                self.owner.set_settings(settings.clone());
                self.front.set_settings(settings);
            }
            Control::Revoke { site, agent, visitor, before_s } => {
                self.front.revoke((site, agent, visitor), before_s, &mut self.owner, mail);
            }
            Control::Drain => self.front.drain(),
        }
    }
}
