//! The chain of batches: each names where its predecessor ended and the checksum of its predecessor's header.
//!
//! Order: a scan holds the newest batch back until the next one says what became of it, because only a successor
//! tells a torn write (cut, never acked) from a damaged one (acked, reported). This file decides; it reads no bytes
//! of the file and emits no reports.

use crate::Position;
use crate::batch::{BATCH_HEAD, BatchHead, RECORD_HEAD, RecordHead};
use crate::sector::{self, SECTOR_BYTES, SECTOR_PAYLOAD};
use crate::{LostRecord, Record, RecordRef};

/// What a batch's successor names of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Number of the batch, dense per log from 1; 0 before the first.
    pub number: u64,
    /// First byte after it.
    pub end: Position,
    /// crc32c of its 56 header bytes; 0 before the first.
    pub checksum: u32,
}

impl Link {
    /// What the first batch of a log names: number 0, segment 0, offset 0.
    #[must_use]
    pub fn before_all(log: crate::LogId) -> Self {
        Self { number: 0, end: Position::new(log, 0, 0), checksum: 0 }
    }

    fn is_named_by(&self, head: &BatchHead) -> bool {
        head.number == self.number + 1 && head.durable == self.end && head.previous == self.checksum
    }
}

/// How whole the sectors of a batch are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// All there, and the body checksum matches.
    Whole,
    /// Some sectors were never written; none is damaged.
    Torn,
    /// Some sectors are damaged, or the body does not match its checksum.
    Damaged,
}

/// A batch whose header is good, held back until its successor is seen.
pub(crate) struct Held {
    pub head: BatchHead,
    pub start: Position,
    pub link: Link,
    pub state: State,
    /// Stream bytes, without sector headers; zeros where a sector is not good.
    pub stream: Vec<u8>,
    /// Which sectors are not good. Empty if all are.
    pub bad: Vec<bool>,
    /// The file has a good header and its full length, so that the log may go on in it.
    pub file_whole: bool,
}

/// What a batch header says about the batch held before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Relation {
    /// It names the held batch: that one was durable.
    Next,
    /// It names the held batch's predecessor: the held batch was cut as torn.
    Instead,
    /// Durable batches before it are lost, from this position on. `keep` says whether the held batch still counts.
    After { from: Position, batches: u64, keep: bool },
    /// It fits nowhere.
    Stray,
}

/// The link that `head` names.
pub(crate) fn named(head: &BatchHead) -> Link {
    Link { number: head.number - 1, end: head.durable, checksum: head.previous }
}

/// Relates a batch header found at `start` to the held batch, or to `base`, the end of the chain, without one.
pub(crate) fn relate(head: &BatchHead, start: Position, held: Option<&Held>, base: Link) -> Relation {
    let last = held.map_or(base, |held| held.link);
    if head.durable.log() != start.log() || head.durable > start {
        return Relation::Stray;
    }
    if last.is_named_by(head) {
        return Relation::Next;
    }
    if held.is_some_and(|held| named(&held.head).is_named_by(head)) {
        return Relation::Instead;
    }
    if head.number <= last.number || head.durable <= last.end {
        return Relation::Stray;
    }
    match held {
        // Not whole, or not the predecessor although its number is right: it was cut, and what replaced it is lost.
        Some(held) if held.state != State::Whole || head.number == last.number + 1 => {
            Relation::After { from: held.start, batches: head.number - held.head.number, keep: false }
        }
        _ if head.number == last.number + 1 => Relation::Stray,
        _ => Relation::After { from: last.end, batches: head.number - last.number - 1, keep: true },
    }
}

/// What a batch lost.
#[derive(Default)]
pub(crate) struct Loss {
    pub served: u64,
    pub lost: Vec<LostRecord>,
    pub unknown: u64,
}

