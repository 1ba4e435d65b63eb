//! Opening a ring: flags, sizes and tables, each tried and given up one by one, with one line for each loss.

use std::fmt;
use std::io;
use std::path::PathBuf;

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, Probe, opcode};
use ringdesk_persist::{Geometry, LogId};

use crate::files::Durability;

/// What a kernel may lack, or a test may take away. All `true` by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// IORING_SETUP_NO_SQARRAY (Linux 6.6).
    pub no_sqarray: bool,
    /// IORING_SETUP_DEFER_TASKRUN (6.1): completions are worked on when the loop asks for them.
    pub defer_taskrun: bool,
    /// IORING_SETUP_SINGLE_ISSUER (6.0). Needed for `defer_taskrun`.
    pub single_issuer: bool,
    /// IORING_SETUP_COOP_TASKRUN (5.19).
    pub coop_taskrun: bool,
    /// The ring's descriptor is registered with its thread (5.18).
    pub registered_ring: bool,
    /// Sleeping rings are woken with MSG_RING; otherwise through an eventfd, which takes a system call each.
    pub msg_ring_wake: bool,
    /// Log files are written with O_DIRECT and O_DSYNC; otherwise each write is followed by fdatasync.
    pub direct_io: bool,
    /// The ring takes no operation but those in use (IORING_REGISTER_RESTRICTIONS, 5.10): seccomp does not see what
    /// a ring does, so a ring that could do anything would be a way around it.
    pub restricted: bool,
    /// The log's writes go out of memory that the ring knows (IORING_REGISTER_BUFFERS, WRITE_FIXED); otherwise the
    /// kernel pins and unpins the pages of each. Counts against RLIMIT_MEMLOCK.
    pub registered_buffers: bool,
    /// IORING_OP_FIXED_FD_INSTALL (6.8): connections can leave for another process.
    pub fd_install: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            no_sqarray: true,
            defer_taskrun: true,
            single_issuer: true,
            coop_taskrun: true,
            registered_ring: true,
            msg_ring_wake: true,
            direct_io: true,
            restricted: true,
            registered_buffers: true,
            fd_install: true,
        }
    }
}

/// Registered buffers of a shard's log: one batch that is being written, one that takes records, and the zeros that are
/// written ahead of both.
const LOG_BUFFERS: u16 = 3;

/// How to open a ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SysConfig {
    /// The shard.
    pub shard: u16,
    /// The data folder.
    pub data: PathBuf,
    /// Connections the shard shall hold. A ring's descriptor table holds at most `table_entries`; where that is less,
    /// further rings carry the rest.
    pub entries: u32,
    /// Entries of one ring's descriptor table, halved while the kernel refuses. Also bounded by RLIMIT_NOFILE.
    pub table_entries: u32,
    /// Entries of the submission queue, a power of two. A fuller turn takes more than one call.
    pub submission_entries: u32,
    /// Entries of the completion queue, a power of two, sized for a burst; beyond it the kernel keeps completions on
    /// a slower list.
    pub completion_entries: u32,
    /// Receive buffers, a power of two up to 32,768.
    pub receive_buffers: u16,
    /// Bytes of each.
    pub receive_buffer_bytes: u32,
    /// Buffers for the log's writes that are registered, from 0 on.
    pub log_buffers: u16,
    /// Bytes of each, a multiple of 4096. A batch of the log needs to fit.
    pub log_buffer_bytes: u32,
    /// Completions taken per turn.
    pub completions_per_turn: usize,
    /// What may be used.
    pub features: Features,
    /// How writes become durable, where that is known; otherwise it is found out by writing a file.
    pub durability: Option<Durability>,
}

impl SysConfig {
    /// The same for a ring that only carries connections: smaller queues and buffers, since one shard may have dozens.
    pub(super) fn annex(&self) -> Self {
        Self {
            submission_entries: self.submission_entries.min(512),
            completion_entries: self.completion_entries.min(4096),
            receive_buffers: self.receive_buffers.min(256),
            receive_buffer_bytes: self.receive_buffer_bytes.min(2048),
            log_buffers: 0,
            ..self.clone()
        }
    }

    /// The defaults for a shard with its log below `data`.
    pub fn new(shard: u16, data: PathBuf) -> Self {
        let log = Geometry::new(LogId(shard));
        Self {
            shard,
            data,
            entries: 20_000,
            table_entries: 20_000,
            submission_entries: 1024,
            completion_entries: 16_384,
            receive_buffers: 512,
            receive_buffer_bytes: 4096,
            log_buffers: LOG_BUFFERS,
            log_buffer_bytes: log.batch_bytes_max.max(log.fill_step_bytes),
            completions_per_turn: 1024,
            features: Features::default(),
            durability: None,
        }
    }
}

