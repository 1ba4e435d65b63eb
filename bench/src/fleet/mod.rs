//! The fleet: every visitor and agent, their connections, and the ledger they write.
//!
//! Order of a turn: wait for sockets (or until the next intended start), read and take frames, apply what they
//! mean to the ledger, send again what was refused and is due, flush what was written. Ownership: the fleet owns
//! clients, links and ledger; one thread, no locks. Member `0..visitors` is the visitor of the conversation with
//! the same index; agents follow.

mod apply;
mod phases;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use ringdesk_protocol::Role;

use crate::client::{Client, Event};
use crate::ledger::{Conversation, Entry, Faults, Seen, Side, check_view, missing};
use crate::net::{Link, Poll, Ready, Transport};
use crate::report::Latency;

/// Longest sleep of a turn: heartbeats and retries are looked after at least this often.
const TURN_NS_MAX: u64 = 50_000_000;
/// How long people may take to connect and be assigned.
pub const SETUP_NS_MAX: u64 = 120_000_000_000;

/// Which transport the visitors use; agents always use binary TCP unless all is WebSocket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum TransportMix {
    /// Binary TCP for all.
    Binary,
    /// WebSocket for all.
    Websocket,
    /// Every other member on each.
    Mixed,
}

impl TransportMix {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Websocket => "websocket",
            Self::Mixed => "mixed",
        }
    }

    fn of(self, member: usize) -> Transport {
        match self {
            Self::Binary => Transport::Binary,
            Self::Websocket => Transport::WebSocket,
            Self::Mixed if member.is_multiple_of(2) => Transport::Binary,
            Self::Mixed => Transport::WebSocket,
        }
    }
}

/// What a fleet is made of.
pub struct Crew {
    /// Where binary TCP listens.
    pub binary: SocketAddr,
    /// Where WebSocket listens.
    pub websocket: SocketAddr,
    /// Who uses which.
    pub mix: TransportMix,
    /// Bytes of a message body.
    pub body_bytes: usize,
    /// One per visitor.
    pub visitor_tickets: Vec<String>,
    /// One per agent.
    pub agent_tickets: Vec<String>,
    /// Conversations an agent takes at once.
    pub capacity: u16,
    /// First device id; must differ between fleets on one data folder.
    pub device_base: u64,
}

struct Member {
    client: Client,
    link: Option<Link>,
    transport: Transport,
    side: Side,
    heartbeat_ns: u64,
    written_ns: u64,
    /// Frames wait in the link for the flush of this turn.
    dirty: bool,
}

/// Latencies of messages whose intended start lies in a window.
pub struct Meter {
    /// The window, nanoseconds of the fleet's clock.
    pub window: Range<u64>,
    /// Until the ACK.
    pub ack: Latency,
    /// Until the DELIVER.
    pub deliver: Latency,
    /// ACKs that arrived within the window.
    pub acks: u64,
}

impl Meter {
    /// An empty meter over `window`.
    pub fn new(window: Range<u64>) -> Self {
        Self { window, ack: Latency::new(), deliver: Latency::new(), acks: 0 }
    }
}

/// All members and the ledger.
pub struct Fleet {
    poll: Poll,
    epoch: Instant,
    crew: Crew,
    members: Vec<Member>,
    /// One record per visitor.
    pub ledger: Vec<Conversation>,
    /// The agent member that owns each conversation.
    owner: Vec<Option<usize>>,
    index: HashMap<u64, usize>,
    /// Messages waiting for their ACK.
    pub pending_acks: u64,
    /// DELIVERs that listeners, authors included, are waiting for.
    pub pending_items: u64,
    present: usize,
    resolved: usize,
    /// Where latencies go.
    pub meter: Meter,
    /// Everything that should not have happened, with its number.
    pub faults: BTreeMap<String, u64>,
    /// Refusals for now (BUSY), each followed by another attempt.
    pub busy: u64,
    /// The server was killed on purpose: broken connections are no fault.
    pub outage: bool,
    /// Connections were resumed: repeats of known items are legitimate.
    resumed: bool,
    held: BTreeSet<usize>,
    dirty: Vec<usize>,
    pages: Vec<(usize, Side, Vec<Seen>, bool)>,
    page_retries: Vec<(usize, Side, u64)>,
    housekept_ns: u64,
    ready: Vec<Ready>,
    events: Vec<Event>,
    out: Vec<u8>,
}

