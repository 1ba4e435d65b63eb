//! `persist`: a log written by the appender, cut short by crashes, damaged, and scanned.
//!
//! Input: what happens to the log, one step after the other ([`Step`]): records, writes, crashes that keep any of the
//! sectors in flight, and at the end wounds. Random bytes would end at the first checksum; the disk's own freedoms
//! (`docs/LOG_FORMAT.md`) do not. Mode 255 takes the rest as the bytes of one segment file all the same.

// The disk of persist's own tests, so that both mean the same by a crash.
#[path = "../../persist/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use ringdesk_persist::{
    Appender, DamageKind, Geometry, LogReport, META_BYTES, Meta, RecordRef, Tail, UNREADABLE, scan_log,
};
use support::{Disk, Known, LOG, payload, plan, scan, settle};

const STEPS_MAX: usize = 200;
const WOUNDS_MAX: usize = 8;

type Files = BTreeMap<u32, Vec<u8>>;
type Shown = Vec<(RecordRef, Known)>;

/// Whatever happens, only what was written is shown, once and in order. Crashes alone lose nothing that was
/// acknowledged or ever served, and are not called damage. Wounds are reported. A later boot tells the same story.
/// What was cut as torn stays cut while anything that was written after the cut is left to say so.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    if mode == 255 {
        return raw(rest);
    }
    let mut bytes = rest.iter().copied();
    let mut life = Life::new(mode);
    for _ in 0..STEPS_MAX {
        let Some(step) = bytes.next() else { break };
        if step == 255 {
            break;
        }
        life.step(step, &mut bytes);
    }
    life.boot();
    life.wounds(&mut bytes);
}

/// A segment file of any bytes: whatever it is, it shows nothing that was not sealed, and META likewise.
fn raw(bytes: &[u8]) {
    let geometry = geometry(0);
    let mut shown = 0;
    let read = scan_log(plan(&geometry), [(0, Ok(bytes))], &mut |_| shown += 1);
    if let Ok(report) = read {
        assert_eq!(report.records, shown);
        sane(&report);
    }
    if let Ok(meta) = Meta::decode(bytes) {
        assert_eq!(meta.encode()[..], bytes[..META_BYTES]);
    }
}

fn geometry(mode: u8) -> Geometry {
    Geometry {
        segment_bytes: if mode & 1 == 0 { 8 << 10 } else { 16 << 10 },
        align: if mode & 2 == 0 { 512 } else { 4_096 },
        batch_bytes_max: 4 << 10,
        fill_step_bytes: 4 << 10,
        fill_ahead_bytes: if mode & 4 == 0 { 0 } else { 8 << 10 },
        staged_bytes_max: 16 << 10,
        ..Geometry::new(LOG)
    }
}

/// What holds of every report.
fn sane(report: &LogReport) {
    for damage in &report.damage {
        assert!(damage.from <= damage.to, "{damage:?}");
        assert!(!damage.to_string().is_empty());
    }
    assert!(report.damage.is_sorted_by_key(|damage| (damage.segment, damage.from)));
    if let Some(torn) = report.torn {
        assert!(torn.from <= torn.to, "{torn:?}");
    }
}

/// Records that a boot did not find: never acknowledged, and nobody was shown them.
struct Cut {
    /// Records that the boot served.
    after: usize,
    records: Vec<Known>,
}

/// A log over several boots.
struct Life {
    geometry: Geometry,
    disk: Disk,
    appender: Appender,
    now_ns: u64,
    /// Records of this boot, as staged: index is LSN less one.
    staged: Vec<Known>,
    /// What the last boot served.
    served: Shown,
    /// What became durable since.
    acked: Shown,
    /// What each crash cut.
    cuts: Vec<Cut>,
    number: u64,
}

impl Life {
    fn new(mode: u8) -> Self {
        let geometry = geometry(mode);
        Self {
            geometry,
            disk: Disk::default(),
            appender: Appender::new(geometry, Tail::fresh(LOG)),
            now_ns: 0,
            staged: Vec::new(),
            served: Vec::new(),
            acked: Vec::new(),
            cuts: Vec::new(),
            number: 0,
        }
    }

    fn step(&mut self, step: u8, bytes: &mut dyn Iterator<Item = u8>) {
        let mut next = || bytes.next().unwrap_or(0);
        match step % 8 {
            0..=2 => {
                let length = usize::from(next()) * [1, 8, 16][usize::from(step % 8)];
                self.stage(length);
            }
            3 => self.poll(),
            4 => self.complete(usize::from(next())),
            5 => {
                self.poll();
                while !self.disk.pending.is_empty() {
                    self.complete(0);
                }
            }
            6 => self.settle(),
            _ => self.crash(&mut next),
        }
    }

