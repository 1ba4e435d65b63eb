//! The gateway against a script of the server's side.

use ringdesk_protocol::frame::frames;

use super::*;
use ringdesk_protocol::{Author, Code, Content};

const CONVERSATION: u64 = 0x00a4_0000_0000_0001;

/// The server's side of one connection.
struct Script {
    gateway: Gateway,
    now_ms: u64,
}

/// A frame from the gateway: channel, tag, and the message's debug form.
type Sent = (u32, u32, String);

impl Script {
    fn start() -> Self {
        let mut script = Self { gateway: Gateway::new("ticket".into(), 7), now_ms: 1_000 };
        script.connect();
        script
    }

    fn connect(&mut self) {
        self.gateway.connected(self.now_ms);
        assert!(matches!(&self.sent()[..], [(0, 1, hello)] if hello.starts_with("Hello")));
        self.say(0, 1, welcome(1));
    }

    /// A visitor with an open conversation and a bound channel.
    fn open(visitor: &str) -> Self {
        let mut script = Self::start();
        script.gateway.line(visitor, "one").expect("room");
        let bind = script.one("Bind");
        script.say(1, bind.1, welcome(1));
        let open = script.one("Open");
        script.say(1, open.1, ack(0));
        script
    }

    /// Gives the gateway a frame, in two pieces.
    fn say(&mut self, channel: u32, tag: u32, message: ServerMessage<'_>) {
        self.try_say(channel, tag, message).expect("a frame the gateway likes");
    }

    fn try_say(&mut self, channel: u32, tag: u32, message: ServerMessage<'_>) -> Result<(), End> {
        let mut bytes = Vec::new();
        message.encode(channel, tag, &mut bytes);
        self.gateway.received(&bytes[..10], self.now_ms)?;
        self.gateway.received(&bytes[10..], self.now_ms)
    }

    fn sent(&mut self) -> Vec<Sent> {
        self.gateway.turn(self.now_ms).expect("a server that talks");
        let output = self.gateway.take_output();
        let sent = frames(&output, FRAME_BYTES_MAX as u32).map(|frame| {
            let frame = frame.expect("whole frames");
            let message = ClientMessage::decode(frame.header.kind, frame.body).expect("a client message");
            (frame.header.channel, frame.header.tag, format!("{message:?}"))
        });
        sent.collect()
    }

    fn one(&mut self, name: &str) -> Sent {
        let mut sent = self.sent();
        assert!(sent.len() == 1 && sent[0].2.starts_with(name), "{sent:?}");
        sent.remove(0)
    }

    /// The n and bodies of SENDs, which must be all there is.
    fn sends(&mut self) -> Vec<(u32, u64, String)> {
        self.gateway.turn(self.now_ms).expect("a server that talks");
        let output = self.gateway.take_output();
        let sends = frames(&output, FRAME_BYTES_MAX as u32).map(|frame| {
            let frame = frame.expect("whole frames");
            match ClientMessage::decode(frame.header.kind, frame.body) {
                Ok(ClientMessage::Send { n, body, .. }) => {
                    (frame.header.tag, n, String::from_utf8_lossy(body).into_owned())
                }
                other => panic!("{other:?}"),
            }
        });
        sends.collect()
    }

    fn lines(&mut self) -> Vec<String> {
        self.gateway.take_items().into_iter().filter_map(|item| item.line).collect()
    }
}

fn welcome(epoch: u32) -> ServerMessage<'static> {
    ServerMessage::Welcome {
        version: 1,
        epoch,
        session: 1,
        at: 0,
        heartbeat_s: 30,
        frame_bytes_max: FRAME_BYTES_MAX as u32,
        agent: 0,
        identity: "",
        site: "demo",
    }
}

fn ack(seq: u64) -> ServerMessage<'static> {
    ServerMessage::Ack { conversation: CONVERSATION, seq, n: 0, duplicate: false }
}

