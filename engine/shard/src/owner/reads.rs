//! Reading the log for somebody: catching up after a cursor, pages of history, and duplicates older than the kept
//! window. A job is a range of items of one conversation; it becomes a few merged reads; when the last is back the
//! records are verified and the items leave as frames.
//!
//! Bounds: `JOBS_MAX` jobs wait or run (full: HISTORY gets BUSY, a subscription is asked to come again), and
//! `READS_MAX` reads are at the disk. A job reads at most `CHUNK_BYTES` of records, so one reader cannot hold the
//! shard for long.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ringdesk_desk::codec;
use ringdesk_desk::event::{Event, Status};
use ringdesk_desk::ids::{ConversationId, DeviceId, Party, Side, SiteId};
use ringdesk_persist::{DiskDone, OpId, ReadSpan, RecordRef, extract, plan_reads};
use ringdesk_protocol::limits::PAGE_ITEMS_MAX;
use ringdesk_protocol::{Code, Items, ServerMessage};

use super::Owner;
use super::effect::Effect;
use super::load::SHED_HISTORY;
use crate::ask::{Ask, FROM_TAIL, TAIL_ITEMS, Want};
use crate::frames::{self, Rejection};
use crate::index::{Entry, Subscriber};
use crate::io::Output;
use crate::mail::Mail;
use crate::message::{NO_SUCH, SessionRef, ShardMessage};

/// Jobs waiting or running.
pub const JOBS_MAX: usize = 16_384;

/// Reads at the disk at once.
pub const READS_MAX: usize = 64;

/// Record bytes one job reads at most (a single larger record is read alone).
pub const CHUNK_BYTES: u32 = 64 << 10;

/// Neighbours this far apart are still read together.
const GAP_BYTES: u32 = 16 << 10;

/// Why a job reads.
#[derive(Clone, Debug)]
enum Purpose {
    /// Items for a listener, then live if that was all.
    CatchUp { listener: Subscriber, announced: Option<u32> },
    /// PAGE.
    Page { to: SessionRef, tag: u32, kind: u8, backwards: bool },
    /// The seq of an old key; goes on with the next chunk until it is found.
    Find { to: SessionRef, tag: u32, kind: u8, party: Party, device: DeviceId, n: u64, body_hash: u64 },
}

#[derive(Debug)]
struct Job {
    purpose: Purpose,
    conversation: ConversationId,
    /// First and last seq to read, inclusive; empty when `last < first`.
    first: u64,
    last: u64,
    records: Vec<RecordRef>,
    payloads: BTreeMap<usize, Vec<u8>>,
    reads_open: usize,
    damaged: bool,
}

#[derive(Debug)]
struct OpenRead {
    job: u64,
    span: ReadSpan,
}

/// All jobs of a shard.
#[derive(Debug)]
pub struct Reads {
    align: u32,
    jobs: BTreeMap<u64, Job>,
    waiting: VecDeque<(u64, ReadSpan)>,
    open: BTreeMap<u64, OpenRead>,
    next_job: u64,
    next_op: u64,
}

impl Reads {
    /// No jobs; reads are aligned to `align` bytes.
    pub fn new(align: u32) -> Self {
        let (jobs, open) = (BTreeMap::new(), BTreeMap::new());
        Self { align, jobs, waiting: VecDeque::new(), open, next_job: 0, next_op: 0 }
    }

    /// Jobs waiting or running.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    fn has_room(&self) -> bool {
        self.jobs.len() < JOBS_MAX
    }

    /// Plans a job about the conversation of `entry`; its reads wait for their turn.
    fn plan(&mut self, mut job: Job, entry: &Entry) {
        let mut bytes = 0u64;
        let wanted = (job.first..=job.last).map(|seq| entry.record(seq));
        let backwards = matches!(job.purpose, Purpose::Page { backwards: true, .. });
        let fits = |record: &RecordRef| {
            bytes += u64::from(record.len);
            bytes <= u64::from(CHUNK_BYTES)
        };
        let count = if backwards {
            wanted.rev().take_while(fits).count().max(1)
        } else {
            wanted.take_while(fits).count().max(1)
        };
        if backwards {
            job.first = job.last + 1 - count as u64;
        } else {
            job.last = job.first + count as u64 - 1;
        }
        job.records = (job.first..=job.last).map(|seq| entry.record(seq)).collect();
        job.records.dedup();
        let spans = plan_reads(&job.records, self.align, GAP_BYTES, 2 * CHUNK_BYTES);
        job.reads_open = spans.len();
        let number = self.next_job;
        self.next_job += 1;
        self.waiting.extend(spans.into_iter().map(|span| (number, span)));
        self.jobs.insert(number, job);
    }

    /// Gives waiting reads to the disk, as far as it may have more.
    pub fn start(&mut self, mail: &mut Mail<'_>) {
        while self.open.len() < READS_MAX {
            let Some((job, span)) = self.waiting.pop_front() else { return };
            let op = self.next_op;
            self.next_op += 1;
            mail.output(Output::Disk(span.op(OpId(op))));
            self.open.insert(op, OpenRead { job, span });
        }
    }
}

