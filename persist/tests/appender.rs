//! The appender's promises, one by one: group commit, marks, bounds, failures, the space ahead, going on after boot.

mod support;

use ringdesk_persist::{
    Appender, DiskDone, DiskOp, ExtractError, Fatal, Flushed, Full, Generations, Geometry, LogId, Lsn, OpId,
    Pages, RecordRef, Resume, Tail, extract, plan_reads, read_op,
};
use support::{CALLER_OP, Disk, LOG, payload, scan, settle};

const MS: u64 = 1_000_000;

fn quiet() -> Geometry {
    Geometry { fill_ahead_bytes: 0, ..Geometry::small(LOG) }
}

fn fresh(geometry: Geometry) -> Appender {
    Appender::new(geometry, Tail::fresh(LOG))
}

/// An appender whose first segment is there.
fn started(geometry: Geometry) -> (Appender, Disk) {
    let (mut appender, mut disk) = (fresh(geometry), Disk::default());
    appender.poll(0, 0, &mut disk.pending);
    while !disk.pending.is_empty() {
        let done = disk.perform(0);
        appender.complete(done).expect("the disk is good");
        if geometry.fill_ahead_bytes == 0 {
            appender.poll(0, 0, &mut disk.pending);
        }
    }
    (appender, disk)
}

fn writes(disk: &Disk) -> Vec<(u64, usize)> {
    let write = |op: &DiskOp| match op {
        DiskOp::Write { offset, pages, .. } => Some((*offset, pages.len())),
        _ => None,
    };
    disk.pending.iter().filter_map(write).collect()
}

#[test]
fn what_arrives_during_a_write_forms_the_next_batch() {
    let (mut appender, mut disk) = started(quiet());
    assert_eq!((appender.durable(), appender.staged()), (Some(Lsn(0)), Lsn(0)));
    assert_eq!(appender.stage(1, 1, b"one"), Ok(Lsn(1)));
    appender.poll(0, 0, &mut disk.pending);
    assert_eq!(writes(&disk), [(512, 512)]);
    for n in 2..=5 {
        assert_eq!(appender.stage(1, 1, b"more"), Ok(Lsn(n)));
        appender.poll(0, 0, &mut disk.pending);
    }
    assert_eq!(writes(&disk).len(), 1, "one append in flight");
    assert_eq!(appender.durable(), Some(Lsn(0)));
    let done = disk.perform(0);
    let flushed = appender.complete(done).expect("good");
    assert_eq!((flushed.durable, flushed.records.len()), (Some(Lsn(1)), 1));
    appender.poll(0, 0, &mut disk.pending);
    assert_eq!(writes(&disk), [(1024, 512)]);
    let done = disk.perform(0);
    let flushed = appender.complete(done).expect("good");
    assert_eq!(flushed.records.iter().map(|(lsn, _)| lsn.0).collect::<Vec<_>>(), [2, 3, 4, 5]);
    let stats = appender.stats();
    assert_eq!((stats.batches, stats.records, stats.bytes, stats.staged_bytes), (2, 5, 1024, 0));
}

/// The number of the buffer of each write that is pending.
fn numbers(disk: &Disk) -> Vec<Option<u16>> {
    let number = |op: &DiskOp| match op {
        DiskOp::Write { pages, .. } => Some(pages.number()),
        _ => None,
    };
    disk.pending.iter().filter_map(number).collect()
}

