//! Every interleaving (within a preemption bound) of the lane and of the doorbell, under loom's memory model.
#![cfg(loom)]

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;
use ringdesk_ring::{Doorbell, channel};

fn explore(f: impl Fn() + Sync + Send + 'static) {
    explore_within(5, f);
}

fn explore_within(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
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

/// The queue of a mailbox, with the weakest order there is: what the doorbell promises must not rest on the queue's.
#[derive(Clone)]
struct Letters(Arc<AtomicUsize>);

impl Letters {
    fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(0)))
    }

    fn push(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// As a mailbox posts: the letter, then the bell, then the wake-up if this caller owes it. Wake-ups sent.
fn post(letters: &Letters, bell: &Doorbell, bed: &Notify) -> usize {
    letters.push();
    let owed = bell.ring();
    if owed {
        bed.notify();
    }
    usize::from(owed)
}

#[test]
fn two_posters_wake_one_sleeper_once_a_sleep() {
    explore_within(3, || {
        let (letters, bell, bed) = (Letters::new(), Arc::new(Doorbell::new()), Arc::new(Notify::new()));
        let posters: Vec<_> = (0..2)
            .map(|_| {
                let (letters, bell, bed) = (letters.clone(), Arc::clone(&bell), Arc::clone(&bed));
                thread::spawn(move || post(&letters, &bell, &bed))
            })
            .collect();
        let (mut got, mut announced) = (0, 0);
        while got < 2 {
            match letters.take() {
                0 => {
                    bell.announce();
                    announced += 1;
                    if letters.is_empty() {
                        bed.wait();
                    }
                    bell.awake();
                }
                taken => got += taken,
            }
        }
        let rings: usize = posters.into_iter().map(|poster| poster.join().unwrap()).sum();
        assert!(rings <= announced, "more rings than sleeps");
    });
}

/// A shard looks at its lanes and at its mailbox between the announcement and the sleep; both ring the same bell.
#[test]
fn a_lane_and_the_mailbox_share_a_bell() {
    explore_within(3, || {
        let (mut producer, mut consumer) = channel::<u32>(1);
        let (letters, bell, bed) = (Letters::new(), Arc::new(Doorbell::new()), Arc::new(Notify::new()));
        let (their_bell, their_bed) = (Arc::clone(&bell), Arc::clone(&bed));
        let shard = thread::spawn(move || {
            producer.try_push(7).expect("a place");
            if their_bell.ring() {
                their_bed.notify();
            }
        });
        let (their_letters, their_bell, their_bed) = (letters.clone(), Arc::clone(&bell), Arc::clone(&bed));
        let control = thread::spawn(move || post(&their_letters, &their_bell, &their_bed));
        let (mut message, mut letter) = (None, 0);
        while message.is_none() || letter == 0 {
            message = message.or_else(|| consumer.pop());
            letter += letters.take();
            if message.is_some() && letter > 0 {
                break;
            }
            bell.announce();
            if consumer.is_empty() && letters.is_empty() {
                bed.wait();
            }
            bell.awake();
        }
        assert_eq!((message, letter), (Some(7), 1));
        shard.join().unwrap();
        control.join().unwrap();
    });
}