    fn stage(&mut self, length: usize) {
        self.number += 1;
        let known = ((self.number % 7) as u16, 5, payload(self.number, length));
        if self.appender.stage(known.0, known.1, &known.2).is_ok() {
            self.staged.push(known);
        }
    }

    fn poll(&mut self) {
        self.appender.poll(self.now_ns, 0, &mut self.disk.pending);
    }

    fn complete(&mut self, index: usize) {
        if self.disk.pending.is_empty() {
            return;
        }
        let index = index % self.disk.pending.len();
        let done = self.disk.perform(index);
        let flushed = self.appender.complete(done).expect("the disk is good");
        self.note(flushed.records);
    }

    fn note(&mut self, records: Vec<(ringdesk_persist::Lsn, RecordRef)>) {
        let known = |(lsn, at): (ringdesk_persist::Lsn, _)| (at, self.staged[lsn.0 as usize - 1].clone());
        self.acked.extend(records.into_iter().map(known));
    }

    fn settle(&mut self) {
        let flushed = settle(&mut self.appender, &mut self.disk, &mut self.now_ns);
        // settle completes what was pending before it polled as well, so nothing is left out.
        for flushed in flushed {
            self.note(flushed.records);
        }
    }

    fn crash(&mut self, next: &mut dyn FnMut() -> u8) {
        let (mut bits, mut left) = (0, 0);
        let mut keep = || {
            if left == 0 {
                (bits, left) = (next(), 8);
            }
            left -= 1;
            bits >> left & 1 == 1
        };
        self.disk.crash(&mut keep);
        self.boot();
    }

    /// The process ends and starts again: what was acknowledged or served is there, and at most what was staged.
    fn boot(&mut self) {
        self.disk.pending.clear();
        let (shown, report) = scan(&self.disk.files, &self.geometry);
        sane(&report);
        assert_eq!(report.damage, Vec::new(), "a crash is not damage");
        assert_eq!(report.records as usize, shown.len());
        let known = [&self.served[..], &self.acked[..]].concat();
        assert!(shown.starts_with(&known), "{} of {} records came back", shown.len(), known.len());
        let more: Vec<_> = shown[known.len()..].iter().map(|(_, known)| known).collect();
        let unacked = self.staged[self.acked.len()..].iter().collect::<Vec<_>>();
        assert!(unacked.starts_with(&more), "records that were never written");
        let cut = unacked[more.len()..].iter().map(|&known| known.clone()).collect();
        self.cuts.push(Cut { after: shown.len(), records: cut });
        self.appender = Appender::new(self.geometry, report.tail);
        (self.served, self.acked, self.staged) = (shown, Vec::new(), Vec::new());
    }

    /// The disk breaks its promises; then one more boot, a record, and a last boot.
    fn wounds(&mut self, bytes: &mut dyn Iterator<Item = u8>) {
        let whole = self.disk.files.clone();
        for _ in 0..WOUNDS_MAX {
            let Some(kind) = bytes.next() else { break };
            wound(&mut self.disk.files, kind, &mut || bytes.next().unwrap_or(0));
        }
        if self.disk.files == whole {
            return;
        }
        let (shown, report) = scan(&self.disk.files, &self.geometry);
        sane(&report);
        let owed = !passes_for_unwritten(&whole, &self.disk.files);
        let again = honest(&self.served, &shown, owed.then_some(&report));
        if !again.is_empty() {
            self.brought_back(shown.len() - again.len(), again, &report);
        }
        self.story_goes_on(&shown, &report);
    }

    /// The last batch, torn and cut at a boot, whose missing sectors were damaged since: it cannot be told from one
    /// that was acknowledged, and what is whole of it is served beside the report. But only as the end of the log, and
    /// only if nothing that was written after the cut is left: that may have taken its place.
    fn brought_back(&self, kept: usize, again: &[(RecordRef, Known)], report: &LogReport) {
        let segment = again[0].0.position.segment();
        let cut = self.cuts.iter().find(|cut| cut.records.contains(&again[0].1)).expect("it was written");
        let mut records = cut.records.iter();
        assert!(again.iter().all(|(_, known)| records.any(|cut| cut == known)), "a record of elsewhere");
        assert!(kept <= cut.after, "records that were written after the cut, and then what was cut");
        assert!(
            report.damage.iter().any(|damage| damage.kind == DamageKind::Batch && damage.segment == segment),
            "cut records passed for sound ones: {report:?}"
        );
        let later = self.disk.files.range(segment + 1..);
        for (segment, file) in later {
            assert!(
                file.len() == self.geometry.segment_bytes as usize
                    && file.chunks_exact(512).skip(1).all(|sector| unwritten(sector, generation(file))),
                "cut records came back although segment {segment} may have replaced them"
            );
        }
    }

