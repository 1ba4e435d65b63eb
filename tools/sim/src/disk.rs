//! The simulated disk: what is durable, what only a cache holds, and what a crash leaves of both.
//!
//! A file is a durable image, an overlay of cached sectors that a power loss may drop, and the set of sectors whose
//! write had completed: the log must never write one of those again. Writes in flight live with the kernel, which
//! calls in here when one completes, fails, or is caught by a crash. The unit of survival is a 512-byte sector.

use std::collections::{BTreeMap, BTreeSet};

use crate::rng::Rng;

/// Bytes that survive or vanish together.
pub const SECTOR: usize = 512;

/// How the machine stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process was killed: what reached a cache stays there, and replay reads it.
    Kill,
    /// Power was lost: each cached sector survives or not.
    Power,
}

/// Which sectors of a write survive that a crash interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// None.
    Nothing,
    /// All; only the completion was lost.
    Everything,
    /// The first ones.
    Prefix,
    /// Each by its own coin.
    Each,
}

impl Survival {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(6) {
            0 | 1 => Self::Nothing,
            2 => Self::Everything,
            3 => Self::Prefix,
            _ => Self::Each,
        }
    }

    fn keeps(self, rng: &mut Rng, sectors: usize) -> Vec<bool> {
        match self {
            Self::Nothing => vec![false; sectors],
            Self::Everything => vec![true; sectors],
            Self::Prefix => {
                let kept = rng.index(sectors + 1);
                (0..sectors).map(|index| index < kept).collect()
            }
            Self::Each => (0..sectors).map(|_| rng.one_in(2)).collect(),
        }
    }
}

/// A sector that no power-safe place holds yet.
#[derive(Clone, Debug)]
struct Cached {
    bytes: [u8; SECTOR],
    /// The run of the process that wrote it. A synchronous write covers the sectors of its own run only.
    run: u32,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    cache: BTreeMap<u32, Cached>,
    /// Sectors of completed writes that were not zero fill.
    completed: BTreeSet<u32>,
    /// Sectors of writes that failed in this run. A retry reports success and changes nothing that lasts: the
    /// kernel marked the pages clean when it reported the error.
    doomed: BTreeSet<u32>,
}

/// Number of a segment file: log, segment.
pub type FileId = (u16, u32);

/// All files.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    files: BTreeMap<FileId, File>,
    /// Of each log: the first segment number that its note does not count.
    ends: BTreeMap<u16, u32>,
    run: u32,
}

impl SimDisk {
    /// Completes the creation of a file that reads as `head` and then zeros; durable with its directory entry, and
    /// counted in its log's note.
    pub fn create(&mut self, id: FileId, bytes: usize, head: &[u8]) {
        self.bear(id, bytes, head);
        let end = self.ends.entry(id.0).or_default();
        *end = (id.1 + 1).max(*end);
    }

    fn bear(&mut self, id: FileId, bytes: usize, head: &[u8]) {
        assert!(bytes.is_multiple_of(SECTOR) && head.len() <= bytes, "a file of {bytes} bytes");
        let mut durable = vec![0; bytes];
        durable[..head.len()].copy_from_slice(head);
        let completed = (0..head.len() / SECTOR).map(|sector| sector as u32).collect();
        self.files.insert(id, File { durable, completed, ..File::default() });
    }

    /// A crash during a creation: the file is there as a whole or not at all, because it is renamed last; if it is, the
    /// note counts it or not.
    pub fn crash_create(&mut self, id: FileId, bytes: usize, head: &[u8], rng: &mut Rng) {
        match rng.below(4) {
            0 => self.bear(id, bytes, head),
            1 => self.create(id, bytes, head),
            _ => {}
        }
    }

    /// The first segment number of a log that its note does not count.
    pub fn end(&self, log: u16) -> u32 {
        self.ends.get(&log).copied().unwrap_or(0)
    }

    /// Completes a write. `whole`: with its full length, so it and what this run cached in the file is durable;
    /// otherwise the bytes are only cached. Panics if the log writes where a completed write lies.
    pub fn write(&mut self, id: FileId, offset: u64, data: &[u8], whole: bool) -> Result<(), i32> {
        let run = self.run;
        let file = self.files.get_mut(&id).ok_or(libc_enoent())?;
        let first = (offset as usize / SECTOR) as u32;
        assert!(offset as usize + data.len() <= file.durable.len(), "write past the end of {id:?}");
        let zero = data.iter().all(|byte| *byte == 0);
        for (at, bytes) in data.chunks_exact(SECTOR).enumerate() {
            let sector = first + at as u32;
            assert!(
                !file.completed.contains(&sector),
                "{id:?} sector {sector} holds acked bytes and is rewritten"
            );
            let cached = Cached { bytes: bytes.try_into().expect("a sector"), run };
            file.cache.insert(sector, cached);
        }
        if whole {
            file.settle(|cached| cached.run == run);
            if !zero {
                let sectors = data.len() / SECTOR;
                file.completed
                    .extend((first..first + sectors as u32).filter(|sector| !file.doomed.contains(sector)));
            }
        }
        Ok(())
    }

