//! Client messages after HELLO: who may say what, and the ask that each becomes.

use std::sync::Arc;

use ringdesk_desk::command::Availability;
use ringdesk_desk::ids::{ConversationId, DeviceId};
use ringdesk_protocol::{self as wire, ClientMessage, Code, Frame, ServerMessage};

use super::backpressure::{CHANNEL_CREDIT, is_counted};
use super::bytes::HELLO;
use super::connection::Phase;
use super::hello::Hello;
use super::session::{Listens, Session, caller};
use super::{Front, PAGES_OUT_MAX};
use crate::ask::{Ask, Want};
use crate::frames;
use crate::mail::Mail;
use crate::message::SessionRef;
use crate::owner::Owner;
use crate::router::{identity_slot, site_slot};

/// Visitors one gateway connection binds at most. Full: BIND is refused with BUSY.
pub const CHANNELS_MAX: usize = 65_536;

impl Front {
    pub(super) fn on_later_frame(
        &mut self,
        index: u32,
        frame: Frame<'_>,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        match ClientMessage::decode(frame.header.kind, frame.body) {
            // Even one that cannot be read is a second HELLO.
            Err(_) if frame.header.kind == HELLO => self.goodbye(index, Code::ProtocolViolation),
            Ok(message) => {
                self.on_message(index, frame.header.channel, frame.header.tag, message, owner, mail);
            }
            Err(error) => {
                let to = self.session_ref(index, frame.header.channel);
                self.refuse(to, frame.header.tag, frame.header.kind, 0, error.code());
            }
        }
    }

    fn session_ref(&mut self, index: u32, channel: u32) -> SessionRef {
        let shard = self.shard;
        self.at(index).session_ref(shard, channel)
    }

    pub(super) fn on_message(
        &mut self,
        index: u32,
        channel: u32,
        tag: u32,
        message: ClientMessage<'_>,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let greeting = matches!(self.at(index).phase, Phase::Greeting);
        if let ClientMessage::Hello { version_min, version_max, role, device, ticket, cursors } = message {
            if !greeting {
                return self.goodbye(index, Code::ProtocolViolation);
            }
            let hello = Hello { version_min, version_max, role, device, ticket, cursors };
            return self.hello(index, tag, &hello, owner, mail);
        }
        if greeting {
            return self.goodbye(index, Code::HelloExpected);
        }
        match message {
            ClientMessage::Ping { nonce } => {
                let known = channel == 0
                    || self.at(index).ready_mut().is_some_and(|ready| ready.sessions.get(channel).is_some());
                if !known {
                    let from = self.session_ref(index, channel);
                    return self.refuse(from, tag, PING, 0, Code::ChannelUnknown);
                }
                self.at(index).put(channel, tag, &ServerMessage::Pong { nonce });
                self.touch(index);
            }
            ClientMessage::Bind { channel, device, visitor, cursors } => {
                self.bind((index, channel, tag), visitor, device, cursors, owner, mail);
            }
            ClientMessage::Unbind { channel } => self.unbind(index, channel, tag, owner, mail),
            _ => self.ask_as(index, channel, tag, &message, owner, mail),
        }
    }

    /// A message of the session on `channel` becomes an ask.
    fn ask_as(
        &mut self,
        index: u32,
        channel: u32,
        tag: u32,
        message: &ClientMessage<'_>,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let from = self.session_ref(index, channel);
        let kind = message.kind();
        let cap = self.settings.outbox_bytes_max as usize;
        // Looked up in place of `at`, which would borrow the site's name too.
        let Some(Phase::Ready(ready)) = self.connections.get_mut(index).map(|known| &mut known.phase) else {
            return;
        };
        let site_name = self.sites.name(ready.site);
        let Some(session) = ready.sessions.get(channel) else {
            // A gateway's own channel has an identity, which is no visitor's.
            let code = if channel == 0 { Code::Forbidden } else { Code::ChannelUnknown };
            return self.refuse(from, tag, kind, 0, code);
        };
        let spent = session.asked >= CHANNEL_CREDIT && is_counted(kind) && channel != 0;
        let want = match want_of(message, session, site_name) {
            Ok(want) => want,
            Err(code) => return self.refuse(from, tag, kind, 0, code),
        };
        if spent {
            return self.refuse(from, tag, kind, want.conversation(), Code::Busy);
        }
        if let Some(sentence) = out_of_range(message) {
            return self.refuse_value(from, tag, (kind, want.conversation()), sentence);
        }
        if let Want::History { conversation, .. } = want {
            let connection = self.at(index);
            if connection.pages_out >= PAGES_OUT_MAX || connection.backlog_bytes() >= cap {
                return self.refuse(from, tag, kind, conversation.0, Code::Busy);
            }
            connection.pages_out += 1;
        }
        let Some(ready) = self.at(index).ready_mut() else { return };
        let home = ready.site;
        let Some(session) = ready.sessions.get(channel) else { return };
        let body: &[u8] = match message {
            ClientMessage::Send { body, .. } => body,
            _ => &[],
        };
        let (name, device, agent) = (session.name.clone(), session.device, session.agent());
        let caller = caller(self.sites.site(home), agent, &name);
        self.route(Ask { from, tag, kind, device, caller, want, body }, owner, mail);
    }

    /// INVALID, with a sentence that names the field.
    fn refuse_value(&mut self, to: SessionRef, tag: u32, (of, conversation): (u8, u64), sentence: &str) {
        let code = Code::Invalid;
        let message =
            ServerMessage::Reject { code, of, conversation, retry_after_ms: 0, detail: 0, sentence };
        self.put(to, &frames::frame(&message, tag));
    }

    fn bind(
        &mut self,
        (index, channel, tag): (u32, u32, u32),
        visitor: &str,
        device: u64,
        cursors: &[wire::Cursor],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let kind = BIND;
        let from = self.session_ref(index, 0);
        let Some(ready) = self.at(index).ready_mut() else { return };
        let home = ready.site;
        let code = if !ready.sessions.is_gateway() {
            Some(Code::Forbidden)
        } else if channel == 0 {
            return self.refuse_value(from, tag, (kind, 0), "The field `channel` must not be 0.");
        } else if device == 0 {
            return self.refuse_value(from, tag, (kind, 0), "The field `device` must not be 0.");
        } else if ready.sessions.get(channel).is_some() {
            Some(Code::ChannelInUse)
        } else if ready.sessions.len() >= CHANNELS_MAX {
            Some(Code::Busy)
        } else {
            None
        };
        if let Some(code) = code {
            return self.refuse(from, tag, kind, 0, code);
        }
        let session = Session {
            name: Arc::from(visitor),
            device: DeviceId(device),
            listens: Listens::None,
            agent: 0,
            asked: 0,
        };
        let key = (self.sites.site(home).0, 0, visitor.to_owned());
        if self.revoked.get(&key).is_some_and(|before| self.wall_ms / 1000 < *before) {
            return self.refuse(from, tag, kind, 0, Code::Forbidden);
        }
        let ready = self.at(index).ready_mut().expect("it was ready");
        ready.sessions.bind(channel, session);
        self.sessions += 1;
        self.welcome(index, channel, tag, owner);
        let cursors: Vec<_> = cursors.iter().map(|c| (c.conversation(), c.epoch(), c.seq())).collect();
        self.resume_cursors(index, channel, &cursors, owner, mail);
    }

    fn unbind(&mut self, index: u32, channel: u32, tag: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let from = self.session_ref(index, 0);
        let Some(ready) = self.at(index).ready_mut() else { return };
        if !ready.sessions.is_gateway() {
            return self.refuse(from, tag, UNBIND, 0, Code::Forbidden);
        }
        if channel == 0 || ready.sessions.get(channel).is_none() {
            return self.refuse(from, tag, UNBIND, 0, Code::ChannelUnknown);
        }
        self.end_session(index, channel, owner, mail);
        self.at(index).put(
            channel,
            tag,
            &ServerMessage::Ack { conversation: 0, seq: 0, n: 0, duplicate: false },
        );
        self.touch(index);
    }
}

