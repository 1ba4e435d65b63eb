//! Random histories: whatever clients, sessions, crashes and late or repeated notes do, the desk keeps its
//! promises. `RINGDESK_DESK_CASES` sets the number of histories (default 150).

mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ringdesk_desk::Limits;
use ringdesk_desk::command::{Answer, Availability, Caller, Command, Refusal};
use ringdesk_desk::event::{Event, Note, Status};
use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, Hlc, Party, SiteId, Slot};
use world::{World, tiny};

/// Site 1 has a slot of its own; site 2 shares its slot with the visitors 0 and 2 of both sites.
const SITES: [(SiteId, Slot); 2] = [(SiteId(1), Slot(7)), (SiteId(2), Slot(100))];
const NAMES: [&str; 4] = ["ann", "bob", "cyd", "dan"];

fn slot_of(visitor: usize) -> Slot {
    Slot(100 + (visitor % 2) as u16)
}

#[derive(Clone, Debug)]
enum Step {
    Open { site: usize, visitor: usize, device: u64 },
    VisitorSends { site: usize, visitor: usize, device: u64 },
    AgentSends { pick: usize, agent: u32, device: u64, right_epoch: bool },
    Resolve { pick: usize, agent: Option<u32> },
    Receipt { pick: usize, delivered: u64, read: u64 },
    Retry { pick: usize, changed: bool },
    Declare { site: usize, agent: u32, availability: usize, capacity: u16 },
    Link { site: usize, agent: u32, up: bool },
    Deliver { pick: usize, twice: bool },
    Tick,
    Pass { millis: u64 },
    Drain,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let (site, visitor, device, pick) = (0..2usize, 0..4usize, 1..6u64, any::<prop::sample::Index>());
    let pick = pick.prop_map(|index| index.index(1 << 20));
    let agent = 1..5u32;
    prop_oneof![
        3 => (site.clone(), visitor.clone(), device.clone())
            .prop_map(|(site, visitor, device)| Step::Open { site, visitor, device }),
        8 => (site.clone(), visitor, device.clone())
            .prop_map(|(site, visitor, device)| Step::VisitorSends { site, visitor, device }),
        5 => (pick.clone(), agent.clone(), 1..3u64, prop::bool::weighted(0.9))
            .prop_map(|(pick, agent, device, right_epoch)| Step::AgentSends { pick, agent, device, right_epoch }),
        4 => (pick.clone(), prop::option::of(agent.clone()))
            .prop_map(|(pick, agent)| Step::Resolve { pick, agent }),
        2 => (pick.clone(), 0..12u64, 0..12u64)
            .prop_map(|(pick, delivered, read)| Step::Receipt { pick, delivered, read }),
        4 => (pick.clone(), any::<bool>()).prop_map(|(pick, changed)| Step::Retry { pick, changed }),
        5 => (site.clone(), agent.clone(), 0..3usize, 0..4u16).prop_map(|(site, agent, availability, capacity)| {
            Step::Declare { site, agent, availability, capacity }
        }),
        5 => (site, agent, prop::bool::weighted(0.6)).prop_map(|(site, agent, up)| Step::Link { site, agent, up }),
        10 => (pick, any::<bool>()).prop_map(|(pick, twice)| Step::Deliver { pick, twice }),
        2 => Just(Step::Tick),
        2 => (1..40_000u64).prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::Drain),
        1 => Just(Step::Crash),
    ]
}

/// A key that was acked.
#[derive(Clone, Debug)]
struct Acked {
    conversation: ConversationId,
    party: Party,
    device: DeviceId,
    n: u64,
    seq: u64,
    body: Vec<u8>,
}

type Stream = (ConversationId, Party, DeviceId);

/// What an observer of the events alone knows.
struct Observer {
    world: World,
    acked: Vec<Acked>,
    last_n: BTreeMap<Stream, u64>,
    retired: BTreeSet<Stream>,
    seq: BTreeMap<ConversationId, u64>,
    owners: BTreeMap<(ConversationId, u32), AgentId>,
    last_epoch: BTreeMap<ConversationId, u32>,
    conversations: Vec<(ConversationId, usize, usize)>,
    /// What each OPEN key of (site, visitor, device) was answered with, from n 1.
    opens: BTreeMap<(usize, usize, u64), Vec<ConversationId>>,
    presence_n: u64,
    capacity_max: u32,
}

