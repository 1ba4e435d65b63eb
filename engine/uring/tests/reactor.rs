//! The reactor over a scripted kernel: lanes that are full, sleep and wake, and the end of a shard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ringdesk_desk::ids::Slot;
use ringdesk_ring::{Port, mesh};
use ringdesk_shard::carry::{Carried, Stage};
use ringdesk_shard::io::{
    ConnId, Control, Input, Inputs, ListenerKind, Now, Output, Outputs, StoodConnections,
};
use ringdesk_shard::message::{ShardMessage, Transport};
use ringdesk_uring::buffers::Buffers;
use ringdesk_uring::kernel::{Completion, Kernel, KernelFailure, Op, Waker};
use ringdesk_uring::mailbox::{Letter, MAILBOX_LETTERS_MAX};
use ringdesk_uring::reactor::{Limits, Reactor};
use ringdesk_uring::turn::Turn;

#[derive(Default)]
struct Bell(AtomicU32);

impl Waker for Bell {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Notes operations, plays back completions.
#[derive(Default)]
struct Script {
    ops: Vec<(u64, Op)>,
    completions: VecDeque<Completion>,
    bell: Arc<Bell>,
    enters: u32,
}

impl Kernel for Script {
    fn entries(&self) -> u32 {
        16
    }

    fn submit(&mut self, user: u64, op: Op, _buffers: &mut Buffers) {
        self.ops.push((user, op));
    }

    fn enter(&mut self, _wait_ns: Option<u64>) -> Result<(), KernelFailure> {
        self.enters += 1;
        Ok(())
    }

