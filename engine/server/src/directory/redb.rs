//! The directory in a redb file: six tables, values as JSON so that fields may be added.

use std::path::{Path, PathBuf};

use parking_lot::RwLock;
use redb::{
    Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    AGENTS_PER_SITE_MAX, Agent, Directory, DirectoryError, KEYS_PER_SITE_MAX, Revocation, SITES_MAX, Seed,
    Site, SiteKey, check_display_name, check_login, check_site_name,
};

/// Page cache of redb, bytes: the directory is small and read rarely.
const CACHE_BYTES: usize = 4 << 20;

const SETTINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("settings");
const SITES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("sites");
const SITE_NAMES: TableDefinition<'_, &str, u32> = TableDefinition::new("site_names");
const AGENTS: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("agents");
const LOGINS: TableDefinition<'_, (u32, &str), u32> = TableDefinition::new("logins");
const SITE_KEYS: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("site_keys");
const REVOKED: TableDefinition<'_, (u32, u32, &str), u64> = TableDefinition::new("revoked");

const TICKET_KEY: &str = "ticket_key";

/// The directory of `DATA/directory.redb`. redb locks the file: a second process is refused.
pub struct RedbDirectory {
    path: PathBuf,
    /// `None` while another process has the file.
    database: RwLock<Option<Database>>,
}

fn store(error: impl Into<redb::Error>) -> DirectoryError {
    DirectoryError::Store(error.into().to_string())
}

fn open(path: &Path) -> Result<Database, DirectoryError> {
    Builder::new().set_cache_size(CACHE_BYTES).create(path).map_err(store)
}

fn released() -> DirectoryError {
    DirectoryError::Store("it is another process's while the server is replaced".to_string())
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("directory records have string keys only")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DirectoryError> {
    serde_json::from_slice(bytes)
        .map_err(|error| DirectoryError::Store(format!("a record cannot be read: {error}")))
}

impl RedbDirectory {
    /// Opens or creates the file.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        Ok(Self { path: path.to_path_buf(), database: RwLock::new(Some(open(path)?)) })
    }

    fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, DirectoryError>,
    ) -> Result<T, DirectoryError> {
        let database = self.database.read();
        let transaction = database.as_ref().ok_or_else(released)?.begin_write().map_err(store)?;
        let outcome = change(&transaction)?;
        transaction.commit().map_err(store)?;
        Ok(outcome)
    }

    /// The table as of now, or `None` when nothing was ever written to it.
    fn read<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<Option<ReadOnlyTable<K, V>>, DirectoryError> {
        let database = self.database.read();
        let transaction = database.as_ref().ok_or_else(released)?.begin_read().map_err(store)?;
        match transaction.open_table(table) {
            Ok(table) => Ok(Some(table)),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(store(error)),
        }
    }
}

/// The keys of one site, or (0) of all.
fn of_site(
    keys: &impl ReadableTable<(u32, u32), &'static [u8]>,
    site: u32,
) -> Result<Vec<SiteKey>, DirectoryError> {
    let last = if site == 0 { u32::MAX } else { site };
    let found = keys.range((site, 0)..=(last, u32::MAX)).map_err(store)?;
    found.map(|entry| decode(entry.map_err(store)?.1.value())).collect()
}

fn insert_site(transaction: &WriteTransaction, name: &str, now_s: u64) -> Result<Site, DirectoryError> {
    check_site_name(name)?;
    let mut names = transaction.open_table(SITE_NAMES).map_err(store)?;
    let mut sites = transaction.open_table(SITES).map_err(store)?;
    if names.get(name).map_err(store)?.is_some() {
        return Err(DirectoryError::Exists { what: "site", name: name.to_string() });
    }
    let id = sites.last().map_err(store)?.map_or(1, |(key, _)| key.value() + 1);
    if id > SITES_MAX {
        return Err(DirectoryError::Full { what: "sites" });
    }
    let site = Site { id, name: name.to_string(), created_s: now_s };
    sites.insert(id, encode(&site).as_slice()).map_err(store)?;
    names.insert(name, id).map_err(store)?;
    Ok(site)
}

