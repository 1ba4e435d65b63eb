//! The host: cores and limits. Called at boot, before the first turn.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores this process may run on, ascending. Never empty.
pub fn available_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Binds the calling thread to one core. Fails if the core does not exist or is not available.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::Error::from(rustix::io::Errno::INVAL));
    }
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Raises the soft limit of open descriptors to the hard one and returns it. A descriptor table of a ring may not be
/// larger than this, although its entries are not process descriptors.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_where_it_was_pinned() {
        let cores = available_cores().expect("the affinity is readable");
        let last = *cores.last().expect("at least one core");
        let pinned = std::thread::spawn(move || {
            pin(last).expect("an available core");
            available_cores().expect("the affinity is readable")
        });
        assert_eq!(pinned.join().expect("no panic"), [last]);
        assert!(pin(1 << 20).is_err());
    }
}
