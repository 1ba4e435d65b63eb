//! The data folder: ours alone, locked, and with its META one boot further.
//!
//! Order at boot: [`claim`], [`same_layout_always`], [`next_boot`]. Everything here is durable when the call returns.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use ringdesk_persist::{LogId, META_BYTES, Meta, log_directory};
use rustix::fs::{AtFlags, CWD, FlockOperation, RenameFlags, StatxFlags, flock, renameat_with, statx};
use rustix::io::Errno;

use super::error::BootError;
use super::extents;
use crate::secrets::{random_bytes, read_small, write_private};

/// The lock file, held as long as the process lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// The lock of the process before, which sent its descriptor: while one of both has it, it is held. `None`: it is
    /// another file.
    pub fn handed_over(data: &Path, descriptor: OwnedFd) -> io::Result<Option<Self>> {
        let file = File::from(descriptor);
        let (found, named) = (file.metadata()?, fs::metadata(data.join("LOCK"))?);
        let same = (found.dev(), found.ino()) == (named.dev(), named.ino());
        Ok(same.then_some(Self { file }))
    }

    /// A second descriptor of it.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    /// Alignment of log writes: see [`write_alignment`].
    pub fn alignment(&self) -> u32 {
        write_alignment(&self.file)
    }

    /// Notes the control plane's address behind the process id, so that the operator's command line finds it.
    pub fn note_address(&self, http: &str) -> io::Result<()> {
        write_lock(&self.file, Some(http))
    }
}

fn write_lock(mut file: &File, http: Option<&str>) -> io::Result<()> {
    use std::io::Seek;
    // Overwritten, then cut: emptied first, the file would want space that a full disk has not.
    file.rewind()?;
    let http = http.map(|http| format!("{http}\n")).unwrap_or_default();
    let text = format!("{}\n{http}", std::process::id());
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// Makes the folder if it is not there, checks that it is ours, and locks it.
pub fn claim(data: &Path) -> Result<Lock, BootError> {
    make(data)?;
    check(data)?;
    let path = data.join("LOCK");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(BootError::folder(data, "the data folder cannot be written to"))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = read_small(&path).ok().flatten().and_then(|text| text.lines().next()?.parse().ok());
        return Err(BootError::Locked { path, pid });
    }
    write_lock(&file, None).map_err(BootError::folder(&path, "the lock file cannot be written"))?;
    Ok(Lock { file })
}

fn make(data: &Path) -> Result<(), BootError> {
    if !data.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data)
            .map_err(BootError::folder(data, "the data folder cannot be created"))?;
        let parent = data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_folder(parent)?;
    }
    Ok(())
}

/// Whether the folder is there and ours.
pub fn check(data: &Path) -> Result<(), BootError> {
    let found = fs::metadata(data).map_err(BootError::folder(data, "the data folder cannot be read"))?;
    let wrong = |sentence| Err(BootError::Folder { path: data.to_path_buf(), sentence });
    if !found.is_dir() {
        return wrong("the data folder is not a folder".to_string());
    }
    let me = rustix::process::geteuid().as_raw();
    if found.uid() != me {
        return wrong(format!(
            "the data folder belongs to user {}, but ringdeskd runs as user {me}",
            found.uid()
        ));
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<(), BootError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(BootError::folder(folder, "the folder cannot be synced"))
}

/// Reads META, counts this boot, makes the log folders of `shards` shards, and writes META back. A new folder gets a
/// random data set number.
pub fn next_boot(data: &Path, shards: u16) -> Result<Meta, BootError> {
    let path = data.join("META");
    let mut meta = match fs::read(&path) {
        Ok(bytes) => Meta::decode(&bytes)
            .map_err(|error| BootError::Folder { path: path.clone(), sentence: error.to_string() })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if data.join("log").exists() && data.join("directory.redb").exists() {
                let sentence =
                    "it is missing although the folder holds logs; restore it from a backup".to_string();
                return Err(BootError::Folder { path, sentence });
            }
            Meta { data_set: u64::from_le_bytes(random_bytes()), boot_epoch: 0, log_epoch: 1, logs: 0 }
        }
        Err(error) => return Err(BootError::folder(&path, "it cannot be read")(error)),
    };
    // A folder that is gone although META counts it is damage, so the folders come first.
    let made = make_log_folders(data, meta.logs, shards)?;
    meta.boot_epoch = meta.boot_epoch.checked_add(1).expect("four billion boots");
    meta.logs = meta.logs.max(shards);
    write_meta(data, &meta.encode()).map_err(BootError::folder(&path, "it cannot be written"))?;
    if made {
        sync_folder(data)?;
    }
    Ok(meta)
}

/// Replaces META without asking a full disk for space: its spare is overwritten in place and synced, and the two change
/// names at once (renameat2, Linux 3.15). Where there is no spare yet, or no such exchange, META is replaced by a rename.
fn write_meta(data: &Path, bytes: &[u8; META_BYTES]) -> io::Result<()> {
    let (path, spare) = (data.join("META"), data.join("META.spare"));
    write_spare(&spare, bytes)?;
    match renameat_with(CWD, &spare, CWD, &path, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::rename(&spare, &path)?,
        Err(error) => return Err(error.into()),
    }
    if !spare.exists() {
        write_spare(&spare, bytes)?;
    }
    File::open(data)?.sync_all()
}

fn write_spare(spare: &Path, bytes: &[u8; META_BYTES]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(spare)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(META_BYTES as u64)?;
    file.sync_all()
}

