//! The file space ahead of the tail: the segment being written, the next one, and zeros ahead of both.
//!
//! Order of a segment's life: wanted, being created, ready (next), open (current), left behind. At most one creation
//! and one fill are in flight. A fill starts at or after the first free byte, so it never touches a batch; a batch
//! that would run into a fill in flight waits for it.
//!
//! A full disk is no failure of the log: a creation or fill that finds no space is tried again every [`RETRY_NS`], with
//! the same segment number and a new generation, while what was prepared is used up.

use crate::segment::{FORMAT_VERSION, SegmentHead};
use crate::{DiskOp, Generations, Geometry, OpId, Pages, Position, Resume, Tail};

/// Pause between two attempts to prepare space on a full disk, nanoseconds.
const RETRY_NS: u64 = 5_000_000_000;

/// The errnos that mean no space: ENOSPC, EDQUOT.
const NO_SPACE: [i32; 2] = [28, 122];

/// One segment file that takes batches now or next.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    segment: u32,
    generation: u32,
    bytes: u32,
    /// First byte that no batch has taken.
    free: u32,
    /// Zeros were written up to here, or a batch.
    filled: u32,
}

/// What an operation of the runway was.
enum Pending {
    Create { op: OpId, stretch: Stretch },
    Fill { op: OpId, segment: u32, from: u32, to: u32 },
}

/// The completion of a runway operation.
pub(crate) struct Laid {
    pub segment: u32,
    pub offset: u64,
    /// Bytes that the operation should have written, if it was a fill.
    pub expected: Option<u32>,
    /// It found no space and will be tried again.
    pub no_space: bool,
}

/// Room for a batch, found by [`Runway::take`].
pub(crate) struct Room {
    pub start: Position,
    pub generation: u32,
}

pub(crate) struct Runway {
    geometry: Geometry,
    current: Option<Stretch>,
    next: Option<Stretch>,
    creating: Option<Pending>,
    filling: Option<Pending>,
    zeros: Option<Pages>,
    next_segment: u32,
    next_generation: u32,
    generations: Generations,
    cramped: Option<Cramped>,
    /// The log had no segment when it was opened and has none yet.
    unborn: bool,
    pub(crate) creates: u64,
    pub(crate) fills: u64,
    /// Attempts that found no space.
    pub(crate) refused: u64,
}

/// The disk had no space for the last preparation.
#[derive(Clone, Copy)]
struct Cramped {
    errno: i32,
    /// Zeros could not be written: the file system gives space when it is written to, so only zeros count as space.
    by_fill: bool,
    /// None: to be set by the next turn.
    retry_at_ns: Option<u64>,
}

impl Runway {
    pub(crate) fn new(geometry: Geometry, tail: &Tail) -> Self {
        let current = match tail.resume {
            Resume::Here { segment, generation, offset, bytes } => {
                let free = offset.next_multiple_of(geometry.align).min(bytes);
                Some(Stretch { segment, generation, bytes, free, filled: free })
            }
            Resume::Roll => None,
        };
        let next = tail.spare.map(|spare| Stretch {
            segment: spare.segment,
            generation: spare.generation,
            bytes: spare.bytes,
            free: geometry.align,
            filled: geometry.align,
        });
        // A file of another configured size may end in less than one aligned block, or be too small for a batch.
        let next = next.filter(|next| {
            next.bytes.is_multiple_of(geometry.align)
                && next.bytes - geometry.align >= geometry.batch_bytes_max
        });
        let current = current.filter(|current| current.bytes.is_multiple_of(geometry.align));
        Self {
            geometry,
            current,
            next,
            creating: None,
            filling: None,
            zeros: None,
            next_segment: tail.next_segment,
            next_generation: tail.next_generation,
            generations: tail.generations.clone(),
            cramped: None,
            unborn: tail.next_segment == 0,
            creates: 0,
            fills: 0,
            refused: 0,
        }
    }

