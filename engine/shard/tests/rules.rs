//! Rules of the wire that a client written from `docs/WIRE.md` relies on, one test each.

mod world;

use ringdesk_protocol::{Availability, ClientMessage, Cursor, Role};
use ringdesk_shard::io::{ConnId, Input};
use world::{Client, World, send, ticket};

/// A visitor with a conversation of one message, which is items 1 and 2.
fn with_a_message(world: &mut World) -> (Client, u64) {
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(visitor, 1);
    world.say(visitor, &send(conversation, 1, 0, "hello"), 4);
    world.heard(visitor);
    (visitor, conversation)
}

fn hang_up(world: &mut World, client: Client) {
    let (shard, index) = world.place(client);
    let conn = ConnId { index, generation: 1 };
    world.inputs[usize::from(shard)].events.push(Input::Hangup { conn });
    world.settle();
}

fn gateway(world: &mut World) -> Client {
    let client = world.connect(0);
    let ticket = ticket("gateway", "gw", 0);
    let hello = ClientMessage::Hello {
        version_min: 1,
        version_max: 1,
        role: Role::Gateway,
        device: 1,
        ticket: &ticket,
        cursors: &[],
    };
    world.say(client, &hello, 1);
    assert_eq!(world.heard(client), ["welcome @demo"]);
    client
}

#[test]
fn a_cursor_beyond_the_end_is_refused_and_does_not_listen() {
    let mut world = World::new(1);
    let (visitor, conversation) = with_a_message(&mut world);
    let ahead = world.visitor(0, "v-1", 12, &[Cursor::new(conversation, 1, 3)]);
    assert_eq!(world.heard(ahead), ["welcome v-1@demo", "reject#0 BEYOND_END 2"]);
    world.say(visitor, &send(conversation, 2, 0, "more"), 5);
    assert!(world.heard(ahead).is_empty(), "it does not listen");
    let at_the_end = world.visitor(0, "v-1", 13, &[Cursor::new(conversation, 1, 3)]);
    assert_eq!(world.heard(at_the_end), ["welcome v-1@demo"]);
    world.say(visitor, &ClientMessage::Receipt { conversation, delivered: 9, read: 0 }, 6);
    let seen = world.heard(visitor);
    assert_eq!(seen.last().map(String::as_str), Some("reject#6 BEYOND_END 3"));
}

#[test]
fn an_owner_with_a_cursor_beyond_the_end_still_learns_that_it_owns() {
    let mut world = World::new(2);
    let agent = world.agent(0, 1);
    let (_, conversation) = with_a_message(&mut world);
    hang_up(&mut world, agent);
    let agent = world.agent_at(0, 2, &[Cursor::new(conversation, 1, 99)]);
    let seen = world.heard(agent);
    assert!(seen.contains(&"reject#0 BEYOND_END 3".to_owned()), "{seen:?}");
    assert!(seen.contains(&"assigned after=0 epoch=1".to_owned()), "{seen:?}");
    assert!(seen.contains(&"state 3 assigned Ana".to_owned()), "{seen:?}");
}

#[test]
fn an_agent_that_was_away_for_long_is_offline_until_it_declares_itself() {
    let mut world = World::new(2);
    let agent = world.agent(0, 1);
    hang_up(&mut world, agent);
    world.advance_ms(20_000);
    let agent = world.agent_at(0, 1, &[]);
    let (visitor, _) = with_a_message(&mut world);
    assert!(world.heard(agent).contains(&"assigned after=0 epoch=1".to_owned()), "back in time, it goes on");
    hang_up(&mut world, agent);
    world.advance_ms(31_000);
    assert_eq!(world.heard(visitor), ["state 4 queued Ana"]);
    let agent = world.agent_at(0, 1, &[]);
    assert_eq!(world.heard(agent), ["welcome Ana@demo"], "no conversation for who said nothing");
    // The answer to the first PRESENCE could have been lost: its repeat must not leave the agent offline.
    let online = ClientMessage::Presence { n: 1, availability: Availability::Online, capacity: 5 };
    world.say(agent, &online, 7);
    let seen = world.heard(agent);
    assert!(seen.contains(&"ack#7 seq=0 n=1".to_owned()), "{seen:?}");
    assert!(seen.contains(&"assigned after=0 epoch=2".to_owned()), "{seen:?}");
}

#[test]
fn presence_is_told_what_became_of_its_n() {
    let mut world = World::new(1);
    let agent = world.agent(0, 3);
    world.heard(agent);
    let presence = |n, capacity| ClientMessage::Presence { n, availability: Availability::Online, capacity };
    world.say(agent, &presence(3, 5), 4);
    world.say(agent, &presence(3, 6), 5);
    world.say(agent, &presence(2, 5), 6);
    world.say(agent, &presence(7, 6), 7);
    world.say(agent, &presence(0, 6), 8);
    world.say(agent, &presence(8, 1001), 9);
    let seen = world.heard(agent);
    let expected = ["ack#4 seq=0 n=3 dup", "reject#5 ID_REUSED 0", "reject#6 OUT_OF_ORDER 4"];
    assert_eq!(seen[..3], expected);
    assert_eq!(seen[3..], ["ack#7 seq=0 n=7", "reject#8 INVALID 0", "reject#9 INVALID 0"]);
}

#[test]
fn a_second_hello_ends_the_connection_even_if_it_cannot_be_read() {
    let mut world = World::new(1);
    for body in [&b""[..], b"RDK2"] {
        let (visitor, _) = with_a_message(&mut world);
        let mut frame = vec![body.len() as u8, 0, 0, 0, 0x01, 0, 0, 0];
        frame.extend_from_slice(&[0; 8]);
        frame.extend_from_slice(body);
        world.drip(visitor, &frame);
        world.settle();
        assert_eq!(world.heard(visitor), ["goodbye PROTOCOL_VIOLATION"]);
    }
}

#[test]
fn a_gateways_own_channel_is_no_visitors() {
    let mut world = World::new(1);
    let gateway = gateway(&mut world);
    world.say_on(gateway, 0, &ClientMessage::Open { n: 1, topic: "" }, 2);
    world.say_on(gateway, 5, &ClientMessage::Open { n: 1, topic: "" }, 3);
    world.say_on(gateway, 0, &ClientMessage::Bind { channel: 5, device: 0, visitor: "v", cursors: &[] }, 4);
    assert_eq!(
        world.heard(gateway),
        ["reject#2 FORBIDDEN 0", "reject#3 CHANNEL_UNKNOWN 0", "reject#4 INVALID 0"]
    );
}
