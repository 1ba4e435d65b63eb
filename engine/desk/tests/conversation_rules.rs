//! One test per rule of OPEN, SEND, RESOLVE and RECEIPT.

mod world;

use ringdesk_desk::Limits;
use ringdesk_desk::command::{Answer, Availability, Caller, Command, Refusal};
use ringdesk_desk::event::{Cause, Event, Note, Status};
use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, Party, SiteId, Slot};
use ringdesk_desk::{KIND_RESOLVE, Receipts, send_hash};
use world::{SITE, SITE_SLOT, VISITOR_SLOT, World, agent, tiny, visitor};

fn accepted(seq: u64) -> Result<Answer, Refusal> {
    Ok(Answer::Accepted { seq })
}

/// A conversation of ann that agent 7 owns: (world, id, epoch). Its items: message, queued, assigned.
fn owned() -> (World, ConversationId, u32) {
    let mut world = World::new(Limits::default());
    world.staff(7, 2);
    let id = world.opened("ann");
    assert_eq!(world.send(id, visitor("ann"), (1, 1), 0, "hello"), accepted(1));
    world.drain();
    let view = world.view(id);
    assert_eq!((view.status, view.agent, view.seq), (Status::Assigned, Some(AgentId(7)), 3));
    let epoch = view.epoch;
    (world, id, epoch)
}

#[test]
fn open_answers_the_same_key_with_the_same_conversation() {
    let mut world = World::new(Limits::default());
    let id = world.opened("ann");
    assert_eq!(id, ConversationId::new(VISITOR_SLOT, 1));
    let again = Ok(Answer::Opened { conversation: id, seq: 0, duplicate: true });
    assert_eq!(world.open("ann", 1, 1), again);
    assert!(world.last.is_empty(), "a duplicate writes nothing");
    assert_eq!(world.open("ann", 1, 3), Err(Refusal::OutOfOrder { expected: 2 }));
    assert_eq!(world.open("ann", 2, 2), Err(Refusal::OutOfOrder { expected: 1 }));
    assert_eq!(world.open("bob", 1, 2), Err(Refusal::OutOfOrder { expected: 1 }));
    assert_eq!(world.desk.conversations(), 1);
    assert_eq!(world.desk.visitor_conversation(VISITOR_SLOT, SITE, "ann"), Some(id));
    assert_eq!(world.desk.visitor_conversation(VISITOR_SLOT, SiteId(2), "ann"), None);
    assert_eq!(world.desk.visitor_conversation(Slot(u16::MAX), SITE, "ann"), None);
}

#[test]
fn open_finds_what_is_not_resolved_and_replaces_what_is() {
    let mut world = World::new(Limits::default());
    let first = world.opened("ann");
    let found = Ok(Answer::Opened { conversation: first, seq: 0, duplicate: false });
    assert_eq!(world.open("ann", 2, 1), found);
    assert!(matches!(world.last[..], [Event::Found { .. }]));
    assert_eq!(world.resolve(first, visitor("ann"), (1, 1), 0), accepted(1));
    let second = ConversationId::new(VISITOR_SLOT, 2);
    assert_eq!(
        world.open("ann", 2, 2),
        Ok(Answer::Opened { conversation: second, seq: 0, duplicate: false })
    );
    // The old key still names the old conversation, whose seq has moved on.
    assert_eq!(world.open("ann", 2, 1), Ok(Answer::Opened { conversation: first, seq: 1, duplicate: true }));
}

#[test]
fn open_answers_every_key_however_old() {
    let mut world = World::new(tiny());
    for n in 1..=6u64 {
        assert!(world.open("ann", 1, 2 * n - 1).is_ok());
        let id = ConversationId::new(VISITOR_SLOT, n);
        // Each conversation is found once more: two keys per run.
        assert_eq!(
            world.open("ann", 1, 2 * n),
            Ok(Answer::Opened { conversation: id, seq: 0, duplicate: false })
        );
        assert_eq!(world.resolve(id, visitor("ann"), (1, 1), 0), accepted(1));
    }
    world.crash();
    for n in 1..=12u64 {
        let id = ConversationId::new(VISITOR_SLOT, n.div_ceil(2));
        let same = Ok(Answer::Opened { conversation: id, seq: 1, duplicate: true });
        assert_eq!(world.open("ann", 1, n), same, "n {n}");
        assert!(world.last.is_empty(), "a duplicate writes nothing");
    }
    assert_eq!(world.open("ann", 2, 2), Err(Refusal::OutOfOrder { expected: 1 }), "a device never seen");
    assert_eq!(world.open("ann", 1, 14), Err(Refusal::OutOfOrder { expected: 13 }));
}

