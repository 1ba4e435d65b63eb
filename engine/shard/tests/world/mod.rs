//! Shards without a kernel: clients, lanes and an in-memory disk that completes at once or when told. What drives them
//! here does what the reactor does.
#![allow(dead_code)] // Each test file uses a part of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ringdesk_desk::Limits;
use ringdesk_persist::{DiskDone, DiskOp, Geometry, LogId, Pages, ScanPlan, Tail, scan_log};
use ringdesk_protocol::{Availability, ClientMessage, Content, Cursor, Role, ServerMessage};
use ringdesk_shard::io::{
    ConnId, Control, Input, Inputs, ListenerKind, Now, Output, Outputs, StoodConnections,
};
use ringdesk_shard::message::ShardMessage;
use ringdesk_shard::report::ShardReport;
use ringdesk_shard::router::Router;
use ringdesk_shard::settings::Settings;
use ringdesk_shard::ticket::{Claims, ISSUER, issue};
use ringdesk_shard::{OwnerConfig, Replay, Shard};

pub const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
pub const WALL_S: u64 = 1_700_000_000;

pub type Files = BTreeMap<(u16, u32), Vec<u8>>;

pub struct World {
    pub shards: Vec<Shard>,
    pub files: Files,
    pub disk: Vec<VecDeque<DiskOp>>,
    pub lanes: VecDeque<(u16, u16, ShardMessage)>,
    pub inputs: Vec<Inputs>,
    pub received: BTreeMap<(u16, u32), Vec<u8>>,
    pub moved: BTreeMap<(u16, u32), (u16, u32)>,
    pub closed: Vec<(u16, u32)>,
    pub now: Now,
    pub hold_disk: bool,
    pub hold_reads: bool,
    pub held_reads: Vec<(u16, DiskOp)>,
    pub hold_sends: bool,
    pub held_sends: Vec<(u16, ConnId, Vec<u8>)>,
    pub lane_room: u32,
    pub reported: ShardReport,
    /// Connections that are not read.
    pub paused: Vec<(u16, u32)>,
    pub next_index: u32,
    pub handed_over: usize,
    /// What shards wrote down.
    pub stood: Vec<(u16, StoodConnections)>,
}

pub fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        ticket_key: KEY.to_vec(),
        site_keys: Default::default(),
        heartbeat_s: 30,
        outbox_bytes_max: 64 << 10,
        origins: Vec::new(),
        websocket_deflate: false,
        agent_names: BTreeMap::from([((1, 7), "Ana".into())]),
        connections_max: 1000,
        address_connections_max: 0,
        tls: None,
    })
}

pub fn boot(files: &Files, shards: u16, epoch: u32, now: Now) -> Vec<Shard> {
    (0..shards)
        .map(|shard| {
            let config = OwnerConfig {
                shard,
                router: Router::even(shards),
                slot_epoch: epoch,
                limits: Limits::default(),
                geometry: Geometry::new(LogId(shard)),
            };
            let mut replay = Replay::new(config);
            let logs: Vec<u16> = {
                let mut logs: Vec<u16> = files.keys().map(|(log, _)| *log).collect();
                logs.dedup();
                logs.retain(|log| *log != shard);
                logs.push(shard);
                logs
            };
            let mut tail = Tail::fresh(LogId(shard));
            for log in logs {
                let segments = files
                    .range((log, 0)..=(log, u32::MAX))
                    .map(|((_, segment), bytes)| (*segment, Ok(bytes.as_slice())));
                let report = scan_log(ScanPlan::new(LogId(log), 64 << 20, None), segments, &mut |record| {
                    replay.record(&record).expect("a good record");
                })
                .expect("a good log");
                assert!(report.damage.is_empty(), "{:?}", report.damage);
                replay.generations(&report.tail.generations);
                if log == shard {
                    tail = report.tail;
                }
            }
            Shard::boot(shard, replay, settings(), tail, 1, now).expect("boots")
        })
        .collect()
}