    /// A write failed. Some of its sectors may have reached the medium; the range is doomed until the next run.
    pub fn fail_write(&mut self, id: FileId, offset: u64, data: &[u8], rng: &mut Rng) {
        let keeps = Survival::draw(rng).keeps(rng, data.len() / SECTOR);
        let Some(file) = self.files.get_mut(&id) else { return };
        let first = offset as usize / SECTOR;
        for (at, keep) in keeps.into_iter().enumerate() {
            let sector = first + at;
            if keep && at > 0 {
                // The first sector never arrives: a failure that lost nothing would prove nothing.
                let bytes = &data[at * SECTOR..(at + 1) * SECTOR];
                file.durable[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(bytes);
            }
            file.cache.remove(&(sector as u32));
            file.doomed.insert(sector as u32);
        }
    }

    /// A crash caught a write in flight: sectors that survive lie in the cache after a kill, on the medium after a
    /// power loss.
    pub fn crash_write(&mut self, id: FileId, offset: u64, data: &[u8], crash: Crash, rng: &mut Rng) {
        let keeps = Survival::draw(rng).keeps(rng, data.len() / SECTOR);
        let run = self.run;
        let Some(file) = self.files.get_mut(&id) else { return };
        let first = offset as usize / SECTOR;
        for (at, keep) in keeps.into_iter().enumerate() {
            let sector = (first + at) as u32;
            if !keep || file.doomed.contains(&sector) {
                continue;
            }
            let bytes: [u8; SECTOR] = data[at * SECTOR..(at + 1) * SECTOR].try_into().expect("a sector");
            match crash {
                Crash::Kill => drop(file.cache.insert(sector, Cached { bytes, run })),
                Crash::Power => file.put(sector, &bytes),
            }
        }
    }

    /// Completes a sync of a file: everything cached of it is durable, whoever wrote it.
    pub fn sync(&mut self, id: FileId) -> Result<(), i32> {
        let file = self.files.get_mut(&id).ok_or(libc_enoent())?;
        let settled = file.cache.iter().filter(|(_, cached)| cached.bytes != [0; SECTOR]);
        file.completed.extend(settled.map(|(sector, _)| *sector));
        file.settle(|_| true);
        Ok(())
    }

    /// The machine stopped, after all writes in flight were given to [`SimDisk::crash_write`]. A new run begins.
    pub fn crash(&mut self, crash: Crash, rng: &mut Rng) {
        self.run += 1;
        for file in self.files.values_mut() {
            let doomed = std::mem::take(&mut file.doomed);
            file.cache.retain(|sector, _| !doomed.contains(sector));
            if crash == Crash::Power && !file.cache.is_empty() {
                let keeps = Survival::draw(rng).keeps(rng, file.cache.len());
                let cache = std::mem::take(&mut file.cache);
                for ((sector, cached), keep) in cache.into_iter().zip(keeps) {
                    if keep {
                        file.put(sector, &cached.bytes);
                    }
                }
            }
        }
    }

    /// Reads as the engine would, caches included. Returns the bytes there were.
    pub fn read(&self, id: FileId, offset: u64, out: &mut [u8]) -> Result<usize, i32> {
        let file = self.files.get(&id).ok_or(libc_enoent())?;
        let start = (offset as usize).min(file.durable.len());
        let end = (start + out.len()).min(file.durable.len());
        out[..end - start].copy_from_slice(&file.durable[start..end]);
        let (first, last) = ((start / SECTOR) as u32, (end / SECTOR) as u32);
        for (sector, cached) in file.cache.range(first..last) {
            let at = *sector as usize * SECTOR - start;
            out[at..at + SECTOR].copy_from_slice(&cached.bytes);
        }
        Ok(end - start)
    }

    /// Whole content of a file as replay reads it.
    pub fn image(&self, id: FileId) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.files.get(&id)?.durable.len()];
        self.read(id, 0, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Segments of a log, in order.
    pub fn segments(&self, log: u16) -> Vec<u32> {
        self.files.range((log, 0)..=(log, u32::MAX)).map(|((_, segment), _)| *segment).collect()
    }

    /// Logs that have files, in order.
    pub fn logs(&self) -> Vec<u16> {
        let logs: BTreeSet<u16> = self.files.keys().map(|(log, _)| *log).collect();
        logs.into_iter().collect()
    }

    /// Sectors that only a cache holds.
    pub fn cached_sectors(&self) -> usize {
        self.files.values().map(|file| file.cache.len()).sum()
    }
}

impl File {
    fn put(&mut self, sector: u32, bytes: &[u8; SECTOR]) {
        let start = sector as usize * SECTOR;
        self.durable[start..start + SECTOR].copy_from_slice(bytes);
    }

