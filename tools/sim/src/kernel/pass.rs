//! Descriptors on their way from one process to the next.

use ringdesk_uring::kernel::Op;

use super::Env;
use crate::disk::Crash;
use crate::net::LinkId;
use crate::plan::ENTRIES;

impl Env {
    /// Takes a second descriptor of the connection in an entry, for another process.
    pub fn export(&mut self, shard: u16, entry: u32) -> LinkId {
        let side = &self.sides[usize::from(shard)];
        let busy = side.ops.iter().find(|flight| flight.op_entry() == Some(entry));
        assert!(busy.is_none(), "{busy:?} is out on a connection that is exported");
        let link = side.link(entry);
        self.net.engine_share(link);
        link
    }

    /// Puts the descriptor of a connection into a free entry of a shard that has not run yet.
    pub fn place(&mut self, shard: u16, link: LinkId) -> u32 {
        let side = &mut self.sides[usize::from(shard)];
        let entry = side.free_entry(ENTRIES).expect("an entry for a connection that is adopted");
        side.entries[entry] = Some(link);
        entry as u32
    }

    /// Whether nothing of any shard is under way, and no descriptor is held.
    pub fn is_left(&self) -> bool {
        self.sides.iter().all(|side| {
            side.ops.is_empty() && side.arrivals.is_empty() && side.entries.iter().all(Option::is_none)
        })
    }

    /// The disk loses what no operation has promised to keep, as if the power had failed.
    pub fn disk_forgets(&mut self) {
        self.disk.crash(Crash::Power, &mut self.rng);
    }

    /// What no shard of this process may have under way once all stand still: a write that another process would not
    /// know of.
    pub fn assert_no_disk_operation(&self) {
        let out = self.sides.iter().flat_map(|side| &side.ops).find(|flight| is_disk(&flight.op));
        assert!(out.is_none(), "{out:?} is out although all shards stand still");
    }
}

fn is_disk(op: &Op) -> bool {
    matches!(op, Op::Create { .. } | Op::Write { .. } | Op::Read { .. } | Op::Sync { .. })
}
