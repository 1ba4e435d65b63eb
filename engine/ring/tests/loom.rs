//! Every interleaving (within a preemption bound) of the lane and of the doorbell, under loom's memory model.
#![cfg(loom)]

use loom::sync::{Arc, Notify};
use loom::thread;
use ringdesk_ring::{Doorbell, channel};

fn explore(f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(5);
    model.check(f);
}

#[test]
fn messages_arrive_in_order_through_a_wrapping_lane() {
    explore(|| {
        let (mut producer, mut consumer) = channel::<Box<u32>>(2);
        let sender = thread::spawn(move || {
            let mut pushed = 0;
            for value in 0..3u32 {
                let mut message = Box::new(value);
                while let Err(back) = producer.try_push(message) {
                    message = back;
                    thread::yield_now();
                }
                pushed += 1;
            }
            pushed
        });
        let mut expected = 0;
        while expected < 3 {
            match consumer.pop() {
                Some(value) => {
                    assert_eq!(*value, expected);
                    expected += 1;
                }
                None => thread::yield_now(),
            }
        }
        assert_eq!(sender.join().unwrap(), 3);
    });
}

#[test]
fn batches_and_drops() {
    explore(|| {
        let (mut producer, mut consumer) = channel::<Box<u32>>(2);
        let sender = thread::spawn(move || {
            let mut queue = (0..3).map(Box::new).collect();
            producer.push_from(&mut queue);
            producer.push_from(&mut queue);
        });
        let mut got = Vec::new();
        consumer.pop_some(2, |value| got.push(*value));
        consumer.pop_some(2, |value| got.push(*value));
        assert!(got.iter().copied().eq(0..got.len() as u32));
        // The rest is dropped with the lane; loom reports a leak or a double free.
        drop(consumer);
        sender.join().unwrap();
    });
}

/// `Notify` stands for the kernel a shard sleeps in: it keeps one wake-up, and sometimes wakes for no reason. A lost
/// wake-up is a deadlock, which loom reports.
#[test]
fn no_wake_up_is_lost() {
    explore(|| {
        let (mut producer, mut consumer) = channel::<u32>(2);
        let bell = Arc::new(Doorbell::new());
        let bed = Arc::new(Notify::new());
        let (their_bell, their_bed) = (Arc::clone(&bell), Arc::clone(&bed));
        let sender = thread::spawn(move || {
            let mut rings = 0;
            for value in 0..2 {
                producer.try_push(value).expect("two places");
                if their_bell.ring() {
                    rings += 1;
                    their_bed.notify();
                }
            }
            rings
        });
        let (mut got, mut announced) = (0, 0);
        while got < 2 {
            if consumer.pop().is_some() {
                got += 1;
                continue;
            }
            bell.announce();
            announced += 1;
            if consumer.is_empty() {
                bed.wait();
            }
            bell.awake();
        }
        assert!(sender.join().unwrap() <= announced, "more rings than sleeps");
    });
}
