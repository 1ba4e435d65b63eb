//! The owner side of a shard: the desk and everything that follows from it. Requests come in as asks, notes and
//! ticks; what they cause is staged in the log, held by the gate, and leaves as mail once durable.
//!
//! Order of one request: decide, stage, apply, hold. Order of one completion: durable, release, index, mail.

mod command;
mod effect;
mod floor;
mod load;
mod notes;
mod reads;
mod release;
mod replay;

pub use load::SHED_NEW_VISITORS;
pub use reads::CHUNK_BYTES;
pub use replay::{Replay, ReplayError};

use std::collections::VecDeque;
use std::sync::Arc;

use ringdesk_desk::command::Command;
use ringdesk_desk::event::{Event, Note, Status};
use ringdesk_desk::ids::{ConversationId, Hlc, SiteId, Slot};
use ringdesk_desk::{Desk, Limits};
use ringdesk_persist::{Appender, DiskDone, DiskOp, Generations, Geometry, Lsn, Pages, Position, Tail};

use crate::clock::Clock;
use crate::frames;
use crate::gate::Gate;
use crate::index::{Entry, Index};
use crate::io::{Output, Space};
use crate::mail::Mail;
use crate::report::ShardReport;
use crate::router::Router;
use crate::settings::Settings;

use effect::Effect;
use floor::{Floor, OnItsWay};
use notes::Inbox;
use reads::Reads;

/// Bytes of staging that client requests leave free, so that notes and ticks always find room.
const STAGING_RESERVE_BYTES: usize = 64 << 10;

/// Upper bound of a decision's record beyond the body it carries.
const DECISION_OVERHEAD_BYTES: usize = 16 << 10;

/// Ticks decided per turn; the rest is due at once in the next.
const TICKS_PER_TURN: usize = 16;

/// What an owner is made of at start.
#[derive(Clone, Debug)]
pub struct OwnerConfig {
    /// This shard.
    pub shard: u16,
    /// The slot table.
    pub router: Router,
    /// Epoch written beside the slot in each record: the number of this boot. Larger than any in the logs.
    pub slot_epoch: u32,
    /// Bounds of the desk.
    pub limits: Limits,
    /// Sizes of the log.
    pub geometry: Geometry,
}

/// Counters since start.
#[derive(Clone, Copy, Default, Debug)]
struct Counters {
    messages: u64,
    duplicates: u64,
    rejects: u64,
    busy: u64,
}

/// The owner side of one shard.
pub struct Owner {
    shard: u16,
    router: Router,
    slot_epoch: u32,
    settings: Arc<Settings>,
    clock: Clock,
    mono_ns: u64,
    desk: Desk,
    appender: Appender,
    /// Generations of segments written by other shards in earlier runs, for reads.
    foreign: Generations,
    gate: Gate<Effect>,
    index: Index,
    reads: Reads,
    floor: Floor,
    inbox: Inbox,
    counters: Counters,
    events: Vec<Event>,
    record: Vec<u8>,
    ops: Vec<DiskOp>,
    /// Slots whose first decision after the replay waits for room in the log; nothing else is decided before.
    unbooted: VecDeque<Slot>,
    /// Attempts to prepare log space that failed, and whether the last one did: as told to the driver.
    space_told: (u64, bool),
    released: VecDeque<(Lsn, ringdesk_persist::RecordRef)>,
    /// Nothing is begun that nobody asked for: no ticks, no views of queues.
    still: bool,
}

impl Owner {
    /// An owner whose log goes on at `tail`, with the state of `desk` and `index` (see `Replay`).
    fn new(config: OwnerConfig, settings: Arc<Settings>, replayed: replay::Replayed, tail: Tail) -> Self {
        Self {
            shard: config.shard,
            router: config.router,
            slot_epoch: config.slot_epoch,
            settings,
            clock: replayed.clock,
            mono_ns: 0,
            desk: replayed.desk,
            appender: Appender::new(config.geometry, tail),
            foreign: replayed.generations,
            gate: Gate::default(),
            index: replayed.index,
            reads: Reads::new(config.geometry.align),
            floor: Floor::default(),
            inbox: Inbox::default(),
            counters: Counters::default(),
            events: Vec::new(),
            record: Vec::new(),
            ops: Vec::new(),
            unbooted: VecDeque::new(),
            space_told: (0, false),
            released: VecDeque::new(),
            still: false,
        }
    }

    /// Begins a turn.
    pub fn begin(&mut self, now: crate::io::Now) {
        self.mono_ns = now.mono_ns;
        self.clock.turn(now.wall_ms);
    }

    /// Begins nothing by itself from now on, or does again.
    pub fn stand_still(&mut self, still: bool) {
        self.still = still;
    }

    /// Whether all that was begun is durable, let out, and vouched for in the log. Notes that find no room do not
    /// count: unconfirmed, they are told again at the next start.
    pub fn is_settled(&self) -> bool {
        let waits = !self.gate.is_empty() || self.reads.jobs() > 0 || !self.unbooted.is_empty();
        !waits && !self.is_ready() && self.appender.is_settled()
    }