    fn reap(&mut self, _buffers: &mut Buffers, arena: &mut Vec<u8>, out: &mut Vec<Completion>) {
        for mut completion in self.completions.drain(..) {
            if completion.bytes.is_some() {
                completion.bytes = Some(arena.len() as u32);
                arena.resize(arena.len() + completion.result as usize, b'x');
            }
            out.push(completion);
        }
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::clone(&self.bell) as Arc<dyn Waker>
    }
}

/// What a reactor is told to do next, by the letters about an upgrade.
fn outcome_of(
    reactor: &mut Reactor<Script, Parrot>,
    letter: Letter,
    now: u64,
) -> ringdesk_uring::reactor::TurnOutcome {
    reactor.mailbox().post(letter).expect("room");
    reactor.turn(at(now))
}

/// Says what it is told to say, once per step, and remembers what it saw.
#[derive(Default)]
struct Parrot {
    say: Vec<Output>,
    deadline: Option<u64>,
    rooms: Vec<u32>,
    heard: Vec<String>,
    steps: u32,
}

impl Turn for Parrot {
    fn step(&mut self, _now: Now, inputs: &mut Inputs, outputs: &mut Outputs) {
        self.steps += 1;
        self.rooms = inputs.lane_room.clone();
        self.heard.extend(inputs.events.drain(..).map(|event| match event {
            Input::Received { start, len, .. } => {
                String::from_utf8_lossy(&inputs.bytes[start as usize..][..len as usize]).into_owned()
            }
            other => format!("{other:?}"),
        }));
        outputs.events.append(&mut self.say);
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        self.deadline
    }
}

fn reactor(listeners: &[ListenerKind]) -> (Reactor<Script, Parrot>, Port<ShardMessage>) {
    let mut ports = mesh(2, 4);
    let other = ports.pop().expect("two ports");
    let port = ports.pop().expect("two ports");
    (Reactor::new(Script::default(), Parrot::default(), port, listeners, Limits::default()), other)
}

fn at(mono_ns: u64) -> Now {
    Now { mono_ns, wall_ms: 0 }
}

fn confirm(upto: u64) -> ShardMessage {
    ShardMessage::Confirm { from: Slot(0), to: Slot(1), upto }
}

fn number(message: ShardMessage) -> u64 {
    match message {
        ShardMessage::Confirm { upto, .. } => upto,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_lane_keeps_the_order_and_shows_no_room() {
    let (mut reactor, mut other) = reactor(&[]);
    let lane = other.from[0].as_mut().expect("a lane");
    reactor.shard_mut().say = (0..10).map(|n| Output::ToShard { to: 1, message: confirm(n) }).collect();
    reactor.shard_mut().deadline = Some(0);
    reactor.turn(at(1));
    assert_eq!(reactor.shard().rooms, [0, 4]);
    assert_eq!(lane.len(), 4);
    assert_eq!(reactor.doze(at(1)), None, "a backlog waits");
    let mut got = Vec::new();
    for _ in 0..2 {
        lane.pop_some(3, |message| got.push(number(message)));
        reactor.turn(at(1));
        assert_eq!(reactor.shard().rooms, [0, 0], "no room while a backlog waits");
    }
    lane.pop_some(4, |message| got.push(number(message)));
    assert_eq!(got, (0..10).collect::<Vec<_>>());
    reactor.turn(at(1));
    assert_eq!(reactor.shard().rooms, [0, 4]);
}

#[test]
fn a_sleeper_is_woken_once_and_an_awake_shard_never() {
    let (mut reactor, other) = reactor(&[]);
    let mut say = |n| {
        reactor.shard_mut().say = vec![Output::ToShard { to: 1, message: confirm(n) }];
        reactor.shard_mut().deadline = Some(0);
        reactor.turn(at(1));
        std::mem::take(&mut reactor.kernel_mut().ops)
    };
    assert!(say(1).is_empty(), "shard 1 is awake");
    other.doorbells[1].announce();
    assert!(matches!(say(2)[..], [(_, Op::Wake { shard: 1 })]));
    assert!(say(3).is_empty(), "rung already");
}

#[test]
fn nobody_sleeps_over_a_message_a_letter_or_a_deadline() {
    let (mut reactor, mut other) = reactor(&[]);
    assert_eq!(reactor.doze(at(5)), Some(u64::MAX));
    reactor.rouse();
    reactor.shard_mut().deadline = Some(100);
    assert_eq!(reactor.doze(at(5)), Some(100));
    assert_eq!(reactor.doze(at(100)), None);
    reactor.shard_mut().deadline = None;

    other.to[0].as_mut().expect("a lane").try_push(confirm(1)).expect("room");
    assert_eq!(reactor.doze(at(5)), None);
    assert!(!other.doorbells[0].ring(), "it stayed awake");
    assert!(reactor.turn(at(5)).busy);
    assert_eq!(reactor.shard().heard.len(), 1);
    assert!(!reactor.turn(at(5)).busy);

    let mailbox = reactor.mailbox();
    mailbox.post(Letter::Control(Control::Report)).expect("room");
    assert_eq!(reactor.doze(at(5)), None);
    reactor.turn(at(5));
    assert_eq!(reactor.shard().heard[1], "Control(Report)");
    let bell = Arc::clone(&reactor.kernel_mut().bell);
    assert_eq!(bell.0.load(Ordering::Relaxed), 0, "an awake shard is not woken");
    assert!(reactor.doze(at(5)).is_some());
    mailbox.post(Letter::Stop).expect("room");
    mailbox.post(Letter::Stop).expect("room");
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    reactor.rouse();
    assert!(reactor.turn(at(5)).stop);
}

#[test]
fn a_full_mailbox_gives_the_letter_back() {
    let (reactor, _other) = reactor(&[]);
    let mailbox = reactor.mailbox();
    for _ in 0..MAILBOX_LETTERS_MAX {
        mailbox.post(Letter::Stop).expect("room");
    }
    assert!(matches!(mailbox.post(Letter::Control(Control::Drain)), Err(Letter::Control(Control::Drain))));
}

#[test]
fn after_a_fatal_output_nothing_more_is_carried_out() {
    let (mut reactor, mut other) = reactor(&[]);
    reactor.shard_mut().say = vec![
        Output::Fatal("the sync failed".into()),
        Output::ToShard { to: 1, message: confirm(1) },
        Output::Close { conn: ConnId { index: 3, generation: 9 } },
    ];
    reactor.shard_mut().deadline = Some(0);
    let outcome = reactor.turn(at(1));
    assert_eq!(outcome.fatal.as_deref(), Some("the sync failed"));
    assert!(!other.waiting());
    let kernel = reactor.kernel_mut();
    assert!(kernel.ops.is_empty() && kernel.enters == 0);
}

#[test]
fn bytes_reach_the_step_and_are_gone_after_it() {
    let (mut reactor, _other) = reactor(&[ListenerKind::BINARY]);
    assert!(reactor.turn(at(1)).busy, "the accept is armed");
    let (accept, _) = reactor.kernel_mut().ops[0];
    let accepted = Completion { user: accept, result: 2, more: true, bytes: None };
    reactor.kernel_mut().completions.push_back(accepted);
    let conn = ConnId { index: 2, generation: 1 };
    reactor.shard_mut().say = vec![Output::Receive { conn, once: false }];
    reactor.turn(at(2));
    let (receive, _) = reactor.kernel_mut().ops[1];
    for len in [3, 2] {
        let bytes = Completion { user: receive, result: len, more: true, bytes: Some(0) };
        reactor.kernel_mut().completions.push_back(bytes);
    }
    reactor.turn(at(3));
    assert_eq!(reactor.shard().heard[1..], ["xxx", "xx"]);
    let steps = reactor.shard().steps;
    assert!(!reactor.turn(at(4)).busy);
    assert_eq!(reactor.shard().steps, steps, "no input, no deadline, no step");
}

#[test]
fn a_drain_is_over_when_no_connection_lingers() {
    let (mut reactor, _other) = reactor(&[ListenerKind::BINARY]);
    reactor.turn(at(1));
    let (accept, _) = reactor.kernel_mut().ops[0];
    let accepted = Completion { user: accept, result: 2, more: true, bytes: None };
    reactor.kernel_mut().completions.push_back(accepted);
    let conn = ConnId { index: 2, generation: 1 };
    reactor.shard_mut().say = vec![Output::Close { conn }, Output::Drained];
    assert!(!reactor.turn(at(2)).drained, "the peer has not read to the end");
    assert_eq!(reactor.doze(at(2)), Some(2 + 2_000_000_000));
    reactor.rouse();
    assert!(!reactor.turn(at(3)).drained);
    let ops = std::mem::take(&mut reactor.kernel_mut().ops);
    assert!(matches!(ops[1..], [(_, Op::Shutdown { entry: 2 }), (_, Op::Receive { entry: 2, once: false })]));
    for (user, _) in &ops[1..] {
        let done = Completion { user: *user, result: 0, more: false, bytes: None };
        reactor.kernel_mut().completions.push_back(done);
    }
    assert!(reactor.turn(at(4)).drained);
    assert!(!reactor.turn(at(5)).drained, "told once");
}

/// Letters for the shard wait while it stands still, and it takes no turn once its connections were written down.
#[test]
fn a_shard_that_stands_still_is_quiet_once_and_frozen_until_it_goes_on() {
    let (mut reactor, mut other) = reactor(&[]);
    reactor.turn(at(1));
    let outcome = outcome_of(&mut reactor, Letter::Still { patience: Duration::from_secs(1) }, 2);
    assert!(outcome.quiet.is_none(), "something happened in this turn");
    assert_eq!(reactor.shard().heard, ["Stand(Still)"]);
    assert!(reactor.turn(at(3)).quiet.is_some());
    assert!(reactor.turn(at(4)).quiet.is_none(), "said once");
    // A message wakes it, and it says so again.
    other.to[0].as_mut().expect("a lane").try_push(confirm(1)).expect("room");
    assert!(reactor.turn(at(5)).quiet.is_none());
    let quiet = reactor.turn(at(6)).quiet.expect("quiet once more");
    assert_eq!((quiet.put, quiet.taken), (vec![0, 0], vec![0, 1]));
    outcome_of(&mut reactor, Letter::Control(Control::Drain), 7);
    let heard = reactor.shard().heard.len();
    let stood = outcome_of(&mut reactor, Letter::Collect, 8).stood.expect("an answer");
    assert_eq!(stood.counts.carried, 0);
    assert_eq!(reactor.shard().heard.len(), heard + 1, "it was asked to write down");
    outcome_of(&mut reactor, Letter::Control(Control::Report), 9);
    other.to[0].as_mut().expect("a lane").try_push(confirm(2)).expect("room");
    let steps = reactor.shard().steps;
    reactor.turn(at(2_000_000_000));
    assert_eq!(reactor.shard().steps, steps, "frozen");
    outcome_of(&mut reactor, Letter::GoOn, 2_000_000_001);
    reactor.turn(at(2_000_000_002));
    let heard = &reactor.shard().heard[heard + 1..];
    assert_eq!(heard[..3], ["Stand(GoOn)", "Control(Drain)", "Control(Report)"]);
    assert!(heard[3].starts_with("FromShard"), "{heard:?}");
    assert!(outcome_of(&mut reactor, Letter::Collect, 2_000_000_003).stood.is_none(), "nobody stands still");
}

/// What an adopting process begins with is there in the first turn; what the old one lets go of ends it.
#[test]
fn connections_come_with_the_first_turn_and_go_with_the_last() {
    let (mut reactor, _other) = reactor(&[]);
    let carried = Carried {
        transport: Transport::Stream,
        deflate: None,
        address: None,
        silent_s: 0,
        unsent: Vec::new(),
        undecoded: Vec::new(),
        stage: Stage::Greeting { upgraded: false },
    };
    reactor.adopt(7, carried.clone());
    let conn = ConnId { index: 7, generation: 1 };
    reactor.turn(at(1));
    assert!(reactor.shard().heard[0].starts_with("Adopted { conn: ConnId { index: 7, generation: 1 }"));
    outcome_of(&mut reactor, Letter::Still { patience: Duration::ZERO }, 2);
    assert!(reactor.turn(at(3)).quiet.is_some());
    let carried = vec![(conn, carried)];
    reactor.shard_mut().say = vec![Output::Stood(Box::new(StoodConnections { carried, tls: 2 }))];
    let stood = outcome_of(&mut reactor, Letter::Collect, 4).stood.expect("an answer");
    assert_eq!((stood.connections.len(), stood.counts.carried, stood.counts.tls), (1, 1, 2));
    let outcome = outcome_of(&mut reactor, Letter::Gone, 5);
    assert!(outcome.drained, "nobody lingers");
    let last = reactor.kernel_mut().ops.pop().expect("an operation");
    assert_eq!(last.1, Op::Close { entry: 7 });
    assert!(!reactor.turn(at(6)).drained, "said once");
}
