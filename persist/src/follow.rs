//! Reading a log that another process is writing.
//!
//! The writer has one write in flight, and what it has in flight looks torn or damaged from outside. So a follower takes
//! only batches that are whole and name their predecessor, and looks at the rest again later; a segment is closed, with
//! all rules of a scan, once a later one holds a batch, because nothing is written to it any more. When the writer stands
//! still and says where its log ends, [`Follower::finish`] compares and gives what a scan at boot would give.
//!
//! Order: [`Follower::advance`] again and again, then once more after the writer stands still, then `finish`. Reads
//! nothing itself: [`Source`] gives the bytes. Writes nothing, ever.

use std::fmt;

use crate::report::{DamageKind, LogReport};
use crate::scan::{File, Opened, ScanError, ScanPlan, SegmentScan};
use crate::sector::{self, Role, SECTOR_BYTES, Sector};
use crate::segment::SegmentHead;
use crate::{Extent, Generations, Position, Record};

/// Longest batch there may be ([`crate::Geometry::check`]).
const BATCH_BYTES_MAX: usize = 16 << 20;

/// Most bytes read at once, so that in the end a batch is never longer than what was read.
const FOLLOW_BYTES: usize = 2 * BATCH_BYTES_MAX;

/// Bytes read at first: where nothing is new, no more is read.
const FIRST_BYTES: usize = 256 << 10;

/// Sectors of a file's beginning in which its first batch starts: the header takes one aligned block, of 4096 bytes at
/// most.
const FIRST_SECTORS: usize = 9;

/// Where a follower's bytes come from.
pub trait Source {
    /// Numbers of the segment files there are, ascending.
    ///
    /// # Errors
    /// errno.
    fn segments(&mut self) -> Result<Vec<u32>, i32>;

    /// At most `len` bytes of a file from `from` on, and the length of the whole file.
    ///
    /// # Errors
    /// errno.
    fn read(&mut self, segment: u32, from: u32, len: usize) -> Result<(&[u8], u64), i32>;
}

/// Why a log cannot be followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FollowError {
    /// errno of reading a segment, or of listing them.
    Unreadable(Option<u32>, i32),
    /// As in a scan.
    Scan(ScanError),
    /// The writer said that its log ends at the second position; what can be read ends at the first.
    Elsewhere(Position, Position),
}

impl fmt::Display for FollowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(Some(segment), errno) => {
                write!(f, "segment {segment} cannot be read (errno {errno})")
            }
            Self::Unreadable(None, errno) => write!(f, "the segments cannot be listed (errno {errno})"),
            Self::Scan(error) => write!(f, "{error}"),
            Self::Elsewhere(found, told) => {
                write!(f, "it can be read up to {found}, but its writer ended it at {told}")
            }
        }
    }
}

impl std::error::Error for FollowError {}

impl From<ScanError> for FollowError {
    fn from(error: ScanError) -> Self {
        Self::Scan(error)
    }
}

/// What an advance came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes taken.
    pub bytes: u64,
    /// A segment is finished and the next one is there.
    pub more: bool,
}

/// A log that is followed.
pub struct Follower {
    scan: SegmentScan,
    /// The file that holds the newest batch taken, or the first; and up to where it was taken.
    at: Option<(Opened, u32)>,
    log: crate::LogId,
}

impl Follower {
    /// Nothing read yet.
    #[must_use]
    pub fn new(plan: ScanPlan) -> Self {
        // The end noted at the last clean stop says nothing of a log that is written again.
        let plan = ScanPlan { closed: None, ..plan };
        Self { scan: SegmentScan::new(plan), at: None, log: plan.log }
    }

