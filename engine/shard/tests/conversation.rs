//! Whole conversations through one and through several shards, over an in-memory disk that completes at once or
//! when told. The driver here does what the reactor does, without a kernel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ringdesk_desk::Limits;
use ringdesk_persist::{DiskDone, DiskOp, Geometry, LogId, Pages, ScanPlan, Tail, scan_log};
use ringdesk_protocol::{Availability, ClientMessage, Code, Content, Cursor, Role, ServerMessage, Status};
use ringdesk_shard::io::{ConnId, Input, Inputs, ListenerKind, Now, Output, Outputs};
use ringdesk_shard::message::ShardMessage;
use ringdesk_shard::router::Router;
use ringdesk_shard::settings::Settings;
use ringdesk_shard::ticket::{Claims, ISSUER, issue};
use ringdesk_shard::{OwnerConfig, Replay, Shard};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const WALL_S: u64 = 1_700_000_000;

type Files = BTreeMap<(u16, u32), Vec<u8>>;

struct World {
    shards: Vec<Shard>,
    files: Files,
    disk: Vec<VecDeque<DiskOp>>,
    lanes: VecDeque<(u16, u16, ShardMessage)>,
    inputs: Vec<Inputs>,
    received: BTreeMap<(u16, u32), Vec<u8>>,
    moved: BTreeMap<(u16, u32), (u16, u32)>,
    closed: Vec<(u16, u32)>,
    now: Now,
    hold_disk: bool,
    hold_reads: bool,
    held_reads: Vec<(u16, DiskOp)>,
    next_index: u32,
    handed_over: usize,
}

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        ticket_key: KEY.to_vec(),
        site_keys: Default::default(),
        heartbeat_s: 30,
        outbox_bytes_max: 64 << 10,
        origins: Vec::new(),
        agent_names: BTreeMap::from([((1, 7), "Ana".into())]),
        connections_max: 1000,
    })
}

