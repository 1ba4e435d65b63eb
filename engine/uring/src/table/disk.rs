//! Log files: each disk operation of the shard until its end, whatever number of parts the kernel makes of it.
//!
//! Writes, creations and syncs go out at once: the appender keeps their number small. Reads share `READS_OUT_MAX`
//! places and queue behind them, so that a burst of history pages does not bury the append that everybody waits for.

use std::collections::VecDeque;

use ringdesk_persist::{DiskDone, DiskOp, OpId};
use ringdesk_shard::io::Input;
use ringdesk_shard::planted::{self, Bug};

use super::{DISK, errno, same_generation, user};
use crate::buffers::{BufferId, Buffers};
use crate::kernel::{Completion, Op};

/// Reads the kernel has at a time.
pub const READS_OUT_MAX: usize = 64;

/// Reads that may wait. The shard bounds what it asks for far below; beyond is a broken invariant.
pub const READS_WAITING_MAX: usize = 65_536;

const SECTOR: u32 = 512;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Create { bytes: u64 },
    Write,
    Read,
    Sync,
}

#[derive(Debug)]
struct Flight {
    op: OpId,
    kind: Kind,
    log: u16,
    segment: u32,
    offset: u64,
    buffer: Option<BufferId>,
    /// Bytes of the whole operation, and how many of them earlier parts completed (a multiple of a sector).
    len: u32,
    done: u32,
}

impl Flight {
    fn new(op: DiskOp, buffers: &mut Buffers) -> Self {
        let mut store = |pages: ringdesk_persist::Pages| {
            let len = u32::try_from(pages.len()).expect("a disk operation below 4 GiB");
            (Some(buffers.insert_pages(pages)), len)
        };
        let (op, log, segment, offset, kind, (buffer, len)) = match op {
            DiskOp::Create { op, log, segment, bytes, header } => {
                (op, log, segment, 0, Kind::Create { bytes }, store(header))
            }
            DiskOp::Write { op, log, segment, offset, pages } => {
                (op, log, segment, offset, Kind::Write, store(pages))
            }
            DiskOp::Read { op, log, segment, offset, pages } => {
                (op, log, segment, offset, Kind::Read, store(pages))
            }
            DiskOp::Sync { op, log, segment } => (op, log, segment, 0, Kind::Sync, (None, 0)),
        };
        let transfers = matches!(kind, Kind::Write | Kind::Read);
        assert!(!transfers || len > 0, "{op:?}: a transfer of nothing");
        Self { op, kind, log: log.0, segment, offset, buffer, len, done: 0 }
    }

    /// The operation for what is left.
    fn part(&self) -> Op {
        let &Self { kind, log, segment, len, done, .. } = self;
        let (offset, from, left) = (self.offset + u64::from(done), done, len - done);
        let buffer = || self.buffer.expect("a transfer has a buffer");
        match kind {
            Kind::Create { bytes } => Op::Create { log, segment, bytes, header: buffer() },
            Kind::Write => Op::Write { log, segment, offset, buffer: buffer(), from, len: left },
            Kind::Read => Op::Read { log, segment, offset, buffer: buffer(), from, len: left },
            Kind::Sync => Op::Sync { log, segment },
        }
    }

    /// What a part's result means: `None`, the operation goes on with [`Self::part`]; otherwise its end.
    fn part_done(&mut self, result: i32) -> Option<Result<u32, i32>> {
        if result < 0 {
            // A read changes nothing and may be asked again. A write that failed is never retried: what the kernel
            // did with the dirty data is unknown, and a second attempt could report a success that never was.
            let again = self.kind == Kind::Read && matches!(-result, errno::EINTR | errno::EAGAIN);
            let again = again || self.kind == Kind::Write && planted::on(Bug::RetryFailedSync);
            return if again { None } else { Some(Err(-result)) };
        }
        let (got, left) = (result as u32, self.len - self.done);
        match self.kind {
            Kind::Create { .. } | Kind::Sync => Some(Ok(0)),
            Kind::Write | Kind::Read => {
                assert!(got <= left, "{:?}: {got} bytes of {left} transferred", self.op);
                if got == left {
                    return Some(Ok(self.len));
                }
                if self.kind == Kind::Read && (got == 0 || !got.is_multiple_of(SECTOR)) {
                    return Some(Ok(self.done + got)); // The end of the file.
                }
                let whole = got - got % SECTOR;
                if whole == 0 {
                    return Some(Err(errno::EIO)); // A disk that takes less than a sector takes nothing.
                }
                self.done += whole;
                None
            }
        }
    }
}

#[derive(Default, Debug)]
pub(super) struct Disk {
    flights: Vec<(u32, Option<Flight>)>,
    free: Vec<u32>,
    reads_out: usize,
    reads_waiting: VecDeque<DiskOp>,
}

impl super::Table {
    /// [`ringdesk_shard::io::Output::Disk`].
    pub fn disk(&mut self, op: DiskOp) {
        self.disk.start(op, &mut self.buffers, &mut self.ops);
    }
}

impl Disk {
    pub(super) fn pending(&self) -> usize {
        self.flights.len() - self.free.len() + self.reads_waiting.len()
    }

    fn start(&mut self, op: DiskOp, buffers: &mut Buffers, ops: &mut Vec<(u64, Op)>) {
        if matches!(op, DiskOp::Read { .. }) {
            if self.reads_out == READS_OUT_MAX {
                assert!(self.reads_waiting.len() < READS_WAITING_MAX, "{READS_WAITING_MAX} reads wait");
                self.reads_waiting.push_back(op);
                return;
            }
            self.reads_out += 1;
        }
        let flight = Flight::new(op, buffers);
        let index = match self.free.pop() {
            Some(index) => {
                self.flights[index as usize].1 = Some(flight);
                index
            }
            None => {
                self.flights.push((0, Some(flight)));
                (self.flights.len() - 1) as u32
            }
        };
        self.submit(index, buffers, ops);
    }

    fn submit(&mut self, index: u32, buffers: &mut Buffers, ops: &mut Vec<(u64, Op)>) {
        let (generation, flight) = &self.flights[index as usize];
        let flight = flight.as_ref().expect("a flight that was started");
        if let Some(buffer) = flight.buffer {
            buffers.lend(buffer);
        }
        ops.push((user(DISK, *generation, index), flight.part()));
    }

    pub(super) fn completed(
        &mut self,
        completion: Completion,
        buffers: &mut Buffers,
        ops: &mut Vec<(u64, Op)>,
        inputs: &mut Vec<Input>,
    ) {
        let index = completion.user as u32;
        let (generation, place) = &mut self.flights[index as usize];
        let known = same_generation(*generation, completion.user) && !completion.more;
        let flight = place.as_mut().filter(|_| known);
        let flight = flight.unwrap_or_else(|| panic!("{completion:?} of a disk operation that is not out"));
        if let Some(buffer) = flight.buffer {
            buffers.give_back(buffer);
        }
        let Some(result) = flight.part_done(completion.result) else {
            self.submit(index, buffers, ops);
            return;
        };
        let pages = flight.buffer.map(|buffer| buffers.take_pages(buffer));
        inputs.push(Input::Disk(DiskDone { op: flight.op, result, pages }));
        let read = flight.kind == Kind::Read;
        *place = None;
        *generation = generation.wrapping_add(1);
        self.free.push(index);
        if read {
            self.reads_out -= 1;
            if let Some(next) = self.reads_waiting.pop_front() {
                self.start(next, buffers, ops);
            }
        }
    }
}