impl Fleet {
    /// Makes the members; nobody connects yet.
    ///
    /// # Errors
    /// A sentence when the process has no descriptor left.
    pub fn new(crew: Crew) -> Result<Self, String> {
        let visitors = crew.visitor_tickets.len();
        let agents = crew.agent_tickets.len();
        assert!(visitors > 0 && agents > 0, "a chat needs two sides");
        let mut members = Vec::with_capacity(visitors + agents);
        let tickets = crew.visitor_tickets.iter().chain(&crew.agent_tickets);
        for (number, ticket) in tickets.enumerate() {
            let (role, side) = match number < visitors {
                true => (Role::Visitor, Side::Visitor),
                false => (Role::Agent, Side::Agent),
            };
            let device = crew.device_base + number as u64;
            members.push(Member {
                client: Client::new(role, device, ticket.clone(), crew.body_bytes),
                link: None,
                transport: crew.mix.of(number),
                side,
                heartbeat_ns: u64::MAX,
                written_ns: 0,
                dirty: false,
            });
        }
        let ledger = (0..visitors).map(|v| Conversation::new(crew.device_base + v as u64, 0)).collect();
        Ok(Self {
            poll: Poll::new()?,
            epoch: Instant::now(),
            crew,
            members,
            ledger,
            owner: vec![None; visitors],
            index: HashMap::new(),
            pending_acks: 0,
            pending_items: 0,
            present: 0,
            resolved: 0,
            meter: Meter::new(0..0),
            faults: BTreeMap::new(),
            busy: 0,
            outage: false,
            resumed: false,
            held: BTreeSet::new(),
            dirty: Vec::new(),
            pages: Vec::new(),
            page_retries: Vec::new(),
            housekept_ns: 0,
            ready: Vec::new(),
            events: Vec::new(),
            out: Vec::new(),
        })
    }

