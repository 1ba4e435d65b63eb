//! Golden files: the bytes of format version 1, written once and read for ever. `docs/LOG_FORMAT.md` walks through
//! them.
//!
//! `PERSIST_BLESS=1` rewrites them; a change means a new format version.

mod support;

use ringdesk_persist::{Appender, Geometry, Lsn, META_BYTES, Meta, Record, Tail, extract, scan_log};
use std::fmt::Write as _;
use std::path::PathBuf;
use support::{Disk, LOG, plan};

const WALL_MS: u64 = 1_767_225_600_000;

/// Lines of `offset: 16 bytes`, lines of zeros left out; the first line gives the length.
fn to_hex(bytes: &[u8]) -> String {
    let mut text = format!("length {}\n", bytes.len());
    for (index, line) in bytes.chunks(16).enumerate() {
        if line.iter().all(|byte| *byte == 0) {
            continue;
        }
        write!(text, "{:04x}:", index * 16).expect("a String takes all");
        for byte in line {
            write!(text, " {byte:02x}").expect("a String takes all");
        }
        text.push('\n');
    }
    text
}

fn from_hex(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let len = lines.next().and_then(|line| line.strip_prefix("length ")).expect("a length line");
    let mut bytes = vec![0; len.parse().expect("a length")];
    for line in lines {
        let (offset, rest) = line.split_once(':').expect("an offset");
        let offset = usize::from_str_radix(offset, 16).expect("a hex offset");
        for (index, byte) in rest.split_whitespace().enumerate() {
            bytes[offset + index] = u8::from_str_radix(byte, 16).expect("a hex byte");
        }
    }
    bytes
}

fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("PERSIST_BLESS").is_some() {
        std::fs::write(&path, to_hex(now)).expect("the golden folder is writable");
    }
    from_hex(&std::fs::read_to_string(&path).expect("the golden file is there"))
}

fn geometry() -> Geometry {
    Geometry {
        segment_bytes: 4096,
        batch_bytes_max: 2048,
        fill_step_bytes: 512,
        fill_ahead_bytes: 0,
        staged_bytes_max: 4096,
        ..Geometry::new(LOG)
    }
}

fn records() -> [(u16, u32, Vec<u8>); 3] {
    let long = (0..480_u32).map(|i| b'a' + (i % 26) as u8).collect();
    [(866, 1, b"hello".to_vec()), (12182, 2, Vec::new()), (866, 1, long)]
}

/// Two batches and a mark: records 1 and 2, then record 3, whose payload runs over a sector's end.
fn written() -> Vec<u8> {
    let (mut disk, mut appender) = (Disk::default(), Appender::new(geometry(), Tail::fresh(LOG)));
    let mut now_ns = 0;
    for batch in [&records()[..2], &records()[2..]] {
        for (slot, slot_epoch, payload) in batch {
            appender.stage(*slot, *slot_epoch, payload).expect("room");
        }
        while appender.durable() < Some(appender.staged()) {
            appender.poll(now_ns, WALL_MS, &mut disk.pending);
            let done = disk.perform(0);
            appender.complete(done).expect("the disk is good");
        }
    }
    assert_eq!(appender.durable(), Some(Lsn(3)));
    now_ns += 20_000_000;
    appender.poll(now_ns, WALL_MS, &mut disk.pending);
    while !disk.pending.is_empty() {
        let done = disk.perform(0);
        appender.complete(done).expect("the disk is good");
    }
    disk.files.remove(&0).expect("written")
}

#[test]
fn a_log_is_written_as_ever() {
    let now = written();
    let ever = golden("log-v1.hex", &now);
    assert_eq!(to_hex(&now), to_hex(&ever), "the byte format changed without a new version");
}

#[test]
fn an_old_log_is_read_as_ever() {
    let ever = golden("log-v1.hex", &written());
    let mut shown = Vec::new();
    let mut visit = |record: Record<'_>| {
        let offset = record.reference.position.offset();
        shown.push((offset, record.reference, (record.slot, record.slot_epoch, record.payload.to_vec())));
    };
    let report = scan_log(plan(&geometry()), [(0, Ok(&ever))], &mut visit).expect("version 1");
    assert_eq!((report.batches, report.records, report.last_wall_ms), (3, 3, WALL_MS));
    assert!(report.damage.is_empty() && report.torn.is_none());
    let offsets: Vec<u32> = shown.iter().map(|(offset, ..)| *offset).collect();
    assert_eq!(offsets, [0x240, 0x255, 0x440]);
    for ((_, reference, known), expected) in shown.iter().zip(records()) {
        assert_eq!(*known, expected);
        let found = extract(*reference, 0, &ever, &report.tail.generations).expect("a good record");
        assert_eq!((found.slot, found.slot_epoch, found.payload), expected);
    }
}

#[test]
fn meta_is_written_and_read_as_ever() {
    let meta = Meta { data_set: 0x0123_4567_89AB_CDEF, boot_epoch: 7, log_epoch: 2, logs: 4 };
    let ever = golden("meta-v1.hex", &meta.encode());
    assert_eq!(ever, meta.encode());
    assert_eq!(ever.len(), META_BYTES);
    assert_eq!(Meta::decode(&ever), Ok(meta));
}

#[test]
fn the_hex_form_itself() {
    let bytes: Vec<u8> = (0..64).map(|i| if i < 16 { 0 } else { i }).collect();
    assert_eq!(from_hex(&to_hex(&bytes)), bytes);
}
