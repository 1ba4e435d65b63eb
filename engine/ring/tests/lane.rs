//! The lane against an oracle, its drops, the mesh's wiring, and a two-thread run.
#![cfg(not(loom))]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use ringdesk_ring::{channel, mesh};

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    PushFrom(Vec<u8>),
    Pop,
    PopSome(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u8>().prop_map(Step::Push),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Step::PushFrom),
        Just(Step::Pop),
        (0usize..12).prop_map(Step::PopSome),
    ]
}

/// Cases of the property. Miri takes a thousand times as long for each.
const CASES: u32 = if cfg!(miri) { 8 } else { 256 };
/// Longest run of steps in one case.
const STEPS: usize = if cfg!(miri) { 40 } else { 200 };

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_bounded_queue(exponent in 0u32..4, steps in prop::collection::vec(step(), 0..STEPS)) {
        let capacity = 1usize << exponent;
        let (mut producer, mut consumer) = channel::<Box<u8>>(capacity);
        let mut oracle: VecDeque<u8> = VecDeque::new();
        for step in steps {
            match step {
                Step::Push(value) => match producer.try_push(Box::new(value)) {
                    Ok(()) => oracle.push_back(value),
                    Err(back) => {
                        prop_assert_eq!(*back, value);
                        prop_assert_eq!(oracle.len(), capacity);
                    }
                },
                Step::PushFrom(values) => {
                    let fits = values.len().min(capacity - oracle.len());
                    let mut queue: VecDeque<Box<u8>> = values.iter().copied().map(Box::new).collect();
                    prop_assert_eq!(producer.push_from(&mut queue), fits);
                    prop_assert_eq!(queue.len(), values.len() - fits);
                    oracle.extend(&values[..fits]);
                }
                Step::Pop => prop_assert_eq!(consumer.pop().map(|value| *value), oracle.pop_front()),
                Step::PopSome(max) => {
                    let mut got = Vec::new();
                    let count = consumer.pop_some(max, |value| got.push(*value));
                    prop_assert_eq!(count, max.min(oracle.len()));
                    let expected: Vec<u8> = oracle.drain(..count).collect();
                    prop_assert_eq!(got, expected);
                }
            }
            prop_assert_eq!(consumer.len(), oracle.len());
            prop_assert_eq!(consumer.is_empty(), oracle.is_empty());
            prop_assert_eq!(producer.room(), capacity - oracle.len());
        }
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_is_left_in_a_lane_is_dropped_once() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (mut producer, mut consumer) = channel(8);
    for _ in 0..6 {
        assert!(producer.try_push(Counted(Arc::clone(&drops))).is_ok());
    }
    drop(consumer.pop());
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    drop(consumer);
    drop(producer);
    assert_eq!(drops.load(Ordering::Relaxed), 6);
}

#[test]
fn a_panic_while_popping_drops_nothing_twice() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (mut producer, mut consumer) = channel(8);
    for _ in 0..5 {
        assert!(producer.try_push(Counted(Arc::clone(&drops))).is_ok());
    }
    let mut seen = 0;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        consumer.pop_some(5, |_message| {
            seen += 1;
            assert!(seen < 3, "third message");
        })
    }));
    assert!(outcome.is_err());
    assert_eq!(consumer.len(), 2);
    drop((producer, consumer));
    assert_eq!(drops.load(Ordering::Relaxed), 5);
}

#[test]
fn two_threads_keep_the_order() {
    const ITEMS: u64 = if cfg!(miri) { 300 } else { 300_000 };
    let (mut producer, mut consumer) = channel::<u64>(64);
    let sender = std::thread::spawn(move || {
        let mut next = 0;
        let mut queue = VecDeque::new();
        while next < ITEMS || !queue.is_empty() {
            if next % 3 == 0 {
                while queue.len() < 20 && next < ITEMS {
                    queue.push_back(next);
                    next += 1;
                }
            }
            let moved = producer.push_from(&mut queue);
            if moved == 0 && queue.is_empty() && next < ITEMS && producer.try_push(next).is_ok() {
                next += 1;
            } else {
                std::thread::yield_now();
            }
        }
    });
    let mut expected = 0;
    while expected < ITEMS {
        if expected % 2 == 0 {
            if let Some(value) = consumer.pop() {
                assert_eq!(value, expected);
                expected += 1;
                continue;
            }
        } else if consumer.pop_some(33, |value| {
            assert_eq!(value, expected);
            expected += 1;
        }) > 0
        {
            continue;
        }
        std::thread::yield_now();
    }
    sender.join().expect("the sender ends");
    assert!(consumer.is_empty());
}

#[test]
fn the_mesh_connects_every_pair_and_nobody_with_itself() {
    let mut ports = mesh::<(u16, u16)>(3, 4);
    for sender in 0..3u16 {
        for receiver in 0..3u16 {
            match &mut ports[usize::from(sender)].to[usize::from(receiver)] {
                Some(lane) => lane.try_push((sender, receiver)).expect("an empty lane"),
                None => assert_eq!(sender, receiver),
            }
        }
    }
    for (receiver, port) in (0u16..).zip(&mut ports) {
        assert_eq!(port.shard, receiver);
        assert!(port.waiting());
        for (sender, lane) in (0u16..).zip(&mut port.from) {
            match lane {
                Some(lane) => assert_eq!(lane.pop(), Some((sender, receiver))),
                None => assert_eq!(sender, receiver),
            }
        }
        assert!(!port.waiting());
    }
}

#[test]
fn a_sleeper_is_rung_once() {
    let ports = mesh::<u8>(2, 4);
    let bell = &ports[0].doorbells[1];
    assert!(!bell.ring(), "an awake shard is not rung");
    bell.announce();
    assert!(bell.ring());
    assert!(!bell.ring(), "the second producer finds the bell rung");
    bell.announce();
    bell.awake();
    assert!(!bell.ring());
}
