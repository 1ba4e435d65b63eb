//! What the readable records of damaged logs tell about the conversations in them: who lost something for certain, and
//! who may have.
//!
//! Order: [`Census::record`] for each record that reads, of every log; then the questions. Items of a conversation are
//! dense from 1, so a number missing below the highest is one lost; what was lost behind the highest leaves no trace.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::codec::{self, CodecError};
use crate::ids::{ConversationId, Slot};

/// Conversations named in one sentence; the rest is counted.
const NAMED_MAX: usize = 20;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Known {
    items: u64,
    highest: u64,
}

/// Conversations seen, and how many of their items.
#[derive(Clone, Default, Debug)]
pub struct Census {
    known: BTreeMap<ConversationId, Known>,
}

impl Census {
    /// Counts the items of one record.
    ///
    /// # Errors
    /// The record cannot be read; the items before the bad one are counted.
    pub fn record(&mut self, payload: &[u8]) -> Result<(), CodecError> {
        for item in codec::items(payload) {
            let item = item?;
            let known = self.known.entry(item.conversation()).or_default();
            known.items += 1;
            known.highest = known.highest.max(item.seq());
        }
        Ok(())
    }

    /// Conversations that miss items below their highest, with how many.
    pub fn torn(&self) -> impl Iterator<Item = (ConversationId, u64)> {
        let torn = |known: &Known| known.highest.saturating_sub(known.items);
        self.known.iter().map(move |(id, known)| (*id, torn(known))).filter(|(_, missing)| *missing > 0)
    }

    /// Conversations of one slot.
    pub fn of_slot(&self, slot: Slot) -> impl Iterator<Item = ConversationId> {
        let first = u64::from(slot.0) << ConversationId::NUMBER_BITS;
        let last = first | ((1 << ConversationId::NUMBER_BITS) - 1);
        self.known.range(ConversationId(first)..=ConversationId(last)).map(|(id, _)| *id)
    }

    /// The sentences of a damage report: conversations that lost something for certain, those that may have because
    /// records of their `slots` are lost, and, if `more` was lost, that nobody can say whose.
    pub fn sentences(&self, slots: &[u16], more: bool) -> Vec<String> {
        let mut sentences = Vec::new();
        let torn: Vec<String> =
            self.torn().map(|(id, missing)| format!("{:016x} ({missing} missing)", id.0)).collect();
        if !torn.is_empty() {
            sentences.push(format!("conversations that lost messages or states: {}", list(&torn)));
        }
        let slots: std::collections::BTreeSet<u16> = slots.iter().copied().collect();
        let perhaps: Vec<String> = slots
            .iter()
            .flat_map(|slot| self.of_slot(Slot(*slot)))
            .filter(|id| !self.torn().any(|(torn, _)| torn == *id))
            .map(|id| format!("{:016x}", id.0))
            .collect();
        if !perhaps.is_empty() {
            sentences.push(format!(
                "conversations that may have, by the slots of lost records: {}",
                list(&perhaps)
            ));
        }
        if more || perhaps.is_empty() && torn.is_empty() {
            let others =
                if sentences.is_empty() { "which conversations" } else { "which further conversations" };
            sentences.push(format!(
                "{others} lost something cannot be known: a loss at a conversation's end leaves no number missing"
            ));
        }
        sentences
    }
}

fn list(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED_MAX {
        let _ = write!(text, " and {} more", names.len() - NAMED_MAX);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::ids::{DeviceId, Hlc, Party};

    fn sent(conversation: ConversationId, seq: u64) -> Vec<u8> {
        let (party, device, n, at) = (Party::Visitor, DeviceId(1), seq, Hlc(0));
        let (kind, body) = (0, b"x".to_vec());
        let mut record = Vec::new();
        codec::encode(&[Event::Sent { conversation, seq, party, device, n, at, kind, body }], &mut record);
        record
    }

    #[test]
    fn gaps_are_certain_and_slots_a_suspicion() {
        let (a, b) = (ConversationId::new(Slot(3), 1), ConversationId::new(Slot(3), 2));
        let c = ConversationId::new(Slot(4), 1);
        let mut census = Census::default();
        for (conversation, seq) in [(a, 1), (a, 2), (a, 5), (b, 1), (c, 1)] {
            census.record(&sent(conversation, seq)).expect("a good record");
        }
        assert_eq!(census.torn().collect::<Vec<_>>(), [(a, 2)]);
        assert_eq!(census.of_slot(Slot(3)).collect::<Vec<_>>(), [a, b]);
        let sentences = census.sentences(&[3, 3], false);
        assert_eq!(sentences.len(), 2);
        assert!(sentences[0].contains(&format!("{:016x} (2 missing)", a.0)), "{sentences:?}");
        assert!(sentences[1].ends_with(&format!("{:016x}", b.0)), "{sentences:?}");
        let nothing = Census::default().sentences(&[], true);
        assert!(nothing[0].starts_with("which conversations lost something cannot be known"), "{nothing:?}");
    }
}
