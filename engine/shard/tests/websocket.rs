//! Connections over WebSocket: what is agreed, what goes with a hand-over, what is refused.

mod world;

use std::ops::ControlFlow;
use std::sync::Arc;

use ringdesk_protocol::ws::{Decoder, Event, Opcode, Subprotocol, client, encode};
use ringdesk_protocol::{ClientMessage, Role, ServerMessage};
use ringdesk_shard::io::{ConnId, Control, Input, ListenerKind};
use ringdesk_shard::settings::Settings;
use world::{Client, World, send, settings, ticket};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn world(shards: u16, settings: Settings) -> World {
    let (mut world, settings) = (World::new(shards), Arc::new(settings));
    for inputs in &mut world.inputs {
        inputs.events.push(Input::Control(Control::Settings(Arc::clone(&settings))));
    }
    world.settle();
    world
}

fn accepted(world: &mut World) -> Client {
    world.next_index += 1;
    let conn = ConnId { index: world.next_index, generation: 1 };
    world.inputs[0].events.push(Input::Accepted { conn, listener: ListenerKind::WEBSOCKET, peer: None });
    Client { shard: 0, index: conn.index }
}

/// Connects and upgrades with these additional header lines; the response.
fn upgrade(world: &mut World, lines: &str) -> (Client, String) {
    let client = accepted(world);
    let mut request = Vec::new();
    client::request("chat.example", None, KEY, Subprotocol::Binary, &mut request);
    request.truncate(request.len() - 2);
    request.extend_from_slice(lines.as_bytes());
    request.extend_from_slice(b"\r\n");
    world.drip(client, &request);
    world.settle();
    let response = String::from_utf8(received(world, client)).expect("text");
    (client, response)
}

fn received(world: &mut World, client: Client) -> Vec<u8> {
    let place = world.place(client);
    world.received.remove(&place).unwrap_or_default()
}

/// A binary message with these first bits.
fn message(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::masked(Opcode::Binary, payload, [4, 3, 2, 1], &mut bytes);
    bytes[0] = first;
    bytes
}

/// The frame as one stored block (RFC 7692 section 7.2.3.3).
fn stored(frame: &[u8]) -> Vec<u8> {
    let length = frame.len() as u16;
    [&[0][..], &length.to_le_bytes(), &(!length).to_le_bytes(), frame, &[0]].concat()
}

fn hello(name: &str) -> Vec<u8> {
    let ticket = ticket("visitor", name, 0);
    let (role, cursors) = (Role::Visitor, &[][..]);
    let mut bytes = Vec::new();
    ClientMessage::Hello { version_min: 1, version_max: 1, role, device: 11, ticket: &ticket, cursors }
        .encode(0, 1, &mut bytes);
    bytes
}

/// Kinds of the server's first bytes: whether each message was compressed.
fn first_bytes(bytes: &[u8]) -> Vec<u8> {
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let length = match bytes[at + 1] {
            126 => 4 + usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]])),
            short => 2 + usize::from(short),
        };
        found.push(bytes[at]);
        at += length;
    }
    found
}

#[test]
fn compression_is_agreed_to_only_where_it_is_set() {
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let (_, response) = upgrade(&mut world(1, Settings::clone(&settings())), offer);
    assert!(response.starts_with("HTTP/1.1 101 ") && !response.contains("Extensions"), "{response}");
    let on = Settings { websocket_deflate: true, ..Settings::clone(&settings()) };
    let (_, response) = upgrade(&mut world(1, on.clone()), "");
    assert!(response.starts_with("HTTP/1.1 101 ") && !response.contains("Extensions"), "{response}");
    let (_, response) = upgrade(&mut world(1, on), offer);
    let agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n";
    assert!(response.contains(&format!("Sec-WebSocket-Extensions: {agreed}")), "{response}");
}

