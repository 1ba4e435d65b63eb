//! Requests to the control plane of a running server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::Failure;

/// Where the control plane listens unless something else is known.
const HTTP_DEFAULT: &str = "127.0.0.1:7800";
/// The data folder unless something else is known.
pub const DATA_DEFAULT: &str = "./data";

/// A control plane.
pub struct Remote {
    agent: Agent,
    address: String,
    /// The data folder as the operator named it; else the server is asked.
    data: Option<PathBuf>,
}

impl Remote {
    /// The control plane at `http`, or the one that the server of the data folder noted in its lock file, or the one on
    /// the default port.
    pub fn new(data: Option<&Path>, http: Option<&str>) -> Self {
        let noted = || noted_address(data.unwrap_or(Path::new(DATA_DEFAULT)));
        let address = http.map(str::to_string).or_else(noted).unwrap_or_else(|| HTTP_DEFAULT.to_string());
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Self { agent: config.into(), address, data: data.map(Path::to_path_buf) }
    }

    /// The data folder: as named, else the default one if a server at this address locks it, else the one that the
    /// server names to callers of its machine. That one is believed only when its lock file notes the same address:
    /// whoever else listens there must not be handed a token.
    fn folder(&self) -> Result<PathBuf, Failure> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        let ours =
            |folder: &Path| noted_address(folder).is_some_and(|noted| same_port(&noted, &self.address));
        if ours(Path::new(DATA_DEFAULT)) {
            return Ok(PathBuf::from(DATA_DEFAULT));
        }
        let told = self.get("/v1/status")?["data"].as_str().map(PathBuf::from);
        told.filter(|folder| ours(folder)).ok_or_else(|| {
            let sentence = format!(
                "the server at {} names no folder that it locks: name the server's folder with --data",
                self.address
            );
            Failure::new(Failure::FOLDER, sentence)
        })
    }

    fn token(&self) -> Result<String, Failure> {
        let path = self.folder()?.join("admin.token");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::new(
                Failure::FOLDER,
                format!(
                    "the admin token {} cannot be read: {error} (name the server's folder with --data)",
                    path.display()
                ),
            )
        })?;
        Ok(format!("Bearer {}", text.trim()))
    }

    /// GET without a token.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.read(self.agent.get(self.url(path)).call())
    }

    /// GET with the admin token.
    pub fn admin_get(&self, path: &str) -> Result<Value, Failure> {
        let token = self.token()?;
        self.read(self.agent.get(self.url(path)).header("Authorization", token).call())
    }

    /// POST of JSON with the admin token.
    pub fn admin(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent.post(self.url(path)).header("Authorization", self.token()?);
        self.read(request.header("Content-Type", "application/json").send(without_nulls(body).to_string()))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn read(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
        let unreachable = |error: ureq::Error| {
            let sentence = format!("no server answers at {} ({error}); is ringdeskd running?", self.address);
            Failure::new(Failure::UNREACHABLE, sentence)
        };
        let mut answer = answer.map_err(unreachable)?;
        let text = answer.body_mut().read_to_string().map_err(unreachable)?;
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if answer.status().is_success() {
            return Ok(body);
        }
        let sentence = body["sentence"].as_str().map_or_else(|| answer.status().to_string(), str::to_string);
        Err(Failure::new(Failure::REFUSED, sentence))
    }
}

/// The control plane's address that the server of a data folder noted, if there is one.
fn noted_address(data: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data.join("LOCK")).ok()?;
    text.lines().nth(1).map(str::to_string)
}

/// Whether two `HOST:PORT` name the same port of this machine; the host may be written in several ways.
fn same_port(one: &str, other: &str) -> bool {
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_string());
    port(one).is_some() && port(one) == port(other)
}

/// Absent options are absent fields.
fn without_nulls(body: &Value) -> Value {
    match body {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_options_are_not_sent() {
        assert_eq!(without_nulls(&json!({ "site": "demo", "name": null })), json!({ "site": "demo" }));
    }

    #[test]
    fn an_unreachable_server_is_told_with_its_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let failure = Remote::new(Some(Path::new("/nowhere")), Some(&address))
            .get("/v1/status")
            .expect_err("nobody there");
        assert_eq!(failure.code, Failure::UNREACHABLE);
        assert!(failure.sentence.contains(&address), "{failure}");
    }

    #[test]
    fn the_folder_that_a_server_names_counts_only_with_its_lock() {
        use std::io::{Read as _, Write as _};
        let data = std::env::temp_dir().join(format!("ringdesk-named-{}", std::process::id()));
        std::fs::create_dir_all(&data).expect("folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let body = json!({ "data": data }).to_string();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().expect("a caller");
                let _ = stream.read(&mut [0; 4096]).expect("a request");
                let head =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).expect("answered");
            }
        });
        let remote = Remote::new(None, Some(&address));
        std::fs::write(data.join("LOCK"), "12\n127.0.0.1:1\n").expect("lock");
        assert_eq!(remote.folder().expect_err("another server's folder").code, Failure::FOLDER);
        std::fs::write(data.join("LOCK"), format!("12\n{address}\n")).expect("lock");
        assert_eq!(remote.folder().expect("its own folder"), data);
        server.join().expect("both asked");
        std::fs::remove_dir_all(&data).expect("clean");
    }

    #[test]
    fn the_address_is_found_in_the_lock_file() {
        let data = std::env::temp_dir().join(format!("ringdesk-remote-{}", std::process::id()));
        std::fs::create_dir_all(&data).expect("folder");
        assert_eq!(Remote::new(Some(&data), None).address, HTTP_DEFAULT);
        std::fs::write(data.join("LOCK"), "12\n127.0.0.1:9999\n").expect("lock");
        assert_eq!(Remote::new(Some(&data), None).address, "127.0.0.1:9999");
        assert_eq!(Remote::new(Some(&data), Some("h:1")).address, "h:1");
        std::fs::remove_dir_all(&data).expect("clean");
    }
}