/// `Limits::capacity_max` of the desk.
const CAPACITY_MAX: u16 = 1000;

/// Kinds of the frames that never become an ask.
const BIND: u8 = 0x09;
const UNBIND: u8 = 0x0A;
const PING: u8 = 0x0B;

/// What is wrong with a number that its type allows. What depends on who asks is the desk's to judge.
fn out_of_range(message: &ClientMessage<'_>) -> Option<&'static str> {
    match *message {
        ClientMessage::Open { n: 0, .. }
        | ClientMessage::Send { n: 0, .. }
        | ClientMessage::Resolve { n: 0, .. }
        | ClientMessage::Presence { n: 0, .. } => Some("The field `n` must be at least 1."),
        ClientMessage::Presence { capacity, .. } if capacity > CAPACITY_MAX => {
            Some("The field `capacity` must be at most 1000.")
        }
        _ => None,
    }
}

fn want_of(message: &ClientMessage<'_>, session: &Session, site: &str) -> Result<Want, Code> {
    let is_agent = session.agent != 0;
    Ok(match *message {
        ClientMessage::Open { n, .. } if !is_agent => {
            Want::Open { slot: identity_slot(site, &session.name), site_slot: site_slot(site), n }
        }
        ClientMessage::Send { conversation, n, owner_epoch, content, .. } => Want::Send {
            conversation: ConversationId(conversation),
            n,
            owner_epoch,
            content: content.number(),
        },
        ClientMessage::Receipt { conversation, delivered, read } => {
            Want::Receipt { conversation: ConversationId(conversation), delivered, read }
        }
        ClientMessage::Typing { conversation, on } => {
            Want::Typing { conversation: ConversationId(conversation), on }
        }
        ClientMessage::History { conversation, before, after, limit } => {
            Want::History { conversation: ConversationId(conversation), before, after, limit }
        }
        ClientMessage::Resolve { conversation, n, owner_epoch } => {
            Want::Resolve { conversation: ConversationId(conversation), n, owner_epoch }
        }
        ClientMessage::Presence { n, availability, capacity } if is_agent => Want::Presence {
            slot: site_slot(site),
            n,
            availability: match availability {
                wire::Availability::Offline => Availability::Offline,
                wire::Availability::Online => Availability::Online,
                wire::Availability::Away => Availability::Away,
            },
            capacity,
        },
        ClientMessage::Open { .. } | ClientMessage::Presence { .. } => return Err(Code::Forbidden),
        ClientMessage::Hello { .. }
        | ClientMessage::Bind { .. }
        | ClientMessage::Unbind { .. }
        | ClientMessage::Ping { .. } => return Err(Code::ProtocolViolation),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_what_the_protocol_says() {
        assert!(ClientMessage::KINDS.contains(&(BIND, "bind")));
        assert!(ClientMessage::KINDS.contains(&(UNBIND, "unbind")));
        assert!(ClientMessage::KINDS.contains(&(PING, "ping")));
    }

    #[test]
    fn the_largest_capacity_is_the_desks() {
        assert_eq!(CAPACITY_MAX, ringdesk_desk::Limits::default().capacity_max);
        let presence = |capacity| {
            out_of_range(&ClientMessage::Presence {
                n: 1,
                availability: wire::Availability::Online,
                capacity,
            })
        };
        assert_eq!((presence(1000), presence(1001).is_some()), (None, true));
    }
}