#[test]
fn open_retires_the_least_recently_used_device() {
    let mut world = World::new(tiny());
    for device in 1..=3 {
        assert!(world.open("ann", device, 1).is_ok());
    }
    assert!(world.open("ann", 1, 2).is_ok());
    assert!(world.open("ann", 4, 1).is_ok());
    assert!(matches!(
        world.last[..],
        [Event::OpenerRetired { device: DeviceId(2), .. }, Event::Found { .. }]
    ));
    for n in [1, 2, 9] {
        assert_eq!(world.open("ann", 2, n), Err(Refusal::DeviceExpired));
    }
    for device in 5..=7 {
        assert!(world.open("ann", device, 1).is_ok());
    }
    assert_eq!(world.open("ann", 8, 1), Err(Refusal::DeviceLimit));
    assert!(world.open("ann", 7, 2).is_ok(), "a live device goes on");
    world.crash();
}

#[test]
fn open_checks_its_bounds() {
    let mut world = World::new(tiny());
    assert_eq!(world.open("", 1, 1), Err(Refusal::Invalid));
    assert_eq!(world.open(&"x".repeat(65), 1, 1), Err(Refusal::Invalid));
    assert_eq!(world.open("ann", 1, 0), Err(Refusal::Invalid));
    assert!(world.open(&"x".repeat(64), 1, 1).is_ok());
    for name in 2..=12 {
        assert!(world.open(&name.to_string(), 1, 1).is_ok());
    }
    assert_eq!(world.open("one too many", 1, 1), Err(Refusal::Busy));
    assert!(world.open("2", 1, 2).is_ok(), "finding needs no room");
}

#[test]
fn first_message_queues_and_asks_for_an_agent() {
    let mut world = World::new(Limits::default());
    let id = world.opened("ann");
    assert_eq!(world.view(id).status, Status::Open);
    assert_eq!(world.send(id, visitor("ann"), (1, 1), 0, "hello"), accepted(1));
    let now = world.now;
    assert_eq!(
        world.last[1..],
        [
            Event::Changed {
                conversation: id,
                seq: 2,
                status: Status::Queued,
                cause: Cause::FirstMessage,
                agent: None,
                epoch: 0,
                by: Party::Visitor,
                key: None,
                at: now,
            },
            Event::Told {
                from: VISITOR_SLOT,
                to: SITE_SLOT,
                n: 1,
                note: Note::Want { site: SITE, conversation: id, since: now, epoch: 0 },
            },
        ]
    );
    assert_eq!(world.send(id, visitor("ann"), (1, 2), 0, "anyone?"), accepted(3));
    assert_eq!(world.last.len(), 1, "it is asked for once");
    assert_eq!(world.view(id).since, now);
}

#[test]
fn a_key_is_recorded_once() {
    let mut world = World::new(Limits::default());
    let id = world.opened("ann");
    assert_eq!(world.send(id, visitor("ann"), (1, 1), 0, "hello"), accepted(1));
    assert_eq!(world.send(id, visitor("ann"), (1, 1), 0, "hello"), Ok(Answer::Duplicate { seq: 1 }));
    assert!(world.last.is_empty());
    assert_eq!(world.send(id, visitor("ann"), (1, 1), 0, "other"), Err(Refusal::IdReused));
    assert_eq!(world.send(id, visitor("ann"), (1, 3), 0, "x"), Err(Refusal::OutOfOrder { expected: 2 }));
    assert_eq!(world.send(id, visitor("ann"), (2, 2), 0, "x"), Err(Refusal::OutOfOrder { expected: 1 }));
    assert_eq!(world.send(id, visitor("ann"), (1, 0), 0, "x"), Err(Refusal::Invalid));
    assert_eq!(
        world.resolve(id, visitor("ann"), (1, 1), 0),
        Err(Refusal::IdReused),
        "RESOLVE shares the keys"
    );
    assert_eq!(world.resolve(id, visitor("ann"), (1, 2), 0), accepted(3));
    assert_eq!(world.resolve(id, visitor("ann"), (1, 2), 0), Ok(Answer::Duplicate { seq: 3 }));
    assert_eq!(world.send(id, visitor("ann"), (1, 2), 0, ""), Err(Refusal::IdReused));
    // The window outlives a restart.
    world.crash();
    assert_eq!(world.send(id, visitor("ann"), (1, 1), 0, "hello"), Ok(Answer::Duplicate { seq: 1 }));
}

