//! What the note beside the segments adds: files and ends of a log that are gone without a trace in what is left.

mod support;

use proptest::prelude::*;
use ringdesk_persist::{
    Appender, DamageKind, Extent, Geometry, LogReport, Position, ScanPlan, Tail, scan_log,
};
use std::collections::BTreeMap;
use support::{Disk, LOG, payload, settle};

type Files = BTreeMap<u32, Vec<u8>>;

fn geometry() -> Geometry {
    Geometry { segment_bytes: 16 << 10, fill_ahead_bytes: 0, ..Geometry::small(LOG) }
}

/// A log of `records` batches of one record each, its note, and where it ends.
fn written(records: u64) -> (Files, Extent, Position) {
    let (mut disk, mut now_ns) = (Disk::default(), 0);
    let mut appender = Appender::new(geometry(), Tail::fresh(LOG));
    for number in 0..records {
        appender.stage(1, 1, &payload(number, 700)).expect("room");
        settle(&mut appender, &mut disk, &mut now_ns);
    }
    let extent = disk.files.keys().fold(Extent::empty(LOG), |extent, segment| extent.with(*segment));
    (disk.files, extent, appender.end())
}

fn scan(files: &Files, extent: &Extent) -> LogReport {
    let plan = ScanPlan::new(LOG, geometry().segment_bytes, Some(extent));
    let sources = files.iter().map(|(segment, bytes)| (*segment, Ok(bytes)));
    scan_log(plan, sources, &mut |_| {}).expect("in order")
}

#[test]
fn each_missing_segment_is_told_also_the_first_the_last_and_all() {
    let (files, extent, _) = written(30);
    assert!(files.len() > 3, "{} segments", files.len());
    assert_eq!(scan(&files, &extent).damage, []);
    for gone in files.keys() {
        let mut left = files.clone();
        left.remove(gone);
        let damage = scan(&left, &extent).damage;
        let told = damage.iter().any(|d| d.segment == *gone && d.kind == DamageKind::Missing { files: 1 });
        assert!(told, "segment {gone}: {damage:?}");
    }
    let report = scan(&Files::new(), &extent);
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].kind, DamageKind::Missing { files: extent.end });
    assert_eq!(report.tail.next_segment, extent.end, "a number is never given twice");
}

#[test]
fn a_segment_born_before_its_note_is_no_damage() {
    let (files, extent, _) = written(30);
    let behind = Extent { end: extent.end - 1, ..extent };
    assert_eq!(scan(&files, &behind).damage, []);
}

#[test]
fn segments_dropped_below_the_lowest_are_no_damage() {
    let (mut files, extent, end) = written(30);
    files.remove(&0);
    files.remove(&1);
    let report = scan(&files, &Extent { lowest: 2, closed: Some(end), ..extent });
    assert_eq!(report.damage, []);
    assert_eq!(report.tail.link.end, end);
}

#[test]
fn the_end_of_a_closed_log_is_not_taken_for_torn() {
    let (mut files, extent, end) = written(3);
    let closed = extent.closed_at(Some(end));
    assert_eq!(scan(&files, &closed).damage, []);
    let file = files.get_mut(&end.segment()).expect("there");
    let last = end.offset() as usize;
    file[last - 512..last].fill(0);
    // Without the note the lost mark cannot be told from one never written: the stated exception.
    assert_eq!(scan(&files, &extent).damage, []);
    let report = scan(&files, &closed);
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    let damage = &report.damage[0];
    assert_eq!((damage.kind, damage.to), (DamageKind::Ended, end.offset()));
    assert_eq!(report.torn, None);
    let sentence = damage.to_string();
    assert!(sentence.contains("at the last clean stop"), "{sentence}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: support::cases(100), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is zeroed or cut in a closed log is reported, if anything of it was written.
    #[test]
    fn nothing_of_a_closed_log_vanishes_in_silence(
        segment in 0_u32..3, sector in 0_usize..32, count in 1_usize..32, cut in any::<bool>(),
    ) {
        let (mut files, extent, end) = written(24);
        let closed = extent.closed_at(Some(end));
        let file = files.get_mut(&segment).expect("there");
        let to = (sector + count).min(32) * 512;
        let lost = file[sector * 512..to].iter().any(|byte| *byte != 0);
        if cut {
            file.truncate(sector * 512);
        } else {
            file[sector * 512..to].fill(0);
        }
        let report = scan(&files, &closed);
        prop_assert_eq!(report.damage.is_empty(), !(lost || cut), "{:?}", report.damage);
    }
}
