//! The directory: sites, agents, settings, revocations. One ACID file behind a small trait.
//!
//! Every call may block on the disk, so it is made at boot or on the control plane's blocking threads, never on a
//! shard. A write has reached the disk when the call returns. Which store lies below, and why:
//! `docs/decisions/0002-directory-redb.md`.

mod redb;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::redb::RedbDirectory;

/// Longest site name, bytes.
pub const SITE_NAME_BYTES_MAX: usize = 32;
/// Longest login, bytes.
pub const LOGIN_BYTES_MAX: usize = 64;
/// Longest display name, bytes; the wire's `NAME_BYTES_MAX`.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest external visitor id, bytes; the wire's `VISITOR_BYTES_MAX`.
pub const VISITOR_BYTES_MAX: usize = 64;
/// Most sites of a directory.
pub const SITES_MAX: u32 = 100_000;
/// Most public keys of a site that are in force at once.
pub const KEYS_PER_SITE_MAX: usize = 16;
/// Most agents of a site.
pub const AGENTS_PER_SITE_MAX: u32 = 100_000;

/// A site.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Site {
    /// Number, from 1, never used again.
    pub id: u32,
    /// Name, part of the hash keys; never changes.
    pub name: String,
    /// When it was added, seconds since 1970.
    pub created_s: u64,
}

/// An agent or bot of a site.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Agent {
    /// Site number.
    pub site: u32,
    /// Number within the site, from 1, never used again.
    pub id: u32,
    /// Login, part of the hash key; never changes.
    pub login: String,
    /// What visitors see.
    pub name: String,
    /// argon2id PHC string; `None`: cannot log in yet.
    pub password_hash: Option<String>,
    /// When it was added, seconds since 1970.
    pub created_s: u64,
}

/// A public key with which a site signs its visitors' tickets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SiteKey {
    /// Site number.
    pub site: u32,
    /// Number within the site, from 1, never used again. The key's name in tickets is `site name:number`.
    pub number: u32,
    /// Ed25519 public key.
    pub key: [u8; 32],
    /// When it was added, seconds since 1970.
    pub created_s: u64,
    /// Removed keys stay, so that their number is never used again.
    pub removed: bool,
}

/// Tickets of this identity issued before `before_s` are refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// Site number.
    pub site: u32,
    /// Agent number, 0 for a visitor.
    pub agent: u32,
    /// External visitor id, empty for an agent.
    pub visitor: String,
    /// Seconds since 1970.
    pub before_s: u64,
}

/// What a new directory starts with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seed {
    /// HMAC key of tickets.
    pub ticket_key: [u8; 32],
    /// The first site's name.
    pub site: String,
    /// Logins and display names of its agents, without passwords.
    pub agents: Vec<(String, String)>,
    /// Seconds since 1970.
    pub now_s: u64,
}

/// Why the directory refused or failed.
#[derive(Debug)]
pub enum DirectoryError {
    /// The name is empty, too long or holds other characters than it may.
    BadName {
        /// Which kind of name.
        what: &'static str,
        /// What it may be.
        rule: &'static str,
    },
    /// The name is taken.
    Exists {
        /// Which kind of name.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// There is no such thing.
    Unknown {
        /// Which kind of name.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A bound is reached.
    Full {
        /// Of what.
        what: &'static str,
    },
    /// The file is in use, damaged, or the disk failed.
    Store(String),
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName { what, rule } => write!(f, "the {what} is not valid: {rule}"),
            Self::Exists { what, name } => write!(f, "the {what} `{name}` exists already"),
            Self::Unknown { what, name } => write!(f, "there is no {what} `{name}`"),
            Self::Full { what } => write!(f, "the directory holds as many {what} as it may"),
            Self::Store(error) => write!(f, "the directory failed: {error}"),
        }
    }
}

impl std::error::Error for DirectoryError {}

