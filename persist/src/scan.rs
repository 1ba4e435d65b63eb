//! Replay: reads one log, segment file by segment file, shows every good record in order, and reports the rest.
//!
//! Order: [`SegmentScan::segment`] for each file in ascending number, then [`SegmentScan::finish`]. What a file
//! cannot decide alone (is the last batch torn or damaged?) is carried over: the newest batch is held back, copied,
//! until its successor is found, in whichever file, or until the end. One file's bytes are needed at a time.
//!
//! The rules are the decision table of `docs/LOG_FORMAT.md`.

use crate::batch::{BATCH_HEAD, BatchHead};
use crate::chain::{self, Held, Relation, State};
use crate::report::{Damage, DamageKind, LogReport, Resume, Spare, Tail, Torn};
use crate::sector::{self, Role, SECTOR_BYTES, SECTOR_HEAD, SECTOR_PAYLOAD, Sector};
use crate::segment::{FORMAT_VERSION, SegmentHead};
use crate::{Extent, Generations, Link, LogId, LostRecord, Position, Record};
use std::collections::BTreeMap;

mod plan;

pub use plan::{ScanError, ScanPlan};

/// Sectors of the current generation that belong to no batch seen.
#[derive(Clone, Copy)]
struct Loose {
    from: Position,
    to: Position,
    bad: bool,
}

/// What is known of a segment file from its header and length.
#[derive(Clone, Copy)]
pub(crate) struct Opened {
    pub segment: u32,
    pub generation: u32,
    /// Length that the file should have.
    pub full: u32,
    /// The file has a good header and its full length.
    pub whole: bool,
    /// What was found when it was opened.
    found: (Option<Position>, usize),
}

/// A segment file under the scan, or a part of one.
#[derive(Clone, Copy)]
pub(crate) struct File<'a> {
    pub opened: Opened,
    /// Its bytes from `from` on.
    pub bytes: &'a [u8],
    /// A multiple of the sector's length.
    pub from: u32,
}

impl<'a> File<'a> {
    /// The sector at this byte of the file, if it was read.
    pub(crate) fn sector(&self, at: u32) -> Option<&'a [u8]> {
        let at = at.checked_sub(self.from)? as usize;
        self.bytes.get(at..at + SECTOR_BYTES)
    }
}

/// A scan of one log in progress.
pub struct SegmentScan {
    plan: ScanPlan,
    expected: u32,
    base: Link,
    /// No batch was seen and the log's start was dropped: the first batch is believed.
    unanchored: bool,
    held: Option<Held>,
    loose: Option<Loose>,
    /// Files behind the newest batch are missing or damaged.
    disturbed: bool,
    /// Highest segment that is not a clean spare.
    content: Option<u32>,
    spares: Vec<Spare>,
    lengths: BTreeMap<u32, u32>,
    generation: u32,
    generations: Generations,
    damage: Vec<Damage>,
    batches: u64,
    records: u64,
    bytes: u64,
    /// Stream buffer of a batch already shown, for reuse.
    stream: Vec<u8>,
}

impl SegmentScan {
    /// A scan that has seen nothing.
    #[must_use]
    pub fn new(plan: ScanPlan) -> Self {
        Self {
            plan,
            expected: plan.first_segment,
            base: Link::before_all(plan.log),
            unanchored: plan.first_segment > 0,
            held: None,
            loose: None,
            disturbed: false,
            content: None,
            spares: Vec::new(),
            lengths: BTreeMap::new(),
            generation: 0,
            generations: Generations::default(),
            damage: Vec::new(),
            batches: 0,
            records: 0,
            bytes: 0,
            stream: Vec::new(),
        }
    }

