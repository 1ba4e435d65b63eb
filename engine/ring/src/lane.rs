//! One lane: a bounded ring with one producer and one consumer.
//!
//! Two counters, never wrapped into the ring, say everything: `tail` (written by the producer) and `head` (written
//! by the consumer); slots `head..tail` hold a message. Each side keeps its own counter in a plain field and a
//! cached copy of the other's, so that a push or pop touches a foreign cache line only when the cached copy says
//! full or empty. Slots below `tail` become visible with the release store of `tail`; slots below `head` become
//! reusable with the release store of `head`.
//!
//! Full is an answer, not a wait: [`Producer::try_push`] gives the message back.
#![allow(unsafe_code)] // One of the crate's two reasons to exist; every block states why it holds.

use std::collections::VecDeque;
use std::fmt;
use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};

struct Shared<T> {
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: the two ends may live on different threads. A slot is accessed by the producer only while outside
// `head..tail` and by the consumer only while inside; the release/acquire pairs on the counters order the hand-over.
// Messages change threads, hence `T: Send`; they are never shared, hence no `T: Sync`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above; `&Shared` offers nothing but the counters, slots are reached through the two unique ends.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, at: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[at & (self.slots.len() - 1)]
    }

    /// # Safety
    /// Slot `at` must be outside `head..tail` and the caller the producer.
    unsafe fn write(&self, at: usize, value: T) {
        // SAFETY: per contract nobody else looks at this slot, and it holds no message that would be lost.
        self.slot(at).with_mut(|slot| unsafe { (*slot).write(value) });
    }

    /// # Safety
    /// Slot `at` must be inside `head..tail`, the caller the consumer, and each position read once.
    unsafe fn read(&self, at: usize) -> T {
        // SAFETY: per contract the slot was written and published, and is not read again: the message moves out.
        self.slot(at).with(|slot| unsafe { (*slot).assume_init_read() })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let (head, tail) = (self.head.load(Ordering::Relaxed), self.tail.load(Ordering::Relaxed));
        for at in 0..tail.wrapping_sub(head) {
            // SAFETY: both ends are gone (this is the last reference), so `head..tail` is exactly what was pushed
            // and not popped; each slot is read once.
            drop(unsafe { self.read(head.wrapping_add(at)) });
        }
    }
}

/// Makes a lane for `capacity` messages, a power of two of at least 1; anything else is a broken invariant.
pub fn channel<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "lane capacity {capacity} is not a power of two");
    let shared = Arc::new(Shared {
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    let producer = Producer { shared: Arc::clone(&shared), tail: 0, head_seen: 0 };
    (producer, Consumer { shared, head: 0, tail_seen: 0 })
}

/// The sending end.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    head_seen: usize,
}

impl<T> Producer<T> {
    /// Messages the lane can hold.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// Free places, exact at this moment from the producer's side: it can only grow until the next push.
    pub fn room(&mut self) -> usize {
        self.head_seen = self.shared.head.load(Ordering::Acquire);
        self.capacity() - self.tail.wrapping_sub(self.head_seen)
    }

    fn full(&mut self) -> bool {
        self.tail.wrapping_sub(self.head_seen) == self.capacity() && self.room() == 0
    }

    /// Pushes one message and publishes it. Gives the message back when the lane is full.
    #[inline]
    pub fn try_push(&mut self, value: T) -> Result<(), T> {
        if self.full() {
            return Err(value);
        }
        // SAFETY: not full, so slot `tail` is outside `head..tail`; `&mut self` makes this the only producer.
        unsafe { self.shared.write(self.tail, value) };
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Moves as many messages as fit from the front of `queue` into the lane, publishes them together and returns
    /// their number.
    pub fn push_from(&mut self, queue: &mut VecDeque<T>) -> usize {
        let count = queue.len().min(self.room());
        for value in queue.drain(..count) {
            // SAFETY: `count` is at most the free places, so every slot written is outside `head..tail`.
            unsafe { self.shared.write(self.tail, value) };
            self.tail = self.tail.wrapping_add(1);
        }
        if count > 0 {
            self.shared.tail.store(self.tail, Ordering::Release);
        }
        count
    }
}

/// The receiving end.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    tail_seen: usize,
}

impl<T> Consumer<T> {
    /// Messages waiting, exact at this moment from the consumer's side: it can only grow until the next pop.
    #[allow(clippy::len_without_is_empty)] // `is_empty` below takes `&mut self` as this does.
    pub fn len(&mut self) -> usize {
        self.tail_seen = self.shared.tail.load(Ordering::Acquire);
        self.tail_seen.wrapping_sub(self.head)
    }

    /// Whether nothing waits.
    pub fn is_empty(&mut self) -> bool {
        self.head == self.tail_seen && self.len() == 0
    }

    /// Takes the oldest message.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: not empty, so slot `head` is inside `head..tail`; advancing `head` means it is read once.
        let value = unsafe { self.shared.read(self.head) };
        self.head = self.head.wrapping_add(1);
        self.shared.head.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Takes up to `max` messages in order, gives each to `take`, frees their places together and returns their
    /// number.
    pub fn pop_some(&mut self, max: usize, mut take: impl FnMut(T)) -> usize {
        let count = max.min(self.len());
        // Publishes `head` on the way out even when `take` panics: a message read twice would be dropped twice.
        let popped = Popped { consumer: self };
        for _ in 0..count {
            let at = popped.consumer.head;
            popped.consumer.head = at.wrapping_add(1);
            // SAFETY: `count` is at most the messages waiting, so `at` is inside `head..tail`, and `head` moved on.
            take(unsafe { popped.consumer.shared.read(at) });
        }
        drop(popped);
        count
    }
}

struct Popped<'a, T> {
    consumer: &'a mut Consumer<T>,
}

impl<T> Drop for Popped<'_, T> {
    fn drop(&mut self) {
        self.consumer.shared.head.store(self.consumer.head, Ordering::Release);
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("capacity", &self.capacity()).field("pushed", &self.tail).finish()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("popped", &self.head).finish()
    }
}
