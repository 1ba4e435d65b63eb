//! The logs of a stopped server, read with the same code as at boot: `verify` and `dump`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use ringdesk_desk::census::Census;
use ringdesk_desk::codec;
use ringdesk_persist::{
    Extent, LogId, LogReport, Meta, Record, ScanPlan, SegmentScan, extent_file, log_directory, segment_file,
};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::{Failure, events, print};

/// Length of a segment whose own header cannot tell it: the server's default.
const SEGMENT_BYTES: u32 = 64 << 20;

fn folder(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Failure::FOLDER, format!("{}: {error}", path.display()))
}

/// META of a stopped server's folder. The lock is held while the returned file lives.
fn open(data: &Path) -> Result<(Meta, File), Failure> {
    let path = data.join("LOCK");
    let lock = File::open(&path).map_err(|error| folder(&path, &error))?;
    if flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
        let pid = fs::read_to_string(&path).unwrap_or_default().lines().next().unwrap_or("?").to_string();
        return Err(folder(data, &format!("in use by process {pid}; stop the server first")));
    }
    let path = data.join("META");
    let bytes = fs::read(&path).map_err(|error| folder(&path, &error))?;
    let meta = Meta::decode(&bytes).map_err(|error| folder(&path, &error))?;
    Ok((meta, lock))
}