/// Deletes segments that were being prepared when the last run stopped.
fn remove_unborn(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn make_log_folders(data: &Path, known: u16, shards: u16) -> Result<bool, BootError> {
    for log in 0..known {
        let folder = data.join(log_directory(LogId(log)));
        if !folder.is_dir() {
            let sentence = "the folder of this log is missing; restore it from a backup".to_string();
            return Err(BootError::Folder { path: folder, sentence });
        }
        remove_unborn(&folder).map_err(BootError::folder(&folder, "it cannot be cleaned up"))?;
    }
    for log in known..shards {
        let folder = data.join(log_directory(LogId(log)));
        fs::create_dir_all(&folder).map_err(BootError::folder(&folder, "it cannot be created"))?;
        extents::make(data, LogId(log))?;
    }
    if known < shards {
        sync_folder(&data.join("log"))?;
    }
    Ok(known < shards)
}

/// META as it is.
pub fn read_meta(data: &Path) -> Result<Meta, BootError> {
    let path = data.join("META");
    let bytes = fs::read(&path).map_err(BootError::folder(&path, "it cannot be read"))?;
    Meta::decode(&bytes).map_err(|error| BootError::Folder { path, sentence: error.to_string() })
}

/// As [`same_layout_always`], without noting anything.
pub fn is_same_layout(data: &Path, shards: u16) -> bool {
    let text = read_small(&data.join("LAYOUTS")).ok().flatten();
    text.is_some_and(|text| text.lines().all(|line| line.parse() == Ok(shards)))
}

/// Whether every earlier run of this folder used this number of shards, so that each log holds its own shard's slots
/// only. Notes the number. A missing or unreadable note means no: the replay then looks everywhere. Called before
/// [`next_boot`], so that no META exists without this note.
pub fn same_layout_always(data: &Path, shards: u16) -> Result<bool, BootError> {
    let first_boot = !data.join("META").exists();
    let path = data.join("LAYOUTS");
    let text = read_small(&path).map_err(BootError::folder(&path, "it cannot be read"))?;
    let known: Option<Vec<u16>> = match &text {
        Some(text) => text.lines().map(|line| line.parse().ok()).collect(),
        None if first_boot => Some(Vec::new()),
        None => None,
    };
    let same = known.as_ref().is_some_and(|known| known.iter().all(|&count| count == shards));
    // 0 stands for "not known" and never equals a number of shards.
    let mut next = known.unwrap_or_else(|| vec![0]);
    if !next.contains(&shards) {
        next.push(shards);
        let lines: String = next.iter().map(|count| format!("{count}\n")).collect();
        write_private(&path, lines.as_bytes()).map_err(BootError::folder(&path, "it cannot be written"))?;
    }
    Ok(same)
}

/// Alignment of log writes, bytes: what statx(2) reports for direct I/O on the file system of `file` (Linux 6.1), 512 or 4096.
/// 4096 where nothing is reported: it suits every disk.
pub fn write_alignment(file: &File) -> u32 {
    let Ok(found) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return 4096 };
    if found.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && (1..=512).contains(&found.stx_dio_offset_align) {
        512
    } else {
        4096
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringdesk-folder-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_second_claim_names_the_first_process() {
        let data = Temporary::new("lock");
        let lock = claim(&data.0).expect("ours");
        lock.note_address("127.0.0.1:7800").expect("noted");
        let error = claim(&data.0).expect_err("locked");
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().ends_with(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        claim(&data.0).expect("free again");
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_refused() {
        let data = Temporary::new("file");
        fs::write(&data.0, b"x").expect("file");
        let error = claim(&data.0).expect_err("no folder");
        assert!(error.to_string().contains("not a folder"), "{error}");
        fs::remove_file(&data.0).expect("clean");
    }

    #[test]
    fn boots_are_counted_and_a_lost_log_folder_is_noticed() {
        let data = Temporary::new("meta");
        claim(&data.0).expect("ours");
        let first = next_boot(&data.0, 2).expect("first boot");
        assert_eq!((first.boot_epoch, first.log_epoch, first.logs), (1, 1, 2));
        let second = next_boot(&data.0, 1).expect("second boot");
        assert_eq!((second.boot_epoch, second.logs, second.data_set), (2, 2, first.data_set));
        fs::remove_dir_all(data.0.join("log/0001")).expect("there");
        let error = next_boot(&data.0, 1).expect_err("a log is gone");
        assert!(error.to_string().contains("log/0001"), "{error}");
        fs::write(data.0.join("META"), [0u8; 64]).expect("damage");
        assert_eq!(next_boot(&data.0, 1).expect_err("no META").exit_code(), 3);
    }

    #[test]
    fn layouts_are_remembered() {
        let data = Temporary::new("layouts");
        claim(&data.0).expect("ours");
        assert!(same_layout_always(&data.0, 2).expect("first"));
        next_boot(&data.0, 2).expect("booted");
        assert!(same_layout_always(&data.0, 2).expect("same"));
        assert!(!same_layout_always(&data.0, 1).expect("other"));
        assert!(!same_layout_always(&data.0, 2).expect("back: records may lie elsewhere"));
        fs::remove_file(data.0.join("LAYOUTS")).expect("there");
        assert!(!same_layout_always(&data.0, 2).expect("not known"));
        assert!(!same_layout_always(&data.0, 2).expect("still not known"));
    }
}