impl Observer {
    fn new(limits: Limits) -> Self {
        Self {
            world: World::new(limits),
            acked: Vec::new(),
            last_n: BTreeMap::new(),
            retired: BTreeSet::new(),
            seq: BTreeMap::new(),
            owners: BTreeMap::new(),
            last_epoch: BTreeMap::new(),
            conversations: Vec::new(),
            opens: BTreeMap::new(),
            presence_n: 0,
            capacity_max: 0,
        }
    }

    fn run(&mut self, command: &Command<'_>) -> Result<Answer, Refusal> {
        let answer = self.world.run(command);
        self.observe();
        answer
    }

    /// Reads the events of the last decision.
    fn observe(&mut self) {
        let events = std::mem::take(&mut self.world.last);
        for event in &events {
            match event {
                Event::Sent { conversation, seq, .. } => self.next_seq(*conversation, *seq),
                Event::Changed { conversation, seq, status, agent, epoch, .. } => {
                    self.next_seq(*conversation, *seq);
                    let last = self.last_epoch.insert(*conversation, *epoch).unwrap_or(0);
                    assert!(*epoch >= last);
                    if *status == Status::Assigned {
                        assert!(*epoch > last, "each assignment has an epoch of its own");
                        let agent = agent.expect("an assignment names its agent");
                        assert_eq!(self.owners.insert((*conversation, *epoch), agent), None);
                    }
                }
                Event::DeviceRetired { conversation, party, device } => {
                    self.retired.insert((*conversation, *party, *device));
                }
                _ => {}
            }
        }
        self.world.last = events;
    }

    fn next_seq(&mut self, conversation: ConversationId, seq: u64) {
        let last = self.seq.entry(conversation).or_insert(0);
        assert_eq!(seq, *last + 1, "seq is dense");
        *last = seq;
    }

    fn pick(&self, pick: usize) -> Option<(ConversationId, usize, usize)> {
        (!self.conversations.is_empty()).then(|| self.conversations[pick % self.conversations.len()])
    }

    fn keyed(
        &mut self,
        id: ConversationId,
        caller: Caller<'_>,
        device: u64,
        epoch: u32,
        body: Option<&[u8]>,
    ) {
        let (device, party) = (DeviceId(device), party(&caller));
        let stream = (id, party, device);
        let n = self.last_n.get(&stream).copied().unwrap_or(0) + 1;
        let answer = self.run(&keyed_command(id, caller, device, n, epoch, body));
        match answer {
            Ok(Answer::Accepted { seq }) => {
                assert!(!self.retired.contains(&stream));
                self.last_n.insert(stream, n);
                let body = body.unwrap_or(b"").to_vec();
                self.acked.push(Acked { conversation: id, party, device, n, seq, body });
            }
            Err(Refusal::DeviceExpired) => assert!(self.retired.contains(&stream)),
            Err(Refusal::DeviceLimit | Refusal::Busy) => {}
            Err(Refusal::Resolved) => assert_eq!(self.world.view(id).status, Status::Resolved),
            Err(Refusal::StaleOwner { epoch: current }) => {
                let view = self.world.view(id);
                assert_eq!(current, view.epoch);
                let owns = party == Party::Agent(view.agent.unwrap_or(AgentId(0))) && epoch == view.epoch;
                assert!(!owns, "the owner at its epoch is never stale");
            }
            other => panic!("{stream:?} n {n}: {other:?}"),
        }
    }