#[test]
fn batches_go_through_the_drivers_buffers_before_their_own() {
    let (mut appender, mut disk) = started(quiet());
    // Too small for a batch: let go.
    appender.supply(vec![Pages::numbered(8 << 10, 0), Pages::numbered(4 << 10, 1)]);
    let large = payload(1, 5000);
    // One is written, two more are open, and there is one buffer of the driver's.
    for _ in 0..3 {
        appender.stage(1, 1, &large).expect("room");
        appender.poll(0, 0, &mut disk.pending);
    }
    let mut used = Vec::new();
    for n in 1..=3u64 {
        used.extend(numbers(&disk));
        let done = disk.perform(0);
        assert_eq!(appender.complete(done).expect("good").durable, Some(Lsn(n)));
        appender.poll(0, 0, &mut disk.pending);
    }
    assert_eq!(used, [Some(0), None, None]);
    // Whatever came back last, the driver's is taken first.
    for n in 4..=6u64 {
        appender.stage(1, 1, b"small").expect("room");
        appender.poll(0, 0, &mut disk.pending);
        assert_eq!(numbers(&disk), [Some(0)], "record {n}");
        let done = disk.perform(0);
        appender.complete(done).expect("good");
    }
    let (shown, _) = scan(&disk.files, &quiet());
    assert_eq!(shown.len(), 6);
}

#[test]
fn the_third_supplied_buffer_fills_the_space_ahead() {
    let geometry = Geometry::small(LOG);
    let (mut appender, mut disk) = (fresh(geometry), Disk::default());
    appender.supply((0..3).map(|number| Pages::numbered(8 << 10, number)).collect());
    appender.poll(0, 0, &mut disk.pending);
    let done = disk.perform(0);
    appender.complete(done).expect("the segment is there");
    appender.poll(0, 0, &mut disk.pending);
    assert_eq!(numbers(&disk), [Some(2)], "zeros");
    let done = disk.perform(0);
    appender.complete(done).expect("filled");
    appender.stage(1, 1, b"one").expect("room");
    appender.poll(0, 0, &mut disk.pending);
    assert_eq!(numbers(&disk), [Some(1), Some(2)], "the batch, and more zeros");
}

#[test]
#[should_panic(expected = "what fills a segment is zeros")]
fn a_supplied_buffer_for_zeros_holds_zeros() {
    let mut dirty = Pages::numbered(8 << 10, 2);
    dirty.as_bytes_mut()[8191] = 1;
    fresh(quiet()).supply(vec![Pages::zeroed(8 << 10), Pages::zeroed(8 << 10), dirty]);
}

#[test]
fn an_idle_log_is_marked_once_and_then_silent() {
    let (mut appender, mut disk) = started(quiet());
    assert_eq!(appender.next_deadline_ns(), None, "an empty log needs no mark");
    appender.stage(1, 1, b"one").expect("room");
    appender.poll(5 * MS, 0, &mut disk.pending);
    assert_eq!(appender.next_deadline_ns(), None, "a completion comes first");
    let done = disk.perform(0);
    appender.complete(done).expect("good");
    assert_eq!(appender.next_deadline_ns(), Some(15 * MS));
    appender.poll(15 * MS - 1, 0, &mut disk.pending);
    assert!(disk.pending.is_empty());
    appender.poll(15 * MS, 0, &mut disk.pending);
    assert_eq!(writes(&disk), [(1024, 512)]);
    let done = disk.perform(0);
    assert_eq!(appender.complete(done), Ok(Flushed { durable: Some(Lsn(1)), records: Vec::new() }));
    assert_eq!((appender.stats().marks, appender.next_deadline_ns()), (1, None));
    appender.poll(u64::MAX, 0, &mut disk.pending);
    assert!(disk.pending.is_empty(), "a marked idle log emits nothing");
    let (shown, report) = scan(&disk.files, &quiet());
    assert_eq!((shown.len(), report.batches, report.tail.uncovered), (1, 2, false));
}

