//! Replay beside a process that still writes the logs: the same state, in steps, without writing anything.
//!
//! Order: [`Followers::new`] reads what moved between logs, [`Followers::advance`] what each log holds by then, again and
//! again; when the writer stands still, [`Followers::finish`] reads the rest and compares where the logs end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ringdesk_desk::ids::Slot;
use ringdesk_persist::{Follower, LogId, Position, Record, ScanPlan, Source, log_directory, segment_file};
use ringdesk_shard::Replay;
use ringdesk_shard::router::Router;

use super::error::BootError;
use super::extents;
use super::replay::{Plan, Replayed, Shown, segments};

/// The segment files of one log.
struct Files<'a> {
    data: &'a Path,
    log: LogId,
    open: Option<(u32, File)>,
    content: Vec<u8>,
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(5)
}

impl Files<'_> {
    fn file(&mut self, segment: u32) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            self.open = Some((segment, File::open(self.data.join(segment_file(self.log, segment)))?));
        }
        Ok(&self.open.as_ref().expect("just opened").1)
    }

    fn load(&mut self, segment: u32, from: u32, len: usize) -> io::Result<u64> {
        let whole = self.file(segment)?.metadata()?.len();
        let rest = usize::try_from(whole.saturating_sub(from.into())).unwrap_or(usize::MAX);
        let mut content = std::mem::take(&mut self.content);
        content.resize(len.min(rest), 0);
        let read = self.file(segment)?.read_exact_at(&mut content, from.into());
        self.content = content;
        read.map(|()| whole)
    }
}

impl Source for Files<'_> {
    fn segments(&mut self) -> Result<Vec<u32>, i32> {
        segments(self.data, self.log).map_err(|error| errno(&error))
    }

    fn read(&mut self, segment: u32, from: u32, len: usize) -> Result<(&[u8], u64), i32> {
        let whole = self.load(segment, from, len).map_err(|error| errno(&error))?;
        Ok((&self.content, whole))
    }
}

/// One log and the state of its shard so far.
struct Followed<'a> {
    follower: Follower,
    files: Files<'a>,
    shown: Shown,
    replay: Replay,
}

/// All shards' logs.
pub struct Followers<'a> {
    plan: Plan<'a>,
    followed: Vec<Followed<'a>>,
}

fn failed(log: LogId) -> impl Fn(ringdesk_persist::FollowError) -> BootError {
    move |error| BootError::Replay(format!("log {}: {error}", log.0))
}

/// Everything of one log that is whole by now; `visit` is shown it when nothing before it is damaged. Gives the bytes.
fn read_on(
    follower: &mut Follower,
    files: &mut Files<'_>,
    shown: &mut Shown,
    visit: &mut dyn FnMut(&Record<'_>) -> Result<(), BootError>,
) -> Result<u64, BootError> {
    let mut bytes = 0;
    loop {
        let progress =
            follower.advance(files, &mut |record| shown.keep(&record)).map_err(failed(files.log))?;
        if follower.is_damaged() {
            let sentence = "the log is damaged; the running server was left alone (ringdesk log verify)";
            return Err(BootError::Replay(format!("log {}: {sentence}", files.log.0)));
        }
        shown.hand_over(true, visit)?;
        bytes += progress.bytes;
        if !progress.more {
            return Ok(bytes);
        }
    }
}

impl<'a> Followers<'a> {
    /// Reads what lies in other logs than its shard's own, if anything does.
    ///
    /// # Errors
    /// [`BootError::Replay`] and [`BootError::Folder`], as in a replay.
    pub fn new(plan: Plan<'a>) -> Result<Self, BootError> {
        let mut replays: Vec<Replay> = plan.shards.iter().cloned().map(Replay::new).collect();
        if !plan.nothing_moved {
            let router = plan.shards[0].router.clone();
            for log in (0..plan.logs).map(LogId) {
                let (mut follower, mut files) = start(&plan, log)?;
                read_on(&mut follower, &mut files, &mut Shown::default(), &mut |record| {
                    let slot = Slot(record.slot);
                    if !Router::is_slot(slot) || router.owner(slot) == log.0 {
                        return Ok(());
                    }
                    let owner = &mut replays[usize::from(router.owner(slot))];
                    owner.record(record).map_err(|error| BootError::Replay(error.to_string()))
                })?;
                replays.iter_mut().for_each(|replay| replay.generations(follower.generations()));
            }
        }
        let mut followed = Vec::with_capacity(replays.len());
        for (replay, log) in replays.into_iter().zip((0..).map(LogId)) {
            let (follower, files) = start(&plan, log)?;
            followed.push(Followed { follower, files, shown: Shown::default(), replay });
        }
        Ok(Self { plan, followed })
    }

    /// Reads what is whole by now. Gives the number of bytes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn advance(&mut self) -> Result<u64, BootError> {
        let outcomes: Vec<Result<u64, BootError>> = std::thread::scope(|scope| {
            let advance = |followed: &'_ mut Followed<'a>| {
                let Followed { follower, files, shown, replay } = followed;
                read_on(follower, files, shown, &mut |record| {
                    replay.record(record).map_err(|error| BootError::Replay(error.to_string()))
                })
            };
            let threads: Vec<_> =
                self.followed.iter_mut().map(|followed| scope.spawn(move || advance(followed))).collect();
            threads.into_iter().map(|thread| thread.join().expect("replay panics end the process")).collect()
        });
        outcomes.into_iter().sum()
    }

    /// Records replayed so far.
    pub fn records(&self) -> u64 {
        self.followed.iter().map(|followed| followed.replay.records()).sum()
    }

    /// Reads the rest of logs whose writer stands still and ended them at `ends`, by shard.
    ///
    /// # Errors
    /// As [`Self::new`], and [`BootError::Replay`] when a log does not end where it should.
    pub fn finish(mut self, ends: &[Position]) -> Result<Vec<Replayed>, BootError> {
        self.advance()?;
        let mut replayed = Vec::with_capacity(self.followed.len());
        for (followed, end) in self.followed.into_iter().zip(ends) {
            let Followed { follower, mut files, mut shown, mut replay } = followed;
            let log = files.log;
            let extent = extents::read(self.plan.data, log, true, self.plan.boots)?;
            let report = follower
                .finish(&mut files, *end, extent.as_ref(), &mut |record| shown.keep(&record))
                .map_err(failed(log))?;
            if let Some(damage) = report.damage.first() {
                return Err(BootError::Replay(format!("log {}: {damage}", log.0)));
            }
            shown.hand_over(true, &mut |record| {
                replay.record(record).map_err(|error| BootError::Replay(error.to_string()))
            })?;
            replay.generations(&report.tail.generations);
            replayed.push(Replayed { replay, report });
        }
        Ok(replayed)
    }
}

fn start<'a>(plan: &Plan<'a>, log: LogId) -> Result<(Follower, Files<'a>), BootError> {
    let folder = plan.data.join(log_directory(log));
    let found = segments(plan.data, log).map_err(BootError::folder(&folder, "the log cannot be listed"))?;
    let extent = extents::read(plan.data, log, !found.is_empty(), plan.boots)?;
    let follower = Follower::new(ScanPlan::new(log, plan.segment_bytes, extent.as_ref()));
    Ok((follower, Files { data: plan.data, log, open: None, content: Vec::new() }))
}
