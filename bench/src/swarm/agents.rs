//! Agents on the swarm: they come online, take what they are assigned and read. They write nothing, so that a message
//! of a visitor is one receive and two sends for the server.

use std::collections::BTreeMap;

use ringdesk_protocol::{Availability, ClientMessage, Code, Frame, Role, ServerMessage};

use super::Reply;

const TAG_PRESENCE: u32 = 1 << 30;

/// All agents of a swarm.
pub struct Agents {
    tickets: Vec<String>,
    device_base: u64,
    capacity: u16,
    /// The last item shown of each conversation, whoever's it is.
    cursors: BTreeMap<u64, u64>,
    /// Agents that are online.
    pub present: u32,
    /// Conversations assigned.
    pub assigned: u32,
    /// Messages shown.
    pub delivered: u64,
    /// Items missing between two that were shown.
    pub lost: u64,
    /// What should not have happened.
    pub faults: BTreeMap<String, u64>,
}

impl Agents {
    /// One agent per ticket, each taking `capacity` conversations; device ids count up from `device_base`.
    pub fn new(tickets: Vec<String>, device_base: u64, capacity: u16) -> Self {
        Self {
            tickets,
            device_base,
            capacity,
            cursors: BTreeMap::new(),
            present: 0,
            assigned: 0,
            delivered: 0,
            lost: 0,
            faults: BTreeMap::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.tickets.len() as u32
    }

    /// The connection of agent `number` stands.
    pub fn connected(&mut self, number: u32, reply: &mut Reply) {
        let version = ringdesk_protocol::limits::VERSION;
        ClientMessage::Hello {
            version_min: version,
            version_max: version,
            role: Role::Agent,
            device: self.device_base + u64::from(number),
            ticket: &self.tickets[number as usize],
            cursors: &[],
        }
        .encode(0, 0, &mut reply.frames);
    }

    /// Declares an agent, again after a refusal for now.
    pub fn declare(&self, reply: &mut Reply) {
        let (n, availability, capacity) = (1, Availability::Online, self.capacity);
        ClientMessage::Presence { n, availability, capacity }.encode(0, TAG_PRESENCE, &mut reply.frames);
    }

    /// A frame for an agent.
    pub fn frame(&mut self, now_ns: u64, frame: Frame<'_>, reply: &mut Reply) {
        let message = match ServerMessage::decode(frame.header.kind, frame.body) {
            Ok(message) => message,
            Err(error) => return self.fault(format!("unreadable frame: {error}")),
        };
        match message {
            ServerMessage::Welcome { .. } => {
                reply.settled = true;
                self.declare(reply);
            }
            ServerMessage::Ack { .. } if frame.header.tag == TAG_PRESENCE => self.present += 1,
            ServerMessage::Assigned { conversation, seq, .. } => {
                self.assigned += u32::from(self.cursors.insert(conversation, seq).is_none());
            }
            ServerMessage::Deliver { conversation, seq, .. } => {
                self.delivered += 1;
                self.item(conversation, seq);
            }
            ServerMessage::State { conversation, seq, .. } => self.item(conversation, seq),
            ServerMessage::Reject { code: Code::Busy, retry_after_ms, .. } => {
                reply.again_ns = Some(now_ns + u64::from(retry_after_ms.max(50)) * 1_000_000);
            }
            ServerMessage::Reject { code, .. } => {
                self.fault(format!("an agent was refused: {}", code.name()))
            }
            ServerMessage::Goodbye { code, .. } => {
                self.fault(format!("goodbye to an agent: {}", code.name()))
            }
            _ => {}
        }
    }

    fn item(&mut self, conversation: u64, seq: u64) {
        match self.cursors.get_mut(&conversation) {
            Some(cursor) => {
                self.lost += seq.saturating_sub(*cursor + 1);
                *cursor = seq.max(*cursor);
            }
            None => self.fault("an agent was shown an item before its ASSIGNED".into()),
        }
    }

    fn fault(&mut self, what: String) {
        *self.faults.entry(what).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use ringdesk_protocol::{Author, Content, Status};

    use super::*;

    fn take(agents: &mut Agents, tag: u32, message: &ServerMessage<'_>) -> Reply {
        let (mut bytes, mut reply) = (Vec::new(), Reply::default());
        message.encode(0, tag, &mut bytes);
        let frame = ringdesk_protocol::frame::decode(&bytes, 1 << 20).expect("in order").expect("whole");
        agents.frame(0, frame, &mut reply);
        reply
    }

    fn assigned(conversation: u64, seq: u64) -> ServerMessage<'static> {
        let (agent, owner_epoch, status, since, visitor) = (1, 1, Status::Assigned, 0, "v");
        let (visitor_read, visitor_delivered, staff_read, staff_delivered) = (0, 0, 0, 0);
        ServerMessage::Assigned {
            conversation,
            agent,
            owner_epoch,
            status,
            seq,
            since,
            visitor_read,
            visitor_delivered,
            staff_read,
            staff_delivered,
            visitor,
        }
    }

    fn deliver(conversation: u64, seq: u64) -> ServerMessage<'static> {
        let (at, author, agent, device, n, content) = (0, Author::Visitor, 0, 1, seq, Content::Text);
        ServerMessage::Deliver { conversation, seq, at, author, agent, device, n, content, body: b"x" }
    }

    #[test]
    fn an_agent_counts_what_it_is_shown_and_notices_a_hole() {
        let mut agents = Agents::new(vec!["t".into()], 1, 9);
        let reply = take(
            &mut agents,
            TAG_PRESENCE,
            &ServerMessage::Ack { conversation: 0, seq: 0, n: 1, duplicate: false },
        );
        assert!(reply.frames.is_empty() && agents.present == 1);
        take(&mut agents, 0, &deliver(5, 3));
        assert_eq!(agents.faults.len(), 1, "nothing is shown before ASSIGNED");
        take(&mut agents, 0, &assigned(5, 2));
        for seq in [3, 4, 7] {
            take(&mut agents, 0, &deliver(5, seq));
        }
        assert_eq!((agents.assigned, agents.delivered, agents.lost), (1, 4, 2));
        let busy = ServerMessage::Reject {
            code: Code::Busy,
            of: 8,
            conversation: 0,
            retry_after_ms: 90,
            detail: 0,
            sentence: "",
        };
        assert_eq!(take(&mut agents, TAG_PRESENCE, &busy).again_ns, Some(90_000_000));
    }
}
