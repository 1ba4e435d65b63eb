//! What a scan of a damaged log has to find, worked out from the tables of `docs/LOG_FORMAT.md` and from what is known
//! of the log: which sectors each batch and each record needs, and what became of them. No byte is read here.

use ringdesk_persist::{DamageKind, LogReport, RecordRef};

use crate::support::Known;
use crate::written::{Batch, SECTOR, Written};

/// What became of one sector of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Became {
    /// As it was.
    Intact,
    /// Zeros, or of an older generation: as if never written.
    Blank,
    /// Anything else.
    Bad,
    /// Behind the end of a truncated file.
    Gone,
}

/// One damaged range.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Told {
    pub segment: u32,
    pub from: u32,
    pub to: u32,
    /// The kind, as it prints.
    pub kind: String,
    pub batches: u64,
    pub lost: Vec<(RecordRef, u16)>,
    pub unknown: u64,
}

/// All that a scan says.
#[derive(PartialEq, Eq, Debug)]
pub struct Found {
    pub shown: Vec<(RecordRef, Known)>,
    pub damage: Vec<Told>,
    pub torn: Option<(u32, u32)>,
}

impl Found {
    /// What the scan found, in the oracle's terms.
    pub fn by_scan(shown: Vec<(RecordRef, Known)>, report: &LogReport) -> Self {
        let told = report.damage.iter().map(|damage| Told {
            segment: damage.segment,
            from: damage.from,
            to: damage.to,
            kind: format!("{:?}", damage.kind),
            batches: damage.batches_lost,
            lost: damage.lost.iter().map(|lost| (lost.reference, lost.slot)).collect(),
            unknown: damage.records_unknown,
        });
        let mut damage: Vec<_> = told.collect();
        damage.sort();
        let torn = report.torn.map(|torn| (torn.from.offset(), torn.to.offset()));
        Self { shown, damage, torn }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    Torn,
    Damaged,
}

fn state(batch: &Batch, became: &[Became]) -> State {
    let sectors = &became[batch.sectors.0..batch.sectors.1];
    if sectors.iter().any(|sector| matches!(sector, Became::Bad | Became::Gone)) {
        State::Damaged
    } else if sectors.contains(&Became::Blank) {
        State::Torn
    } else {
        State::Whole
    }
}

/// What a batch that counts still shows, by index, what it lost by name, and how many records besides.
pub fn serve(written: &Written, batch: &Batch, became: &[Became]) -> (Vec<usize>, Vec<usize>, u64) {
    let (mut served, mut lost) = (Vec::new(), Vec::new());
    for index in batch.records.0..batch.records.1 {
        let entry = &written.entries[index];
        let good = |from: usize, to: usize| became[from..=to].iter().all(|sector| *sector == Became::Intact);
        if !good(entry.head.0, entry.head.1) {
            return (served, lost, (batch.records.1 - index) as u64);
        }
        if good(entry.head.0, entry.end) { served.push(index) } else { lost.push(index) }
    }
    (served, lost, 0)
}

/// The oracle for a log of one file.
pub struct OneFile<'a> {
    written: &'a Written,
    segment: u32,
    became: &'a [Became],
    served: Vec<usize>,
    damage: Vec<Told>,
}

impl<'a> OneFile<'a> {
    /// What is to be found, the log having ended at `closed` if it is known.
    pub fn expect(written: &'a Written, became: &'a [Became], closed: Option<u32>) -> Found {
        let segment = written.batches[0].segment;
        let mut oracle = Self { written, segment, became, served: Vec::new(), damage: Vec::new() };
        let length = became.iter().position(|sector| *sector == Became::Gone).unwrap_or(became.len());
        if length < became.len() {
            oracle.tell(DamageKind::Short, length, became.len(), 0);
        }
        let torn = if length == 0 {
            None
        } else {
            if became[0] != Became::Intact {
                oracle.tell(DamageKind::Header, 0, 1, 0);
            }
            oracle.chain(length, closed.map(|closed| closed as usize / SECTOR))
        };
        oracle.damage.sort();
        let shown = oracle.served.iter().map(|index| &written.entries[*index]);
        let shown = shown.map(|entry| (entry.at, entry.known.clone())).collect();
        let torn = torn.map(|(from, to)| ((from * SECTOR) as u32, (to * SECTOR) as u32));
        Found { shown, damage: oracle.damage, torn }
    }

