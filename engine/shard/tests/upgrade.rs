//! Upgrades in place, for one connection at a time: what goes along, in which order it comes back, what cannot go along.

mod world;

use ringdesk_protocol::ws::{Subprotocol, client, encode};
use ringdesk_protocol::{ClientMessage, Role, proxy};
use ringdesk_shard::carry::{Carried, Stage};
use ringdesk_shard::io::{ConnId, Control, Input, ListenerKind, Stand};
use ringdesk_shard::router::Router;
use world::{Client, WALL_S, World, send, ticket};

/// A connection, and the shard and entry it was at.
type Placed = ((u16, u32), Carried);

fn order(world: &mut World, stand: Stand) {
    world.inputs.iter_mut().for_each(|inputs| inputs.events.push(Input::Stand(stand)));
    world.settle();
}

/// All shards stand still, and the log's last mark is written.
fn stand_still(world: &mut World) {
    order(world, Stand::Still);
    world.advance_ms(20);
    assert!(world.shards.iter().all(ringdesk_shard::Shard::is_settled));
}

/// What is written down, by where it was, after it was bytes; and how many were in TLS.
fn collect(world: &mut World) -> (Vec<Placed>, u32) {
    order(world, Stand::Collect);
    let (mut all, mut tls) = (Vec::new(), 0);
    for (shard, stood) in std::mem::take(&mut world.stood) {
        tls += stood.tls;
        for (conn, carried) in stood.carried {
            let mut bytes = Vec::new();
            carried.encode(&mut bytes);
            assert_eq!(Carried::decode(&bytes), Ok(carried.clone()));
            all.push(((shard, conn.index), carried));
        }
    }
    (all, tls)
}

/// Another process with `shards` shards begins with these connections; the `boot`-th.
fn adopt(world: &mut World, (shards, boot): (u16, u32), all: Vec<Placed>) {
    world.reboot(shards, boot);
    let router = Router::even(shards);
    for (was, carried) in all {
        world.next_index += 1;
        let conn = ConnId { index: world.next_index, generation: 1 };
        let shard = carried.home().map_or(0, |slot| router.owner(slot));
        for place in world.moved.values_mut().filter(|place| **place == was) {
            *place = (shard, conn.index);
        }
        world.moved.entry(was).or_insert((shard, conn.index));
        let carried = Box::new(carried);
        world.inputs[usize::from(shard)].events.push(Input::Adopted { conn, carried });
    }
    world.settle();
}

fn upgrade(world: &mut World, shards: u16, boot: u32) {
    stand_still(world);
    let (all, _) = collect(world);
    adopt(world, (shards, boot), all);
}

/// A conversation of a visitor with an agent, after three messages.
fn conversation(world: &mut World) -> (Client, Client, u64) {
    let agent = world.agent(0, 1);
    let visitor = world.visitor(0, "v-1", 11, &[]);
    let conversation = world.open(visitor, 1);
    world.say(visitor, &send(conversation, 1, 0, "one"), 5);
    world.received.clear();
    (agent, visitor, conversation)
}

#[test]
fn a_conversation_goes_on_with_another_number_of_shards() {
    let mut world = World::new(2);
    let (agent, visitor, conversation) = conversation(&mut world);
    for (n, shards) in [(2, 3), (3, 1), (4, 2)] {
        upgrade(&mut world, shards, n as u32);
        assert!(world.heard(visitor).is_empty(), "nothing is said to a visitor");
        assert!(world.heard(agent).is_empty(), "nor to its agent");
        world.say(visitor, &send(conversation, n, 0, "more"), 9);
        let seq = n + 2;
        let delivered = format!("deliver {seq} visitor: more");
        assert_eq!(world.heard(visitor), [delivered.clone(), format!("ack#9 seq={seq} n={n}")]);
        assert_eq!(world.heard(agent), [delivered]);
    }
    assert!(world.closed.is_empty());
}

