//! The first start's site and agents, so that a stranger can talk to somebody at once.
//!
//! Their passwords are random, printed once, and kept readable in `DATA/demo-passwords.txt` (0600) for the demo alone.
//! They are hashed behind the boot, because two argon2 hashes would cost more than the whole start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::control::plane::Plane;
use crate::say;
use crate::secrets;

/// The first site.
pub const SITE: &str = "demo";
/// Logins and display names of its agents.
pub const AGENTS: [(&str, &str); 2] = [("ana", "Ana"), ("bo", "Bo")];

/// Where the passwords are kept.
pub fn password_file(data: &Path) -> PathBuf {
    data.join("demo-passwords.txt")
}

/// Makes the passwords and writes the file. Called before the directory is seeded: were it the other way round, a
/// crash in between would leave agents whose passwords nobody knows.
pub fn write_passwords(data: &Path) -> io::Result<()> {
    let lines: String =
        AGENTS.iter().map(|(login, _)| format!("{login} {}\n", secrets::readable_password())).collect();
    secrets::write_private(&password_file(data), lines.as_bytes())
}

/// Logins and passwords of the file, if it is there.
pub fn read_passwords(data: &Path) -> io::Result<Vec<(String, String)>> {
    let text = secrets::read_small(&password_file(data))?.unwrap_or_default();
    let pair =
        |line: &str| line.split_once(' ').map(|(login, password)| (login.to_string(), password.to_string()));
    Ok(text.lines().filter_map(pair).collect())
}

/// Hashes the passwords of demo agents that have none yet. Takes the hashing permit first, so that a login that comes
/// early waits for its password instead of being refused.
pub async fn set_passwords(plane: Arc<Plane>) {
    let Ok(_turn) = plane.hashing.acquire().await else { return };
    let data = plane.config().fixed.data.clone();
    let outcome = plane
        .directory(move |directory| {
            let Some(site) = directory.site(SITE)? else { return Ok(()) };
            if directory.agents(site.id)?.iter().all(|agent| agent.password_hash.is_some()) {
                return Ok(());
            }
            for (login, password) in read_passwords(&data).unwrap_or_default() {
                let agent = directory.agent(site.id, &login)?;
                if agent.is_some_and(|agent| agent.password_hash.is_none()) {
                    directory.set_password(site.id, &login, &secrets::hash_password(&password))?;
                }
            }
            Ok(())
        })
        .await;
    if let Err(error) = outcome {
        say!(Error, "the demo agents have no passwords: {error:?}");
    }
}