/// The agreement goes with a connection to the shard that owns its identity; what is long leaves compressed.
#[test]
fn a_compressed_conversation_survives_the_hand_over() {
    let mut moved = 0;
    for name in ["v-1", "v-2", "v-3", "v-4", "v-5", "v-6"] {
        let on = Settings { websocket_deflate: true, ..Settings::clone(&settings()) };
        let mut world = world(2, on);
        let (client, _) = upgrade(&mut world, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
        world.drip(client, &message(0xC2, &stored(&hello(name))));
        world.settle();
        moved += world.handed_over;
        assert_eq!(first_bytes(&received(&mut world, client)), [0x82], "WELCOME is short");
        let mut open = Vec::new();
        let body = "a".repeat(1_000);
        ClientMessage::Open { n: 1, topic: "" }.encode(0, 2, &mut open);
        world.drip(client, &message(0x82, &open));
        world.settle();
        let conversation = acked(&received(&mut world, client));
        let mut said = Vec::new();
        send(conversation, 1, 0, &body).encode(0, 3, &mut said);
        world.drip(client, &message(0xC2, &stored(&said)));
        world.settle();
        received(&mut world, client);
        let mut history = Vec::new();
        ClientMessage::History { conversation, before: 0, after: 0, limit: 10 }.encode(0, 4, &mut history);
        world.drip(client, &message(0x82, &history));
        world.settle();
        let page = received(&mut world, client);
        assert_eq!(first_bytes(&page), [0xC2]);
        assert!(page.len() < 400, "{} bytes for a page with 1,000 times the same", page.len());
    }
    assert!((1..6).contains(&moved), "{moved} of 6 were handed over");
}

/// The conversation of the first ACK in these messages.
fn acked(bytes: &[u8]) -> u64 {
    let mut found = None;
    Decoder::client(1 << 20)
        .feed(&mut bytes.to_vec(), |event| {
            let Event::Binary(payload) = event else { return ControlFlow::Continue(()) };
            for frame in ringdesk_protocol::frame::frames(payload, 1 << 20).map(|frame| frame.expect("whole"))
            {
                if let Ok(ServerMessage::Ack { conversation, .. }) =
                    ServerMessage::decode(frame.header.kind, frame.body)
                {
                    found = Some(conversation);
                }
            }
            ControlFlow::Continue(())
        })
        .expect("the server's frames");
    found.expect("an ACK")
}

#[test]
fn a_bomb_is_stopped_at_the_bound_of_a_message() {
    let on = Settings { websocket_deflate: true, ..Settings::clone(&settings()) };
    let mut world = world(1, on);
    let (client, _) = upgrade(&mut world, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    // Fixed Huffman code, a zero byte and then copies of 258 bytes of it (5 bits of code and distance after 8).
    let mut bits = vec![false, true, false];
    bits.extend([false, false, true, true, false, false, false, false]);
    for _ in 0..1_000 {
        bits.extend([true, true, false, false, false, true, false, true, false, false, false, false, false]);
    }
    bits.extend([false; 7]);
    let mut bomb = vec![0u8; bits.len().div_ceil(8)];
    for (place, bit) in bits.iter().enumerate() {
        bomb[place / 8] |= u8::from(*bit) << (place % 8);
    }
    bomb.push(0);
    world.drip(client, &message(0xC2, &bomb));
    world.settle();
    assert_eq!(received(&mut world, client), [0x88, 2, 0x03, 0xF1], "close code 1009");
    assert_eq!(world.closed, [world.place(client)]);
}

#[test]
fn a_request_for_no_known_subprotocol_is_refused() {
    let mut world = world(1, Settings::clone(&settings()));
    let client = accepted(&mut world);
    let mut request = Vec::new();
    client::request("chat.example", None, KEY, Subprotocol::Binary, &mut request);
    let request = String::from_utf8(request).expect("text").replace("ringdesk.v1.bin", "chat");
    world.drip(client, request.as_bytes());
    world.settle();
    let response = String::from_utf8(received(&mut world, client)).expect("text");
    assert!(response.starts_with("HTTP/1.1 400 ") && response.contains("BAD_HANDSHAKE: "), "{response}");
    assert_eq!(world.closed, [(0, client.index)]);
}