fn insert_agent(transaction: &WriteTransaction, mut agent: Agent) -> Result<Agent, DirectoryError> {
    check_login(&agent.login)?;
    check_display_name(&agent.name)?;
    let sites = transaction.open_table(SITES).map_err(store)?;
    if sites.get(agent.site).map_err(store)?.is_none() {
        return Err(DirectoryError::Unknown { what: "site", name: agent.site.to_string() });
    }
    let mut logins = transaction.open_table(LOGINS).map_err(store)?;
    let mut agents = transaction.open_table(AGENTS).map_err(store)?;
    if logins.get((agent.site, agent.login.as_str())).map_err(store)?.is_some() {
        return Err(DirectoryError::Exists { what: "agent", name: agent.login });
    }
    let mut of_site = agents.range((agent.site, 0)..=(agent.site, u32::MAX)).map_err(store)?;
    let last = of_site.next_back().transpose().map_err(store)?.map_or(0, |(key, _)| key.value().1);
    drop(of_site);
    if last >= AGENTS_PER_SITE_MAX {
        return Err(DirectoryError::Full { what: "agents" });
    }
    agent.id = last + 1;
    agents.insert((agent.site, agent.id), encode(&agent).as_slice()).map_err(store)?;
    logins.insert((agent.site, agent.login.as_str()), agent.id).map_err(store)?;
    Ok(agent)
}

impl Directory for RedbDirectory {
    fn release(&self) {
        drop(self.database.write().take());
    }

    fn take_back(&self) -> Result<(), DirectoryError> {
        let mut database = self.database.write();
        if database.is_none() {
            *database = Some(open(&self.path)?);
        }
        Ok(())
    }

    fn seed(&self, seed: &Seed) -> Result<bool, DirectoryError> {
        if let Some(settings) = self.read(SETTINGS)?
            && settings.len().map_err(store)? > 0
        {
            return Ok(false);
        }
        self.write(|transaction| {
            let mut settings = transaction.open_table(SETTINGS).map_err(store)?;
            settings.insert(TICKET_KEY, seed.ticket_key.as_slice()).map_err(store)?;
            transaction.open_table(REVOKED).map_err(store)?;
            let site = insert_site(transaction, &seed.site, seed.now_s)?;
            for (login, name) in &seed.agents {
                let agent = Agent {
                    site: site.id,
                    id: 0,
                    login: login.clone(),
                    name: name.clone(),
                    password_hash: None,
                    created_s: seed.now_s,
                };
                insert_agent(transaction, agent)?;
            }
            Ok(true)
        })
    }

    fn ticket_key(&self) -> Result<Vec<u8>, DirectoryError> {
        let missing = || DirectoryError::Store("it holds no ticket key".to_string());
        let settings = self.read(SETTINGS)?.ok_or_else(missing)?;
        let key = settings.get(TICKET_KEY).map_err(store)?.ok_or_else(missing)?;
        Ok(key.value().to_vec())
    }

    fn sites(&self) -> Result<Vec<Site>, DirectoryError> {
        let Some(sites) = self.read(SITES)? else { return Ok(Vec::new()) };
        let all = sites.iter().map_err(store)?;
        all.map(|entry| decode(entry.map_err(store)?.1.value())).collect()
    }

    fn site(&self, name: &str) -> Result<Option<Site>, DirectoryError> {
        let (Some(names), Some(sites)) = (self.read(SITE_NAMES)?, self.read(SITES)?) else { return Ok(None) };
        let Some(id) = names.get(name).map_err(store)? else { return Ok(None) };
        let site = sites.get(id.value()).map_err(store)?;
        site.map(|value| decode(value.value())).transpose()
    }

    fn add_site(&self, name: &str, now_s: u64) -> Result<Site, DirectoryError> {
        self.write(|transaction| insert_site(transaction, name, now_s))
    }

    fn add_site_key(&self, site: u32, key: &[u8; 32], now_s: u64) -> Result<SiteKey, DirectoryError> {
        self.write(|transaction| {
            let sites = transaction.open_table(SITES).map_err(store)?;
            if sites.get(site).map_err(store)?.is_none() {
                return Err(DirectoryError::Unknown { what: "site", name: site.to_string() });
            }
            let mut keys = transaction.open_table(SITE_KEYS).map_err(store)?;
            let known: Vec<SiteKey> = of_site(&keys, site)?;
            if known.iter().filter(|known| !known.removed).count() >= KEYS_PER_SITE_MAX {
                return Err(DirectoryError::Full { what: "keys of a site" });
            }
            if known.iter().any(|known| !known.removed && known.key == *key) {
                return Err(DirectoryError::Exists { what: "key", name: crate::secrets::hex(key) });
            }
            let number = known.last().map_or(1, |last| last.number + 1);
            let added = SiteKey { site, number, key: *key, created_s: now_s, removed: false };
            keys.insert((site, number), encode(&added).as_slice()).map_err(store)?;
            Ok(added)
        })
    }

    fn site_keys(&self, site: u32) -> Result<Vec<SiteKey>, DirectoryError> {
        let Some(keys) = self.read(SITE_KEYS)? else { return Ok(Vec::new()) };
        let mut found: Vec<SiteKey> = of_site(&keys, site)?;
        found.retain(|key| !key.removed);
        Ok(found)
    }

