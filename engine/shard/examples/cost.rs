//! What one message costs a shard, without sockets, disk or kernel: a gateway sends for many visitors, and everything
//! that leaves is thrown away.
//!
//! `cargo run --release -p ringdesk-shard --example cost -- VISITORS ROUNDS` prints messages per second;
//! `valgrind --tool=callgrind` over the same command counts instructions, which other load on the machine does not
//! change. Each round every visitor sends one message of 200 bytes; a turn takes `BURST` of them; the disk completes
//! at the end of each turn.

use std::sync::Arc;
use std::time::Instant;

use ringdesk_desk::Limits;
use ringdesk_persist::{DiskDone, DiskOp, Geometry, LogId, Tail};
use ringdesk_protocol::frame::frames;
use ringdesk_protocol::{ClientMessage, Content, Role, ServerMessage};
use ringdesk_shard::io::{ConnId, Input, Inputs, ListenerKind, Now, Output, Outputs};
use ringdesk_shard::router::Router;
use ringdesk_shard::settings::Settings;
use ringdesk_shard::ticket::{Claims, ISSUER, issue};
use ringdesk_shard::{OwnerConfig, Replay, Shard};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const WALL_S: u64 = 1_700_000_000;
const BURST: usize = 256;
const CONN: ConnId = ConnId { index: 0, generation: 1 };

struct Bench {
    shard: Shard,
    inputs: Inputs,
    outputs: Outputs,
    now: Now,
    heard: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let now = Now { mono_ns: 1_000_000_000, wall_ms: WALL_S * 1000 };
        let config = OwnerConfig {
            shard: 0,
            router: Router::even(1),
            slot_epoch: 1,
            limits: Limits::default(),
            geometry: Geometry::new(LogId(0)),
        };
        let settings = Arc::new(Settings {
            ticket_key: KEY.to_vec(),
            site_keys: Default::default(),
            heartbeat_s: 30,
            outbox_bytes_max: 64 << 20,
            origins: Vec::new(),
            websocket_deflate: false,
            agent_names: Default::default(),
            connections_max: 1000,
            address_connections_max: 0,
            tls: None,
        });
        let tail = Tail::fresh(LogId(0));
        let shard = Shard::boot(0, Replay::new(config), settings, tail, 1, now).expect("boots");
        let inputs = Inputs { lane_room: vec![0], ..Inputs::default() };
        Self { shard, inputs, outputs: Outputs::default(), now, heard: Vec::new() }
    }

    /// Turns until nothing is due; the disk answers at once.
    fn settle(&mut self) {
        loop {
            self.now.mono_ns += 1_000;
            self.shard.step(self.now, &mut self.inputs, &mut self.outputs);
            self.inputs.bytes.clear();
            for output in self.outputs.events.drain(..) {
                match output {
                    Output::Send { conn, buffer } => {
                        self.heard.extend_from_slice(&buffer);
                        self.inputs.events.push(Input::Sent { conn, buffer });
                    }
                    Output::Disk(op) => self.inputs.events.push(Input::Disk(done(op))),
                    Output::Receive { .. } => {}
                    other => panic!("unexpected: {other:?}"),
                }
            }
            let due = self.shard.next_deadline_ns().is_some_and(|at| at <= self.now.mono_ns);
            if self.inputs.events.is_empty() && !due {
                return;
            }
        }
    }

    fn say(&mut self, channel: u32, message: &ClientMessage<'_>) {
        message.encode(channel, 7, &mut self.inputs.bytes);
    }

    fn deliver(&mut self) {
        let len = self.inputs.bytes.len() as u32;
        self.inputs.events.push(Input::Received { conn: CONN, start: 0, len });
        self.settle();
    }
}

fn done(op: DiskOp) -> DiskDone {
    match op {
        DiskOp::Create { op, header, .. } => DiskDone { op, result: Ok(0), pages: Some(header) },
        DiskOp::Write { op, pages, .. } => {
            DiskDone { op, result: Ok(pages.len() as u32), pages: Some(pages) }
        }
        DiskOp::Sync { op, .. } => DiskDone { op, result: Ok(0), pages: None },
        DiskOp::Read { .. } => panic!("nobody reads"),
    }
}

fn ticket() -> String {
    let claims = Claims {
        iss: ISSUER.into(),
        site: "shop".into(),
        sid: 1,
        role: "gateway".into(),
        sub: "line".into(),
        aid: 0,
        iat: WALL_S,
        exp: WALL_S + 1000,
    };
    issue(KEY, &claims).expect("a usable key")
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let (visitors, rounds) = (numbers.next().unwrap_or(10_000), numbers.next().unwrap_or(20));
    let mut bench = Bench::new();
    bench.inputs.events.push(Input::Accepted { conn: CONN, listener: ListenerKind::BINARY, peer: None });
    bench.settle();
    let ticket = ticket();
    let hello = ClientMessage::Hello {
        version_min: 1,
        version_max: 1,
        role: Role::Gateway,
        device: 1,
        ticket: &ticket,
        cursors: &[],
    };
    bench.say(0, &hello);
    bench.deliver();
    let mut conversations = Vec::new();
    for channel in 1..=visitors as u32 {
        let name = format!("visitor-{channel}");
        bench.say(0, &ClientMessage::Bind { channel, visitor: &name, device: 1, cursors: &[] });
        bench.say(channel, &ClientMessage::Open { n: 1, topic: "" });
        bench.deliver();
        for found in frames(&bench.heard, 1 << 20) {
            let found = found.expect("a frame");
            if let Ok(ServerMessage::Ack { conversation, .. }) =
                ServerMessage::decode(found.header.kind, found.body)
            {
                conversations.push(conversation);
            }
        }
        bench.heard.clear();
    }
    assert_eq!(conversations.len(), visitors as usize, "every visitor has a conversation");

    let body = [b'x'; 200];
    let began = Instant::now();
    let mut acked = 0;
    for round in 1..=rounds {
        for (first, burst) in (0u32..).step_by(BURST).zip(conversations.chunks(BURST)) {
            for (channel, conversation) in (first + 1..).zip(burst) {
                let send = ClientMessage::Send {
                    conversation: *conversation,
                    n: round + 1,
                    owner_epoch: 0,
                    content: Content::Text,
                    body: &body,
                };
                bench.say(channel, &send);
            }
            bench.deliver();
            acked += burst.len();
            bench.heard.clear();
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{acked} messages in {seconds:.3} s: {:.0} per second", acked as f64 / seconds);
}