#[test]
fn a_mark_that_waits_for_space_does_not_make_the_caller_spin() {
    // One segment takes a header and one batch of 2 KiB; the mark needs the next segment.
    let geometry = Geometry { segment_bytes: 2560, batch_bytes_max: 2048, fill_step_bytes: 512, ..quiet() };
    let (mut appender, mut disk) = (fresh(geometry), Disk::default());
    appender.poll(0, 0, &mut disk.pending);
    let done = disk.perform(0);
    appender.complete(done).expect("good");
    appender.stage(1, 1, &payload(1, 1800)).expect("room");
    appender.poll(0, 0, &mut disk.pending);
    let append = disk.pending.iter().position(|op| matches!(op, DiskOp::Write { .. })).expect("the append");
    let done = disk.perform(append);
    appender.complete(done).expect("good");
    assert_eq!(appender.next_deadline_ns(), Some(10 * MS));
    appender.poll(10 * MS, 0, &mut disk.pending);
    assert!(matches!(disk.pending[..], [DiskOp::Create { segment: 1, .. }]), "{:?}", disk.pending);
    assert_eq!(appender.next_deadline_ns(), None, "the completion wakes the caller");
    let done = disk.perform(0);
    appender.complete(done).expect("good");
    appender.poll(10 * MS, 0, &mut disk.pending);
    assert_eq!(writes(&disk)[0], (512, 512), "the mark, in the next segment");
}

#[test]
fn staging_is_bounded_and_says_which_bound() {
    let geometry = Geometry { staged_bytes_max: 8 << 10, ..quiet() };
    let (mut appender, mut disk) = started(geometry);
    let max = geometry.payload_bytes_max();
    assert_eq!(appender.stage(1, 1, &vec![0; max + 1]), Err(Full::Record));
    assert!(appender.room(max) && !appender.room(max + 1));
    assert_eq!(appender.stage(1, 1, &vec![7; max]), Ok(Lsn(1)), "the largest record fits a batch of its own");
    assert_eq!(appender.stage(1, 1, &[0; 1000]), Err(Full::Staging));
    let left = appender.room_bytes();
    assert_eq!(left, (8 << 10) - max - 16);
    appender.poll(0, 0, &mut disk.pending);
    assert_eq!(writes(&disk), [(512, geometry.batch_bytes_max as usize)]);
    assert_eq!(appender.stage(1, 1, &[0; 1000]), Err(Full::Staging), "in flight still counts");
    let done = disk.perform(0);
    appender.complete(done).expect("good");
    assert_eq!(appender.stage(1, 1, &[0; 1000]), Ok(Lsn(2)));
}

#[test]
fn a_failed_operation_stops_the_log_for_good() {
    type Failure = (Result<u32, i32>, Option<i32>);
    let failures: [Failure; 2] = [(Err(5), Some(5)), (Ok(0), None)];
    for (result, errno) in failures {
        let (mut appender, mut disk) = started(quiet());
        appender.stage(1, 1, b"one").expect("room");
        appender.poll(0, 0, &mut disk.pending);
        let op = disk.pending.remove(0).op();
        let fatal = appender.complete(DiskDone { op, result, pages: None }).expect_err("a failure is fatal");
        let file = "log/0003/00000000.seg".to_owned();
        assert_eq!(fatal, Fatal { what: "write", file, offset: 512, errno });
        assert!(appender.is_stopped());
        assert_eq!(appender.durable(), Some(Lsn(0)));
        assert_eq!(appender.stage(1, 1, b"two"), Err(Full::Stopped));
        assert!(!appender.room(1));
        appender.poll(u64::MAX, 0, &mut disk.pending);
        assert!(disk.pending.is_empty(), "nothing is retried");
        assert_eq!(appender.next_deadline_ns(), None);
    }
    let (mut appender, mut ops) = (fresh(quiet()), Vec::new());
    appender.poll(0, 0, &mut ops);
    let fatal = appender.complete(DiskDone { op: ops[0].op(), result: Err(5), pages: None });
    assert_eq!(fatal.expect_err("the disk is broken").what, "creation");
}

