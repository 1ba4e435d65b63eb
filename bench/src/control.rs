//! What a run needs from the control plane: a site of its own, agents, tickets, the server's version.
//!
//! A fresh site per run keeps runs apart: conversations that an earlier run left behind would otherwise wait in
//! the same queue and take the agents' capacity. Bad answers are sentences naming the route.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::http::Http;

/// Connections that fetch visitors' tickets at the same time.
const CONNECTIONS: usize = 4;

/// The control plane of one server, with the operator's token.
pub struct Control {
    address: SocketAddr,
    http: Http,
}

impl Control {
    /// Reads `data/admin.token`; nothing is connected yet.
    ///
    /// # Errors
    /// A sentence naming the file when it cannot be read.
    pub fn open(address: SocketAddr, data: &Path) -> Result<Self, String> {
        let path = data.join("admin.token");
        let token = std::fs::read_to_string(&path).map_err(|e| {
            format!("cannot read {}: {e}; --data must name the data folder of the server", path.display())
        })?;
        Ok(Self { address, http: Http::new(address, Some(token.trim().to_owned())) })
    }

    /// The server's version as /v1/status states it.
    ///
    /// # Errors
    /// A sentence when the server cannot be reached.
    pub fn server_version(&mut self) -> Result<String, String> {
        Ok(self.http.get("/v1/status")?["version"].as_str().unwrap_or("unknown").to_owned())
    }

    /// Adds a site.
    ///
    /// # Errors
    /// A sentence when the server refuses.
    pub fn add_site(&mut self, site: &str) -> Result<(), String> {
        self.http.post("/v1/admin/sites", &json!({ "site": site })).map(drop)
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

fn ticket(answer: &Value) -> Result<String, String> {
    answer["ticket"].as_str().map(str::to_owned).ok_or_else(|| "the answer holds no ticket".into())
}
