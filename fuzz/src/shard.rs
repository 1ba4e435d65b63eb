//! `shard::Shard`: a whole shard with a stranger at its door. Whatever arrives over the network, a panic would end the
//! process, so this target looks for those that no decoder alone can have.
//!
//! Input: mode (1), plan of the pieces (4), then what the stranger sends. Mode: bits 0 and 1 choose the transport
//! (binary, WebSocket with binary or with JSON messages, or bytes from the first on), bits 2 and 3 who it is (visitor,
//! agent, gateway, or a HELLO of its own), bit 4 lets time pass between the pieces.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringdesk_desk::Limits;
use ringdesk_persist::{DiskDone, DiskOp, Geometry, LogId, Tail};
use ringdesk_protocol::ws::{self, Decoder, Opcode, Subprotocol, encode};
use ringdesk_protocol::{Availability, ClientMessage, Content, Role, ServerMessage, frame, json};
use ringdesk_shard::carry::Carried;
use ringdesk_shard::io::{ConnId, Input, Inputs, ListenerKind, Now, Output, Outputs, Stand};
use ringdesk_shard::router::Router;
use ringdesk_shard::settings::Settings;
use ringdesk_shard::ticket::{Claims, ISSUER, issue};
use ringdesk_shard::{OwnerConfig, Replay, Shard};

use crate::pieces::Pieces;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const NONCE: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WALL_S: u64 = 1_700_000_000;
/// Most turns after one piece.
const TURNS_MAX: usize = 1_000;

/// The shard does not panic and does not stop; all it sends is well formed; when the stranger is gone, its
/// connection is closed; another visitor is still served.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    let Some((pieces, stream)) = Pieces::take(rest) else { return };
    let mut world = World::new();
    world.neighbours();
    let transport =
        [Transport::Binary, Transport::WsBinary, Transport::WsJson, Transport::Raw][usize::from(mode & 3)];
    let stranger = world.connect(transport.listener());
    world.greet(stranger, transport, mode >> 2 & 3);
    for piece in pieces.of(stream) {
        world.receive(stranger, piece);
        if mode & 16 != 0 {
            world.pass_ms(7_000);
        }
    }
    world.hangup(stranger);
    assert!(world.closed.contains(&stranger), "the connection was not closed");
    let heard = world.heard.remove(&stranger).unwrap_or_default();
    well_formed(transport, &heard);
    world.another_is_served();
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Binary,
    WsBinary,
    WsJson,
    /// A WebSocket listener that is told nothing but the input.
    Raw,
}

impl Transport {
    fn listener(self) -> ListenerKind {
        match self {
            Transport::Binary => ListenerKind::BINARY,
            _ => ListenerKind::WEBSOCKET,
        }
    }

    fn subprotocol(self) -> Option<Subprotocol> {
        match self {
            Transport::WsBinary => Some(Subprotocol::Binary),
            Transport::WsJson => Some(Subprotocol::Json),
            _ => None,
        }
    }
}

