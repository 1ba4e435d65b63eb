//! What the process says about itself, on standard error: one line per thing, with the priority prefix that journald
//! understands when it reads us (`sd-daemon(3)`), and a plain word otherwise. Shards say nothing; they count.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::Deserialize;

/// How much is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Level {
    /// Only what stops or endangers the server.
    Error = 0,
    /// Also what an operator should look at.
    Warn = 1,
    /// Also starts, reloads and stops.
    Info = 2,
    /// Also single requests of the control plane.
    Debug = 3,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Sets what is written from now on.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Writes one line if the level asks for it. A failed write is ignored: there is nowhere else to say it.
pub fn say(level: Level, line: fmt::Arguments<'_>) {
    static UNDER_JOURNALD: OnceLock<bool> = OnceLock::new();
    if level as u8 > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let journald = *UNDER_JOURNALD.get_or_init(|| std::env::var_os("JOURNAL_STREAM").is_some());
    let prefix = match (journald, level) {
        (true, Level::Error) => "<3>",
        (true, Level::Warn) => "<4>",
        (true, Level::Info) => "<6>",
        (true, Level::Debug) => "<7>",
        (false, Level::Error) => "error: ",
        (false, Level::Warn) => "warning: ",
        (false, Level::Info | Level::Debug) => "",
    };
    let text = format!("{prefix}{line}\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// `error!`-like short forms that read as sentences at the call.
#[macro_export]
macro_rules! say {
    ($level:ident, $($arg:tt)*) => {
        $crate::journal::say($crate::journal::Level::$level, format_args!($($arg)*))
    };
}
