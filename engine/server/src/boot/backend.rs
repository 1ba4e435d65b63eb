//! What carries out the operations of the shards: io_uring, or the portable kernel over epoll where io_uring is denied.
//!
//! Order: [`choose`] before the replay, so that everything the host may deny is found early; [`Fleets::new`] before the
//! threads; [`Fleets`] then says which kernel each thread opens.

use std::path::Path;
use std::sync::Arc;

use ringdesk_portable::Fleet as PortableFleet;
use ringdesk_uring::files::{Durability, probe_direct};
use ringdesk_uring::sys::{Fleet, OpenError, SysConfig, SysKernel};
use serde::Deserialize;

use super::error::BootError;
use crate::say;

/// What the configuration asks for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// io_uring where the host has it, else the portable kernel, with a line that says so.
    #[default]
    Auto,
    /// io_uring or no start.
    Uring,
    /// The portable kernel.
    Portable,
    /// The kernel on glommio, in builds that have it.
    Glommio,
}

/// What carries the operations out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// io_uring.
    Uring,
    /// The portable kernel over epoll.
    Portable,
    /// The kernel on glommio, for comparison.
    #[cfg(feature = "glommio")]
    Glommio,
}

impl Wanted {
    /// As it stands in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Portable => "portable",
            Self::Glommio => "glommio",
        }
    }
}

/// What it came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// What runs.
    pub driver: Driver,
    /// How the log is written.
    pub disk: Durability,
    /// For people: the backend and how it writes.
    pub name: String,
}

/// Descriptors of the process that are not connections: logs, directory, control plane, listeners.
const OTHER_DESCRIPTORS: u64 = 512;

/// Rings of one shard, at most: what a million connections over two shards took where a table holds 20,000.
const RINGS_MAX: u64 = 64;

/// Largest descriptor table of a ring.
const TABLE_MAX: u32 = 65_536;

impl Backend {
    /// Entries of one shard's table, if `wanted` are wanted and the process may have `descriptors`. Entries of a ring
    /// are none of the process's descriptors, but the table of a single ring may not exceed that limit, and a shard
    /// has at most [`RINGS_MAX`] of them; entries of the other kernels are, in all shards together.
    pub fn entries(&self, wanted: u32, descriptors: u64, shards: u16) -> u32 {
        let most = if self.driver != Driver::Uring {
            (descriptors.saturating_sub(OTHER_DESCRIPTORS) / u64::from(shards)).max(16)
        } else {
            u64::from(Self::table(descriptors)) * RINGS_MAX
        };
        wanted.min(u32::try_from(most).unwrap_or(u32::MAX))
    }

    /// Entries of one ring's table.
    pub fn table(descriptors: u64) -> u32 {
        u32::try_from(descriptors).unwrap_or(u32::MAX).min(TABLE_MAX)
    }
}

/// Opens a small ring and closes it again, or finds out what to do without.
///
/// `known` says how the disk is written, where another process found that out; then nothing is written here.
pub fn choose(wanted: Wanted, data: &Path, known: Option<Durability>) -> Result<Backend, BootError> {
    match wanted {
        Wanted::Portable => return portable(data, known),
        Wanted::Glommio => return glommio(data, known),
        Wanted::Auto | Wanted::Uring => {}
    }
    let error = match probe_ring(data, known) {
        Ok(backend) => return Ok(backend),
        Err(Probe::Fleet(error)) => {
            return Err(BootError::Kernel(format!("no eventfd can be made: {error}")));
        }
        Err(Probe::Ring(error)) => error,
    };
    let cause = match &error {
        OpenError::Denied(cause) if wanted == Wanted::Auto => format!("io_uring is denied here ({cause})"),
        OpenError::TooOld(release) if wanted == Wanted::Auto => {
            format!("Linux {release} is older than 6.1, which io_uring needs here")
        }
        _ => return Err(BootError::Kernel(error.to_string())),
    };
    say!(
        Warn,
        "{cause}: the portable driver serves over epoll instead; this costs a system call for each receive and send, \
         and a descriptor of the process for each connection"
    );
    portable(data, known)
}

enum Probe {
    Fleet(std::io::Error),
    Ring(OpenError),
}