/// One shard over a disk that does at once what it is asked.
pub(crate) struct World {
    shard: Shard,
    inputs: Inputs,
    disk: BTreeMap<u32, Vec<u8>>,
    heard: BTreeMap<ConnId, Vec<u8>>,
    closed: Vec<ConnId>,
    stood: Vec<(ConnId, Carried)>,
    now: Now,
    next_index: u32,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = Now { mono_ns: 1_000_000_000, wall_ms: WALL_S * 1_000 };
        let settings = Arc::new(Settings {
            ticket_key: KEY.to_vec(),
            site_keys: BTreeMap::new(),
            heartbeat_s: 30,
            outbox_bytes_max: 64 << 10,
            origins: Vec::new(),
            websocket_deflate: true,
            agent_names: BTreeMap::from([((1, 7), "Ana".into())]),
            connections_max: 10,
            address_connections_max: 0,
            tls: None,
        });
        let config = OwnerConfig {
            shard: 0,
            router: Router::even(1),
            slot_epoch: 1,
            limits: Limits::default(),
            geometry: Geometry { fill_ahead_bytes: 0, staged_bytes_max: 256 << 10, ..geometry() },
        };
        let shard = Shard::boot(0, Replay::new(config), settings, Tail::fresh(LogId(0)), 1, now);
        let shard = shard.unwrap_or_else(|error| panic!("an empty log boots: {error:?}"));
        let (inputs, disk, heard) = (Inputs::default(), BTreeMap::new(), BTreeMap::new());
        Self { shard, inputs, disk, heard, closed: Vec::new(), stood: Vec::new(), now, next_index: 0 }
    }

    /// Turns until nothing is left to do at this moment.
    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            let due = self.shard.next_deadline_ns().is_some_and(|at| at <= self.now.mono_ns);
            if self.inputs.events.is_empty() && !due {
                return;
            }
            let mut outputs = Outputs::default();
            self.inputs.lane_room = vec![4_096];
            self.shard.step(self.now, &mut self.inputs, &mut outputs);
            self.inputs.bytes.clear();
            for output in outputs.events {
                self.output(output);
            }
        }
        panic!("the shard does not come to rest");
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send { conn, buffer } => {
                assert!(!buffer.is_empty() && !self.closed.contains(&conn), "an empty or a late send");
                self.heard.entry(conn).or_default().extend_from_slice(&buffer);
                self.inputs.events.push(Input::Sent { conn, buffer });
            }
            Output::Close { conn } => {
                assert!(!self.closed.contains(&conn), "closed twice");
                self.closed.push(conn);
            }
            Output::Disk(op) => {
                let done = perform(&mut self.disk, op);
                self.inputs.events.push(Input::Disk(done));
            }
            Output::Stood(stood) => self.stood.extend(stood.carried),
            Output::Fatal(sentence) => panic!("the shard stopped: {sentence}"),
            Output::HandOver { .. } | Output::ToShard { .. } => panic!("there is one shard"),
            _ => {}
        }
    }

    /// A connection that another process had.
    pub(crate) fn adopt(&mut self, carried: Carried) -> ConnId {
        self.next_index += 1;
        let conn = ConnId { index: self.next_index, generation: 1 };
        self.inputs.events.push(Input::Adopted { conn, carried: Box::new(carried) });
        self.settle();
        conn
    }

    /// Every connection, written down.
    pub(crate) fn stand_still(&mut self) -> Vec<Carried> {
        self.inputs.events.push(Input::Stand(Stand::Still));
        self.settle();
        self.pass_ms(20);
        assert!(self.shard.is_settled(), "something is left to do");
        self.inputs.events.push(Input::Stand(Stand::Collect));
        self.settle();
        let stood = std::mem::take(&mut self.stood);
        stood.into_iter().map(|(_, carried)| carried).collect()
    }

    pub(crate) fn go_on(&mut self) {
        self.inputs.events.push(Input::Stand(Stand::GoOn));
        self.settle();
    }

    fn pass_ms(&mut self, ms: u64) {
        self.now.mono_ns += ms * 1_000_000;
        self.now.wall_ms += ms;
        self.settle();
    }

    fn connect(&mut self, listener: ListenerKind) -> ConnId {
        self.next_index += 1;
        let conn = ConnId { index: self.next_index, generation: 1 };
        self.inputs.events.push(Input::Accepted { conn, listener, peer: None });
        self.settle();
        conn
    }

    /// Bytes of a connection; after its close nothing arrives any more.
    fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        if self.closed.contains(&conn) || bytes.is_empty() {
            return;
        }
        let start = self.inputs.bytes.len() as u32;
        self.inputs.bytes.extend_from_slice(bytes);
        self.inputs.events.push(Input::Received { conn, start, len: bytes.len() as u32 });
        self.settle();
    }

    pub(crate) fn hangup(&mut self, conn: ConnId) {
        if !self.closed.contains(&conn) {
            self.inputs.events.push(Input::Hangup { conn });
            self.settle();
        }
    }

    fn say(&mut self, conn: ConnId, message: &ClientMessage<'_>) {
        let mut bytes = Vec::new();
        message.encode(0, 1, &mut bytes);
        self.receive(conn, &bytes);
    }

    /// An agent at work and a visitor with a conversation, so that there is something to meddle with.
    pub(crate) fn neighbours(&mut self) {
        let agent = self.connect(ListenerKind::BINARY);
        self.say(agent, &hello(2, 1, &ticket(2, 1)));
        self.say(agent, &ClientMessage::Presence { n: 1, availability: Availability::Online, capacity: 5 });
        let visitor = self.connect(ListenerKind::BINARY);
        self.say(visitor, &hello(1, 2, &ticket(1, 2)));
        self.say(visitor, &ClientMessage::Open { n: 1, topic: "" });
        let conversation = self.conversation(visitor);
        let body = "hello".as_bytes();
        self.say(
            visitor,
            &ClientMessage::Send { conversation, n: 1, owner_epoch: 0, content: Content::Text, body },
        );
    }

    /// The conversation that a connection's first ACK names.
    fn conversation(&self, conn: ConnId) -> u64 {
        let heard = &self.heard[&conn];
        let named = frame::frames(heard, 1 << 20).find_map(|frame| {
            let frame = frame.expect("whole frames");
            match ServerMessage::decode(frame.header.kind, frame.body) {
                Ok(ServerMessage::Ack { conversation, .. }) => Some(conversation),
                _ => None,
            }
        });
        named.expect("OPEN was answered")
    }

    /// The upgrade and the HELLO of the stranger, as far as it does not bring its own.
    fn greet(&mut self, conn: ConnId, transport: Transport, role: u8) {
        if let Some(subprotocol) = transport.subprotocol() {
            let mut request = Vec::new();
            ws::client::request("chat.example", None, NONCE, subprotocol, &mut request);
            self.receive(conn, &request);
        }
        if role == 3 || transport == Transport::Raw {
            return;
        }
        let ticket = ticket(role + 1, 3);
        let hello = hello(role + 1, 3, &ticket);
        let (mut message, mut bytes) = (Vec::new(), Vec::new());
        match transport {
            Transport::Binary => hello.encode(0, 1, &mut bytes),
            Transport::WsBinary => {
                hello.encode(0, 1, &mut message);
                encode::masked(Opcode::Binary, &message, [0; 4], &mut bytes);
            }
            _ => {
                hello.write_json(0, 1, &mut message);
                encode::masked(Opcode::Text, &message, [0; 4], &mut bytes);
            }
        }
        self.receive(conn, &bytes);
        assert!(!self.closed.contains(&conn), "a good HELLO was refused");
    }

    pub(crate) fn another_is_served(&mut self) {
        let other = self.connect(ListenerKind::BINARY);
        self.say(other, &hello(1, 4, &ticket(1, 4)));
        self.say(other, &ClientMessage::Open { n: 1, topic: "" });
        self.conversation(other);
        self.hangup(other);
        assert!(self.closed.contains(&other));
    }
}