    /// The slot table.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Current hybrid time.
    pub fn now(&self) -> Hlc {
        self.clock.now()
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
    }

    /// The desk, for reports and tests.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Place of a conversation that was opened.
    fn place(&self, conversation: ConversationId) -> u32 {
        self.desk.place(conversation).expect("only what was opened has items and listeners")
    }

    /// What is known of a conversation beside the desk, if anything may be.
    fn entry(&self, conversation: ConversationId) -> Option<&Entry> {
        self.index.get(self.desk.place(conversation)?)
    }

    /// Highest durable seq of a conversation, 0 for none.
    fn durable_seq(&self, conversation: ConversationId) -> u64 {
        self.entry(conversation).map_or(0, Entry::durable_seq)
    }

    /// Buffers for the log's writes, before the first turn.
    pub fn supply(&mut self, pages: Vec<Pages>) {
        self.appender.supply(pages);
    }

    /// Where the log ends: behind its last durable batch.
    pub fn log_end(&self) -> Position {
        self.appender.end()
    }

    /// A disk operation ended. `Err` carries the sentence of a fatal failure: the shard must stop.
    pub fn disk_done(&mut self, done: DiskDone, mail: &mut Mail<'_>) -> Result<(), String> {
        if !done.op.is_appender() {
            self.read_done(done, mail);
            return Ok(());
        }
        match self.appender.complete(done) {
            Ok(flushed) => {
                self.released.extend(flushed.records);
                Ok(())
            }
            Err(fatal) => Err(fatal.to_string()),
        }
    }

    /// The rest of a turn after all inputs: ticks, what the gate lets out, and new disk work.
    pub fn finish(&mut self, mail: &mut Mail<'_>) {
        self.boot_slots();
        if !self.still {
            self.ticks();
        }
        self.work_inbox();
        self.release(mail);
        if !self.still {
            self.show_queues(mail);
        }
        // Standing still, nothing is prepared for what is not to come.
        if !(self.still && self.is_settled()) {
            self.appender.poll(self.mono_ns, self.clock.now().millis(), &mut self.ops);
        }
        self.tell_space(mail);
        for op in self.ops.drain(..) {
            mail.output(Output::Disk(op));
        }
        self.reads.start(mail);
    }

    /// Whether there is something to do that waits for nothing: effects the gate would let out, notes with room.
    pub fn is_ready(&self) -> bool {
        self.inbox.is_ready(self.staging_has_room(0))
            || self.appender.durable().is_some_and(|durable| self.gate.is_ready(durable))
    }

    /// When the next turn is due without an input, monotonic nanoseconds.
    pub fn next_deadline_ns(&self, wall_ms: u64) -> Option<u64> {
        let now = self.clock.now().millis().max(wall_ms);
        let tick = self
            .desk
            .next_deadline()
            .filter(|_| !self.still && self.staging_has_room(0))
            .map(|(at, _)| self.mono_ns + at.millis().saturating_sub(now) * 1_000_000);
        let shown = !self.still && self.load_eighths() < load::SHED_TYPING;
        let views = self.floor.next_deadline_ns().filter(|_| shown);
        let floor = views.map(|at| at.max(self.mono_ns));
        let ready = self.is_ready().then_some(self.mono_ns);
        let log = self.appender.next_deadline_ns().filter(|_| !(self.still && self.is_settled()));
        [tick, floor, ready, log].into_iter().flatten().min()
    }

    /// Fills the owner's part of a report.
    pub fn report(&self, report: &mut ShardReport) {
        report.slots = self.router.owned(self.shard);
        report.conversations = self.desk.conversations();
        report.waiting = self
            .desk
            .sites()
            .filter_map(|(slot, site)| self.desk.site_view(slot, site))
            .map(|view| view.waiting_count() as u64)
            .sum();
        report.messages = self.counters.messages;
        report.duplicates = self.counters.duplicates;
        report.rejects = self.counters.rejects;
        report.busy = self.counters.busy;
        report.gate_depth = self.gate.len() as u64;
        report.log = self.appender.stats();
    }

    /// Tells the driver of each attempt that found the disk full, and when there is space again.
    fn tell_space(&mut self, mail: &mut Mail<'_>) {
        let (refused, no_space) = self.appender.space();
        let state = (refused, no_space.is_some());
        if state != self.space_told {
            self.space_told = state;
            mail.output(Output::Space(no_space.map_or(Space::Back, Space::Short)));
        }
    }

    /// Whether a client request that logs a body finds room. While the disk is full it leaves a reserve to what carries
    /// none: receipts, presence, resolving, ticks and notes between shards.
    fn has_room_for_body(&self, body_bytes: usize) -> bool {
        let reserve = self.appender.reserve_bytes();
        let overhead = DECISION_OVERHEAD_BYTES.min(self.reserve());
        self.has_room(body_bytes) && self.appender.file_room_bytes() >= reserve + overhead + body_bytes
    }

    /// Whether a client request with a body of this size finds room in log and gate.
    fn has_room(&self, body_bytes: usize) -> bool {
        self.gate.has_room() && self.staging_has_room(STAGING_RESERVE_BYTES.min(self.reserve()) + body_bytes)
    }

