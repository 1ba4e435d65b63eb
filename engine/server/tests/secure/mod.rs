//! TLS on both ports, end to end, with rustls as the client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use ringdesk_protocol::limits::VERSION;
use ringdesk_protocol::ws::{self, Opcode, Subprotocol, client};
use ringdesk_protocol::{ClientMessage, Role};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::process::{Client, Folder, Server, connect};

const NAME: &str = "desk.example";

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A certificate for [`NAME`], written as PEM beside the data.
fn write_certificate(folder: &Folder) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed([NAME.to_string()]).expect("made");
    folder.write("cert.pem", &made.cert.pem());
    folder.write("key.pem", &made.signing_key.serialize_pem());
    made.cert.der().clone()
}

/// Serves TLS on free ports; `more` goes into `[listen]`.
pub fn configure(folder: &Folder, more: &str) {
    let (certificate, key) = (folder.path("cert.pem"), folder.path("key.pem"));
    folder.write(
        "small.toml",
        &format!(
            "[log]\nsegment_mib = 4\n[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n[listen]\n\
             tls_binary = \"127.0.0.1:0\"\ntls_websocket = \"127.0.0.1:0\"\n{more}\n"
        ),
    );
}

/// A folder with a certificate and a server that presents it.
fn secured(name: &str) -> (Folder, Server, CertificateDer<'static>) {
    let folder = Folder::new(name);
    let certificate = write_certificate(&folder);
    configure(&folder, "");
    let server = Server::start(&folder, &["--shards", "2"]);
    (folder, server, certificate)
}

/// A client that trusts one certificate and offers one protocol.
pub fn trusting(certificate: &CertificateDer<'static>, alpn: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.into()];
    Arc::new(config)
}

fn secure(to: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<Stream> {
    over(connect(to), config)
}

fn over(mut stream: TcpStream, config: &Arc<ClientConfig>) -> std::io::Result<Stream> {
    let name = ServerName::try_from(NAME).expect("a name");
    let mut tls = ClientConnection::new(config.clone(), name).expect("a configuration");
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(tls, stream))
}

fn figure(server: &Server, name: &str) -> u64 {
    // A figure is given again for 200 ms.
    std::thread::sleep(std::time::Duration::from_millis(250));
    let text = server.get("/metrics");
    let of = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
    text.lines().filter(|line| line.starts_with(&format!("ringdesk_{name}{{"))).filter_map(of).sum()
}

#[test]
fn conversations_go_through_tls_and_between_shards() {
    let (_folder, server, certificate) = secured("tls-binary");
    let config = trusting(&certificate, "ringdesk/1");
    let to = server.tls_binary.expect("listened on");
    let mut visitors: Vec<Client> = (0..8)
        .map(|_| {
            let stream = secure(to, &config).expect("a handshake");
            assert_eq!(stream.conn.alpn_protocol(), Some(&b"ringdesk/1"[..]));
            Client::visitor_over(&server, stream)
        })
        .collect();
    let long = "a message longer than one record of TLS: ".repeat(700);
    for visitor in &mut visitors {
        visitor.open();
        visitor.send(1, "hello");
        visitor.send(2, &long);
    }
    for visitor in &mut visitors {
        assert!(visitor.history() == ["hello", &long]);
    }
    let mut plain = Client::visitor(&server);
    plain.open();
    plain.send(1, "plain clients are served beside");
    assert_eq!(figure(&server, "tls_handshakes_total"), 8);
    assert_eq!(figure(&server, "tls_resumed_total"), 7, "all but the first had a ticket");
    assert_eq!((figure(&server, "tls_failed_total"), figure(&server, "tls_connections")), (0, 8));
    // Each identity hashes to one of two shards, each connection is accepted by either.
    drop(visitors);
}

#[test]
fn a_drain_says_goodbye_and_close_notify() {
    let (_folder, mut server, certificate) = secured("tls-drain");
    let config = trusting(&certificate, "ringdesk/1");
    let stream = secure(server.tls_binary.expect("listened on"), &config).expect("a handshake");
    let mut visitor = Client::visitor_over(&server, stream);
    server.signal(Signal::TERM);
    visitor.expect(|message| matches!(message, ringdesk_protocol::ServerMessage::Goodbye { .. }));
    // An end without close_notify would be an error here, for rustls takes it for a truncation.
    assert_eq!(visitor.rest().expect("a clean end"), b"");
    assert_eq!(server.exit_code(), Some(0));
}

