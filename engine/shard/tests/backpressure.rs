//! Connections whose queues are full: not read, nothing lost, nobody else disturbed.

mod world;

use ringdesk_protocol::{ClientMessage, Code, Cursor, Role};
use ringdesk_shard::router::Router;
use world::{Client, World, send, ticket};

/// A gateway's connection after HELLO.
fn gateway(world: &mut World) -> Client {
    let gateway = world.connect(0);
    let ticket = ticket("gateway", "line", 0);
    let hello = ClientMessage::Hello {
        version_min: 1,
        version_max: 1,
        role: Role::Gateway,
        device: 1,
        ticket: &ticket,
        cursors: &[],
    };
    world.say(gateway, &hello, 1);
    gateway
}

/// A client that asks and never reads is not read itself: what waits for it stays near the cap, whatever it sends.
#[test]
fn a_client_that_never_reads_is_not_read_and_gets_everything_later() {
    let mut world = World::new(1);
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(visitor, 1);
    world.heard(visitor);
    world.hold_sends = true;
    for n in 1..=20_000u64 {
        world.post(visitor, &ClientMessage::Ping { nonce: n }, n as u32);
    }
    world.settle();
    assert_eq!(world.paused, [world.place(visitor)], "it is not read");
    assert!(world.backlog(0) <= 2 * (64 << 10), "{} bytes wait", world.backlog(0));
    // What the kernel had taken before is kept, and what cannot be read is not answered yet either.
    world.post(visitor, &send(conversation, 1, 0, "hello"), 30_000);
    world.settle();
    world.release_sends();
    let heard = world.heard(visitor);
    assert_eq!(heard.iter().filter(|text| *text == "pong").count(), 20_000);
    assert!(heard.contains(&"ack#30000 seq=1 n=1".to_owned()), "{:?}", &heard[19_990..]);
    assert!(world.paused.is_empty(), "it is read again");
}

/// What is pushed to a client that does not take it stays below the cap, however large the messages, while it falls
/// behind and while it is served from the log.
#[test]
fn large_messages_for_a_slow_reader_stay_below_its_cap() {
    let mut world = World::new(1);
    let writer = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(writer, 1);
    let reader = world.visitor(0, "v-1", 12, &[Cursor::new(conversation, 1, 0)]);
    world.heard(reader);
    let (cap, body) = (64 << 10, "x".repeat(25_000));
    world.hold_sends = true;
    for n in 1..=12u64 {
        world.post(writer, &send(conversation, n, 0, &body), n as u32);
        world.settle();
        world.release_sends_of(writer);
        assert!(world.backlog(0) <= cap, "{} bytes wait after {n}", world.backlog(0));
    }
    for _ in 0..12 {
        world.release_sends_of(reader);
        assert!(world.backlog(0) <= cap + cap / 16, "{} bytes wait", world.backlog(0));
    }
    world.hold_sends = false;
    world.release_sends();
    let heard = world.heard(reader);
    let seen = heard.iter().filter(|text| text.starts_with("deliver")).count();
    assert_eq!(seen, 12, "{:?}", heard.iter().map(|text| &text[..12.min(text.len())]).collect::<Vec<_>>());
}

#[test]
fn a_full_lane_stops_who_fills_it_until_it_has_room() {
    let mut world = World::new(2);
    let names: Vec<String> = (0..8).map(|at| format!("v-{at}")).collect();
    let visitors: Vec<Client> = names.iter().map(|name| world.visitor(0, name, 11, &[])).collect();
    let agent = world.agent(0, 1);
    let conversations: Vec<u64> = visitors.iter().map(|visitor| world.open(*visitor, 1)).collect();
    let across = |conversation: &&u64| {
        Router::even(2).owner(ringdesk_desk::ids::ConversationId(**conversation).slot())
    };
    let at = world.place(agent);
    let far =
        *conversations.iter().find(|c| across(c) != at.0).expect("one of eight lives on the other shard");
    world.heard(agent);
    world.lane_room = 90;
    world.post(agent, &ClientMessage::History { conversation: far, before: 0, after: 0, limit: 1 }, 50);
    world.post(agent, &ClientMessage::Ping { nonce: 7 }, 51);
    world.turn(usize::from(at.0));
    assert_eq!(world.paused, [at]);
    world.lane_room = 4096;
    world.now.mono_ns += 200_000;
    world.settle();
    assert!(world.paused.is_empty());
    let heard = world.heard(agent);
    assert!(heard.iter().any(|text| text == "pong"), "{heard:?}");
}

#[test]
fn a_noisy_visitor_of_a_gateway_spends_its_own_credit_only() {
    let mut world = World::new(1);
    let gateway = gateway(&mut world);
    let mut conversations = Vec::new();
    for (channel, visitor) in [(1, "noisy"), (2, "calm")] {
        world.say(gateway, &ClientMessage::Bind { channel, visitor, device: 5, cursors: &[] }, 2);
        world.heard(gateway);
        world.say_on(gateway, channel, &ClientMessage::Open { n: 1, topic: "" }, 3);
        let acks = world.acked(gateway);
        conversations.push(acks[0].1);
    }
    world.hold_disk = true;
    for n in 1..=80 {
        world.post_on(gateway, 1, &send(conversations[0], n, 0, "again"), 100 + n as u32);
    }
    world.post_on(gateway, 2, &send(conversations[1], 1, 0, "hello"), 999);
    world.settle();
    world.hold_disk = false;
    world.settle();
    let heard = world.heard(gateway);
    let count = |start: &str| heard.iter().filter(|text| text.starts_with(start)).count();
    assert_eq!(count("reject#1"), 16, "{heard:?}");
    assert_eq!(count("ack#"), 64 + 1);
    assert!(heard.contains(&"ack#999 seq=1 n=1".to_owned()));
}

