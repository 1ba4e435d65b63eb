//! What a frame means to the ledger: one function per kind of event.

use super::Fleet;
use crate::client::Event;
use crate::ledger::{Seen, Side};

impl Fleet {
    pub(super) fn apply(&mut self, number: usize, now: u64, event: Event) {
        let side = self.members[number].side;
        match event {
            Event::Welcome { heartbeat_s, .. } => {
                self.members[number].heartbeat_ns = u64::from(heartbeat_s) * 1_000_000_000;
            }
            Event::Opened { conversation, seq } => self.apply_opened(number, now, conversation, seq),
            Event::Present => self.present += 1,
            Event::Resolved { .. } => self.resolved += 1,
            Event::Acked { conversation, n, seq } => {
                let Some(&at) = self.index.get(&conversation) else {
                    return self.fault("an ACK named an unknown conversation");
                };
                match self.ledger[at].acked(side, n, seq) {
                    Ok(Some(intended_ns)) => {
                        self.pending_acks -= 1;
                        if self.meter.window.contains(&intended_ns) {
                            self.meter.ack.record_ns(now.saturating_sub(intended_ns));
                        }
                        self.meter.acks += u64::from(self.meter.window.contains(&now));
                    }
                    Ok(None) => {}
                    Err(what) => self.fault(what),
                }
            }
            Event::Item { conversation, seen, own, repeat } => {
                let Some(&at) = self.index.get(&conversation) else {
                    return self.fault("an item named an unknown conversation");
                };
                self.apply_item(at, side, now, seen, own, repeat);
            }
            Event::Assigned { conversation, seq } => self.apply_assigned(number, conversation, seq),
            Event::Page { conversation, items, more } => match self.index.get(&conversation) {
                Some(&at) => self.pages.push((at, side, items, more)),
                None => self.fault("a page named an unknown conversation"),
            },
            Event::HistoryBusy { conversation, retry_after_ms } => {
                self.busy += 1;
                if let Some(&at) = self.index.get(&conversation) {
                    self.page_retries.push((at, side, now + u64::from(retry_after_ms) * 1_000_000));
                }
            }
            Event::Busy => {
                self.held.insert(number);
                self.busy += 1;
            }
            Event::Fault(what) => {
                self.held.insert(number);
                self.fault(&what);
            }
            Event::Goodbye(code) => {
                if !self.outage {
                    self.fault(&format!("goodbye: {code}"));
                }
            }
        }
    }

    fn apply_opened(&mut self, number: usize, now: u64, conversation: u64, seq: u64) {
        if self.ledger[number].id != 0 {
            if self.ledger[number].id != conversation {
                self.fault("OPEN with the same key found another conversation");
            }
            return;
        }
        self.ledger[number].id = conversation;
        self.ledger[number].views[Side::Visitor as usize].base = seq;
        if self.index.insert(conversation, number).is_some() {
            return self.fault("two visitors were given one conversation");
        }
        self.say(number, Side::Visitor, now);
    }

    fn apply_assigned(&mut self, number: usize, conversation: u64, seq: u64) {
        let Some(&at) = self.index.get(&conversation) else {
            return self.fault("an agent was assigned a conversation of nobody here");
        };
        match self.owner[at] {
            None => {
                self.owner[at] = Some(number);
                self.ledger[at].devices[Side::Agent as usize] = self.members[number].client.device();
                self.ledger[at].views[Side::Agent as usize].base = seq;
            }
            Some(owner) if owner == number => {}
            Some(_) => self.fault("a conversation moved to another agent"),
        }
    }

    fn apply_item(&mut self, at: usize, side: Side, now: u64, seen: Seen, own: bool, repeat: bool) {
        if repeat && self.resumed {
            return;
        }
        let conversation = &mut self.ledger[at];
        conversation.views[side as usize].seen.push(seen);
        if repeat || seen.device == 0 {
            return;
        }
        let author = if own { side } else { side.other() };
        if let Some(intended_ns) = conversation.shown(author, side, seen.n) {
            self.pending_items -= 1;
            if !own && self.meter.window.contains(&intended_ns) {
                self.meter.deliver.record_ns(now.saturating_sub(intended_ns));
            }
        }
    }
}
