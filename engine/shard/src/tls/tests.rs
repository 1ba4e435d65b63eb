//! A rustls client against the server's side, in memory, with the bytes cut in every way.

use std::io::{Read, Write};

use proptest::prelude::*;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, SupportedProtocolVersion};

use super::*;

struct World {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn world(versions: &[&'static SupportedProtocolVersion]) -> World {
    let made = rcgen::generate_simple_self_signed(["desk.example".to_string()]).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    server.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    server.alpn_protocols = vec![b"ringdesk/1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"ringdesk/1".to_vec()];
    World { server: Arc::new(server), client: Arc::new(client) }
}

impl World {
    fn pair(&self) -> Pair {
        let name = ServerName::try_from("desk.example").unwrap();
        Pair {
            client: ClientConnection::new(self.client.clone(), name).unwrap(),
            server: Tls::new(self.server.clone()).unwrap(),
            plain: Vec::new(),
            opened: None,
            end: None,
            received: Vec::new(),
            told: None,
        }
    }
}

struct Pair {
    client: ClientConnection,
    server: Tls,
    plain: Vec<u8>,
    opened: Option<bool>,
    end: Option<TlsEnd>,
    /// What the client decrypted, and the error it ended with.
    received: Vec<u8>,
    told: Option<Error>,
}

impl Pair {
    fn feed(&mut self, mut bytes: Vec<u8>, piece: usize) {
        for piece in bytes.chunks_mut(piece) {
            let taken = self.server.take(piece, &mut self.plain);
            self.opened = self.opened.or(taken.opened);
            self.end = self.end.clone().or(taken.end);
        }
    }

    fn answer(&mut self, plain: &[u8], last: bool) {
        let mut wire = Vec::new();
        self.server.seal(plain, last, &mut wire);
        let mut rest = &wire[..];
        while !rest.is_empty() && self.client.read_tls(&mut rest).unwrap() > 0 {
            self.told = self.client.process_new_packets().err();
            // WouldBlock ends it; so does the close.
            let _ = self.client.reader().read_to_end(&mut self.received);
        }
    }

    /// Both sides in turn, the client's bytes in pieces, until neither has anything to say.
    fn settle(&mut self, piece: usize) {
        loop {
            let mut wire = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut wire).unwrap();
            }
            if wire.is_empty() && !self.server.has_ready() {
                return;
            }
            self.feed(wire, piece);
            self.answer(&[], false);
        }
    }

    fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }
}

fn there_and_back(world: &World, piece: usize) {
    let mut pair = world.pair();
    pair.settle(piece);
    assert!(pair.opened.is_some());
    assert_eq!(pair.client.alpn_protocol(), Some(&b"ringdesk/1"[..]));
    let question: Vec<u8> = (0..40_000u32).map(|n| n as u8).collect();
    pair.client.writer().write_all(&question[..20_000]).unwrap();
    pair.client.writer().write_all(&question[20_000..]).unwrap();
    pair.settle(piece);
    assert!(pair.plain == question, "every byte arrives in order");
    let answer: Vec<u8> = (0..300_000u32).map(|n| (n >> 3) as u8).collect();
    pair.answer(&answer, false);
    assert!(pair.read() == answer);
    // Between messages nothing is kept.
    assert_eq!((pair.server.held.capacity(), pair.server.ready.capacity()), (0, 0));
    pair.client.send_close_notify();
    pair.settle(piece);
    assert_eq!(pair.end, Some(TlsEnd::Closed));
    pair.answer(b"bye", true);
    assert_eq!(pair.read(), b"bye");
    let mut rest = [0; 1];
    assert_eq!(pair.client.reader().read(&mut rest).unwrap(), 0, "close_notify came, so the end is clean");
}

#[test]
fn bytes_go_through_in_both_versions_however_cut() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let world = world(&[version]);
        for piece in [1, 7, 256, 4096, 1 << 20] {
            there_and_back(&world, piece);
        }
    }
}

#[test]
fn a_second_connection_resumes_in_both_versions() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let world = world(&[version]);
        let mut first = world.pair();
        first.settle(4096);
        first.answer(b"hello", false);
        first.read();
        let mut second = world.pair();
        second.settle(4096);
        assert_eq!(second.opened, Some(true), "{:?}", second.client.protocol_version());
    }
}

#[test]
fn the_newest_version_wins() {
    let world = world(rustls::ALL_VERSIONS);
    let mut pair = world.pair();
    pair.settle(4096);
    assert_eq!(pair.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn plain_bytes_get_an_alert_and_an_end() {
    let world = world(rustls::ALL_VERSIONS);
    for plain in [&b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0x40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]] {
        let mut server = Tls::new(world.server.clone()).unwrap();
        let taken = server.take(&mut plain.to_vec(), &mut Vec::new());
        assert!(matches!(taken.end, Some(TlsEnd::Failed(_))), "{taken:?}");
        let mut wire = Vec::new();
        assert!(!server.seal(b"never seen", true, &mut wire), "it cannot go on");
        // Alert record, fatal (RFC 8446 section 6).
        assert_eq!((wire[0], wire[5], wire.len()), (21, 2, 7), "{wire:02x?}");
    }
}

#[test]
fn no_common_alpn_is_told_by_its_alert() {
    let world = world(rustls::ALL_VERSIONS);
    let mut client = ClientConfig::clone(&world.client);
    client.alpn_protocols = vec![b"h2".to_vec()];
    let mut pair = World { client: Arc::new(client), server: world.server }.pair();
    let mut wire = Vec::new();
    pair.client.write_tls(&mut wire).unwrap();
    pair.feed(wire, 100);
    assert_eq!(pair.end, Some(TlsEnd::Failed(Error::NoApplicationProtocol)));
    pair.answer(&[], true);
    // RFC 7301 section 3.2.
    assert_eq!(pair.told, Some(Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)));
}

