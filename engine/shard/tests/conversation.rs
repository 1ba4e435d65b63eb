//! Whole conversations through one and through several shards, over an in-memory disk that completes at once or
//! when told.

mod world;

use ringdesk_protocol::{Availability, ClientMessage, Code, Cursor, Role, Status};
use ringdesk_shard::io::{ConnId, Input};
use world::{World, send, ticket};

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
    assert_eq!(world.heard(agent), ["state 5 resolved Ana", "ack#8 seq=5 n=2"]);
    // After a crash and with another number of shards everything is still there, and the visitor resumes.
    world.reboot(3, 2);
    let cursor = [Cursor::new(conversation, 1, 3)];
    let visitor = world.visitor(0, "v-1", 12, &cursor);
    assert_eq!(
        world.heard(visitor),
        ["welcome v-1@demo", "deliver 4 agent: good morning", "state 5 resolved Ana"]
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
    assert_eq!(world.heard(visitor), [format!("state 4 {} Ana", Status::Queued.name())]);
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