/// An agent that an upgrade carried is there for what comes next, and for what was coming.
#[test]
fn an_agent_is_still_there() {
    let mut world = World::new(2);
    let agent = world.agent(0, 1);
    upgrade(&mut world, 2, 2);
    world.heard(agent);
    let visitor = world.visitor(0, "v-2", 12, &[]);
    let conversation = world.open(visitor, 1);
    world.say(visitor, &send(conversation, 1, 0, "hello"), 5);
    let heard = world.heard(agent);
    assert!(heard.iter().any(|line| line.starts_with("assigned")), "{heard:?}");
    // Longer than any grace period: it has not been lost meanwhile.
    for _ in 0..8 {
        world.advance_ms(20_000);
        world.say(agent, &ClientMessage::Ping { nonce: 1 }, 7);
        world.say(visitor, &ClientMessage::Ping { nonce: 1 }, 7);
    }
    let heard = world.heard(visitor);
    assert_eq!(heard.iter().filter(|line| line.contains("queued")).count(), 1, "{heard:?}");
}

/// Bytes that came while the shard stood still, half a message among them, are decoded by the next process in order.
#[test]
fn what_was_not_decoded_is_decoded_afterwards() {
    let mut world = World::new(1);
    let (_, visitor, conversation) = conversation(&mut world);
    let mut bytes = Vec::new();
    for n in 2..=4 {
        send(conversation, n, 0, "later").encode(0, n as u32, &mut bytes);
    }
    world.drip(visitor, &bytes[..20]);
    world.settle();
    order(&mut world, Stand::Still);
    world.drip(visitor, &bytes[20..70]);
    stand_still(&mut world);
    let (all, _) = collect(&mut world);
    assert!(world.heard(visitor).is_empty(), "nothing is decoded by who stands still");
    adopt(&mut world, (1, 2), all);
    world.drip(visitor, &bytes[70..]);
    world.settle();
    let acks: Vec<String> = world.heard(visitor).into_iter().filter(|line| line.starts_with("ack")).collect();
    assert_eq!(acks, ["ack#2 seq=4 n=2", "ack#3 seq=5 n=3", "ack#4 seq=6 n=4"]);
}

/// The rest of a send that was taken back, and what waited behind it, go out once and in their order.
#[test]
fn what_a_slow_client_was_not_sent_is_sent_afterwards() {
    for (called_off, went_out) in [(false, 0), (false, 25), (true, 25)] {
        let mut world = World::new(1);
        let (agent, visitor, conversation) = conversation(&mut world);
        world.hold_sends = true;
        world.post(visitor, &send(conversation, 2, 0, "two"), 5);
        world.settle();
        world.post(visitor, &send(conversation, 3, 0, "three"), 6);
        world.settle();
        order(&mut world, Stand::Still);
        for (shard, conn, buffer) in std::mem::take(&mut world.held_sends) {
            let sent = &buffer[..went_out];
            world.received.entry((shard, conn.index)).or_default().extend_from_slice(sent);
            world.inputs[usize::from(shard)].events.push(Input::Unsent {
                conn,
                buffer,
                from: went_out as u32,
            });
        }
        stand_still(&mut world);
        assert!(world.held_sends.is_empty(), "nothing follows what was taken back");
        world.hold_sends = false;
        let (all, _) = collect(&mut world);
        assert_eq!(all.iter().filter(|(_, carried)| !carried.unsent.is_empty()).count(), 2);
        // The bytes before the upgrade and after it are one stream.
        let before: Vec<_> = [agent, visitor]
            .map(|client| world.received.remove(&world.place(client)).unwrap_or_default())
            .into();
        if called_off {
            order(&mut world, Stand::GoOn);
        } else {
            adopt(&mut world, (1, 2), all);
        }
        for (client, mut bytes) in [agent, visitor].into_iter().zip(before) {
            let after = world.received.entry(world.place(client)).or_default();
            bytes.append(after);
            *after = bytes;
        }
        let delivered = ["deliver 4 visitor: two", "deliver 5 visitor: three"];
        assert_eq!(world.heard(agent), delivered);
        let [two, three] = delivered;
        assert_eq!(world.heard(visitor), [two, "ack#5 seq=4 n=2", three, "ack#6 seq=5 n=3"]);
    }
}

/// Called off before or after all was written down: everybody is read again, and time did not pass for silence.
#[test]
fn nothing_is_lost_when_it_is_called_off() {
    for late in [false, true] {
        let mut world = World::new(2);
        let (agent, visitor, conversation) = conversation(&mut world);
        let (paused, closed) = (world.paused.len(), world.closed.len());
        order(&mut world, Stand::Still);
        world.post(visitor, &send(conversation, 2, 0, "meanwhile"), 5);
        world.settle();
        if late {
            stand_still(&mut world);
            collect(&mut world);
        }
        assert!(world.heard(agent).is_empty());
        world.advance_ms(300_000);
        order(&mut world, Stand::GoOn);
        assert_eq!((world.paused.len(), world.closed.len()), (paused, closed));
        assert_eq!(world.heard(agent), ["deliver 4 visitor: meanwhile"]);
        world.say(visitor, &send(conversation, 3, 0, "again"), 6);
        assert_eq!(world.heard(agent), ["deliver 5 visitor: again"]);
    }
}

