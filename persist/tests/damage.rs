//! Damage tests: whatever happens to written sectors, replay serves only what was written, and says what it does not
//! serve. Only the loss of the unmarked last batch may pass for a torn tail.

mod support;

use proptest::prelude::*;
use ringdesk_persist::{
    Appender, Damage, DamageKind, Geometry, LogReport, RecordRef, Resume, Tail, UNREADABLE,
};
use std::collections::BTreeMap;
use support::{Disk, Known, LOG, payload, plan, scan, settle};

type Files = BTreeMap<u32, Vec<u8>>;

/// A written log: its files and its records.
#[derive(Clone)]
struct Written {
    geometry: Geometry,
    files: Files,
    records: Vec<(RecordRef, Known)>,
}

/// Writes batches of `sizes` (payload lengths), one batch per inner list, with a mark at the end if `marked`.
fn write(segment_bytes: u32, sizes: &[Vec<usize>], marked: bool) -> Written {
    let geometry = Geometry {
        segment_bytes,
        batch_bytes_max: 4 << 10,
        fill_step_bytes: 4 << 10,
        fill_ahead_bytes: 0,
        staged_bytes_max: 16 << 10,
        ..Geometry::new(LOG)
    };
    let (mut disk, mut now_ns, mut number) = (Disk::default(), 0, 0_u64);
    let mut appender = Appender::new(geometry, Tail::fresh(LOG));
    let (mut records, mut staged) = (Vec::new(), Vec::new());
    for batch in sizes {
        for len in batch {
            number += 1;
            let known = ((number % 7) as u16, 5, payload(number, *len));
            appender.stage(known.0, known.1, &known.2).expect("room");
            staged.push(known);
        }
        appender.poll(now_ns, 0, &mut disk.pending);
        while !disk.pending.is_empty() {
            let done = disk.perform(0);
            let flushed = appender.complete(done).expect("the disk is good");
            records.extend(
                flushed.records.into_iter().map(|(lsn, at)| (at, staged[lsn.0 as usize - 1].clone())),
            );
            appender.poll(now_ns, 0, &mut disk.pending);
        }
    }
    if marked {
        settle(&mut appender, &mut disk, &mut now_ns);
    }
    assert_eq!(records.len(), number as usize);
    Written { geometry, files: disk.files, records }
}

fn small(marked: bool) -> Written {
    // Batches of one and of many sectors, a record over several sectors, a batch that ends exactly on a sector.
    let exactly = 504 - 56 - 16;
    write(8 << 10, &[vec![10, 20, 30], vec![900, 5, 200], vec![exactly], vec![8; 12], vec![600, 600]], marked)
}

fn blank(files: &Files, segment: u32, sector: usize) -> bool {
    files[&segment][sector * 512..][..512].iter().all(|b| *b == 0)
}

fn covers(damage: &[Damage], segment: u32, offset: u32) -> bool {
    damage.iter().any(|d| d.segment == segment && d.from <= offset && offset < d.to)
}

/// What must hold of every scan, whatever was done to the files: records shown were written, in order; each record
/// not shown is named as lost, counted as unknown, or lies in a reported range.
fn honest(written: &Written, shown: &[(RecordRef, Known)], report: &LogReport) {
    let mut rest = shown.iter().peekable();
    let named = |at: RecordRef| report.damage.iter().any(|d| d.lost.iter().any(|lost| lost.reference == at));
    let unknown: u64 = report.damage.iter().map(|d| d.records_unknown).sum();
    let mut uncounted = 0;
    for record in &written.records {
        if rest.peek() == Some(&record) {
            rest.next();
            continue;
        }
        let position = record.0.position;
        if !named(record.0) && !covers(&report.damage, position.segment(), position.offset()) {
            uncounted += 1;
        }
    }
    assert_eq!(rest.next(), None, "a record that was not written, or out of order");
    // The damaged range of a batch is that of its bad sectors; records behind them are only counted.
    assert!(uncounted <= unknown, "{uncounted} records vanished without a report: {report:?}");
}

/// A later boot tells the same story, and what it adds is there.
fn story_goes_on(written: &Written, files: &Files) {
    let (shown, report) = scan(files, &written.geometry);
    let mut disk = Disk { files: files.clone(), pending: Vec::new() };
    let (mut appender, mut now_ns) = (Appender::new(written.geometry, report.tail.clone()), 0);
    appender.stage(9, 9, b"after").expect("room");
    settle(&mut appender, &mut disk, &mut now_ns);
    let (again, second) = scan(&disk.files, &written.geometry);
    assert_eq!(again[..shown.len()], shown, "records served once are served again");
    assert_eq!(again.len(), shown.len() + 1, "and the new one: {second:?}");
    assert_eq!(again.last().map(|(_, known)| known.clone()), Some((9, 9, b"after".to_vec())));
    assert_eq!(second.damage.is_empty(), report.damage.is_empty(), "damage stays known: {second:?}");
    assert_eq!(second.torn, None);
}

