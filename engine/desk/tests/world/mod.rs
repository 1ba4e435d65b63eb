//! A desk, its log and the mail between its slots: what a shard does around the desk, without the rest.

#![allow(dead_code, reason = "each test file uses its own part of the world")]

use std::collections::{BTreeMap, VecDeque};

use ringdesk_desk::command::{Answer, Availability, Caller, Command, Refusal};
use ringdesk_desk::event::{Event, Note};
use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, Hlc, SiteId, Slot};
use ringdesk_desk::{ConversationView, Desk, Limits, SiteView, codec};

pub const SITE: SiteId = SiteId(1);
pub const SITE_SLOT: Slot = Slot(9000);
pub const VISITOR_SLOT: Slot = Slot(40);

pub type Decided = Result<Answer, Refusal>;

pub struct World {
    pub desk: Desk,
    pub now: Hlc,
    /// One record per decision with events, in order.
    pub log: Vec<Vec<u8>>,
    /// Notes on their way, per pair.
    pub mail: BTreeMap<(Slot, Slot), VecDeque<(u64, Note)>>,
    /// Events of the last decision.
    pub last: Vec<Event>,
}

impl World {
    pub fn new(limits: Limits) -> Self {
        let now = Hlc::from_millis(1_000_000);
        Self { desk: Desk::new(limits), now, log: Vec::new(), mail: BTreeMap::new(), last: Vec::new() }
    }

    /// Decides, logs, applies, posts. A refusal must leave the events alone.
    pub fn run(&mut self, command: &Command<'_>) -> Decided {
        self.now = Hlc(self.now.0 + 1);
        self.last.clear();
        let marker = Event::Booted { slot: Slot(1), at: Hlc(77) };
        self.last.push(marker.clone());
        let answer = self.desk.decide(self.now, command, &mut self.last);
        assert_eq!(self.last.remove(0), marker, "what was in the buffer stays");
        assert!(self.last.len() <= self.desk.limits().decision_events_max as usize);
        if answer.is_err() {
            assert!(self.last.is_empty(), "{command:?} was refused and left {:?}", self.last);
            return answer;
        }
        if !self.last.is_empty() {
            let mut record = Vec::new();
            codec::encode(&self.last, &mut record);
            assert_eq!(codec::decode(&record).as_ref(), Ok(&self.last));
            self.log.push(record);
        }
        for event in &self.last {
            assert_eq!(event.slot(), command.slot(), "all events of a decision belong to the deciding slot");
            self.desk.apply(event);
            if let Event::Told { from, to, n, note } = *event {
                self.mail.entry((from, to)).or_default().push_back((n, note));
            }
        }
        answer
    }

    /// Delivers the next note of a pair and its confirmation; `twice` delivers it again.
    pub fn deliver(&mut self, pair: (Slot, Slot), twice: bool) {
        let Some((n, note)) = self.mail.get_mut(&pair).and_then(VecDeque::pop_front) else { return };
        let (from, to) = pair;
        for _ in 0..=usize::from(twice) {
            let heard = self.run(&Command::Hear { from, to, n, note });
            assert_eq!(heard, Ok(Answer::Heard { upto: n }));
            assert_eq!(self.run(&Command::Confirm { from, to, upto: n }), Ok(Answer::Done));
        }
    }

    /// Until no note is on its way and no deadline is due.
    pub fn drain(&mut self) {
        for _ in 0..100_000 {
            let pair = self.mail.iter().find(|(_, notes)| !notes.is_empty()).map(|(pair, _)| *pair);
            if let Some(pair) = pair {
                self.deliver(pair, false);
            } else if let Some((_, slot)) = self.desk.next_deadline().filter(|(at, _)| *at <= self.now) {
                assert_eq!(self.run(&Command::Tick { slot }), Ok(Answer::Done));
                assert!(!self.last.is_empty(), "a due tick has something to do");
            } else {
                return;
            }
        }
        panic!("the world never comes to rest");
    }

    pub fn pass_ms(&mut self, millis: u64) {
        self.now = Hlc::from_millis(self.now.millis() + millis);
    }

    /// A desk rebuilt from the log.
    pub fn replayed(&self) -> Desk {
        let mut desk = Desk::new(*self.desk.limits());
        for record in &self.log {
            for event in codec::decode(record).expect("our own record") {
                desk.apply(&event);
            }
        }
        desk
    }