    /// Nanoseconds since the fleet was made: the run's clock.
    pub fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Starts a new measurement over `window` (nanoseconds of the run's clock) and returns the one before.
    pub fn measure(&mut self, window: Range<u64>) -> Meter {
        std::mem::replace(&mut self.meter, Meter::new(window))
    }

    /// Number of conversations.
    pub fn conversations(&self) -> usize {
        self.ledger.len()
    }

    /// Counts something that should not have happened.
    pub fn fault(&mut self, what: &str) {
        match self.faults.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.faults.insert(what.to_owned(), 1)),
        }
    }

    /// Sends the next message of one side, meant to start at `intended_ns`. A conversation without an owner has no
    /// agent to write: that is a fault.
    pub fn say(&mut self, conversation: usize, side: Side, intended_ns: u64) {
        let author = match side {
            Side::Visitor => conversation,
            Side::Agent => match self.owner[conversation] {
                Some(agent) => agent,
                None => return self.fault("a conversation has no agent"),
            },
        };
        let id = self.ledger[conversation].id;
        let mut said = (0, 0);
        self.write(author, |client, out| said = client.send(id, out));
        let (n, hash) = said;
        let entries = &mut self.ledger[conversation].sent[side as usize];
        // An agent who comes later begins to listen where its ASSIGNED says.
        let owed = [true, self.owner[conversation].is_some()];
        entries.push(Entry { hash, acked: 0, intended_ns, owed });
        assert_eq!(entries.len() as u64, n, "client and ledger count the same messages");
        self.pending_acks += 1;
        self.pending_items += owed.into_iter().map(u64::from).sum::<u64>();
    }

    /// Turns until `done` or for `wait_ns`; returns whether it was done.
    pub fn run_until(&mut self, wait_ns: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now_ns() + wait_ns;
        loop {
            if done(self) {
                return true;
            }
            if self.now_ns() >= end {
                return false;
            }
            self.turn(end);
        }
    }

    /// Whether every message is acknowledged and was shown to everybody who listens.
    pub fn quiet(&self) -> bool {
        self.pending_acks == 0 && self.pending_items == 0
    }

    /// Whether no connection is left.
    pub fn all_gone(&self) -> bool {
        self.members.iter().all(|member| member.link.is_none())
    }

    /// Closes whatever is open, and from now on takes repeats of known items for the resume they are.
    pub fn drop_links(&mut self) {
        for member in &mut self.members {
            member.link = None;
            member.client.disconnected();
        }
        self.resumed = true;
    }

    /// Checks every view (see [`check_view`]); messages still without an ACK are counted too.
    pub fn check(&self) -> Faults {
        let mut faults = Faults::default();
        for conversation in &self.ledger {
            for side in Side::BOTH {
                faults.add(check_view(conversation, side));
            }
            faults.unacked += conversation.unacked();
        }
        faults
    }

    /// The first few items that somebody should have been shown and was not, in words.
    pub fn missing_list(&self) -> String {
        const MOST: usize = 3;
        let sides = self.ledger.iter().flat_map(|c| Side::BOTH.map(|side| (c, side)));
        let lacking =
            sides.map(|(c, side)| (c, side, missing(c, side, MOST))).filter(|(.., m)| !m.is_empty());
        let words = lacking.map(|(c, side, seqs)| {
            let (top, base) = (c.top(), c.views[side as usize].base);
            format!("{side:?} of {:016x} lacks {seqs:?} (base {base}, top {top})", c.id)
        });
        words.take(MOST).collect::<Vec<_>>().join(", ")
    }

    /// Faults so far in one line, for error messages.
    pub fn fault_list(&self) -> String {
        let mut list: Vec<_> = self.faults.iter().map(|(what, count)| format!("{count} x {what}")).collect();
        if self.busy > 0 {
            list.push(format!("{} x BUSY", self.busy));
        }
        if list.is_empty() { "no refusals were seen".into() } else { list.join(", ") }
    }

    /// One turn; sleeps until a socket is ready, but not beyond `until_ns`.
    pub fn turn(&mut self, until_ns: u64) {
        self.flush();
        let now = self.now_ns();
        let mut ready = std::mem::take(&mut self.ready);
        let wait = until_ns.saturating_sub(now).min(TURN_NS_MAX);
        let wait = if self.held.is_empty() { wait } else { wait.min(1_000_000) };
        self.poll.wait(wait, &mut ready);
        for event in ready.drain(..) {
            if event.writable {
                self.touch(event.token);
            }
            if event.readable {
                self.receive(event.token);
            }
        }
        self.ready = ready;
        self.send_again();
        self.housekeep();
        self.flush();
    }

    fn receive(&mut self, number: usize) {
        let now = self.now_ns();
        let member = &mut self.members[number];
        let Some(link) = &mut member.link else { return };
        let (client, events, out) = (&mut member.client, &mut self.events, &mut self.out);
        let received =
            link.receive(&mut self.poll, |header, body| client.take(now, header, body, events, out));
        link.frames.append(&mut self.out);
        // Also when nothing was written: a WebSocket may just have been upgraded, or owes a pong.
        self.touch(number);
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.apply(number, now, event);
        }
        self.events = events;
        match received {
            Ok(true) => {}
            Ok(false) => self.lost(number, "the server closed a connection"),
            Err(what) => self.lost(number, &what),
        }
    }

    fn lost(&mut self, number: usize, what: &str) {
        self.members[number].link = None;
        self.members[number].client.disconnected();
        if !self.outage {
            self.fault(what);
        }
    }

    /// Lets a client write frames; they leave with the next flush.
    fn write(&mut self, number: usize, act: impl FnOnce(&mut Client, &mut Vec<u8>)) {
        let member = &mut self.members[number];
        match &mut member.link {
            Some(link) => act(&mut member.client, &mut link.frames),
            // Nothing is written while not connected; the client keeps what it must send.
            None => act(&mut member.client, &mut self.out),
        }
        self.out.clear();
        self.touch(number);
    }

    fn touch(&mut self, number: usize) {
        let member = &mut self.members[number];
        if !member.dirty {
            member.dirty = true;
            self.dirty.push(number);
        }
    }

    fn flush(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let now = self.now_ns();
        let mut dirty = std::mem::take(&mut self.dirty);
        for number in dirty.drain(..) {
            let member = &mut self.members[number];
            member.dirty = false;
            let Some(link) = &mut member.link else { continue };
            if !link.frames.is_empty() {
                member.written_ns = now;
            }
            if let Err(what) = link.flush(&self.poll) {
                self.lost(number, &what);
            }
        }
        self.dirty = dirty;
    }

    fn send_again(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let now = self.now_ns();
        for number in std::mem::take(&mut self.held) {
            let Some(at) = self.members[number].client.resend_at_ns() else { continue };
            if at <= now {
                self.write(number, |client, out| client.tick(now, out));
            }
            if self.members[number].client.resend_at_ns().is_some() {
                self.held.insert(number);
            }
        }
    }

    /// Signs of life for connections that have been silent for half a heartbeat.
    fn housekeep(&mut self) {
        let now = self.now_ns();
        if now - self.housekept_ns < 500_000_000 {
            return;
        }
        self.housekept_ns = now;
        for number in 0..self.members.len() {
            let member = &self.members[number];
            if member.client.ready() && now - member.written_ns > member.heartbeat_ns / 2 {
                self.write(number, |client, out| client.ping(now, out));
            }
        }
    }
}
