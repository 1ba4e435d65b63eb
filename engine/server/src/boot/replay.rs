//! Replay: every log folder is read, each record goes to the shard that owns its slot now.
//!
//! A slot's order is (slot epoch, position); `ringdesk_shard::Replay` keeps it if the logs of others are shown before a
//! shard's own. So there are two passes: one over all logs for records that moved, skipped when the number of shards
//! never changed, and one over each shard's own log. Each log is read by one thread, one segment in memory at a time.
//! Afterwards every file and folder is synced: a killed process may have left bytes in the disk's cache that nobody may
//! be told of yet (C1).

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringdesk_desk::ids::Slot;
use ringdesk_persist::{
    Damage, LogId, LogReport, Record, RecordRef, ScanPlan, SegmentScan, log_directory, segment_file,
};
use ringdesk_shard::router::Router;
use ringdesk_shard::{OwnerConfig, Replay};

use super::damage::DamageReport;
use super::error::BootError;
use super::extents;
use crate::say;

/// What is read.
pub struct Plan<'a> {
    /// The data folder.
    pub data: &'a Path,
    /// Logs that exist: 0 to this number, less one.
    pub logs: u16,
    /// Starts of this folder before this one.
    pub boots: u32,
    /// Configured length of a segment.
    pub segment_bytes: u32,
    /// One per shard now, by number.
    pub shards: Vec<OwnerConfig>,
    /// Whether no record can lie in another log than its shard's own.
    pub nothing_moved: bool,
}

/// A replayed shard and where its log goes on.
pub struct Replayed {
    /// The shard's state so far.
    pub replay: Replay,
    /// What the scan of its own log found.
    pub report: LogReport,
}

/// A record that lies in another log than its shard's own.
struct Moved {
    to: u16,
    reference: RecordRef,
    slot: u16,
    slot_epoch: u32,
    payload: Vec<u8>,
}

#[derive(Default)]
struct Progress {
    bytes: AtomicU64,
    records: AtomicU64,
    total: AtomicU64,
    done: AtomicBool,
}

/// Segment numbers of a log, ascending. Files of other names are not ours and are left alone.
pub fn segments(data: &Path, log: LogId) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data.join(log_directory(log)))? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg")).filter(|stem| stem.len() == 8);
        found.extend(number.and_then(|stem| stem.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads all logs. Says a line each second on standard error when it takes longer. [`sync_all`] follows.
pub fn replay(plan: Plan<'_>) -> Result<Vec<Replayed>, BootError> {
    let began = Instant::now();
    let progress = Progress::default();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| tell_progress(&progress));
        let outcome = replay_passes(&plan, &progress);
        progress.done.store(true, Ordering::Release);
        outcome
    });
    let replayed = outcome?;
    let records: u64 = replayed.iter().map(|shard| shard.replay.records()).sum();
    if records > 0 {
        let ms = began.elapsed().as_millis();
        say!(Info, "replayed {records} records of {} logs in {ms} ms", plan.logs);
    }
    Ok(replayed)
}

fn tell_progress(progress: &Progress) {
    let mut told = Instant::now();
    while !progress.done.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(5));
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            let mib = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed) >> 20;
            let records = progress.records.load(Ordering::Relaxed);
            say!(Info, "replay: {} of {} MiB, {records} records", mib(&progress.bytes), mib(&progress.total));
        }
    }
}

fn replay_passes(plan: &Plan<'_>, progress: &Progress) -> Result<Vec<Replayed>, BootError> {
    let own = u16::try_from(plan.shards.len()).expect("at most 1024 shards");
    let mut replays: Vec<Replay> = plan.shards.iter().cloned().map(Replay::new).collect();
    let mut damage = Vec::new();
    if !plan.nothing_moved {
        let router = plan.shards[0].router.clone();
        let reports = collect_moved(plan, &router, &mut replays, progress)?;
        for report in &reports {
            damage.extend(report.damage.iter().cloned());
            for replay in &mut replays {
                replay.generations(&report.tail.generations);
            }
        }
        fail_if_damaged(plan, &mut damage)?;
    }
    let outcomes: Vec<Result<Replayed, BootError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = replays
            .into_iter()
            .zip(0..own)
            .map(|(replay, log)| scope.spawn(move || replay_own(plan, LogId(log), replay, progress)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("replay panics end the process")).collect()
    });
    let mut replayed = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        let shard = outcome?;
        damage.extend(shard.report.damage.iter().cloned());
        replayed.push(shard);
    }
    fail_if_damaged(plan, &mut damage)?;
    Ok(replayed)
}