fn boot(files: &Files, shards: u16, epoch: u32, now: Now) -> Vec<Shard> {
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
                let report = scan_log(
                    ScanPlan { log: LogId(log), segment_bytes: 64 << 20, first_segment: 0 },
                    segments,
                    &mut |record| {
                        replay.record(&record).expect("a good record");
                    },
                )
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
    fn new(shards: u16) -> Self {
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
            next_index: 0,
            handed_over: 0,
        }
    }

    fn reboot(&mut self, shards: u16, epoch: u32) {
        self.shards = boot(&self.files, shards, epoch, self.now);
        self.disk = (0..shards).map(|_| VecDeque::new()).collect();
        self.inputs = (0..shards).map(|_| Inputs::default()).collect();
        self.lanes.clear();
        self.hold_disk = false;
    }

    fn advance_ms(&mut self, ms: u64) {
        self.now.mono_ns += ms * 1_000_000;
        self.now.wall_ms += ms;
        self.settle();
    }

    /// Lets the reads go on that were held back.
    fn release_reads(&mut self) {
        self.hold_reads = false;
        for (shard, op) in std::mem::take(&mut self.held_reads) {
            self.disk[usize::from(shard)].push_back(op);
        }
        self.settle();
    }

    fn disk_work(&mut self, shard: usize) -> bool {
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
    fn settle(&mut self) {
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

    fn turn(&mut self, shard: usize) {
        let mut outputs = Outputs::default();
        self.inputs[shard].lane_room = vec![4096; self.shards.len()];
        self.shards[shard].step(self.now, &mut self.inputs[shard], &mut outputs);
        self.inputs[shard].bytes.clear();
        for output in outputs.events {
            self.output(shard as u16, output);
        }
    }

    fn output(&mut self, shard: u16, output: Output) {
        match output {
            Output::Receive { .. } | Output::Pause { .. } | Output::Report(_) | Output::Drained => {}
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
struct Client {
    shard: u16,
    index: u32,
}

impl World {
    fn connect(&mut self, shard: u16) -> Client {
        self.next_index += 1;
        let conn = ConnId { index: self.next_index, generation: 1 };
        let input = Input::Accepted { conn, listener: ListenerKind::Binary, peer: None };
        self.inputs[usize::from(shard)].events.push(input);
        self.settle();
        Client { shard, index: conn.index }
    }

    fn place(&self, client: Client) -> (u16, u32) {
        let at = (client.shard, client.index);
        self.moved.get(&at).copied().unwrap_or(at)
    }

    fn say(&mut self, client: Client, message: &ClientMessage<'_>, tag: u32) {
        self.post(client, message, tag);
        self.settle();
    }

    fn post(&mut self, client: Client, message: &ClientMessage<'_>, tag: u32) {
        let (shard, index) = self.place(client);
        let mut bytes = Vec::new();
        message.encode(0, tag, &mut bytes);
        let inputs = &mut self.inputs[usize::from(shard)];
        let start = inputs.bytes.len() as u32;
        inputs.bytes.extend_from_slice(&bytes);
        let conn = ConnId { index, generation: 1 };
        inputs.events.push(Input::Received { conn, start, len: bytes.len() as u32 });
    }

    /// Frames that came since the last call, as (tag, kind, text form).
    fn heard(&mut self, client: Client) -> Vec<String> {
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

fn describe(tag: u32, message: &ServerMessage<'_>) -> String {
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

fn ticket(role: &str, sub: &str, aid: u32) -> String {
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
    fn visitor(&mut self, shard: u16, name: &str, device: u64, cursors: &[Cursor]) -> Client {
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

    fn agent(&mut self, shard: u16, n: u64) -> Client {
        let client = self.agent_at(shard, n, &[]);
        let online = ClientMessage::Presence { n, availability: Availability::Online, capacity: 5 };
        self.say(client, &online, 2);
        client
    }

    fn agent_at(&mut self, shard: u16, n: u64, cursors: &[Cursor]) -> Client {
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

    fn open(&mut self, client: Client, n: u64) -> u64 {
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

fn send(conversation: u64, n: u64, owner_epoch: u32, body: &str) -> ClientMessage<'_> {
    ClientMessage::Send { conversation, n, owner_epoch, content: Content::Text, body: body.as_bytes() }
}

fn whole_conversation(shards: u16) {
    let mut world = World::new(shards);
    let agent = world.agent(0, 1);
    assert_eq!(world.heard(agent), ["welcome Ana@demo", "ack#2 seq=0 n=1"]);
    let visitor = world.visitor(shards - 1, "v-1", 11, &[]);
    assert_eq!(world.heard(visitor), ["welcome v-1@demo"]);
    let conversation = world.open(visitor, 1);
    world.say(visitor, &send(conversation, 1, 0, "hello"), 4);
    let seen = world.heard(visitor);
    assert_eq!(
        seen,
        ["deliver 1 visitor: hello", "state 2 queued", "ack#4 seq=1 n=1", "state 3 assigned Ana"]
    );
    let seen = world.heard(agent);
    assert_eq!(
        seen,
        ["assigned after=0 epoch=1", "deliver 1 visitor: hello", "state 2 queued", "state 3 assigned Ana"]
    );
    world.say(agent, &send(conversation, 1, 1, "good morning"), 5);
    assert_eq!(world.heard(agent), ["deliver 4 agent: good morning", "ack#5 seq=4 n=1"]);
    assert_eq!(world.heard(visitor), ["deliver 4 agent: good morning"]);
    // The same key again: the same seq, nothing delivered.
    world.say(agent, &send(conversation, 1, 1, "good morning"), 6);
    assert_eq!(world.heard(agent), ["ack#6 seq=4 n=1 dup"]);
    world.say(agent, &send(conversation, 1, 1, "another"), 7);
    assert_eq!(world.heard(agent), ["reject#7 ID_REUSED 0"]);
    assert!(world.heard(visitor).is_empty());
    world.say(agent, &ClientMessage::Resolve { conversation, n: 2, owner_epoch: 1 }, 8);
    assert_eq!(world.heard(agent), ["state 5 resolved", "ack#8 seq=5 n=2"]);
    // After a crash and with another number of shards everything is still there, and the visitor resumes.
    world.reboot(3, 2);
    let cursor = [Cursor::new(conversation, 1, 3)];
    let visitor = world.visitor(0, "v-1", 12, &cursor);
    assert_eq!(
        world.heard(visitor),
        ["welcome v-1@demo", "deliver 4 agent: good morning", "state 5 resolved"]
    );
    world.say(visitor, &send(conversation, 1, 0, "one more thing"), 9);
    let seen = world.heard(visitor);
    assert_eq!(seen, ["deliver 6 visitor: one more thing", "state 7 queued", "ack#9 seq=6 n=1"]);
    world.reboot(1, 3);
    let agent = world.agent(0, 2);
    let seen = world.heard(agent);
    assert!(seen.contains(&"assigned after=0 epoch=2".to_owned()), "{seen:?}");
    assert!(seen.contains(&"deliver 6 visitor: one more thing".to_owned()), "{seen:?}");
    let history = ClientMessage::History { conversation, before: 4, after: 0, limit: 2 };
    world.say(agent, &history, 10);
    assert_eq!(world.heard(agent), ["page#10 2..3 count=2 more=true"]);
}

#[test]
fn a_conversation_on_one_shard() {
    whole_conversation(1);
}

#[test]
fn a_conversation_across_two_shards() {
    whole_conversation(2);
}

#[test]
fn connections_move_to_the_owner_of_their_identity() {
    let mut world = World::new(2);
    for n in 0..8 {
        let name = format!("v-{n}");
        let client = world.visitor(0, &name, 1, &[]);
        assert_eq!(world.heard(client), [format!("welcome {name}@demo")]);
    }
    assert!(world.handed_over > 0 && world.handed_over < 8, "{} of 8 moved", world.handed_over);
}

#[test]
fn nothing_leaves_before_the_disk_is_done() {
    let mut world = World::new(1);
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(visitor, 1);
    world.advance_ms(50);
    world.heard(visitor);
    world.hold_disk = true;
    world.say(visitor, &send(conversation, 1, 0, "hello"), 4);
    world.say(visitor, &send(conversation, 1, 0, "hello"), 5);
    assert!(world.heard(visitor).is_empty(), "an answer left before its record was durable");
    world.hold_disk = false;
    world.settle();
    let seen = world.heard(visitor);
    assert!(seen.contains(&"ack#4 seq=1 n=1".to_owned()), "{seen:?}");
    assert!(seen.contains(&"ack#5 seq=1 n=1 dup".to_owned()), "{seen:?}");
}

#[test]
fn foreign_and_unknown_conversations_answer_the_same() {
    let mut world = World::new(1);
    let one = world.visitor(0, "v-1", 11, &[]);
    let two = world.visitor(0, "v-2", 12, &[]);
    let foreign = world.open(one, 1);
    world.heard(two);
    for (tag, conversation) in [(4, foreign), (5, foreign + 1), (6, u64::MAX)] {
        world.say(two, &send(conversation, 1, 0, "let me in"), tag);
        assert_eq!(world.heard(two), [format!("reject#{tag} NOT_FOUND 0")]);
        world.say(two, &ClientMessage::History { conversation, before: 0, after: 0, limit: 10 }, tag);
        assert_eq!(world.heard(two), [format!("reject#{tag} NOT_FOUND 0")]);
    }
}

#[test]
fn a_bad_start_gets_its_code() {
    let mut world = World::new(1);
    let stranger = world.connect(0);
    world.say(stranger, &ClientMessage::Ping { nonce: 1 }, 1);
    assert_eq!(world.heard(stranger), ["goodbye HELLO_EXPECTED"]);
    let client = world.connect(0);
    let ticket = ticket("visitor", "v-1", 0);
    let mut hello = ClientMessage::Hello {
        version_min: 9,
        version_max: 9,
        role: Role::Visitor,
        device: 1,
        ticket: &ticket,
        cursors: &[],
    };
    world.say(client, &hello, 1);
    assert_eq!(world.heard(client), [format!("goodbye {}", Code::BadVersion.name())]);
    let client = world.connect(0);
    if let ClientMessage::Hello { version_min, role, .. } = &mut hello {
        (*version_min, *role) = (1, Role::Agent);
    }
    world.say(client, &hello, 1);
    assert_eq!(world.heard(client), [format!("goodbye {}", Code::TicketInvalid.name())]);
    assert_eq!(world.closed.len(), 3);
}

#[test]
fn an_agent_that_stays_away_gives_back_and_the_next_one_owns() {
    let mut world = World::new(2);
    let agent = world.agent(0, 1);
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(visitor, 1);
    world.say(visitor, &send(conversation, 1, 0, "hello"), 4);
    world.heard(visitor);
    let (shard, index) = world.place(agent);
    let conn = ConnId { index, generation: 1 };
    world.inputs[usize::from(shard)].events.push(Input::Hangup { conn });
    world.settle();
    world.advance_ms(29_000);
    assert!(world.heard(visitor).is_empty());
    world.advance_ms(2_000);
    assert_eq!(world.heard(visitor), [format!("state 4 {}", Status::Queued.name())]);
    let agent = world.agent(1, 2);
    let seen = world.heard(agent);
    assert!(seen.contains(&"assigned after=0 epoch=2".to_owned()), "{seen:?}");
}

#[test]
fn a_slow_client_is_served_from_the_log_and_misses_nothing() {
    let mut world = World::new(1);
    let agent = world.agent(0, 1);
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(visitor, 1);
    world.say(visitor, &send(conversation, 1, 0, "hello"), 4);
    world.heard(agent);
    // Each message is larger than the outbox cap, so nearly every push finds the agent slow.
    let body = "x".repeat(40_000);
    for n in 2..40 {
        world.post(visitor, &send(conversation, n, 0, &body), 100 + n as u32);
    }
    world.settle();
    world.advance_ms(5_000);
    let seqs: Vec<u64> = world
        .heard(agent)
        .iter()
        .filter_map(|text| text.strip_prefix("deliver "))
        .map(|text| text.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(seqs, (4..42).collect::<Vec<u64>>());
}

/// Found by the simulator: the session listened to nothing yet when the assignment was released, and nobody asked
/// again whether it owns the conversation.
#[test]
fn an_agent_assigned_while_it_catches_up_is_told() {
    let mut world = World::new(1);
    let agent = world.agent(0, 1);
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(visitor, 1);
    world.say(visitor, &send(conversation, 1, 0, "hello"), 4);
    let offline = ClientMessage::Presence { n: 2, availability: Availability::Offline, capacity: 5 };
    world.say(agent, &offline, 5);
    world.hold_reads = true;
    let second = world.agent_at(0, 2, &[Cursor::new(conversation, 1, 3)]);
    let online = ClientMessage::Presence { n: 1, availability: Availability::Online, capacity: 5 };
    world.say(second, &online, 6);
    assert_eq!(world.held_reads.len(), 1, "the session is still catching up");
    world.release_reads();
    let seen = world.heard(second);
    assert!(seen.contains(&"state 5 assigned Ana".to_owned()), "{seen:?}");
    assert!(seen.contains(&"assigned after=5 epoch=2".to_owned()), "{seen:?}");
}

/// Found by the simulator: receipts that moved while a session caught up were pushed to the others only.
#[test]
fn a_session_that_goes_live_knows_the_receipts() {
    let mut world = World::new(1);
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(visitor, 1);
    world.say(visitor, &send(conversation, 1, 0, "hello"), 4);
    world.hold_reads = true;
    let second = world.visitor(0, "v-1", 12, &[Cursor::new(conversation, 1, 0)]);
    world.say(visitor, &ClientMessage::Receipt { conversation, delivered: 2, read: 1 }, 5);
    assert_eq!(world.heard(second), ["welcome v-1@demo"]);
    world.release_reads();
    let seen = world.heard(second);
    assert_eq!(seen, ["deliver 1 visitor: hello", "state 2 queued", "receipt"]);
}

#[test]
fn every_open_is_answered_the_same_after_a_crash_too() {
    let mut world = World::new(2);
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let mut opened = Vec::new();
    for n in 1..=20 {
        opened.push(world.open(visitor, n));
        world.say(
            visitor,
            &ClientMessage::Resolve { conversation: opened[n as usize - 1], n: 1, owner_epoch: 0 },
            4,
        );
    }
    assert!(opened.is_sorted_by(|one, next| one < next), "{opened:?}");
    world.reboot(1, 2);
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let again: Vec<u64> = (1..=20).map(|n| world.open(visitor, n)).collect();
    assert_eq!(again, opened);
    let stranger = world.visitor(0, "v-1", 12, &[]);
    world.say(stranger, &ClientMessage::Open { n: 2, topic: "" }, 5);
    assert_eq!(world.heard(stranger), ["welcome v-1@demo", "reject#5 OUT_OF_ORDER 1"]);
}