    /// Whether damage was found, which no writer in the middle of its work explains.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.scan.damage().is_empty()
    }

    /// The end of the newest batch that was taken.
    #[must_use]
    pub fn end(&self) -> Position {
        self.scan.end()
    }

    /// Generations of the segments seen so far.
    #[must_use]
    pub fn generations(&self) -> &Generations {
        self.scan.generations()
    }

    /// Takes what is whole by now and was not taken before, of one segment.
    ///
    /// # Errors
    /// See [`FollowError`]. Damage is none: see [`Self::is_damaged`].
    pub fn advance(
        &mut self,
        source: &mut dyn Source,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<Progress, FollowError> {
        let numbers = source.segments().map_err(|errno| FollowError::Unreadable(None, errno))?;
        for (index, &segment) in numbers.iter().enumerate() {
            let open = self.at.is_some_and(|(opened, _)| opened.segment == segment);
            if segment < self.scan.expected() && !open {
                continue;
            }
            // Looked at before this file is read: then nothing is missed of what was written to it.
            let mut last = true;
            for later in &numbers[index + 1..] {
                last &= !self.holds_batch(source, *later)?;
            }
            let bytes = if last {
                self.take_whole(source, segment, visit)?
            } else {
                self.take_all(source, segment, visit)?
            };
            return Ok(Progress { bytes, more: !last });
        }
        Ok(Progress { bytes: 0, more: false })
    }

    fn holds_batch(&self, source: &mut dyn Source, segment: u32) -> Result<bool, FollowError> {
        let (bytes, _) = read(source, segment, 0, FIRST_SECTORS * SECTOR_BYTES)?;
        let Some(head) = SegmentHead::decode(self.log, segment, bytes) else { return Ok(false) };
        let is_head = |(index, sector): (usize, &[u8])| {
            let position = Position::new(self.log, segment, (index * SECTOR_BYTES) as u32);
            sector::classify(sector, head.generation, position) == Sector::Good(Role::Head)
        };
        Ok(bytes.chunks_exact(SECTOR_BYTES).enumerate().skip(1).any(is_head))
    }

    /// Opens a file that comes next, or goes on with the one that is open. None: nothing in it can be believed.
    fn open(&mut self, source: &mut dyn Source, segment: u32) -> Result<Option<(Opened, u32)>, FollowError> {
        if let Some(at) = self.at {
            return Ok(Some(at));
        }
        let (bytes, len) = read(source, segment, 0, SECTOR_BYTES)?;
        self.scan.arrive(segment)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let opened = self.scan.open(segment, bytes, len)?;
        self.at = opened.map(|opened| (opened, SECTOR_BYTES as u32));
        Ok(self.at)
    }

    fn take_whole(
        &mut self,
        source: &mut dyn Source,
        segment: u32,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<u64, FollowError> {
        let Some((opened, began)) = self.open(source, segment)? else { return Ok(0) };
        let (mut at, mut len) = (began, FIRST_BYTES);
        loop {
            let (bytes, _) = read(source, segment, at, len)?;
            let bytes = &bytes[..bytes.len() / SECTOR_BYTES * SECTOR_BYTES];
            let next = self.scan.walk_whole(&File { opened, bytes, from: at }, at, visit);
            self.at = Some((opened, next));
            // What was read ended in the middle of a batch, perhaps; otherwise the log ended there when it was read. What
            // was written since is for the next time: under load there is always something.
            let rest = &bytes[(next - at) as usize..];
            let first = &rest[..rest.len().min(FIRST_SECTORS * SECTOR_BYTES)];
            let cut =
                rest.is_empty() || (rest.len() < BATCH_BYTES_MAX && first.iter().any(|byte| *byte != 0));
            if bytes.len() < len || !cut {
                return Ok(u64::from(next - began));
            }
            (at, len) = (next, (len * 4).min(FOLLOW_BYTES));
        }
    }

    /// The rest of a file to which nothing is written any more.
    fn take_all(
        &mut self,
        source: &mut dyn Source,
        segment: u32,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<u64, FollowError> {
        if self.at.is_none() {
            let (bytes, _) = read(source, segment, 0, usize::MAX)?;
            self.scan.segment(segment, Ok(bytes), visit)?;
            return Ok(bytes.len() as u64);
        }
        let Some((opened, at)) = self.open(source, segment)? else { return Ok(0) };
        let (bytes, _) = read(source, segment, at, usize::MAX)?;
        let bytes = &bytes[..bytes.len() / SECTOR_BYTES * SECTOR_BYTES];
        self.scan.walk(&File { opened, bytes, from: at }, at, visit);
        self.scan.close(opened);
        self.at = None;
        Ok(bytes.len() as u64)
    }

    /// The writer stands still and ended its log at `end`; its note is `extent`. Behind that end it wrote nothing, so
    /// nothing is looked at there but the headers of segments that stand ready. Call [`Self::advance`] before.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub fn finish(
        mut self,
        source: &mut dyn Source,
        end: Position,
        extent: Option<&Extent>,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<LogReport, FollowError> {
        if self.scan.end() != end {
            return Err(FollowError::Elsewhere(self.scan.end(), end));
        }
        if let Some((opened, _)) = self.at.take() {
            self.scan.close(opened);
        }
        let numbers = source.segments().map_err(|errno| FollowError::Unreadable(None, errno))?;
        for segment in numbers {
            if segment >= self.scan.expected()
                && let Some((opened, _)) = self.open(source, segment)?
            {
                self.scan.close(opened);
                self.at = None;
            }
        }
        self.scan.note(extent);
        let report = self.scan.finish(visit);
        let ended = report.damage.iter().any(|damage| damage.kind == DamageKind::Ended);
        assert!(!ended, "the end was compared above");
        Ok(report)
    }
}

fn read(source: &mut dyn Source, segment: u32, from: u32, len: usize) -> Result<(&[u8], u64), FollowError> {
    source.read(segment, from, len).map_err(|errno| FollowError::Unreadable(Some(segment), errno))
}
