//! Listeners: one multishot accept each, paused after errors that would only repeat.

use ringdesk_shard::io::{Input, ListenerKind};

use super::{ACCEPT, Effects, Table, errno, user};
use crate::kernel::{Completion, Op};

/// How long a listener rests after an accept failed for want of entries, memory or the like: long enough not to
/// burn the core, short enough that a client's connect does not time out.
pub const ACCEPT_PAUSE_NS: u64 = 50_000_000;

#[derive(Debug)]
pub(super) struct Listener {
    kind: ListenerKind,
    /// Counts the arms, so that completions of an earlier arm are told apart.
    pub(super) arms: u32,
    /// Whether the last arm has completions to come.
    pub(super) armed: bool,
    /// While paused: when to arm again.
    pub(super) resume_ns: Option<u64>,
}

impl Listener {
    pub(super) fn new(kind: ListenerKind) -> Self {
        Self { kind, arms: 0, armed: false, resume_ns: None }
    }
}

impl Table {
    pub(super) fn arm_accept(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        listener.arms = listener.arms.wrapping_add(1);
        listener.resume_ns = None;
        listener.armed = true;
        let number = u16::try_from(index).expect("fewer than 65536 listeners");
        self.ops.push((user(ACCEPT, listener.arms, index as u32), Op::AcceptMulti { listener: number }));
    }

    pub(super) fn accepted(
        &mut self,
        now_ns: u64,
        index: u32,
        completion: Completion,
        effects: &mut Effects,
    ) {
        let index = index as usize;
        assert!(index < self.listeners.len(), "accept of listener {index}, which does not exist");
        let listener = self.listeners[index].kind;
        if completion.result >= 0 {
            let conn = self.occupy(completion.result as u32);
            self.counts.accepted += 1;
            effects.inputs.push(Input::Accepted { conn, listener, peer: None });
        } else {
            self.counts.accept_errors += u64::from(completion.result != -errno::ECANCELED);
        }
        if completion.more {
            return;
        }
        self.listeners[index].armed = false;
        if self.still {
            return;
        }
        match -completion.result {
            // Ended without an error (a full completion queue ends a multishot), one connection was lost, or it was
            // cancelled by a stand-still that is over.
            ..=0 | errno::ECONNABORTED | errno::EINTR | errno::EAGAIN | errno::ECANCELED => {
                self.arm_accept(index);
            }
            // ENFILE, EMFILE, ENOMEM, ENOBUFS: the cause outlives the next attempt. So does anything unknown.
            _ => self.listeners[index].resume_ns = Some(now_ns + ACCEPT_PAUSE_NS),
        }
    }
}