#[test]
fn a_gateway_keeps_its_channels_and_their_order() {
    let mut world = World::new(2);
    let gateway = world.connect(0);
    let ticket = ticket("gateway", "line", 0);
    let (role, cursors) = (Role::Gateway, &[][..]);
    let hello =
        ClientMessage::Hello { version_min: 1, version_max: 1, role, device: 5, ticket: &ticket, cursors };
    world.say(gateway, &hello, 1);
    let mut conversations = Vec::new();
    for channel in 1..=20u32 {
        let visitor = format!("g-{channel}");
        let bind = ClientMessage::Bind { channel, visitor: &visitor, device: 5, cursors: &[] };
        world.say(gateway, &bind, 2);
        world.heard(gateway);
        world.say_on(gateway, channel, &ClientMessage::Open { n: 1, topic: "" }, 3);
        conversations.push(world.acked(gateway)[0].1);
    }
    // What was revoked before the stand-still has had its effect, and does not hit who was bound again since.
    let revoke = Control::Revoke { site: 1, agent: 0, visitor: "g-3".into(), before_s: WALL_S - 60 };
    upgrade(&mut world, 3, 2);
    world.inputs.iter_mut().for_each(|inputs| inputs.events.push(Input::Control(revoke.clone())));
    world.settle();
    assert!(world.heard(gateway).is_empty());
    for (channel, conversation) in (1..).zip(&conversations) {
        world.say_on(gateway, channel, &send(*conversation, 1, 0, "here"), 50 + channel);
        let heard = world.heard(gateway);
        let ack = format!("ack#{} seq=1 n=1", 50 + channel);
        assert_eq!(heard, ["deliver 1 visitor: here", "state 2 queued", &ack], "channel {channel}");
    }
    // Later ones do.
    let revoke = Control::Revoke { site: 1, agent: 0, visitor: "g-3".into(), before_s: WALL_S + 60 };
    world.inputs.iter_mut().for_each(|inputs| inputs.events.push(Input::Control(revoke.clone())));
    world.settle();
    assert_eq!(world.heard(gateway), ["goodbye TICKET_REVOKED"]);
}

/// A ticket that was revoked while nobody looked, and cursors of other logs, end the connection with a word.
#[test]
fn what_a_hello_would_be_refused_for_ends_the_connection() {
    let mut world = World::new(1);
    let (_, visitor, _) = conversation(&mut world);
    stand_still(&mut world);
    let (mut all, _) = collect(&mut world);
    for (_, carried) in &mut all {
        if let Stage::Ready(ready) = &mut carried.stage {
            ready.log_epoch += 1;
        }
    }
    adopt(&mut world, (1, 2), all);
    assert_eq!(world.heard(visitor), ["goodbye SHUTTING_DOWN"]);

    let mut world = World::new(1);
    let (agent, visitor, conversation) = conversation(&mut world);
    stand_still(&mut world);
    let (all, _) = collect(&mut world);
    world.reboot(1, 2);
    let revoke = Control::Revoke { site: 1, agent: 0, visitor: "v-1".into(), before_s: WALL_S + 1 };
    world.inputs[0].events.push(Input::Control(revoke));
    world.settle();
    let mut places = Vec::new();
    for (was, carried) in all {
        world.next_index += 1;
        let conn = ConnId { index: world.next_index, generation: 1 };
        places.push((was, (0, conn.index)));
        world.inputs[0].events.push(Input::Adopted { conn, carried: Box::new(carried) });
    }
    world.moved.extend(places);
    world.settle();
    assert_eq!(world.heard(visitor), ["goodbye TICKET_REVOKED"]);
    assert!(world.heard(agent).is_empty());
    world.say(agent, &send(conversation, 1, 1, "are you there?"), 4);
    assert_eq!(world.heard(agent), ["deliver 4 agent: are you there?", "ack#4 seq=4 n=1"]);
}