    fn retry(&mut self, pick: usize, changed: bool) {
        let Some(acked) = self.acked.get(pick % self.acked.len().max(1)).cloned() else { return };
        let Some(&(_, site, visitor)) = self.conversations.iter().find(|(id, ..)| *id == acked.conversation)
        else {
            return;
        };
        let caller = match acked.party {
            Party::Agent(agent) => Caller::Agent { site: SITES[site].0, agent },
            _ => Caller::Visitor { site: SITES[site].0, visitor: NAMES[visitor] },
        };
        let mut body = acked.body.clone();
        let resolves = body.is_empty();
        if changed {
            body.push(b'!');
        }
        let body = (!resolves || changed).then_some(&body[..]);
        let answer = self.run(&keyed_command(acked.conversation, caller, acked.device, acked.n, 0, body));
        let stream = (acked.conversation, acked.party, acked.device);
        if self.retired.contains(&stream) {
            return assert_eq!(answer, Err(Refusal::DeviceExpired));
        }
        let kept = acked.n + u64::from(self.world.desk.limits().window) > self.last_n[&stream];
        match (kept, changed) {
            (true, false) => assert_eq!(answer, Ok(Answer::Duplicate { seq: acked.seq })),
            (true, true) => assert_eq!(answer, Err(Refusal::IdReused)),
            (false, _) => assert!(matches!(answer, Ok(Answer::OldDuplicate { .. })), "{answer:?}"),
        }
        assert!(self.world.last.is_empty(), "a retry writes nothing");
    }

    fn open(&mut self, site: usize, visitor: usize, device: u64) {
        let (site_id, site_slot) = SITES[site];
        let slot = slot_of(visitor);
        let n = self.opens.get(&(site, visitor, device)).map_or(0, Vec::len) as u64 + 1;
        let (name, device_id) = (NAMES[visitor], DeviceId(device));
        let open = Command::Open { slot, site_slot, site: site_id, visitor: name, device: device_id, n };
        match self.run(&open) {
            Ok(Answer::Opened { conversation, duplicate: false, .. }) => {
                self.opens.entry((site, visitor, device)).or_default().push(conversation);
                if !self.conversations.iter().any(|(id, ..)| *id == conversation) {
                    self.conversations.push((conversation, site, visitor));
                }
                let again = self.run(&open);
                assert!(
                    matches!(again, Ok(Answer::Opened { conversation: same, duplicate: true, .. }) if same == conversation)
                );
                assert_eq!(self.world.desk.visitor_conversation(slot, site_id, name), Some(conversation));
                self.open_again((site, visitor, device));
            }
            Err(Refusal::DeviceExpired | Refusal::DeviceLimit | Refusal::Busy) => {}
            other => panic!("open: {other:?}"),
        }
    }

