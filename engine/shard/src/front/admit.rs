//! A new connection, from the outside in: PROXY header, TLS, and only then its own bytes.

use std::net::IpAddr;

use ringdesk_protocol::Code;
use ringdesk_protocol::proxy;
use ringdesk_protocol::ws::Socket;

use super::connection::{Connection, Cutter};
use super::{Front, resumes_reserve};
use crate::io::{ConnId, ListenerKind, Output, Speaks};
use crate::mail::Mail;
use crate::message::Transport;
use crate::owner::Owner;
use crate::tls::{Taken, Tls, TlsEnd};

/// A PROXY header that is not complete yet, and what comes after it.
#[derive(Debug)]
pub struct Preamble {
    decoder: proxy::Decoder,
    listener: ListenerKind,
}

impl Preamble {
    /// Nothing of the header came yet.
    pub(super) fn new(listener: ListenerKind) -> Self {
        Self { decoder: proxy::Decoder::new(), listener }
    }

    /// The part of the header that came.
    pub(super) fn held(&self) -> &[u8] {
        self.decoder.held()
    }

    /// What comes after the header.
    pub(super) fn listener(&self) -> ListenerKind {
        self.listener
    }
}

/// Counters of what lies outside the protocol.
#[derive(Default, Debug)]
pub struct OuterCounts {
    /// TLS handshakes completed.
    pub tls_handshakes: u64,
    /// Of these, resumed from a ticket.
    pub tls_resumed: u64,
    /// Connections whose TLS failed.
    pub tls_failed: u64,
    /// Connections closed for their PROXY header.
    pub proxy_refused: u64,
    /// Connections refused because their address has enough.
    pub address_refused: u64,
}

impl Front {
    /// A connection was accepted.
    pub fn accepted(
        &mut self,
        id: ConnId,
        listener: ListenerKind,
        peer: Option<IpAddr>,
        mail: &mut Mail<'_>,
    ) {
        let (transport, cutter) = begin(listener.speaks);
        let cutter = if listener.proxied { Cutter::Proxy(Box::new(Preamble::new(listener))) } else { cutter };
        self.insert(Connection::new(id, transport, cutter, self.now_s));
        if self.draining_since_s.is_some()
            || self.open > self.connections_max() + resumes_reserve(self.connections_max())
        {
            let code = if self.draining_since_s.is_some() { Code::ShuttingDown } else { Code::Busy };
            self.goodbye(id.index, code);
            return;
        }
        if !listener.proxied {
            // Behind a proxy the peer is the proxy; its clients' addresses come in the headers.
            if let Some(peer) = peer
                && !self.count_address(id.index, peer)
            {
                return self.goodbye(id.index, Code::Busy);
            }
            self.begin_tls(id.index, listener);
        }
        if !self.is_still() {
            mail.output(Output::Receive { conn: id, once: true });
        } else if self.at(id.index).tls.is_some() {
            self.send_off(id.index);
        } else {
            self.keep_for_later(id.index, &[]);
        }
    }

    /// Bytes of a connection, as they came from the socket: takes off what lies around its own.
    pub(super) fn unwrap(&mut self, index: u32, bytes: &mut [u8], owner: &mut Owner, mail: &mut Mail<'_>) {
        let bytes = match self.at(index).cutter {
            Cutter::Proxy(_) => self.preamble(index, bytes),
            _ => bytes,
        };
        if bytes.is_empty() || self.at(index).closing {
            return;
        }
        if self.at(index).tls.is_some() {
            self.decrypt(index, bytes, owner, mail);
        } else {
            self.feed(index, bytes, owner, mail);
        }
    }

    /// Takes the PROXY header; gives what follows it.
    fn preamble<'b>(&mut self, index: u32, bytes: &'b mut [u8]) -> &'b mut [u8] {
        let Cutter::Proxy(preamble) = &mut self.at(index).cutter else { return bytes };
        let listener = preamble.listener;
        let (proxied, taken) = match preamble.decoder.feed(bytes) {
            Ok(Some(found)) => found,
            Ok(None) => return &mut [],
            Err(_) => {
                self.outer.proxy_refused += 1;
                self.at(index).closing = true;
                self.touch(index);
                return &mut [];
            }
        };
        self.at(index).cutter = begin(listener.speaks).1;
        if let Some(peer) = proxied.peer
            && !self.count_address(index, peer.ip())
        {
            self.goodbye(index, Code::Busy);
            return &mut [];
        }
        self.begin_tls(index, listener);
        &mut bytes[taken..]
    }

    fn begin_tls(&mut self, index: u32, listener: ListenerKind) {
        if !listener.tls {
            return;
        }
        let configs = self.settings.tls.as_ref().expect("a TLS listener has a certificate");
        match Tls::new(configs.of(listener.speaks).clone()) {
            Ok(tls) => self.at(index).tls = Some(Box::new(tls)),
            Err(_) => {
                self.outer.tls_failed += 1;
                self.at(index).closing = true;
                self.touch(index);
            }
        }
    }

    /// Counts the connection with its address, unless nobody asked for a bound. `false`: that address has enough.
    pub(super) fn count_address(&mut self, index: u32, address: IpAddr) -> bool {
        let max = self.settings.address_connections_max;
        if max == 0 {
            return true;
        }
        let (number, count) = self.addresses.enter(address);
        self.at(index).address = number;
        self.outer.address_refused += u64::from(count > max);
        count <= max
    }

    fn decrypt(&mut self, index: u32, bytes: &mut [u8], owner: &mut Owner, mail: &mut Mail<'_>) {
        let mut plain = std::mem::take(&mut self.plain);
        let tls = self.at(index).tls.as_deref_mut().expect("the caller saw it");
        let Taken { opened, end } = tls.take(bytes, &mut plain);
        let answers = tls.has_ready();
        if let Some(resumed) = opened {
            self.outer.tls_handshakes += 1;
            self.outer.tls_resumed += u64::from(resumed);
        }
        if answers {
            self.touch(index);
        }
        // What came whole before a failure or a close_notify is genuine.
        if !plain.is_empty() {
            self.feed(index, &mut plain, owner, mail);
        }
        plain.clear();
        if plain.capacity() <= super::POOL_BUFFER_BYTES {
            self.plain = plain;
        }
        if let Some(end) = end {
            self.outer.tls_failed += u64::from(end != TlsEnd::Closed);
            self.at(index).closing = true;
            self.touch(index);
        }
    }

    /// The bytes that leave for a connection now, if any.
    pub(super) fn next_send(&mut self, index: u32) -> Option<Vec<u8>> {
        let spare = self.pool.pop();
        let connection = self.connections.get_mut(index)?;
        if let Some(agreed) = connection.deflate()
            && !connection.outbox.is_empty()
        {
            self.deflater.get_or_insert_default().outbox(agreed, &mut connection.outbox);
        }
        let waits = connection.outbox.take();
        let Some(tls) = &mut connection.tls else {
            self.pool.extend(spare);
            return (!waits.is_empty()).then_some(waits);
        };
        let mut wire = spare.unwrap_or_default();
        if !tls.seal(&waits, connection.closing, &mut wire) {
            connection.closing = true;
        }
        self.keep_buffer(waits);
        if wire.is_empty() {
            self.keep_buffer(wire);
            return None;
        }
        Some(wire)
    }
}

/// What takes the bytes of a new connection.
pub(super) fn begin(speaks: Speaks) -> (Transport, Cutter) {
    match speaks {
        Speaks::Binary => (Transport::Stream, Cutter::Stream(None)),
        Speaks::WebSocket => (Transport::WsJson, Cutter::WebSocket(Socket::new())),
    }
}