fn accept(world: &mut World, listener: ListenerKind) -> Client {
    world.next_index += 1;
    let conn = ConnId { index: world.next_index, generation: 1 };
    world.inputs[0].events.push(Input::Accepted { conn, listener, peer: None });
    world.settle();
    Client { shard: 0, index: conn.index }
}

/// Cut anywhere between its first byte and its WELCOME, a connection is greeted by the process that has it then.
#[test]
fn a_connection_is_carried_at_every_step_before_its_welcome() {
    let ticket = ticket("visitor", "v-9", 0);
    let (role, cursors) = (Role::Visitor, &[][..]);
    let mut hello = Vec::new();
    ClientMessage::Hello { version_min: 1, version_max: 1, role, device: 9, ticket: &ticket, cursors }
        .encode(0, 1, &mut hello);
    let mut header = Vec::new();
    let (peer, local) = ("192.0.2.7:5000".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    proxy::write(peer, local, &mut header);
    let mut request = Vec::new();
    client::request("chat.example", None, "dGhlIHNhbXBsZSBub25jZQ==", Subprotocol::Binary, &mut request);
    let mut message = Vec::new();
    encode::masked(ringdesk_protocol::ws::Opcode::Binary, &hello, [9, 8, 7, 6], &mut message);
    let websocket = [&header[..], &request, &message].concat();
    let binary = [&header[..], &hello].concat();
    for (kind, stream) in [(ListenerKind::BINARY, binary), (ListenerKind::WEBSOCKET, websocket)] {
        for cut in (0..stream.len()).step_by(41).chain([stream.len() - 1]) {
            let mut world = World::new(1);
            let client = accept(&mut world, ListenerKind { proxied: true, ..kind });
            world.drip(client, &stream[..cut]);
            world.settle();
            let before = world.received.remove(&world.place(client)).unwrap_or_default();
            upgrade(&mut world, 1, 2);
            world.drip(client, &stream[cut..]);
            world.settle();
            let after = world.received.remove(&world.place(client)).unwrap_or_default();
            let all = [before, after].concat();
            assert!(String::from_utf8_lossy(&all).contains("v-9"), "no WELCOME, cut at {cut}: {all:?}");
            assert!(world.closed.is_empty(), "cut at {cut}");
        }
    }
}

/// The rest of a WebSocket message in two fragments, the second masked with its own key.
#[test]
fn half_a_websocket_message_is_carried() {
    let ticket = ticket("visitor", "v-8", 0);
    let (role, cursors) = (Role::Visitor, &[][..]);
    let mut hello = Vec::new();
    ClientMessage::Hello { version_min: 1, version_max: 1, role, device: 8, ticket: &ticket, cursors }
        .encode(0, 1, &mut hello);
    let mut ping = Vec::new();
    ClientMessage::Ping { nonce: 0x0123_4567 }.encode(0, 2, &mut ping);
    let frame = |first: u8, payload: &[u8], mask| {
        let mut bytes = Vec::new();
        encode::masked(ringdesk_protocol::ws::Opcode::Binary, payload, mask, &mut bytes);
        bytes[0] = first;
        bytes
    };
    let message = [frame(0x02, &ping[..9], [1, 2, 3, 4]), frame(0x80, &ping[9..], [5, 6, 7, 8])].concat();
    for cut in (0..message.len()).step_by(3) {
        let mut world = World::new(1);
        let client = accept(&mut world, ListenerKind::WEBSOCKET);
        let mut request = Vec::new();
        client::request("chat.example", None, "dGhlIHNhbXBsZSBub25jZQ==", Subprotocol::Binary, &mut request);
        world.drip(client, &request);
        world.settle();
        world.drip(client, &frame(0x82, &hello, [9; 4]));
        world.settle();
        world.received.clear();
        world.drip(client, &message[..cut]);
        world.settle();
        upgrade(&mut world, 1, 2);
        world.drip(client, &message[cut..]);
        world.settle();
        let heard = world.received.remove(&world.place(client)).unwrap_or_default();
        let pong =
            ringdesk_protocol::frame::frames(&heard[2..], 1 << 20).next().expect("a PONG").expect("whole");
        assert_eq!(
            ringdesk_protocol::ServerMessage::decode(pong.header.kind, pong.body),
            Ok(ringdesk_protocol::ServerMessage::Pong { nonce: 0x0123_4567 }),
            "cut at {cut}"
        );
    }
}