/// Why a ring cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// io_uring is denied (seccomp, kernel.io_uring_disabled) or not built in. The portable backend runs instead.
    Denied(io::Error),
    /// The smallest ring does not fit into the memory that may be locked.
    Memory(io::Error),
    /// The kernel is older than Linux 6.1; its release.
    TooOld(String),
    /// Another step failed.
    Step {
        /// What was tried.
        step: &'static str,
        /// The cause.
        cause: io::Error,
    },
}

impl OpenError {
    pub(super) fn step(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| match cause.raw_os_error() {
            Some(libc::ENOMEM) => Self::Memory(cause),
            _ => Self::Step { step, cause },
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(cause) => write!(
                f,
                "io_uring is denied here ({cause}): allow it in the container's seccomp profile and in the sysctl \
                 kernel.io_uring_disabled, or use the portable driver"
            ),
            Self::Memory(cause) => write!(
                f,
                "not enough memory may be locked for io_uring ({cause}): raise RLIMIT_MEMLOCK (systemd: \
                 LimitMEMLOCK=infinity)"
            ),
            Self::TooOld(release) => {
                write!(
                    f,
                    "Linux {release} is older than 6.1, which io_uring needs here: use the portable driver"
                )
            }
            Self::Step { step, cause } => write!(f, "cannot {step}: {cause}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// A ring, what of the features it has, and a line for each it had to do without.
pub(super) struct Opened {
    pub ring: IoUring,
    pub features: Features,
    pub entries: u32,
    pub notices: Vec<String>,
}

/// The smallest completion queue worth opening.
const COMPLETION_ENTRIES_MIN: u32 = 256;

/// The smallest descriptor table worth opening.
const ENTRIES_MIN: u32 = 64;

pub(super) fn open(config: &SysConfig) -> Result<Opened, OpenError> {
    check_release(&rustix::system::uname().release().to_string_lossy())?;
    let mut features = config.features;
    features.defer_taskrun &= features.single_issuer;
    let (mut sq, mut cq) = (config.submission_entries, config.completion_entries);
    let mut notices = Vec::new();
    let ring = loop {
        let error = match build(features, sq, cq) {
            Ok(ring) => break ring,
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => return Err(OpenError::Denied(error)),
            Some(libc::EINVAL) => match give_up_one(&mut features) {
                Some(lost) => notices.push(format!("this kernel's io_uring lacks {lost}: slower without")),
                None => return Err(OpenError::Step { step: "open a ring", cause: error }),
            },
            Some(libc::ENOMEM) if cq / 2 >= COMPLETION_ENTRIES_MIN => {
                (sq, cq) = ((sq / 2).max(64), cq / 2);
                notices.push(format!("not enough lockable memory: the ring is halved to {cq} completions"));
            }
            Some(libc::ENOMEM) => return Err(OpenError::Memory(error)),
            _ => return Err(OpenError::Step { step: "open a ring", cause: error }),
        }
    };
    let entries = register_table(&ring, config.entries.min(config.table_entries), &mut notices)?;
    if features.fd_install && !installs(&ring) {
        features.fd_install = false;
        notices.push(
            "connections cannot change the process (Linux 6.8): an upgrade says goodbye to them".into(),
        );
    }
    Ok(Opened { ring, features, entries, notices })
}

fn installs(ring: &IoUring) -> bool {
    let mut probe = Probe::new();
    let asked = ring.submitter().register_probe(&mut probe);
    asked.is_ok() && probe.is_supported(opcode::FixedFdInstall::CODE)
}

/// Kernels below 6.1 lack operations that have no substitute here (multishot receive, synchronous cancellation).
fn check_release(release: &str) -> Result<(), OpenError> {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 1) { Err(OpenError::TooOld(release.to_owned())) } else { Ok(()) }
}

/// Drops the newest feature still wanted.
fn give_up_one(features: &mut Features) -> Option<&'static str> {
    let in_order = [
        (&mut features.no_sqarray, "NO_SQARRAY"),
        (&mut features.defer_taskrun, "DEFER_TASKRUN"),
        (&mut features.single_issuer, "SINGLE_ISSUER"),
        (&mut features.coop_taskrun, "COOP_TASKRUN"),
    ];
    for (feature, name) in in_order {
        if *feature {
            *feature = false;
            return Some(name);
        }
    }
    None
}

fn build(features: Features, sq: u32, cq: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(cq).setup_submit_all();
    if features.coop_taskrun {
        builder.setup_coop_taskrun();
    }
    if features.single_issuer {
        builder.setup_single_issuer();
    }
    if features.defer_taskrun {
        builder.setup_defer_taskrun();
    }
    if features.coop_taskrun || features.defer_taskrun {
        builder.setup_taskrun_flag();
    }
    if features.no_sqarray {
        builder.setup_no_sqarray();
    }
    if features.restricted {
        builder.setup_r_disabled();
    }
    builder.build(sq)
}

/// Operations a ring of ours may carry out. What the shim pushes and is not here fails with EACCES.
const OPERATIONS: [u8; 11] = [
    opcode::Accept::CODE,
    opcode::Recv::CODE,
    opcode::Send::CODE,
    opcode::Shutdown::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Close::CODE,
    opcode::MsgRingData::CODE,
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::WriteFixed::CODE,
    opcode::Fsync::CODE,
];

/// What may still be registered once the ring runs: connections that come from another process, its descriptor with
/// the thread, and the end of everything at the drop (linux/io_uring.h: REGISTER_FILES_UPDATE, REGISTER_RING_FDS,
/// UNREGISTER_RING_FDS, REGISTER_SYNC_CANCEL).
const REGISTRATIONS: [u8; 4] = [6, 20, 21, 24];

/// Restricts a ring that was opened disabled, and enables it. `false`: this kernel takes no restrictions.
pub(super) fn restrict(
    ring: &IoUring,
    features: Features,
    notices: &mut Vec<String>,
) -> Result<bool, OpenError> {
    let flags = Flags::FIXED_FILE | Flags::IO_LINK | Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS;
    let mut allowed: Vec<Restriction> = OPERATIONS.iter().map(|op| Restriction::sqe_op(*op)).collect();
    if features.fd_install {
        allowed.push(Restriction::sqe_op(opcode::FixedFdInstall::CODE));
    }
    allowed.extend(REGISTRATIONS.iter().map(|op| Restriction::register_op(*op)));
    allowed.push(Restriction::sqe_flags_allowed(flags.bits()));
    let restricted = ring.submitter().register_restrictions(&mut allowed).is_ok();
    if !restricted {
        notices.push("this kernel does not restrict the ring's operations".into());
    }
    ring.submitter().register_enable_rings().map_err(OpenError::step("enable the ring"))?;
    Ok(restricted)
}

fn register_table(ring: &IoUring, wanted: u32, notices: &mut Vec<String>) -> Result<u32, OpenError> {
    let mut entries = wanted;
    loop {
        let error = match ring.submitter().register_files_sparse(entries) {
            Ok(()) => return Ok(entries),
            Err(error) => error,
        };
        let cause = match error.raw_os_error() {
            Some(libc::ENOMEM) => "not enough memory",
            Some(libc::EMFILE) => "RLIMIT_NOFILE is too low",
            _ => return Err(OpenError::Step { step: "register the descriptor table", cause: error }),
        };
        if entries / 2 < ENTRIES_MIN {
            return Err(OpenError::step("register the descriptor table")(error));
        }
        entries /= 2;
        notices.push(format!("{cause}: the descriptor table is halved to {entries} connections"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        for release in ["6.1.0-13-amd64", "6.18.44", "7.0-rc1", "10.2.3"] {
            assert!(check_release(release).is_ok(), "{release}");
        }
        for release in ["5.15.0", "6.0.9", "4.19", "nonsense"] {
            assert!(matches!(check_release(release), Err(OpenError::TooOld(_))), "{release}");
        }
    }

    #[test]
    fn features_are_given_up_newest_first() {
        let mut features = Features::default();
        let lost: Vec<_> = std::iter::from_fn(|| give_up_one(&mut features)).collect();
        assert_eq!(lost, ["NO_SQARRAY", "DEFER_TASKRUN", "SINGLE_ISSUER", "COOP_TASKRUN"]);
    }

    #[test]
    fn a_table_larger_than_allowed_is_halved_with_a_notice() {
        let ring = build(Features::default(), 8, 16).expect("a small ring");
        let mut notices = Vec::new();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        // No kernel takes more than 2^20 entries, whatever the limit.
        let wanted = limit.map_or(1 << 20, |limit| limit.min(1 << 20)) as u32 + 1;
        let entries = register_table(&ring, wanted, &mut notices).expect("half of it fits");
        assert_eq!(entries, wanted / 2);
        assert!(notices[0].starts_with("RLIMIT_NOFILE is too low"), "{notices:?}");
    }
}
