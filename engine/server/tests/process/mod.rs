//! A ringdeskd process on free ports and a blocking client of the binary protocol.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ringdesk_protocol::limits::{FRAME_BYTES_MAX, VERSION};
use ringdesk_protocol::{Availability, ClientMessage, Content, Cursor, Role, ServerMessage, frame};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_ringdeskd");
const PATIENCE: Duration = Duration::from_secs(30);

/// A temporary data folder with a place for files beside the data.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringdesk-boot-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("folder");
        let folder = Self(path);
        folder.write("small.toml", "[log]\nsegment_mib = 4\n");
        folder
    }

    /// A folder in a place of its own.
    pub fn at(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).expect("folder");
        let folder = Self(path);
        folder.write("small.toml", "[log]\nsegment_mib = 4\n");
        folder
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_string()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("written");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A serving process; killed when dropped.
pub struct Server {
    child: Child,
    errors: Receiver<String>,
    pub binary: SocketAddr,
    pub websocket: SocketAddr,
    pub http: SocketAddr,
    pub tls_binary: Option<SocketAddr>,
    pub tls_websocket: Option<SocketAddr>,
}

fn command(data: &str, file: &str, extra: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["--data", data]).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (option, value) in [
        ("--config", file),
        ("--listen-binary", "127.0.0.1:0"),
        ("--listen-ws", "127.0.0.1:0"),
        ("--http", "127.0.0.1:0"),
    ] {
        if !extra.contains(&option) {
            command.args([option, value]);
        }
    }
    command.args(extra);
    command
}

impl Server {
    /// Starts and waits for the line with `ready`.
    pub fn start(folder: &Folder, extra: &[&str]) -> Self {
        Self::start_with(folder, extra, &[])
    }

    /// The same, with variables in its environment.
    pub fn start_with(folder: &Folder, extra: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command(&folder.path(""), &folder.path("small.toml"), extra);
        let mut child = command.envs(variables.iter().copied()).spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        Self::attend(child, stdout, stderr)
    }

    /// Starts with listening sockets that were opened for it, at most three, as systemd does: from descriptor 3 on, named in
    /// the environment. They travel as the standard descriptors of a shell, whose own lead through two pipes with names.
    pub fn start_with_sockets(folder: &Folder, sockets: Vec<(&str, OwnedFd)>, extra: &[&str]) -> Self {
        let (child, [out, err]) = Self::spawn_with_sockets(folder, sockets, extra);
        let [out, err] = [out, err].map(|path| std::fs::File::open(path).expect("the pipe opens"));
        Self::attend(child, out, err)
    }

    /// The same, for a start that must fail; its exit code and what it said.
    pub fn fail_with_sockets(folder: &Folder, sockets: Vec<(&str, OwnedFd)>) -> (i32, String) {
        let (mut child, [out, err]) = Self::spawn_with_sockets(folder, sockets, &[]);
        // Both first: the shell waits for each pipe's reader in turn.
        let [_out, mut err] = [out, err].map(|path| std::fs::File::open(path).expect("the pipe opens"));
        let mut said = String::new();
        err.read_to_string(&mut said).expect("UTF-8");
        (child.wait().expect("ended").code().unwrap_or(-1), said)
    }