#[test]
fn nothing_becomes_durable_after_a_failed_fill() {
    let geometry = Geometry::small(LOG);
    let (mut appender, mut disk) = started(geometry);
    appender.stage(1, 1, b"one").expect("room");
    appender.poll(0, 0, &mut disk.pending);
    assert_eq!(writes(&disk).len(), 2, "an append and a fill");
    let fill = disk.pending.remove(1).op();
    let fatal = appender.complete(DiskDone { op: fill, result: Err(5), pages: None }).expect_err("fatal");
    assert_eq!(fatal.what, "fill");
    let done = disk.perform(0);
    let flushed = appender.complete(done).expect("the append itself went well");
    assert_eq!(flushed, Flushed { durable: Some(Lsn(0)), records: Vec::new() });
}

#[test]
#[should_panic(expected = "is not in flight")]
fn a_completion_twice_is_a_broken_driver() {
    let (mut appender, mut disk) = started(quiet());
    appender.stage(1, 1, b"one").expect("room");
    appender.poll(0, 0, &mut disk.pending);
    let done = disk.perform(0);
    let op = done.op;
    appender.complete(done).expect("good");
    let _ = appender.complete(DiskDone { op, result: Ok(512), pages: None });
}

#[test]
fn a_new_log_writes_before_anything_is_filled() {
    let (mut appender, mut disk) = (fresh(Geometry::new(LOG)), Disk::default());
    appender.stage(1, 1, b"one").expect("room");
    appender.poll(0, 0, &mut disk.pending);
    assert!(matches!(disk.pending[..], [DiskOp::Create { segment: 0, bytes: 0x400_0000, .. }]));
    let done = disk.perform(0);
    appender.complete(done).expect("good");
    appender.poll(0, 0, &mut disk.pending);
    assert_eq!(writes(&disk)[0], (512, 512), "the append comes first");
    assert_eq!(writes(&disk)[1], (1024, 1 << 20), "then zeros behind it, one step");
}

#[test]
fn the_space_ahead_grows_in_steps_and_spans_segments() {
    let geometry = Geometry::small(LOG);
    let (mut appender, mut disk) = (fresh(geometry), Disk::default());
    let mut now_ns = 0;
    let mut number = 0_u64;
    let mut behind = 0;
    for _ in 0..400 {
        number += 1;
        appender.stage(1, 1, &payload(number, 700)).expect("room");
        appender.poll(now_ns, 0, &mut disk.pending);
        let creates = disk.pending.iter().filter(|op| matches!(op, DiskOp::Create { .. })).count();
        assert!(creates <= 1 && writes(&disk).len() <= 2, "one creation, one append, one fill at most");
        while !disk.pending.is_empty() {
            let done = disk.perform(0);
            appender.complete(done).expect("good");
            appender.poll(now_ns, 0, &mut disk.pending);
        }
        behind += usize::from(appender.durable() != Some(Lsn(number)));
    }
    assert_eq!(behind, 0, "no batch waited for space once its turn came");
    settle(&mut appender, &mut disk, &mut now_ns);
    let (shown, report) = scan(&disk.files, &geometry);
    assert_eq!((shown.len(), report.damage.len(), report.torn), (400, 0, None));
    assert!(disk.files.len() >= 6, "several segments, the next one ready");
    assert_eq!(appender.generations(), &report.tail.generations);
}

#[test]
fn after_replay_the_sync_comes_before_everything_else() {
    let (mut appender, mut disk) = started(quiet());
    appender.stage(1, 1, b"one").expect("room");
    appender.poll(0, 0, &mut disk.pending);
    let done = disk.perform(0);
    appender.complete(done).expect("good");

    let (_, report) = scan(&disk.files, &quiet());
    let mut appender = Appender::new(quiet(), report.tail);
    assert_eq!(appender.durable(), None, "what replay read may still be in a volatile cache");
    appender.stage(1, 1, b"two").expect("room");
    appender.poll(0, 0, &mut disk.pending);
    appender.poll(50 * MS, 0, &mut disk.pending);
    assert!(matches!(disk.pending[..], [DiskOp::Sync { segment: 0, .. }]), "{:?}", disk.pending);
    let done = disk.perform(0);
    assert_eq!(appender.complete(done).expect("good").durable, Some(Lsn(0)));
    appender.poll(50 * MS, 0, &mut disk.pending);
    assert_eq!(writes(&disk), [(1024, 512)], "right behind the last batch");
}

