//! What a run needs from the control plane: a site of its own, agents, tickets, the server's version.
//!
//! A fresh site per run keeps runs apart: conversations that an earlier run left behind would otherwise wait in
//! the same queue and take the agents' capacity. Bad answers are sentences naming the route.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::http::Http;
use crate::swarm::tickets::Tickets;

/// Visitors' tickets asked for in one request; 300 bytes each.
const TICKETS_AT_ONCE: usize = 5_000;

/// Connections that fetch visitors' tickets at the same time.
const CONNECTIONS: usize = 4;

/// The control plane of one server, with the operator's token.
pub struct Control {
    address: SocketAddr,
    data: PathBuf,
    http: Http,
}

impl Control {
    /// Reads `admin.token` of `data`, or of the folder that the server at `address` names when `data` is `None`.
    ///
    /// # Errors
    /// A sentence naming the file when it cannot be read, or the address when nobody there names a folder.
    pub fn open(address: SocketAddr, data: Option<&Path>) -> Result<Self, String> {
        let data = match data {
            Some(data) => data.to_path_buf(),
            None => folder_of(address)?,
        };
        let path = data.join("admin.token");
        let token = std::fs::read_to_string(&path).map_err(|e| {
            format!("cannot read {}: {e}; --data must name the data folder of the server", path.display())
        })?;
        Ok(Self { address, data, http: Http::new(address, Some(token.trim().to_owned())) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The server's version as /v1/status states it.
    ///
    /// # Errors
    /// A sentence when the server cannot be reached.
    pub fn server_version(&mut self) -> Result<String, String> {
        Ok(self.http.get("/v1/status")?["version"].as_str().unwrap_or("unknown").to_owned())
    }

    /// The sum of a figure of /v1/status over all shards.
    ///
    /// # Errors
    /// A sentence when the server cannot be reached.
    pub fn status_sum(&mut self, figure: &str) -> Result<u64, String> {
        let status = self.http.get("/v1/status")?;
        Ok(status["shards"].as_array().into_iter().flatten().filter_map(|shard| shard[figure].as_u64()).sum())
    }

    /// Adds a site.
    ///
    /// # Errors
    /// A sentence when the server refuses.
    pub fn add_site(&mut self, site: &str) -> Result<(), String> {
        self.http.post("/v1/admin/sites", &json!({ "site": site })).map(drop)
    }

    /// Registers a public key (hex) that the site signs its visitors' tickets with; the name of the key.
    ///
    /// # Errors
    /// A sentence when the server refuses.
    pub fn add_site_key(&mut self, site: &str, key_hex: &str) -> Result<String, String> {
        let answer = self.http.post("/v1/admin/sites/keys", &json!({ "site": site, "key": key_hex }))?;
        answer["kid"].as_str().map(str::to_owned).ok_or_else(|| "the answer names no key".into())
    }

    /// Adds `count` agents (their passwords, made by the server, are not kept) and returns a ticket for each.
    ///
    /// # Errors
    /// A sentence when the server refuses.
    pub fn agents(&mut self, site: &str, count: usize) -> Result<Vec<String>, String> {
        (0..count)
            .map(|number| {
                let login = format!("agent-{number}");
                let agent = json!({ "site": site, "login": login, "name": format!("Agent {number}") });
                self.http.post("/v1/admin/agents", &agent)?;
                let asked = json!({ "site": site, "name": login });
                ticket(&self.http.post("/v1/admin/tickets/agent", &asked)?)
            })
            .collect()
    }

    /// A ticket for the gateway `name`.
    ///
    /// # Errors
    /// A sentence when the server refuses.
    pub fn gateway(&mut self, site: &str, name: &str) -> Result<String, String> {
        let asked = json!({ "site": site, "name": name });
        ticket(&self.http.post("/v1/admin/tickets/gateway", &asked)?)
    }

    /// Tickets of `count` new visitors, many per request.
    ///
    /// # Errors
    /// A sentence when the server refuses.
    pub fn many_visitors(&mut self, site: &str, count: u32) -> Result<Tickets, String> {
        let mut tickets = Tickets::default();
        while tickets.len() < count as usize {
            let batch = (count as usize - tickets.len()).min(TICKETS_AT_ONCE);
            let asked = json!({ "site": site, "count": batch, "lifetime_s": 86_400 });
            let answer = self.http.post("/v1/admin/tickets/visitor", &asked)?;
            let list = answer["tickets"].as_array().ok_or("the answer holds no tickets")?;
            if list.len() != batch {
                return Err(format!("{} tickets were given for {batch} visitors", list.len()));
            }
            list.iter().for_each(|ticket| tickets.push(ticket.as_str().unwrap_or_default()));
        }
        Ok(tickets)
    }

    /// The server's process, as its lock file names it.
    ///
    /// # Errors
    /// A sentence when the lock file cannot be read.
    pub fn server_pid(&self) -> Result<u32, String> {
        let path = self.data.join("LOCK");
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        pid.ok_or_else(|| format!("{} names no process", path.display()))
    }

    /// Tickets of `count` new anonymous visitors.
    ///
    /// # Errors
    /// A sentence when the server refuses.
    pub fn visitors(&self, site: &str, count: usize) -> Result<Vec<String>, String> {
        let fetch = |share: usize| -> Result<Vec<String>, String> {
            let mut http = Http::new(self.address, None);
            let asked = json!({ "site": site });
            (0..share).map(|_| ticket(&http.post("/v1/tickets/visitor", &asked)?)).collect()
        };
        let mut tickets = Vec::with_capacity(count);
        std::thread::scope(|scope| {
            let share = |number: usize| count / CONNECTIONS + usize::from(number < count % CONNECTIONS);
            let threads: Vec<_> =
                (0..CONNECTIONS).map(|number| scope.spawn(move || fetch(share(number)))).collect();
            for thread in threads {
                tickets.extend(thread.join().expect("fetching tickets does not panic")?);
            }
            Ok::<(), String>(())
        })?;
        assert_eq!(tickets.len(), count, "the shares add up");
        Ok(tickets)
    }
}

/// The data folder of the server at `address`, as its /v1/status tells callers of the same machine. Believed only when
/// the lock file in that folder names the same address: whoever else listens there must not be handed a token.
fn folder_of(address: SocketAddr) -> Result<PathBuf, String> {
    let status = Http::new(address, None).get("/v1/status")?;
    let named = status["data"].as_str().map(PathBuf::from);
    let data = named.ok_or_else(|| {
        format!("the server at {address} does not name its data folder: name it with --data")
    })?;
    let lock = std::fs::read_to_string(data.join("LOCK")).unwrap_or_default();
    let noted = lock.lines().nth(1).and_then(|line| line.parse::<SocketAddr>().ok());
    match noted {
        Some(noted) if noted.port() == address.port() => Ok(data),
        _ => Err(format!(
            "{} is not locked by the server at {address}: name its data folder with --data",
            data.display()
        )),
    }
}

fn ticket(answer: &Value) -> Result<String, String> {
    answer["ticket"].as_str().map(str::to_owned).ok_or_else(|| "the answer holds no ticket".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control plane that answers each request with `status`, once per connection.
    fn answering(status: impl FnOnce(SocketAddr) -> Value) -> (SocketAddr, std::thread::JoinHandle<()>) {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let body = status(address).to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).unwrap();
        });
        (address, thread)
    }

    #[test]
    fn the_folder_is_taken_from_the_server_only_when_its_lock_agrees() {
        let data = std::env::temp_dir().join(format!("ringbench-control-{}", std::process::id()));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("admin.token"), "secret\n").unwrap();
        let ask = |lock: &dyn Fn(SocketAddr) -> String, named: Value| {
            let (address, thread) = answering(|address| {
                std::fs::write(data.join("LOCK"), lock(address)).unwrap();
                json!({ "data": named })
            });
            let opened = Control::open(address, None).map(|control| control.data().to_path_buf());
            thread.join().unwrap();
            opened
        };
        let here = json!(data);
        assert_eq!(ask(&|address| format!("7\n{address}\n"), here.clone()).unwrap(), data);
        assert!(ask(&|_| "7\n127.0.0.1:1\n".into(), here).unwrap_err().contains("is not locked"));
        assert!(ask(&|_| String::new(), Value::Null).unwrap_err().contains("--data"));
        std::fs::remove_dir_all(&data).unwrap();
    }
}
