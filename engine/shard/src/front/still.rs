//! Standing still for an upgrade: nothing more is read, what was taken is finished, and then each connection can be
//! written down for another process; or all goes on as if nothing had been.
//!
//! Order: [`Front::stand_still`], turns until the driver sees that nothing is under way on any shard, then
//! [`Front::collect`] once, then either nothing more or [`Front::go_on`], which may come at any time.
//!
//! Meanwhile: what still arrives waits undecoded. Requests that are under way are answered, into the outbox and the
//! socket as ever. Subscriptions that read the log stop at what they have and are paused. What the driver took back from
//! a client that does not read waits in front of the outbox. Nobody is closed for silence.

use ringdesk_protocol::Code;
use ringdesk_protocol::ws::Deflater;

use super::Front;
use super::connection::{Connection, Cutter, Phase};
use super::session::Flow;
use crate::carry::{self, Carried, Stage};
use crate::io::{ConnId, Output, StoodConnections};
use crate::mail::Mail;
use crate::message::HandOver;
use crate::owner::Owner;
use crate::planted::{self, Bug};

/// Since when, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Still {
    /// Seconds of the monotonic clock.
    since_s: u32,
    /// Seconds since 1970.
    wall_s: u32,
    /// Connections in TLS that were told to come again.
    tls: u32,
}

impl Front {
    /// Whether it stands still.
    pub(super) fn is_still(&self) -> bool {
        self.still.is_some()
    }

    /// Reads nobody any more. TLS cannot be written down: who speaks through it is told to come again.
    pub fn stand_still(&mut self, mail: &mut Mail<'_>) {
        if self.still.is_some() {
            return;
        }
        let wall_s = u32::try_from(self.wall_ms / 1000).unwrap_or(u32::MAX);
        self.still = Some(Still { since_s: self.now_s, wall_s, tls: 0 });
        for index in 0..self.connections.end() {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            if matches!(connection.phase, Phase::Leaving { .. } | Phase::Gone) {
                continue;
            }
            if connection.stopped.is_none() {
                connection.stopped = Some(Box::default());
                mail.output(Output::Pause { conn: connection.id });
            }
            if connection.tls.is_some() {
                self.send_off(index);
            }
        }
    }

    /// A connection that cannot be carried, because it is inside TLS.
    pub(super) fn send_off(&mut self, index: u32) {
        let now_s = self.now_s;
        let connection = self.at(index);
        if !connection.closing {
            connection.heard_s = now_s;
            self.goodbye(index, Code::ShuttingDown);
        }
        if let Some(still) = &mut self.still {
            still.tls += 1;
        }
    }

    /// The driver took a send back: `buffer[from..]` did not go out, and goes out before anything else.
    pub fn unsent(&mut self, id: ConnId, buffer: Vec<u8>, from: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let still = self.is_still();
        let Some(connection) = self.get(id) else { return };
        connection.sending_bytes = 0;
        if connection.tls.is_some() && still {
            // It is not carried, and takes no goodbye.
            return self.close(id.index, owner, mail);
        }
        let rest = &buffer[from as usize..];
        if still {
            connection.stopped.get_or_insert_default().unsent.extend_from_slice(rest);
        } else {
            connection.sending_bytes = rest.len() as u32;
            mail.output(Output::Send { conn: id, buffer: rest.to_vec() });
        }
    }

    /// Bytes of a connection that arrive while nothing is decoded.
    pub(super) fn keep_for_later(&mut self, index: u32, bytes: &[u8]) {
        let connection = self.at(index);
        connection.stopped.get_or_insert_default().unread.extend_from_slice(bytes);
    }

    /// The upgrade was called off. The time of standing still does not count as silence.
    pub fn go_on(&mut self, owner: &mut Owner, mail: &mut Mail<'_>) {
        let Some(still) = self.still.take() else { return };
        let stood_s = self.now_s.saturating_sub(still.since_s);
        for index in 0..self.connections.end() {
            self.go_on_with(index, stood_s, owner, mail);
        }
    }

    fn go_on_with(&mut self, index: u32, stood_s: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let cap = self.settings.outbox_bytes_max as usize;
        let now_s = self.now_s;
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.heard_s = connection.heard_s.saturating_add(stood_s).min(now_s);
        if let Some(stopped) = &mut connection.stopped
            && !stopped.unsent.is_empty()
        {
            let buffer = std::mem::take(&mut stopped.unsent);
            connection.sending_bytes = buffer.len() as u32;
            mail.output(Output::Send { conn: connection.id, buffer });
        }
        // Nothing of a connection that leaves was armed: there is nothing to go on with.
        connection.stopped.take_if(|_| matches!(connection.phase, Phase::Leaving { .. }));
        let resume = connection.may_resume(cap) && !connection.closing;
        self.touch(index);
        self.set_deadline(index);
        if resume {
            self.resume_paused(index, owner, mail);
        }
    }