    /// Every OPEN key of a live device is answered with its conversation, however old.
    fn open_again(&mut self, (site, visitor, device): (usize, usize, u64)) {
        let (site_id, site_slot) = SITES[site];
        let (slot, visitor_name, device_id) = (slot_of(visitor), NAMES[visitor], DeviceId(device));
        let known = self.opens[&(site, visitor, device)].clone();
        for (n, conversation) in (1..).zip(known) {
            let open =
                Command::Open { slot, site_slot, site: site_id, visitor: visitor_name, device: device_id, n };
            let answer = self.run(&open);
            assert!(
                matches!(answer, Ok(Answer::Opened { conversation: same, duplicate: true, .. }) if same == conversation),
                "OPEN {n} of {device_id:?} was {conversation:?}: {answer:?}"
            );
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Open { site, visitor, device } => self.open(site, visitor, device),
            Step::VisitorSends { site, visitor, device } => {
                let latest =
                    self.world.desk.visitor_conversation(slot_of(visitor), SITES[site].0, NAMES[visitor]);
                if let Some(id) = latest {
                    let caller = Caller::Visitor { site: SITES[site].0, visitor: NAMES[visitor] };
                    let body = format!("v{}", self.acked.len());
                    self.keyed(id, caller, device, 0, Some(body.as_bytes()));
                }
            }
            Step::AgentSends { pick, agent, device, right_epoch } => {
                let Some((id, site, _)) = self.pick(pick) else { return };
                let view = self.world.view(id);
                let (agent, epoch) = match view.agent {
                    Some(owner) if right_epoch => (owner, view.epoch),
                    _ => (AgentId(agent), view.epoch.wrapping_sub(1)),
                };
                let body = format!("a{}", self.acked.len());
                let caller = Caller::Agent { site: SITES[site].0, agent };
                self.keyed(id, caller, device, epoch, Some(body.as_bytes()));
            }
            Step::Resolve { pick, agent } => {
                let Some((id, site, visitor)) = self.pick(pick) else { return };
                let (site, epoch) = (SITES[site].0, self.world.view(id).epoch);
                let caller = match (agent, self.world.view(id).agent) {
                    (None, _) => Caller::Visitor { site, visitor: NAMES[visitor] },
                    (Some(_), Some(owner)) => Caller::Agent { site, agent: owner },
                    (Some(agent), None) => Caller::Agent { site, agent: AgentId(agent) },
                };
                self.keyed(id, caller, 1, epoch, None);
            }
            Step::Receipt { pick, delivered, read } => self.receipt(pick, delivered, read),
            Step::Retry { pick, changed } => self.retry(pick, changed),
            Step::Declare { site, agent, availability, capacity } => {
                let (site, slot) = SITES[site];
                let availability =
                    [Availability::Offline, Availability::Online, Availability::Away][availability];
                let (agent, device) = (AgentId(agent), DeviceId(u64::from(agent)));
                self.presence_n += 1;
                self.capacity_max = self.capacity_max.max(u32::from(capacity));
                let n = self.presence_n;
                let presence = Command::Presence { slot, site, agent, device, n, availability, capacity };
                assert_eq!(self.run(&presence), Ok(Answer::Done));
            }
            Step::Link { site, agent, up } => {
                let ((site, slot), agent) = (SITES[site], AgentId(agent));
                let command = if up {
                    Command::AgentLinked { slot, site, agent }
                } else {
                    Command::AgentUnlinked { slot, site, agent }
                };
                assert_eq!(self.run(&command), Ok(Answer::Done));
            }
            Step::Deliver { pick, twice } => {
                let pairs: Vec<_> = self.world.mail.iter().filter(|(_, notes)| !notes.is_empty()).collect();
                if let Some(pair) = pairs.get(pick % pairs.len().max(1)).map(|(pair, _)| **pair) {
                    self.deliver(pair, twice);
                }
            }
            Step::Tick => {
                for slot in [7, 100, 101, 5].map(Slot) {
                    assert_eq!(self.run(&Command::Tick { slot }), Ok(Answer::Done));
                }
            }
            Step::Pass { millis } => self.world.pass_ms(millis),
            Step::Drain => self.drain(),
            Step::Crash => self.world.crash(),
        }
    }

    fn receipt(&mut self, pick: usize, delivered: u64, read: u64) {
        let Some((id, site, visitor)) = self.pick(pick) else { return };
        let caller = Caller::Visitor { site: SITES[site].0, visitor: NAMES[visitor] };
        let (before, seq) = (self.world.view(id).visitor_receipts, self.world.view(id).seq);
        let answer = self.run(&Command::Receipt { conversation: id, caller, delivered, read });
        let after = self.world.view(id).visitor_receipts;
        if delivered.max(read) > seq {
            assert_eq!((answer, after), (Err(Refusal::BeyondEnd { seq }), before));
        } else {
            assert_eq!(answer, Ok(Answer::Done));
            assert_eq!(after.read, before.read.max(read));
            assert_eq!(after.delivered, before.delivered.max(delivered).max(read));
        }
        assert!(after.read <= after.delivered && after.delivered <= seq);
    }

    fn deliver(&mut self, (from, to): (Slot, Slot), twice: bool) {
        let Some((n, note)) = self.world.mail.get_mut(&(from, to)).and_then(|notes| notes.pop_front()) else {
            return;
        };
        for _ in 0..=usize::from(twice) {
            assert_eq!(self.run(&Command::Hear { from, to, n, note }), Ok(Answer::Heard { upto: n }));
        }
        assert_eq!(self.run(&Command::Confirm { from, to, upto: n }), Ok(Answer::Done));
    }