fn fail_if_damaged(plan: &Plan<'_>, damage: &mut Vec<Damage>) -> Result<(), BootError> {
    if damage.is_empty() {
        return Ok(());
    }
    Err(BootError::Damaged(DamageReport::survey(plan, std::mem::take(damage))))
}

/// First pass: one thread reads each log and sends on what belongs to the shard of another; this thread hands it over.
fn collect_moved(
    plan: &Plan<'_>,
    router: &Router,
    replays: &mut [Replay],
    progress: &Progress,
) -> Result<Vec<LogReport>, BootError> {
    // Bounded: the readers wait for this thread, so memory holds what moved and no more.
    let (send, receive) = mpsc::sync_channel::<Moved>(1024);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.logs)
            .map(|log| {
                let send = send.clone();
                scope.spawn(move || {
                    scan(plan, LogId(log), progress, &mut |record| {
                        let (slot, slot_epoch) = (record.slot, record.slot_epoch);
                        if !Router::is_slot(Slot(slot)) || router.owner(Slot(slot)) == log {
                            return Ok(());
                        }
                        let (reference, payload) = (record.reference, record.payload.to_vec());
                        let to = router.owner(Slot(slot));
                        // The receiver is gone after an error; that error is the one to tell.
                        let _ = send.send(Moved { to, reference, slot, slot_epoch, payload });
                        Ok(())
                    })
                })
            })
            .collect();
        drop(send);
        let mut failure = None;
        for moved in receive {
            let Moved { reference, slot, slot_epoch, payload, .. } = &moved;
            let record = Record { reference: *reference, slot: *slot, slot_epoch: *slot_epoch, payload };
            if let Err(error) = replays[usize::from(moved.to)].record(&record) {
                failure.get_or_insert(BootError::Replay(error.to_string()));
            }
        }
        let reports: Result<Vec<_>, _> =
            threads.into_iter().map(|thread| thread.join().expect("replay panics end the process")).collect();
        match failure {
            Some(error) => Err(error),
            None => reports,
        }
    })
}

/// Second pass, of one shard.
fn replay_own(
    plan: &Plan<'_>,
    log: LogId,
    mut replay: Replay,
    progress: &Progress,
) -> Result<Replayed, BootError> {
    let router = plan.shards[usize::from(log.0)].router.clone();
    let report = scan(plan, log, progress, &mut |record| {
        if plan.nothing_moved
            && Router::is_slot(Slot(record.slot))
            && router.owner(Slot(record.slot)) != log.0
        {
            let sentence =
                "the file LAYOUTS says that no slot ever moved, but one did; remove it and start again";
            return Err(BootError::Replay(sentence.to_string()));
        }
        replay.record(record).map_err(|error| BootError::Replay(error.to_string()))
    })?;
    replay.generations(&report.tail.generations);
    if let Some(torn) = report.torn {
        say!(
            Info,
            "log {}: the write that the last stop interrupted was cut, {} to {}",
            log.0,
            torn.from,
            torn.to
        );
    }
    Ok(Replayed { replay, report })
}

fn scan(
    plan: &Plan<'_>,
    log: LogId,
    progress: &Progress,
    visit: &mut dyn FnMut(&Record<'_>) -> Result<(), BootError>,
) -> Result<LogReport, BootError> {
    let (mut scan, files) = open(plan, log)?;
    let bytes: u64 =
        files.iter().filter_map(|(_, path)| fs::metadata(path).ok()).map(|found| found.len()).sum();
    progress.total.fetch_add(bytes, Ordering::Relaxed);
    let mut content = Vec::new();
    let mut shown = Shown::default();
    for (number, path) in &files {
        scan_file(&mut scan, (log, *number), path, &mut content, &mut |record| shown.keep(&record))?;
        shown.hand_over(scan.damage().is_empty(), visit)?;
        progress.bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
        progress.records.fetch_add(shown.handed_over, Ordering::Relaxed);
    }
    let report = scan.finish(&mut |record| shown.keep(&record));
    shown.hand_over(report.damage.is_empty(), visit)?;
    Ok(report)
}

/// Shows every record of a log that reads, damaged or not.
pub fn scan_each(plan: &Plan<'_>, log: LogId, visit: &mut dyn FnMut(Record<'_>)) -> Result<(), BootError> {
    let (mut scan, files) = open(plan, log)?;
    let mut content = Vec::new();
    for (number, path) in &files {
        scan_file(&mut scan, (log, *number), path, &mut content, visit)?;
    }
    drop(scan.finish(visit));
    Ok(())
}