    /// Records shown so far, for a progress line.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes looked at so far, for a progress line.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Damaged ranges found so far: all that concerns records shown so far is among them.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// Takes the whole content of the next segment file, or the errno of reading it. `visit` is shown each record
    /// that is now known to be good, in log order.
    ///
    /// Where only some sectors cannot be read, give the rest and put [`crate::UNREADABLE`] in their place.
    ///
    /// # Errors
    /// See [`ScanError`]. Damage is no error.
    pub fn segment(
        &mut self,
        segment: u32,
        content: Result<&[u8], i32>,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<(), ScanError> {
        self.arrive(segment)?;
        let bytes = match content {
            Ok(bytes) => bytes,
            Err(errno) => {
                self.report(DamageKind::Unreadable(errno), segment, 0, self.plan.segment_bytes);
                self.disturb(segment);
                return Ok(());
            }
        };
        if let Some(opened) = self.open(segment, bytes, bytes.len())? {
            let usable = bytes.len().min(opened.full as usize) / SECTOR_BYTES * SECTOR_BYTES;
            self.walk(&File { opened, bytes: &bytes[..usable], from: 0 }, SECTOR_BYTES as u32, visit);
            if bytes.len() < opened.full as usize {
                // Acked batches may have stood in the missing part.
                self.disturb(segment);
            }
            self.close(opened);
        }
        Ok(())
    }

    /// All of the file was looked at: a spare, or a part of the log.
    pub(crate) fn close(&mut self, opened: Opened) {
        let Opened { segment, generation, full, whole, found } = opened;
        let touched = self.loose.is_some_and(|loose| loose.to.segment() == segment);
        if whole && !touched && found == self.batches_found() && self.content < Some(segment) {
            self.spares.push(Spare { segment, generation, bytes: full });
        } else {
            self.content = Some(segment);
        }
    }

    /// The next file is there; those between it and the one before are not.
    pub(crate) fn arrive(&mut self, segment: u32) -> Result<(), ScanError> {
        if segment < self.expected {
            return Err(ScanError::Order(segment));
        }
        self.expect(segment);
        self.expected = segment + 1;
        Ok(())
    }

    /// Every file below `segment` should have come by now.
    fn expect(&mut self, segment: u32) {
        if segment > self.expected {
            let files = segment - self.expected;
            let full = self.plan.segment_bytes;
            self.report(DamageKind::Missing { files }, self.expected, 0, full);
            self.disturb(segment - 1);
            self.expected = segment;
        }
    }

    /// Changes whenever a batch is accepted or refused.
    fn batches_found(&self) -> (Option<Position>, usize) {
        (self.held.as_ref().map(|held| held.start), self.damage.len())
    }

    fn disturb(&mut self, segment: u32) {
        self.disturbed = true;
        self.content = Some(segment);
    }

    fn report(&mut self, kind: DamageKind, segment: u32, from: u32, to: u32) {
        let log = self.plan.log;
        let (lost, batches_lost, records_unknown) = (Vec::new(), 0, 0);
        self.damage.push(Damage { kind, log, segment, from, to, batches_lost, lost, records_unknown });
    }

    /// Reports a range that may span files; the batch count goes with its first part.
    fn report_range(&mut self, kind: DamageKind, from: Position, to: Position, batches: u64) {
        let first = self.damage.len();
        for segment in from.segment()..=to.segment() {
            let full = self.lengths.get(&segment).copied().unwrap_or(self.plan.segment_bytes);
            let start = if segment == from.segment() { from.offset() } else { SECTOR_BYTES as u32 };
            let start = start.max(SECTOR_BYTES as u32);
            let end = if segment == to.segment() { to.offset() } else { full };
            if start < end {
                self.report(kind, segment, start, end);
            }
        }
        if self.damage.len() == first && batches > 0 {
            self.report(kind, from.segment(), from.offset(), from.offset());
        }
        if let Some(damage) = self.damage.get_mut(first) {
            damage.batches_lost = batches;
        }
    }

    /// Looks at the header of the next file, whose first `bytes` and whole length, `len`, are given. None if no batch in it
    /// can be believed.
    pub(crate) fn open(
        &mut self,
        segment: u32,
        bytes: &[u8],
        len: usize,
    ) -> Result<Option<Opened>, ScanError> {
        self.bytes += bytes.len() as u64;
        let log = self.plan.log;
        let head = SegmentHead::decode(log, segment, bytes);
        if let Some(head) = head
            && head.version != FORMAT_VERSION
        {
            return Err(ScanError::Version(segment, head.version));
        }
        let full = head
            .map_or(self.plan.segment_bytes.max(u32::try_from(len).unwrap_or(u32::MAX)), |head| head.bytes);
        self.lengths.insert(segment, full);
        let short = len < full as usize;
        if short {
            // A sector cut in two cannot be verified; it counts as gone.
            let end = len / SECTOR_BYTES * SECTOR_BYTES;
            self.report(DamageKind::Short, segment, end as u32, full);
        }
        let usable = bytes.len().min(full as usize) / SECTOR_BYTES * SECTOR_BYTES;
        let bytes = &bytes[..usable];
        let generation = head.map(|head| head.generation).or_else(|| agreed_generation(log, segment, bytes));
        if head.is_none() && usable > 0 {
            // Without a generation nothing in the file can be told from leftovers: all of it is suspect.
            let end = if generation.is_some() { SECTOR_BYTES.min(usable) } else { full as usize };
            self.report(DamageKind::Header, segment, 0, end as u32);
        }
        let Some(generation) = generation else {
            self.disturb(segment);
            return Ok(None);
        };
        if generation <= self.generation {
            self.report(DamageKind::Generation, segment, 0, full);
            self.disturb(segment);
            return Ok(None);
        }
        self.generation = generation;
        self.generations.insert(log, segment, generation);
        let (whole, found) = (head.is_some() && !short, self.batches_found());
        Ok(Some(Opened { segment, generation, full, whole, found }))
    }

    /// Looks at all that was read of a file from `at` on.
    pub(crate) fn walk(&mut self, file: &File<'_>, mut at: u32, visit: &mut dyn FnMut(Record<'_>)) {
        while let Some(sector) = file.sector(at) {
            let position = Position::new(self.plan.log, file.opened.segment, at);
            let head = match sector::classify(sector, file.opened.generation, position) {
                Sector::Blank | Sector::Older => {
                    at += SECTOR_BYTES as u32;
                    continue;
                }
                Sector::Good(Role::Head) => batch_at(file, sector, at),
                Sector::Good(Role::Body) => {
                    self.loosen(position, false);
                    at += SECTOR_BYTES as u32;
                    continue;
                }
                Sector::Good(Role::Segment) | Sector::Bad => None,
            };
            let Some(head) = head else {
                self.loosen(position, true);
                at += SECTOR_BYTES as u32;
                continue;
            };
            let found = self.gather(file, head, position);
            at += head.bytes;
            self.follow(found, visit);
        }
    }