    /// The process dies and starts again: the desk comes from the log, notes on their way from the desk.
    pub fn crash(&mut self) {
        let desk = self.replayed();
        assert_eq!(desk.digest(), self.desk.digest(), "a replay gives the same state");
        assert_eq!(desk.next_deadline(), self.desk.next_deadline());
        assert_eq!(desk.conversations(), self.desk.conversations());
        self.desk = desk;
        self.mail.clear();
        let unconfirmed: Vec<_> = self.desk.unconfirmed().collect();
        for (from, to, n, note) in unconfirmed {
            self.mail.entry((from, to)).or_default().push_back((n, note));
        }
        for slot in self.desk.slots_to_boot() {
            assert_eq!(self.run(&Command::Boot { slot }), Ok(Answer::Done));
        }
    }

    pub fn view(&self, id: ConversationId) -> ConversationView<'_> {
        self.desk.conversation(id).expect("an open conversation")
    }

    pub fn site(&self) -> SiteView<'_> {
        self.desk.site_view(SITE_SLOT, SITE).expect("a site that has heard something")
    }

    pub fn open(&mut self, visitor: &str, device: u64, n: u64) -> Decided {
        self.run(&Command::Open {
            slot: VISITOR_SLOT,
            site_slot: SITE_SLOT,
            site: SITE,
            visitor,
            device: DeviceId(device),
            n,
        })
    }

    /// Opens with the first key of device 1.
    pub fn opened(&mut self, visitor: &str) -> ConversationId {
        match self.open(visitor, 1, 1) {
            Ok(Answer::Opened { conversation, .. }) => conversation,
            other => panic!("open: {other:?}"),
        }
    }

    pub fn send(
        &mut self,
        id: ConversationId,
        caller: Caller<'_>,
        key: (u64, u64),
        epoch: u32,
        body: &str,
    ) -> Decided {
        self.run(&Command::Send {
            conversation: id,
            caller,
            device: DeviceId(key.0),
            n: key.1,
            owner_epoch: epoch,
            kind: 0,
            body: body.as_bytes(),
        })
    }

    pub fn resolve(
        &mut self,
        id: ConversationId,
        caller: Caller<'_>,
        key: (u64, u64),
        epoch: u32,
    ) -> Decided {
        self.run(&Command::Resolve {
            conversation: id,
            caller,
            device: DeviceId(key.0),
            n: key.1,
            owner_epoch: epoch,
        })
    }

    pub fn declare(&mut self, agent: u32, n: u64, availability: Availability, capacity: u16) -> Decided {
        self.run(&Command::Presence {
            slot: SITE_SLOT,
            site: SITE,
            agent: AgentId(agent),
            device: DeviceId(1),
            n,
            availability,
            capacity,
        })
    }

    pub fn link(&mut self, agent: u32) -> Decided {
        self.run(&Command::AgentLinked { slot: SITE_SLOT, site: SITE, agent: AgentId(agent) })
    }

    pub fn unlink(&mut self, agent: u32) -> Decided {
        self.run(&Command::AgentUnlinked { slot: SITE_SLOT, site: SITE, agent: AgentId(agent) })
    }

    /// An agent that is there and takes conversations.
    pub fn staff(&mut self, agent: u32, capacity: u16) {
        assert_eq!(self.link(agent), Ok(Answer::Done));
        assert_eq!(self.declare(agent, 1, Availability::Online, capacity), Ok(Answer::Done));
    }
}

pub fn visitor(name: &str) -> Caller<'_> {
    Caller::Visitor { site: SITE, visitor: name }
}

pub fn agent(id: u32) -> Caller<'static> {
    Caller::Agent { site: SITE, agent: AgentId(id) }
}

/// Bounds small enough to be reached by a short run.
pub fn tiny() -> Limits {
    Limits {
        devices_live_max: 3,
        devices_retired_max: 4,
        window: 4,
        notes_outstanding_max: 6,
        conversations_max: 12,
        agents_per_site_max: 4,
        presence_devices_max: 2,
        moves_per_decision: 3,
        decision_events_max: 12,
        ..Limits::default()
    }
}