    /// Until nothing moves; then both sides of every assignment agree.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            let pair = self.world.mail.iter().find(|(_, notes)| !notes.is_empty()).map(|(pair, _)| *pair);
            let due = self.world.desk.next_deadline().filter(|(at, _)| *at <= self.world.now);
            match (pair, due) {
                (Some(pair), _) => self.deliver(pair, false),
                (None, Some((_, slot))) => {
                    assert_eq!(self.run(&Command::Tick { slot }), Ok(Answer::Done));
                    assert!(!self.world.last.is_empty(), "a due tick has something to do");
                }
                (None, None) => return self.at_rest(),
            }
        }
        panic!("the world never comes to rest");
    }

    fn at_rest(&self) {
        assert_eq!(self.world.desk.unconfirmed().count(), 0);
        let mut placed = BTreeMap::new();
        let mut waiting = BTreeSet::new();
        for (site, slot) in SITES {
            let Some(view) = self.world.desk.site_view(slot, site) else { continue };
            let free = |agent: &ringdesk_desk::AgentView| {
                agent.availability == Availability::Online
                    && agent.links > 0
                    && agent.load < u32::from(agent.capacity)
            };
            if view.waiting_count() > 0 {
                assert!(!view.agents().any(|agent| free(&agent)), "somebody waits while an agent is free");
            }
            waiting.extend(view.waiting().map(|(id, _)| id));
            for agent in view.agents() {
                placed.extend(view.placed(agent.agent).map(|(id, epoch)| (id, (agent.agent, epoch))));
            }
        }
        for (id, ..) in &self.conversations {
            let view = self.world.view(*id);
            let expected = view.agent.map(|agent| (agent, view.epoch));
            assert_eq!(placed.get(id).copied(), expected, "{view:?}");
            assert_eq!(waiting.contains(id), view.status == Status::Queued, "{view:?}");
        }
    }

    fn check(&self) {
        for (site, slot) in SITES {
            let Some(view) = self.world.desk.site_view(slot, site) else { continue };
            let mut seen = BTreeSet::new();
            for agent in view.agents() {
                let placed: Vec<_> = view.placed(agent.agent).collect();
                assert_eq!(placed.len(), agent.load as usize, "load is what is placed");
                assert!(agent.load <= self.capacity_max, "no more than it ever took at once");
                assert!(placed.iter().all(|(id, _)| seen.insert(*id)), "at most one owner");
            }
            assert!(view.waiting().all(|(id, _)| seen.insert(id)), "who waits is placed with nobody");
            let order: Vec<_> = view.waiting().map(|(id, since)| (since, id)).collect();
            assert!(order.is_sorted());
        }
        for (id, seq) in &self.seq {
            let view = self.world.view(*id);
            assert_eq!(view.seq, *seq);
            assert_eq!(view.agent.is_some(), view.status == Status::Assigned);
            if let Some(agent) = view.agent {
                assert_eq!(self.owners.get(&(*id, view.epoch)), Some(&agent));
            }
        }
    }
}

fn party(caller: &Caller<'_>) -> Party {
    match *caller {
        Caller::Visitor { .. } => Party::Visitor,
        Caller::Agent { agent, .. } => Party::Agent(agent),
    }
}

/// A SEND, or a RESOLVE when there is no body.
fn keyed_command<'a>(
    conversation: ConversationId,
    caller: Caller<'a>,
    device: DeviceId,
    n: u64,
    owner_epoch: u32,
    body: Option<&'a [u8]>,
) -> Command<'a> {
    match body {
        Some(body) => Command::Send { conversation, caller, device, n, owner_epoch, kind: 0, body },
        None => Command::Resolve { conversation, caller, device, n, owner_epoch },
    }
}