#[test]
fn a_healthy_log_is_served_whole() {
    for marked in [false, true] {
        let written = small(marked);
        let (shown, report) = scan(&written.files, &written.geometry);
        assert_eq!(shown, written.records);
        assert_eq!((report.damage.len(), report.torn), (0, None));
        assert_eq!(report.tail.uncovered, !marked);
        assert!(matches!(report.tail.resume, Resume::Here { .. }));
        story_goes_on(&written, &written.files);
    }
}

/// One flipped bit in a written sector is always reported as damage that covers it, and never taken for a tear.
fn flip_every_bit(written: &Written) {
    let mut files = written.files.clone();
    for (segment, len) in written.files.iter().map(|(segment, file)| (*segment, file.len())) {
        for bit in 0..len * 8 {
            if bit % 37 != 0 && blank(&written.files, segment, bit / 4096) {
                continue;
            }
            files.get_mut(&segment).expect("there")[bit / 8] ^= 1 << (bit % 8);
            let (shown, report) = scan(&files, &written.geometry);
            honest(written, &shown, &report);
            assert_eq!(report.torn, None, "bit {bit} passed for a tear");
            if blank(&written.files, segment, bit / 4096) {
                assert_eq!(shown, written.records, "a flip outside of what was written loses nothing");
            } else {
                assert!(covers(&report.damage, segment, bit as u32 / 8), "bit {bit}: {:?}", report.damage);
            }
            if bit % 509 == 0 {
                story_goes_on(written, &files);
            }
            files.get_mut(&segment).expect("there")[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_flipped_bit_marked() {
    flip_every_bit(&small(true));
}

#[test]
fn every_flipped_bit_of_an_unmarked_log() {
    flip_every_bit(&small(false));
}

/// The long campaign: 64 KiB in four segments. `PERSIST_LONG=1` turns it on.
#[test]
fn every_flipped_bit_of_64_kib_when_asked() {
    let step = vec![100, 700, 30, 1500];
    let batches: Vec<Vec<usize>> =
        if std::env::var_os("PERSIST_LONG").is_some() { vec![step; 20] } else { vec![step; 2] };
    let segment_bytes = if batches.len() == 2 { 8 << 10 } else { 16 << 10 };
    let written = write(segment_bytes, &batches, true);
    flip_every_bit(&written);
}

#[test]
fn every_truncation_is_damage() {
    let written = small(true);
    for len in 0..written.files[&0].len() {
        let mut files = written.files.clone();
        files.get_mut(&0).expect("there").truncate(len);
        let (shown, report) = scan(&files, &written.geometry);
        honest(&written, &shown, &report);
        let short =
            |d: &Damage| d.kind == DamageKind::Short && d.segment == 0 && d.from == len as u32 / 512 * 512;
        assert!(report.damage.iter().any(short), "{len} bytes: {:?}", report.damage);
        assert_eq!(report.torn, None);
        assert!(report.tail.gap_damaged, "acked batches may have stood in what is missing");
        assert_eq!(report.tail.resume, Resume::Roll, "nothing is written to a short file");
        if len % 101 == 0 {
            story_goes_on(&written, &files);
        }
    }
}

#[test]
fn swapped_and_copied_sectors_are_noticed() {
    let written = small(true);
    let sectors = written.files[&0].len() / 512;
    for a in 0..sectors {
        for b in 0..sectors {
            if a == b || blank(&written.files, 0, a) {
                continue;
            }
            for swap in [true, false] {
                let mut files = written.files.clone();
                let file = files.get_mut(&0).expect("there");
                let (first, second) = (file[a * 512..][..512].to_vec(), file[b * 512..][..512].to_vec());
                file[b * 512..][..512].copy_from_slice(&first);
                if swap {
                    file[a * 512..][..512].copy_from_slice(&second);
                }
                let (shown, report) = scan(&files, &written.geometry);
                honest(&written, &shown, &report);
                assert!(covers(&report.damage, 0, b as u32 * 512), "{a} -> {b}, swap {swap}: {report:?}");
            }
        }
    }
}

#[test]
fn sectors_and_files_of_another_segment_or_log_are_noticed() {
    let batches = vec![vec![900, 900, 900]; 6];
    let written = write(8 << 10, &batches, true);
    assert!(written.files.len() >= 3);
    for sector in 1..16 {
        let mut files = written.files.clone();
        let from = files[&0][sector * 512..][..512].to_vec();
        files.get_mut(&1).expect("there")[sector * 512..][..512].copy_from_slice(&from);
        let (shown, report) = scan(&files, &written.geometry);
        honest(&written, &shown, &report);
        if from.iter().any(|b| *b != 0) {
            assert!(!report.damage.is_empty(), "sector {sector} of another segment went unnoticed");
        }
    }
    let mut files = written.files.clone();
    let copy = files[&0].clone();
    files.insert(1, copy);
    let (shown, report) = scan(&files, &written.geometry);
    honest(&written, &shown, &report);
    assert!(covers(&report.damage, 1, 512), "a whole file of another number: {report:?}");
    story_goes_on(&written, &files);
}

#[test]
fn missing_unreadable_and_headless_segments() {
    let written = write(8 << 10, &vec![vec![900, 900, 900]; 6], true);
    let records_in =
        |segment: u32| written.records.iter().filter(|(at, _)| at.position.segment() == segment).count();
    let mut files = written.files.clone();
    files.remove(&1);
    let (shown, report) = scan(&files, &written.geometry);
    honest(&written, &shown, &report);
    assert_eq!(shown.len(), written.records.len() - records_in(1));
    assert!(report.damage.iter().any(|d| d.kind == DamageKind::Missing { files: 1 } && d.segment == 1));
    let lost: u64 = report.damage.iter().map(|d| d.batches_lost).sum();
    assert_eq!(lost as usize * 3, records_in(1), "batch numbers tell how many are lost");
    story_goes_on(&written, &files);

    let mut shown = Vec::new();
    let sources = written.files.iter().map(|(n, bytes)| (*n, if *n == 1 { Err(5) } else { Ok(bytes) }));
    let report = ringdesk_persist::scan_log(plan(&written.geometry), sources, &mut |record| {
        shown.push(record.reference);
    });
    let report = report.expect("in order");
    assert_eq!(shown.len(), written.records.len() - records_in(1));
    assert!(report.damage.iter().any(|d| d.kind == DamageKind::Unreadable(5) && d.segment == 1));

    let mut files = written.files.clone();
    files.get_mut(&1).expect("there")[..512].copy_from_slice(&UNREADABLE);
    let (shown, report) = scan(&files, &written.geometry);
    assert_eq!(shown, written.records, "a damaged header loses no batch");
    assert_eq!(report.damage.iter().map(|d| d.kind).collect::<Vec<_>>(), [DamageKind::Header]);
    story_goes_on(&written, &files);
}

#[test]
fn a_batch_lost_by_the_disk_is_damage_once_a_mark_covers_it() {
    for marked in [true, false] {
        let written = small(marked);
        let at = written.records[written.records.len() - 1].0;
        let from = written.records[written.records.len() - 2].0.position.offset() as usize / 512 * 512;
        let end = (at.position.offset() as usize + at.len as usize).next_multiple_of(512);
        let mut files = written.files.clone();
        files.get_mut(&0).expect("there")[from..end].fill(0);
        let (shown, report) = scan(&files, &written.geometry);
        assert_eq!(shown, written.records[..written.records.len() - 2]);
        if marked {
            assert!(covers(&report.damage, 0, from as u32), "{report:?}");
            assert_eq!(report.damage[0].batches_lost, 1);
        } else {
            assert_eq!(report.damage, Vec::new(), "the stated exception: an unmarked last batch, lost whole");
        }
        story_goes_on(&written, &files);
    }
}

/// Writes one record into segment `segment` with generation `generation`, as a log with that history would.
fn stale_segment(geometry: Geometry, segment: u32, generation: u32) -> Vec<u8> {
    let tail = Tail { next_segment: segment, next_generation: generation, ..Tail::fresh(LOG) };
    let (mut appender, mut disk, mut now_ns) = (Appender::new(geometry, tail), Disk::default(), 0);
    appender.stage(1, 1, b"from another life").expect("room");
    settle(&mut appender, &mut disk, &mut now_ns);
    disk.files.remove(&segment).expect("written")
}

#[test]
fn a_file_of_an_older_generation_is_not_read() {
    let written = small(true);
    let mut files = written.files.clone();
    files.insert(1, stale_segment(written.geometry, 1, 1));
    let (shown, report) = scan(&files, &written.geometry);
    assert_eq!(shown, written.records);
    assert_eq!(report.damage.iter().map(|d| d.kind).collect::<Vec<_>>(), [DamageKind::Generation]);
    story_goes_on(&written, &files);
    // With a newer generation it is read, and its batch fits no chain.
    files.insert(1, stale_segment(written.geometry, 1, 9));
    let (shown, report) = scan(&files, &written.geometry);
    assert_eq!(shown, written.records);
    assert_eq!(report.damage.first().map(|d| d.kind), Some(DamageKind::Stray));
    story_goes_on(&written, &files);
}

#[test]
fn an_empty_segment_below_the_tail_is_no_spare() {
    let written = small(true);
    let (_, report) = scan(&written.files, &written.geometry);
    assert_eq!(report.tail.spare.map(|spare| spare.segment), Some(1));
    // A boot that rolls past the spare leaves it empty in the middle.
    let tail = Tail { spare: None, resume: Resume::Roll, ..report.tail };
    let mut disk = Disk { files: written.files.clone(), pending: Vec::new() };
    let (mut appender, mut now_ns) = (Appender::new(written.geometry, tail), 0);
    appender.stage(9, 9, b"in segment 2").expect("room");
    settle(&mut appender, &mut disk, &mut now_ns);
    let (shown, report) = scan(&disk.files, &written.geometry);
    assert_eq!((shown.len(), report.damage.len()), (written.records.len() + 1, 0));
    assert_eq!(report.tail.link.end.segment(), 2);
    assert_ne!(report.tail.spare.map(|spare| spare.segment), Some(1), "the log never goes back");
}

#[test]
fn a_record_header_cut_by_a_bad_sector_names_no_slot() {
    // The second record's header starts 4 bytes before the sector's end: its length is legible, its epoch is not.
    let first = 504 - 56 - 16 - 6;
    let written = write(8 << 10, &[vec![first, 300, 300]], true);
    assert_eq!(written.records[1].0.position.offset() % 512, 506);
    let mut files = written.files.clone();
    files.get_mut(&0).expect("there")[1024..1536].copy_from_slice(&UNREADABLE);
    let (shown, report) = scan(&files, &written.geometry);
    assert_eq!(shown, written.records[..1]);
    let damage = &report.damage[0];
    assert_eq!((damage.kind, damage.from, damage.to), (DamageKind::Batch, 1024, 1536));
    assert_eq!(
        (damage.lost.len(), damage.records_unknown),
        (0, 2),
        "a guessed slot would blame the wrong people"
    );
}

#[test]
fn a_record_with_a_bad_payload_sector_is_named_and_the_rest_is_served() {
    let written = write(8 << 10, &[vec![100, 1200, 50]], true);
    let mut files = written.files.clone();
    files.get_mut(&0).expect("there")[1024..1536].copy_from_slice(&UNREADABLE);
    let (shown, report) = scan(&files, &written.geometry);
    assert_eq!(shown, [written.records[0].clone(), written.records[2].clone()]);
    let lost = &report.damage[0].lost;
    assert_eq!(lost.iter().map(|lost| lost.reference).collect::<Vec<_>>(), [written.records[1].0]);
    assert_eq!((lost[0].slot, lost[0].slot_epoch), (written.records[1].1.0, 5));
    let sentence = report.damage[0].to_string();
    assert!(sentence.starts_with("log/0003/00000000.seg bytes 1024..1536: sectors of a batch"), "{sentence}");
    assert!(sentence.contains("1 record lost in slot 2"), "{sentence}");
}

/// Batch 1 is acknowledged. Batch 2, with a record in each of two sectors, is torn: its second sector was never
/// written. A boot cuts it, and what takes its place in the next segment is acknowledged.
fn cut_and_replaced() -> (Written, Disk) {
    let mut written = write(8 << 10, &[vec![10]], false);
    let (_, report) = scan(&written.files, &written.geometry);
    let mut disk = Disk { files: written.files.clone(), pending: Vec::new() };
    let mut appender = Appender::new(written.geometry, report.tail);
    appender.stage(2, 5, &payload(2, 40)).expect("room");
    appender.stage(3, 5, &payload(3, 600)).expect("room");
    appender.poll(0, 0, &mut disk.pending);
    // What replay read is synced before anything is written.
    let synced = disk.perform(0);
    appender.complete(synced).expect("the disk is good");
    appender.poll(0, 0, &mut disk.pending);
    let mut sector = 0;
    disk.crash(&mut || {
        sector += 1;
        sector == 1
    });
    let (shown, report) = scan(&disk.files, &written.geometry);
    assert_eq!((shown.len(), report.damage.len()), (1, 0));
    assert!(report.torn.is_some());
    written.files = disk.files.clone();
    let (mut appender, mut now_ns) = (Appender::new(written.geometry, report.tail), 0);
    appender.stage(2, 5, b"in its place").expect("room");
    settle(&mut appender, &mut disk, &mut now_ns);
    (written, disk)
}

const CUT_BODY: std::ops::Range<usize> = 1536..2048;

#[test]
fn a_batch_that_was_cut_does_not_come_back_when_what_replaced_it_is_damaged() {
    let (written, disk) = cut_and_replaced();
    let mut files = disk.files.clone();
    files.get_mut(&0).expect("there")[CUT_BODY].copy_from_slice(&UNREADABLE);
    assert_eq!(scan(&files, &written.geometry).0.len(), 2, "cut for good while its successor says so");
    // The successors' heads go as well. Record 2 is legible, but was never acknowledged, and another took its number.
    for sector in [1, 2] {
        assert!(!blank(&files, 1, sector), "a batch and its mark");
        files.get_mut(&1).expect("there")[sector * 512 + 40] ^= 4;
    }
    let (shown, report) = scan(&files, &written.geometry);
    assert_eq!(shown, written.records);
    assert!(covers(&report.damage, 0, 1024) && covers(&report.damage, 1, 512), "{report:?}");
    let damage = &report.damage[0];
    assert_eq!((damage.kind, damage.from, damage.to), (DamageKind::Doubtful, 1024, 2048));
    let slots: Vec<_> = damage.lost.iter().map(|lost| lost.slot).collect();
    assert_eq!((damage.batches_lost, &slots[..], damage.records_unknown), (1, &[2, 3][..], 0));
    let sentence = damage.to_string();
    assert!(sentence.ends_with("cut is lost; 1 batch lost; 2 records lost in slots 2 3"), "{sentence}");
    story_goes_on(&written, &files);
}

#[test]
fn a_damaged_last_batch_is_served_where_nothing_followed_or_the_end_is_known() {
    let (written, _) = cut_and_replaced();
    let mut files = written.files.clone();
    files.get_mut(&0).expect("there")[CUT_BODY].copy_from_slice(&UNREADABLE);
    let (shown, report) = scan(&files, &written.geometry);
    assert_eq!(shown.len(), 2, "nothing was written after it: it may have been acknowledged");
    assert_eq!(report.damage[0].kind, DamageKind::Batch);
    story_goes_on(&written, &files);
    // A spare whose header is gone may have held anything, unless EXTENT knows that the log ended before it.
    files.insert(1, [&UNREADABLE[..], &[0; (8 << 10) - 512]].concat());
    let end = report.tail.link.end;
    for (closed, count) in [(None, 1), (Some(end), 2)] {
        let plan = ringdesk_persist::ScanPlan { closed, ..plan(&written.geometry) };
        let sources = files.iter().map(|(segment, bytes)| (*segment, Ok(bytes)));
        let mut records = 0;
        let report = ringdesk_persist::scan_log(plan, sources, &mut |_| records += 1).expect("in order");
        assert_eq!(records, count, "{closed:?}: {report:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: support::cases(300), failure_persistence: None, ..ProptestConfig::default() })]

    /// Runs of sectors overwritten with zeros, noise or the unreadable pattern, over several segments.
    #[test]
    fn any_damage_is_reported_or_harmless(
        wounds in proptest::collection::vec((0_u32..4, 0_usize..16, 1_usize..6, 0_u8..3), 1..5),
        marked in any::<bool>(),
    ) {
        let batches: Vec<Vec<usize>> =
            (0..12).map(|i| vec![40 + i * 13; 1 + i % 5]).chain([vec![1200, 1200]]).collect();
        let written = write(8 << 10, &batches, marked);
        let mut files = written.files.clone();
        for (segment, sector, count, kind) in wounds.iter().copied() {
            let Some(file) = files.get_mut(&segment) else { continue };
            for sector in sector..(sector + count).min(16) {
                let bytes = &mut file[sector * 512..][..512];
                match kind {
                    0 => bytes.fill(0),
                    1 => bytes.copy_from_slice(&UNREADABLE),
                    _ => bytes.iter_mut().enumerate().for_each(|(i, b)| *b = b.wrapping_mul(17) ^ i as u8),
                }
            }
        }
        let (shown, report) = scan(&files, &written.geometry);
        // Zeros over the end of the log look like a tear: only what lies behind the end of the chain may go unsaid.
        let zeros = wounds.iter().any(|wound| wound.3 == 0);
        let end = report.tail.link.end;
        let known = written.records.iter().filter(|(at, _)| !zeros || at.position < end).cloned().collect();
        honest(&Written { records: known, ..written.clone() }, &shown, &report);
        story_goes_on(&written, &files);
    }
}