fn probe_ring(data: &Path, known: Option<Durability>) -> Result<Backend, Probe> {
    let fleet = Fleet::new(1).map_err(Probe::Fleet)?;
    let mut config = SysConfig::new(0, data.to_path_buf());
    config.entries = 64;
    config.submission_entries = 64;
    config.completion_entries = 256;
    config.receive_buffers = 8;
    // Memory that was locked is free again only some time after the ring is closed.
    config.log_buffers = 0;
    config.durability = known;
    let ring = SysKernel::open(&config, fleet, Vec::new()).map_err(Probe::Ring)?;
    let disk = if ring.features().direct_io { Durability::Direct } else { Durability::Buffered };
    Ok(Backend { driver: Driver::Uring, disk, name: format!("io_uring, {}", writes(disk)) })
}

/// How the log is written, found out by writing a file unless it is known.
fn durability(data: &Path, known: Option<Durability>) -> Result<Durability, BootError> {
    match known {
        Some(disk) => Ok(disk),
        None => probe_direct(data, 0).map_err(BootError::folder(data, "a file cannot be written")),
    }
}

fn portable(data: &Path, known: Option<Durability>) -> Result<Backend, BootError> {
    let disk = durability(data, known)?;
    Ok(Backend { driver: Driver::Portable, disk, name: format!("epoll (portable), {}", writes(disk)) })
}

#[cfg(not(feature = "glommio"))]
fn glommio(_data: &Path, _known: Option<Durability>) -> Result<Backend, BootError> {
    let sentence = "`backend = \"glommio\"` is for comparison and not in this build: build with the cargo feature \
                    `glommio`, or choose `uring`, `portable` or `auto`";
    Err(BootError::Kernel(sentence.to_owned()))
}

/// glommio panics where io_uring is denied, so a ring of ours is tried first.
#[cfg(feature = "glommio")]
fn glommio(data: &Path, known: Option<Durability>) -> Result<Backend, BootError> {
    match probe_ring(data, known) {
        Ok(_) => {}
        Err(Probe::Fleet(error)) => {
            return Err(BootError::Kernel(format!("no eventfd can be made: {error}")));
        }
        Err(Probe::Ring(error)) => {
            return Err(BootError::Kernel(format!("glommio needs io_uring: {error}")));
        }
    }
    let disk = durability(data, known)?;
    say!(Warn, "the glommio driver is for comparison: nothing of it was tested in production");
    Ok(Backend { driver: Driver::Glommio, disk, name: format!("glommio (comparison), {}", writes(disk)) })
}

fn writes(disk: Durability) -> &'static str {
    match disk {
        Durability::Direct => "O_DIRECT and O_DSYNC",
        Durability::Buffered => "fdatasync",
    }
}

/// What the shards' kernels know of each other.
#[derive(Clone, Debug)]
pub enum Fleets {
    /// Rings.
    Uring(Arc<Fleet>),
    /// Portable kernels.
    Portable(Arc<PortableFleet>),
    /// Kernels on glommio.
    #[cfg(feature = "glommio")]
    Glommio(Arc<PortableFleet>),
}

impl Fleets {
    /// A fleet of `shards` kernels, none of them open yet.
    pub fn new(driver: Driver, shards: u16) -> Result<Self, BootError> {
        let fleet = match driver {
            Driver::Uring => Fleet::new(shards).map(Self::Uring),
            Driver::Portable => PortableFleet::new(shards).map(Self::Portable),
            #[cfg(feature = "glommio")]
            Driver::Glommio => PortableFleet::new(shards).map(Self::Glommio),
        };
        fleet.map_err(|error| BootError::Kernel(format!("no eventfd can be made: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_connections_share_the_process_limit() {
        let backend = |driver| Backend { driver, disk: Durability::Direct, name: String::new() };
        assert_eq!(backend(Driver::Uring).entries(50_000, 20_000, 2), 50_000);
        assert_eq!(backend(Driver::Uring).entries(5_000_000, 20_000, 2), 1_280_000);
        assert_eq!(backend(Driver::Portable).entries(32_768, 20_000, 2), 9_744);
        assert_eq!(backend(Driver::Portable).entries(100, 20_000, 2), 100);
        assert_eq!(backend(Driver::Portable).entries(32_768, 64, 2), 16);
    }
}