/// The state of TLS cannot leave the process.
#[test]
fn a_take_over_says_goodbye_through_tls_and_counts_it() {
    let (folder, mut server, certificate) = secured("tls-upgrade");
    let config = trusting(&certificate, "ringdesk/1");
    let stream = secure(server.tls_binary.expect("listened on"), &config).expect("a handshake");
    let mut visitor = Client::visitor_over(&server, stream);
    let mut plain = Client::visitor(&server);
    let file = folder.path("small.toml");
    let new = Server::start(&folder, &["--config", &file, "--take-over"]);
    visitor.expect(|message| matches!(message, ringdesk_protocol::ServerMessage::Goodbye { .. }));
    assert_eq!(visitor.rest().expect("a clean end"), b"");
    assert_eq!(server.exit_code(), Some(0));
    plain.open();
    let metrics = new.get("/metrics");
    assert!(metrics.contains("ringdesk_upgrade_drained 1\n"), "{metrics}");
    assert!(metrics.contains("ringdesk_upgrade_carried 1\n"), "{metrics}");
    assert_eq!(new.tls_binary, server.tls_binary);
    let stream = secure(new.tls_binary.expect("listened on"), &config).expect("a handshake");
    Client::visitor_over(&new, stream).open();
}

#[test]
fn a_websocket_goes_through_tls() {
    let (_folder, server, certificate) = secured("tls-ws");
    let config = trusting(&certificate, "http/1.1");
    let mut stream = secure(server.tls_websocket.expect("listened on"), &config).expect("a handshake");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let mut bytes = Vec::new();
    client::request(NAME, Some(&format!("https://{NAME}")), key, Subprotocol::Binary, &mut bytes);
    // The HELLO comes with the request, in the same records.
    let answer = server.post("/v1/tickets/visitor", &json!({ "site": "demo" }));
    let hello = ClientMessage::Hello {
        version_min: VERSION,
        version_max: VERSION,
        role: Role::Visitor,
        device: 3,
        ticket: answer["ticket"].as_str().expect("a ticket"),
        cursors: &[],
    };
    let mut frame = Vec::new();
    hello.encode(0, 1, &mut frame);
    ws::encode::head(Opcode::Binary, frame.len(), Some([0; 4]), &mut bytes);
    bytes.extend_from_slice(&frame);
    stream.write_all(&bytes).expect("sent");
    let mut received = Vec::new();
    let upgraded = loop {
        if let Some(end) = client::response(&received, key, Subprotocol::Binary).expect("upgraded") {
            break end;
        }
        read_some(&mut stream, &mut received);
    };
    while received.len() < upgraded + 2 + 5 {
        read_some(&mut stream, &mut received);
    }
    let payload = &received[upgraded..];
    assert_eq!(payload[0], 0x82, "one binary message");
    // Length of the WebSocket head, then the kind of the frame: WELCOME (docs/WIRE.md).
    let head = if payload[1] < 126 { 2 } else { 4 };
    assert_eq!(payload[head + 4], 0x81);
}

fn read_some(stream: &mut Stream, to: &mut Vec<u8>) {
    let mut chunk = [0; 4096];
    let count = stream.read(&mut chunk).expect("an answer in time");
    assert!(count > 0, "the server closed the connection");
    to.extend_from_slice(&chunk[..count]);
}

