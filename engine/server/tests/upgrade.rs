//! Upgrade in place: a second process takes over from a running one, is called off, or dies at any of its steps.

mod process;
mod successor;

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use process::{Client, Folder, Server, connect};
use ringdesk_protocol::ws::{Subprotocol, client};
use ringdesk_protocol::{ClientMessage, Content, ServerMessage};
use ringdesk_server::upgrade::wire::Kind;
use rustix::process::{Pid, Signal, kill_process};
use successor::{Successor, Until};

const TWO: [&str; 2] = ["--shards", "2"];
const TAKE_OVER: [&str; 3] = ["--shards", "2", "--take-over"];

/// The binary protocol inside WebSocket messages.
struct OverWebSocket {
    stream: std::net::TcpStream,
    /// Payload bytes left of the message that is being read.
    left: u64,
}

impl OverWebSocket {
    fn connect(server: &Server) -> Self {
        let mut stream = connect(server.websocket);
        let (key, mut bytes) = ("dGhlIHNhbXBsZSBub25jZQ==", Vec::new());
        client::request(&server.websocket.to_string(), None, key, Subprotocol::Binary, &mut bytes);
        stream.write_all(&bytes).expect("sent");
        let mut received = Vec::new();
        while client::response(&received, key, Subprotocol::Binary).expect("upgraded").is_none() {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            received.push(byte[0]);
        }
        Self { stream, left: 0 }
    }
}

impl Read for OverWebSocket {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            assert!(head[0] & 0x0f <= 2, "a binary message, not {head:02x?}");
            self.left = match head[1] {
                126 => {
                    let mut len = [0; 2];
                    self.stream.read_exact(&mut len)?;
                    u16::from_be_bytes(len).into()
                }
                127 => {
                    let mut len = [0; 8];
                    self.stream.read_exact(&mut len)?;
                    u64::from_be_bytes(len)
                }
                len => len.into(),
            };
        }
        let most = into.len().min(self.left as usize);
        let count = self.stream.read(&mut into[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Write for OverWebSocket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut message = Vec::new();
        ringdesk_protocol::ws::encode::masked(
            ringdesk_protocol::ws::Opcode::Binary,
            bytes,
            [1, 2, 3, 4],
            &mut message,
        );
        self.stream.write_all(&message)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends without pause until told to stop; how many were acknowledged, and the longest wait for one.
struct Talker {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(Client, u64, Duration)>,
}

impl Talker {
    fn start(mut client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut n, mut longest) = (1, Duration::ZERO);
            while !flag.load(Ordering::Acquire) {
                n += 1;
                let asked = Instant::now();
                client.send(n, &format!("message {n}"));
                longest = longest.max(asked.elapsed());
            }
            (client, n, longest)
        });
        Self { stop, thread }
    }

    fn stop(self) -> (Client, u64, Duration) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("no send was refused, no answer missing, no connection broken")
    }
}

fn visitors(server: &Server, count: usize) -> Vec<Client> {
    let one = |_| {
        let mut client = Client::visitor(server);
        client.open();
        client.send(1, "before");
        client
    };
    (0..count).map(one).collect()
}

/// Binds five visitors to channels of a gateway and opens a conversation for each: channels and conversations.
fn bind_five(gateway: &mut Client) -> Vec<(u32, u64)> {
    let mut bound = Vec::new();
    for channel in 1..=5 {
        let visitor = format!("outside-{channel}");
        let bind = ClientMessage::Bind { channel, device: 5, visitor: &visitor, cursors: &[] };
        gateway.say(0, &bind);
        gateway
            .expect(|message| matches!(message, ServerMessage::Welcome { .. } | ServerMessage::Ack { .. }));
        gateway.say(channel, &ClientMessage::Open { n: 1, topic: "" });
        gateway.expect(|message| match message {
            ServerMessage::Ack { conversation, n: 1, .. } if *conversation != 0 => {
                bound.push((channel, *conversation));
                true
            }
            _ => false,
        });
    }
    bound
}

