//! What a device makes of the messages it gets: facts go to the oracle, answers settle what was asked.

use ringdesk_protocol::{Author, Cause, Code, Header, Items, ServerMessage, Side, Status};

use super::Scene;
use super::device::{Attempt, Device, Whose, body_hash};
use super::thread::Thread;
use crate::oracle::{Asked, Item, Marks};
use crate::plan::MS;

/// A REJECT without its sentence.
struct Refused {
    code: Code,
    conversation: u64,
    retry_after_ms: u32,
    detail: u64,
}

impl Device {
    /// One message on this device's channel. GOODBYE is the endpoint's.
    pub fn hear(&mut self, header: Header, message: &ServerMessage<'_>, scene: &mut Scene<'_>) {
        match *message {
            ServerMessage::Welcome { epoch, .. } => {
                self.up = true;
                self.epoch = epoch;
                // It may have been away for longer than the grace period, and says again what holds.
                if let Some(declared) = self.declared.filter(|declared| declared.acked) {
                    self.declare(declared.availability, declared.capacity);
                }
            }
            ServerMessage::Ack { conversation, seq, n, duplicate } => {
                *scene.seen += 1;
                self.acked(header.tag, conversation, seq, n, duplicate, scene);
            }
            ServerMessage::Deliver { conversation, seq, .. }
            | ServerMessage::State { conversation, seq, .. } => {
                *scene.seen += 1;
                let item = item_of(message).expect("DELIVER and STATE are items");
                self.item(conversation, seq, item, scene);
            }
            ServerMessage::Assigned { .. } => {
                *scene.seen += 1;
                self.assigned(message, scene);
            }
            ServerMessage::Receipt { conversation, side, delivered, read } => {
                *scene.seen += 1;
                self.receipt(conversation, side, Marks { delivered, read }, scene);
            }
            ServerMessage::Page { .. } => self.page(header.tag, message, scene),
            ServerMessage::Reject { code, conversation, retry_after_ms, detail, .. } => {
                let refused = Refused { code, conversation, retry_after_ms, detail };
                self.rejected(header.tag, &refused, scene);
            }
            ServerMessage::Pong { nonce } => {
                let attempt = self.attempts.remove(&header.tag);
                assert!(attempt == Some(Attempt::Ping(nonce)), "PONG {nonce} answers {attempt:?}");
            }
            ServerMessage::Gap { conversation, from, to } => {
                panic!("C5: {conversation:016x} has a gap {from}..={to}; nothing was damaged or dropped")
            }
            ServerMessage::Typing { .. } | ServerMessage::Queue { .. } => {}
            ServerMessage::Goodbye { .. } => panic!("GOODBYE belongs to the endpoint"),
        }
    }

    fn acked(
        &mut self,
        tag: u32,
        conversation: u64,
        seq: u64,
        n: u64,
        duplicate: bool,
        scene: &mut Scene<'_>,
    ) {
        let Some(attempt) = self.attempts.remove(&tag) else {
            panic!("an ACK with tag {tag}, which nobody used")
        };
        match attempt {
            Attempt::Open => {
                scene.oracle.opened(self.visitor(), self.id, n, conversation, seq);
                assert!(n == self.open_n, "C4: OPEN {} was answered as {n}", self.open_n);
                self.open_wanted = false;
                self.open_tag = None;
                self.current = Some(conversation);
                let thread = self.threads.entry(conversation).or_default();
                if !thread.based {
                    (thread.based, thread.cursor, thread.base) = (true, seq, seq);
                }
            }
            Attempt::OpenAgain { n: key } => {
                assert!(n == key, "ACK of OPEN {n} answers OPEN {key}");
                assert!(duplicate, "C4: OPEN {n} of device {:x} was written again", self.id);
                scene.oracle.opened_again(self.visitor(), self.id, n, conversation, seq);
            }
            Attempt::Keyed { conversation: of, n: key, asked }
            | Attempt::Again { conversation: of, n: key, asked, .. } => {
                assert!(
                    (conversation, n) == (of, key),
                    "ACK of n {n} in {conversation:x} answers {attempt:?}"
                );
                if let Attempt::Again { same, .. } = attempt {
                    assert!(same, "C4: {of:016x} device {:x} n {n}: another body was acked", self.id);
                    assert!(duplicate, "C4: {of:016x} device {:x} n {n} was written again", self.id);
                }
                scene.oracle.acked(of, self.id, key, seq, asked);
                let thread = self.threads.get_mut(&of).expect("a thread that asked");
                thread.finish(key);
                thread.resolved |= asked == Asked::Resolve;
            }
            Attempt::Receipt { conversation, marks } => {
                let thread = self.threads.get_mut(&conversation).expect("a thread that confirmed");
                thread.receipt_tag = None;
                thread.confirmed_acked = marks;
                thread.confirmed.raise(marks);
            }
            Attempt::Presence => {
                if let Some(declared) = &mut self.declared
                    && declared.tag == Some(tag)
                {
                    declared.tag = None;
                    declared.acked = true;
                }
            }
            other => panic!("ACK answers {other:?}"),
        }
    }

