//! A device's side of one conversation: what it has seen, and what it has asked and not been answered.

use std::collections::VecDeque;

use crate::oracle::{Asked, Marks};

/// One keyed request, kept until it is answered for good.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its key.
    pub n: u64,
    /// What is asked.
    pub asked: Asked,
    /// The body of a SEND.
    pub body: Vec<u8>,
    /// The tag it is out under on the present connection.
    pub tag: Option<u32>,
    /// It was sent before: it may be recorded, and only an answer tells.
    pub sent: bool,
}

/// A request that was acked, kept for probes.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its key.
    pub n: u64,
    /// What was asked.
    pub asked: Asked,
    /// The body of a SEND.
    pub body: Vec<u8>,
}

/// One conversation, seen from one device.
#[derive(Clone, Default, Debug)]
pub struct Thread {
    /// Highest seq seen without a gap since the base.
    pub cursor: u64,
    /// The cursor means something.
    pub based: bool,
    /// The first item this device ever saw here, minus one.
    pub base: u64,
    /// Last key used.
    pub last_n: u64,
    /// Requests in order of their key, none answered.
    pub queue: VecDeque<Pending>,
    /// Nothing is sent before: BUSY said so.
    pub not_before: u64,
    /// Some of the answered requests.
    pub done: Vec<Done>,
    /// Receipts sent.
    pub confirmed: Marks,
    /// Receipts acked.
    pub confirmed_acked: Marks,
    /// Tag of the RECEIPT that is out.
    pub receipt_tag: Option<u32>,
    /// Receipts seen of both sides, visitor first: they never go back for one observer.
    pub receipts: [Marks; 2],
    /// Agents: the epoch held, if the conversation is theirs as far as they know.
    pub owner_epoch: Option<u32>,
    /// Agents: visitor's messages seen and not answered yet.
    pub unanswered: u32,
    /// The conversation is resolved as far as this device knows.
    pub resolved: bool,
}

impl Thread {
    /// Appends a request.
    pub fn push(&mut self, asked: Asked, body: Vec<u8>) {
        self.last_n += 1;
        let n = self.last_n;
        self.queue.push_back(Pending { n, asked, body, tag: None, sent: false });
    }

    /// The request with this key was recorded.
    pub fn finish(&mut self, n: u64) {
        let Some(at) = self.queue.iter().position(|pending| pending.n == n) else { return };
        let pending = self.queue.remove(at).expect("it was just found");
        if self.done.len() < 24 {
            self.done.push(Done { n, asked: pending.asked, body: pending.body });
        }
    }

    /// The request with this key will never be recorded; what was queued behind it cannot be either.
    pub fn abandon(&mut self, n: u64) {
        if let Some(at) = self.queue.iter().position(|pending| pending.n == n) {
            self.queue.truncate(at);
            self.last_n = n - 1;
        }
    }

    /// The connection is gone: everything unanswered is sent again on the next one.
    pub fn forget_tags(&mut self) {
        self.queue.iter_mut().for_each(|pending| pending.tag = None);
        self.receipt_tag = None;
    }

    /// Whether everything asked was answered.
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.confirmed == self.confirmed_acked
    }
}