fn deliver(seq: u64, author: Author, device: u64, body: &str) -> ServerMessage<'_> {
    ServerMessage::Deliver {
        conversation: CONVERSATION,
        seq,
        at: 0,
        author,
        agent: 0,
        device,
        n: 1,
        content: Content::Text,
        body: body.as_bytes(),
    }
}

fn reject(code: Code, retry_after_ms: u32, detail: u64) -> ServerMessage<'static> {
    let conversation = CONVERSATION;
    ServerMessage::Reject { code, of: 3, conversation, retry_after_ms, detail, sentence: "No." }
}

fn bodies(sends: &[(u32, u64, String)]) -> Vec<(u64, &str)> {
    sends.iter().map(|(_, n, body)| (*n, body.as_str())).collect()
}

#[test]
fn a_line_binds_opens_and_sends_and_an_answer_comes_back() {
    let mut script = Script::open("v");
    let sends = script.sends();
    assert_eq!(bodies(&sends), [(1, "one")]);
    script.say(1, sends[0].0, ack(1));
    script.say(1, 0, deliver(1, Author::Visitor, 8, "one"));
    script.say(1, 0, deliver(2, Author::Agent, 99, "hello\nthere"));
    let items = script.gateway.take_items();
    let lines: Vec<_> = items.iter().map(|item| (item.seq, item.line.as_deref())).collect();
    assert_eq!(lines, [(1, None), (2, Some("agent hello\\nthere"))]);
    assert!(script.sent().is_empty(), "nothing is confirmed before it is stored");
    items.iter().for_each(|item| script.gateway.stored(item));
    assert!(script.one("Receipt").2.contains("delivered: 2, read: 0"));
}

#[test]
fn what_was_not_acknowledged_goes_again_with_the_same_n() {
    let mut script = Script::open("v");
    script.gateway.line("v", "two").expect("room");
    script.gateway.line("v", "three").expect("room");
    let sends = script.sends();
    script.say(1, sends[0].0, ack(1));
    script.gateway.disconnected();
    script.gateway.line("v", "four").expect("room without a connection");
    script.connect();
    let bind = script.one("Bind");
    script.say(1, bind.1, welcome(1));
    assert_eq!(bodies(&script.sends()), [(2, "two"), (3, "three"), (4, "four")]);
}

#[test]
fn the_cursor_is_what_was_stored_and_the_rest_comes_again_once() {
    let mut script = Script::open("v");
    script.sends();
    for seq in 1..=3 {
        script.say(1, 0, deliver(seq, Author::Agent, 9, "x"));
    }
    let items = script.gateway.take_items();
    script.gateway.stored(&items[0]);
    script.gateway.disconnected();
    script.connect();
    let bind = script.one("Bind");
    assert!(bind.2.contains("seq: U64(1)"), "{}", bind.2);
    script.say(1, bind.1, welcome(1));
    assert!(script.sent()[1].2.contains("delivered: 1"));
    for seq in [1, 2, 2, 3] {
        script.say(1, 0, deliver(seq, Author::Agent, 9, "x"));
    }
    let again: Vec<_> = script.gateway.take_items().iter().map(|item| item.seq).collect();
    assert_eq!(again, [2, 3]);
    let hole = script.try_say(1, 0, deliver(5, Author::Agent, 9, "x"));
    assert_eq!(hole.map_err(|end| end.sentence), Err("v got seq 5 after 3".to_owned()));
}

#[test]
fn a_busy_server_gets_the_same_again_later_and_in_order() {
    let mut script = Script::open("v");
    script.gateway.line("v", "two").expect("room");
    let sends = script.sends();
    script.say(1, sends[0].0, reject(Code::Busy, 100, 0));
    script.say(1, sends[1].0, reject(Code::OutOfOrder, 0, 1));
    assert!(script.sent().is_empty(), "not before its time");
    let at = script.gateway.next_ms();
    assert!((1_100..1_200).contains(&at), "{at}");
    script.now_ms = at;
    assert_eq!(bodies(&script.sends()), [(1, "one"), (2, "two")]);
    assert_eq!(script.lines(), [""; 0]);
}