#[test]
fn old_keys_are_for_the_log_to_answer() {
    let mut world = World::new(Limits::default());
    let id = world.opened("ann");
    for n in 1..=20u64 {
        assert!(world.send(id, visitor("ann"), (1, n), 0, "same").is_ok());
    }
    let old = Ok(Answer::OldDuplicate { body_hash: send_hash(0, b"same") });
    assert_eq!(world.send(id, visitor("ann"), (1, 4), 0, "same"), old);
    assert_eq!(world.send(id, visitor("ann"), (1, 5), 0, "same"), Ok(Answer::Duplicate { seq: 6 }));
}

#[test]
fn a_full_conversation_retires_its_least_recently_used_device() {
    let mut world = World::new(tiny());
    let id = world.opened("ann");
    for device in 1..=3 {
        assert!(world.send(id, visitor("ann"), (device, 1), 0, "x").is_ok());
    }
    assert!(world.send(id, visitor("ann"), (1, 2), 0, "x").is_ok());
    assert!(world.send(id, visitor("ann"), (4, 1), 0, "x").is_ok());
    let retired = Event::DeviceRetired { conversation: id, party: Party::Visitor, device: DeviceId(2) };
    assert_eq!(world.last[0], retired);
    for n in [1, 2, 3] {
        assert_eq!(world.send(id, visitor("ann"), (2, n), 0, "x"), Err(Refusal::DeviceExpired));
    }
    for device in 5..=7 {
        assert!(world.send(id, visitor("ann"), (device, 1), 0, "x").is_ok());
    }
    assert_eq!(world.send(id, visitor("ann"), (8, 1), 0, "x"), Err(Refusal::DeviceLimit));
    assert!(world.send(id, visitor("ann"), (7, 2), 0, "x").is_ok());
    world.crash();
}

#[test]
fn bodies_and_kinds_have_bounds() {
    let mut world = World::new(Limits::default());
    let id = world.opened("ann");
    let largest = "x".repeat(65_536);
    assert_eq!(world.send(id, visitor("ann"), (1, 1), 0, &(largest.clone() + "x")), Err(Refusal::Invalid));
    assert_eq!(world.send(id, visitor("ann"), (1, 1), 0, &largest), accepted(1));
    let reserved = Command::Send {
        conversation: id,
        caller: visitor("ann"),
        device: DeviceId(1),
        n: 2,
        owner_epoch: 0,
        kind: KIND_RESOLVE,
        body: b"",
    };
    assert_eq!(world.run(&reserved), Err(Refusal::Invalid));
    let mut world = World::new(Limits { items_max: 2, ..Limits::default() });
    let id = world.opened("ann");
    assert_eq!(world.send(id, visitor("ann"), (1, 1), 0, "x"), accepted(1));
    assert_eq!(world.send(id, visitor("ann"), (1, 2), 0, "x"), Err(Refusal::Invalid));
}