#[test]
fn clients_stay_connected_and_notice_a_pause_at_most() {
    let folder = Folder::new("take-over");
    let mut old = Server::start(&folder, &TWO);
    let mut agent = Client::agent(&old, &folder);
    agent.online(8);
    let mut quiet = visitors(&old, 24);
    let mut browser = Client::visitor_over(&old, OverWebSocket::connect(&old));
    browser.open();
    browser.send(1, "before");
    let mut gateway = Client::gateway(&old, &folder);
    let bound = bind_five(&mut gateway);
    let mut speaker = Client::visitor(&old);
    speaker.open();
    speaker.send(1, "message 1");
    let talkers = [Talker::start(speaker), {
        let mut client = Client::visitor_over(&old, OverWebSocket::connect(&old));
        client.open();
        client.send(1, "message 1");
        Talker::start(client)
    }];
    // One that said half a message.
    let mut slow = connect(old.binary);
    slow.write_all(&[9, 0]).expect("sent");

    let new = Server::start(&folder, &TAKE_OVER);
    old.wait_for_error("serves in place of this one");
    assert_eq!(old.exit_code(), Some(0));
    assert_eq!((new.binary, new.websocket, new.http), (old.binary, old.websocket, old.http));
    std::thread::sleep(Duration::from_millis(300));
    for talker in talkers {
        let (mut client, n, longest) = talker.stop();
        println!("{n} messages across the take-over, longest wait {longest:?}");
        let shown = client.history();
        let expected: Vec<String> = (1..=n).map(|n| format!("message {n}")).collect();
        assert_eq!(shown, expected);
    }
    for client in &mut quiet {
        client.send(2, "after");
        assert_eq!(client.history(), ["before", "after"]);
    }
    browser.send(2, "after");
    assert_eq!(browser.history(), ["before", "after"]);
    for (channel, conversation) in bound {
        let body = b"after";
        let send = ClientMessage::Send { conversation, n: 1, owner_epoch: 0, content: Content::Text, body };
        gateway.say(channel, &send);
        gateway.expect(|message| {
            assert!(!matches!(message, ServerMessage::Reject { .. }), "{message:?}");
            matches!(message, ServerMessage::Ack { conversation: acked, n: 1, .. } if *acked == conversation)
        });
    }
    agent.online_again(2, 9);
    // New connections, requests and revocations find the new process.
    visitors(&new, 3);
    let metrics = new.get("/metrics");
    assert!(metrics.contains("ringdesk_upgrade_carried 30\n"), "{metrics}");
    assert!(metrics.contains("ringdesk_upgrade_closed 0\n"), "{metrics}");
    drop(slow);
}

/// More than one message holds descriptors for, on the driver over epoll too, where each takes one of the process.
#[test]
fn connections_beyond_one_batch_come_along_on_either_driver() {
    for backend in ["auto", "portable"] {
        let folder = Folder::new(&format!("many-{backend}"));
        folder.write("small.toml", &format!("backend = \"{backend}\"\n[log]\nsegment_mib = 4\n"));
        let mut old = Server::start(&folder, &TWO);
        let mut clients = visitors(&old, 10);
        // They have connected and said nothing yet.
        let early: Vec<_> = (0..1_200).map(|_| connect(old.binary)).collect();
        let new = Server::start(&folder, &TAKE_OVER);
        assert_eq!(old.exit_code(), Some(0), "{backend}");
        let mut early = early.into_iter().step_by(100).map(|stream| Client::visitor_over(&new, stream));
        early.by_ref().for_each(|mut client| client.open());
        for client in &mut clients {
            client.send(2, "after");
        }
        let metrics = new.get("/metrics");
        assert!(metrics.contains("ringdesk_upgrade_carried 1210\n"), "{backend} {metrics}");
    }
}

#[test]
fn one_process_after_another() {
    let folder = Folder::new("chain");
    let mut now = Server::start(&folder, &TWO);
    let mut clients = visitors(&now, 6);
    for n in 2..6 {
        let mut next = Server::start(&folder, &TAKE_OVER);
        assert_eq!(now.exit_code(), Some(0));
        for client in &mut clients {
            client.send(n, "on");
        }
        std::mem::swap(&mut now, &mut next);
    }
    now.kill();
    let server = Server::start(&folder, &TWO);
    for client in &mut clients {
        client.reconnect(&server);
        assert_eq!(client.history(), ["before", "on", "on", "on", "on"]);
    }
}