impl Held {
    /// Shows every whole record and accounts for the others.
    ///
    /// A record whose own header lies in good sectors is skipped by its length; past a damaged record header the
    /// rest of the batch cannot be cut into records.
    pub(crate) fn show(&self, visit: &mut dyn FnMut(Record<'_>)) -> Loss {
        let mut loss = Loss::default();
        let end = BATCH_HEAD + self.head.body_bytes as usize;
        let stream = &self.stream[..end];
        let mut at = BATCH_HEAD;
        for index in 0..self.head.records {
            let head = if self.good(at, RECORD_HEAD) { RecordHead::decode(&stream[at..]) } else { None };
            let head = head.filter(|head| at + head.len as usize <= end);
            let Some(head) = head else {
                loss.unknown = u64::from(self.head.records - index);
                return loss;
            };
            let len = head.len as usize;
            let payload = &stream[at + RECORD_HEAD..at + len];
            let offset = sector::file_offset(self.start.offset(), at);
            let position = Position::new(self.start.log(), self.start.segment(), offset);
            let reference = RecordRef { position, len: head.len };
            // In a whole batch the body checksum has already covered these bytes.
            if self.state == State::Whole || (self.good(at, len) && head.covers(payload)) {
                visit(Record { reference, slot: head.slot, slot_epoch: head.slot_epoch, payload });
                loss.served += 1;
            } else {
                loss.lost.push(LostRecord { reference, slot: head.slot, slot_epoch: head.slot_epoch });
            }
            at += len;
        }
        loss
    }

    fn good(&self, at: usize, len: usize) -> bool {
        let last = (at + len - 1) / SECTOR_PAYLOAD;
        (at / SECTOR_PAYLOAD..=last).all(|sector| !self.bad.get(sector).copied().unwrap_or(false))
    }

    /// File offsets of the first bad sector and of the end of the last; of the whole batch if each sector is good.
    pub(crate) fn bad_range(&self) -> (u32, u32) {
        let start = self.start.offset();
        let first = self.bad.iter().position(|bad| *bad).unwrap_or(0);
        let after =
            self.bad.iter().rposition(|bad| *bad).map_or(self.head.bytes as usize / SECTOR_BYTES, |l| l + 1);
        (start + (first * SECTOR_BYTES) as u32, start + (after * SECTOR_BYTES) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogId;

    const LOG: LogId = LogId(1);

    fn at(offset: u32) -> Position {
        Position::new(LOG, 0, offset)
    }

    fn batch(after: Link, start: u32, wall_ms: u64) -> Held {
        let (number, durable, previous) = (after.number + 1, after.end, after.checksum);
        let (bytes, records, body_bytes, body_crc, gap_damaged) = (512, 0, 0, 0, false);
        let head = BatchHead {
            number,
            bytes,
            records,
            body_bytes,
            body_crc,
            durable,
            wall_ms,
            previous,
            gap_damaged,
        };
        let (start, stream, bad) = (at(start), vec![0; SECTOR_PAYLOAD], Vec::new());
        Held { head, start, link: head.link(start), state: State::Whole, stream, bad, file_whole: true }
    }

    fn told(found: &Held, held: Option<&Held>) -> Relation {
        relate(&found.head, found.start, held, Link::before_all(LOG))
    }

    #[test]
    fn a_chain_and_what_breaks_it() {
        let one = batch(Link::before_all(LOG), 512, 1);
        let two = batch(one.link, 1024, 2);
        let three = batch(two.link, 1536, 3);
        let four = batch(three.link, 2048, 4);
        assert_eq!(told(&one, None), Relation::Next);
        assert_eq!(told(&two, Some(&one)), Relation::Next);
        assert_eq!(told(&four, Some(&two)), Relation::After { from: at(1536), batches: 1, keep: true });
        assert_eq!(told(&three, None), Relation::After { from: at(0), batches: 2, keep: true });
        assert_eq!(told(&one, Some(&three)), Relation::Stray, "numbers do not go back");
        let other_log = Held { start: Position::new(LogId(2), 0, 512), ..batch(one.link, 512, 1) };
        assert_eq!(told(&other_log, Some(&one)), Relation::Stray);
        let from_the_future = batch(Link { end: at(4096), ..one.link }, 1024, 2);
        assert_eq!(told(&from_the_future, Some(&one)), Relation::Stray, "it vouches for what comes after it");
    }

    #[test]
    fn a_cut_batch_is_not_taken_for_the_one_that_replaced_it() {
        let one = batch(Link::before_all(LOG), 512, 1);
        let cut = batch(one.link, 1024, 2);
        let replacement = batch(one.link, 1536, 3);
        let next = batch(replacement.link, 2048, 4);
        assert_eq!(told(&replacement, Some(&cut)), Relation::Instead);
        // The replacement is lost: what follows it must not vouch for the cut batch, although the numbers fit.
        let lost = Relation::After { from: at(1024), batches: 1, keep: false };
        assert_eq!(told(&next, Some(&cut)), lost);
        // Also where the replacement ended at the same byte: the header's checksum tells them apart.
        let same_place = batch(one.link, 1024, 9);
        let next = batch(same_place.link, 1536, 10);
        assert_eq!(next.head.durable, cut.link.end);
        assert_ne!(told(&next, Some(&cut)), Relation::Next);
    }

    #[test]
    fn a_first_batch_that_names_nothing_known_is_a_stray() {
        let odd = batch(Link { number: 0, end: at(0), checksum: 77 }, 512, 1);
        assert_eq!(told(&odd, None), Relation::Stray);
    }
}