impl World {
    pub fn new(shards: u16) -> Self {
        let now = Now { mono_ns: 1_000_000_000, wall_ms: WALL_S * 1000 };
        Self {
            shards: boot(&Files::new(), shards, 1, now),
            files: Files::new(),
            disk: (0..shards).map(|_| VecDeque::new()).collect(),
            lanes: VecDeque::new(),
            inputs: (0..shards).map(|_| Inputs::default()).collect(),
            received: BTreeMap::new(),
            moved: BTreeMap::new(),
            closed: Vec::new(),
            now,
            hold_disk: false,
            hold_reads: false,
            held_reads: Vec::new(),
            hold_sends: false,
            held_sends: Vec::new(),
            lane_room: 4096,
            reported: ShardReport::default(),
            paused: Vec::new(),
            next_index: 0,
            handed_over: 0,
            stood: Vec::new(),
        }
    }

    pub fn reboot(&mut self, shards: u16, epoch: u32) {
        self.shards = boot(&self.files, shards, epoch, self.now);
        self.disk = (0..shards).map(|_| VecDeque::new()).collect();
        self.inputs = (0..shards).map(|_| Inputs::default()).collect();
        self.lanes.clear();
        self.hold_disk = false;
    }

    pub fn advance_ms(&mut self, ms: u64) {
        self.now.mono_ns += ms * 1_000_000;
        self.now.wall_ms += ms;
        self.settle();
    }

    /// Lets the reads go on that were held back.
    pub fn release_reads(&mut self) {
        self.hold_reads = false;
        for (shard, op) in std::mem::take(&mut self.held_reads) {
            self.disk[usize::from(shard)].push_back(op);
        }
        self.settle();
    }

    /// Lets the sends go on that were held back.
    pub fn release_sends(&mut self) {
        self.hold_sends = false;
        for (shard, conn, buffer) in std::mem::take(&mut self.held_sends) {
            self.output(shard, Output::Send { conn, buffer });
        }
        self.settle();
    }

    pub fn backlog(&mut self, shard: u16) -> u64 {
        self.inputs[usize::from(shard)].events.push(Input::Control(Control::Report));
        self.turn(usize::from(shard));
        self.reported.outbox_bytes
    }

    pub fn disk_work(&mut self, shard: usize) -> bool {
        let Some(op) = self.disk[shard].pop_front() else { return false };
        let done = match op {
            DiskOp::Create { op, log, segment, bytes, header } => {
                let mut file = vec![0; bytes as usize];
                file[..header.len()].copy_from_slice(header.as_bytes());
                self.files.insert((log.0, segment), file);
                DiskDone { op, result: Ok(0), pages: Some(header) }
            }
            DiskOp::Write { op, log, segment, offset, pages, .. } => {
                let file = self.files.get_mut(&(log.0, segment)).expect("created");
                file[offset as usize..offset as usize + pages.len()].copy_from_slice(pages.as_bytes());
                DiskDone { op, result: Ok(pages.len() as u32), pages: Some(pages) }
            }
            DiskOp::Read { op, log, segment, offset, mut pages } => {
                let file = &self.files[&(log.0, segment)];
                let len = pages.len();
                pages.as_bytes_mut().copy_from_slice(&file[offset as usize..offset as usize + len]);
                DiskDone { op, result: Ok(len as u32), pages: Some(pages) }
            }
            DiskOp::Sync { op, .. } => DiskDone { op, result: Ok(0), pages: None::<Pages> },
        };
        self.inputs[shard].events.push(Input::Disk(done));
        true
    }