    fn spawn_with_sockets(
        folder: &Folder,
        sockets: Vec<(&str, OwnedFd)>,
        extra: &[&str],
    ) -> (Child, [String; 2]) {
        const SCRIPT: &str =
            "exec 3<&0 4<&1 5<&2 0</dev/null 1>\"$OUT\" 2>\"$ERR\"; export LISTEN_PID=$$; exec \"$@\"";
        let pipes = [folder.path("out.pipe"), folder.path("err.pipe")];
        for pipe in &pipes {
            let _ = std::fs::remove_file(pipe);
            assert!(Command::new("mkfifo").arg(pipe).status().expect("mkfifo runs").success());
        }
        let inner = command(&folder.path(""), &folder.path("small.toml"), extra);
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "sh", BINARY]).args(inner.get_args());
        shell.env("OUT", &pipes[0]).env("ERR", &pipes[1]).env("LISTEN_FDS", sockets.len().to_string());
        let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
        shell.env("LISTEN_FDNAMES", names.join(":"));
        let mut sockets = sockets.into_iter().map(|(_, socket)| Stdio::from(socket));
        let mut next = || sockets.next().unwrap_or_else(Stdio::null);
        shell.stdin(next()).stdout(next()).stderr(next());
        (shell.spawn().expect("a shell"), pipes)
    }

    fn attend(child: Child, stdout: impl Read + Send + 'static, stderr: impl Read + Send + 'static) -> Self {
        let (tell, errors) = channel();
        let stderr = BufReader::new(stderr);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("[ringdeskd] {line}");
                let _ = tell.send(line);
            }
        });
        let stdout = BufReader::new(stdout);
        let (mut binary, mut websocket, mut http) = (None, None, None);
        let (mut tls_binary, mut tls_websocket) = (None, None);
        for line in stdout.lines().map_while(Result::ok) {
            let value = line.split_whitespace().nth(1).unwrap_or("");
            if line.starts_with("binary") {
                binary = value.parse().ok();
            } else if line.starts_with("websocket") {
                websocket = value.parse().ok();
            } else if line.starts_with("tls-binary") {
                tls_binary = value.parse().ok();
            } else if line.starts_with("tls-ws") {
                tls_websocket = value.parse().ok();
            } else if line.starts_with("visitor") {
                http = value
                    .strip_prefix("http://")
                    .and_then(|rest| rest.strip_suffix("/visitor")?.parse().ok());
            } else if line.contains("ready") {
                break;
            }
        }
        let error = "the server tells its addresses and that it is ready";
        let (binary, websocket, http) = (binary.expect(error), websocket.expect(error), http.expect(error));
        Self { child, errors, binary, websocket, http, tls_binary, tls_websocket }
    }

    /// Starts something that must fail; its exit code and what it said.
    pub fn fail(folder: &Folder, extra: &[&str]) -> (i32, String) {
        Self::outcome(&mut command(&folder.path(""), &folder.path("small.toml"), extra))
    }

    /// The same over another data folder.
    pub fn fail_at(data: &str) -> (i32, String) {
        let mut command = Command::new(BINARY);
        command.args(["--data", data]);
        Self::outcome(&mut command)
    }

    fn outcome(command: &mut Command) -> (i32, String) {
        let output = command.output().expect("the binary starts");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("alive");
        self.child.wait().expect("ended");
    }

    /// SIGKILL, if it did not end before.
    pub fn kill_if_alive(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("ended");
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("alive");
    }

    /// Starts a process without waiting for it to be ready.
    pub fn spawn(folder: &Folder, extra: &[&str]) -> Child {
        let mut command = command(&folder.path(""), &folder.path("small.toml"), extra);
        command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("the binary starts")
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("ended").code()
    }

    pub fn wait_for_error(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = self.errors.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(text) {
                return;
            }
        }
        panic!("the server never said `{text}`");
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        self.post_with(path, body, "")
    }

    /// The same, with the admin token.
    pub fn admin(&self, folder: &Folder, path: &str, body: &Value) -> Value {
        let token = std::fs::read_to_string(folder.path("admin.token")).expect("a token");
        self.post_with(path, body, &format!("Authorization: Bearer {}\r\n", token.trim()))
    }

    fn post_with(&self, path: &str, body: &Value, header: &str) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.http).expect("connects");
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n{header}\r\n{body}",
            self.http,
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
    }
}

impl Server {
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http).expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split_once("\r\n\r\n").expect("a body").1.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that does not wait for ever.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// What a client speaks through.
pub trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// A client with one conversation.
pub struct Client {
    stream: Box<dyn Wire>,
    received: Vec<u8>,
    ticket: String,
    device: u64,
    conversation: u64,
    pub role: Role,
    pub heartbeat_s: u16,
}

impl Client {
    pub fn visitor(server: &Server) -> Self {
        Self::visitor_over(server, connect(server.binary))
    }

    /// A new visitor on a connection made before.
    pub fn visitor_over(server: &Server, stream: impl Wire + 'static) -> Self {
        let answer = server.post("/v1/tickets/visitor", &json!({ "site": "demo" }));
        Self::hello(Box::new(stream), Role::Visitor, answer["ticket"].as_str().expect("a ticket"), 7)
    }

    pub fn agent(server: &Server, folder: &Folder) -> Self {
        let text = std::fs::read_to_string(folder.path("demo-passwords.txt")).expect("demo passwords");
        let password = text.lines().find_map(|line| line.strip_prefix("ana ")).expect("ana");
        let body = json!({ "site": "demo", "login": "ana", "password": password });
        Self::hello(
            Box::new(connect(server.binary)),
            Role::Agent,
            server.post("/v1/login", &body)["ticket"].as_str().expect("a ticket"),
            9,
        )
    }

    /// A gateway; it speaks with [`Client::say`].
    pub fn gateway(server: &Server, folder: &Folder) -> Self {
        let body = json!({ "site": "demo", "name": "front-1" });
        let answer = server.admin(folder, "/v1/admin/tickets/gateway", &body);
        let ticket = answer["ticket"].as_str().expect("a ticket");
        Self::hello(Box::new(connect(server.binary)), Role::Gateway, ticket, 11)
    }

    /// A message on a channel.
    pub fn say(&mut self, channel: u32, message: &ClientMessage<'_>) {
        let mut bytes = Vec::new();
        message.encode(channel, 1, &mut bytes);
        self.stream.write_all(&bytes).expect("sent");
    }

    fn hello(stream: Box<dyn Wire>, role: Role, ticket: &str, device: u64) -> Self {
        let ticket = ticket.to_string();
        let mut client =
            Self { stream, received: Vec::new(), ticket, device, conversation: 0, role, heartbeat_s: 0 };
        client.greet(&[]);
        client
    }