#[test]
fn a_take_over_that_is_called_off_leaves_everything_as_it_was() {
    let folder = Folder::new("called-off");
    let mut old = Server::start(&folder, &TWO);
    let mut clients = visitors(&old, 40);
    let mut n = 1;
    for until in [Until::Welcome, Until::Ready, Until::Stood, Until::Batch, Until::End] {
        let successor = Successor::go(&folder, until);
        drop(successor);
        old.wait_for_error(if until == Until::Welcome { "is gone" } else { "was called off" });
        n += 1;
        for client in &mut clients {
            client.send(n, "on");
        }
        // The directory is open again, and the listeners accept.
        visitors(&old, 1);
        old.admin(&folder, "/v1/admin/sites", &serde_json::json!({ "site": format!("site-{n}") }));
        std::thread::sleep(Duration::from_millis(1_100));
    }
    old.signal(Signal::TERM);
    assert_eq!(old.exit_code(), Some(0));
    let server = Server::start(&folder, &TWO);
    for client in &mut clients {
        client.reconnect(&server);
        assert_eq!(client.history(), ["before", "on", "on", "on", "on", "on"]);
    }
}

#[test]
fn behind_the_point_of_no_return_the_old_process_only_ends() {
    let folder = Folder::new("no-return");
    let mut old = Server::start(&folder, &TWO);
    let mut clients = visitors(&old, 5);
    drop(Successor::go(&folder, Until::Yours));
    old.wait_for_error("took the data over and does not serve");
    assert_eq!(old.exit_code(), Some(9));
    let server = Server::start(&folder, &TWO);
    for client in &mut clients {
        client.reconnect(&server);
        assert_eq!(client.history(), ["before"]);
        client.send(2, "after");
    }
}

#[test]
fn who_cannot_take_over_is_told_why() {
    let folder = Folder::new("refused");
    let (code, error) = Server::fail(&folder, &TAKE_OVER);
    assert!(code == 9 || code == 3, "{code} {error}");
    let old = Server::start(&folder, &TWO);
    let mut clients = visitors(&old, 1);
    // Another version, which is told so in a frame that every version understands.
    let mut stranger = Successor::connect(&folder);
    stranger.hello(99, 1);
    let answer = stranger.wire.receive().expect("an answer");
    assert_eq!(answer.kind, Kind::Refuse);
    assert!(String::from_utf8_lossy(&answer.body).contains("restart it instead"));
    // Another number of shards.
    let (code, error) = Server::fail(&folder, &["--shards", "3", "--take-over"]);
    assert_eq!(code, 9, "{error}");
    assert!(error.contains("has 2 shards and this one would have 3"), "{error}");
    old.wait_for_error("does not take over");
    std::thread::sleep(Duration::from_millis(100));
    // Two at once.
    let first = Successor::go(&folder, Until::Welcome);
    let (code, error) = Server::fail(&folder, &TAKE_OVER);
    assert_eq!(code, 9, "{error}");
    assert!(error.contains("another process is taking over already"), "{error}");
    drop(first);
    clients[0].send(2, "on");
    // An ordinary second start is refused as ever.
    assert_eq!(Server::fail(&folder, &TWO).0, 4);
}

/// As on a kernel that cannot take descriptors out of a ring.
#[test]
fn where_connections_cannot_go_along_clients_are_told_goodbye() {
    for until in [Until::End, Until::Yours] {
        let folder = Folder::new(&format!("drained-{until:?}"));
        let mut old = Server::start(&folder, &TWO);
        let mut clients = visitors(&old, 12);
        let successor = Successor::go_as(&folder, until, 99);
        assert_eq!(successor.batches(), 0);
        for client in &mut clients {
            client.expect(|message| matches!(message, ServerMessage::Goodbye { .. }));
        }
        drop(successor);
        // Nobody is left to go on for; behind the point of no return nothing may be written either.
        assert_eq!(old.exit_code(), Some(if until == Until::End { 0 } else { 9 }));
        let server = Server::start(&folder, &TWO);
        for client in &mut clients {
            client.reconnect(&server);
            assert_eq!(client.history(), ["before"]);
        }
    }
}