    fn story_goes_on(&mut self, shown: &Shown, report: &LogReport) {
        let mut appender = Appender::new(self.geometry, report.tail.clone());
        appender.stage(9, 9, b"after").expect("room");
        settle(&mut appender, &mut self.disk, &mut self.now_ns);
        let (again, second) = scan(&self.disk.files, &self.geometry);
        assert_eq!(again[..shown.len()], shown[..], "records served once are served again");
        assert_eq!(again.len(), shown.len() + 1, "and the new one: {second:?}");
        assert_eq!(second.torn, None, "what was cut stays cut");
    }
}

/// The generation that a sector names; 0 if it is blank.
fn generation(sector: &[u8]) -> u32 {
    u32::from_le_bytes(sector[4..8].try_into().expect("four bytes"))
}

/// As a segment of this generation sees it: blank, or left over from an earlier life of the file.
fn unwritten(sector: &[u8], own: u32) -> bool {
    generation(sector) < own
}

/// Whether a written sector looks as if it had never been, or the last file is gone: that may pass for something that
/// never happened, the exception that the format states.
fn passes_for_unwritten(whole: &Files, files: &Files) -> bool {
    let lost = |(segment, file): (&u32, &Vec<u8>)| {
        let own = generation(&whole[segment]);
        let sectors = whole[segment].chunks_exact(512).zip(file.chunks_exact(512)).skip(1);
        sectors.into_iter().any(|(was, is)| !unwritten(was, own) && unwritten(is, own))
    };
    files.keys().last() < whole.keys().last() || files.iter().any(lost)
}

/// Does one thing to one file.
fn wound(files: &mut Files, kind: u8, next: &mut dyn FnMut() -> u8) {
    let mut pick = |files: &Files| {
        let segment = *files.keys().nth(usize::from(next()) % files.len().max(1))?;
        let sectors = files[&segment].len() / 512;
        (sectors > 0).then(|| (segment, usize::from(next()) % sectors * 512))
    };
    let Some((segment, at)) = pick(files) else { return };
    if let kind @ (7 | 8) = kind % 9 {
        // Written to, or read from, the wrong file or place; or two writes that took each other's.
        let Some((other, from)) = pick(files) else { return };
        let was = files[&segment][at..at + 512].to_vec();
        let came = files[&other][from..from + 512].to_vec();
        files.get_mut(&segment).expect("picked")[at..at + 512].copy_from_slice(&came);
        if kind == 7 {
            files.get_mut(&other).expect("picked")[from..from + 512].copy_from_slice(&was);
        }
        return;
    }
    let file = files.get_mut(&segment).expect("picked");
    match kind % 9 {
        0 | 1 => {
            let byte = at + usize::from(u16::from_le_bytes([next(), next()])) % 512;
            file[byte] ^= 1 << (next() % 8);
        }
        2 => file[at..at + 512].copy_from_slice(&UNREADABLE),
        3 => file[at..at + 512].fill(0),
        4 => {
            let from = usize::from(next()) % (file.len() / 512) * 512;
            file.copy_within(from..from + 512, at);
        }
        5 => file.truncate(at + usize::from(next())),
        _ => drop(files.remove(&segment)),
    }
}

/// Only what was written is shown, once, in order. With a report that owes an account of every record, each one not
/// shown is named, counted as unknown, or lies in a reported range.
/// What is shown behind them is given back: only what a boot had cut may stand there.
fn honest<'a>(written: &Shown, shown: &'a Shown, report: Option<&LogReport>) -> &'a [(RecordRef, Known)] {
    let mut rest = &shown[..];
    let mut missing = Vec::new();
    for record in written {
        if rest.first() == Some(record) {
            rest = &rest[1..];
        } else {
            missing.push(record.0);
        }
    }
    let Some(report) = report else { return rest };
    let unknown: u64 = report.damage.iter().map(|damage| damage.records_unknown).sum();
    let accounted = |at: &RecordRef| {
        let (segment, offset) = (at.position.segment(), at.position.offset());
        report.damage.iter().any(|damage| {
            damage.lost.iter().any(|lost| lost.reference == *at)
                || damage.segment == segment && damage.from <= offset && offset < damage.to
                || matches!(damage.kind, DamageKind::Missing { files } if (damage.segment..damage.segment + files).contains(&segment))
        })
    };
    let uncounted = missing.iter().filter(|at| !accounted(at)).count();
    assert!(uncounted as u64 <= unknown, "{uncounted} records vanished without a report: {report:?}");
    rest
}
