//! Writes one log: stages records, seals them into batches, keeps one append write in flight, marks when idle.
//!
//! Order of a record: staged (copied into the open batch), sealed (its batch has a place and is being written),
//! durable (the write completed). Group commit without timers: what is staged while a write is in flight forms the
//! next batch. A write that fails ends the appender; it is never tried again, because a second sync may succeed
//! without the data.
//!
//! Bounds: "staging" holds `staged_bytes_max` bytes; when it is full, [`Appender::stage`] says [`Full::Staging`] and
//! the caller answers BUSY before anything is logged. A caller that asks [`Appender::room_bytes`] first never stages
//! what the prepared file space does not hold, so on a full disk nothing staged waits, and what follows it neither.

use crate::batch::{BATCH_HEAD, OpenBatch, Place, RECORD_HEAD};
use crate::runway::Runway;
use crate::sector::{SECTOR_BYTES, SECTOR_PAYLOAD};
use crate::{DiskDone, DiskOp, Generations, Geometry, Link, Lsn, OpId, Pages, Position, RecordRef, Tail};
use std::collections::VecDeque;
use std::fmt;

/// Appends records to one log. Owned by one shard.
pub struct Appender {
    geometry: Geometry,
    runway: Runway,
    /// Last sealed batch.
    link: Link,
    /// End of the last batch whose write completed.
    end: Position,
    gap_damaged: bool,
    /// Batches that take records, oldest first. Only the last one is open for more.
    open: VecDeque<OpenBatch>,
    in_flight: Option<InFlight>,
    syncing: Syncing,
    /// Buffers that came back.
    pool: Vec<Pages>,
    /// Record bytes staged and not durable.
    staged_bytes: usize,
    staged: Lsn,
    durable: Option<Lsn>,
    /// Set while the newest batch has records, or a cut before it, that no later batch vouches for.
    uncovered_since_ns: Option<u64>,
    uncovered_at_boot: bool,
    /// The batch or mark that is due waits for file space; a completion will bring it.
    starved: bool,
    failed: bool,
    ops: u64,
    stats: AppenderStats,
}

/// The append write in flight.
struct InFlight {
    op: OpId,
    segment: u32,
    offset: u64,
    bytes: u32,
    body_bytes: usize,
    records: Vec<(Lsn, RecordRef)>,
}

/// The sync that follows a replay.
enum Syncing {
    Wanted(u32),
    InFlight { op: OpId, segment: u32 },
    Done,
}

/// Why a record was not staged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The staging bound is reached: refuse the command with BUSY.
    Staging,
    /// The payload exceeds [`Geometry::payload_bytes_max`]; it will never fit.
    Record,
    /// A write failed earlier: this log takes nothing more.
    Stopped,
}

/// What one completion made durable.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Flushed {
    /// The last durable record, as [`Appender::durable`] says now.
    pub durable: Option<Lsn>,
    /// The records that became durable just now with their addresses, in order. Empty after fills, creations, marks
    /// and the sync after replay.
    pub records: Vec<(Lsn, RecordRef)>,
}

/// A disk operation failed: the log stops. Its waiters fail, the shard stops accepting, and the disk is replayed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fatal {
    /// What was attempted.
    pub what: &'static str,
    /// Path of the file below the data folder.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// The errno, or None for a write that came back short.
    pub errno: Option<i32>,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} at byte {} failed: ", self.what, self.file, self.offset)?;
        match self.errno {
            Some(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(errno)),
            None => write!(f, "fewer bytes were written than asked"),
        }
    }
}

impl std::error::Error for Fatal {}

/// Counters of one appender since boot.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AppenderStats {
    /// Batches durable, marks included.
    pub batches: u64,
    /// Of these, marks.
    pub marks: u64,
    /// Records durable.
    pub records: u64,
    /// Bytes of batches written, framing and padding included.
    pub bytes: u64,
    /// Of these, record headers and payloads.
    pub record_bytes: u64,
    /// Fill writes emitted.
    pub fills: u64,
    /// Segments created.
    pub segments: u64,
    /// Bytes staged and not durable now.
    pub staged_bytes: usize,
    /// Attempts to prepare space that found the disk full.
    pub refused: u64,
    /// Bytes of records that the prepared space holds now; `usize::MAX` before the first segment of a new log.
    pub file_room_bytes: usize,
    /// The errno of the last attempt to prepare space, if it found none.
    pub no_space: Option<i32>,
}

