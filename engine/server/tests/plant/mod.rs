//! A control plane on a free port, over a temporary data folder.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_queue::ArrayQueue;
use ringdesk_server::config::{Config, Overrides};
use ringdesk_server::control::plane::{Addresses, Parts, Plane, now_s};
use ringdesk_server::control::shards::{Post, Shards};
use ringdesk_server::directory::{Directory, RedbDirectory, Seed};
use ringdesk_server::{control, demo};
use ringdesk_shard::io::Control;
use serde_json::Value;
use tokio::sync::mpsc;

pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    pub fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_default().to_string()
    }
}

pub struct Plant {
    pub plane: Arc<Plane>,
    pub address: SocketAddr,
    pub mailbox: Arc<ArrayQueue<Control>>,
    data: PathBuf,
}

impl Plant {
    pub fn start(name: &str) -> Self {
        let data = std::env::temp_dir().join(format!("ringdesk-control-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data);
        std::fs::create_dir_all(&data).expect("folder");
        let file = data.join("ringdesk.toml");
        std::fs::write(&file, "").expect("config");
        demo::write_passwords(&data).expect("passwords");
        let directory = RedbDirectory::open(&data.join("directory.redb")).expect("directory");
        let agents = demo::AGENTS.map(|(login, name)| (login.to_string(), name.to_string())).to_vec();
        let seed = Seed { ticket_key: [3; 32], site: demo::SITE.to_string(), agents, now_s: now_s() };
        directory.seed(&seed).expect("seeded");

        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut config = Config::default();
        config.fixed.data = data.clone();
        let overrides = Overrides { file: Some(file), data: Some(data.clone()), ..Overrides::default() };
        let addresses = Addresses {
            binary: config.fixed.listen_binary,
            websocket: config.fixed.listen_websocket,
            unix: None,
            http: address,
        };
        let parts = Parts {
            config,
            overrides,
            ticket_key: directory.ticket_key().expect("key"),
            directory: Arc::new(directory),
            admin_token: "admin-token".to_string(),
            addresses,
            table_connections: 1000,
            backend: "none".to_string(),
            boot_epoch: 1,
            started: Instant::now(),
        };
        let plane = Plane::new(parts).expect("plane");
        let (_drained, inbox) = mpsc::channel(1);
        let runs = plane.clone();
        std::thread::spawn(move || control::run(&runs, listener, inbox));
        Self { plane, address, mailbox: Arc::new(ArrayQueue::new(16)), data }
    }

    /// One shard whose mailbox is `self.mailbox`; it never reports.
    pub fn serve(&self) {
        let mailbox = self.mailbox.clone();
        let post: Post = Box::new(move |message| mailbox.push(message));
        let (_reports, inbox) = mpsc::channel(1);
        self.plane.serve(Shards::new(vec![post], inbox));
    }

    pub fn password(&self, login: &str) -> String {
        let all = demo::read_passwords(&self.data).expect("readable");
        all.into_iter().find(|(known, _)| known == login).expect("a demo agent").1
    }

    pub fn write_config(&self, text: &str) {
        std::fs::write(self.data.join("ringdesk.toml"), text).expect("config");
    }

    /// Sends bytes, reads to the end.
    pub fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn request(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        let text = self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{token}Content-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        ));
        let status = text.get(9..12).and_then(|code| code.parse().ok()).expect("a status line");
        let content = text.split_once("\r\n\r\n").map_or("", |(_, content)| content);
        Answer { status, body: serde_json::from_str(content).unwrap_or(Value::Null) }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "", None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, "", Some(body))
    }

    pub fn admin(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, "Authorization: Bearer admin-token\r\n", Some(body))
    }

    pub fn admin_get(&self, path: &str) -> Answer {
        self.request("GET", path, "Authorization: Bearer admin-token\r\n", None)
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}
