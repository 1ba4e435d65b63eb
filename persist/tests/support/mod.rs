//! A disk for tests: keeps what completed, and at a crash any subset of the 512-byte sectors of what did not.
//!
//! Order: operations queue up in `pending` until the test completes or loses them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use ringdesk_persist::{
    Appender, DiskDone, DiskOp, Flushed, Geometry, LogId, LogReport, OpId, Pages, Record, RecordRef,
    ScanPlan, scan_log,
};
use std::collections::BTreeMap;

pub const LOG: LogId = LogId(3);

/// One record as the test knows it.
pub type Known = (u16, u32, Vec<u8>);

#[derive(Default)]
pub struct Disk {
    pub files: BTreeMap<u32, Vec<u8>>,
    pub pending: Vec<DiskOp>,
}

impl Disk {
    /// Carries out one pending operation and gives its completion.
    pub fn perform(&mut self, index: usize) -> DiskDone {
        match self.pending.remove(index) {
            DiskOp::Create { op, segment, bytes, header, .. } => {
                let mut file = vec![0; bytes as usize];
                file[..header.len()].copy_from_slice(header.as_bytes());
                self.files.insert(segment, file);
                DiskDone { op, result: Ok(0), pages: Some(header) }
            }
            DiskOp::Write { op, segment, offset, pages, .. } => {
                let file = self.files.get_mut(&segment).expect("a file is created before it is written");
                file[offset as usize..][..pages.len()].copy_from_slice(pages.as_bytes());
                DiskDone { op, result: Ok(pages.len() as u32), pages: Some(pages) }
            }
            DiskOp::Read { op, segment, offset, mut pages, .. } => {
                let len = pages.len();
                pages.as_bytes_mut().copy_from_slice(&self.files[&segment][offset as usize..][..len]);
                DiskDone { op, result: Ok(len as u32), pages: Some(pages) }
            }
            DiskOp::Sync { op, segment, .. } => {
                assert!(self.files.contains_key(&segment), "a sync of a file that is not there");
                DiskDone { op, result: Ok(0), pages: None }
            }
        }
    }

    /// The power goes: of each pending write the sectors stay for which `keep` says so; a creation happened or not.
    pub fn crash(&mut self, keep: &mut dyn FnMut() -> bool) {
        for op in self.pending.drain(..) {
            match op {
                DiskOp::Create { segment, bytes, header, .. } => {
                    if keep() {
                        let mut file = vec![0; bytes as usize];
                        file[..header.len()].copy_from_slice(header.as_bytes());
                        self.files.insert(segment, file);
                    }
                }
                DiskOp::Write { segment, offset, pages, .. } => {
                    let file = self.files.get_mut(&segment).expect("the file is there");
                    for (index, sector) in pages.as_bytes().chunks_exact(512).enumerate() {
                        if keep() {
                            file[offset as usize + index * 512..][..512].copy_from_slice(sector);
                        }
                    }
                }
                DiskOp::Read { .. } | DiskOp::Sync { .. } => {}
            }
        }
    }
}

pub fn plan(geometry: &Geometry) -> ScanPlan {
    ScanPlan::new(geometry.log, geometry.segment_bytes, None)
}

/// Scans all files, and gives the records shown with the report.
pub fn scan(files: &BTreeMap<u32, Vec<u8>>, geometry: &Geometry) -> (Vec<(RecordRef, Known)>, LogReport) {
    let mut shown = Vec::new();
    let mut visit = |record: Record<'_>| {
        shown.push((record.reference, (record.slot, record.slot_epoch, record.payload.to_vec())));
    };
    let sources = files.iter().map(|(segment, bytes)| (*segment, Ok(bytes)));
    let report = scan_log(plan(geometry), sources, &mut visit).expect("files in order, of this version");
    (shown, report)
}

/// Polls and completes everything until the appender is idle, marks included.
pub fn settle(appender: &mut Appender, disk: &mut Disk, now_ns: &mut u64) -> Vec<Flushed> {
    let mut flushed = Vec::new();
    loop {
        appender.poll(*now_ns, 1_700_000_000_000, &mut disk.pending);
        if disk.pending.is_empty() {
            match appender.next_deadline_ns() {
                Some(due) => *now_ns = due,
                None => return flushed,
            }
        }
        while !disk.pending.is_empty() {
            let done = disk.perform(0);
            flushed.push(appender.complete(done).expect("the disk is good"));
        }
    }
}

/// A payload of `len` bytes that tells which record it is.
pub fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((0..len.saturating_sub(8)).map(|i| (i as u64 * 31 + number * 7) as u8));
    bytes.truncate(len.max(8));
    bytes
}

/// A buffer as a read would bring it.
pub fn read(disk: &BTreeMap<u32, Vec<u8>>, segment: u32, offset: u32, bytes: u32) -> Pages {
    let mut pages = Pages::zeroed(bytes as usize);
    pages.as_bytes_mut().copy_from_slice(&disk[&segment][offset as usize..][..bytes as usize]);
    pages
}

/// The number of a caller's own operation.
pub const CALLER_OP: OpId = OpId(1);

/// Cases per property: `usual`, or what `PERSIST_CASES` asks for.
pub fn cases(usual: u32) -> u32 {
    std::env::var("PERSIST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}