impl Appender {
    /// An appender that goes on at `tail`.
    ///
    /// # Panics
    /// If the geometry breaks [`Geometry::check`] or belongs to another log than the tail.
    #[must_use]
    pub fn new(geometry: Geometry, tail: Tail) -> Self {
        if let Err(error) = geometry.check() {
            panic!("{error}");
        }
        assert_eq!(geometry.log, tail.log, "a tail belongs to its log");
        let syncing = tail.sync.map_or(Syncing::Done, Syncing::Wanted);
        let durable = matches!(syncing, Syncing::Done).then_some(Lsn(0));
        Self {
            geometry,
            runway: Runway::new(geometry, &tail),
            link: tail.link,
            end: tail.link.end,
            gap_damaged: tail.gap_damaged,
            open: VecDeque::new(),
            in_flight: None,
            syncing,
            pool: Vec::new(),
            staged_bytes: 0,
            staged: Lsn(0),
            durable,
            uncovered_since_ns: None,
            uncovered_at_boot: tail.uncovered,
            starved: false,
            failed: false,
            ops: 0,
            stats: AppenderStats::default(),
        }
    }

    /// True if [`Appender::stage`] takes a payload of `len` bytes now.
    #[must_use]
    pub fn room(&self, len: usize) -> bool {
        self.refusal(len).is_none()
    }