#[test]
fn an_unmarked_log_is_marked_after_boot() {
    let (mut appender, mut disk) = started(quiet());
    appender.stage(1, 1, b"one").expect("room");
    appender.poll(0, 0, &mut disk.pending);
    let done = disk.perform(0);
    appender.complete(done).expect("good");
    let (_, report) = scan(&disk.files, &quiet());
    assert!(report.tail.uncovered);
    let (mut appender, mut now_ns) = (Appender::new(quiet(), report.tail), 0);
    settle(&mut appender, &mut disk, &mut now_ns);
    assert_eq!((appender.stats().marks, now_ns), (1, 10 * MS));
}

#[test]
fn a_torn_write_is_left_alone_and_stays_cut() {
    // The head of the torn batch is lost, two of its body sectors stayed; and the other way round.
    for keep in [[false, true, true], [true, false, true], [true, true, false]] {
        let (mut appender, mut disk) = started(quiet());
        appender.stage(1, 1, b"acked").expect("room");
        appender.poll(0, 0, &mut disk.pending);
        let done = disk.perform(0);
        appender.complete(done).expect("good");
        appender.stage(1, 1, &payload(2, 1200)).expect("room");
        appender.poll(0, 0, &mut disk.pending);
        assert_eq!(writes(&disk), [(1024, 1536)]);
        let mut sectors = keep.iter().copied();
        disk.crash(&mut || sectors.next().expect("three sectors"));

        let before = disk.files[&0].clone();
        let (shown, report) = scan(&disk.files, &quiet());
        assert_eq!((shown.len(), report.damage.len()), (1, 0));
        let torn = report.torn.expect("a tear");
        assert!(torn.from.offset() >= 1024 && torn.to.offset() == 2560, "{torn:?}");
        assert_eq!(report.tail.resume, Resume::Roll);
        let (mut appender, mut now_ns) = (Appender::new(quiet(), report.tail), 0);
        appender.stage(1, 1, b"later").expect("room");
        settle(&mut appender, &mut disk, &mut now_ns);
        assert!(disk.files[&0] == before, "the torn file is not written to");
        let (shown, report) = scan(&disk.files, &quiet());
        assert_eq!((shown.len(), report.damage.len(), report.torn), (2, 0, None));

        // A write that was late after all makes the cut batch whole: it stays cut, because the chain left it out.
        let mut late = disk.files.clone();
        late.get_mut(&0).expect("there")[1024..2560].copy_from_slice(&late_batch());
        let (shown, report) = scan(&late, &quiet());
        let payloads: Vec<&[u8]> = shown.iter().map(|(_, known)| &known.2[..]).collect();
        assert_eq!(payloads, [&b"acked"[..], b"later"]);
        assert_eq!(report.damage.len(), 0);
    }
}

/// The bytes of the batch that `a_torn_write_is_left_alone_and_stays_cut` tears, whole.
fn late_batch() -> Vec<u8> {
    let (mut appender, mut disk) = started(quiet());
    for payload in [b"acked".to_vec(), payload(2, 1200)] {
        appender.stage(1, 1, &payload).expect("room");
        appender.poll(0, 0, &mut disk.pending);
        let done = disk.perform(0);
        appender.complete(done).expect("good");
    }
    disk.files[&0][1024..2560].to_vec()
}

