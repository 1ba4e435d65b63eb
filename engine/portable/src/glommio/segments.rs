//! Log files through glommio: direct ones with its own aligned buffers, buffered ones with fdatasync after each write.
//! A file is opened by the first operation that needs it; two that need it at once may both, and name the same file.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ::glommio::GlommioError;
use ::glommio::io::{BufferedFile, DmaFile, OpenOptions, ReadResult};
use ringdesk_persist::{LogId, segment_file};
use ringdesk_uring::buffers::BufferId;
use ringdesk_uring::files::Durability;
use ringdesk_uring::kernel::Op;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Files kept open. History reaches back over segments; the log's tail needs two.
const OPEN_MAX: usize = 256;

type Key = (u16, u32);

/// Bytes of a file on their way into a lent buffer.
pub(super) struct Portion {
    pub(super) buffer: BufferId,
    pub(super) from: u32,
    pub(super) read: ReadResult,
}

enum File {
    Direct(DmaFile),
    Buffered(BufferedFile),
}

impl File {
    async fn open(path: &Path, durability: Durability) -> Result<Self, GlommioError<()>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        Ok(match durability {
            // glommio adds O_DIRECT.
            Durability::Direct => {
                Self::Direct(options.custom_flags(OFlags::DSYNC.bits() as i32).dma_open(path).await?)
            }
            Durability::Buffered => Self::Buffered(options.buffered_open(path).await?),
        })
    }

    /// One write. It is synced only if it is whole: a short one is no success yet.
    async fn write(&self, bytes: Vec<u8>, offset: u64) -> Result<usize, GlommioError<()>> {
        let len = bytes.len();
        match self {
            Self::Direct(file) => {
                let mut buffer = file.alloc_dma_buffer(len);
                buffer.as_bytes_mut().copy_from_slice(&bytes);
                file.write_at(buffer, offset).await
            }
            Self::Buffered(file) => {
                let count = file.write_at(bytes, offset).await?;
                if count == len {
                    file.fdatasync().await?; // Once, whatever it says: a failed sync is never retried.
                }
                Ok(count)
            }
        }
    }

    async fn read(&self, offset: u64, len: usize) -> Result<ReadResult, GlommioError<()>> {
        match self {
            Self::Direct(file) => file.read_at_aligned(offset, len).await,
            Self::Buffered(file) => file.read_at(offset, len).await,
        }
    }

    async fn sync(&self) -> Result<(), GlommioError<()>> {
        match self {
            Self::Direct(file) => file.fdatasync().await,
            Self::Buffered(file) => file.fdatasync().await,
        }
    }
}

fn errno(error: &GlommioError<()>) -> i32 {
    let cause: Option<&io::Error> = match error {
        GlommioError::IoError(cause) | GlommioError::EnhancedIoError { source: cause, .. } => Some(cause),
        _ => None,
    };
    // An error without a number does not come from the kernel; EIO is the nearest.
    -cause.and_then(io::Error::raw_os_error).unwrap_or(Errno::IO.raw_os_error())
}

/// The open files of one shard.
pub(super) struct Segments {
    data: PathBuf,
    durability: Durability,
    open: RefCell<BTreeMap<Key, (Rc<File>, u64)>>,
    uses: Cell<u64>,
    out: Cell<usize>,
}

impl Segments {
    pub(super) fn new(data: &Path, durability: Durability) -> Self {
        let (open, uses, out) = (RefCell::default(), Cell::new(0), Cell::new(0));
        Self { data: data.to_owned(), durability, open, uses, out }
    }

    pub(super) fn began(&self) {
        self.out.set(self.out.get() + 1);
    }

    pub(super) fn ended(&self) {
        self.out.set(self.out.get() - 1);
    }

    /// Operations under way.
    pub(super) fn out(&self) -> usize {
        self.out.get()
    }

    /// The file was created anew.
    pub(super) fn forget(&self, key: Key) {
        self.open.borrow_mut().remove(&key);
    }

    /// Carries out a write, read or sync. Its result, and what it read.
    pub(super) async fn carry_out(&self, op: Op, bytes: Vec<u8>) -> (i32, Option<Portion>) {
        match self.attempt(op, bytes).await {
            Ok((count, portion)) => (i32::try_from(count).expect("less than 2 GiB in one call"), portion),
            Err(error) => (errno(&error), None),
        }
    }

    async fn attempt(&self, op: Op, bytes: Vec<u8>) -> Result<(usize, Option<Portion>), GlommioError<()>> {
        match op {
            Op::Write { log, segment, offset, .. } => {
                let file = self.file((log, segment)).await?;
                Ok((file.write(bytes, offset).await?, None))
            }
            Op::Read { log, segment, offset, buffer, from, len } => {
                let read = self.file((log, segment)).await?.read(offset, len as usize).await?;
                Ok((read.len(), Some(Portion { buffer, from, read })))
            }
            Op::Sync { log, segment } => {
                self.file((log, segment)).await?.sync().await?;
                Ok((0, None))
            }
            other => panic!("{other:?} is not an operation on an open file"),
        }
    }

    async fn file(&self, key: Key) -> Result<Rc<File>, GlommioError<()>> {
        let uses = self.uses.get() + 1;
        self.uses.set(uses);
        if let Some((file, used)) = self.open.borrow_mut().get_mut(&key) {
            *used = uses;
            return Ok(Rc::clone(file));
        }
        let path = self.data.join(segment_file(LogId(key.0), key.1));
        let file = Rc::new(File::open(&path, self.durability).await?);
        let mut open = self.open.borrow_mut();
        open.insert(key, (Rc::clone(&file), uses));
        if open.len() > OPEN_MAX {
            let oldest = open.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            open.remove(&oldest.expect("more than none are open"));
        }
        Ok(file)
    }

    /// Closes what is open. Nothing may be under way.
    pub(super) async fn close(&self) {
        for (file, _) in self.open.take().into_values() {
            let closed = match Rc::into_inner(file).expect("no operation has it") {
                File::Direct(file) => file.close().await,
                File::Buffered(file) => file.close().await,
            };
            // Everything that was acknowledged was synced before.
            drop(closed);
        }
    }
}