fn history(limits: Limits, steps: &[Step]) {
    let mut observer = Observer::new(limits);
    for step in steps {
        observer.take(step);
        observer.check();
    }
    observer.world.crash();
    observer.drain();
    observer.check();
    observer.world.pass_ms(31_000);
    observer.drain();
    assert_eq!(observer.world.replayed().digest(), observer.world.desk.digest());
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("RINGDESK_DESK_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn any_note() -> impl Strategy<Value = Note> {
    let id = (0..3u16, 1..3u64).prop_map(|(slot, number)| ConversationId::new(Slot(slot), number));
    let epoch = prop_oneof![4 => 0..4u32, 1 => (u32::MAX - (1 << 16) - 1)..u32::MAX];
    (0..4, id, epoch, 0..3u32, any::<u64>()).prop_map(|(kind, conversation, epoch, number, since)| match kind
    {
        0 => Note::Want { site: SiteId(number), conversation, since: Hlc(since), epoch },
        1 => Note::Assign { conversation, agent: AgentId(number), epoch },
        2 => Note::Unassign { conversation, epoch },
        _ => Note::Release { site: SiteId(number), conversation, epoch },
    })
}

/// Any command with any numbers, from anybody, in any order. Numbers are drawn near each other so that many fit.
fn any_command() -> impl Strategy<Value = Command<'static>> {
    let slot = prop_oneof![9 => 0..3u16, 1 => any::<u16>()].prop_map(Slot);
    let number = || prop_oneof![9 => 0..4u64, 1 => any::<u64>()];
    let small = || prop_oneof![9 => 0..4u32, 1 => any::<u32>()];
    let id = prop_oneof![
        9 => (0..3u16, 1..3u64).prop_map(|(slot, number)| ConversationId::new(Slot(slot), number)),
        1 => any::<u64>().prop_map(ConversationId)
    ];
    let numbers = (number(), number(), number(), small(), small());
    let key = (0..11u8, slot.clone(), slot, id, 0..4usize);
    (key, numbers, any_note(), any::<u16>()).prop_map(
        |((kind, slot, to, conversation, name), (device, n, m, site, epoch), note, capacity)| {
            let (device, site, agent) = (DeviceId(device), SiteId(site % 3), AgentId(epoch));
            let name =
                ["", "ann", "bob", "a name that is longer than the sixty-four bytes a visitor's id may have"]
                    [name];
            let caller = if capacity % 2 == 0 {
                Caller::Visitor { site, visitor: name }
            } else {
                Caller::Agent { site, agent: AgentId(site.0) }
            };
            let availability =
                [Availability::Offline, Availability::Online, Availability::Away][usize::from(capacity % 3)];
            match kind {
                0 => Command::Open { slot, site_slot: to, site, visitor: name, device, n },
                1 => Command::Send {
                    conversation,
                    caller,
                    device,
                    n,
                    owner_epoch: epoch,
                    kind: m as u8,
                    body: b"x",
                },
                2 => Command::Receipt { conversation, caller, delivered: n, read: m },
                3 => Command::Resolve { conversation, caller, device, n, owner_epoch: epoch },
                4 => Command::Presence {
                    slot,
                    site,
                    agent,
                    device,
                    n,
                    availability,
                    capacity: capacity % 1100,
                },
                5 => Command::AgentLinked { slot, site, agent },
                6 => Command::AgentUnlinked { slot, site, agent },
                7 => Command::Hear { from: slot, to, n, note },
                8 => Command::Confirm { from: slot, to, upto: n },
                9 => Command::Tick { slot },
                _ => Command::Boot { slot },
            }
        },
    )
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn promises_hold_with_room(steps in prop::collection::vec(step(), 1..250)) {
        history(Limits::default(), &steps);
    }

    #[test]
    fn promises_hold_at_the_bounds(steps in prop::collection::vec(step(), 1..250)) {
        history(tiny(), &steps);
    }

    #[test]
    fn no_command_panics(
        commands in prop::collection::vec((any_command(), prop::bool::ANY, 0..50_000u64), 1..300)
    ) {
        let mut world = World::new(tiny());
        for (command, repeat_next, millis) in commands {
            world.pass_ms(millis);
            let _ = world.run(&command);
            // Hearing what was really told makes the invented notes meet real assignments.
            if repeat_next {
                let pair = world.mail.iter().find(|(_, notes)| !notes.is_empty()).map(|(pair, _)| *pair);
                if let Some((from, to)) = pair {
                    let (n, note) = world.mail.get_mut(&(from, to)).and_then(|notes| notes.pop_front()).expect("not empty");
                    let _ = world.run(&Command::Hear { from, to, n, note });
                }
            }
            let due = world.desk.next_deadline();
            if let Some((_, slot)) = due {
                prop_assert!(world.run(&Command::Tick { slot }).is_ok(), "a tick is never refused");
            }
        }
        prop_assert_eq!(world.replayed().digest(), world.desk.digest());
    }
}