    fn settle(&mut self, which: impl Fn(&Cached) -> bool) {
        let cache = std::mem::take(&mut self.cache);
        for (sector, cached) in cache {
            if self.doomed.contains(&sector) || !which(&cached) {
                self.cache.insert(sector, cached);
            } else {
                self.put(sector, &cached.bytes);
            }
        }
    }
}

/// No such file (ENOENT).
fn libc_enoent() -> i32 {
    2
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = (0, 0);

    fn disk() -> SimDisk {
        let mut disk = SimDisk::default();
        disk.create(FILE, 8 * SECTOR, &[1; SECTOR]);
        disk
    }

    fn sector(disk: &SimDisk, at: usize) -> u8 {
        disk.image(FILE).unwrap()[at * SECTOR]
    }

    #[test]
    fn a_completed_write_survives_power_loss() {
        let (mut disk, mut rng) = (disk(), Rng::new(1));
        disk.write(FILE, SECTOR as u64, &[7; SECTOR], true).unwrap();
        disk.crash(Crash::Power, &mut rng);
        assert_eq!((sector(&disk, 0), sector(&disk, 1)), (1, 7));
    }

    #[test]
    fn a_write_in_flight_is_torn_by_sectors() {
        let mut kept = BTreeSet::new();
        for seed in 0..200 {
            let (mut disk, mut rng) = (disk(), Rng::new(seed));
            disk.crash_write(FILE, SECTOR as u64, &[7; 2 * SECTOR], Crash::Power, &mut rng);
            disk.crash(Crash::Power, &mut rng);
            kept.insert((sector(&disk, 1), sector(&disk, 2)));
        }
        assert_eq!(kept.len(), 4, "{kept:?}");
    }

    #[test]
    fn what_a_kill_left_in_the_cache_is_read_but_may_vanish_until_synced() {
        let mut lost = false;
        for seed in 0..100 {
            let (mut disk, mut rng) = (disk(), Rng::new(seed));
            disk.crash_write(FILE, SECTOR as u64, &[7; SECTOR], Crash::Kill, &mut rng);
            disk.crash(Crash::Kill, &mut rng);
            if sector(&disk, 1) != 7 {
                continue;
            }
            let mut synced = disk.clone();
            disk.crash(Crash::Power, &mut rng);
            lost |= sector(&disk, 1) == 0;
            synced.sync(FILE).unwrap();
            synced.crash(Crash::Power, &mut rng);
            assert_eq!(sector(&synced, 1), 7);
        }
        assert!(lost);
    }

    #[test]
    fn a_retry_after_a_failed_write_succeeds_and_saves_nothing() {
        let (mut disk, mut rng) = (disk(), Rng::new(3));
        disk.fail_write(FILE, SECTOR as u64, &[7; SECTOR], &mut rng);
        disk.write(FILE, SECTOR as u64, &[7; SECTOR], true).unwrap();
        assert_eq!(sector(&disk, 1), 7, "the cache shows it");
        disk.crash(Crash::Kill, &mut rng);
        assert_eq!(sector(&disk, 1), 0);
        disk.write(FILE, SECTOR as u64, &[8; SECTOR], true).unwrap();
        disk.crash(Crash::Power, &mut rng);
        assert_eq!(sector(&disk, 1), 8, "the next run writes again");
    }

    #[test]
    fn a_short_write_is_durable_only_with_the_rest() {
        let mut lost = false;
        for seed in 0..50 {
            let (mut disk, mut rng) = (disk(), Rng::new(seed));
            disk.write(FILE, SECTOR as u64, &[7; SECTOR], false).unwrap();
            let mut short = disk.clone();
            short.crash(Crash::Power, &mut rng);
            lost |= sector(&short, 1) == 0;
            disk.write(FILE, 2 * SECTOR as u64, &[8; SECTOR], true).unwrap();
            disk.crash(Crash::Power, &mut rng);
            assert_eq!((sector(&disk, 1), sector(&disk, 2)), (7, 8));
        }
        assert!(lost);
    }

    #[test]
    #[should_panic(expected = "is rewritten")]
    fn acked_bytes_are_never_rewritten() {
        let mut disk = disk();
        disk.write(FILE, SECTOR as u64, &[7; SECTOR], true).unwrap();
        disk.write(FILE, SECTOR as u64, &[8; SECTOR], true).unwrap();
    }
}