    /// Takes the batches that stand one behind the other from `at` on, whole, each naming the one before: what a log that
    /// is being written has for sure. Gives the end of the last, where the rest is looked at again later.
    pub(crate) fn walk_whole(
        &mut self,
        file: &File<'_>,
        mut at: u32,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> u32 {
        let mut taken = at;
        while let Some(sector) = file.sector(at) {
            let position = Position::new(self.plan.log, file.opened.segment, at);
            let head = match sector::classify(sector, file.opened.generation, position) {
                Sector::Blank | Sector::Older => {
                    at += SECTOR_BYTES as u32;
                    continue;
                }
                Sector::Good(Role::Head) => batch_at(file, sector, at),
                Sector::Good(_) | Sector::Bad => None,
            };
            let Some(head) = head else { break };
            let found = self.gather(file, head, position);
            let base = if self.unanchored { chain::named(&found.head) } else { self.base };
            let next = chain::relate(&found.head, found.start, self.held.as_ref(), base) == Relation::Next;
            if found.state != State::Whole || !next || self.loose.is_some() {
                self.stream = found.stream;
                break;
            }
            at += head.bytes;
            taken = at;
            self.follow(found, visit);
        }
        taken
    }

    /// The end of the last batch taken, or where the first one will say that it begins.
    pub(crate) fn end(&self) -> Position {
        self.held.as_ref().map_or(self.base.end, |held| held.link.end)
    }

    /// Number of the first segment that was not looked at.
    pub(crate) fn expected(&self) -> u32 {
        self.expected
    }

    pub(crate) fn generations(&self) -> &Generations {
        &self.generations
    }

    /// From now on this note of the log holds.
    pub(crate) fn note(&mut self, extent: Option<&Extent>) {
        self.plan = ScanPlan::new(self.plan.log, self.plan.segment_bytes, extent);
    }

    fn loosen(&mut self, position: Position, bad: bool) {
        let to = Position::new(position.log(), position.segment(), position.offset() + SECTOR_BYTES as u32);
        let loose = self.loose.get_or_insert(Loose { from: position, to, bad });
        loose.to = to;
        loose.bad |= bad;
    }

    /// Collects the sectors of the batch that starts at `start` and says how whole it is.
    fn gather(&mut self, file: &File<'_>, head: BatchHead, start: Position) -> Held {
        let mut stream = std::mem::take(&mut self.stream);
        stream.clear();
        let (mut bad, mut blank, mut damaged) = (Vec::new(), false, false);
        for index in 0..head.bytes as usize / SECTOR_BYTES {
            let at = start.offset() + (index * SECTOR_BYTES) as u32;
            let role = if index == 0 { Role::Head } else { Role::Body };
            let position = Position::new(self.plan.log, file.opened.segment, at);
            let sector = file.sector(at);
            match sector.map(|sector| (sector, sector::classify(sector, file.opened.generation, position))) {
                Some((sector, Sector::Good(found))) if found == role => {
                    sector::unframe(sector, &mut stream);
                    continue;
                }
                Some((_, Sector::Blank | Sector::Older)) => blank = true,
                // Beyond the end of a short file, or anything that does not belong here.
                _ => damaged = true,
            }
            stream.resize(stream.len() + SECTOR_PAYLOAD, 0);
            bad.resize(head.bytes as usize / SECTOR_BYTES, false);
            bad[index] = true;
        }
        let body = &stream[BATCH_HEAD..BATCH_HEAD + head.body_bytes as usize];
        let state = match (damaged, blank) {
            (true, _) => State::Damaged,
            (false, true) => State::Torn,
            (false, false) if crc32c::crc32c(body) == head.body_crc => State::Whole,
            (false, false) => State::Damaged,
        };
        Held { head, start, link: head.link(start), state, stream, bad, file_whole: file.opened.whole }
    }

    /// Decides about the held batch and the bytes since, now that `found` is known.
    fn follow(&mut self, found: Held, visit: &mut dyn FnMut(Record<'_>)) {
        let base = if self.unanchored { chain::named(&found.head) } else { self.base };
        let gap = self.loose.filter(|loose| loose.bad).map(|loose| (loose.from, loose.to));
        let gap = gap.unwrap_or((found.head.durable, found.start));
        match chain::relate(&found.head, found.start, self.held.as_ref(), base) {
            Relation::Next => self.release(visit),
            Relation::Instead => {}
            Relation::After { from, batches, keep } => {
                if keep {
                    self.release(visit);
                }
                self.report_range(DamageKind::Lost, from, found.head.durable, batches);
            }
            Relation::Stray => {
                self.report_range(DamageKind::Stray, found.start, found.link.end, 0);
                self.disturbed = true;
                return;
            }
        }
        if found.head.gap_damaged {
            self.report_range(DamageKind::Tail, gap.0, gap.1, 0);
        }
        (self.loose, self.unanchored, self.disturbed) = (None, false, false);
        if let Some(cut) = self.held.replace(found) {
            self.stream = cut.stream;
        }
    }

    /// Shows the held batch, which counts.
    fn release(&mut self, visit: &mut dyn FnMut(Record<'_>)) {
        let Some(held) = self.held.take() else { return };
        let loss = held.show(visit);
        self.batches += 1;
        self.records += loss.served;
        if held.state != State::Whole || loss.served < u64::from(held.head.records) {
            let (from, to) = held.bad_range();
            self.report(DamageKind::Batch, held.start.segment(), from, to);
            let damage = self.damage.last_mut().expect("just reported");
            (damage.lost, damage.records_unknown) = (loss.lost, loss.unknown);
        }
        self.stream = held.stream;
    }

    /// Ends the scan: decides about the tail and shows what was still held back.
    #[must_use]
    pub fn finish(mut self, visit: &mut dyn FnMut(Record<'_>)) -> LogReport {
        self.expect(self.plan.end_segment);
        let mut link = self.base;
        let (mut torn, mut doubtful, mut here, mut uncovered, mut sync) = (None, false, None, false, None);
        let mut last_wall_ms = 0;
        if let Some(held) = &self.held {
            sync = Some(held.start.segment());
            last_wall_ms = held.head.wall_ms;
            link = held.link;
            uncovered = held.head.records > 0;
            match held.state {
                State::Whole if held.file_whole => here = Some(held.link.end),
                State::Damaged if self.perhaps_cut(held) => {
                    link = chain::named(&held.head);
                    doubtful = true;
                }
                State::Whole | State::Damaged => {}
                State::Torn => {
                    link = chain::named(&held.head);
                    torn = Some(Torn { from: held.start, to: held.link.end });
                }
            }
            if doubtful {
                self.withhold();
            } else if torn.is_none() {
                self.release(visit);
            }
        }
        let mut gap_damaged = self.disturbed || doubtful;
        if let Some(loose) = self.loose {
            if loose.bad {
                self.report_range(DamageKind::Tail, loose.from, loose.to, 0);
                gap_damaged = true;
            } else {
                torn = Some(Torn { from: torn.map_or(loose.from, |torn: Torn| torn.from), to: loose.to });
            }
        }
        if let Some(closed) = self.plan.closed.filter(|closed| *closed > link.end) {
            // Nothing was being written when the log was closed: what is not there was durable.
            torn = None;
            gap_damaged = true;
            let told = |damage: &Damage| damage.segment == closed.segment() && damage.to >= closed.offset();
            if !self.damage.iter().any(told) {
                self.report_range(DamageKind::Ended, link.end, closed, 0);
            }
        }
        let rough = gap_damaged || torn.is_some();
        let here = here.filter(|_| !rough);
        let tail = Tail {
            log: self.plan.log,
            link,
            gap_damaged,
            uncovered: uncovered || rough,
            resume: here.map_or(Resume::Roll, |end| self.resume_at(end)),
            spare: self.spares.iter().find(|spare| Some(spare.segment) > self.content).copied(),
            next_segment: self.expected,
            next_generation: self.generation + 1,
            sync,
            generations: self.generations,
        };
        self.damage.sort_by_key(|damage| (damage.segment, damage.from));
        let (damage, batches, records, bytes) = (self.damage, self.batches, self.records, self.bytes);
        LogReport { tail, torn, damage, batches, records, bytes, last_wall_ms }
    }

    /// Whether the last batch, which is damaged, may be one that a boot cut as torn. After a cut the log goes on in
    /// another segment; if something stands there, the batch that would say which it was is lost. Its records may
    /// have been replaced by others under the same number, so they are not served.
    fn perhaps_cut(&self, last: &Held) -> bool {
        self.content > Some(last.start.segment()) && self.plan.closed != Some(last.link.end)
    }

    /// Reports the held batch and all its records as lost.
    fn withhold(&mut self) {
        let Some(held) = self.held.take() else { return };
        let mut lost = Vec::new();
        let loss = held.show(&mut |Record { reference, slot, slot_epoch, .. }| {
            lost.push(LostRecord { reference, slot, slot_epoch });
        });
        lost.extend(loss.lost);
        lost.sort_by_key(|lost| lost.reference);
        self.report_range(DamageKind::Doubtful, held.start, held.link.end, 1);
        let damage = self.damage.last_mut().expect("just reported");
        (damage.lost, damage.records_unknown) = (lost, loss.unknown);
    }

    fn resume_at(&self, end: Position) -> Resume {
        let generation = self.generations.of(end).expect("the last batch's segment was opened");
        let bytes = self.lengths[&end.segment()];
        Resume::Here { segment: end.segment(), generation, offset: end.offset(), bytes }
    }
}

/// The batch whose first sector is given and stands at `at`, if its header is whole and the batch fits into the file.
pub(crate) fn batch_at(file: &File<'_>, sector: &[u8], at: u32) -> Option<BatchHead> {
    let fits = |head: &BatchHead| at.checked_add(head.bytes).is_some_and(|end| end <= file.opened.full);
    BatchHead::decode(&sector[SECTOR_HEAD..]).filter(fits)
}

/// The generation of a segment whose header is damaged: the highest that any of its sectors verifies under. Positions
/// are part of the checksum and numbers are never given twice, so leftovers of a recycled file do not verify.
fn agreed_generation(log: LogId, segment: u32, bytes: &[u8]) -> Option<u32> {
    let sectors = bytes.chunks_exact(SECTOR_BYTES).enumerate().skip(1);
    let own = |(index, sector): (usize, &[u8])| {
        sector::own_generation(sector, Position::new(log, segment, (index * SECTOR_BYTES) as u32))
    };
    sectors.filter_map(own).max()
}

/// Scans one log from an ordered source of segment files: number, and content or errno. Takes one file at a time.
///
/// # Errors
/// See [`ScanError`].
pub fn scan_log<B: AsRef<[u8]>>(
    plan: ScanPlan,
    segments: impl IntoIterator<Item = (u32, Result<B, i32>)>,
    visit: &mut dyn FnMut(Record<'_>),
) -> Result<LogReport, ScanError> {
    let mut scan = SegmentScan::new(plan);
    for (segment, content) in segments {
        scan.segment(segment, content.as_ref().map(AsRef::as_ref).map_err(|errno| *errno), visit)?;
    }
    Ok(scan.finish(visit))
}