#[test]
fn nothing_leaves_before_the_handshake_is_done() {
    let world = world(rustls::ALL_VERSIONS);
    let mut server = Tls::new(world.server).unwrap();
    let mut wire = Vec::new();
    assert!(server.seal(b"a goodbye there are no keys for", true, &mut wire));
    assert!(wire.is_empty());
}

#[test]
fn key_updates_are_answered() {
    let world = world(&[&rustls::version::TLS13]);
    let mut pair = world.pair();
    pair.settle(4096);
    for round in 0..5u8 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(&[round]).unwrap();
        pair.settle(3);
        pair.answer(&[round; 3], false);
        assert_eq!(pair.read(), [round; 3]);
    }
    assert_eq!(pair.plain, [0, 1, 2, 3, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_kept_long(
        head in prop_oneof![
            Just(vec![22u8, 3, 1]),
            Just(vec![22, 3, 3, 0, 9, 1, 0, 2]),
            Just(vec![23, 3, 3]),
            Just(vec![20, 3, 3, 0, 1, 1]),
            Just(vec![]),
        ],
        noise in proptest::collection::vec(any::<u8>(), 0..2000),
        piece in 1usize..700,
    ) {
        let world = WORLD.get_or_init(|| world(rustls::ALL_VERSIONS));
        let mut pair = world.pair();
        let bytes = [head, noise].concat();
        for piece in bytes.chunks(piece) {
            if pair.end.is_some() {
                break;
            }
            pair.feed(piece.to_vec(), piece.len());
            prop_assert!(pair.server.held.len() <= HELD_BYTES_MAX);
        }
        prop_assert!(pair.plain.is_empty());
    }

    #[test]
    fn a_damaged_handshake_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        twelve: bool,
        flight in 0usize..2,
        piece in 1usize..700,
        again in 0usize..3,
    ) {
        static TWELVE: std::sync::OnceLock<World> = std::sync::OnceLock::new();
        let world = match twelve {
            true => TWELVE.get_or_init(|| world(&[&rustls::version::TLS12])),
            false => WORLD.get_or_init(|| world(rustls::ALL_VERSIONS)),
        };
        let mut pair = world.pair();
        let mut wire = Vec::new();
        for _ in 0..flight {
            pair.client.write_tls(&mut wire).unwrap();
            pair.feed(std::mem::take(&mut wire), piece);
            pair.answer(&[], false);
        }
        while pair.client.wants_write() {
            pair.client.write_tls(&mut wire).unwrap();
        }
        for (at, to) in changes {
            let at = at.index(wire.len());
            wire[at] = to;
        }
        // A part of it comes again.
        let part = wire[..cut.index(wire.len())].to_vec();
        wire.extend(part.repeat(again));
        for piece in wire.chunks(piece) {
            if pair.end.is_some() {
                break;
            }
            pair.feed(piece.to_vec(), piece.len());
            prop_assert!(pair.server.held.len() <= HELD_BYTES_MAX);
            pair.server.seal(b"an answer", false, &mut Vec::new());
        }
        pair.server.seal(b"a goodbye", true, &mut Vec::new());
    }

    #[test]
    fn a_flipped_bit_ends_the_connection(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let world = WORLD.get_or_init(|| world(rustls::ALL_VERSIONS));
        let mut pair = world.pair();
        pair.settle(4096);
        let message = b"a message that must come as it was sent";
        pair.client.writer().write_all(message).unwrap();
        let mut wire = Vec::new();
        pair.client.write_tls(&mut wire).unwrap();
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        pair.feed(wire, 4096);
        // Type and version in the header of a TLS 1.3 record say nothing and are not protected. A longer length waits
        // for bytes that never come.
        prop_assert!(pair.plain.is_empty() || (at < 3 && pair.plain == message));
        prop_assert!(pair.end.is_some() || at < 5);
    }
}

/// `RINGDESK_TLS_CASES` runs more of them.
fn cases() -> u32 {
    std::env::var("RINGDESK_TLS_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(64)
}

static WORLD: std::sync::OnceLock<World> = std::sync::OnceLock::new();

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// `RINGDESK_TLS_CASES=2000` with this test alone gives a figure without the noise of the others.
#[test]
fn what_a_connection_costs() {
    let world = world(&[&rustls::version::TLS13]);
    let count = cases() as usize * 4;
    let server = || {
        let mut pair = world.pair();
        pair.settle(4096);
        pair.answer(b"welcome", false);
        pair.server
    };
    // The clients' memory, and what a handshake needs, is used again by the next one.
    let warm: Vec<Tls> = (0..count).map(|_| server()).collect();
    let start = resident();
    let held: Vec<Tls> = (0..count).map(|_| server()).collect();
    let each = resident().saturating_sub(start) / count;
    let state = size_of::<Tls>();
    eprintln!("a TLS connection: {state} bytes of state, {each} with all that hangs on it, over {count}");
    assert!(state <= 1536, "{state} bytes");
    assert_eq!(warm.len(), held.len());
}
