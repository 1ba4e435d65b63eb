//! The logs that are tortured, with what the test knows of them: taken from what was staged, from the writes as they
//! went to the disk and from the acknowledgements, never from a scan.

use std::collections::BTreeMap;

use ringdesk_persist::{Appender, DiskOp, Geometry, LogId, RecordRef, Tail};

use crate::support::{Disk, Known, LOG, payload, scan};

/// Bytes of the tortured logs.
pub const LOG_BYTES: usize = 64 << 10;
/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Stream bytes of a sector, of a batch's header and of a record's header (`docs/LOG_FORMAT.md`).
const STREAM: usize = 504;
const BATCH_HEAD: usize = 56;
pub const RECORD_HEAD: usize = 16;

/// A record: where it stands, and which sectors of its file it needs.
pub struct Entry {
    pub known: Known,
    pub at: RecordRef,
    /// First and last sector with bytes of its header, and last one with bytes of its payload.
    pub head: (usize, usize),
    pub end: usize,
}

/// A batch as it was written.
pub struct Batch {
    pub segment: u32,
    /// Sectors of the file: first, and first after it.
    pub sectors: (usize, usize),
    /// Indices of its records; none for a mark, and none for a batch that was cut.
    pub records: (usize, usize),
}

/// A log on the disk.
pub struct Written {
    pub geometry: Geometry,
    pub files: BTreeMap<u32, Vec<u8>>,
    /// Those that count, in order: number is index plus one.
    pub batches: Vec<Batch>,
    pub entries: Vec<Entry>,
}

struct Writer {
    written: Written,
    disk: Disk,
    appender: Appender,
    now_ns: u64,
    number: u64,
}

impl Writer {
    fn new(geometry: Geometry, tail: Tail) -> Self {
        let written = Written { geometry, files: BTreeMap::new(), batches: Vec::new(), entries: Vec::new() };
        let appender = Appender::new(geometry, tail);
        Self { written, disk: Disk::default(), appender, now_ns: 0, number: 0 }
    }

    fn stage(&mut self, len: usize) -> Known {
        self.number += 1;
        let known = ((self.number * 37 % 16_384) as u16, 5, payload(self.number, len));
        self.appender.stage(known.0, known.1, &known.2).expect("room");
        known
    }

    /// One batch of records with these payload lengths; the mark after them if `lens` is empty.
    fn batch(&mut self, lens: &[usize]) {
        let staged: Vec<_> = lens.iter().map(|len| self.stage(*len)).collect();
        if lens.is_empty() {
            self.now_ns = self.appender.next_deadline_ns().expect("a mark is due");
        }
        let batches = self.written.batches.len();
        loop {
            self.appender.poll(self.now_ns, 0, &mut self.disk.pending);
            if self.disk.pending.is_empty() {
                break;
            }
            self.note_write(staged.len());
            let done = self.disk.perform(0);
            let flushed = self.appender.complete(done).expect("the disk is good");
            for ((_, at), known) in flushed.records.into_iter().zip(&staged) {
                self.note_record(at, known.clone());
            }
        }
        assert_eq!(self.written.batches.len(), batches + 1, "one write a batch");
    }

    fn note_write(&mut self, records: usize) {
        let DiskOp::Write { segment, offset, pages, .. } = &self.disk.pending[0] else { return };
        let first = *offset as usize / SECTOR;
        let from = self.written.entries.len();
        self.written.batches.push(Batch {
            segment: *segment,
            sectors: (first, first + pages.len() / SECTOR),
            records: (from, from + records),
        });
    }

    /// Works out the record's place by the format's description, and holds the appender to it.
    fn note_record(&mut self, at: RecordRef, known: Known) {
        let batch = self.written.batches.last().expect("it was written");
        let before = &self.written.entries[batch.records.0..];
        let stream = BATCH_HEAD + before.iter().map(|entry| entry.at.len as usize).sum::<usize>();
        let sector = |stream: usize| batch.sectors.0 + stream / STREAM;
        let len = RECORD_HEAD + known.2.len();
        let offset = sector(stream) * SECTOR + 8 + stream % STREAM;
        let place = (at.position.segment(), at.position.offset() as usize, at.len as usize);
        assert_eq!(place, (batch.segment, offset, len), "the address that was acknowledged");
        let head = (sector(stream), sector(stream + RECORD_HEAD - 1));
        self.written.entries.push(Entry { known, at, head, end: sector(stream + len - 1) });
    }

    fn done(mut self) -> Written {
        self.written.files = self.disk.files;
        self.written
    }
}

fn geometry(log: LogId, segment_bytes: usize) -> Geometry {
    Geometry {
        segment_bytes: segment_bytes as u32,
        batch_bytes_max: 8 << 10,
        fill_step_bytes: 8 << 10,
        fill_ahead_bytes: 0,
        staged_bytes_max: 64 << 10,
        ..Geometry::new(log)
    }
}

/// A log of one file of 64 KiB, all but its end in use: batches of one sector and of many, records over sectors,
/// record headers that a sector's end cuts, batches that end exactly on a sector, marks between.
pub fn one_file(log: LogId, segment: u32, generation: u32) -> Written {
    let tail = Tail { next_segment: segment, next_generation: generation, ..Tail::fresh(log) };
    let mut writer = Writer::new(geometry(log, LOG_BYTES), tail);
    let exactly = STREAM - BATCH_HEAD - RECORD_HEAD;
    let cut_head = exactly - 6;
    let shapes: [&[usize]; 9] = [
        &[10, 20, 30],
        &[900, 5, 200],
        &[exactly],
        &[],
        &[cut_head, 300, 300],
        &[8; 40],
        &[1_900, 8, 700, 40],
        &[8],
        &[],
    ];
    for shape in shapes.iter().cycle() {
        let used = writer.written.batches.last().map_or(1, |batch| batch.sectors.1);
        // The longest of these, and the mark behind it.
        if used + 8 + 1 > LOG_BYTES / SECTOR {
            break;
        }
        writer.batch(shape);
    }
    if writer.appender.next_deadline_ns().is_some() {
        writer.batch(&[]);
    }
    writer.done()
}

/// A log of 64 KiB in files of 16 KiB, with a torn batch in its middle that a boot cut.
pub fn four_files() -> Written {
    let mut writer = Writer::new(geometry(LOG, LOG_BYTES / 4), Tail::fresh(LOG));
    let shapes: [&[usize]; 4] = [&[100, 700, 30, 1_500], &[40], &[600, 600], &[2_500]];
    let mut shapes = shapes.iter().cycle();
    for _ in 0..15 {
        writer.batch(shapes.next().expect("a cycle"));
    }
    // Torn: its head and one record are there, its other sectors never were.
    for len in [60, 900, 900] {
        writer.stage(len);
    }
    writer.appender.poll(writer.now_ns, 0, &mut writer.disk.pending);
    let mut sector = 0;
    writer.disk.crash(&mut || {
        sector += 1;
        sector == 1
    });
    let (shown, report) = scan(&writer.disk.files, &writer.written.geometry);
    assert_eq!(shown.len(), writer.written.entries.len());
    assert!(report.torn.is_some() && report.damage.is_empty());
    writer.appender = Appender::new(writer.written.geometry, report.tail);
    while writer.disk.files.len() < 4 || writer.written.batches.last().is_some_and(|last| last.segment < 3) {
        writer.batch(shapes.next().expect("a cycle"));
    }
    writer.batch(&[]);
    writer.done()
}
