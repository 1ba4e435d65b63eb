//! Connections of the process before this one. A session stands as if it had never been elsewhere: no WELCOME; what it
//! listens to is asked for after its cursors; what it had sent is decoded after that.
//!
//! Nothing is refused for want of room: the connections were there before. What a HELLO would be refused for, a ticket
//! that was revoked or logs whose epoch is another one, ends the connection.

use std::collections::BTreeMap;

use ringdesk_protocol::Code;
use ringdesk_protocol::ws::Socket;

use super::Front;
use super::admit::{Preamble, begin};
use super::bytes::WEBSOCKET;
use super::connection::{Connection, Cutter, Phase, Ready};
use super::session::{Listen, Listens, Session, Sessions};
use crate::ask::{FROM_TAIL, Want};
use crate::carry::{self, Carried, Stage};
use crate::io::{ConnId, Output, Speaks};
use crate::mail::Mail;
use crate::message::{HandOver, Identity, Principal, Transport};
use crate::owner::Owner;
use crate::planted::{self, Bug};
use crate::router::site_slot;

impl Front {
    /// A connection of the process before. Nothing is armed.
    pub fn adopted(&mut self, id: ConnId, carried: Carried, owner: &mut Owner, mail: &mut Mail<'_>) {
        let cutter = cutter_of(&carried);
        let Carried { transport, address, silent_s, unsent, mut undecoded, stage, .. } = carried;
        let mut connection =
            Connection::new(id, transport, cutter, self.now_s.saturating_sub(silent_s.min(self.now_s)));
        if !unsent.is_empty() {
            connection.sending_bytes = unsent.len() as u32;
            mail.output(Output::Send { conn: id, buffer: unsent });
        }
        self.insert(connection);
        let index = id.index;
        if let Some(address) = address.filter(|_| self.settings.address_connections_max > 0) {
            let (number, _) = self.addresses.enter(address);
            self.at(index).address = number;
        }
        if self.draining_since_s.is_some() && stage != Stage::Closing {
            return self.goodbye(index, Code::ShuttingDown);
        }
        match stage {
            Stage::Proxy(kind) if kind.tls && self.settings.tls.is_none() => self.close_soon(index),
            Stage::Proxy(_) | Stage::Greeting { .. } if undecoded.is_empty() => {
                mail.output(Output::Receive { conn: id, once: true });
            }
            Stage::Proxy(_) | Stage::Greeting { .. } => self.received(id, &mut undecoded, owner, mail),
            Stage::Hello(hello) => self.adopt_hello(index, *hello, transport, undecoded, owner, mail),
            Stage::Ready(ready) => self.adopt_ready(index, *ready, &mut undecoded, owner, mail),
            Stage::Closing => self.close_soon(index),
        }
    }

    /// Closes when what it was sent is through.
    fn close_soon(&mut self, index: u32) {
        self.at(index).closing = true;
        self.touch(index);
    }

    fn adopt_hello(
        &mut self,
        index: u32,
        hello: carry::Hello,
        transport: Transport,
        unread: Vec<u8>,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let carry::Hello { principal, device, tag, cursors, frames } = hello;
        if self.is_revoked(&principal) {
            return self.goodbye(index, Code::TicketRevoked);
        }
        let state = HandOver {
            transport,
            principal,
            device,
            tag,
            cursors,
            frames,
            unread,
            deflate: None,
            tls: None,
            address: None,
        };
        self.serve(index, state, owner, mail);
    }