    fn item(&mut self, conversation: u64, seq: u64, item: Item, scene: &mut Scene<'_>) {
        scene.oracle.item(self.id, conversation, seq, item);
        let own = self.agent();
        let visitor = own == 0;
        let thread = self.threads.entry(conversation).or_default();
        if !thread.based {
            (thread.based, thread.cursor, thread.base) = (true, seq - 1, seq - 1);
        }
        assert!(
            seq <= thread.cursor + 1,
            "C5: {conversation:016x}: device {:x} has up to {} and is pushed {seq}",
            self.id,
            thread.cursor
        );
        if seq <= thread.cursor {
            assert!(!visitor, "C5: {conversation:016x}: device {:x} is pushed {seq} again", self.id);
            return;
        }
        thread.cursor = seq;
        match item {
            Item::Message { author: Author::Visitor, .. } => thread.unanswered += 1,
            Item::State { status, agent, epoch, .. } => {
                thread.resolved = status == Status::Resolved;
                let kept = status == Status::Assigned && agent == own;
                // A change of an earlier epoch, read from the log, says nothing about the one held.
                if !kept && thread.owner_epoch.is_some_and(|held| epoch >= held) {
                    thread.lose();
                }
            }
            Item::Message { .. } => {}
        }
    }

    fn assigned(&mut self, message: &ServerMessage<'_>, scene: &mut Scene<'_>) {
        let ServerMessage::Assigned {
            conversation,
            agent,
            owner_epoch,
            status,
            seq,
            visitor_read,
            visitor_delivered,
            staff_read,
            staff_delivered,
            ..
        } = *message
        else {
            panic!("{message:?} is no ASSIGNED");
        };
        assert!(agent == self.agent(), "C7: agent {} is told what agent {agent} owns", self.agent());
        assert!(status == Status::Assigned, "C7: {conversation:016x} is assigned and {status:?}");
        scene.oracle.assigned(conversation, agent, owner_epoch);
        self.receipt(
            conversation,
            Side::Visitor,
            Marks { delivered: visitor_delivered, read: visitor_read },
            scene,
        );
        self.receipt(
            conversation,
            Side::Staff,
            Marks { delivered: staff_delivered, read: staff_read },
            scene,
        );
        let thread = self.threads.entry(conversation).or_default();
        if !thread.based || seq > thread.cursor {
            (thread.based, thread.cursor, thread.base) = (true, seq, seq);
        }
        // An older epoch comes late, beside the order; the younger one stays.
        if thread.owner_epoch.is_none_or(|held| held < owner_epoch) {
            thread.owner_epoch = Some(owner_epoch);
        }
        thread.resolved = false;
    }

    fn receipt(&mut self, conversation: u64, side: Side, marks: Marks, scene: &mut Scene<'_>) {
        scene.oracle.receipt(self.id, conversation, side, marks);
        let thread = self.threads.entry(conversation).or_default();
        let before = &mut thread.receipts[usize::from(side == Side::Staff)];
        if marks.delivered >= before.delivered && marks.read >= before.read {
            *before = marks;
        } else {
            panic!(
                "C6: {conversation:016x} {side:?}: device {:x} saw {before:?} and now sees {marks:?}",
                self.id
            );
        }
    }