    /// A buffer of zeros to fill from, if it is large enough.
    pub(crate) fn supply(&mut self, mut zeros: Pages) {
        zeros.set_len(zeros.capacity());
        assert!(zeros.as_bytes().iter().all(|byte| *byte == 0), "what fills a segment is zeros");
        if zeros.capacity() >= self.geometry.fill_step_bytes as usize {
            self.zeros = Some(zeros);
        }
    }

    pub(crate) fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Bytes that batches can take for certain, without anything being prepared. Unlimited before the first segment of a
    /// new log, which nothing can be read from and nothing follows from.
    pub(crate) fn room(&self) -> u64 {
        if self.unborn && self.cramped.is_none() {
            return u64::MAX;
        }
        let by_fill = self.cramped.is_some_and(|cramped| cramped.by_fill);
        let left = |stretch: Stretch| if by_fill { stretch.filled } else { stretch.bytes } - stretch.free;
        match (self.current.map(left), self.next.map(left)) {
            // The batch that does not fit the rest of the current segment leaves it unused.
            (Some(current), Some(next)) => {
                u64::from(next) + u64::from(current.saturating_sub(self.geometry.batch_bytes_max))
            }
            (one, other) => u64::from(one.or(other).unwrap_or(0)),
        }
    }

    /// The errno of the last preparation, if it found no space.
    pub(crate) fn no_space(&self) -> Option<i32> {
        self.cramped.map(|cramped| cramped.errno)
    }