#[test]
fn records_are_read_alone_and_together() {
    let geometry = Geometry::small(LOG);
    let (mut appender, mut disk) = (fresh(geometry), Disk::default());
    let mut now_ns = 0;
    let mut records: Vec<RecordRef> = Vec::new();
    for number in 0..60 {
        appender.stage(number as u16, 4, &payload(number, 20 + number as usize * 17)).expect("room");
        let flushed = settle(&mut appender, &mut disk, &mut now_ns);
        records.extend(flushed.into_iter().flat_map(|flushed| flushed.records).map(|(_, at)| at));
    }
    for align in [512, 4096] {
        let spans = plan_reads(&records, align, 4096, 16 << 10);
        assert!(spans.len() < records.len() / 2, "neighbours share reads: {} reads", spans.len());
        assert_eq!(spans.iter().map(|span| span.records.len()).sum::<usize>(), records.len());
        for span in spans {
            assert!(span.offset.is_multiple_of(align) && span.bytes.is_multiple_of(align));
            assert!(span.bytes <= 16 << 10);
            disk.pending.push(span.op(CALLER_OP));
            let done = disk.perform(0);
            let pages = done.pages.expect("a buffer");
            for index in span.records.clone() {
                let found = extract(records[index], span.offset, pages.as_bytes(), appender.generations());
                let found = found.expect("a good record");
                assert_eq!((found.slot, found.slot_epoch), (index as u16, 4));
                assert_eq!(found.payload, payload(index as u64, 20 + index * 17));
                assert_eq!(records[index].payload_len(), found.payload.len());
            }
        }
    }
    let DiskOp::Read { offset, pages, .. } = read_op(records[5], OpId(9), 512) else { panic!("a read") };
    assert!(offset <= u64::from(records[5].position.offset()) && !pages.is_empty());
    assert_eq!(plan_reads(&records[..1], 512, 0, 512).len(), 1, "a record larger than the cap is still read");
}

#[test]
fn what_is_not_the_record_is_refused() {
    let (mut appender, mut disk) = started(quiet());
    appender.stage(1, 1, &payload(1, 600)).expect("room");
    let mut now_ns = 0;
    let flushed = settle(&mut appender, &mut disk, &mut now_ns);
    let at = flushed[0].records[0].1;
    let mut file = disk.files[&0].clone();
    let known = appender.generations().clone();
    assert!(extract(at, 0, &file, &known).is_ok());
    assert_eq!(extract(at, 0, &file, &Generations::default()), Err(ExtractError::UnknownSegment));
    assert_eq!(extract(at, 0, &file[..1024], &known), Err(ExtractError::NotCovered));
    assert_eq!(extract(at, 1024, &file[1024..], &known), Err(ExtractError::NotCovered));
    let longer = RecordRef { len: at.len + 1, ..at };
    assert_eq!(extract(longer, 0, &file, &known), Err(ExtractError::Record));
    assert_eq!(extract(RecordRef { len: 3, ..at }, 0, &file, &known), Err(ExtractError::Record));
    let huge = RecordRef { len: u32::MAX, ..at };
    assert_eq!(extract(huge, 0, &file, &known), Err(ExtractError::NotCovered));
    let mut newer = Generations::default();
    newer.insert(LogId(3), 0, 2);
    assert!(
        matches!(extract(at, 0, &file, &newer), Err(ExtractError::Sector(_))),
        "another life of the file"
    );
    file[1100] ^= 1;
    let Err(ExtractError::Sector(damaged)) = extract(at, 0, &file, &known) else { panic!("a flipped bit") };
    assert_eq!(damaged.offset(), 1024);
}

#[test]
fn a_payload_that_looks_like_a_record_is_not_one() {
    // Inside the payload: a record header of 36 bytes, as anyone could send it, with a checksum made up.
    let mut forged = 36_u32.to_le_bytes().to_vec();
    forged.extend([0; 12]);
    forged.extend([b'x'; 20]);
    let (mut appender, mut disk) = started(quiet());
    appender.stage(1, 1, &forged).expect("room");
    let mut now_ns = 0;
    let real = settle(&mut appender, &mut disk, &mut now_ns)[0].records[0].1;
    let inside = real.position.offset() + 16;
    let position = ringdesk_persist::Position::new(LOG, 0, inside);
    let found = extract(RecordRef { position, len: 36 }, 0, &disk.files[&0], appender.generations());
    assert_eq!(found, Err(ExtractError::Record));
}
