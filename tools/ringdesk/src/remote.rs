//! Requests to the control plane of a running server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::Failure;

/// Where the control plane listens unless something else is known.
const HTTP_DEFAULT: &str = "127.0.0.1:7800";

/// A control plane.
pub struct Remote {
    agent: Agent,
    address: String,
    token: PathBuf,
}

impl Remote {
    /// The control plane at `http`, or the one that the server of this data folder noted in its lock file.
    pub fn new(data: &Path, http: Option<&str>) -> Self {
        let noted = || {
            let text = std::fs::read_to_string(data.join("LOCK")).ok()?;
            text.lines().nth(1).map(str::to_string)
        };
        let address = http.map(str::to_string).or_else(noted).unwrap_or_else(|| HTTP_DEFAULT.to_string());
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Self { agent: config.into(), address, token: data.join("admin.token") }
    }

    fn token(&self) -> Result<String, Failure> {
        let text = std::fs::read_to_string(&self.token).map_err(|error| {
            Failure::new(
                Failure::FOLDER,
                format!(
                    "the admin token {} cannot be read: {error} (name the server's folder with --data)",
                    self.token.display()
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
        let failure =
            Remote::new(Path::new("/nowhere"), Some(&address)).get("/v1/status").expect_err("nobody there");
        assert_eq!(failure.code, Failure::UNREACHABLE);
        assert!(failure.sentence.contains(&address), "{failure}");
    }

    #[test]
    fn the_address_is_found_in_the_lock_file() {
        let data = std::env::temp_dir().join(format!("ringdesk-remote-{}", std::process::id()));
        std::fs::create_dir_all(&data).expect("folder");
        assert_eq!(Remote::new(&data, None).address, HTTP_DEFAULT);
        std::fs::write(data.join("LOCK"), "12\n127.0.0.1:9999\n").expect("lock");
        assert_eq!(Remote::new(&data, None).address, "127.0.0.1:9999");
        assert_eq!(Remote::new(&data, Some("h:1")).address, "h:1");
        std::fs::remove_dir_all(&data).expect("clean");
    }
}