#[test]
fn a_refused_message_is_told_and_its_number_goes_to_the_next() {
    let mut script = Script::open("v");
    script.gateway.line("v", "two").expect("room");
    let sends = script.sends();
    script.say(1, sends[0].0, reject(Code::TooLarge, 0, 0));
    script.say(1, sends[1].0, reject(Code::OutOfOrder, 0, 1));
    assert_eq!(script.lines(), ["system not delivered: No."]);
    assert_eq!(bodies(&script.sends()), [(1, "two")]);
}

#[test]
fn a_lost_count_is_taken_from_the_server() {
    let mut script = Script::open("v");
    script.gateway.line("v", "two").expect("room");
    let sends = script.sends();
    script.say(1, sends[0].0, reject(Code::OutOfOrder, 0, 2));
    script.now_ms += 2_000;
    assert_eq!(bodies(&script.sends()), [(2, "two")]);
}

#[test]
fn a_retired_device_is_replaced() {
    let mut script = Script::open("v");
    script.gateway.line("v", "two").expect("room");
    let sends = script.sends();
    script.say(1, sends[0].0, reject(Code::DeviceExpired, 0, 0));
    let unbind = script.one("Unbind");
    script.say(1, sends[1].0, reject(Code::DeviceExpired, 0, 0));
    assert!(script.sent().is_empty(), "once is enough");
    script.say(1, unbind.1, ServerMessage::Ack { conversation: 0, seq: 0, n: 0, duplicate: false });
    let bind = script.one("Bind");
    assert!(bind.2.contains("device: 9"), "{}", bind.2);
    script.say(1, bind.1, welcome(1));
    assert_eq!(bodies(&script.sends()), [(1, "one"), (2, "two")]);
}

#[test]
fn a_conversation_that_is_gone_is_followed_by_another() {
    let mut script = Script::open("v");
    let sends = script.sends();
    script.say(1, sends[0].0, reject(Code::NotFound, 0, 0));
    assert!(script.one("Open").2.contains("n: 2"));
}

#[test]
fn another_epoch_brings_the_conversation_from_its_start() {
    let mut script = Script::open("v");
    script.sends();
    script.say(1, 0, deliver(1, Author::Agent, 9, "x"));
    let items = script.gateway.take_items();
    script.gateway.stored(&items[0]);
    script.gateway.disconnected();
    script.connect();
    let bind = script.one("Bind");
    script.say(0, 0, welcome(2));
    script.say(1, bind.1, welcome(2));
    script.say(1, 0, deliver(1, Author::Agent, 9, "y"));
    assert_eq!(script.lines(), ["agent y"]);
}

#[test]
fn bounds_hold_and_silence_ends_the_connection() {
    let mut script = Script::start();
    assert_eq!(script.gateway.line("", "x"), Err(Refusal::Malformed));
    assert_eq!(script.gateway.line(&"v".repeat(65), "x"), Err(Refusal::Malformed));
    for _ in 0..visitor::OUTBOX_MAX {
        script.gateway.line("v", "x").expect("room");
    }
    assert_eq!(script.gateway.line("v", "x"), Err(Refusal::Full));
    script.sent();
    script.now_ms += 15_000;
    assert!(script.one("Ping").2.contains("nonce"));
    script.now_ms += 50_000;
    assert!(script.gateway.turn(script.now_ms).is_err());
    let goodbye = ServerMessage::Goodbye { code: Code::ShuttingDown, retry_after_ms: 5, sentence: "Bye." };
    let end = script.try_say(0, 0, goodbye).expect_err("the connection ends");
    assert_eq!(end, End { sentence: "SHUTTING_DOWN: Bye.".into(), retry_after_ms: 5 });
}
