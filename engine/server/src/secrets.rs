//! Random bytes from the kernel, readable passwords, password hashes, and files only their owner reads.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use rustix::rand::{GetRandomFlags, getrandom};

/// Longest password taken, bytes: bounds the work of one login.
pub const PASSWORD_BYTES_MAX: usize = 256;
/// Shortest password an operator may set, bytes.
pub const PASSWORD_BYTES_MIN: usize = 8;

/// An argon2id hash of nothing anybody knows, with the parameters of [`hash_password`]: verified against when the agent
/// does not exist, so that both answers take the same time.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZSBkZWNveSBzYWx0$\
                     q0l3n0yCw1k9b9k7m4mX0m7m1b7yV1o2Qk3i5c8u4dA";

/// `N` random bytes from getrandom(2). Panics when the kernel has none: nothing secret may be made then.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
    bytes
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A password that can be read aloud: three groups of three syllables, 54 random bits.
pub fn readable_password() -> String {
    const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
    const VOWELS: &[u8; 4] = b"aiou";
    let mut text = String::with_capacity(20);
    for (index, byte) in random_bytes::<9>().into_iter().enumerate() {
        if index == 3 || index == 6 {
            text.push('-');
        }
        text.push(CONSONANTS[usize::from(byte & 15)] as char);
        text.push(VOWELS[usize::from(byte >> 4 & 3)] as char);
    }
    text
}

/// The argon2id PHC string of a password (RFC 9106; 19 MiB, two passes, one lane). About 20 ms of CPU.
pub fn hash_password(password: &str) -> String {
    Argon2::default()
        .hash_password(password.as_bytes())
        .expect("the default parameters of argon2id are valid")
        .to_string()
}

/// Whether `password` is the one behind `hash`. Takes the same time when there is no hash.
pub fn verify_password(password: &str, hash: Option<&str>) -> bool {
    let known = hash.is_some();
    let Ok(parsed) = PasswordHash::new(hash.unwrap_or(DECOY)) else { return false };
    let matches = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
    known && matches && password.len() <= PASSWORD_BYTES_MAX
}

/// Writes a file only its owner reads (mode 0600), replacing an older one, durably.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Reads a small text file, at most 4 KiB, trimmed. `None` when it does not exist.
pub fn read_small(path: &Path) -> io::Result<Option<String>> {
    match File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(4096).read_to_string(&mut text)?;
            Ok(Some(text.trim().to_string()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_hash_verifies_its_password_only() {
        let hash = hash_password("kabo-tilu");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(verify_password("kabo-tilu", Some(&hash)));
        assert!(!verify_password("kabo-tilo", Some(&hash)));
        assert!(!verify_password("kabo-tilu", None));
        assert!(!verify_password("kabo-tilu", Some("not a hash")));
    }

    #[test]
    fn the_decoy_costs_what_a_real_hash_costs() {
        let decoy = PasswordHash::new(DECOY).expect("the decoy parses");
        let real = hash_password("x");
        let real = PasswordHash::new(&real).expect("parses");
        assert_eq!(decoy.params.to_string(), real.params.to_string());
        assert_eq!(decoy.hash.map(|hash| hash.len()), real.hash.map(|hash| hash.len()));
    }

    #[test]
    fn passwords_are_readable_and_differ() {
        let (a, b) = (readable_password(), readable_password());
        assert_ne!(a, b);
        assert_eq!(a.len(), 20);
        assert!(a.bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase()), "{a}");
    }

    #[test]
    fn private_files_are_private() {
        let path = std::env::temp_dir().join(format!("ringdesk-private-{}", std::process::id()));
        write_private(&path, b"secret\n").expect("written");
        write_private(&path, b"secret2\n").expect("written again");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(read_small(&path).expect("read"), Some("secret2".to_string()));
        std::fs::remove_file(&path).expect("clean");
        assert_eq!(read_small(&path).expect("read"), None);
    }
}
