//! What is done to the logs. Each family numbers its cases from 0, so that one of them repeats alone.

use std::collections::BTreeMap;

use ringdesk_persist::{Damage, LogId, Position, Record, RecordRef, ScanPlan, scan_log};

use crate::oracle::{Became, Found, OneFile, serve};
use crate::support::{Known, LOG, plan};
use crate::written::{Batch, LOG_BYTES, SECTOR, Written, four_files, one_file};

const SECTORS: usize = LOG_BYTES / SECTOR;
/// Sectors of the block that many disks write as one.
const BLOCK: usize = 8;
/// The tortured file's segment and generation: not the first, so that others can come before.
const SEGMENT: u32 = 0;
const GENERATION: u32 = 9;

/// What one case came to.
type Verdict = Result<(), String>;

/// Cases of one kind.
pub struct Family {
    pub name: &'static str,
    pub cases: u64,
    /// Makes what runs the cases on one thread.
    pub start: fn() -> Box<dyn FnMut(u64) -> Verdict>,
}

/// All of them.
pub fn families() -> [Family; 7] {
    let pairs = (SECTORS * SECTORS) as u64;
    let blocks = (SECTORS / BLOCK) as u64;
    [
        Family { name: "truncated", cases: LOG_BYTES as u64, start: || Box::new(truncated(Tortured::new())) },
        Family { name: "flipped", cases: LOG_BYTES as u64 * 8, start: || Box::new(flipped(Tortured::new())) },
        Family { name: "misdirected", cases: pairs, start: || Box::new(misdirected(Tortured::new(), 1)) },
        Family {
            name: "misdirected-blocks",
            cases: blocks * blocks,
            start: || Box::new(misdirected(Tortured::new(), BLOCK)),
        },
        Family { name: "swapped", cases: pairs, start: || Box::new(swapped(Tortured::new())) },
        Family { name: "foreign", cases: pairs * 3, start: || Box::new(foreign(Tortured::new())) },
        Family {
            name: "several-files",
            cases: 2 * LOG_BYTES as u64 * 8,
            start: || Box::new(several_files()),
        },
    ]
}

/// A log of one file, and what became of its sectors.
struct Tortured {
    written: Written,
    file: Vec<u8>,
    became: Vec<Became>,
    end: u32,
}

impl Tortured {
    fn new() -> Self {
        let written = one_file(LOG, SEGMENT, GENERATION);
        let file = written.files[&SEGMENT].clone();
        // A spare stands behind it, empty.
        assert!(written.batches.iter().all(|batch| batch.segment == SEGMENT));
        assert_eq!(file.len(), LOG_BYTES);
        let end = (written.batches.last().expect("batches").sectors.1 * SECTOR) as u32;
        Self { written, file, became: vec![Became::Intact; SECTORS], end }
    }

    fn sound(&self, sector: usize) -> &[u8] {
        &self.written.files[&SEGMENT][sector * SECTOR..][..SECTOR]
    }

    /// Puts other bytes into a sector. `older`: they are a sector of the file's earlier life.
    fn put(&mut self, sector: usize, bytes: &[u8], older: bool) {
        let (was_blank, blank) = (is_blank(self.sound(sector)), is_blank(bytes));
        self.became[sector] = match () {
            () if bytes == self.sound(sector) => Became::Intact,
            () if sector > 0 && (blank || older) && was_blank => Became::Intact,
            () if sector > 0 && (blank || older) => Became::Blank,
            () => Became::Bad,
        };
        self.file[sector * SECTOR..][..SECTOR].copy_from_slice(bytes);
    }

    fn mend(&mut self, sector: usize) {
        let sound = self.sound(sector).to_vec();
        self.put(sector, &sound, false);
    }