#[test]
fn requests_of_the_control_plane_are_answered_first() {
    let folder = Folder::new("requests");
    let mut old = Server::start(&folder, &TWO);
    let mut idle = connect(old.http);
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut bytes = [0; 512];
    assert!(idle.read(&mut bytes).expect("an answer") > 0);
    let mut busy = connect(old.http);
    let head = "POST /v1/tickets/visitor HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 15\r\nConnection: close\r\n\r\n{\"site\":";
    busy.write_all(head.as_bytes()).expect("sent");
    std::thread::sleep(Duration::from_millis(100));
    let new = Server::spawn(&folder, &TAKE_OVER);
    assert_eq!(idle.read(&mut bytes).expect("an end, no reset"), 0, "kept alive for a next request");
    std::thread::sleep(Duration::from_millis(200));
    busy.write_all(b"\"demo\"}").expect("sent");
    let mut answer = String::new();
    busy.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(old.exit_code(), Some(0));
    assert!(old.get("/healthz").starts_with("ok"), "the same address answers");
    stop(new);
}

fn stop(mut process: std::process::Child) {
    process.kill().expect("alive");
    process.wait().expect("ended");
}

#[test]
fn whoever_is_killed_at_whatever_moment_a_start_finds_what_was_acknowledged() {
    for (round, delay_ms) in [0, 15, 40, 80, 150, 300].into_iter().enumerate() {
        for kill_old in [true, false] {
            let folder = Folder::new(&format!("killed-{round}-{kill_old}"));
            let mut old = Server::start(&folder, &TWO);
            let mut clients = visitors(&old, 8);
            let mut new = Server::spawn(&folder, &TAKE_OVER);
            std::thread::sleep(Duration::from_millis(delay_ms));
            let victim = if kill_old { Pid::from_raw(old.pid() as i32) } else { Some(Pid::from_child(&new)) };
            // It may have ended by itself: then it was replaced, or refused.
            let _ = kill_process(victim.expect("a process"), Signal::KILL);
            std::thread::sleep(Duration::from_millis(200));
            let _ = (new.kill(), new.wait());
            old.kill_if_alive();
            let server = Server::start(&folder, &TWO);
            for client in &mut clients {
                client.reconnect(&server);
                assert_eq!(client.history(), ["before"], "{delay_ms} ms, old killed: {kill_old}");
                client.send(2, "after");
            }
        }
    }
}

#[test]
fn a_signal_starts_the_successor_and_the_supervisor_is_told_who_it_is() {
    let folder = Folder::new("signal");
    let path = folder.path("notify.sock");
    let supervisor = UnixDatagram::bind(&path).expect("a socket");
    supervisor.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let told = || {
        let mut bytes = [0; 4096];
        let count = supervisor.recv(&mut bytes).expect("a word");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut old = Server::start_with(&folder, &TWO, &[("NOTIFY_SOCKET", &path)]);
    assert!(told().contains("READY=1"));
    let mut clients = visitors(&old, 3);
    old.signal(Signal::USR2);
    assert_eq!(old.exit_code(), Some(0));
    let lock = std::fs::read_to_string(folder.path("LOCK")).expect("a lock");
    let pid: u32 = lock.lines().next().expect("a line").parse().expect("a process");
    assert_ne!(pid, old.pid());
    let words = told();
    assert!(words.contains(&format!("MAINPID={pid}")) && words.contains("READY=1"), "{words}");
    for client in &mut clients {
        client.send(2, "after");
    }
    // The same by the admin route, of the process that took over.
    let started = old.admin(&folder, "/v1/admin/upgrade", &serde_json::json!({}));
    let words = told();
    let pid = started["pid"].as_u64().expect("a process");
    assert!(words.contains(&format!("MAINPID={pid}")), "{words}");
    for client in &mut clients {
        client.send(3, "later");
    }
    let status: serde_json::Value = serde_json::from_str(&old.get("/v1/status")).expect("JSON");
    assert_eq!((&status["pid"], &status["upgraded"]["carried"]), (&started["pid"], &serde_json::json!(3)));
    let successor = Pid::from_raw(pid as i32).expect("a process");
    kill_process(successor, Signal::TERM).expect("alive");
    for client in &mut clients {
        client.expect(|message| matches!(message, ServerMessage::Goodbye { .. }));
    }
    while kill_process(successor, Signal::CONT).is_ok()
        && std::path::Path::new(&folder.path("upgrade.sock")).exists()
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}
