//! What a scan found: where the log goes on, what was torn, what is damaged and who lost something by it.

use crate::{Generations, Link, LogId, Position, RecordRef};
use std::collections::BTreeSet;
use std::fmt;

/// Where an appender goes on after replay. Made by a scan, or [`Tail::fresh`] for a log without files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tail {
    /// The log.
    pub log: LogId,
    /// Last batch of the chain; the next batch names it.
    pub link: Link,
    /// The bytes after it were damaged, not torn: the next batch says so, lest a later scan call them cut.
    pub gap_damaged: bool,
    /// The last batch has records that no mark covers yet, or something behind it was cut.
    pub uncovered: bool,
    /// Where the next batch goes.
    pub resume: Resume,
    /// A whole, empty segment that stands ready behind the tail.
    pub spare: Option<Spare>,
    /// Number for the next segment file to create.
    pub next_segment: u32,
    /// Lowest generation never used in this log.
    pub next_generation: u32,
    /// Segment to sync before anything that follows from replay may leave: the last that holds a batch.
    pub sync: Option<u32>,
    /// Generation of each segment of this log (and of others, if the caller merged theirs in).
    pub generations: Generations,
}

impl Tail {
    /// The start of a log that has no files.
    #[must_use]
    pub fn fresh(log: LogId) -> Self {
        Self {
            log,
            link: Link::before_all(log),
            gap_damaged: false,
            uncovered: false,
            resume: Resume::Roll,
            spare: None,
            next_segment: 0,
            next_generation: 1,
            sync: None,
            generations: Generations::default(),
        }
    }
}

/// Where the next batch goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resume {
    /// Right after the last batch: everything behind it was never written in this generation.
    Here {
        /// Segment number.
        segment: u32,
        /// Its generation.
        generation: u32,
        /// First free byte.
        offset: u32,
        /// Length of the file.
        bytes: u32,
    },
    /// At the start of another segment: there is none yet, or what lies behind the last batch must not be touched.
    Roll,
}

/// An empty segment with a good header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spare {
    /// Segment number.
    pub segment: u32,
    /// Its generation.
    pub generation: u32,
    /// Length of the file.
    pub bytes: u32,
}

/// What a scan of one log found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogReport {
    /// Where the appender goes on.
    pub tail: Tail,
    /// The write that the last crash interrupted, cut. Never acked.
    pub torn: Option<Torn>,
    /// Every damaged range, in order of position. Empty on a healthy log.
    pub damage: Vec<Damage>,
    /// Batches served, marks included.
    pub batches: u64,
    /// Records served.
    pub records: u64,
    /// Bytes of the segment files looked at.
    pub bytes: u64,
    /// Wall clock of the last batch, milliseconds since 1970; 0 without one.
    pub last_wall_ms: u64,
}

/// A torn write: written in part when the machine stopped, never acked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Torn {
    /// First byte after the durable end.
    pub from: Position,
    /// First byte after the last sector of the torn write.
    pub to: Position,
}

/// A range of one segment file that cannot be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// What is wrong.
    pub kind: DamageKind,
    /// The log.
    pub log: LogId,
    /// Segment number; the file is `segment_file(log, segment)`.
    pub segment: u32,
    /// First byte of the range.
    pub from: u32,
    /// First byte after it. Equal to `from` where the bytes are beyond the end of a file of unknown length.
    pub to: u32,
    /// Batches lost with the range as a whole, as far as batch numbers tell. Counted on the first range of a run.
    pub batches_lost: u64,
    /// Records lost whose header could still be read, with their slots.
    pub lost: Vec<LostRecord>,
    /// Records lost of which not even the slot is known.
    pub records_unknown: u64,
}

/// What is wrong with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DamageKind {
    /// Files are not there: this one and the following, `files` in all.
    Missing {
        /// Number of files.
        files: u32,
    },
    /// The file could not be read: errno.
    Unreadable(i32),
    /// The file is shorter than its segment.
    Short,
    /// The segment's header sector is damaged. Batches are still read if their sectors agree on a generation.
    Header,
    /// The file carries a generation that is not above its predecessor's: another life of the file. Not read.
    Generation,
    /// Sectors of a batch are damaged. Whole records outside them are served.
    Batch,
    /// Batches that a later batch proves durable are not there.
    Lost,
    /// The last batch is damaged and something stands in a later segment, so that it may have been torn and cut. Not
    /// served; its records count as lost.
    Doubtful,
    /// Damaged sectors behind the last batch: perhaps an acked batch, so not called torn.
    Tail,
    /// A whole batch that does not fit the chain of batches. Not served.
    Stray,
    /// The log ends before the place where it ended when it was closed.
    Ended,
}

/// A record that is lost and known by its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostRecord {
    /// Its address.
    pub reference: RecordRef,
    /// Its slot.
    pub slot: u16,
    /// Its slot epoch.
    pub slot_epoch: u32,
}

/// A number with its noun.
fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = crate::segment_file(self.log, self.segment);
        write!(f, "{file} bytes {}..{}: ", self.from, self.to)?;
        match self.kind {
            DamageKind::Missing { files: 1 } => write!(f, "the file is missing")?,
            DamageKind::Missing { files } => {
                write!(f, "this file and the next, {files} in all, are missing")?
            }
            DamageKind::Unreadable(errno) => write!(f, "the file cannot be read (errno {errno})")?,
            DamageKind::Short => write!(f, "the file is shorter than its segment")?,
            DamageKind::Header => write!(f, "the segment header is damaged")?,
            DamageKind::Generation => write!(f, "the file belongs to another generation")?,
            DamageKind::Batch => write!(f, "sectors of a batch are damaged")?,
            DamageKind::Lost => write!(f, "durable batches are not there")?,
            DamageKind::Doubtful => {
                write!(f, "the last batch is damaged, and what would say whether it was cut is lost")?
            }
            DamageKind::Tail => write!(f, "sectors behind the last batch are damaged")?,
            DamageKind::Stray => write!(f, "a batch does not belong to this log's chain")?,
            DamageKind::Ended => {
                write!(f, "the log went up to here at the last clean stop and ends earlier now")?
            }
        }
        if self.batches_lost > 0 {
            write!(f, "; {} lost", counted(self.batches_lost, "batch", "batches"))?;
        }
        if !self.lost.is_empty() {
            let slots: BTreeSet<u16> = self.lost.iter().map(|record| record.slot).collect();
            let word = if slots.len() == 1 { "slot" } else { "slots" };
            write!(f, "; {} lost in {word}", counted(self.lost.len() as u64, "record", "records"))?;
            for slot in slots.iter().take(8) {
                write!(f, " {slot}")?;
            }
            if slots.len() > 8 {
                write!(f, " and {} more", slots.len() - 8)?;
            }
        }
        if self.records_unknown > 0 {
            write!(f, "; {} lost in unknown slots", counted(self.records_unknown, "record", "records"))?;
        }
        Ok(())
    }
}
