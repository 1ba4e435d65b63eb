//! The record format: every event kind, every truncation, every unknown kind and version.

mod world;

use proptest::prelude::*;
use ringdesk_desk::codec::{CodecError, Item, decode, decode_each, decode_item, encode, items};
use ringdesk_desk::command::{Answer, Availability};
use ringdesk_desk::event::{Cause, Event, Note, Status};
use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, Hlc, Party, Side, SiteId, Slot};
use ringdesk_desk::{Limits, send_hash};

const SLOT: Slot = Slot(9);
const SITE: SiteId = SiteId(3);
const AGENT: AgentId = AgentId(0x0A0B_0C0D);
const AT: Hlc = Hlc(0x1122_3344_5566_7788);
const DEVICE: DeviceId = DeviceId(u64::MAX - 1);

fn id() -> ConversationId {
    ConversationId::new(Slot(16_383), (1 << 50) - 1)
}

/// One of every kind, with every variant of what is inside.
fn one_of_each() -> Vec<Event> {
    let (conversation, site, agent, at, device) = (id(), SITE, AGENT, AT, DEVICE);
    let changed = |agent, by, key| Event::Changed {
        conversation,
        seq: 5,
        status: Status::Assigned,
        cause: Cause::AgentLost,
        agent,
        epoch: 6,
        by,
        key,
        at,
    };
    let told = |note| Event::Told { from: SLOT, to: Slot(0), n: 8, note };
    vec![
        Event::Opened {
            conversation, site, site_slot: SLOT, visitor: "zoë 访客".into(), device, n: 1, at
        },
        Event::Found { conversation, device, n: 2, at },
        Event::Sent {
            conversation,
            seq: 4,
            party: Party::Agent(agent),
            device,
            n: 3,
            at,
            kind: 2,
            body: vec![1, 2],
        },
        Event::Sent { conversation, seq: 4, party: Party::Visitor, device, n: 3, at, kind: 0, body: vec![] },
        changed(Some(agent), Party::System, None),
        changed(None, Party::Visitor, Some((device, 7))),
        Event::ReceiptMoved { conversation, side: Side::Visitor, delivered: 9, read: 8, at },
        Event::ReceiptMoved { conversation, side: Side::Staff, delivered: 9, read: 8, at },
        Event::DeviceRetired { conversation, party: Party::Visitor, device },
        Event::OpenerRetired { conversation, device },
        Event::Waiting { slot: SLOT, site, conversation, since: at, epoch: 1 },
        Event::Placed { slot: SLOT, site, conversation, agent, epoch: 2, at },
        Event::Returned { slot: SLOT, site, conversation, agent, epoch: 2, at },
        Event::Left { slot: SLOT, site, conversation, epoch: 2, at },
        Event::AgentDeclared {
            slot: SLOT,
            site,
            agent,
            device,
            n: 4,
            availability: Availability::Away,
            capacity: 1000,
            at,
        },
        Event::AgentLinks { slot: SLOT, site, agent, links: 3, at },
        Event::AgentLapsed { slot: SLOT, site, agent, at },
        told(Note::Want { site, conversation, since: at, epoch: 1 }),
        told(Note::Assign { conversation, agent, epoch: 2 }),
        told(Note::Unassign { conversation, epoch: 3 }),
        told(Note::Release { site, conversation, epoch: 4 }),
        Event::Heard { from: SLOT, to: Slot(1), n: 5 },
        Event::Confirmed { from: SLOT, to: Slot(1), upto: 6 },
        Event::Booted { slot: SLOT, at },
    ]
}

fn record(events: &[Event]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(events, &mut out);
    out
}