fn geometry() -> Geometry {
    Geometry { segment_bytes: 1 << 20, batch_bytes_max: 128 << 10, ..Geometry::new(LogId(0)) }
}

fn perform(disk: &mut BTreeMap<u32, Vec<u8>>, op: DiskOp) -> DiskDone {
    match op {
        DiskOp::Create { op, segment, bytes, header, .. } => {
            let mut file = vec![0; bytes as usize];
            file[..header.len()].copy_from_slice(header.as_bytes());
            disk.insert(segment, file);
            DiskDone { op, result: Ok(0), pages: Some(header) }
        }
        DiskOp::Write { op, segment, offset, pages, .. } => {
            let file = disk.get_mut(&segment).expect("created");
            file[offset as usize..][..pages.len()].copy_from_slice(pages.as_bytes());
            DiskDone { op, result: Ok(pages.len() as u32), pages: Some(pages) }
        }
        DiskOp::Read { op, segment, offset, mut pages, .. } => {
            let length = pages.len();
            pages.as_bytes_mut().copy_from_slice(&disk[&segment][offset as usize..][..length]);
            DiskDone { op, result: Ok(length as u32), pages: Some(pages) }
        }
        DiskOp::Sync { op, .. } => DiskDone { op, result: Ok(0), pages: None },
    }
}

/// A good ticket: role as on the wire, `number` tells people apart.
fn ticket(role: u8, number: u32) -> String {
    let name = ["visitor", "agent", "gateway"][usize::from(role) - 1];
    let claims = Claims {
        iss: ISSUER.into(),
        site: "demo".into(),
        sid: 1,
        role: name.into(),
        sub: format!("{name}-{number}"),
        aid: if role == 2 { 6 + number } else { 0 },
        iat: WALL_S,
        exp: WALL_S + 36_000,
    };
    issue(KEY, &claims).expect("a good key")
}

fn hello(role: u8, device: u64, ticket: &str) -> ClientMessage<'_> {
    let role = [Role::Visitor, Role::Agent, Role::Gateway][usize::from(role) - 1];
    ClientMessage::Hello { version_min: 1, version_max: 1, role, device, ticket, cursors: &[] }
}

/// Everything that was sent is a whole answer in its transport's form.
fn well_formed(transport: Transport, heard: &[u8]) {
    let mut rest = heard;
    if transport.listener() == ListenerKind::WEBSOCKET {
        let answers = [Subprotocol::Binary, Subprotocol::Json]
            .map(|subprotocol| ws::client::response(heard, NONCE, subprotocol));
        let Some(end) = answers.into_iter().find_map(|answer| answer.ok().flatten()) else {
            // Refused, for a nonce of its own, or nothing was asked.
            assert!(heard.is_empty() || heard.starts_with(b"HTTP/1.1 "));
            return;
        };
        rest = &heard[end..];
        let mut decoder = Decoder::client(u32::MAX);
        let mut bytes = rest.to_vec();
        let fed = decoder.feed(&mut bytes, |event| {
            match event {
                ws::Event::Binary(frames) => whole_frames(frames),
                ws::Event::Text(text) => {
                    let document = json::Document::parse(text).expect("JSON");
                    json::server(&document).expect("a message");
                }
                _ => {}
            }
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!(fed, Ok(rest.len()));
        assert!(decoder.is_between_messages(), "half a message was sent");
        return;
    }
    whole_frames(rest);
}

fn whole_frames(bytes: &[u8]) {
    for frame in frame::frames(bytes, 1 << 20) {
        let frame = frame.expect("whole frames");
        ServerMessage::decode(frame.header.kind, frame.body).expect("a message");
    }
}
