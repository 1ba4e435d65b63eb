//! What can be wrong at start: one sentence and one exit code for each.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::damage::DamageReport;
use crate::config::ConfigError;
use crate::directory::DirectoryError;

/// Why the server does not start.
#[derive(Debug)]
pub enum BootError {
    /// The configuration. Exit code 2, as for a wrong command line.
    Config(ConfigError),
    /// The data folder cannot be used. Exit code 3.
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        sentence: String,
    },
    /// Another instance uses the data folder. Exit code 4.
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Its process, as far as the file tells.
        pid: Option<u32>,
    },
    /// An address cannot be listened on. Exit code 5.
    Address {
        /// The config key.
        key: &'static str,
        /// What is wrong with it.
        sentence: String,
    },
    /// A socket that was handed over at start cannot be used. Exit code 5.
    Inherited(String),
    /// The kernel denies what a shard needs. Exit code 6.
    Kernel(String),
    /// A log is damaged. Exit code 7.
    Damaged(DamageReport),
    /// A log cannot be replayed by this version. Exit code 7.
    Replay(String),
    /// The directory. Exit code 8.
    Directory(DirectoryError),
    /// The running server cannot be replaced, or this process cannot replace it. Exit code 9.
    TakeOver(String),
}

impl BootError {
    /// The data folder or a file in it.
    pub fn folder(path: &Path, what: &str) -> impl FnOnce(io::Error) -> Self {
        let (path, what) = (path.to_path_buf(), what.to_string());
        move |error| Self::Folder { path, sentence: format!("{what}: {error}") }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Folder { .. } => 3,
            Self::Locked { .. } => 4,
            Self::Address { .. } | Self::Inherited(_) => 5,
            Self::Kernel(_) => 6,
            Self::Damaged(_) | Self::Replay(_) => 7,
            Self::Directory(_) => 8,
            Self::TakeOver(_) => 9,
        }
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "{error}"),
            Self::Folder { path, sentence } => write!(f, "{}: {sentence}", path.display()),
            Self::Locked { path, pid: Some(pid) } => {
                write!(f, "{} is locked: the data folder is in use by process {pid}", path.display())
            }
            Self::Locked { path, pid: None } => {
                write!(f, "{} is locked: the data folder is in use by another process", path.display())
            }
            Self::Address { key, sentence } => write!(f, "{sentence} (config key `{key}`)"),
            Self::Inherited(sentence)
            | Self::Kernel(sentence)
            | Self::Replay(sentence)
            | Self::TakeOver(sentence) => write!(f, "{sentence}"),
            Self::Damaged(report) => write!(f, "{report}"),
            Self::Directory(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for BootError {}

impl From<ConfigError> for BootError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<DirectoryError> for BootError {
    fn from(error: DirectoryError) -> Self {
        Self::Directory(error)
    }
}
