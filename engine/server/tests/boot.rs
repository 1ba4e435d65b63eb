//! The whole process: start errors, signals, and a conversation that survives `kill -9` and another number of shards.

mod process;
mod proxied;
mod secure;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use process::{Client, Folder, Server};
use ringdesk_protocol::limits::FRAME_BYTES_MAX;
use ringdesk_protocol::{Availability, ClientMessage, Role, ServerMessage, frame};

/// Those that this build has.
const BACKENDS: &[&str] =
    if cfg!(feature = "glommio") { &["uring", "portable", "glommio"] } else { &["uring", "portable"] };

#[test]
#[cfg(not(feature = "glommio"))]
fn a_backend_that_is_not_in_this_build_is_told() {
    let folder = Folder::new("unbuilt");
    folder.write("small.toml", "backend = \"glommio\"\n");
    let (code, error) = Server::fail(&folder, &[]);
    assert_eq!(code, 6, "{error}");
    assert!(error.contains("not in this build: build with the cargo feature `glommio`"), "{error}");
}

#[test]
fn a_second_instance_on_the_same_folder_is_refused() {
    let folder = Folder::new("second");
    let server = Server::start(&folder, &[]);
    let (code, error) = Server::fail(&folder, &[]);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains(&format!("in use by process {}", server.pid())), "{error}");
}

#[test]
fn a_taken_port_is_named() {
    let folder = Folder::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for (option, key) in [("--listen-binary", "binary"), ("--listen-ws", "websocket"), ("--http", "http")] {
        let (code, error) = Server::fail(&folder, &[option, &address]);
        assert_eq!(code, 5, "{error}");
        assert!(error.contains(&address) && error.contains(&format!("listen.{key}")), "{error}");
    }
}

#[test]
fn a_wrong_config_or_folder_is_told_in_one_line() {
    let folder = Folder::new("config");
    folder.write("bad.toml", "shards = 1\nsharts = 2\n");
    let file = folder.path("bad.toml");
    let (code, error) = Server::fail(&folder, &["--config", &file]);
    assert_eq!(code, 2);
    assert!(error.contains("line 2, key `sharts`"), "{error}");
    folder.write("not-a-folder", "x");
    let (code, error) = Server::fail_at(&folder.path("not-a-folder"));
    assert_eq!(code, 3);
    assert!(error.contains("not a folder"), "{error}");
}

#[test]
fn damage_stops_the_start_and_names_the_file() {
    let folder = Folder::new("damage");
    let mut server = Server::start(&folder, &["--shards", "1"]);
    let mut visitor = Client::visitor(&server);
    visitor.open();
    for n in 1..=20 {
        visitor.send(n, &format!("message {n}"));
    }
    server.kill();
    let segment = folder.path("log/0000/00000000.seg");
    let mut bytes = std::fs::read(&segment).expect("a segment");
    let at = bytes.windows(10).position(|window| window == b"message 10").expect("its body");
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let (code, error) = Server::fail(&folder, &["--shards", "1"]);
    assert_eq!(code, 7, "{error}");
    assert!(error.contains("log/0000/00000000.seg"), "{error}");
    assert!(error.contains("damaged in one place"), "{error}");
    let named = format!("conversations that lost messages or states: {:016x} (", visitor.conversation());
    assert!(error.contains(&named), "{error}");
}