    /// Scans the first `len` bytes, as after a crash and as after a clean stop, and compares.
    fn judge(&self, len: usize) -> Verdict {
        let end = self.end;
        for closed in [None, Some(end)] {
            let expected = OneFile::expect(&self.written, &self.became, closed);
            let closed = closed.map(|closed| Position::new(LOG, SEGMENT, closed));
            let plan = ScanPlan { closed, ..plan(&self.written.geometry) };
            let mut shown = Vec::new();
            let file = &self.file[..len];
            let report = scan_log(plan, [(SEGMENT, Ok(file))], &mut |record| shown.push(known(record)))
                .map_err(|error| error.to_string())?;
            let found = Found::by_scan(shown, &report);
            if found != expected {
                let sentences: Vec<_> = report.damage.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "closed {closed:?}: {} records, expected {}\n  found    {:?} {:?}\n  expected {:?} {:?}\n  {sentences:?}",
                    found.shown.len(),
                    expected.shown.len(),
                    found.damage,
                    found.torn,
                    expected.damage,
                    expected.torn,
                ));
            }
        }
        Ok(())
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The generation that a sector names; 0 if it is blank.
fn generation(sector: &[u8]) -> u32 {
    u32::from_le_bytes(sector[4..8].try_into().expect("four bytes"))
}

fn known(record: Record<'_>) -> (RecordRef, Known) {
    (record.reference, (record.slot, record.slot_epoch, record.payload.to_vec()))
}

fn truncated(mut log: Tortured) -> impl FnMut(u64) -> Verdict {
    move |case| {
        let len = case as usize;
        // A sector cut in two cannot be verified.
        let left = len / SECTOR;
        log.became.fill(Became::Intact);
        log.became[left..].fill(Became::Gone);
        log.judge(len)
    }
}

fn flipped(mut log: Tortured) -> impl FnMut(u64) -> Verdict {
    move |case| {
        let bit = case as usize;
        let sector = bit / 8 / SECTOR;
        let unwritten = is_blank(log.sound(sector));
        log.file[bit / 8] ^= 1 << (bit % 8);
        // In a sector that was never written most bits make it look like a leftover of an earlier life: no data.
        let leftover = unwritten && generation(&log.file[sector * SECTOR..]) < GENERATION;
        log.became[sector] = if leftover { Became::Intact } else { Became::Bad };
        let verdict = log.judge(LOG_BYTES);
        log.mend(sector);
        verdict
    }
}

/// A write, or a read, of `count` sectors that went to another place of the same file.
fn misdirected(mut log: Tortured, count: usize) -> impl FnMut(u64) -> Verdict {
    let places = SECTORS / count;
    move |case| {
        let (from, to) = (case as usize / places * count, case as usize % places * count);
        for index in 0..count {
            let bytes = log.sound(from + index).to_vec();
            log.put(to + index, &bytes, false);
        }
        let verdict = log.judge(LOG_BYTES);
        (to..to + count).for_each(|sector| log.mend(sector));
        verdict
    }
}

fn swapped(mut log: Tortured) -> impl FnMut(u64) -> Verdict {
    move |case| {
        let (a, b) = (case as usize / SECTORS, case as usize % SECTORS);
        let (first, second) = (log.sound(a).to_vec(), log.sound(b).to_vec());
        log.put(b, &first, false);
        log.put(a, &second, false);
        let verdict = log.judge(LOG_BYTES);
        log.mend(a);
        log.mend(b);
        verdict
    }
}

/// A sector of another log, of another segment of this log, or of the file's life before it was recycled.
fn foreign(mut log: Tortured) -> impl FnMut(u64) -> Verdict {
    let others = [
        one_file(LogId(LOG.0 + 1), SEGMENT, GENERATION).files.remove(&SEGMENT),
        one_file(LOG, SEGMENT + 1, GENERATION).files.remove(&(SEGMENT + 1)),
        one_file(LOG, SEGMENT + 2, GENERATION - 1).files.remove(&(SEGMENT + 2)),
    ];
    let others = others.map(|file| file.expect("written"));
    move |case| {
        let (other, pair) = (case as usize % 3, case as usize / 3);
        let (from, to) = (pair / SECTORS, pair % SECTORS);
        log.put(to, &others[other][from * SECTOR..][..SECTOR], other == 2);
        let verdict = log.judge(LOG_BYTES);
        log.mend(to);
        verdict
    }
}