    fn page(&mut self, tag: u32, message: &ServerMessage<'_>, scene: &mut Scene<'_>) {
        let ServerMessage::Page { conversation, first, last, count, items, .. } = *message else { return };
        let attempt = self.attempts.remove(&tag);
        let Some(Attempt::History { conversation: of, before, after, limit, highest }) = attempt else {
            panic!("PAGE answers {attempt:?}");
        };
        assert!(conversation == of, "a PAGE of {conversation:x} answers {of:x}");
        let seqs = self.page_items(conversation, items, scene);
        assert!(seqs.len() == usize::from(count), "a PAGE of {count} items holds {}", seqs.len());
        assert!(u64::from(count) <= u64::from(limit), "a PAGE of {count} items answers a limit of {limit}");
        let dense = seqs.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let ends = seqs.first().copied().unwrap_or(0) == first && seqs.last().copied().unwrap_or(0) == last;
        assert!(dense && ends, "C3: a PAGE {first}..={last} of {conversation:016x} holds {seqs:?}");
        let limit = u64::from(limit);
        let (low, high) = if before == 0 {
            (after + 1, highest.min(after + limit))
        } else {
            let top = highest.min(before - 1);
            ((top + 1).saturating_sub(limit).max(1), top)
        };
        // What nobody knew of when it was asked may be there too, and then moves a page that ends at the newest.
        for seq in (low..=high).filter(|seq| before == 0 || *seq >= first) {
            assert!(
                seqs.contains(&seq),
                "C1: {conversation:016x} item {seq} is missing in {attempt:?}: {seqs:?}"
            );
        }
        assert!(
            before == 0 || highest == 0 || before == 1 || !seqs.is_empty(),
            "C1: {attempt:?} found nothing"
        );
    }

    fn page_items(&mut self, conversation: u64, items: Items<'_>, scene: &mut Scene<'_>) -> Vec<u64> {
        let mut seqs = Vec::new();
        for found in items.iter() {
            let (_, message) = found.unwrap_or_else(|error| panic!("a PAGE with a bad item: {error}"));
            let (ServerMessage::Deliver { conversation: of, seq, .. }
            | ServerMessage::State { conversation: of, seq, .. }) = message
            else {
                panic!("a PAGE with {message:?}");
            };
            assert!(of == conversation, "C10: a PAGE of {conversation:016x} holds an item of {of:016x}");
            scene.oracle.item(self.id, of, seq, item_of(&message).expect("it is one of the two"));
            seqs.push(seq);
        }
        seqs
    }

    fn rejected(&mut self, tag: u32, refused: &Refused, scene: &mut Scene<'_>) {
        let own = self.threads.contains_key(&refused.conversation);
        assert!(
            tag != 0 || !own || refused.code != Code::NotFound,
            "C1: {:016x} was opened and is NOT_FOUND on resume",
            refused.conversation
        );
        let Some(attempt) = self.attempts.remove(&tag) else {
            panic!("a REJECT {:?} with tag {tag}, which nobody used", refused.code);
        };
        *scene.busy += u64::from(refused.code == Code::Busy);
        let again_at = scene.now + u64::from(refused.retry_after_ms).max(1) * MS;
        scene.trace(|| format!("{:x} REJECT {:?} of {attempt:?}", self.id, refused.code));
        match attempt {
            Attempt::Open if refused.code == Code::Busy => {
                self.open_tag = None;
                self.not_before = again_at;
            }
            Attempt::Presence if refused.code == Code::Busy => {
                if let Some(declared) = &mut self.declared {
                    declared.tag = None;
                }
                self.not_before = again_at;
            }
            Attempt::OpenAgain { n } if refused.code == Code::Busy => {
                self.opens_repeated = self.opens_repeated.min(n - 1);
            }
            Attempt::OpenAgain { .. } if refused.code == Code::DeviceExpired => self.dead = true,
            Attempt::OpenAgain { n } => panic!(
                "C4: {:?} (detail {}) of OPEN {n} of device {:x}, which was answered",
                refused.code, refused.detail, self.id
            ),
            Attempt::Open if matches!(refused.code, Code::DeviceExpired | Code::DeviceLimit) => {
                self.dead = true
            }
            Attempt::Keyed { conversation, n, asked } => {
                self.keyed_rejected(conversation, (n, asked), refused, again_at, scene);
            }
            Attempt::Again { conversation, n, asked, same } => {
                self.again_rejected((conversation, n, asked, same), refused, scene);
            }
            Attempt::Receipt { conversation, .. } => {
                let thread = self.threads.get_mut(&conversation).expect("a thread that confirmed");
                thread.receipt_tag = None;
                match refused.code {
                    Code::Busy => thread.not_before = again_at,
                    Code::NotFound | Code::StaleOwner | Code::Forbidden
                        if matches!(self.whose, Whose::Agent(_)) =>
                    {
                        thread.confirmed = thread.confirmed_acked;
                    }
                    code => panic!("C1: RECEIPT in {conversation:016x} of what was pushed: {code:?}"),
                }
            }
            Attempt::History { .. } | Attempt::Typing if refused.code == Code::Busy => {}
            other => panic!("{:?} of {other:?} by {:?}", refused.code, self.whose),
        }
    }