#[test]
fn a_reload_changes_the_certificate_and_drops_nobody() {
    let (folder, server, old) = secured("tls-reload");
    let to = server.tls_binary.expect("listened on");
    let trusts_old = trusting(&old, "ringdesk/1");
    let mut before = Client::visitor_over(&server, secure(to, &trusts_old).expect("the first certificate"));
    before.open();
    let new = write_certificate(&folder);
    server.signal(Signal::HUP);
    server.wait_for_error("tls.certificate");
    let trusts_new = trusting(&new, "ringdesk/1");
    // The shards read their letters within a turn.
    let renewed = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        secure(to, &trusts_new).ok()
    });
    let mut after = Client::visitor_over(&server, renewed.expect("new handshakes get the new certificate"));
    after.open();
    after.send(1, "under the new certificate");
    let fresh = trusting(&old, "ringdesk/1");
    let error = secure(to, &fresh).expect_err("the old one is gone").to_string();
    assert!(error.contains("certificate"), "{error}");
    let resumed = secure(to, &trusts_old).expect("tickets outlive a certificate");
    assert_eq!(resumed.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    before.send(1, "the connection from before the reload lives");

    folder.write("key.pem", "no key at all");
    server.signal(Signal::HUP);
    server.wait_for_error("key.pem holds no private key in PEM form; the certificate in use stays");
    secure(to, &trusting(&new, "ringdesk/1")).expect("the certificate in use stays");
    before.send(2, "and lives");
}

#[test]
fn a_wrong_certificate_is_told_at_start() {
    let folder = Folder::new("tls-wrong");
    write_certificate(&folder);
    configure(&folder, "");
    let other = rcgen::generate_simple_self_signed([NAME.to_string()]).expect("made");
    folder.write("key.pem", &other.signing_key.serialize_pem());
    let (code, error) = Server::fail(&folder, &[]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("`tls.certificate`") && error.contains("is not the key of"), "{error}");
    folder.write("small.toml", "[listen]\ntls_binary = \"127.0.0.1:0\"\n");
    let (code, error) = Server::fail(&folder, &[]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("`tls.certificate` is missing"), "{error}");
}

#[test]
fn who_speaks_plainly_or_another_protocol_gets_an_alert() {
    let (_folder, server, certificate) = secured("tls-alerts");
    let to = server.tls_binary.expect("listened on");
    let mut plain = connect(to);
    plain.write_all(b"GET /ws HTTP/1.1\r\nHost: desk.example\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).expect("an end");
    assert_eq!((answer[0], answer[5]), (21, 2), "a fatal alert: {answer:02x?}");
    let error = secure(to, &trusting(&certificate, "h2")).expect_err("no common protocol").to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    let stranger = rcgen::generate_simple_self_signed([NAME.to_string()]).expect("made");
    secure(to, &trusting(stranger.cert.der(), "ringdesk/1")).expect_err("a client that trusts another");
    assert_eq!(figure(&server, "tls_failed_total"), 3);
    assert_eq!(figure(&server, "connections"), 0, "none of them is kept");
}

/// Prints what a TLS connection costs beside a plain one, both after HELLO. `RINGDESK_TLS_CONNECTIONS` holds more.
#[test]
fn a_tls_connection_costs_little_more_than_a_plain_one() {
    let count =
        std::env::var("RINGDESK_TLS_CONNECTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    let (_folder, server, certificate) = secured("tls-memory");
    let config = trusting(&certificate, "ringdesk/1");
    let to = server.tls_binary.expect("listened on");
    let resident = || {
        std::thread::sleep(std::time::Duration::from_millis(250));
        let status: Value = serde_json::from_str(&server.get("/v1/status")).expect("JSON");
        status["resident_bytes"].as_u64().expect("a number")
    };
    let open = |secured: bool| match secured {
        true => Client::visitor_over(&server, secure(to, &config).expect("a handshake")),
        false => Client::visitor(&server),
    };
    let warm: Vec<Client> = (0..100).map(|n| open(n % 2 == 0)).collect();
    let start = resident();
    let plain: Vec<Client> = (0..count).map(|_| open(false)).collect();
    let middle = resident();
    let secured: Vec<Client> = (0..count).map(|_| open(true)).collect();
    let end = resident();
    let each = |from: u64, to: u64| to.saturating_sub(from) / count as u64;
    let (cost_plain, cost_tls) = (each(start, middle), each(middle, end));
    eprintln!("{count} connections each: {cost_plain} bytes plain, {cost_tls} bytes under TLS, resident");
    assert!(cost_tls < cost_plain + 7_500, "a buffered rustls connection costs 7,500 bytes");
    assert_eq!(figure(&server, "tls_connections"), 50 + count as u64);
    drop((warm, plain, secured));
}