/// One wound somewhere in a log of four files with a cut in its middle: a flipped bit, or a sector that another, of
/// whichever file, was written over. Exactly the records of that sector are missing, and the report accounts for them.
fn several_files() -> impl FnMut(u64) -> Verdict {
    let written = four_files();
    let mut files = written.files.clone();
    let per_file = SECTORS / 4;
    move |case| {
        let (bit, kind) = ((case / 2) as usize, case % 2);
        let segment = (bit / 8 / SECTOR / per_file) as u32;
        let sector = bit / 8 / SECTOR % per_file;
        let mut bytes = written.files[&segment][sector * SECTOR..][..SECTOR].to_vec();
        let sound = bytes.clone();
        if kind == 0 {
            bytes[bit / 8 % SECTOR] ^= 1 << (bit % 8);
        } else {
            let other = bit % SECTORS;
            let from = &written.files[&((other / per_file) as u32)];
            bytes.copy_from_slice(&from[other % per_file * SECTOR..][..SECTOR]);
        }
        files.get_mut(&segment).expect("there")[sector * SECTOR..][..SECTOR].copy_from_slice(&bytes);
        let unwritten = generation(&bytes) < generation(&written.files[&segment]);
        let wound = Wound { segment, sector, unwritten };
        let verdict = if bytes == sound { Ok(()) } else { wound.judge(&written, &files) };
        files.get_mut(&segment).expect("there")[sector * SECTOR..][..SECTOR].copy_from_slice(&sound);
        verdict
    }
}

/// The only thing that is wrong with a log of several files.
struct Wound {
    segment: u32,
    sector: usize,
    /// What stands there now is blank or of an older generation: at the end of a log without EXTENT it may pass for
    /// never written, the exception that the format states.
    unwritten: bool,
}

impl Wound {
    /// The records that cannot be served, and of these the ones with a name and the number of the others.
    fn lost(&self, written: &Written) -> (Vec<usize>, Vec<usize>, u64) {
        let Some(batch) = self.batch(written) else { return (Vec::new(), Vec::new(), 0) };
        let all = batch.records.0..batch.records.1;
        if batch.sectors.0 == self.sector {
            return (all.collect(), Vec::new(), 0);
        }
        let mut became = vec![Became::Intact; SECTORS];
        became[self.sector] = Became::Bad;
        let (served, named, unknown) = serve(written, batch, &became);
        (all.filter(|index| !served.contains(index)).collect(), named, unknown)
    }

    fn batch<'a>(&self, written: &'a Written) -> Option<&'a Batch> {
        let here = |batch: &&Batch| (batch.sectors.0..batch.sectors.1).contains(&self.sector);
        written.batches.iter().filter(|batch| batch.segment == self.segment).find(here)
    }

    fn judge(&self, written: &Written, files: &BTreeMap<u32, Vec<u8>>) -> Verdict {
        let last = written.batches.last().expect("batches");
        let end = Position::new(LOG, last.segment, (last.sectors.1 * SECTOR) as u32);
        let (lost, named, unknown) = self.lost(written);
        for closed in [None, Some(end)] {
            let plan = ScanPlan { closed, ..plan(&written.geometry) };
            let mut shown = Vec::new();
            let sources = files.iter().map(|(segment, bytes)| (*segment, Ok(bytes)));
            let report = scan_log(plan, sources, &mut |record| shown.push(known(record)))
                .map_err(|error| error.to_string())?;
            let wrong = |what: &str| Err(format!("{}/{}, {what}: {report:?}", self.segment, self.sector));
            let kept = written.entries.iter().enumerate().filter(|(index, _)| !lost.contains(index));
            if !kept
                .map(|(_, entry)| (entry.at, &entry.known))
                .eq(shown.iter().map(|(at, known)| (*at, known)))
            {
                return wrong("other records are served");
            }
            let told = report.damage.iter().flat_map(|damage| &damage.lost).map(|lost| lost.reference);
            if !told.eq(named.iter().map(|index| written.entries[*index].at)) {
                return wrong("other records are named");
            }
            if report.damage.iter().map(|damage| damage.records_unknown).sum::<u64>() != unknown {
                return wrong("other records are counted");
            }
            let at = (self.sector * SECTOR) as u32;
            let covers = |from: u32, to: u32| from <= at && at < to;
            let covered = |damage: &Damage| damage.segment == self.segment && covers(damage.from, damage.to);
            // Whatever was acknowledged is owed a report; marks and headers as well.
            let owed = self.batch(written).is_some() || self.sector == 0;
            let excepted = self.unwritten && closed.is_none() && lost.is_empty();
            if owed && !excepted && !report.damage.iter().any(covered) {
                return wrong("not told");
            }
        }
        Ok(())
    }
}