    fn keyed_rejected(
        &mut self,
        conversation: u64,
        (n, asked): (u64, Asked),
        refused: &Refused,
        again_at: u64,
        scene: &mut Scene<'_>,
    ) {
        assert!(refused.conversation == conversation, "a REJECT names {:016x}", refused.conversation);
        let agent = matches!(self.whose, Whose::Agent(_));
        let thread = self.threads.get_mut(&conversation).expect("a thread that asked");
        match refused.code {
            Code::Busy => {
                thread.not_before = again_at;
                thread
                    .queue
                    .iter_mut()
                    .filter(|pending| pending.n == n)
                    .for_each(|pending| pending.tag = None);
            }
            Code::OutOfOrder => {
                scene.oracle.expected(conversation, self.id, refused.detail);
                let queued = thread.queue.front().map(|pending| pending.n);
                assert!(
                    queued.is_none_or(|front| refused.detail >= front),
                    "C4: {conversation:016x} device {:x}: n {} is expected, the first without an answer is {queued:?}",
                    self.id,
                    refused.detail
                );
                thread
                    .queue
                    .iter_mut()
                    .filter(|pending| pending.n == n)
                    .for_each(|pending| pending.tag = None);
            }
            Code::IdReused => {
                scene.oracle.id_reused(conversation, self.id, n, asked);
                thread.finish(n);
                thread.done.retain(|done| done.n != n);
            }
            Code::StaleOwner if agent => {
                thread.abandon(n);
                if thread.owner_epoch.is_some_and(|held| u64::from(held) != refused.detail)
                    || !thread.queue.is_empty()
                {
                    thread.unanswered = 0;
                }
            }
            Code::Resolved => thread.abandon(n),
            Code::DeviceExpired | Code::DeviceLimit => self.dead = true,
            code => panic!("{code:?} of n {n} ({asked:?}) in {conversation:016x} by {:?}", self.whose),
        }
    }

    fn again_rejected(
        &mut self,
        (conversation, n, asked, same): (u64, u64, Asked, bool),
        refused: &Refused,
        scene: &mut Scene<'_>,
    ) {
        match refused.code {
            Code::Busy => {}
            Code::IdReused => {
                assert!(
                    !same,
                    "C4: {conversation:016x} device {:x} n {n}: the same body was ID_REUSED",
                    self.id
                );
                scene.oracle.id_reused(conversation, self.id, n, asked);
            }
            Code::DeviceExpired | Code::DeviceLimit => self.dead = true,
            code => panic!("C4: {code:?} of n {n} in {conversation:016x}, which was acked"),
        }
    }
}

impl Thread {
    /// The conversation is another agent's, or nobody's.
    fn lose(&mut self) {
        self.owner_epoch = None;
        self.unanswered = 0;
        self.confirmed = self.confirmed_acked;
        // What was sent will be refused or acked; what never was is given up.
        if let Some(at) = self.queue.iter().position(|pending| !pending.sent) {
            let n = self.queue[at].n;
            self.abandon(n);
        }
    }
}

/// The oracle's view of an item; `None` for other messages.
fn item_of(message: &ServerMessage<'_>) -> Option<Item> {
    match *message {
        ServerMessage::Deliver { at, author, agent, device, n, content, body, .. } => {
            Some(Item::Message { author, agent, device, n, body: body_hash(content, body), at })
        }
        ServerMessage::State { at, status, cause, by, agent, owner_epoch, .. } => {
            let cause: Cause = cause;
            Some(Item::State { status, cause, by, agent, epoch: owner_epoch, at })
        }
        _ => None,
    }
}
