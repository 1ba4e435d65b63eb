//! Which core runs what: figures per core need the two sides on a core each.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores this thread may use, ascending.
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// Keeps the calling thread, and what it starts from now on, on one core.
///
/// # Errors
/// A sentence when the core may not be used.
pub fn pin(core: usize) -> Result<(), String> {
    keep(&[core])
}

/// Keeps the calling thread, and what it starts from now on, on these cores.
///
/// # Errors
/// A sentence when none of them may be used.
pub fn keep(cores: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).map_err(|e| format!("cannot run on cores {cores:?}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_put() {
        std::thread::spawn(|| {
            let all = allowed();
            let last = *all.last().expect("this runs somewhere");
            pin(last).expect("it was allowed");
            assert_eq!(allowed(), [last]);
            keep(&all).expect("it was allowed");
            assert_eq!(allowed(), all);
        })
        .join()
        .expect("no panic");
    }
}