/// A scan of a log that has seen nothing, and the segment files it is to be shown.
fn open(plan: &Plan<'_>, log: LogId) -> Result<(SegmentScan, Vec<(u32, PathBuf)>), BootError> {
    let folder = plan.data.join(log_directory(log));
    let numbers = segments(plan.data, log).map_err(BootError::folder(&folder, "the log cannot be listed"))?;
    let extent = extents::read(plan.data, log, !numbers.is_empty(), plan.boots)?;
    let path = |number| plan.data.join(segment_file(log, number));
    let files = numbers.into_iter().map(|number| (number, path(number))).collect();
    Ok((SegmentScan::new(ScanPlan::new(log, plan.segment_bytes, extent.as_ref())), files))
}

fn scan_file(
    scan: &mut SegmentScan,
    (log, segment): (LogId, u32),
    path: &Path,
    content: &mut Vec<u8>,
    visit: &mut dyn FnMut(Record<'_>),
) -> Result<(), BootError> {
    let read = read_whole(path, content).map_err(|error| error.raw_os_error().unwrap_or(5));
    scan.segment(segment, read.map(|()| content.as_slice()), visit)
        .map_err(|error| BootError::Replay(format!("log {}: {error}", log.0)))
}

/// The records of one segment, kept until it is known that nothing before them is damaged: what follows a hole does
/// not fit the state before it, and the shard would rightly call that a broken invariant.
#[derive(Default)]
pub(super) struct Shown {
    heads: Vec<(RecordRef, u16, u32, Range<usize>)>,
    payloads: Vec<u8>,
    handed_over: u64,
}

impl Shown {
    pub(super) fn keep(&mut self, record: &Record<'_>) {
        let from = self.payloads.len();
        self.payloads.extend_from_slice(record.payload);
        self.heads.push((record.reference, record.slot, record.slot_epoch, from..self.payloads.len()));
    }

    pub(super) fn hand_over(
        &mut self,
        undamaged: bool,
        visit: &mut dyn FnMut(&Record<'_>) -> Result<(), BootError>,
    ) -> Result<(), BootError> {
        self.handed_over = 0;
        for (reference, slot, slot_epoch, range) in self.heads.drain(..) {
            if undamaged {
                visit(&Record { reference, slot, slot_epoch, payload: &self.payloads[range] })?;
                self.handed_over += 1;
            }
        }
        self.payloads.clear();
        Ok(())
    }
}

fn read_whole(path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    File::open(path)?.read_to_end(into).map(|_| ())
}

/// Puts everything that replay believed onto the disk, or fails.
/// Afterwards the notes count every segment, and no log that a shard appends to is noted as closed.
pub fn sync_all(data: &Path, logs: u16, shards: usize) -> Result<(), BootError> {
    for log in 0..logs {
        let folder = data.join(log_directory(LogId(log)));
        let numbers =
            segments(data, LogId(log)).map_err(BootError::folder(&folder, "the log cannot be listed"))?;
        for &number in &numbers {
            let path = data.join(segment_file(LogId(log), number));
            File::open(&path)
                .and_then(|file| file.sync_data())
                .map_err(BootError::folder(&path, "the log cannot be synced"))?;
        }
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(BootError::folder(&folder, "the log folder cannot be synced"))?;
        extents::begin(data, LogId(log), numbers.last().copied(), usize::from(log) < shards)?;
    }
    let folder = data.join("log");
    File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(BootError::folder(&folder, "the log folder cannot be synced"))
}