impl Owner {
    /// A session wants the items after a cursor, then live pushes. Goes through the gate, so that what the desk
    /// already knows is durable when the session is told.
    pub(super) fn subscribe(
        &mut self,
        ask: &Ask<'_>,
        conversation: ConversationId,
        after: u64,
        announce: bool,
    ) {
        let agent = match ask.caller {
            ringdesk_desk::command::Caller::Agent { agent, .. } => Some(agent),
            ringdesk_desk::command::Caller::Visitor { .. } => None,
        };
        let listener = Subscriber::new(ask.from, agent);
        let allowed = self.desk.may_read(&ask.caller, conversation);
        let view = self.desk.conversation(conversation).filter(|_| allowed);
        let Some(view) = view else {
            self.hold(Effect::Subscribe { listener, conversation, after: NO_SUCH, assigned: None });
            self.reject(ask, Code::NotFound, 0);
            return;
        };
        let owns = agent.is_some() && view.agent == agent;
        // What was shown was durable, so no honest cursor is ahead. Were it taken, every item up to it would be dropped.
        if after != FROM_TAIL && after > view.seq {
            let end = view.seq;
            self.hold(Effect::Subscribe { listener, conversation, after: NO_SUCH, assigned: None });
            self.reject(ask, Code::BeyondEnd, end);
            if owns {
                self.hold(Effect::Invite { to: ask.from, conversation, after: FROM_TAIL });
            }
            return;
        }
        // An agent is invited only to what it owns; if it was moved on meanwhile there is nothing to show.
        if after == FROM_TAIL && !owns {
            self.hold(Effect::Subscribe { listener, conversation, after: NO_SUCH, assigned: None });
            return;
        }
        let after = if after == FROM_TAIL { view.seq.saturating_sub(TAIL_ITEMS) } else { after };
        let assigned = (owns && announce).then(|| (view.epoch, frames::assigned(&view, after.min(view.seq))));
        self.hold(Effect::Subscribe { listener, conversation, after, assigned });
    }

    /// The released subscription: either nothing is missing and it is live, or a job reads what is.
    pub(super) fn catch_up(
        &mut self,
        listener: Subscriber,
        conversation: ConversationId,
        (after, announced): (u64, Option<u32>),
        mail: &mut Mail<'_>,
    ) {
        let to = listener.session;
        let caught =
            |upto, live| ShardMessage::Caught { to, conversation, upto, live, frames: Arc::from([]) };
        if after == NO_SUCH {
            mail.send(to.shard, caught(NO_SUCH, false));
            return;
        }
        let durable = self.durable_seq(conversation);
        if after >= durable {
            let live = self.index.subscribe(self.place(conversation), listener);
            mail.send(to.shard, caught(durable, live));
            self.show_receipts(conversation, to, live);
            return;
        }
        if !self.reads.has_room() {
            mail.send(to.shard, caught(after, false));
            return;
        }
        let purpose = Purpose::CatchUp { listener, announced };
        self.plan(purpose, conversation, after + 1, durable.min(after + PAGE_ITEMS_MAX as u64));
    }

    /// HISTORY.
    pub(super) fn history(&mut self, ask: &Ask<'_>) {
        let Want::History { conversation, before, after, limit } = ask.want else { return };
        if !self.desk.may_read(&ask.caller, conversation) {
            self.reject(ask, Code::NotFound, 0);
            return;
        }
        if self.load_eighths() >= SHED_HISTORY || !self.gate.has_room() {
            self.reject(ask, Code::Busy, 0);
            return;
        }
        let durable = self.durable_seq(conversation);
        let limit = ringdesk_protocol::limits::page_items(limit) as u64;
        let (first, last) = if before != 0 {
            let last = durable.min(before - 1);
            ((last + 1).saturating_sub(limit).max(1), last)
        } else {
            (after.saturating_add(1), durable.min(after.saturating_add(limit)))
        };
        let purpose = Purpose::Page { to: ask.from, tag: ask.tag, kind: ask.kind, backwards: before != 0 };
        if first > last {
            let items = Items::new(&[]);
            let message = ServerMessage::Page {
                conversation: conversation.0,
                first: 0,
                last: 0,
                more: false,
                count: 0,
                items,
            };
            self.hold(Effect::Answer { to: ask.from, frame: frames::frame(&message, ask.tag) });
            return;
        }
        self.plan(purpose, conversation, first, last);
    }