    fn greet(&mut self, cursors: &[Cursor]) {
        let ticket = self.ticket.clone();
        let (role, device) = (self.role, self.device);
        self.write(&ClientMessage::Hello {
            version_min: VERSION,
            version_max: VERSION,
            role,
            device,
            ticket: &ticket,
            cursors,
        });
        let mut heartbeat = 0;
        self.expect(|message| match message {
            ServerMessage::Welcome { heartbeat_s, .. } => {
                heartbeat = *heartbeat_s;
                true
            }
            _ => false,
        });
        self.heartbeat_s = heartbeat;
    }

    /// The same client after its server died.
    pub fn reconnect(&mut self, server: &Server) {
        self.stream = Box::new(connect(server.binary));
        self.received.clear();
        self.greet(&[]);
    }

    fn write(&mut self, message: &ClientMessage<'_>) {
        let mut bytes = Vec::new();
        message.encode(0, 1, &mut bytes);
        self.stream.write_all(&bytes).expect("sent");
    }

    /// Reads messages until `wanted` says yes.
    pub fn expect(&mut self, mut wanted: impl FnMut(&ServerMessage<'_>) -> bool) {
        loop {
            let mut used = 0;
            while let Some(frame) =
                frame::decode(&self.received[used..], FRAME_BYTES_MAX as u32).expect("frames")
            {
                let found = wanted(&ServerMessage::decode(frame.header.kind, frame.body).expect("a message"));
                used += frame.wire_bytes();
                if found {
                    self.received.drain(..used);
                    return;
                }
            }
            self.received.drain(..used);
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).expect("an answer in time");
            assert!(count > 0, "the server closed the connection");
            self.received.extend_from_slice(&chunk[..count]);
        }
    }

    /// What still comes until the end.
    pub fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.received);
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }

    fn acked(&mut self, wanted: u64) -> (u64, bool) {
        let mut answer = None;
        self.expect(|message| match message {
            ServerMessage::Ack { conversation, n, duplicate, .. } if *n == wanted => {
                answer = Some((*conversation, *duplicate));
                true
            }
            ServerMessage::Reject { code, sentence, .. } => panic!("refused: {} {sentence}", code.name()),
            _ => false,
        });
        answer.expect("expect returned")
    }

    pub fn open(&mut self) {
        self.write(&ClientMessage::Open { n: 1, topic: "" });
        self.conversation = self.acked(1).0;
    }

    pub fn conversation(&self) -> u64 {
        self.conversation
    }

    /// Sends number `n` and waits for its ACK. Says whether it was a duplicate.
    pub fn send_again(&mut self, n: u64, body: &str) -> bool {
        let conversation = self.conversation;
        let body = body.as_bytes();
        self.write(&ClientMessage::Send { conversation, n, owner_epoch: 0, content: Content::Text, body });
        self.acked(n).1
    }

    pub fn send(&mut self, n: u64, body: &str) {
        assert!(!self.send_again(n, body), "number {n} is new");
    }

    /// Sends number `n` and says whether it was taken; BUSY is the only refusal.
    pub fn try_send(&mut self, n: u64, body: &str) -> bool {
        let conversation = self.conversation;
        let body = body.as_bytes();
        self.write(&ClientMessage::Send { conversation, n, owner_epoch: 0, content: Content::Text, body });
        let mut taken = false;
        self.expect(|message| match message {
            ServerMessage::Ack { n: acked, .. } => {
                taken = *acked == n;
                taken
            }
            ServerMessage::Reject { code, retry_after_ms, .. } => {
                assert_eq!(code.name(), "BUSY");
                assert!(*retry_after_ms > 0);
                true
            }
            _ => false,
        });
        taken
    }

    pub fn online(&mut self, capacity: u16) {
        self.online_again(1, capacity);
    }

    /// Presence number `n`.
    pub fn online_again(&mut self, n: u64, capacity: u16) {
        self.write(&ClientMessage::Presence { n, availability: Availability::Online, capacity });
        self.acked(n);
    }

    /// Bodies of all messages, oldest first; seqs must be dense over messages and states.
    pub fn history(&mut self) -> Vec<String> {
        let conversation = self.conversation;
        let (mut bodies, mut last, mut more) = (Vec::new(), 0, true);
        while more {
            self.write(&ClientMessage::History { conversation, before: 0, after: last, limit: 200 });
            self.expect(|message| {
                let ServerMessage::Page { items, more: others, .. } = message else { return false };
                more = *others;
                for frame in frame::frames(items.as_bytes(), FRAME_BYTES_MAX as u32) {
                    let frame = frame.expect("whole frames");
                    let seq = match ServerMessage::decode(frame.header.kind, frame.body).expect("an item") {
                        ServerMessage::Deliver { seq, body, .. } => {
                            bodies.push(String::from_utf8(body.to_vec()).expect("UTF-8"));
                            seq
                        }
                        ServerMessage::State { seq, .. } => seq,
                        other => panic!("{other:?} is no item"),
                    };
                    last += 1;
                    assert_eq!(seq, last, "seqs are dense");
                }
                true
            });
        }
        bodies
    }
}
