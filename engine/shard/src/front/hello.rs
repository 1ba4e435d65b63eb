//! HELLO: version, ticket, revocation; then the connection goes to the shard that owns its identity, and WELCOME
//! comes from there.

use ringdesk_desk::ids::{ConversationId, DeviceId};
use ringdesk_protocol::limits::{FRAME_BYTES_MAX, VERSION, negotiate};
use ringdesk_protocol::ws::{Socket, Terms};
use ringdesk_protocol::{Code, Cursor, Role, ServerMessage};

use super::Front;
use super::bytes::WEBSOCKET;
use super::connection::{Connection, Cutter, Phase, Ready};
use super::session::{Listen, Listens, Session, Sessions};
use crate::ask::Want;
use crate::io::{ConnId, Output};
use crate::mail::Mail;
use crate::message::{HandOver, Identity, Principal, Transport};
use crate::owner::{Owner, SHED_NEW_VISITORS};
use crate::router::{Router, identity_slot, site_slot};
use crate::ticket::{self, TicketError};

/// The fields of a HELLO.
pub struct Hello<'a> {
    pub version_min: u8,
    pub version_max: u8,
    pub role: Role,
    pub device: u64,
    pub ticket: &'a str,
    pub cursors: &'a [Cursor],
}

impl Front {
    pub(super) fn hello(
        &mut self,
        index: u32,
        tag: u32,
        hello: &Hello<'_>,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let principal = match self.admit(hello) {
            Ok(principal) => principal,
            Err(code) => return self.goodbye(index, code),
        };
        let new_visitor = hello.cursors.is_empty() && matches!(principal.identity, Identity::Visitor { .. });
        if new_visitor && (self.open > self.connections_max() || owner.load_eighths() >= SHED_NEW_VISITORS) {
            return self.goodbye(index, Code::Busy);
        }
        let to = home_of(&principal, owner.router()).unwrap_or(self.shard);
        let connection = self.at(index);
        let state = HandOver {
            transport: connection.transport,
            principal,
            device: DeviceId(hello.device),
            tag,
            cursors: hello.cursors.iter().map(|c| (c.conversation(), c.epoch(), c.seq())).collect(),
            frames: Vec::new(),
            unread: Vec::new(),
            // Taken along when everything is flushed.
            deflate: None,
            tls: None,
            address: None,
        };
        if to == self.shard {
            self.serve(index, state, owner, mail);
        } else {
            self.at(index).phase = Phase::Leaving { to, state: Box::new(state) };
            self.touch(index);
        }
    }

    fn admit(&self, hello: &Hello<'_>) -> Result<Principal, Code> {
        negotiate(hello.version_min, hello.version_max).ok_or(Code::BadVersion)?;
        if hello.device == 0 {
            return Err(Code::BadHandshake);
        }
        let now_s = self.wall_ms / 1000;
        let verified = {
            let keys = ticket::Keys { server: &self.settings.ticket_key, sites: &self.settings.site_keys };
            ticket::verify(keys, hello.ticket, hello.role as u8, now_s)
        };
        let principal = verified.map_err(|error| match error {
            TicketError::Expired => Code::TicketExpired,
            TicketError::Invalid | TicketError::WrongRole => Code::TicketInvalid,
        })?;
        if self.is_revoked(&principal) {
            return Err(Code::TicketRevoked);
        }
        Ok(principal)
    }

    /// A connection came from another shard.
    pub fn handed_over(&mut self, id: ConnId, mut state: HandOver, owner: &mut Owner, mail: &mut Mail<'_>) {
        let cutter = match state.transport {
            Transport::Stream => Cutter::Stream(None),
            Transport::WsBinary | Transport::WsJson => {
                Cutter::WebSocket(Socket::open(Terms { deflate: state.deflate, ..WEBSOCKET }))
            }
        };
        let mut connection = Connection::new(id, state.transport, cutter, self.now_s);
        connection.tls = state.tls.take();
        self.insert(connection);
        if let Some(address) = state.address
            && !self.count_address(id.index, address)
        {
            return self.goodbye(id.index, Code::Busy);
        }
        if self.draining_since_s.is_some() {
            return self.goodbye(id.index, Code::ShuttingDown);
        }
        if self.is_still() && self.at(id.index).tls.is_some() {
            return self.send_off(id.index);
        }
        if self.is_revoked(&state.principal) {
            return self.goodbye(id.index, Code::TicketRevoked);
        }
        self.serve(id.index, state, owner, mail);
    }

    /// Serves a connection from here on: WELCOME, presence, cursors, then what it sent after its HELLO.
    pub(super) fn serve(&mut self, index: u32, state: HandOver, owner: &mut Owner, mail: &mut Mail<'_>) {
        let HandOver { principal, device, tag, cursors, frames, mut unread, .. } = state;
        let agent = match principal.identity {
            Identity::Agent { agent, .. } => agent.0,
            _ => 0,
        };
        let sessions = match principal.identity {
            Identity::Visitor { visitor: name } | Identity::Agent { login: name, .. } => {
                self.sessions += 1;
                let listens = Listens::None;
                Sessions::One(Session { name, device, listens, agent, asked: 0 })
            }
            Identity::Gateway => Sessions::Gateway(Default::default()),
        };
        let site = self.sites.place(principal.site, &principal.site_name);
        let issued_s = u32::try_from(principal.issued_s).unwrap_or(u32::MAX);
        let ready = Ready { sessions, site, issued_s };
        let connection = self.at(index);
        connection.phase = Phase::Ready(ready);
        let conn = connection.id;
        if self.is_still() {
            self.keep_for_later(index, &std::mem::take(&mut unread));
        } else {
            mail.output(Output::Receive { conn, once: false });
        }
        self.welcome(index, 0, tag, owner);
        if agent != 0 {
            let slot = site_slot(&principal.site_name);
            self.ask_for(index, 0, Want::Link { slot }, owner, mail);
        }
        self.resume_cursors(index, 0, &cursors, owner, mail);
        self.after_hello(index, &frames, &mut unread, owner, mail);
    }

    fn after_hello(
        &mut self,
        index: u32,
        frames: &[u8],
        unread: &mut [u8],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        for frame in ringdesk_protocol::frame::frames(frames, FRAME_BYTES_MAX as u32) {
            match frame {
                Ok(frame) => self.on_later_frame(index, frame, owner, mail),
                Err(error) => return self.goodbye(index, error.code()),
            }
        }
        if !unread.is_empty() && !self.at(index).closing {
            self.cut(index, unread, owner, mail);
        }
    }

    pub(super) fn welcome(&mut self, index: u32, channel: u32, tag: u32, owner: &Owner) {
        self.sessions_made += 1;
        let session = (u64::from(self.shard) << 48) | self.sessions_made;
        let (at, epoch, heartbeat_s) = (owner.now().0, self.log_epoch, self.settings.heartbeat_s);
        let names = self.settings.clone();
        let Some(ready) = self.at(index).ready_mut() else { return };
        let home = ready.site;
        let known = ready.sessions.get(channel).map(|session| (session.name.clone(), session.agent));
        let site = self.sites.site(home);
        let (identity, agent) = match known {
            Some((name, agent)) => {
                let shown = names.agent_names.get(&(site.0, agent)).filter(|_| agent != 0).cloned();
                (shown.unwrap_or(name), agent)
            }
            None => ("".into(), 0),
        };
        let message = ServerMessage::Welcome {
            version: VERSION,
            epoch,
            session,
            at,
            heartbeat_s,
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            agent,
            identity: &identity,
            site: &self.sites.name(home).clone(),
        };
        self.at(index).put(channel, tag, &message);
        self.touch(index);
    }

    /// Subscribes from the cursors of a HELLO or BIND. A cursor of another log epoch is worth nothing: everything
    /// comes again from seq 1.
    pub(super) fn resume_cursors(
        &mut self,
        index: u32,
        channel: u32,
        cursors: &[(u64, u32, u64)],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        for &(conversation, epoch, seq) in cursors {
            let conversation = ConversationId(conversation);
            let after = if epoch == self.log_epoch { seq.min(u64::MAX >> 1) } else { 0 };
            let Some(session) = self.at(index).session_mut(channel) else { return };
            if session.listen_mut(conversation).is_some() {
                continue;
            }
            session.listens.push(Listen::asking(conversation, after, false));
            self.ask_items((index, channel), conversation, after, true, owner, mail);
        }
    }

    pub(super) fn is_revoked(&self, principal: &Principal) -> bool {
        let key = match &principal.identity {
            Identity::Visitor { visitor } => (principal.site.0, 0, visitor.to_string()),
            Identity::Agent { agent, .. } => (principal.site.0, agent.0, String::new()),
            Identity::Gateway => return false,
        };
        self.revoked.get(&key).is_some_and(|before| principal.issued_s < *before)
    }
}

/// The shard that owns an identity; gateways stay where they are.
fn home_of(principal: &Principal, router: &Router) -> Option<u16> {
    let name = match &principal.identity {
        Identity::Visitor { visitor } => visitor,
        Identity::Agent { login, .. } => login,
        Identity::Gateway => return None,
    };
    Some(router.owner(identity_slot(&principal.site_name, name)))
}