    /// A duplicate that left the window: its seq is in the log.
    pub(super) fn find_old(&mut self, ask: &Ask<'_>, party: Party, n: u64, body_hash: u64) {
        let (Want::Send { conversation, .. } | Want::Resolve { conversation, .. }) = ask.want else {
            panic!("only keyed items have old duplicates: {:?}", ask.want);
        };
        let durable = self.durable_seq(conversation);
        if !self.reads.has_room() || durable == 0 {
            self.reject(ask, Code::Busy, 0);
            return;
        }
        let purpose = Purpose::Find {
            to: ask.from,
            tag: ask.tag,
            kind: ask.kind,
            party,
            device: ask.device,
            n,
            body_hash,
        };
        self.plan(purpose, conversation, 1, durable);
    }

    fn plan(&mut self, purpose: Purpose, conversation: ConversationId, first: u64, last: u64) {
        let job = Job {
            purpose,
            conversation,
            first,
            last,
            records: Vec::new(),
            payloads: BTreeMap::new(),
            reads_open: 0,
            damaged: false,
        };
        let entry = self.index.get(self.place(conversation)).expect("a job reads durable items");
        self.reads.plan(job, entry);
    }

    /// A read is back: verify its records; when it was the job's last, finish the job.
    pub(super) fn read_done(&mut self, done: DiskDone, mail: &mut Mail<'_>) {
        let open = self.reads.open.remove(&done.op.0).expect("a read that was started");
        let job = self.reads.jobs.get_mut(&open.job).expect("an open read belongs to a job");
        let pages = done.pages.as_ref().filter(|_| done.result.is_ok());
        for number in open.span.records.clone() {
            let record = job.records[number];
            let own = self.appender.generations();
            let known = if own.of(record.position).is_some() { own } else { &self.foreign };
            let found =
                pages.and_then(|pages| extract(record, open.span.offset, pages.as_bytes(), known).ok());
            match found {
                Some(found) => {
                    job.payloads.insert(number, found.payload);
                }
                None => job.damaged = true,
            }
        }
        job.reads_open -= 1;
        if job.reads_open == 0 {
            let job = self.reads.jobs.remove(&open.job).expect("it was just there");
            self.finish_job(job, mail);
        }
    }

    fn finish_job(&mut self, job: Job, mail: &mut Mail<'_>) {
        let site = self.desk.conversation(job.conversation).expect("a job has a conversation").site;
        let items = items_of(&job);
        match job.purpose.clone() {
            Purpose::CatchUp { listener, announced } => {
                self.finish_catch_up(&job, (listener, announced), site, &items, mail);
            }
            Purpose::Page { to, tag, kind, backwards } => {
                if items.is_empty() {
                    let answer = self.refuse(Code::Damaged, kind, job.conversation).frame(tag);
                    self.push_aside(to, job.conversation, answer, mail);
                    return;
                }
                let beyond = self.durable_seq(job.conversation) > job.last;
                let more = if backwards { job.first > 1 } else { beyond };
                self.finish_page(&job, (to, tag), more, site, &items, mail);
            }
            Purpose::Find { .. } => self.finish_find(job, &items, mail),
        }
    }

    fn finish_catch_up(
        &mut self,
        job: &Job,
        (listener, announced): (Subscriber, Option<u32>),
        site: SiteId,
        items: &BTreeMap<u64, Event>,
        mail: &mut Mail<'_>,
    ) {
        let to = listener.session;
        let mut out = Vec::new();
        for seq in job.first..=job.last {
            match items.get(&seq) {
                Some(item) => {
                    frames::put_item(item, site, &self.settings.agent_names, &mut out);
                }
                None => out.extend_from_slice(&gap(job.conversation, seq)),
            }
        }
        let durable = self.durable_seq(job.conversation);
        let live = job.last == durable && self.index.subscribe(self.place(job.conversation), listener);
        let message = ShardMessage::Caught {
            to,
            conversation: job.conversation,
            upto: job.last,
            live,
            frames: out.into(),
        };
        mail.send(to.shard, message);
        self.announce(job, listener, announced, items);
        self.show_receipts(job.conversation, to, live);
    }

    /// Receipts that moved before a listener went live were pushed to the others only: it gets where they stand. Held,
    /// because the desk may be ahead of what is durable.
    fn show_receipts(&mut self, conversation: ConversationId, to: SessionRef, live: bool) {
        let Some(view) = self.desk.conversation(conversation).filter(|_| live) else { return };
        let sides = [(Side::Visitor, view.visitor_receipts), (Side::Staff, view.staff_receipts)];
        for (side, marks) in sides.into_iter().filter(|(_, marks)| marks.delivered > 0) {
            let frame = frames::receipt(conversation, side, marks.delivered, marks.read);
            self.hold(Effect::Answer { to, frame });
        }
    }