    /// Runs everything until nothing is left to do at this moment.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for shard in 0..self.shards.len() {
                if !self.hold_disk {
                    busy |= self.disk_work(shard);
                }
                busy |= !self.inputs[shard].events.is_empty();
                busy |= self.shards[shard].next_deadline_ns().is_some_and(|at| at <= self.now.mono_ns);
                self.turn(shard);
            }
            while let Some((from, to, message)) = self.lanes.pop_front() {
                busy = true;
                self.inputs[usize::from(to)].events.push(Input::FromShard { from, message });
            }
            if !busy {
                return;
            }
        }
        panic!("the world does not settle");
    }

    pub fn turn(&mut self, shard: usize) {
        let mut outputs = Outputs::default();
        self.inputs[shard].lane_room = vec![self.lane_room; self.shards.len()];
        self.shards[shard].step(self.now, &mut self.inputs[shard], &mut outputs);
        self.inputs[shard].bytes.clear();
        for output in outputs.events {
            self.output(shard as u16, output);
        }
    }

    pub fn output(&mut self, shard: u16, output: Output) {
        match output {
            Output::Receive { conn, .. } => self.paused.retain(|at| *at != (shard, conn.index)),
            Output::Pause { conn } => self.paused.push((shard, conn.index)),
            Output::Send { conn, buffer } if self.hold_sends => self.held_sends.push((shard, conn, buffer)),
            Output::Report(report) => self.reported = *report,
            Output::Drained | Output::Space(_) => {}
            Output::Stood(stood) => self.stood.push((shard, *stood)),
            Output::Send { conn, buffer } => {
                self.received.entry((shard, conn.index)).or_default().extend_from_slice(&buffer);
                self.inputs[usize::from(shard)].events.push(Input::Sent { conn, buffer });
            }
            Output::Close { conn } => self.closed.push((shard, conn.index)),
            Output::HandOver { conn, to, state } => {
                self.handed_over += 1;
                self.next_index += 1;
                let there = ConnId { index: self.next_index, generation: 1 };
                self.moved.insert((shard, conn.index), (to, there.index));
                self.inputs[usize::from(to)].events.push(Input::HandedOver { conn: there, state });
            }
            Output::Disk(op @ DiskOp::Read { .. }) if self.hold_reads => self.held_reads.push((shard, op)),
            Output::Disk(op) => self.disk[usize::from(shard)].push_back(op),
            Output::ToShard { to, message } => self.lanes.push_back((shard, to, message)),
            Output::Fatal(sentence) => panic!("shard {shard} stopped: {sentence}"),
        }
    }
}

/// A client by the entry it was accepted at; follows hand-overs.
#[derive(Clone, Copy)]
pub struct Client {
    pub shard: u16,
    pub index: u32,
}

impl World {
    pub fn connect(&mut self, shard: u16) -> Client {
        self.next_index += 1;
        let conn = ConnId { index: self.next_index, generation: 1 };
        let input = Input::Accepted { conn, listener: ListenerKind::BINARY, peer: None };
        self.inputs[usize::from(shard)].events.push(input);
        self.settle();
        Client { shard, index: conn.index }
    }

    pub fn place(&self, client: Client) -> (u16, u32) {
        let at = (client.shard, client.index);
        self.moved.get(&at).copied().unwrap_or(at)
    }

    pub fn say(&mut self, client: Client, message: &ClientMessage<'_>, tag: u32) {
        self.post(client, message, tag);
        self.settle();
    }

    pub fn post(&mut self, client: Client, message: &ClientMessage<'_>, tag: u32) {
        self.post_on(client, 0, message, tag);
    }

    pub fn say_on(&mut self, client: Client, channel: u32, message: &ClientMessage<'_>, tag: u32) {
        self.post_on(client, channel, message, tag);
        self.settle();
    }

    pub fn post_on(&mut self, client: Client, channel: u32, message: &ClientMessage<'_>, tag: u32) {
        let mut bytes = Vec::new();
        message.encode(channel, tag, &mut bytes);
        self.drip(client, &bytes);
    }

    /// The acknowledged tags and conversations since the last call.
    pub fn acked(&mut self, client: Client) -> Vec<(u32, u64)> {
        let (shard, index) = self.place(client);
        let bytes = self.received.remove(&(shard, index)).unwrap_or_default();
        let frames = ringdesk_protocol::frame::frames(&bytes, 1 << 20).map(|frame| frame.expect("whole"));
        frames
            .filter_map(|frame| match ServerMessage::decode(frame.header.kind, frame.body) {
                Ok(ServerMessage::Ack { conversation, .. }) => Some((frame.header.tag, conversation)),
                _ => None,
            })
            .collect()
    }

    /// Bytes arrive at a client's connection.
    pub fn drip(&mut self, client: Client, bytes: &[u8]) {
        let (shard, index) = self.place(client);
        let inputs = &mut self.inputs[usize::from(shard)];
        let start = inputs.bytes.len() as u32;
        inputs.bytes.extend_from_slice(bytes);
        let conn = ConnId { index, generation: 1 };
        inputs.events.push(Input::Received { conn, start, len: bytes.len() as u32 });
    }

