//! A disk that fills up: nothing is lost, nothing that was admitted waits, and the log goes on when there is space.

mod support;

use proptest::prelude::*;
use ringdesk_persist::{Appender, DiskDone, DiskOp, Geometry, Lsn, Tail};
use support::{Disk, LOG, payload, scan};

const ENOSPC: i32 = 28;
const S: u64 = 1_000_000_000;

/// Completes all that is pending; creations find no space while `full`. Gives the number of refused creations.
fn run(appender: &mut Appender, disk: &mut Disk, now_ns: u64, full: bool) -> usize {
    let mut refused = 0;
    loop {
        appender.poll(now_ns, 0, &mut disk.pending);
        if disk.pending.is_empty() {
            return refused;
        }
        let done = match &disk.pending[0] {
            DiskOp::Create { op, .. } if full => {
                let done = DiskDone { op: *op, result: Err(ENOSPC), pages: None };
                disk.pending.remove(0);
                refused += 1;
                done
            }
            _ => disk.perform(0),
        };
        appender.complete(done).expect("no space is no failure");
    }
}

#[test]
fn a_full_disk_is_asked_again_for_the_same_segment() {
    let geometry = Geometry::small(LOG);
    let (mut appender, mut disk) = (Appender::new(geometry, Tail::fresh(LOG)), Disk::default());
    assert_eq!((appender.room_bytes(), appender.reserve_bytes()), (geometry.staged_bytes_max, 0));
    assert_eq!(run(&mut appender, &mut disk, 0, true), 1);
    assert_eq!(appender.space(), (1, Some(ENOSPC)));
    assert_eq!(appender.room_bytes(), 0, "no file, no room");
    let due = appender.next_deadline_ns().expect("another attempt");
    assert!((S..=10 * S).contains(&due), "{due}");
    assert_eq!(run(&mut appender, &mut disk, due - 1, true), 0);
    assert_eq!(run(&mut appender, &mut disk, due, true), 1);
    assert_eq!(run(&mut appender, &mut disk, 10 * due, false), 0);
    assert_eq!(appender.space(), (2, None));
    assert_eq!(disk.files.keys().copied().collect::<Vec<_>>(), [0], "no number is left out");
    appender.stage(1, 1, b"one").expect("room");
    run(&mut appender, &mut disk, 10 * due, false);
    assert_eq!(appender.durable(), Some(Lsn(1)));
    assert!(appender.next_deadline_ns().is_none_or(|at| at > 10 * due), "nothing is retried any more");
    let (shown, report) = scan(&disk.files, &geometry);
    assert_eq!((shown.len(), report.damage.len()), (1, 0));
}

#[test]
fn a_broken_disk_is_not_taken_for_a_full_one() {
    let mut appender = Appender::new(Geometry::small(LOG), Tail::fresh(LOG));
    let mut ops = Vec::new();
    appender.poll(0, 0, &mut ops);
    let done = DiskDone { op: ops[0].op(), result: Err(5), pages: None };
    assert!(appender.complete(done).is_err());
    assert!(appender.is_stopped());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: support::cases(60), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever stages no more than there is room for never waits for space, down to the last byte of the prepared files.
    #[test]
    fn what_was_admitted_is_written_although_the_disk_is_full(
        sizes in proptest::collection::vec(1_usize..3000, 1..40),
        turns in proptest::collection::vec(1_usize..12, 1..40),
        full_after in 0_usize..60,
        wide in any::<bool>(),
    ) {
        let align = if wide { 4096 } else { 512 };
        let geometry = Geometry { align, fill_step_bytes: 8 << 10, ..Geometry::small(LOG) };
        let (mut appender, mut disk) = (Appender::new(geometry, Tail::fresh(LOG)), Disk::default());
        run(&mut appender, &mut disk, 0, false);
        let (mut staged, mut now_ns) = (0_u64, 0);
        for turn in 0..400 {
            // Marks come between the turns and use space too.
            now_ns += 20_000_000;
            let full = turn >= full_after;
            for _ in 0..turns[turn % turns.len()] {
                let bytes = payload(staged, sizes[staged as usize % sizes.len()]);
                if appender.room_bytes() < bytes.len() + 16 {
                    continue;
                }
                staged += 1;
                prop_assert_eq!(appender.stage(1, 1, &bytes), Ok(Lsn(staged)));
            }
            run(&mut appender, &mut disk, now_ns, full);
            prop_assert_eq!(appender.durable(), Some(Lsn(staged)), "turn {}", turn);
        }
        prop_assert!(appender.space().1.is_some() && appender.reserve_bytes() > 0);
        let (shown, report) = scan(&disk.files, &geometry);
        prop_assert_eq!((shown.len() as u64, report.damage.len()), (staged, 0));
        // Space again, and it goes on.
        run(&mut appender, &mut disk, now_ns + 10 * S, false);
        prop_assert_eq!(appender.space().1, None);
        prop_assert!(appender.room_bytes() > 3000);
    }
}