    /// When the next attempt is due, if the last found no space.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.cramped.filter(|_| self.creating.is_none() && self.filling.is_none())?.retry_at_ns
    }

    /// Takes the next `bytes` bytes for a batch, rolling to the next segment where they do not fit. None while the
    /// place is not ready: a segment is being created or a fill is in the way.
    pub(crate) fn take(&mut self, bytes: u32) -> Option<Room> {
        if self.current.is_none_or(|current| current.bytes - current.free < bytes) {
            // The rest of the old segment stays blank; the next batch's link shows where the old one ended.
            let next = self.next.take()?;
            assert!(next.bytes - next.free >= bytes, "a segment holds the largest batch");
            self.current = Some(next);
        }
        let current = self.current.as_mut().expect("there is a current segment");
        let end = current.free + bytes;
        if let Some(Pending::Fill { segment, from, .. }) = self.filling
            && segment == current.segment
            && end > from
        {
            return None;
        }
        let start = Position::new(self.geometry.log, current.segment, current.free);
        current.free = end;
        current.filled = current.filled.max(end);
        Some(Room { start, generation: current.generation })
    }

    /// Emits what keeps the runway long enough: at most one creation and one fill in flight.
    pub(crate) fn extend(
        &mut self,
        now_ns: u64,
        wall_ms: u64,
        op: &mut dyn FnMut() -> OpId,
        ops: &mut Vec<DiskOp>,
    ) {
        if let Some(cramped) = &mut self.cramped
            && *cramped.retry_at_ns.get_or_insert(now_ns.saturating_add(RETRY_NS)) > now_ns
        {
            return;
        }
        if self.next.is_none() && self.creating.is_none() && self.is_short() {
            self.create(wall_ms, op(), ops);
        }
        if self.filling.is_none()
            && let Some(stretch) = self.unfilled()
        {
            self.fill(stretch, op(), ops);
        }
        if self.creating.is_none() && self.filling.is_none() {
            // Nothing is wanted any more, so nothing is missing.
            self.cramped = None;
        }
    }

    /// Whether the next segment should be made: half a segment before it is needed, so that staged records never wait
    /// for one, nor for the news that there is none.
    fn is_short(&self) -> bool {
        let geometry = &self.geometry;
        let left = self.current.map_or(0, |current| current.bytes - current.free);
        let soon = geometry.fill_ahead_bytes.saturating_add(geometry.batch_bytes_max);
        left < soon.max(geometry.segment_bytes / 2)
    }

    /// The segment that wants zeros, if there are not enough ahead.
    fn unfilled(&self) -> Option<Stretch> {
        let ahead = |stretch: &Option<Stretch>| stretch.map_or(0, |stretch| stretch.filled - stretch.free);
        if ahead(&self.current) + ahead(&self.next) >= self.geometry.fill_ahead_bytes {
            return None;
        }
        let wanting = |stretch: &&Stretch| stretch.filled < stretch.bytes;
        self.current.iter().chain(&self.next).find(wanting).copied()
    }

    fn fill(&mut self, stretch: Stretch, op: OpId, ops: &mut Vec<DiskOp>) {
        let geometry = self.geometry;
        let (from, to) =
            (stretch.filled, stretch.filled.saturating_add(geometry.fill_step_bytes).min(stretch.bytes));
        let mut pages = self.zeros.take().unwrap_or_else(|| Pages::zeroed(geometry.fill_step_bytes as usize));
        pages.set_len((to - from) as usize);
        self.filling = Some(Pending::Fill { op, segment: stretch.segment, from, to });
        self.fills += 1;
        let (log, segment) = (geometry.log, stretch.segment);
        ops.push(DiskOp::Write { op, log, segment, offset: u64::from(from), pages });
    }

    fn create(&mut self, wall_ms: u64, op: OpId, ops: &mut Vec<DiskOp>) {
        let geometry = self.geometry;
        let head = SegmentHead {
            version: FORMAT_VERSION,
            log: geometry.log,
            segment: self.next_segment,
            generation: self.next_generation,
            bytes: geometry.segment_bytes,
            created_ms: wall_ms,
        };
        let stretch = Stretch {
            segment: head.segment,
            generation: head.generation,
            bytes: head.bytes,
            free: geometry.align,
            filled: geometry.align,
        };
        self.next_segment += 1;
        self.next_generation = self.next_generation.checked_add(1).expect("generations are exhausted");
        self.creates += 1;
        self.creating = Some(Pending::Create { op, stretch });
        let (log, segment, bytes) = (geometry.log, head.segment, u64::from(head.bytes));
        ops.push(DiskOp::Create { op, log, segment, bytes, header: head.encode(geometry.align) });
    }

    /// Takes the completion of one of its operations. None if `op` is not one of them.
    pub(crate) fn complete(
        &mut self,
        op: OpId,
        result: Result<u32, i32>,
        pages: Option<Pages>,
    ) -> Option<Laid> {
        let good = result.is_ok();
        let no_space = result.err().filter(|errno| NO_SPACE.contains(errno));
        match (&self.creating, &self.filling) {
            (Some(Pending::Create { op: pending, stretch }), _) if *pending == op => {
                let stretch = *stretch;
                self.creating = None;
                if let Some(errno) = no_space {
                    // Nothing is there under this number. The generation is spent, to be safe from what may be.
                    self.next_segment = stretch.segment;
                    self.refuse(errno, false);
                }
                if good {
                    (self.cramped, self.unborn) = (None, false);
                    self.generations.insert(self.geometry.log, stretch.segment, stretch.generation);
                    self.next = Some(stretch);
                }
                Some(Laid {
                    segment: stretch.segment,
                    offset: 0,
                    expected: None,
                    no_space: no_space.is_some(),
                })
            }
            (_, Some(Pending::Fill { op: pending, segment, from, to })) if *pending == op => {
                let (segment, from, to) = (*segment, *from, *to);
                self.filling = None;
                self.zeros = pages.filter(|pages| pages.capacity() >= self.geometry.fill_step_bytes as usize);
                if let Some(errno) = no_space {
                    self.refuse(errno, true);
                } else {
                    self.cramped = self.cramped.filter(|cramped| !cramped.by_fill);
                    let mut stretches = self.current.iter_mut().chain(&mut self.next);
                    if let Some(stretch) = stretches.find(|stretch| stretch.segment == segment) {
                        stretch.filled = stretch.filled.max(to);
                    }
                }
                let (offset, expected) = (u64::from(from), Some(to - from));
                Some(Laid { segment, offset, expected, no_space: no_space.is_some() })
            }
            _ => None,
        }
    }

    fn refuse(&mut self, errno: i32, by_fill: bool) {
        self.refused += 1;
        let by_fill = by_fill || self.cramped.is_some_and(|cramped| cramped.by_fill);
        self.cramped = Some(Cramped { errno, by_fill, retry_at_ns: None });
    }
}