#[test]
fn a_gateway_that_comes_back_reads_every_cold_subscription_and_those_unbound_meanwhile_wait_no_more() {
    const VISITORS: u32 = 64;
    let mut world = World::new(1);
    let first = gateway(&mut world);
    let mut conversations = Vec::new();
    for channel in 1..=VISITORS {
        let visitor = format!("v-{channel}");
        world.say(first, &ClientMessage::Bind { channel, visitor: &visitor, device: 5, cursors: &[] }, 2);
        world.heard(first);
        world.say_on(first, channel, &ClientMessage::Open { n: 1, topic: "" }, 3);
        let conversation = world.acked(first)[0].1;
        world.say_on(first, channel, &send(conversation, 1, 0, "hello"), 4);
        conversations.push(conversation);
    }
    let back = gateway(&mut world);
    world.heard(back);
    world.hold_reads = true;
    for (channel, conversation) in (1..).zip(&conversations) {
        let (visitor, cursors) = (format!("v-{channel}"), [Cursor::new(*conversation, 1, 0)]);
        world.post(
            back,
            &ClientMessage::Bind { channel, visitor: &visitor, device: 5, cursors: &cursors },
            2,
        );
    }
    world.settle();
    // All but the first four wait for their turn; every fourth of them goes, and comes back without a cursor.
    let unbound: Vec<u32> = (5..=VISITORS).step_by(4).collect();
    for &channel in &unbound {
        world.post(back, &ClientMessage::Unbind { channel }, 3);
        let visitor = format!("v-{channel}");
        world.post(back, &ClientMessage::Bind { channel, visitor: &visitor, device: 5, cursors: &[] }, 4);
    }
    world.settle();
    world.hold_reads = false;
    world.release_reads();
    world.settle();
    let heard = world.heard(back);
    let items = heard.iter().filter(|text| text.ends_with(": hello")).count();
    assert_eq!(items, VISITORS as usize - unbound.len(), "{heard:?}");
}

#[test]
fn the_time_for_hello_runs_from_the_accept_however_its_bytes_drip() {
    let mut world = World::new(1);
    let client = world.connect(0);
    for _ in 0..12 {
        world.drip(client, &[0]);
        world.advance_ms(1_000);
    }
    assert_eq!(world.heard(client), [format!("goodbye {}", Code::HelloExpected.name())]);
}

/// C8: typing first, then history, then new visitors, and sends last; who resumes is let in all the while.
#[test]
fn load_is_shed_in_the_promised_order() {
    let mut world = World::new(1);
    let writer = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(writer, 1);
    let second = world.visitor(0, "v-1", 12, &[Cursor::new(conversation, 1, 0)]);
    world.say(writer, &send(conversation, 1, 0, "hello"), 4);
    world.heard(second);
    world.hold_disk = true;
    let (body, mut n) = ("x".repeat(60_000), 1);
    // A little over an eighth of the staging of 8 MiB each time; what is asked of the shard meanwhile is seen after the disk is done.
    let (mut shed, mut newcomers) = (Vec::new(), Vec::new());
    for eighth in 0..8u32 {
        world.say(writer, &ClientMessage::Typing { conversation, on: true }, 0);
        world.say(
            second,
            &ClientMessage::History { conversation, before: 0, after: 0, limit: 1 },
            500 + eighth,
        );
        let names = [format!("new-{eighth}"), format!("old-{eighth}")];
        newcomers.push(world.visitor(0, &names[0], 13, &[]));
        newcomers.push(world.visitor(0, &names[1], 14, &[Cursor::new(conversation, 1, 0)]));
        shed.push(world.heard(second).iter().any(|text| text == "typing"));
        for _ in 0..18 {
            n += 1;
            world.post(writer, &send(conversation, n, 0, &body), n as u32);
        }
        world.settle();
    }
    assert_eq!(shed, [true, true, true, true, false, false, false, false], "typing is told below half");
    let welcomed: Vec<bool> =
        newcomers.iter().map(|client| world.heard(*client)[0].starts_with("welcome")).collect();
    let (new, resumed): (Vec<_>, Vec<_>) = welcomed.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
    assert_eq!(new, [true, true, true, true, true, true, false, false], "new visitors at three quarters");
    assert_eq!(resumed, [true; 8], "who resumes is let in");
    world.hold_disk = false;
    world.settle();
    let history: Vec<bool> = world
        .heard(second)
        .iter()
        .filter_map(|text| {
            let page = text.starts_with("page#5");
            (page || text.starts_with("reject#5")).then_some(page)
        })
        .collect();
    assert_eq!(history, [true, true, true, true, true, false, false, false], "history at five eighths");
    let heard = world.heard(writer);
    let acked = heard.iter().filter(|text| text.starts_with("ack#")).count();
    assert!(acked > 7 * 18, "sends go on until the end: {acked}");
    assert!(heard.iter().any(|text| text.contains(Code::Busy.name())), "and then are told BUSY");
}