    /// Frames that came since the last call, as (tag, kind, text form).
    pub fn heard(&mut self, client: Client) -> Vec<String> {
        let (shard, index) = self.place(client);
        let bytes = self.received.remove(&(shard, index)).unwrap_or_default();
        ringdesk_protocol::frame::frames(&bytes, 1 << 20)
            .map(|frame| {
                let frame = frame.expect("whole frames");
                let message = ServerMessage::decode(frame.header.kind, frame.body).expect("decodes");
                describe(frame.header.tag, &message)
            })
            .filter(|text| !text.starts_with("queue"))
            .collect()
    }
}

pub fn describe(tag: u32, message: &ServerMessage<'_>) -> String {
    match message {
        ServerMessage::Welcome { identity, site, .. } => format!("welcome {identity}@{site}"),
        ServerMessage::Ack { seq, n, duplicate, .. } => {
            format!("ack#{tag} seq={seq} n={n}{}", if *duplicate { " dup" } else { "" })
        }
        ServerMessage::Deliver { seq, author, body, .. } => {
            format!("deliver {seq} {}: {}", author.name(), String::from_utf8_lossy(body))
        }
        ServerMessage::State { seq, status, agent_name, .. } => {
            format!("state {seq} {} {agent_name}", status.name()).trim_end().to_owned()
        }
        ServerMessage::Assigned { seq, owner_epoch, .. } => {
            format!("assigned after={seq} epoch={owner_epoch}")
        }
        ServerMessage::Reject { code, detail, .. } => format!("reject#{tag} {} {detail}", code.name()),
        ServerMessage::Goodbye { code, .. } => format!("goodbye {}", code.name()),
        ServerMessage::Page { first, last, more, count, .. } => {
            format!("page#{tag} {first}..{last} count={count} more={more}")
        }
        other => other.name().to_owned(),
    }
}

pub fn ticket(role: &str, sub: &str, aid: u32) -> String {
    let claims = Claims {
        iss: ISSUER.into(),
        site: "demo".into(),
        sid: 1,
        role: role.into(),
        sub: sub.into(),
        aid,
        iat: WALL_S,
        exp: WALL_S + 3600,
    };
    issue(KEY, &claims).unwrap()
}

impl World {
    pub fn visitor(&mut self, shard: u16, name: &str, device: u64, cursors: &[Cursor]) -> Client {
        let client = self.connect(shard);
        let ticket = ticket("visitor", name, 0);
        let hello = ClientMessage::Hello {
            version_min: 1,
            version_max: 1,
            role: Role::Visitor,
            device,
            ticket: &ticket,
            cursors,
        };
        self.say(client, &hello, 1);
        client
    }

    pub fn agent(&mut self, shard: u16, n: u64) -> Client {
        let client = self.agent_at(shard, n, &[]);
        let online = ClientMessage::Presence { n, availability: Availability::Online, capacity: 5 };
        self.say(client, &online, 2);
        client
    }

    pub fn agent_at(&mut self, shard: u16, n: u64, cursors: &[Cursor]) -> Client {
        let client = self.connect(shard);
        let ticket = ticket("agent", "ana", 7);
        let hello = ClientMessage::Hello {
            version_min: 1,
            version_max: 1,
            role: Role::Agent,
            device: 900 + n,
            ticket: &ticket,
            cursors,
        };
        self.say(client, &hello, 1);
        client
    }

    pub fn open(&mut self, client: Client, n: u64) -> u64 {
        let (shard, index) = self.place(client);
        self.received.remove(&(shard, index));
        self.say(client, &ClientMessage::Open { n, topic: "" }, 3);
        let bytes = self.received.remove(&(shard, index)).expect("an answer");
        let frame = ringdesk_protocol::frame::frames(&bytes, 1 << 20).next().unwrap().unwrap();
        match ServerMessage::decode(frame.header.kind, frame.body).unwrap() {
            ServerMessage::Ack { conversation, .. } => conversation,
            other => panic!("{other:?}"),
        }
    }
}

pub fn send(conversation: u64, n: u64, owner_epoch: u32, body: &str) -> ClientMessage<'_> {
    ClientMessage::Send { conversation, n, owner_epoch, content: Content::Text, body: body.as_bytes() }
}