/// The store. Each write is one transaction.
pub trait Directory: Send + Sync {
    /// Closes the file for another process, after the calls that are under way. Calls fail until [`Self::take_back`].
    fn release(&self);
    /// Opens the file again.
    fn take_back(&self) -> Result<(), DirectoryError>;
    /// Writes `seed` if the directory is new. Returns whether it was.
    fn seed(&self, seed: &Seed) -> Result<bool, DirectoryError>;
    /// HMAC-SHA256 key of tickets, 32 bytes.
    fn ticket_key(&self) -> Result<Vec<u8>, DirectoryError>;
    /// All sites, by number.
    fn sites(&self) -> Result<Vec<Site>, DirectoryError>;
    /// The site of this name.
    fn site(&self, name: &str) -> Result<Option<Site>, DirectoryError>;
    /// Adds a site with the next number.
    fn add_site(&self, name: &str, now_s: u64) -> Result<Site, DirectoryError>;
    /// Adds a public key with the next number of the site.
    fn add_site_key(&self, site: u32, key: &[u8; 32], now_s: u64) -> Result<SiteKey, DirectoryError>;
    /// Public keys in force, of one site or (0) of all, by site and number.
    fn site_keys(&self, site: u32) -> Result<Vec<SiteKey>, DirectoryError>;
    /// Takes a public key out of force.
    fn remove_site_key(&self, site: u32, number: u32) -> Result<(), DirectoryError>;
    /// All agents of a site, by number.
    fn agents(&self, site: u32) -> Result<Vec<Agent>, DirectoryError>;
    /// The agent of this login.
    fn agent(&self, site: u32, login: &str) -> Result<Option<Agent>, DirectoryError>;
    /// Adds an agent with the next number of the site.
    fn add_agent(
        &self,
        site: u32,
        login: &str,
        name: &str,
        password_hash: Option<&str>,
        now_s: u64,
    ) -> Result<Agent, DirectoryError>;
    /// Replaces an agent's password hash.
    fn set_password(&self, site: u32, login: &str, password_hash: &str) -> Result<(), DirectoryError>;
    /// Records a revocation; a later one of the same identity replaces it, an earlier one changes nothing.
    fn revoke(&self, revocation: &Revocation) -> Result<(), DirectoryError>;
    /// The revocation of an identity: tickets issued before this second are refused. 0 = none.
    fn revoked_before(&self, site: u32, agent: u32, visitor: &str) -> Result<u64, DirectoryError>;
    /// All revocations with `before_s > since_s`.
    fn revocations(&self, since_s: u64) -> Result<Vec<Revocation>, DirectoryError>;
}

/// Site names: 1 to 32 of `a-z 0-9 -`. They stand in hash keys and addresses.
pub fn check_site_name(name: &str) -> Result<(), DirectoryError> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=SITE_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    Err(DirectoryError::BadName { what: "site name", rule: "1 to 32 characters of a-z, 0-9 and -" })
}

/// Logins and gateway names: 1 to 64 of `a-z 0-9 . _ - @`. They stand in hash keys.
pub fn check_login(login: &str) -> Result<(), DirectoryError> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-@".contains(&byte);
    if (1..=LOGIN_BYTES_MAX).contains(&login.len()) && login.bytes().all(good) {
        return Ok(());
    }
    Err(DirectoryError::BadName {
        what: "login",
        rule: "1 to 64 characters of a-z, 0-9, `.`, `_`, `-` and `@`",
    })
}

/// Display names: 1 to 64 bytes without control characters.
pub fn check_display_name(name: &str) -> Result<(), DirectoryError> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(DirectoryError::BadName { what: "name", rule: "1 to 64 bytes without control characters" })
}

/// External visitor ids: 1 to 64 bytes without control characters, spaces, `{` and `}` (they would cut the hash tag).
pub fn check_visitor(id: &str) -> Result<(), DirectoryError> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || c == '{' || c == '}';
    if (1..=VISITOR_BYTES_MAX).contains(&id.len()) && !id.chars().any(bad) {
        return Ok(());
    }
    Err(DirectoryError::BadName { what: "visitor id", rule: "1 to 64 bytes without spaces, `{` and `}`" })
}
