//! Events as JSON, for people and scripts. Ids are hex as on the wire, times are milliseconds since 1970.

use ringdesk_desk::event::{Event, Note};
use ringdesk_desk::ids::{ConversationId, DeviceId, Hlc, Party, Side};
use serde_json::{Value, json};

fn id(conversation: ConversationId) -> String {
    format!("{:016x}", conversation.0)
}

fn device_id(device: DeviceId) -> String {
    format!("{:016x}", device.0)
}

fn ms(at: Hlc) -> u64 {
    at.millis()
}

fn party_name(party: Party) -> Value {
    match party {
        Party::Visitor => json!("visitor"),
        Party::Agent(agent) => json!({ "agent": agent.0 }),
        Party::System => json!("system"),
    }
}

fn word(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_ascii_lowercase()
}

/// One event as an object with a `type`.
pub fn json(event: &Event) -> Value {
    match event {
        Event::Opened { .. }
        | Event::Found { .. }
        | Event::OpenerRetired { .. }
        | Event::DeviceRetired { .. } => visitor(event),
        Event::Sent { .. } | Event::Changed { .. } | Event::ReceiptMoved { .. } => item(event),
        Event::Waiting { .. }
        | Event::Placed { .. }
        | Event::Returned { .. }
        | Event::Left { .. }
        | Event::AgentDeclared { .. }
        | Event::AgentLinks { .. }
        | Event::AgentLapsed { .. }
        | Event::Booted { .. } => dispatcher(event),
        Event::Told { from, to, n, note } => {
            json!({ "type": "told", "from": from.0, "to": to.0, "n": n, "note": note_json(note) })
        }
        Event::Heard { from, to, n } => json!({ "type": "heard", "from": from.0, "to": to.0, "n": n }),
        Event::Confirmed { from, to, upto } => {
            json!({ "type": "confirmed", "from": from.0, "to": to.0, "upto": upto })
        }
    }
}

fn visitor(event: &Event) -> Value {
    match event {
        Event::Opened { conversation, site, site_slot, visitor, device, n, at } => json!({
            "type": "opened", "conversation": id(*conversation), "site": site.0, "site_slot": site_slot.0,
            "visitor": visitor, "device": device_id(*device), "n": n, "at_ms": ms(*at),
        }),
        Event::Found { conversation, device, n, at } => json!({
            "type": "found", "conversation": id(*conversation), "device": device_id(*device), "n": n,
            "at_ms": ms(*at),
        }),
        Event::OpenerRetired { conversation, device } => json!({
            "type": "opener_retired", "conversation": id(*conversation), "device": device_id(*device),
        }),
        Event::DeviceRetired { conversation, party, device } => json!({
            "type": "device_retired", "conversation": id(*conversation), "party": party_name(*party),
            "device": device_id(*device),
        }),
        other => panic!("{other:?} is told elsewhere"),
    }
}

fn item(event: &Event) -> Value {
    match event {
        Event::Sent { conversation, seq, party, device, n, at, kind, body } => json!({
            "type": "sent", "conversation": id(*conversation), "seq": seq, "party": party_name(*party),
            "device": device_id(*device), "n": n, "at_ms": ms(*at), "kind": kind,
            "body": String::from_utf8_lossy(body),
        }),
        Event::Changed { conversation, seq, status, cause, agent, epoch, by, key, at } => json!({
            "type": "changed", "conversation": id(*conversation), "seq": seq, "status": word(status),
            "cause": word(cause), "agent": agent.map(|agent| agent.0), "epoch": epoch, "by": party_name(*by),
            "device": key.map(|(device, _)| device_id(device)), "n": key.map(|(_, n)| n), "at_ms": ms(*at),
        }),
        Event::ReceiptMoved { conversation, side, delivered, read, at } => json!({
            "type": "receipt", "conversation": id(*conversation), "delivered": delivered, "read": read,
            "side": match side { Side::Visitor => "visitor", Side::Staff => "staff" }, "at_ms": ms(*at),
        }),
        other => panic!("{other:?} is told elsewhere"),
    }
}

fn dispatcher(event: &Event) -> Value {
    match event {
        Event::Waiting { slot, site, conversation, since, epoch } => json!({
            "type": "waiting", "slot": slot.0, "site": site.0, "conversation": id(*conversation),
            "since_ms": ms(*since), "epoch": epoch,
        }),
        Event::Placed { slot, site, conversation, agent, epoch, at } => json!({
            "type": "placed", "slot": slot.0, "site": site.0, "conversation": id(*conversation), "agent": agent.0,
            "epoch": epoch, "at_ms": ms(*at),
        }),
        Event::Returned { slot, site, conversation, agent, epoch, at } => json!({
            "type": "returned", "slot": slot.0, "site": site.0, "conversation": id(*conversation),
            "agent": agent.0, "epoch": epoch, "at_ms": ms(*at),
        }),
        Event::Left { slot, site, conversation, epoch, at } => json!({
            "type": "left", "slot": slot.0, "site": site.0, "conversation": id(*conversation), "epoch": epoch,
            "at_ms": ms(*at),
        }),
        Event::AgentDeclared { slot, site, agent, device, n, availability, capacity, at } => json!({
            "type": "agent_declared", "slot": slot.0, "site": site.0, "agent": agent.0,
            "device": device_id(*device), "n": n, "availability": word(availability), "capacity": capacity,
            "at_ms": ms(*at),
        }),
        Event::AgentLinks { slot, site, agent, links, at } => json!({
            "type": "agent_links", "slot": slot.0, "site": site.0, "agent": agent.0, "links": links,
            "at_ms": ms(*at),
        }),
        Event::AgentLapsed { slot, site, agent, at } => json!({
            "type": "agent_lapsed", "slot": slot.0, "site": site.0, "agent": agent.0, "at_ms": ms(*at),
        }),
        Event::Booted { slot, at } => json!({ "type": "booted", "slot": slot.0, "at_ms": ms(*at) }),
        other => panic!("{other:?} is told elsewhere"),
    }
}

fn note_json(note: &Note) -> Value {
    match *note {
        Note::Want { site, conversation, since, epoch } => json!({
            "type": "want", "site": site.0, "conversation": id(conversation), "since_ms": ms(since), "epoch": epoch,
        }),
        Note::Assign { conversation, agent, epoch } => {
            json!({ "type": "assign", "conversation": id(conversation), "agent": agent.0, "epoch": epoch })
        }
        Note::Unassign { conversation, epoch } => {
            json!({ "type": "unassign", "conversation": id(conversation), "epoch": epoch })
        }
        Note::Release { site, conversation, epoch } => {
            json!({ "type": "release", "site": site.0, "conversation": id(conversation), "epoch": epoch })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringdesk_desk::ids::Slot;

    #[test]
    fn ids_are_as_on_the_wire() {
        let conversation = ConversationId::new(Slot(164 << 4), 7);
        let event = Event::Sent {
            conversation,
            seq: 3,
            party: Party::Visitor,
            device: DeviceId(0xab),
            n: 1,
            at: Hlc::from_millis(1_700_000_000_000),
            kind: 0,
            body: "hé".into(),
        };
        let shown = json(&event);
        assert_eq!(shown["conversation"], format!("{:016x}", conversation.0));
        assert_eq!(
            (shown["device"].as_str(), shown["at_ms"].as_u64()),
            (Some("00000000000000ab"), Some(1_700_000_000_000))
        );
        assert_eq!((shown["body"].as_str(), shown["party"].as_str()), (Some("hé"), Some("visitor")));
    }
}