    fn remove_site_key(&self, site: u32, number: u32) -> Result<(), DirectoryError> {
        self.write(|transaction| {
            let mut keys = transaction.open_table(SITE_KEYS).map_err(store)?;
            let unknown = || DirectoryError::Unknown { what: "key", name: number.to_string() };
            let mut key: SiteKey =
                decode(keys.get((site, number)).map_err(store)?.ok_or_else(unknown)?.value())?;
            if key.removed {
                return Err(unknown());
            }
            key.removed = true;
            keys.insert((site, number), encode(&key).as_slice()).map_err(store)?;
            Ok(())
        })
    }

    fn agents(&self, site: u32) -> Result<Vec<Agent>, DirectoryError> {
        let Some(agents) = self.read(AGENTS)? else { return Ok(Vec::new()) };
        let of_site = agents.range((site, 0)..=(site, u32::MAX)).map_err(store)?;
        of_site.map(|entry| decode(entry.map_err(store)?.1.value())).collect()
    }

    fn agent(&self, site: u32, login: &str) -> Result<Option<Agent>, DirectoryError> {
        let (Some(logins), Some(agents)) = (self.read(LOGINS)?, self.read(AGENTS)?) else { return Ok(None) };
        let Some(id) = logins.get((site, login)).map_err(store)? else { return Ok(None) };
        let agent = agents.get((site, id.value())).map_err(store)?;
        agent.map(|value| decode(value.value())).transpose()
    }

    fn add_agent(
        &self,
        site: u32,
        login: &str,
        name: &str,
        password_hash: Option<&str>,
        now_s: u64,
    ) -> Result<Agent, DirectoryError> {
        let agent = Agent {
            site,
            id: 0,
            login: login.to_string(),
            name: name.to_string(),
            password_hash: password_hash.map(str::to_string),
            created_s: now_s,
        };
        self.write(|transaction| insert_agent(transaction, agent))
    }

    fn set_password(&self, site: u32, login: &str, password_hash: &str) -> Result<(), DirectoryError> {
        self.write(|transaction| {
            let logins = transaction.open_table(LOGINS).map_err(store)?;
            let mut agents = transaction.open_table(AGENTS).map_err(store)?;
            let unknown = || DirectoryError::Unknown { what: "agent", name: login.to_string() };
            let id = logins.get((site, login)).map_err(store)?.ok_or_else(unknown)?.value();
            let mut agent: Agent =
                decode(agents.get((site, id)).map_err(store)?.ok_or_else(unknown)?.value())?;
            agent.password_hash = Some(password_hash.to_string());
            agents.insert((site, id), encode(&agent).as_slice()).map_err(store)?;
            Ok(())
        })
    }

    fn revoke(&self, revocation: &Revocation) -> Result<(), DirectoryError> {
        self.write(|transaction| {
            let mut revoked = transaction.open_table(REVOKED).map_err(store)?;
            let key = (revocation.site, revocation.agent, revocation.visitor.as_str());
            let known = revoked.get(key).map_err(store)?.map_or(0, |before| before.value());
            revoked.insert(key, known.max(revocation.before_s)).map_err(store)?;
            Ok(())
        })
    }

    fn revoked_before(&self, site: u32, agent: u32, visitor: &str) -> Result<u64, DirectoryError> {
        let Some(revoked) = self.read(REVOKED)? else { return Ok(0) };
        Ok(revoked.get((site, agent, visitor)).map_err(store)?.map_or(0, |before| before.value()))
    }