    /// Whether a decision finds room beside `extra` bytes.
    fn staging_has_room(&self, extra: usize) -> bool {
        self.unbooted.is_empty() && self.log_takes(extra)
    }

    fn log_takes(&self, extra: usize) -> bool {
        self.appender.room_bytes() >= extra + DECISION_OVERHEAD_BYTES.min(self.reserve())
    }

    /// With the simulator's small logs the reserves shrink in proportion.
    fn reserve(&self) -> usize {
        self.appender.geometry().staged_bytes_max / 8
    }

    /// Logs and applies the events of one decision and holds what follows from them. The caller has checked room.
    fn commit(&mut self, slot: Slot) {
        let events = std::mem::take(&mut self.events);
        if !events.is_empty() {
            self.record.clear();
            ringdesk_desk::codec::encode(&events, &mut self.record);
            let lsn = self.appender.stage(slot.0, self.slot_epoch, &self.record).unwrap_or_else(|full| {
                panic!("no room for a decision of {} bytes: {full:?}", self.record.len())
            });
            for event in &events {
                self.desk.apply(event);
            }
            for event in &events {
                self.hold_event(lsn, slot, event, &events);
            }
        }
        self.events = events;
        self.events.clear();
    }

    /// Holds an effect behind everything staged so far.
    fn hold(&mut self, effect: Effect) {
        self.gate.hold(self.appender.staged(), effect);
    }

    fn hold_event(&mut self, lsn: Lsn, slot: Slot, event: &Event, decision: &[Event]) {
        let effect = match event {
            Event::Sent { conversation, seq, .. } => self.item(*conversation, *seq, event),
            Event::Changed { conversation, seq, .. } => self.item(*conversation, *seq, event),
            Event::ReceiptMoved { conversation, side, delivered, read, .. } => Effect::Beside {
                conversation: *conversation,
                frame: frames::receipt(*conversation, *side, *delivered, *read),
            },
            Event::Told { from, to, n, note } => {
                self.note_placement(*from, *to, *n, note, decision);
                Effect::Tell { from: *from, to: *to, n: *n, note: *note }
            }
            Event::Heard { from, to, n } => Effect::Confirm { from: *from, to: *to, upto: *n },
            Event::Waiting { site, .. }
            | Event::Placed { site, .. }
            | Event::Returned { site, .. }
            | Event::Left { site, .. } => Effect::QueueChanged { slot, site: *site },
            _ => return,
        };
        self.gate.hold(lsn, effect);
    }

    fn item(&mut self, conversation: ConversationId, seq: u64, event: &Event) -> Effect {
        let view = self.desk.conversation(conversation).expect("an item has a conversation");
        let mut out = Vec::with_capacity(160);
        assert!(
            frames::put_item(event, view.site, &self.settings.agent_names, &mut out),
            "no item: {event:?}"
        );
        let owner = match event {
            Event::Changed { status: Status::Assigned, agent: Some(agent), .. } => {
                Some((*agent, frames::assigned(&view, seq)))
            }
            _ => None,
        };
        self.counters.messages += u64::from(matches!(event, Event::Sent { .. }));
        Effect::Item { conversation, seq, frame: out.into(), owner }
    }

    fn note_placement(&mut self, from: Slot, to: Slot, n: u64, note: &Note, decision: &[Event]) {
        let Note::Assign { conversation, agent, .. } = *note else { return };
        let site = decision.iter().find_map(|event| match event {
            Event::Placed { site, conversation: placed, .. } if *placed == conversation => Some(*site),
            _ => None,
        });
        if let Some(site) = site {
            self.floor.told(from, to, n, OnItsWay { site, agent, conversation });
        }
    }

    fn ticks(&mut self) {
        for _ in 0..TICKS_PER_TURN {
            let due = self.desk.next_deadline().filter(|(at, _)| *at <= self.clock.now());
            let Some((_, slot)) = due else { return };
            if !self.staging_has_room(0) {
                return;
            }
            let now = self.clock.stamp();
            let answer = self.desk.decide(now, &Command::Tick { slot }, &mut self.events);
            assert!(answer.is_ok(), "a tick is never refused: {answer:?}");
            self.commit(slot);
        }
    }

    fn show_queues(&mut self, mail: &mut Mail<'_>) {
        // A view that is shed is not lost: it stays due.
        while self.load_eighths() < load::SHED_TYPING
            && let Some((slot, site)) = self.floor.due(self.mono_ns)
        {
            self.show_queue(slot, site, mail);
        }
    }

    fn show_queue(&mut self, slot: Slot, site: SiteId, _mail: &mut Mail<'_>) {
        let Some(view) = self.desk.site_view(slot, site) else { return };
        let frame = frames::queue(
            view.waiting_count(),
            view.oldest_since(),
            view.waiting().map(|(conversation, since)| (conversation, since, "")),
        );
        let sessions: Vec<_> = self.floor.all_sessions(slot, site).collect();
        for to in sessions {
            self.hold(Effect::Answer { to, frame: frame.clone() });
        }
    }
}
