//! What an idle visitor costs in user memory: its connection and session, its conversation with one device, one message.
//! The shipped shard without sockets and disk, and an allocator that counts what is in use, each block rounded up to
//! the size class in which mimalloc, the server's allocator, would keep it. It stands here because an allocator is
//! unsafe code.
//!
//! A larger figure than the bounds below is a decision, not an accident: there are a hundred thousand visitors.

#![allow(unsafe_code, reason = "an allocator implements an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ringdesk_desk::Limits;
use ringdesk_persist::{DiskDone, DiskOp, Geometry, LogId, Tail};
use ringdesk_protocol::{ClientMessage, Content, Role, ServerMessage};
use ringdesk_shard::io::{ConnId, Input, Inputs, ListenerKind, Now, Output, Outputs};
use ringdesk_shard::router::Router;
use ringdesk_shard::settings::Settings;
use ringdesk_shard::ticket::{Claims, ISSUER, issue};
use ringdesk_shard::{OwnerConfig, Replay, Shard};

/// Bytes in use, in mimalloc's size classes.
static IN_USE: AtomicI64 = AtomicI64::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// mimalloc's size classes (its `_mi_bin`): multiples of 16 up to 64 bytes, then four classes to each doubling, then
/// whole pages.
fn class(bytes: usize) -> i64 {
    let words = bytes.div_ceil(8).max(1);
    let rounded = match words {
        1 => 1,
        2..=8 => words.next_multiple_of(2),
        9..=16_384 => words.next_multiple_of(1 << ((words - 1).ilog2() - 2)),
        _ => words.next_multiple_of(512),
    };
    (rounded * 8) as i64
}

// SAFETY: every call goes unchanged to the system's allocator, which keeps the trait's promises; the counter is no part
// of them.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(class(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(class(layout.size()), Ordering::Relaxed);
        // SAFETY: the place came from `alloc` above, hence from `System`, with this layout.
        unsafe { System.dealloc(place, layout) }
    }
}

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const WALL_S: u64 = 1_700_000_000;

/// Visitors measured, and those before them that fill pools and queues which do not grow with visitors.
const VISITORS: u32 = 20_000;
const WARM_UP: u32 = 2_000;

/// Visitors that act in one turn.
const BATCH: u32 = 200;

