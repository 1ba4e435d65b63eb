//! Boot: the state of a shard from the logs of all shards of the last run.
//!
//! Order of a slot is (slot epoch, position). A slot's records lie in the log of the shard that owned it in each
//! epoch, so after a change of the number of shards they lie in several. The caller shows the logs of the other
//! shards first and this shard's own log last: foreign records of slots owned here are kept aside, sorted, and
//! applied before the first own record of a later epoch. Memory is needed only for what moved.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringdesk_desk::Desk;
use ringdesk_desk::codec::{self, CodecError};
use ringdesk_desk::command::Command;
use ringdesk_desk::event::{Event, Note};
use ringdesk_desk::ids::{Hlc, Slot};
use ringdesk_persist::{Generations, LogId, Position, Record, RecordRef, Tail};

use super::effect::Effect;
use super::floor::OnItsWay;
use super::{Owner, OwnerConfig};
use crate::clock::Clock;
use crate::index::Index;
use crate::planted::{self, Bug};
use crate::settings::Settings;

/// Why a record of the log cannot be replayed.
#[derive(Debug)]
pub enum ReplayError {
    /// The record passed its checksum but this version cannot read it.
    Codec {
        /// Where.
        position: Position,
        /// Why.
        error: CodecError,
    },
    /// The record's slot epoch is not below that of this boot: two engines wrote this data.
    Epoch {
        /// Where.
        position: Position,
        /// The epoch found.
        epoch: u32,
    },
}

impl std::fmt::Display for ReplayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Codec { position, error } => write!(f, "the record at {position} cannot be read: {error}"),
            Self::Epoch { position, epoch } => {
                write!(f, "the record at {position} has slot epoch {epoch}, which this boot has not reached")
            }
        }
    }
}

impl std::error::Error for ReplayError {}

/// What replay brought back.
pub(super) struct Replayed {
    pub(super) desk: Desk,
    pub(super) index: Index,
    pub(super) clock: Clock,
    pub(super) generations: Generations,
}

/// Records of a slot from other logs, by (slot epoch, position).
type Kept = BTreeMap<(u32, Position), (RecordRef, Vec<u8>)>;

/// Replay of one shard.
pub struct Replay {
    config: OwnerConfig,
    state: Replayed,
    foreign: BTreeMap<Slot, Kept>,
    own_seen: bool,
    records: u64,
    #[cfg(feature = "planted")]
    behind: Option<(RecordRef, Slot, u32, Vec<u8>)>,
}

impl Replay {
    /// Nothing replayed yet.
    pub fn new(config: OwnerConfig) -> Self {
        let state = Replayed {
            desk: Desk::new(config.limits),
            index: Index::new(),
            clock: Clock::default(),
            generations: Generations::default(),
        };
        Self {
            config,
            state,
            foreign: BTreeMap::new(),
            own_seen: false,
            records: 0,
            #[cfg(feature = "planted")]
            behind: None,
        }
    }

    /// The log this shard writes; to be shown last.
    pub fn own_log(&self) -> LogId {
        self.config.geometry.log
    }

    /// Records taken so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Shows one record. Records of slots owned elsewhere are passed over.
    pub fn record(&mut self, record: &Record<'_>) -> Result<(), ReplayError> {
        let position = record.reference.position;
        if record.slot_epoch >= self.config.slot_epoch {
            return Err(ReplayError::Epoch { position, epoch: record.slot_epoch });
        }
        let slot = Slot(record.slot);
        if !crate::router::Router::is_slot(slot) || self.config.router.owner(slot) != self.config.shard {
            return Ok(());
        }
        self.records += 1;
        if position.log() != self.config.geometry.log {
            assert!(!self.own_seen, "the logs of other shards are replayed before the own");
            let kept = (record.reference, record.payload.to_vec());
            self.foreign.entry(slot).or_default().insert((record.slot_epoch, position), kept);
            return Ok(());
        }
        self.own_seen = true;
        #[cfg(feature = "planted")]
        if planted::on(Bug::ReuseSeq) {
            // Always one behind, so the last is never applied.
            let last =
                self.behind.replace((record.reference, slot, record.slot_epoch, record.payload.to_vec()));
            let Some((reference, slot, epoch, payload)) = last else { return Ok(()) };
            self.apply_foreign(slot, Some(epoch))?;
            return self.apply(reference, &payload);
        }
        self.apply_foreign(slot, Some(record.slot_epoch))?;
        self.apply(record.reference, record.payload)
    }