    /// Writes all connections down. What is here stays as it is, and must not change any more: another process may have
    /// the connections from now on.
    pub fn collect(&mut self) -> StoodConnections {
        let still = self.still.expect("connections are collected while the shard stands still");
        let age = CarryFrom { since_s: still.since_s, log_epoch: self.log_epoch, wall_s: still.wall_s };
        let mut carried = Vec::new();
        for index in 0..self.connections.end() {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            if connection.tls.is_some() {
                continue;
            }
            let mut one = connection.carried(&age, &mut self.deflater);
            one.address = self.addresses.of(connection.address);
            if let Stage::Ready(ready) = &mut one.stage
                && let Some(known) = connection.ready_mut()
            {
                ready.site = self.sites.site(known.site);
                ready.site_name = self.sites.name(known.site).clone();
            }
            carried.push((connection.id, one));
        }
        StoodConnections { carried, tls: still.tls }
    }
}

/// What a connection does not know itself.
struct CarryFrom {
    since_s: u32,
    log_epoch: u32,
    wall_s: u32,
}

impl Connection {
    fn carried(&self, from: &CarryFrom, deflater: &mut Option<Box<Deflater>>) -> Carried {
        let (mut unsent, mut undecoded) = (Vec::new(), Vec::new());
        if let Some(stopped) = self.stopped.as_ref().filter(|_| !planted::on(Bug::DropUnsent)) {
            unsent.extend_from_slice(&stopped.unsent);
        }
        self.put_outbox(deflater, &mut unsent);
        match &self.cutter {
            Cutter::Proxy(preamble) => undecoded.extend_from_slice(preamble.held()),
            Cutter::Stream(Some(carry)) => undecoded.extend_from_slice(carry.held()),
            Cutter::Stream(None) => {}
            Cutter::WebSocket(socket) => socket.put_held(&mut undecoded),
            Cutter::Lent => panic!("the cutter of {:?} is lent", self.id),
        }
        if let Phase::Leaving { state, .. } = &self.phase {
            undecoded.extend_from_slice(&state.unread);
        }
        if let Some(stopped) = &self.stopped {
            undecoded.extend_from_slice(&stopped.unread);
        }
        Carried {
            transport: self.transport,
            deflate: self.deflate(),
            address: None,
            // What it says while nobody reads it is not silence.
            silent_s: from.since_s.saturating_sub(self.heard_s),
            unsent,
            undecoded: if self.closing { Vec::new() } else { undecoded },
            stage: self.stage(from),
        }
    }

    /// What waits in the outbox, as it would have gone out.
    fn put_outbox(&self, deflater: &mut Option<Box<Deflater>>, out: &mut Vec<u8>) {
        let mut waits = self.outbox.clone();
        if let Some(agreed) = self.deflate()
            && !waits.is_empty()
        {
            deflater.get_or_insert_default().outbox(agreed, &mut waits);
        }
        out.extend_from_slice(&waits);
    }

    fn stage(&self, from: &CarryFrom) -> Stage {
        if self.closing {
            return Stage::Closing;
        }
        match (&self.phase, &self.cutter) {
            (Phase::Greeting, Cutter::Proxy(preamble)) => Stage::Proxy(preamble.listener()),
            (Phase::Greeting, Cutter::WebSocket(socket)) => Stage::Greeting { upgraded: socket.is_open() },
            (Phase::Greeting, _) => Stage::Greeting { upgraded: false },
            (Phase::Leaving { state, .. }, _) => Stage::Hello(Box::new(hello_of(state))),
            (Phase::Ready(ready), _) => Stage::Ready(Box::new(ready_of(ready, from))),
            (Phase::Gone, _) => panic!("{:?} is on its way to another shard", self.id),
        }
    }
}

fn hello_of(state: &HandOver) -> carry::Hello {
    carry::Hello {
        principal: state.principal.clone(),
        device: state.device,
        tag: state.tag,
        cursors: state.cursors.clone(),
        frames: state.frames.clone(),
    }
}

/// The site is filled in by the caller, who knows its name.
fn ready_of(ready: &super::connection::Ready, from: &CarryFrom) -> carry::Ready {
    let gateway = ready.sessions.is_gateway();
    let sessions = ready.sessions.iter().map(|(channel, session)| {
        let listens = session.listens.as_slice().iter().map(|listen| carry::Listen {
            conversation: listen.conversation,
            after: match listen.last() as u32 {
                last if planted::on(Bug::CarryCursorLow) => last.saturating_sub(1),
                last => last,
            },
            from_tail: listen.from_tail,
            live: listen.flow == Flow::Live,
        });
        let (name, device, agent) = (session.name.clone(), session.device, session.agent);
        (channel, carry::Session { name, device, agent, listens: listens.collect() })
    });
    carry::Ready {
        site: ringdesk_desk::ids::SiteId(0),
        site_name: "".into(),
        issued_s: if gateway { ready.issued_s.max(from.wall_s) } else { ready.issued_s },
        log_epoch: from.log_epoch,
        gateway,
        sessions: sessions.collect(),
    }
}