    fn tell(&mut self, kind: DamageKind, from: usize, to: usize, batches: u64) {
        let (from, to) = ((from * SECTOR) as u32, (to * SECTOR) as u32);
        let kind = format!("{kind:?}");
        let (lost, unknown) = (Vec::new(), 0);
        self.damage.push(Told { segment: self.segment, from, to, kind, batches, lost, unknown });
    }

    /// The batch counts: its whole records are served, its bad sectors and the other records are told.
    fn count(&mut self, batch: &Batch) {
        let (served, lost, unknown) = serve(self.written, batch, self.became);
        self.served.extend(served);
        let bad = |sector: &usize| self.became[*sector] != Became::Intact;
        let sectors = batch.sectors.0..batch.sectors.1;
        let (Some(first), Some(last)) = (sectors.clone().find(bad), sectors.rev().find(bad)) else { return };
        self.tell(DamageKind::Batch, first, last + 1, 0);
        let named = |index: &usize| {
            let entry = &self.written.entries[*index];
            (entry.at, entry.known.0)
        };
        let told = self.damage.last_mut().expect("just told");
        (told.lost, told.unknown) = (lost.iter().map(named).collect(), unknown);
    }

    /// Follows the heads that are left; gives what was torn, in sectors.
    fn chain(&mut self, length: usize, closed: Option<usize>) -> Option<(usize, usize)> {
        let batches = &self.written.batches;
        let headed = |index: &usize| self.became[batches[*index].sectors.0] == Became::Intact;
        let mut held: Option<usize> = None;
        for next in (0..batches.len()).filter(headed) {
            let after = held.map_or(1, |held| batches[held].sectors.1);
            let number = held.map_or(0, |held| held + 1);
            if next == number {
                if let Some(held) = held {
                    self.count(&batches[held]);
                }
            } else if let Some(held) = held.filter(|held| state(&batches[*held], self.became) != State::Whole)
            {
                // Perhaps cut, and what replaced it is among the lost.
                let lost = (next - held) as u64;
                self.tell(DamageKind::Lost, batches[held].sectors.0, batches[next].sectors.0, lost);
            } else {
                if let Some(held) = held {
                    self.count(&batches[held]);
                }
                self.tell(DamageKind::Lost, after, batches[next].sectors.0, (next - number) as u64);
            }
            held = Some(next);
        }
        self.end(held, length, closed)
    }

    fn end(&mut self, held: Option<usize>, length: usize, closed: Option<usize>) -> Option<(usize, usize)> {
        let batches = &self.written.batches;
        let (mut torn, mut end) = (None, 1);
        let after = held.map_or(1, |held| batches[held].sectors.1);
        if let Some(held) = held.map(|held| &batches[held]) {
            if state(held, self.became) == State::Torn {
                (torn, end) = (Some(held.sectors), held.sectors.0);
            } else {
                self.count(held);
                end = held.sectors.1;
            }
        }
        // Sectors behind the last head: bodies of batches without one, and what never was written.
        let used = batches.last().expect("batches").sectors.1;
        let loose = |sector: &usize| match self.became[*sector] {
            Became::Intact => *sector < used,
            Became::Bad => true,
            Became::Blank | Became::Gone => false,
        };
        let behind: Vec<_> = (after..length).filter(loose).collect();
        if let (Some(first), Some(last)) = (behind.first(), behind.last()) {
            if behind.iter().any(|sector| self.became[*sector] == Became::Bad) {
                self.tell(DamageKind::Tail, *first, last + 1, 0);
            } else {
                torn = Some((torn.map_or(*first, |torn| torn.0), last + 1));
            }
        }
        let Some(closed) = closed.filter(|closed| *closed > end) else { return torn };
        if !self.damage.iter().any(|told| told.to as usize >= closed * SECTOR) {
            self.tell(DamageKind::Ended, end, closed, 0);
        }
        None
    }
}