    /// Bytes that staging and the prepared file space still take, record headers (16 bytes each) included. For callers
    /// that admit several records at once.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        self.staging_room_bytes().min(self.file_room_bytes())
    }

    /// Bytes that staging still takes: how far the disk is behind, whatever space it has.
    #[must_use]
    pub fn staging_room_bytes(&self) -> usize {
        if self.failed { 0 } else { self.geometry.staged_bytes_max - self.staged_bytes }
    }

    /// Bytes of records that the prepared file space takes beside what is staged, whatever the disk says from now on.
    #[must_use]
    pub fn file_room_bytes(&self) -> usize {
        let room = self.runway.room();
        if room == u64::MAX {
            return usize::MAX;
        }
        let align = self.geometry.align;
        let waiting: u64 = self.open.iter().map(|batch| u64::from(batch.bytes(align))).sum();
        // A record may open a batch: its header, and the rest of a sector and of an aligned block.
        let framing = waiting + u64::from(align) + SECTOR_BYTES as u64;
        let sectors = room.saturating_sub(framing) / SECTOR_BYTES as u64;
        (sectors as usize * SECTOR_PAYLOAD).saturating_sub(BATCH_HEAD)
    }

    /// Bytes of the prepared space that callers should leave to records without which the rest stands still, while the
    /// disk is full; 0 while it is not.
    #[must_use]
    pub fn reserve_bytes(&self) -> usize {
        let reserve = (self.geometry.segment_bytes / 8).min(8 << 20) as usize;
        if self.runway.no_space().is_some() { reserve } else { 0 }
    }

    /// Attempts to prepare file space that found none, and the errno of the last attempt if it is among them.
    #[must_use]
    pub fn space(&self) -> (u64, Option<i32>) {
        (self.runway.refused, self.runway.no_space())
    }

    fn refusal(&self, len: usize) -> Option<Full> {
        if self.failed {
            Some(Full::Stopped)
        } else if len > self.geometry.payload_bytes_max() {
            Some(Full::Record)
        } else if self.staged_bytes + RECORD_HEAD + len > self.geometry.staged_bytes_max {
            Some(Full::Staging)
        } else {
            None
        }
    }

    /// Copies a record into the open batch. It is written by the next [`Appender::poll`] that finds no write in
    /// flight.
    ///
    /// # Errors
    /// See [`Full`]; nothing was staged.
    pub fn stage(&mut self, slot: u16, slot_epoch: u32, payload: &[u8]) -> Result<Lsn, Full> {
        if let Some(full) = self.refusal(payload.len()) {
            return Err(full);
        }
        let lsn = Lsn(self.staged.0 + 1);
        if !self.open.back().is_some_and(|batch| batch.fits(payload.len())) {
            let batch = self.open_batch(lsn);
            self.open.push_back(batch);
        }
        let batch = self.open.back_mut().expect("there is an open batch");
        batch.push(slot, slot_epoch, payload);
        self.staged = lsn;
        self.staged_bytes += RECORD_HEAD + payload.len();
        Ok(lsn)
    }

    fn open_batch(&mut self, first: Lsn) -> OpenBatch {
        let bytes = self.geometry.batch_bytes_max;
        let pages = self.pool.pop().unwrap_or_else(|| Pages::zeroed(bytes as usize));
        OpenBatch::new(pages, bytes, first)
    }

    /// Emits what is due: the sync after replay, one batch or mark if no append is in flight, file space ahead.
    ///
    /// `now_ns` is monotonic; `wall_ms` (milliseconds since 1970) only goes into headers. Call it after staging,
    /// after each completion, and at [`Appender::next_deadline_ns`].
    pub fn poll(&mut self, now_ns: u64, wall_ms: u64, ops: &mut Vec<DiskOp>) {
        if self.failed {
            return;
        }
        if std::mem::take(&mut self.uncovered_at_boot) {
            self.uncovered_since_ns = Some(now_ns);
        }
        if let Syncing::Wanted(segment) = self.syncing {
            let op = self.next_op();
            self.syncing = Syncing::InFlight { op, segment };
            ops.push(DiskOp::Sync { op, log: self.geometry.log, segment });
        }
        self.seal(now_ns, wall_ms, ops);
        let mut numbers = self.ops;
        let mut next = || {
            numbers += 1;
            OpId::appender(numbers)
        };
        self.runway.extend(now_ns, wall_ms, &mut next, ops);
        self.ops = numbers;
    }

    fn next_op(&mut self) -> OpId {
        self.ops += 1;
        OpId::appender(self.ops)
    }

    /// Seals the oldest open batch, or a mark if one is due, and emits its write.
    fn seal(&mut self, now_ns: u64, wall_ms: u64, ops: &mut Vec<DiskOp>) {
        // A batch vouches for all before it, so it must not be written before the sync after replay is done.
        if self.in_flight.is_some() || !matches!(self.syncing, Syncing::Done) {
            return;
        }
        let (batch, mark) = match self.open.pop_front() {
            Some(batch) => (batch, false),
            None if self.mark_due_ns().is_some_and(|due| now_ns >= due) => {
                (self.open_batch(Lsn(self.staged.0 + 1)), true)
            }
            None => return,
        };
        let align = self.geometry.align;
        let room = self.runway.take(batch.bytes(align));
        self.starved = room.is_none();
        let Some(room) = room else {
            if mark {
                self.reclaim(batch);
            } else {
                self.open.push_front(batch);
            }
            return;
        };
        let place = Place {
            start: room.start,
            generation: room.generation,
            align,
            previous: self.link,
            gap_damaged: std::mem::take(&mut self.gap_damaged),
            wall_ms,
        };
        let sealed = batch.seal(&place);
        self.link = sealed.link;
        // A mark vouches for what came before and has nothing of its own to lose.
        self.uncovered_since_ns = if mark { None } else { Some(now_ns) };
        let op = self.next_op();
        let (segment, offset) = (room.start.segment(), u64::from(room.start.offset()));
        let bytes = sealed.pages.len() as u32;
        let (records, body_bytes) = (sealed.records, sealed.body_bytes);
        self.in_flight = Some(InFlight { op, segment, offset, bytes, body_bytes, records });
        ops.push(DiskOp::Write { op, log: self.geometry.log, segment, offset, pages: sealed.pages });
    }

    fn reclaim(&mut self, batch: OpenBatch) {
        self.pool.push(batch.into_pages());
    }

    fn mark_due_ns(&self) -> Option<u64> {
        self.uncovered_since_ns.map(|since| since.saturating_add(self.geometry.mark_after_ns))
    }

    /// Takes the completion of one of this appender's operations ([`OpId::is_appender`]).
    ///
    /// # Errors
    /// [`Fatal`] on any failure but a creation or fill without space, which is tried again. The appender then refuses and emits nothing more; nothing staged and not durable may
    /// be acked. Do not retry the operation.
    ///
    /// # Panics
    /// If the operation is not in flight: a driver that completes twice would ack what is not durable.
    pub fn complete(&mut self, done: DiskDone) -> Result<Flushed, Fatal> {
        assert!(done.op.is_appender(), "operation {:?} is not the appender's", done.op);
        self.starved = false;
        if matches!(&self.in_flight, Some(append) if append.op == done.op) {
            return self.complete_append(done);
        }
        if let Syncing::InFlight { op, segment } = self.syncing
            && op == done.op
        {
            self.check("sync", segment, 0, done.result, None)?;
            self.syncing = Syncing::Done;
            self.durable = Some(Lsn(0));
            return Ok(self.flushed(Vec::new()));
        }
        let laid = self.runway.complete(done.op, done.result, done.pages);
        let laid = laid.unwrap_or_else(|| panic!("operation {:?} is not in flight", done.op));
        if laid.no_space {
            return Ok(self.flushed(Vec::new()));
        }
        let what = if laid.expected.is_some() { "fill" } else { "creation" };
        self.check(what, laid.segment, laid.offset, done.result, laid.expected)?;
        Ok(self.flushed(Vec::new()))
    }

    fn complete_append(&mut self, done: DiskDone) -> Result<Flushed, Fatal> {
        let append = self.in_flight.take().expect("an append is in flight");
        self.check("write", append.segment, append.offset, done.result, Some(append.bytes))?;
        if let Some(pages) = done.pages
            && pages.capacity() >= self.geometry.batch_bytes_max as usize
        {
            self.pool.push(pages);
        }
        self.end = Position::new(self.geometry.log, append.segment, append.offset as u32 + append.bytes);
        self.stats.batches += 1;
        self.stats.marks += u64::from(append.records.is_empty());
        self.stats.records += append.records.len() as u64;
        self.stats.bytes += u64::from(append.bytes);
        self.stats.record_bytes += append.body_bytes as u64;
        self.staged_bytes -= append.body_bytes;
        if let Some((last, _)) = append.records.last().filter(|_| !self.failed) {
            self.durable = Some(*last);
        }
        Ok(self.flushed(append.records))
    }

    fn flushed(&self, records: Vec<(Lsn, RecordRef)>) -> Flushed {
        // After a failure nothing may become visible, whatever still completes.
        let records = if self.failed { Vec::new() } else { records };
        Flushed { durable: self.durable, records }
    }

    fn check(
        &mut self,
        what: &'static str,
        segment: u32,
        offset: u64,
        result: Result<u32, i32>,
        expected: Option<u32>,
    ) -> Result<(), Fatal> {
        let errno = match (result, expected) {
            (Ok(written), Some(expected)) if written != expected => None,
            (Ok(_), _) => return Ok(()),
            (Err(errno), _) => Some(errno),
        };
        self.failed = true;
        let file = crate::segment_file(self.geometry.log, segment);
        Err(Fatal { what, file, offset, errno })
    }

    /// Where the log ends: behind the last batch whose write completed, in this run or before it.
    #[must_use]
    pub fn end(&self) -> Position {
        self.end
    }

    /// The last durable record. `Lsn(0)` is all that replay brought back: None until that is synced, so a reply that
    /// follows from replayed state waits for `Lsn(0)`.
    #[must_use]
    pub fn durable(&self) -> Option<Lsn> {
        self.durable
    }

    /// The last staged record, `Lsn(0)` before the first.
    #[must_use]
    pub fn staged(&self) -> Lsn {
        self.staged
    }

    /// When [`Appender::poll`] wants to be called if nothing else happens, in the caller's monotonic nanoseconds.
    /// None if only a completion or a record gives it work.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        // While starved, a deadline that has passed would make the caller spin until the completion.
        let busy = self.starved || self.in_flight.is_some() || !matches!(self.syncing, Syncing::Done);
        let mark = if busy || !self.open.is_empty() { None } else { self.mark_due_ns() };
        let deadlines = [mark, self.runway.next_deadline_ns()];
        deadlines.into_iter().flatten().min().filter(|_| !self.failed)
    }

    /// True once a write, fill, creation or sync failed.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.failed
    }

    /// Generations of all segments that records can be read from: those of the tail and those opened since.
    #[must_use]
    pub fn generations(&self) -> &Generations {
        self.runway.generations()
    }

    /// True if all that was staged is durable and a later batch vouches for it, or no place is left for one. Fills and
    /// creations may be out; they are the driver's to wait for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let covered = self.starved || (self.uncovered_since_ns.is_none() && !self.uncovered_at_boot);
        let idle = self.open.is_empty() && self.in_flight.is_none() && matches!(self.syncing, Syncing::Done);
        self.failed || (idle && covered)
    }

    /// The geometry it was made with.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Counters since boot.
    #[must_use]
    pub fn stats(&self) -> AppenderStats {
        AppenderStats {
            fills: self.runway.fills,
            segments: self.runway.creates,
            staged_bytes: self.staged_bytes,
            refused: self.runway.refused,
            file_room_bytes: self.file_room_bytes(),
            no_space: self.runway.no_space(),
            ..self.stats
        }
    }
}
