//! A follower beside a writer: at every moment it has taken only what is whole, and at the end it says what a scan says.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use ringdesk_persist::{
    Appender, DiskOp, FollowError, Follower, Geometry, Record, RecordRef, SECTOR_BYTES, Source, Tail,
};
use support::{Disk, Known, LOG, cases, payload, plan, scan, settle};

struct Files<'a> {
    files: &'a BTreeMap<u32, Vec<u8>>,
    reads: u64,
}

impl Source for Files<'_> {
    fn segments(&mut self) -> Result<Vec<u32>, i32> {
        Ok(self.files.keys().copied().collect())
    }

    fn read(&mut self, segment: u32, from: u32, len: usize) -> Result<(&[u8], u64), i32> {
        let file = self.files.get(&segment).ok_or(2)?;
        let rest = file.get(from as usize..).unwrap_or(&[]);
        self.reads += 1;
        Ok((&rest[..len.min(rest.len())], file.len() as u64))
    }
}

type Shown = Vec<(RecordRef, Known)>;

fn keep(shown: &mut Shown, record: &Record<'_>) {
    shown.push((record.reference, (record.slot, record.slot_epoch, record.payload.to_vec())));
}

fn advance(follower: &mut Follower, source: &mut Files<'_>, shown: &mut Shown) {
    while follower.advance(source, &mut |record| keep(shown, &record)).expect("followed").more {}
}

/// Sectors of the pending writes as a reader may see them in the middle: some there, some not.
fn half_written(disk: &Disk, mask: u64) -> BTreeMap<u32, Vec<u8>> {
    let mut files = disk.files.clone();
    for op in &disk.pending {
        let DiskOp::Write { segment, offset, pages, .. } = op else { continue };
        let file = files.get_mut(segment).expect("the file is there");
        for (index, sector) in pages.as_bytes().chunks_exact(SECTOR_BYTES).enumerate() {
            if mask >> (index % 64) & 1 == 1 {
                file[*offset as usize + index * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(sector);
            }
        }
    }
    files
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    #[test]
    fn a_follower_ends_where_a_scan_ends(
        sizes in prop::collection::vec(1_usize..3_000, 1..150),
        masks in prop::collection::vec(any::<u64>(), 1..20),
        look in 1_usize..9,
    ) {
        let geometry = Geometry::small(LOG);
        let mut appender = Appender::new(geometry, Tail::fresh(LOG));
        let (mut disk, mut now, mut shown) = (Disk::default(), 0, Shown::new());
        let mut follower = Follower::new(plan(&geometry));
        let mut mask = masks.iter().cycle();
        for (number, len) in sizes.iter().enumerate() {
            let body = payload(number as u64, *len);
            while appender.stage(number as u16 % 7, 1, &body).is_err() {
                settle(&mut appender, &mut disk, &mut now);
            }
            now += 1_000;
            appender.poll(now, 1_700_000_000_000, &mut disk.pending);
            if number % look == 0 {
                let seen = half_written(&disk, *mask.next().expect("endless"));
                let mut source = Files { files: &seen, reads: 0 };
                advance(&mut follower, &mut source, &mut shown);
                prop_assert!(!follower.is_damaged(), "a write in flight is no damage");
            }
            while !disk.pending.is_empty() {
                let done = disk.perform(0);
                appender.complete(done).expect("the disk is good");
            }
        }
        settle(&mut appender, &mut disk, &mut now);
        let (expected, report) = scan(&disk.files, &geometry);
        let mut source = Files { files: &disk.files, reads: 0 };
        advance(&mut follower, &mut source, &mut shown);
        let end = report.tail.link.end;
        let found = follower
            .finish(&mut source, end, None, &mut |record| keep(&mut shown, &record))
            .expect("the same end");
        prop_assert_eq!(shown, expected);
        prop_assert_eq!(found.tail, report.tail);
        prop_assert_eq!((found.damage, found.torn, found.records), (vec![], None, report.records));
    }
}

/// A writer that is never idle: each look ends where the log ended when it was read.
#[test]
fn a_look_ends_although_the_writer_goes_on() {
    struct Growing {
        disk: Disk,
        appender: Appender,
        now: u64,
        content: Vec<u8>,
        reads: u64,
    }
    impl Source for Growing {
        fn segments(&mut self) -> Result<Vec<u32>, i32> {
            Ok(self.disk.files.keys().copied().collect())
        }

        fn read(&mut self, segment: u32, from: u32, len: usize) -> Result<(&[u8], u64), i32> {
            self.reads += 1;
            assert!(self.reads < 100, "one look does not end");
            if self.appender.stage(1, 1, b"more").is_ok() {
                settle(&mut self.appender, &mut self.disk, &mut self.now);
            }
            let file = &self.disk.files[&segment];
            let rest = &file[(from as usize).min(file.len())..];
            self.content = rest[..len.min(rest.len())].to_vec();
            Ok((&self.content, file.len() as u64))
        }
    }
    // A segment larger than what is read at once.
    let geometry = Geometry { segment_bytes: 4 << 20, ..Geometry::small(LOG) };
    let (mut disk, mut now) = (Disk::default(), 0);
    let mut appender = Appender::new(geometry, Tail::fresh(LOG));
    appender.stage(1, 1, b"one").expect("room");
    settle(&mut appender, &mut disk, &mut now);
    let mut source = Growing { disk, appender, now, content: Vec::new(), reads: 0 };
    let mut follower = Follower::new(plan(&geometry));
    for _ in 0..10 {
        assert!(!follower.advance(&mut source, &mut |_| {}).expect("followed").more);
    }
}

#[test]
fn a_log_that_ends_elsewhere_than_its_writer_says_is_refused() {
    let geometry = Geometry::small(LOG);
    let mut appender = Appender::new(geometry, Tail::fresh(LOG));
    let (mut disk, mut now) = (Disk::default(), 0);
    appender.stage(1, 1, b"one").expect("room");
    settle(&mut appender, &mut disk, &mut now);
    let mut follower = Follower::new(plan(&geometry));
    let mut source = Files { files: &disk.files, reads: 0 };
    advance(&mut follower, &mut source, &mut Shown::new());
    let there = follower.end();
    appender.stage(1, 1, b"two").expect("room");
    settle(&mut appender, &mut disk, &mut now);
    let (_, report) = scan(&disk.files, &geometry);
    let mut source = Files { files: &disk.files, reads: 0 };
    let error =
        follower.finish(&mut source, report.tail.link.end, None, &mut |_| {}).expect_err("not all was read");
    assert_eq!(error, FollowError::Elsewhere(there, report.tail.link.end));
}

#[test]
fn damage_in_a_closed_segment_is_found_while_following() {
    let geometry = Geometry::small(LOG);
    let mut appender = Appender::new(geometry, Tail::fresh(LOG));
    let (mut disk, mut now) = (Disk::default(), 0);
    for number in 0..400 {
        while appender.stage(1, 1, &payload(number, 700)).is_err() {
            settle(&mut appender, &mut disk, &mut now);
        }
        settle(&mut appender, &mut disk, &mut now);
    }
    assert!(disk.files.len() > 2, "several segments");
    disk.files.get_mut(&0).expect("there")[3 * SECTOR_BYTES + 100] ^= 1;
    let mut follower = Follower::new(plan(&geometry));
    let mut source = Files { files: &disk.files, reads: 0 };
    advance(&mut follower, &mut source, &mut Shown::new());
    assert!(follower.is_damaged());
}
