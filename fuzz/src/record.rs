//! `desk::codec`: the events of one decision, as they lie in the log.
//!
//! Input: the record.

use ringdesk_desk::codec;
use ringdesk_desk::event::Event;

/// A record that is read is written as the bytes that were read; its items are the same whether they are borrowed
/// or owned, and found by their seq.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let events = match codec::decode(input) {
        Ok(events) => events,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            // Items are read on their own, so they may come before the bad event is met.
            return codec::items(input).for_each(drop);
        }
    };
    let mut written = Vec::new();
    codec::encode(&events, &mut written);
    assert_eq!(written, input, "{events:?}");
    let said = events.iter().filter(|event| matches!(event, Event::Sent { .. } | Event::Changed { .. }));
    let items: Vec<_> = codec::items(input).collect::<Result<_, _>>().expect("the record was read");
    assert_eq!(items.len(), said.count());
    for item in &items {
        let found = codec::decode_item(input, item.seq()).expect("the record was read");
        let first = items.iter().find(|other| other.seq() == item.seq());
        assert_eq!(found.as_ref(), first);
    }
}