#[test]
fn signals_reload_and_drain() {
    let folder = Folder::new("signals");
    folder.write("ringdesk.toml", "[clients]\nheartbeat_s = 20\n[log]\nsegment_mib = 4\n");
    let file = folder.path("ringdesk.toml");
    let mut server = Server::start(&folder, &["--config", &file]);
    let mut visitor = Client::visitor(&server);
    assert_eq!(visitor.heartbeat_s, 20);
    folder.write("ringdesk.toml", "shards = 9\n[clients]\nheartbeat_s = 21\n[log]\nsegment_mib = 4\n");
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_error("`shards` cannot change while the server runs");
    let again = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        (Client::visitor(&server).heartbeat_s == 21).then_some(())
    });
    assert!(again.is_some(), "the reload reaches new connections");
    visitor.open();
    visitor.send(1, "the connection from before the reload lives");
    server.signal(rustix::process::Signal::TERM);
    visitor.expect(|message| matches!(message, ServerMessage::Goodbye { .. }));
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_conversation_survives_kill_9_and_other_numbers_of_shards() {
    let folder = Folder::new("survive");
    let mut server = Server::start(&folder, &["--shards", "2"]);
    let mut visitors: Vec<Client> = (0..6).map(|_| Client::visitor(&server)).collect();
    for visitor in &mut visitors {
        visitor.open();
        visitor.send(1, "before");
    }
    let mut agent = Client::agent(&server, &folder);
    agent.online(10);
    for (round, shards) in ["1", "3", "2"].into_iter().enumerate() {
        server.kill();
        server = Server::start(&folder, &["--shards", shards]);
        let n = 2 + round as u64;
        for visitor in &mut visitors {
            visitor.reconnect(&server);
            visitor.send(n, &format!("round {round}"));
            assert!(
                visitor.send_again(n, &format!("round {round}")),
                "a repeat is a duplicate, whatever crashed"
            );
        }
    }
    for visitor in &mut visitors {
        let bodies = visitor.history();
        assert_eq!(bodies, ["before", "round 0", "round 1", "round 2"]);
    }
    assert_eq!(agent.role, Role::Agent);
}

/// A bad frame, and 100 KiB that were on their way when the server closed.
#[test]
fn a_client_that_goes_on_sending_reads_why_it_was_sent_away() {
    for backend in BACKENDS {
        let folder = Folder::new(&format!("goodbye-{backend}"));
        folder.write("small.toml", &format!("backend = \"{backend}\"\n[log]\nsegment_mib = 4\n"));
        let server = Server::start(&folder, &["--shards", "1"]);
        for pause_ms in [0, 30] {
            let mut stream = TcpStream::connect(server.binary).expect("connects");
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            let mut frame = Vec::new();
            ClientMessage::Ping { nonce: 1 }.encode(0, 1, &mut frame);
            stream.write_all(&frame).expect("sent");
            std::thread::sleep(Duration::from_millis(pause_ms));
            for _ in 0..10 {
                stream.write_all(&[0xEE; 10 << 10]).expect("the server takes what is still to come");
            }
            std::thread::sleep(Duration::from_millis(20));
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("the end of the stream, no reset");
            let frame = frame::decode(&bytes, FRAME_BYTES_MAX as u32).expect("a frame").expect("a whole one");
            let message = ServerMessage::decode(frame.header.kind, frame.body).expect("a message");
            assert!(matches!(message, ServerMessage::Goodbye { .. }), "{backend}: {message:?}");
        }
    }
}

#[test]
fn a_log_goes_from_one_backend_to_the_other_and_back() {
    let folder = Folder::new("backends");
    let small = std::fs::read_to_string(folder.path("small.toml")).expect("written by Folder");
    let shards = ["--shards", "2"];
    let mut server = Server::start(&folder, &shards);
    let mut visitor = Client::visitor(&server);
    visitor.open();
    visitor.send(1, "first, over io_uring");
    let mut bodies = vec!["first, over io_uring".to_owned()];
    for (n, backend) in (2..).zip(BACKENDS.iter().rev()) {
        let body = format!("over {backend}");
        server.kill();
        folder.write("small.toml", &format!("backend = \"{backend}\"\n{small}"));
        server = Server::start(&folder, &shards);
        visitor.reconnect(&server);
        visitor.send(n, &body);
        let mut agent = Client::agent(&server, &folder);
        // The second time it owns the conversation already, whose messages may then come before the ACK.
        let availability = Availability::Online;
        agent.say(0, &ClientMessage::Presence { n: 1, availability, capacity: 10 });
        agent.expect(
            |message| matches!(message, ServerMessage::Deliver { body: got, .. } if *got == body.as_bytes()),
        );
        bodies.push(body);
    }
    assert_eq!(visitor.history(), bodies);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.exit_code(), Some(0));
}