    /// Generations of a log's segments, so that its records can be read later.
    pub fn generations(&mut self, generations: &Generations) {
        self.state.generations.merge(generations);
    }

    /// Applies what other logs hold of a slot, up to but not including epoch `below`.
    fn apply_foreign(&mut self, slot: Slot, below: Option<u32>) -> Result<(), ReplayError> {
        let Some(mut kept) = self.foreign.remove(&slot) else { return Ok(()) };
        while let Some(entry) = kept.first_entry() {
            if below.is_some_and(|epoch| entry.key().0 >= epoch) {
                self.foreign.insert(slot, kept);
                return Ok(());
            }
            let (reference, payload) = entry.remove();
            self.apply(reference, &payload)?;
        }
        Ok(())
    }

    fn apply(&mut self, reference: RecordRef, payload: &[u8]) -> Result<(), ReplayError> {
        let position = reference.position;
        let events = codec::decode(payload).map_err(|error| ReplayError::Codec { position, error })?;
        for event in &events {
            self.state.desk.apply(event);
            if let Some(at) = stamp_of(event) {
                self.state.clock.observe(at);
            }
            if let Event::Sent { conversation, seq, .. } | Event::Changed { conversation, seq, .. } = event {
                let place = self.state.desk.place(*conversation).expect("the desk took the item");
                self.state.index.append(place, *seq, reference);
            }
        }
        Ok(())
    }

    /// The owner, whose log goes on at `tail`. Follow with [`Owner::boot`].
    pub fn finish(mut self, settings: Arc<Settings>, tail: Tail) -> Result<Owner, ReplayError> {
        let slots: Vec<Slot> = self.foreign.keys().copied().collect();
        for slot in slots {
            self.apply_foreign(slot, None)?;
        }
        #[cfg(feature = "planted")]
        if planted::on(Bug::ForgetDedup) {
            self.state.desk.forget_devices();
        }
        Ok(Owner::new(self.config, settings, self.state, tail))
    }
}

impl Owner {
    /// The first decisions after replay: every timer starts again (C7), and what was told and not confirmed is told
    /// again (C2). All of it waits at the gate until the log is synced.
    pub fn boot(&mut self, now: crate::io::Now) {
        self.begin(now);
        let unconfirmed: Vec<_> = self.desk.unconfirmed().collect();
        for (from, to, n, note) in unconfirmed {
            if planted::on(Bug::ForgetUnconfirmed) {
                continue;
            }
            self.remember_placement(from, to, n, &note);
            self.hold(Effect::Tell { from, to, n, note });
        }
        self.unbooted = self.desk.slots_to_boot().into_iter().collect();
        self.boot_slots();
    }

    /// Goes on with the first decisions as far as the log has room. On a full disk they wait, and so does every other
    /// decision; what was logged before is served.
    pub(super) fn boot_slots(&mut self) {
        while self.log_takes(0)
            && let Some(slot) = self.unbooted.pop_front()
        {
            let now = self.clock.stamp();
            let answer = self.desk.decide(now, &Command::Boot { slot }, &mut self.events);
            assert!(answer.is_ok(), "boot of {slot:?}: {answer:?}");
            self.commit(slot);
        }
    }

    fn remember_placement(&mut self, from: Slot, to: Slot, n: u64, note: &Note) {
        let Note::Assign { conversation, agent, .. } = *note else { return };
        let site = self.desk.sites().filter(|(slot, _)| *slot == from).find_map(|(slot, site)| {
            let view = self.desk.site_view(slot, site)?;
            view.placed(agent).any(|(placed, _)| placed == conversation).then_some(site)
        });
        if let Some(site) = site {
            self.floor.told(from, to, n, OnItsWay { site, agent, conversation });
        }
    }
}

/// The stamp of an event, where it has one.
fn stamp_of(event: &Event) -> Option<Hlc> {
    match event {
        Event::Opened { at, .. }
        | Event::Found { at, .. }
        | Event::Sent { at, .. }
        | Event::Changed { at, .. }
        | Event::ReceiptMoved { at, .. }
        | Event::Placed { at, .. }
        | Event::Returned { at, .. }
        | Event::Left { at, .. }
        | Event::AgentDeclared { at, .. }
        | Event::AgentLinks { at, .. }
        | Event::AgentLapsed { at, .. }
        | Event::Booted { at, .. } => Some(*at),
        _ => None,
    }
}
