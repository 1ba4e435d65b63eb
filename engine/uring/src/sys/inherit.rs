//! Sockets that were open when the process started: socket activation as systemd does it (sd_listen_fds(3)).
//!
//! The protocol is three variables of the environment: LISTEN_PID (who is meant), LISTEN_FDS (how many, from
//! descriptor 3 on) and LISTEN_FDNAMES (their names, separated by colons).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor handed over (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// Sockets handed over at most: more is a mistake.
const SOCKETS_MAX: usize = 64;

/// A socket that was handed over.
#[derive(Debug)]
pub struct Inherited {
    /// `FileDescriptorName=` of the socket unit; without one systemd sends the unit's name.
    pub name: String,
    /// The socket, listening.
    pub socket: OwnedFd,
}

/// The names of the sockets meant for process `pid`. `None`: none are.
fn names(pid: u32, of: impl Fn(&str) -> Option<String>) -> Result<Option<Vec<String>>, String> {
    let (Some(meant), Some(count)) = (of("LISTEN_PID"), of("LISTEN_FDS")) else { return Ok(None) };
    if meant.parse() != Ok(pid) {
        return Ok(None);
    }
    let count: usize = count.parse().map_err(|_| format!("LISTEN_FDS is `{count}`, not a number"))?;
    if count > SOCKETS_MAX {
        return Err(format!("LISTEN_FDS is {count}; at most {SOCKETS_MAX} sockets are taken"));
    }
    let given = of("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<String> = given.split(':').take(count).map(str::to_owned).collect();
    if names.len() < count || names.iter().any(String::is_empty) {
        return Err(format!("LISTEN_FDNAMES is `{given}`, which does not name {count} sockets"));
    }
    Ok(Some(names))
}

/// Takes the sockets handed over to this process; a second call finds none.
///
/// # Errors
/// A sentence, when the environment contradicts itself or a descriptor is not open.
pub fn inherited() -> Result<Vec<Inherited>, String> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let Some(names) = names(std::process::id(), |name| std::env::var(name).ok())? else {
        return Ok(Vec::new());
    };
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    let take = |(descriptor, name): (RawFd, String)| {
        // SAFETY: plain calls on a number; a descriptor that is not open makes them fail.
        let set = unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        if set < 0 {
            let cause = io::Error::last_os_error();
            return Err(format!("socket `{name}` was announced as descriptor {descriptor}: {cause}"));
        }
        // SAFETY: open, as the call above showed, and nobody's: the parent gave it to this process by number, nothing
        // in this process knows that number, and `TAKEN` lets it be taken once.
        Ok(Inherited { name, socket: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    };
    (FIRST..).zip(names).map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(vars: &[(&str, &str)]) -> Result<Option<Vec<String>>, String> {
        names(7, |name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn sockets_are_taken_when_they_are_meant_for_us() {
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[("LISTEN_PID", "8"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "a")]), Ok(None));
        let two = [("LISTEN_PID", "7"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "binary:websocket")];
        assert_eq!(found(&two), Ok(Some(vec!["binary".to_owned(), "websocket".to_owned()])));
    }

    #[test]
    fn a_contradiction_is_an_error() {
        for (count, names) in [("x", "a"), ("2", "a"), ("1", ""), ("65", "a"), ("2", "a:")] {
            let vars = [("LISTEN_PID", "7"), ("LISTEN_FDS", count), ("LISTEN_FDNAMES", names)];
            assert!(found(&vars).is_err(), "{count} {names}");
        }
    }
}
