//! Crash tests: whatever part of the writes in flight survives, replay serves every acked record, nothing that was
//! never staged, and the same again at every later boot.

mod support;

use proptest::prelude::*;
use ringdesk_persist::{Appender, Geometry, Lsn, RecordRef, Tail, extract};
use support::{Disk, Known, LOG, payload, scan};

#[derive(Clone, Debug)]
enum Step {
    Stage { len: usize, slot: u16 },
    Poll,
    Complete(usize),
    Wait(u64),
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..700, 0_u16..16384).prop_map(|(len, slot)| Step::Stage { len, slot }),
        1 => (700_usize..3400, 0_u16..16384).prop_map(|(len, slot)| Step::Stage { len, slot }),
        6 => Just(Step::Poll),
        6 => (0_usize..4).prop_map(Step::Complete),
        1 => (1_u64..20_000_000).prop_map(Step::Wait),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

fn geometry(align: u32) -> Geometry {
    Geometry {
        segment_bytes: 16 << 10,
        align,
        batch_bytes_max: 4 << 10,
        fill_step_bytes: 4 << 10,
        fill_ahead_bytes: 8 << 10,
        staged_bytes_max: 12 << 10,
        ..Geometry::new(LOG)
    }
}

/// One log over several boots, with what the test knows about it.
struct World {
    geometry: Geometry,
    disk: Disk,
    appender: Appender,
    now_ns: u64,
    /// Records that an earlier boot served: they must stay.
    settled: Vec<Known>,
    /// Records staged in this run, in order.
    staged: Vec<Known>,
    /// Addresses of the durable ones.
    acked: Vec<(Lsn, RecordRef)>,
    number: u64,
}

impl World {
    fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            disk: Disk::default(),
            appender: Appender::new(geometry, Tail::fresh(LOG)),
            now_ns: 0,
            settled: Vec::new(),
            staged: Vec::new(),
            acked: Vec::new(),
            number: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Stage { len, slot } => {
                self.number += 1;
                let known = (*slot, self.number as u32, payload(self.number, *len));
                let room = self.appender.room(known.2.len());
                let result = self.appender.stage(known.0, known.1, &known.2);
                assert_eq!(room, result.is_ok());
                if let Ok(lsn) = result {
                    self.staged.push(known);
                    assert_eq!(lsn.0, self.staged.len() as u64);
                }
            }
            Step::Poll => self.appender.poll(self.now_ns, self.number, &mut self.disk.pending),
            Step::Complete(index) => {
                if self.disk.pending.is_empty() {
                    return;
                }
                let index = index % self.disk.pending.len();
                let done = self.disk.perform(index);
                let flushed = self.appender.complete(done).expect("the disk is good");
                for (lsn, reference) in flushed.records {
                    assert_eq!(lsn.0, self.acked.len() as u64 + 1, "acks are dense");
                    self.acked.push((lsn, reference));
                }
                if let Some(durable) = flushed.durable {
                    assert_eq!(durable.0, self.acked.len() as u64);
                }
            }
            Step::Wait(ns) => self.now_ns += ns,
            Step::Crash(seed) => self.crash(*seed),
        }
    }

    fn crash(&mut self, seed: u64) {
        self.read_back();
        let mut state = seed | 1;
        // One crash in four loses or keeps everything; the others mix.
        let mut keep = || match seed % 8 {
            0 => true,
            1 => false,
            _ => {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 63 == 1
            }
        };
        self.disk.crash(&mut keep);
        let (shown, report) = scan(&self.disk.files, &self.geometry);
        assert_eq!(report.damage, Vec::new(), "a crash is no damage");
        assert_eq!(report.records, shown.len() as u64);
        let shown_at = |index: usize| shown[index].0;
        for (index, (_, reference)) in self.acked.iter().enumerate() {
            assert_eq!(shown_at(self.settled.len() + index), *reference, "the address given at the ack");
        }
        let shown: Vec<Known> = shown.into_iter().map(|(_, known)| known).collect();
        let mut written = std::mem::take(&mut self.settled);
        let least = written.len() + self.acked.len();
        written.append(&mut self.staged);
        assert!(shown.len() >= least, "{} of {least} acked records came back", shown.len());
        assert_eq!(shown, written[..shown.len()], "records come back as staged and in order");
        let (again, second) = scan(&self.disk.files, &self.geometry);
        assert_eq!((again.len(), &second), (shown.len(), &report), "a scan changes nothing");
        self.settled = shown;
        self.acked.clear();
        self.appender = Appender::new(self.geometry, report.tail);
    }

    /// Every acked record can be read alone.
    fn read_back(&self) {
        for (lsn, reference) in &self.acked {
            let file = &self.disk.files[&reference.position.segment()];
            let found = extract(*reference, 0, file, self.appender.generations()).expect("an acked record");
            let (slot, slot_epoch, payload) = &self.staged[lsn.0 as usize - 1];
            assert_eq!((found.slot, found.slot_epoch, &found.payload), (*slot, *slot_epoch, payload));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: support::cases(200), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn acked_records_survive_any_crash(
        steps in proptest::collection::vec(step(), 1..250),
        align in prop_oneof![Just(512_u32), Just(4096)],
        last in any::<u64>(),
    ) {
        let mut world = World::new(geometry(align));
        for step in &steps {
            world.take(step);
        }
        world.crash(last);
        // The log stays usable: what is written after the last crash is there at the next boot.
        world.take(&Step::Stage { len: 100, slot: 1 });
        let flushed = support::settle(&mut world.appender, &mut world.disk, &mut world.now_ns);
        prop_assert_eq!(flushed.iter().map(|flushed| flushed.records.len()).sum::<usize>(), 1);
        world.acked = flushed.into_iter().flat_map(|flushed| flushed.records).collect();
        world.crash(0);
    }
}