#[test]
fn every_kind_comes_back() {
    let events = one_of_each();
    assert_eq!(decode(&record(&events)), Ok(events.clone()));
    assert_eq!(decode(&record(&[])), Ok(vec![]));
    for event in events {
        assert_eq!(decode(&record(std::slice::from_ref(&event))), Ok(vec![event]));
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = record(&one_of_each());
    for end in 0..bytes.len() {
        assert_eq!(decode(&bytes[..end]), Err(CodecError::Short), "cut at {end}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(decode(&longer), Err(CodecError::Trailing));
}

#[test]
fn unknown_kinds_and_versions_are_named() {
    let bytes = record(&[Event::Booted { slot: SLOT, at: AT }]);
    let with = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        decode(&bytes)
    };
    assert_eq!(with(2, 0), Err(CodecError::UnknownKind(0)));
    assert_eq!(with(2, 19), Err(CodecError::UnknownKind(19)));
    assert_eq!(with(3, 2), Err(CodecError::UnknownVersion { kind: 17, version: 2 }));
    let named = CodecError::UnknownVersion { kind: 17, version: 2 }.to_string();
    assert!(named.contains("17") && named.contains("version 2"), "{named}");
    // The fields must fill the length exactly: one byte less belongs to the next event, which is not there.
    assert_eq!(with(4, 9), Err(CodecError::BadField { kind: 17 }));
}

#[test]
fn fields_outside_their_bounds_are_refused() {
    let (conversation, at) = (id(), AT);
    let receipt =
        record(&[Event::ReceiptMoved { conversation, side: Side::Staff, delivered: 1, read: 1, at }]);
    let links = record(&[Event::AgentLinks { slot: SLOT, site: SITE, agent: AGENT, links: 1, at }]);
    let opened = Event::Opened {
        conversation,
        site: SITE,
        site_slot: SLOT,
        visitor: "x".into(),
        device: DEVICE,
        n: 1,
        at,
    };
    let with = |record: &[u8], at: usize, bytes: &[u8]| {
        let mut record = record.to_vec();
        record[at..at + bytes.len()].copy_from_slice(bytes);
        decode(&record)
    };
    assert_eq!(with(&receipt, 16, &[2]), Err(CodecError::BadField { kind: 5 }), "no third side");
    assert_eq!(with(&receipt, 8, &[0; 8]), Err(CodecError::BadField { kind: 5 }), "no conversation number 0");
    assert_eq!(with(&links, 8, &[0, 64]), Err(CodecError::BadField { kind: 13 }), "slot 16384");
    assert_eq!(with(&links, 14, &[0; 4]), Err(CodecError::BadField { kind: 13 }), "agent 0");
    let opened = record(&[opened]);
    let last = opened.len() - 1;
    assert_eq!(with(&opened, last, &[0xFF]), Err(CodecError::BadField { kind: 1 }), "a visitor id is UTF-8");
}

#[test]
fn items_are_found_without_reading_the_rest() {
    let mut world = world::World::new(Limits::default());
    let id = world.opened("ann");
    assert_eq!(world.send(id, world::visitor("ann"), (6, 1), 0, "hello"), Ok(Answer::Accepted { seq: 1 }));
    let record = world.log.last().expect("a record");
    let Ok(Some(item)) = decode_item(record, 1) else { panic!("the message is there") };
    assert!(matches!(item, Item::Sent { body: b"hello", .. }));
    assert_eq!((item.conversation(), item.seq()), (id, 1));
    assert_eq!(item.key(), Some((Party::Visitor, DeviceId(6), 1)));
    assert_eq!(item.body_hash(), send_hash(0, b"hello"));
    let Ok(Some(change)) = decode_item(record, 2) else { panic!("the change is there") };
    assert!(matches!(change, Item::Changed { status: Status::Queued, .. }));
    assert_eq!(change.key(), None);
    assert_eq!(decode_item(record, 3), Ok(None));
    assert_eq!(items(record).count(), 2);
    assert_eq!(decode_item(&record[..record.len() - 1], 3), Err(CodecError::Short));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What decodes is what encode writes; everything else is an error. Nothing panics.
    #[test]
    fn bytes_decode_to_what_encodes_to_them(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        pick in any::<prop::sample::Index>(),
    ) {
        let events = one_of_each();
        let mut bytes = record(std::slice::from_ref(pick.get(&events)));
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let mut visited = 0;
        let visit = decode_each(&bytes, |_| visited += 1);
        match decode(&bytes) {
            Ok(events) => {
                prop_assert_eq!(record(&events), bytes.clone());
                prop_assert_eq!(visited, events.len());
            }
            Err(error) => prop_assert_eq!(visit, Err(error)),
        }
        let _ = items(&bytes).count();
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = items(&bytes).count();
    }
}
