//! What the disk makes of an operation: all of it, less, or an error.

use ringdesk_uring::buffers::Buffers;
use ringdesk_uring::kernel::Op;

use super::{EIO, ENOSPC, Env, InFlight};
use crate::disk::{FileId, SECTOR};

impl Env {
    /// A disk operation, when it completes.
    pub(super) fn disk_op(&mut self, flight: &InFlight, buffers: &mut Buffers) -> i32 {
        match flight.op {
            Op::Create { log, segment, bytes, header } => {
                assert_eq!(buffers.lent(header), flight.data, "a header changed in flight");
                if self.now >= self.faults.full_from_ns {
                    self.bites.disk_full += 1;
                    return -ENOSPC;
                }
                if self.bite(self.faults.enospc_ppm, |bites| &mut bites.enospc) {
                    return -ENOSPC;
                }
                self.fold_write((log, segment), 0, &flight.data);
                self.disk.create((log, segment), bytes as usize, &flight.data);
                0
            }
            Op::Sync { log, segment } => {
                if self.bite(self.faults.eio_ppm, |bites| &mut bites.eio) {
                    return -EIO;
                }
                self.disk.sync((log, segment)).map_or_else(|errno| -errno, |()| 0)
            }
            Op::Write { log, segment, offset, buffer, from, len } => {
                let lent = &buffers.lent(buffer)[from as usize..(from + len) as usize];
                assert_eq!(lent, flight.data, "a write's bytes changed in flight");
                self.write((log, segment), offset, &flight.data)
            }
            Op::Read { log, segment, offset, buffer, from, len } => {
                let mut len = len as usize;
                if len > SECTOR && self.bite(self.faults.short_disk_ppm, |bites| &mut bites.short_disk) {
                    len = SECTOR * (1 + self.rng.index(len / SECTOR));
                }
                let out = &mut buffers.lent_mut(buffer)[from as usize..from as usize + len];
                self.disk.read((log, segment), offset, out).map_or_else(|errno| -errno, |len| len as i32)
            }
            _ => unreachable!("only disk operations get here"),
        }
    }

    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> i32 {
        if self.bite(self.faults.eio_ppm, |bites| &mut bites.eio) {
            self.disk.fail_write(file, offset, data, &mut self.rng);
            return -EIO;
        }
        let mut len = data.len();
        if len > SECTOR && self.bite(self.faults.short_disk_ppm, |bites| &mut bites.short_disk) {
            len = SECTOR * (1 + self.rng.index(len / SECTOR));
        }
        self.fold_write(file, offset, &data[..len]);
        match self.disk.write(file, offset, &data[..len], len == data.len()) {
            Ok(()) => len as i32,
            Err(errno) => -errno,
        }
    }

    fn fold_write(&mut self, (log, segment): FileId, offset: u64, data: &[u8]) {
        self.hash.number(u64::from(log) << 48 ^ u64::from(segment) << 32 ^ offset);
        self.hash.bytes(data);
    }
}
