//! The file space ahead of the tail: the segment being written, the next one, and zeros ahead of both.
//!
//! Order of a segment's life: wanted, being created, ready (next), open (current), left behind. At most one creation
//! and one fill are in flight. A fill starts at or after the first free byte, so it never touches a batch; a batch
//! that would run into a fill in flight waits for it.

use crate::segment::{FORMAT_VERSION, SegmentHead};
use crate::{DiskOp, Generations, Geometry, OpId, Pages, Position, Resume, Tail};

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
    pub(crate) creates: u64,
    pub(crate) fills: u64,
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
            creates: 0,
            fills: 0,
        }
    }

    pub(crate) fn generations(&self) -> &Generations {
        &self.generations
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
    pub(crate) fn extend(&mut self, wall_ms: u64, op: &mut dyn FnMut() -> OpId, ops: &mut Vec<DiskOp>) {
        let geometry = self.geometry;
        let left = self.current.map_or(0, |current| current.bytes - current.free);
        let short = left < geometry.fill_ahead_bytes.saturating_add(geometry.batch_bytes_max);
        if self.next.is_none() && self.creating.is_none() && short {
            self.create(wall_ms, op(), ops);
        }
        if self.filling.is_some() {
            return;
        }
        let ahead = |stretch: &Option<Stretch>| stretch.map_or(0, |stretch| stretch.filled - stretch.free);
        if ahead(&self.current) + ahead(&self.next) >= geometry.fill_ahead_bytes {
            return;
        }
        let wanting = |stretch: &&Stretch| stretch.filled < stretch.bytes;
        let Some(stretch) = self.current.iter().chain(&self.next).find(wanting).copied() else { return };
        let (from, to) =
            (stretch.filled, stretch.filled.saturating_add(geometry.fill_step_bytes).min(stretch.bytes));
        let mut pages = self.zeros.take().unwrap_or_else(|| Pages::zeroed(geometry.fill_step_bytes as usize));
        pages.set_len((to - from) as usize);
        let op = op();
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
    pub(crate) fn complete(&mut self, op: OpId, good: bool, pages: Option<Pages>) -> Option<Laid> {
        match (&self.creating, &self.filling) {
            (Some(Pending::Create { op: pending, stretch }), _) if *pending == op => {
                let stretch = *stretch;
                self.creating = None;
                if good {
                    self.generations.insert(self.geometry.log, stretch.segment, stretch.generation);
                    self.next = Some(stretch);
                }
                Some(Laid { segment: stretch.segment, offset: 0, expected: None })
            }
            (_, Some(Pending::Fill { op: pending, segment, from, to })) if *pending == op => {
                let (segment, from, to) = (*segment, *from, *to);
                self.filling = None;
                self.zeros = pages.filter(|pages| pages.capacity() >= self.geometry.fill_step_bytes as usize);
                let mut stretches = self.current.iter_mut().chain(&mut self.next);
                if let Some(stretch) = stretches.find(|stretch| stretch.segment == segment) {
                    stretch.filled = stretch.filled.max(to);
                }
                Some(Laid { segment, offset: u64::from(from), expected: Some(to - from) })
            }
            _ => None,
        }
    }
}
