//! Starts the process that will replace this one: the same program file, which may hold a newer version by now, with the
//! same arguments and `--take-over`. As a child it has the same user, the same sandbox and the same control group.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::say;

/// The option that makes a start a take-over.
const OPTION: &str = "--take-over";

/// Starts it and says how it ends, if this process lives to see that.
pub fn start() {
    match spawn() {
        Ok(pid) => say!(Info, "process {pid} was started to take over"),
        Err(error) => say!(Error, "no process can be started to take over: {error}"),
    }
}

/// Starts it; its process id.
///
/// # Errors
/// What the system says.
pub fn spawn() -> io::Result<u32> {
    let mut child =
        Command::new(program()?).args(arguments(std::env::args_os())).stdin(Stdio::null()).spawn()?;
    let pid = child.id();
    std::thread::Builder::new().name("rd-successor".into()).spawn(move || {
        if let Ok(status) = child.wait() {
            say!(Warn, "process {pid}, which was to take over, ended: {status}");
        }
    })?;
    Ok(pid)
}

/// The file this process was started from, or what lies in its place since: the kernel marks a file that was replaced.
fn program() -> io::Result<PathBuf> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let bytes = path.as_os_str().as_bytes();
    let kept = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(kept)))
}

fn arguments(own: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = own.skip(1).filter(|argument| argument != OPTION).collect();
    arguments.push(OPTION.into());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_gets_the_same_arguments_once() {
        let own = ["ringdeskd", "--data", "d", OPTION].map(OsString::from);
        let next = arguments(own.into_iter());
        assert_eq!(next, ["--data", "d", OPTION].map(OsString::from));
        assert_eq!(arguments([OsString::from("ringdeskd")].into_iter()), [OsString::from(OPTION)]);
    }
}