fn scan(data: &Path, log: LogId, visit: &mut dyn FnMut(Record<'_>)) -> Result<(usize, LogReport), Failure> {
    let path = data.join(log_directory(log));
    let mut numbers = Vec::new();
    for entry in fs::read_dir(&path).map_err(|error| folder(&path, &error))? {
        let name = entry.map_err(|error| folder(&path, &error))?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(stem.and_then(|stem| stem.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    let extent = extent(data, log)?;
    if extent.is_none() && numbers.is_empty() {
        let sentence = "no segment file is there although the folder was started before";
        return Err(Failure::new(Failure::DAMAGED, format!("{}: {sentence}", path.display())));
    }
    let mut scan = SegmentScan::new(ScanPlan::new(log, SEGMENT_BYTES, extent.as_ref()));
    let mut content = Vec::new();
    for number in &numbers {
        let read = read_whole(&data.join(segment_file(log, *number)), &mut content);
        let read = read.map(|()| content.as_slice()).map_err(|error| error.raw_os_error().unwrap_or(5));
        scan.segment(*number, read, visit).map_err(|error| folder(&path, &error))?;
    }
    Ok((numbers.len(), scan.finish(visit)))
}

/// The note beside a log's segments; none in folders of older versions.
fn extent(data: &Path, log: LogId) -> Result<Option<Extent>, Failure> {
    let path = data.join(extent_file(log));
    match fs::read(&path) {
        Ok(bytes) => Extent::decode(log, &bytes).map(Some).map_err(|error| {
            Failure::new(Failure::DAMAGED, format!("{}: it cannot be read: {error}", path.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(folder(&path, &error)),
    }
}

fn read_whole(path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    File::open(path)?.read_to_end(into).map(|_| ())
}

/// One line per log, one per damaged range; fails if there is one, or a record that cannot be decoded.
pub fn verify(data: &Path) -> Result<(), Failure> {
    let (meta, _lock) = open(data)?;
    let (mut bad, mut census, mut slots, mut more) = (0, Census::default(), Vec::new(), false);
    for log in (0..meta.logs).map(LogId) {
        let mut unreadable = Vec::new();
        let (segments, report) = scan(data, log, &mut |record| {
            if let Err(error) = codec::decode_each(record.payload, |_| {}) {
                unreadable.push(format!("{}: {error}", record.reference.position));
            }
            // What cannot be decoded was noted above.
            let _ = census.record(record.payload);
        })?;
        print(&format!(
            "log {:04}: {segments} segments, {} batches, {} records, {}",
            log.0,
            report.batches,
            report.records,
            if report.damage.is_empty() && unreadable.is_empty() { "whole" } else { "DAMAGED" }
        ));
        if let Some(torn) = report.torn {
            print(&format!(
                "  a write cut short by the last stop, never acknowledged: {} to {}",
                torn.from, torn.to
            ));
        }
        report.damage.iter().for_each(|range| print(&format!("  {range}")));
        unreadable.iter().for_each(|line| print(&format!("  a record cannot be read at {line}")));
        bad += report.damage.len() + unreadable.len();
        slots.extend(report.damage.iter().flat_map(|range| &range.lost).map(|lost| lost.slot));
        more |= report.damage.iter().any(|range| range.records_unknown > 0 || range.lost.is_empty());
    }
    if bad > 0 {
        census.sentences(&slots, more).iter().for_each(|sentence| print(sentence));
    }
    match bad {
        0 => Ok(()),
        1 => Err(Failure::new(Failure::DAMAGED, "1 place is damaged")),
        count => Err(Failure::new(Failure::DAMAGED, format!("{count} places are damaged"))),
    }
}

/// One JSON line per record, log by log.
pub fn dump(data: &Path) -> Result<(), Failure> {
    let (meta, _lock) = open(data)?;
    let mut damaged = 0;
    for log in (0..meta.logs).map(LogId) {
        let (_, report) = scan(data, log, &mut |record| print(&line(&record).to_string()))?;
        damaged += report.damage.len();
    }
    if damaged > 0 {
        let places = if damaged == 1 { "1 place is".to_string() } else { format!("{damaged} places are") };
        let sentence = format!("{places} damaged and not shown; see ringdesk log verify");
        return Err(Failure::new(Failure::DAMAGED, sentence));
    }
    Ok(())
}

fn line(record: &Record<'_>) -> Value {
    let mut shown = Vec::new();
    let outcome = codec::decode_each(record.payload, |event| shown.push(events::json(&event)));
    let mut line = json!({
        "position": record.reference.position.to_string(),
        "slot": record.slot,
        "slot_epoch": record.slot_epoch,
        "events": shown,
    });
    if let Err(error) = outcome {
        line["error"] = json!(error.to_string());
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use ringdesk_desk::event::Event;
    use ringdesk_desk::ids::{Hlc, Slot};
    use ringdesk_persist::{Appender, DiskDone, DiskOp, Geometry, Tail};

    use super::*;

    struct Stopped(PathBuf);

    impl Drop for Stopped {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A data folder with one log of `records` records, written by the appender itself.
    fn stopped(name: &str, records: usize) -> Stopped {
        let data = std::env::temp_dir().join(format!("ringdesk-logs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(data.join("log/0000")).expect("folder");
        fs::write(data.join("LOCK"), "1\n").expect("lock");
        let meta = Meta { data_set: 1, boot_epoch: 1, log_epoch: 1, logs: 1 };
        fs::write(data.join("META"), meta.encode()).expect("META");
        let mut appender = Appender::new(Geometry::small(LogId(0)), Tail::fresh(LogId(0)));
        let (mut files, mut ops, mut now) = (BTreeMap::new(), Vec::new(), 0);
        for number in 0..records {
            let mut payload = Vec::new();
            codec::encode(
                &[Event::Booted { slot: Slot(5), at: Hlc::from_millis(number as u64) }],
                &mut payload,
            );
            appender.stage(5, 1, &payload).expect("room");
            // Long enough that the mark is due before the next record.
            for _ in 0..8 {
                now += 20_000_000;
                appender.poll(now, 1_000, &mut ops);
                for op in ops.drain(..) {
                    appender.complete(carry_out(op, &mut files)).expect("no failure");
                }
            }
        }
        for (segment, bytes) in files {
            fs::write(data.join(segment_file(LogId(0), segment)), bytes).expect("segment");
        }
        Stopped(data)
    }

    fn carry_out(op: DiskOp, files: &mut BTreeMap<u32, Vec<u8>>) -> DiskDone {
        match op {
            DiskOp::Create { op, segment, bytes, header, .. } => {
                let mut file = vec![0; usize::try_from(bytes).expect("small")];
                file[..header.len()].copy_from_slice(header.as_bytes());
                files.insert(segment, file);
                DiskDone { op, result: Ok(0), pages: Some(header) }
            }
            DiskOp::Write { op, segment, offset, pages, .. } => {
                let at = usize::try_from(offset).expect("small");
                let file = files.get_mut(&segment).expect("created before");
                file[at..at + pages.len()].copy_from_slice(pages.as_bytes());
                DiskDone { op, result: Ok(pages.len() as u32), pages: Some(pages) }
            }
            other => panic!("{other:?} is not expected of a fresh log"),
        }
    }

    #[test]
    fn a_whole_log_verifies_and_shows_its_events() {
        let folder = stopped("whole", 5);
        verify(&folder.0).expect("whole");
        let mut lines = Vec::new();
        scan(&folder.0, LogId(0), &mut |record| lines.push(line(&record))).expect("readable");
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[4]["events"][0], json!({ "type": "booted", "slot": 5, "at_ms": 4 }));
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let folder = stopped("flipped", 5);
        let path = folder.0.join(segment_file(LogId(0), 0));
        let mut bytes = fs::read(&path).expect("segment");
        bytes[512 + 60] ^= 4;
        fs::write(&path, bytes).expect("written");
        assert_eq!(verify(&folder.0).expect_err("damaged").code, Failure::DAMAGED);
        assert_eq!(dump(&folder.0).expect_err("damaged").code, Failure::DAMAGED);
    }

    #[test]
    fn a_log_without_its_segments_is_not_called_whole() {
        let folder = stopped("gone", 5);
        let path = folder.0.join(segment_file(LogId(0), 0));
        fs::remove_file(&path).expect("there");
        let failure = verify(&folder.0).expect_err("an older version's folder, and no segment");
        assert_eq!(failure.code, Failure::DAMAGED);
        let mut note = vec![0; ringdesk_persist::EXTENT_BYTES];
        let (at, copy) = Extent::empty(LogId(0)).with(0).encode();
        note[at as usize..at as usize + copy.len()].copy_from_slice(&copy);
        fs::write(folder.0.join(extent_file(LogId(0))), note).expect("written");
        let (_, report) = scan(&folder.0, LogId(0), &mut |_| {}).expect("readable");
        assert!(report.damage[0].to_string().contains("the file is missing"), "{:?}", report.damage);
        assert_eq!(verify(&folder.0).expect_err("damaged").code, Failure::DAMAGED);
    }

    #[test]
    fn a_running_server_is_left_alone() {
        let folder = stopped("running", 1);
        let lock = File::open(folder.0.join("LOCK")).expect("lock");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("ours");
        let failure = verify(&folder.0).expect_err("locked");
        assert_eq!(failure.code, Failure::FOLDER);
        assert!(failure.sentence.contains("in use by process 1"), "{failure}");
    }
}