#[test]
fn foreign_and_unknown_answer_the_same() {
    let (mut world, id, epoch) = owned();
    let foreign: [(Caller<'_>, ConversationId); 4] = [
        (visitor("bob"), id),
        (Caller::Visitor { site: SiteId(2), visitor: "ann" }, id),
        (Caller::Agent { site: SiteId(2), agent: AgentId(7) }, id),
        (visitor("ann"), ConversationId(id.0 + 1)),
    ];
    for (caller, id) in foreign {
        assert_eq!(world.send(id, caller, (1, 1), epoch, "hello"), Err(Refusal::NotFound));
        assert_eq!(world.resolve(id, caller, (1, 2), epoch), Err(Refusal::NotFound));
        let receipt = Command::Receipt { conversation: id, caller, delivered: 99, read: 0 };
        assert_eq!(world.run(&receipt), Err(Refusal::NotFound));
        assert!(!world.desk.may_read(&caller, id));
    }
    assert!(world.desk.may_read(&visitor("ann"), id));
    assert!(world.desk.may_read(&agent(99), id), "any agent of the site may read");
}

#[test]
fn only_the_owner_at_its_epoch_may_act() {
    let (mut world, id, epoch) = owned();
    let stale = Err(Refusal::StaleOwner { epoch });
    assert_eq!(world.send(id, agent(7), (1, 1), epoch - 1, "hi"), stale);
    assert_eq!(world.send(id, agent(7), (1, 1), epoch + 1, "hi"), stale);
    assert_eq!(world.send(id, agent(8), (1, 1), epoch, "hi"), stale);
    assert_eq!(world.resolve(id, agent(8), (1, 1), epoch), stale);
    let receipt = Command::Receipt { conversation: id, caller: agent(8), delivered: 1, read: 1 };
    assert_eq!(world.run(&receipt), stale);
    assert_eq!(world.send(id, agent(7), (1, 1), epoch, "hi"), accepted(4));
    assert_eq!(world.resolve(id, agent(7), (1, 2), epoch), accepted(5));
    assert_eq!(world.send(id, agent(7), (1, 3), epoch, "hi"), Err(Refusal::Resolved));
    assert_eq!(world.send(id, agent(8), (1, 1), epoch + 1, "hi"), stale);
}

#[test]
fn a_retry_is_answered_even_when_ownership_moved() {
    let (mut world, id, epoch) = owned();
    assert_eq!(world.send(id, agent(7), (1, 1), epoch, "hi"), accepted(4));
    world.staff(8, 1);
    assert!(world.declare(7, 2, Availability::Offline, 0).is_ok());
    world.drain();
    assert_eq!(world.view(id).agent, Some(AgentId(8)));
    assert_eq!(world.send(id, agent(7), (1, 1), epoch, "hi"), Ok(Answer::Duplicate { seq: 4 }));
    let stale = Err(Refusal::StaleOwner { epoch: world.view(id).epoch });
    assert_eq!(world.send(id, agent(7), (1, 2), epoch, "hi"), stale);
}

#[test]
fn resolve_ends_and_a_message_reopens() {
    let (mut world, id, epoch) = owned();
    assert_eq!(world.resolve(id, visitor("ann"), (1, 2), 0), accepted(4));
    let release = Note::Release { site: SITE, conversation: id, epoch };
    assert!(matches!(world.last[1], Event::Told { note, .. } if note == release));
    assert_eq!(world.view(id).agent, None);
    assert_eq!(world.resolve(id, visitor("ann"), (1, 3), 0), Err(Refusal::Resolved));
    world.drain();
    assert_eq!(world.site().agent(AgentId(7)).map(|agent| agent.load), Some(0));
    assert_eq!(world.send(id, visitor("ann"), (1, 3), 0, "one more thing"), accepted(5));
    assert!(matches!(
        world.last[..],
        [
            Event::Sent { .. },
            Event::Changed { cause: Cause::Reopened, status: Status::Queued, .. },
            Event::Told { note: Note::Want { epoch: 1, .. }, .. }
        ]
    ));
    world.drain();
    assert_eq!((world.view(id).status, world.view(id).epoch), (Status::Assigned, epoch + 1));
}

#[test]
fn resolving_what_nobody_was_asked_for_tells_nobody() {
    let mut world = World::new(Limits::default());
    let id = world.opened("ann");
    assert_eq!(world.resolve(id, visitor("ann"), (1, 1), 0), accepted(1));
    assert_eq!(world.last.len(), 1);
    assert!(world.mail.is_empty());
}

#[test]
fn receipts_are_cumulative_and_bounded() {
    let (mut world, id, _) = owned();
    let receipt = |caller, delivered, read| Command::Receipt { conversation: id, caller, delivered, read };
    assert_eq!(world.run(&receipt(visitor("ann"), 2, 1)), Ok(Answer::Done));
    assert_eq!(world.view(id).visitor_receipts, Receipts { delivered: 2, read: 1 });
    assert_eq!(world.run(&receipt(visitor("ann"), 1, 0)), Ok(Answer::Done));
    assert!(world.last.is_empty(), "nothing new writes nothing");
    assert_eq!(world.run(&receipt(visitor("ann"), 0, 3)), Ok(Answer::Done));
    assert_eq!(world.view(id).visitor_receipts, Receipts { delivered: 3, read: 3 }, "read implies delivered");
    assert_eq!(world.run(&receipt(visitor("ann"), 4, 0)), Err(Refusal::BeyondEnd { seq: 3 }));
    assert_eq!(world.run(&receipt(visitor("ann"), 0, u64::MAX)), Err(Refusal::BeyondEnd { seq: 3 }));
    assert_eq!(world.run(&receipt(agent(7), 1, 0)), Ok(Answer::Done));
    assert_eq!(world.view(id).staff_receipts, Receipts { delivered: 1, read: 0 });
}

#[test]
fn a_full_outbox_of_notes_refuses_what_would_tell_more() {
    let mut world = World::new(Limits { notes_outstanding_max: 2, moves_per_decision: 2, ..tiny() });
    for name in ["a", "b", "c"] {
        let id = world.opened(name);
        let answer = world.send(id, visitor(name), (1, 1), 0, "x");
        assert_eq!(answer, if name == "c" { Err(Refusal::Busy) } else { accepted(1) });
    }
    let first = ConversationId::new(VISITOR_SLOT, 1);
    assert_eq!(world.desk.notes_outstanding(VISITOR_SLOT), 2);
    assert_eq!(world.resolve(first, visitor("a"), (1, 2), 0), Err(Refusal::Busy));
    assert_eq!(world.send(first, visitor("a"), (1, 2), 0, "more"), accepted(3), "what tells nobody goes on");
    world.drain();
    let third = ConversationId::new(VISITOR_SLOT, 3);
    assert_eq!(world.send(third, visitor("c"), (1, 1), 0, "x"), accepted(1));
}

#[test]
fn an_assignment_that_comes_too_late_is_released() {
    let mut world = World::new(Limits::default());
    world.staff(7, 1);
    let id = world.opened("ann");
    assert!(world.send(id, visitor("ann"), (1, 1), 0, "x").is_ok());
    world.deliver((VISITOR_SLOT, SITE_SLOT), false);
    assert_eq!(world.site().placed(AgentId(7)).collect::<Vec<_>>(), vec![(id, 1)]);
    assert!(world.resolve(id, visitor("ann"), (1, 2), 0).is_ok());
    // The Release of epoch 0 crosses the Assign of epoch 1 and is ignored; the answer to the Assign is not.
    world.deliver((VISITOR_SLOT, SITE_SLOT), false);
    assert_eq!(world.site().agent(AgentId(7)).map(|agent| agent.load), Some(1));
    world.drain();
    assert_eq!(world.site().agent(AgentId(7)).map(|agent| agent.load), Some(0));
    assert_eq!((world.view(id).status, world.view(id).epoch), (Status::Resolved, 1));
    // The refused epoch is never used again.
    assert!(world.send(id, visitor("ann"), (1, 3), 0, "back").is_ok());
    world.drain();
    assert_eq!((world.view(id).status, world.view(id).epoch), (Status::Assigned, 2));
}

#[test]
fn notes_are_heard_once_and_in_order() {
    let mut world = World::new(Limits::default());
    let (from, to) = (VISITOR_SLOT, SITE_SLOT);
    let note = |number| Note::Want {
        site: SITE,
        conversation: ConversationId::new(from, number),
        since: world::World::new(Limits::default()).now,
        epoch: 0,
    };
    assert_eq!(
        world.run(&Command::Hear { from, to, n: 2, note: note(1) }),
        Err(Refusal::OutOfOrder { expected: 1 })
    );
    let heard = Ok(Answer::Heard { upto: 1 });
    assert_eq!(world.run(&Command::Hear { from, to, n: 1, note: note(1) }), heard);
    assert_eq!(world.run(&Command::Hear { from, to, n: 1, note: note(1) }), heard);
    assert!(world.last.is_empty());
    assert_eq!(world.run(&Command::Hear { from, to, n: 0, note: note(1) }), Err(Refusal::Invalid));
    let misled = Command::Hear { from: Slot(41), to, n: 1, note: note(1) };
    assert_eq!(world.run(&misled), Err(Refusal::Invalid), "a want comes from its conversation's slot");
    assert_eq!(world.run(&Command::Confirm { from, to, upto: 1 }), Err(Refusal::Invalid), "nothing was told");
}