struct Bench {
    shard: Shard,
    inputs: Inputs,
    outputs: Outputs,
    now: Now,
    /// Conversation of the visitor at each index.
    conversations: Vec<u64>,
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
            websocket_deflate: false,
            ticket_key: KEY.to_vec(),
            site_keys: Default::default(),
            heartbeat_s: 30,
            outbox_bytes_max: 64 << 10,
            origins: Vec::new(),
            agent_names: BTreeMap::new(),
            connections_max: 1_000_000,
            address_connections_max: 0,
            tls: None,
        });
        let shard = Shard::boot(0, Replay::new(config), settings, Tail::fresh(LogId(0)), 1, now);
        let inputs = Inputs { lane_room: vec![4096], ..Inputs::default() };
        let conversations = vec![0; (VISITORS + WARM_UP) as usize];
        Self { shard: shard.expect("boots"), inputs, outputs: Outputs::default(), now, conversations }
    }

    fn bytes(&mut self, visitor: u32, message: &ClientMessage<'_>) {
        let start = self.inputs.bytes.len();
        message.encode(0, 1, &mut self.inputs.bytes);
        let len = (self.inputs.bytes.len() - start) as u32;
        self.inputs.events.push(Input::Received { conn: conn(visitor), start: start as u32, len });
    }

    fn hello(&mut self, visitor: u32) {
        let accepted = Input::Accepted { conn: conn(visitor), listener: ListenerKind::BINARY, peer: None };
        self.inputs.events.push(accepted);
        let claims = Claims {
            iss: ISSUER.into(),
            site: "demo".into(),
            sid: 1,
            role: "visitor".into(),
            // As long as the id that the server gives an anonymous visitor. A site's own ids cost what they are longer.
            sub: format!("v-{visitor:014}"),
            aid: 0,
            iat: WALL_S,
            exp: WALL_S + 3600,
        };
        let ticket = issue(KEY, &claims).expect("a usable key");
        let (role, device) = (Role::Visitor, u64::from(visitor) + 1);
        let hello = ClientMessage::Hello {
            version_min: 1,
            version_max: 1,
            role,
            device,
            ticket: &ticket,
            cursors: &[],
        };
        self.bytes(visitor, &hello);
    }

    fn open(&mut self, visitor: u32) {
        self.bytes(visitor, &ClientMessage::Open { n: 1, topic: "" });
    }

    fn send(&mut self, visitor: u32) {
        let conversation = self.conversations[visitor as usize];
        assert_ne!(conversation, 0, "visitor {visitor} got no conversation");
        let (content, body) = (Content::Text, b"hello".as_slice());
        self.bytes(visitor, &ClientMessage::Send { conversation, n: 1, owner_epoch: 0, content, body });
    }

    fn hangup(&mut self, visitor: u32) {
        self.inputs.events.push(Input::Hangup { conn: conn(visitor) });
    }

    /// Lets `visitors` act in batches; gives the bytes in use that this added for each.
    fn each(&mut self, visitors: std::ops::Range<u32>, act: impl Fn(&mut Self, u32)) -> f64 {
        let before = IN_USE.load(Ordering::Relaxed);
        let count = f64::from(visitors.end - visitors.start);
        for first in visitors.clone().step_by(BATCH as usize) {
            (first..(first + BATCH).min(visitors.end)).for_each(|visitor| act(self, visitor));
            self.settle();
        }
        (IN_USE.load(Ordering::Relaxed) - before) as f64 / count
    }

    /// Turns until nothing is left to do and the log has nothing to write.
    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 3 {
            self.now.mono_ns += 1_000_000;
            self.now.wall_ms += 1;
            self.shard.step(self.now, &mut self.inputs, &mut self.outputs);
            self.inputs.bytes.clear();
            let outputs = std::mem::take(&mut self.outputs.events);
            idle = if outputs.is_empty() { idle + 1 } else { 0 };
            for output in outputs {
                self.output(output);
            }
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send { conn, buffer } => {
                for frame in ringdesk_protocol::frame::frames(&buffer, 1 << 20) {
                    let frame = frame.expect("whole frames");
                    let message = ServerMessage::decode(frame.header.kind, frame.body).expect("decodes");
                    match message {
                        ServerMessage::Ack { conversation, .. } => {
                            self.conversations[conn.index as usize] = conversation;
                        }
                        ServerMessage::Goodbye { .. } | ServerMessage::Reject { .. } => panic!("{message:?}"),
                        _ => {}
                    }
                }
                self.inputs.events.push(Input::Sent { conn, buffer });
            }
            Output::Disk(op) => self.inputs.events.push(Input::Disk(done(op))),
            Output::Receive { .. } | Output::Close { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn conn(visitor: u32) -> ConnId {
    ConnId { index: visitor, generation: 1 }
}

/// A disk that takes everything and keeps nothing.
fn done(op: DiskOp) -> DiskDone {
    match op {
        DiskOp::Create { op, header, .. } => DiskDone { op, result: Ok(0), pages: Some(header) },
        DiskOp::Write { op, pages, .. } => {
            DiskDone { op, result: Ok(pages.len() as u32), pages: Some(pages) }
        }
        DiskOp::Sync { op, .. } => DiskDone { op, result: Ok(0), pages: None },
        DiskOp::Read { .. } => panic!("nobody has anything to catch up with"),
    }
}

/// Bounds, bytes per visitor: connection and session; conversation with one device, with its share of its slot; a first
/// message, which also takes a place in the queue and two notes between slots.
const CONNECTION_MAX: f64 = 135.0;
const CONVERSATION_MAX: f64 = 152.0;
const WAITING_MAX: f64 = 63.0;

#[test]
fn an_idle_visitor_is_small() {
    assert_eq!([1, 9, 17, 64, 65, 81, 129, 161].map(class), [8, 16, 32, 64, 80, 96, 160, 192]);
    let mut bench = Bench::new();
    let (warm, measured) = (0..WARM_UP, WARM_UP..WARM_UP + VISITORS);
    bench.each(warm.clone(), Bench::hello);
    bench.each(warm.clone(), Bench::open);
    bench.each(warm, Bench::send);
    let hello = bench.each(measured.clone(), Bench::hello);
    let open = bench.each(measured.clone(), Bench::open);
    let send = bench.each(measured.clone(), Bench::send);
    bench.each(measured, Bench::hangup);
    println!("bytes per visitor, {VISITORS} of them in one shard");
    println!(
        "  connection and session {hello:.0}, conversation {open:.0}, a message and a place in the queue {send:.0}"
    );
    println!("  together {:.0}", hello + open + send);
    assert!(hello <= CONNECTION_MAX, "a connection with its session takes {hello:.0} bytes");
    assert!(open <= CONVERSATION_MAX, "a conversation takes {open:.0} bytes");
    assert!(send <= WAITING_MAX, "a message and a place in the queue take {send:.0} bytes");
}