    fn adopt_ready(
        &mut self,
        index: u32,
        ready: carry::Ready,
        undecoded: &mut [u8],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        // Cursors of other logs are worth nothing; its client learns so from a new WELCOME.
        if ready.log_epoch != self.log_epoch {
            return self.goodbye(index, Code::ShuttingDown);
        }
        if principals(&ready).any(|principal| self.is_revoked(&principal)) {
            return self.goodbye(index, Code::TicketRevoked);
        }
        let site = self.sites.place(ready.site, &ready.site_name);
        let (sessions, listens) = sessions_of(&ready);
        self.sessions += sessions.len() as u64;
        let agent = ready.sessions.first().filter(|(_, session)| session.agent != 0 && !ready.gateway);
        let connection = self.at(index);
        let id = connection.id;
        connection.phase = Phase::Ready(Ready { sessions, site, issued_s: ready.issued_s });
        mail.output(Output::Receive { conn: id, once: false });
        if agent.is_some() && !planted::on(Bug::AdoptUnlinked) {
            let slot = site_slot(&ready.site_name);
            self.ask_for(index, 0, Want::Link { slot }, owner, mail);
        }
        for (channel, listen) in listens {
            self.listen_again(index, channel, listen, owner, mail);
        }
        if !undecoded.is_empty() && !self.at(index).closing {
            self.feed(index, undecoded, owner, mail);
        }
    }

    /// Asks for what comes after the cursor. Those that were live have little to read: they do not wait for their turn
    /// at the log, or a gateway of ten thousand would be pushed nothing for as long as that takes.
    fn listen_again(
        &mut self,
        index: u32,
        channel: u32,
        listen: carry::Listen,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let carry::Listen { conversation, after, from_tail, live } = listen;
        let name = owner.desk().visitor_name(conversation).cloned();
        let Some(session) = self.at(index).session_mut(channel) else { return };
        if session.listen_mut(conversation).is_some() {
            return;
        }
        // The desk's copy of the name instead of an own one.
        if let Some(name) = name.filter(|name| **name == *session.name) {
            session.name = name;
        }
        session.listens.push(Listen::asking(conversation, u64::from(after), from_tail));
        let after = if from_tail { FROM_TAIL } else { u64::from(after) };
        if live {
            self.ask_for(
                index,
                channel,
                Want::Subscribe { conversation, after, announce: false },
                owner,
                mail,
            );
        } else {
            self.ask_items((index, channel), conversation, after, true, owner, mail);
        }
    }
}

fn cutter_of(carried: &Carried) -> Cutter {
    let open = || {
        Cutter::WebSocket(Socket::open(ringdesk_protocol::ws::Terms {
            deflate: carried.deflate,
            ..WEBSOCKET
        }))
    };
    let stream = carried.transport == Transport::Stream;
    match &carried.stage {
        Stage::Proxy(listener) => Cutter::Proxy(Box::new(Preamble::new(*listener))),
        Stage::Greeting { upgraded: false } if !stream => begin(Speaks::WebSocket).1,
        _ if stream => begin(Speaks::Binary).1,
        _ => open(),
    }
}

/// Who it is, as far as a ticket can be revoked: a gateway's visitors were let in by the gateway.
fn principals(ready: &carry::Ready) -> impl Iterator<Item = Principal> + '_ {
    ready.sessions.iter().filter(|_| !ready.gateway).map(|(_, session)| Principal {
        site: ready.site,
        site_name: ready.site_name.clone(),
        identity: match session.agent {
            0 => Identity::Visitor { visitor: session.name.clone() },
            agent => {
                let agent = ringdesk_desk::ids::AgentId(agent);
                Identity::Agent { agent, login: session.name.clone() }
            }
        },
        expires_s: 0,
        issued_s: u64::from(ready.issued_s),
    })
}

/// The sessions, not listening yet, and what each listened to.
fn sessions_of(ready: &carry::Ready) -> (Sessions, Vec<(u32, carry::Listen)>) {
    let mut listens = Vec::new();
    let mut all = BTreeMap::new();
    for (channel, session) in &ready.sessions {
        listens.extend(session.listens.iter().map(|listen| (*channel, *listen)));
        let (name, device, agent) = (session.name.clone(), session.device, session.agent);
        all.insert(*channel, Session { name, device, listens: Listens::None, agent, asked: 0 });
    }
    let sessions = if ready.gateway {
        Sessions::Gateway(all)
    } else {
        all.pop_first().map_or(Sessions::None, |(_, session)| Sessions::One(session))
    };
    (sessions, listens)
}