    fn revocations(&self, since_s: u64) -> Result<Vec<Revocation>, DirectoryError> {
        let Some(revoked) = self.read(REVOKED)? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for entry in revoked.iter().map_err(store)? {
            let (key, before) = entry.map_err(store)?;
            let (site, agent, visitor) = key.value();
            if before.value() > since_s {
                all.push(Revocation { site, agent, visitor: visitor.to_string(), before_s: before.value() });
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Temporary(std::path::PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringdesk-directory-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Self(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn seed() -> Seed {
        Seed {
            ticket_key: [7; 32],
            site: "demo".to_string(),
            agents: vec![("ana".to_string(), "Ana".to_string()), ("bo".to_string(), "Bo".to_string())],
            now_s: 1000,
        }
    }

    #[test]
    fn a_new_directory_is_seeded_once_and_survives_reopening() {
        let file = Temporary::new("seed");
        let directory = RedbDirectory::open(&file.0).expect("opens");
        assert!(directory.sites().expect("empty").is_empty());
        assert!(directory.agent(1, "ana").expect("empty").is_none());
        assert!(directory.seed(&seed()).expect("seeds"));
        assert!(!directory.seed(&Seed { ticket_key: [8; 32], ..seed() }).expect("second"));
        drop(directory);
        let directory = RedbDirectory::open(&file.0).expect("reopens");
        assert_eq!(directory.ticket_key().expect("key"), vec![7; 32]);
        assert_eq!(directory.site("demo").expect("read").map(|site| site.id), Some(1));
        let logins: Vec<_> =
            directory.agents(1).expect("read").into_iter().map(|a| (a.id, a.login)).collect();
        assert_eq!(logins, [(1, "ana".to_string()), (2, "bo".to_string())]);
    }

    #[test]
    fn names_are_unique_and_checked() {
        let file = Temporary::new("names");
        let directory = RedbDirectory::open(&file.0).expect("opens");
        directory.seed(&seed()).expect("seeds");
        let shop = directory.add_site("shop", 5).expect("added");
        assert_eq!(shop.id, 2);
        assert!(matches!(directory.add_site("shop", 5), Err(DirectoryError::Exists { .. })));
        assert!(matches!(directory.add_site("Shop/1", 5), Err(DirectoryError::BadName { .. })));
        assert_eq!(directory.add_agent(2, "ana", "Ana of shop", Some("h"), 5).expect("added").id, 1);
        assert!(matches!(directory.add_agent(1, "ana", "Ana", None, 5), Err(DirectoryError::Exists { .. })));
        assert!(matches!(directory.add_agent(9, "ana", "Ana", None, 5), Err(DirectoryError::Unknown { .. })));
        assert!(matches!(directory.add_agent(1, "a b", "Ana", None, 5), Err(DirectoryError::BadName { .. })));
        assert_eq!(directory.agents(2).expect("read").len(), 1);
    }

    #[test]
    fn keys_of_a_site_come_and_go_and_their_numbers_stay() {
        let file = Temporary::new("keys");
        let directory = RedbDirectory::open(&file.0).expect("opens");
        directory.seed(&seed()).expect("seeds");
        assert!(directory.site_keys(0).expect("none").is_empty());
        assert_eq!(directory.add_site_key(1, &[1; 32], 5).expect("added").number, 1);
        assert!(matches!(directory.add_site_key(1, &[1; 32], 5), Err(DirectoryError::Exists { .. })));
        assert!(matches!(directory.add_site_key(9, &[1; 32], 5), Err(DirectoryError::Unknown { .. })));
        directory.remove_site_key(1, 1).expect("removed");
        assert!(matches!(directory.remove_site_key(1, 1), Err(DirectoryError::Unknown { .. })));
        assert_eq!(directory.add_site_key(1, &[1; 32], 6).expect("added again").number, 2);
        directory.add_site("shop", 7).expect("a site");
        directory.add_site_key(2, &[2; 32], 8).expect("added");
        let all: Vec<_> =
            directory.site_keys(0).expect("read").iter().map(|key| (key.site, key.number)).collect();
        assert_eq!(all, [(1, 2), (2, 1)]);
        assert_eq!(directory.site_keys(2).expect("read").len(), 1);
        for n in 0..15 {
            directory.add_site_key(2, &[100 + n; 32], 9).expect("room");
        }
        assert!(matches!(directory.add_site_key(2, &[99; 32], 9), Err(DirectoryError::Full { .. })));
    }

    #[test]
    fn passwords_and_revocations_are_kept() {
        let file = Temporary::new("passwords");
        let directory = RedbDirectory::open(&file.0).expect("opens");
        directory.seed(&seed()).expect("seeds");
        directory.set_password(1, "ana", "hash").expect("set");
        let ana = directory.agent(1, "ana").expect("read").expect("there");
        assert_eq!(ana.password_hash.as_deref(), Some("hash"));
        assert!(matches!(directory.set_password(1, "zoe", "hash"), Err(DirectoryError::Unknown { .. })));
        let revocation = Revocation { site: 1, agent: 0, visitor: "v-1".to_string(), before_s: 50 };
        directory.revoke(&revocation).expect("revoked");
        directory.revoke(&Revocation { before_s: 40, ..revocation.clone() }).expect("earlier");
        assert_eq!(directory.revoked_before(1, 0, "v-1").expect("read"), 50);
        assert_eq!(directory.revoked_before(1, 0, "v-2").expect("read"), 0);
        assert_eq!(directory.revocations(49).expect("read"), vec![revocation]);
        assert!(directory.revocations(50).expect("read").is_empty());
    }
}