    /// An assignment that became durable between a subscription and the end of its catching up reached nobody as a
    /// push: the listener gets its ASSIGNED now. Held, because the view may be ahead of what is durable.
    fn announce(
        &mut self,
        job: &Job,
        listener: Subscriber,
        announced: Option<u32>,
        items: &BTreeMap<u64, Event>,
    ) {
        let Some(agent) = listener.agent() else { return };
        let view = self.desk.conversation(job.conversation).expect("a job has a conversation");
        let caught = items.values().any(|item| {
            matches!(item, Event::Changed { status: Status::Assigned, epoch, .. } if *epoch == view.epoch)
        });
        if caught && view.agent == Some(agent) && announced != Some(view.epoch) {
            let frame = frames::assigned(&view, job.last);
            self.hold(Effect::Answer { to: listener.session, frame });
        }
    }

    fn finish_page(
        &mut self,
        job: &Job,
        (to, tag): (SessionRef, u32),
        more: bool,
        site: SiteId,
        items: &BTreeMap<u64, Event>,
        mail: &mut Mail<'_>,
    ) {
        let mut out = Vec::new();
        for seq in job.first..=job.last {
            match items.get(&seq) {
                Some(item) => {
                    frames::put_item(item, site, &self.settings.agent_names, &mut out);
                }
                None => self.push_aside(to, job.conversation, gap(job.conversation, seq), mail),
            }
        }
        let message = ServerMessage::Page {
            conversation: job.conversation.0,
            first: job.first,
            last: job.last,
            more,
            count: items.len() as u16,
            items: Items::new(&out),
        };
        self.push_aside(to, job.conversation, frames::frame(&message, tag), mail);
    }

    /// A frame beside the order, straight to a session: it tells only of what is in the index, hence durable.
    fn push_aside(
        &self,
        to: SessionRef,
        conversation: ConversationId,
        frame: Arc<[u8]>,
        mail: &mut Mail<'_>,
    ) {
        mail.send(to.shard, ShardMessage::Push { to, conversation, seq: 0, frame });
    }

    fn finish_find(&mut self, job: Job, items: &BTreeMap<u64, Event>, mail: &mut Mail<'_>) {
        let Purpose::Find { to, tag, kind, party, device, n, body_hash } = job.purpose else { return };
        let found = items.values().find_map(|item| key_of(item, party, device, n));
        let durable = self.durable_seq(job.conversation);
        let answer = match found {
            Some((seq, hash)) if hash == body_hash => frames::ack(tag, job.conversation.0, seq, n, true),
            Some(_) => self.refuse(Code::IdReused, kind, job.conversation).frame(tag),
            None if job.damaged => self.refuse(Code::Damaged, kind, job.conversation).frame(tag),
            None if job.last < durable => {
                let purpose = Purpose::Find { to, tag, kind, party, device, n, body_hash };
                self.plan(purpose, job.conversation, job.last + 1, durable);
                return;
            }
            None => panic!("{:?}: key {device:?}/{n} was accepted but is not in the log", job.conversation),
        };
        self.push_aside(to, job.conversation, answer, mail);
    }

    fn refuse(&mut self, code: Code, of: u8, conversation: ConversationId) -> Rejection {
        self.counters.rejects += 1;
        Rejection { code, of, conversation: conversation.0, detail: 0 }
    }
}

/// GAP of one damaged item.
fn gap(conversation: ConversationId, seq: u64) -> Arc<[u8]> {
    frames::frame(&ServerMessage::Gap { conversation: conversation.0, from: seq, to: seq }, 0)
}

/// The items of a finished job by seq.
fn items_of(job: &Job) -> BTreeMap<u64, Event> {
    let mut items = BTreeMap::new();
    for payload in job.payloads.values() {
        let events = codec::decode(payload).expect("a record that passed its checksum decodes");
        for event in events {
            let (Event::Sent { conversation, seq, .. } | Event::Changed { conversation, seq, .. }) = event
            else {
                continue;
            };
            if conversation == job.conversation && (job.first..=job.last).contains(&seq) {
                items.insert(seq, event);
            }
        }
    }
    items
}

/// Seq and hash of an item that carries this key.
fn key_of(item: &Event, party: Party, device: DeviceId, n: u64) -> Option<(u64, u64)> {
    match item {
        Event::Sent { seq, party: by, device: from, n: key, kind, body, .. }
            if (*by, *from, *key) == (party, device, n) =>
        {
            Some((*seq, ringdesk_desk::send_hash(*kind, body)))
        }
        Event::Changed { seq, by, key: Some((from, key)), .. }
            if (*by, *from, *key) == (party, device, n) =>
        {
            Some((*seq, ringdesk_desk::resolve_hash()))
        }
        _ => None,
    }
}
