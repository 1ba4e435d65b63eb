//! Received bytes to messages: through the upgrade, the WebSocket and the frame decoder, in one pass over all that
//! arrived.

use std::ops::ControlFlow;

use ringdesk_protocol::json::{self, Document};
use ringdesk_protocol::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX, WS_MESSAGE_BYTES_MAX};
use ringdesk_protocol::ws::{Endpoint, Fed, Request, Socket, Stop, Subprotocol, Terms, UpgradeError};
use ringdesk_protocol::{Carry, ClientMessage, Code, Header, WireError, frame};

use super::Front;
use super::connection::{Cutter, Phase};
use crate::io::{ConnId, Output};
use crate::mail::Mail;
use crate::message::Transport;
use crate::owner::Owner;

impl Front {
    /// Bytes arrived.
    pub fn received(&mut self, id: ConnId, bytes: &mut [u8], owner: &mut Owner, mail: &mut Mail<'_>) {
        let now_s = self.now_s;
        let Some(connection) = self.get(id).filter(|connection| !connection.closing) else { return };
        // The time for HELLO, with all that precedes it, runs from the accept on, however slowly its bytes drip in.
        if !matches!(connection.phase, Phase::Greeting) {
            connection.heard_s = now_s;
        }
        if self.is_still() {
            return self.keep_for_later(id.index, bytes);
        }
        self.unwrap(id.index, bytes, owner, mail);
        // While nobody owns the connection its receive is single-shot, so that it can be handed over.
        let greeting = self.get(id).is_some_and(|connection| {
            matches!(connection.phase, Phase::Greeting) && !connection.closing && connection.stopped.is_none()
        });
        if greeting {
            mail.output(Output::Receive { conn: id, once: true });
        }
    }

    /// Takes a connection's own bytes: now, or when it is read again.
    pub(super) fn feed(&mut self, index: u32, bytes: &mut [u8], owner: &mut Owner, mail: &mut Mail<'_>) {
        let connection = self.at(index);
        let id = connection.id;
        if let Some(stopped) = &mut connection.stopped {
            stopped.unread.extend_from_slice(bytes);
            return;
        }
        self.cut(index, bytes, owner, mail);
        self.stop_if_full(id, mail);
    }

    /// Feeds bytes to the connection's cutter. The cutter is lent to the loop, so that what it finds may change the
    /// connection.
    pub(super) fn cut(&mut self, index: u32, bytes: &mut [u8], owner: &mut Owner, mail: &mut Mail<'_>) {
        match std::mem::replace(&mut self.at(index).cutter, Cutter::Lent) {
            Cutter::Stream(None) => self.cut_stream(index, Carry::new(), bytes, owner, mail),
            Cutter::Stream(Some(carry)) => self.cut_stream(index, *carry, bytes, owner, mail),
            Cutter::WebSocket(socket) => self.cut_websocket(index, socket, bytes, owner, mail),
            Cutter::Proxy(_) => panic!("bytes of connection {index} before its PROXY header"),
            Cutter::Lent => panic!("the cutter of connection {index} is lent twice"),
        }
    }

    /// Puts the cutter back, if the connection is still there.
    fn give_back(&mut self, index: u32, cutter: Cutter) {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.cutter = cutter;
        }
    }

    /// Origins on the list, `*` for any, or with an empty list the host the request went to. A request without an
    /// Origin does not come from a page.
    fn origin_allowed(&self, origin: Option<&str>, host: &str) -> bool {
        let Some(origin) = origin else { return true };
        if self.settings.origins.is_empty() {
            let page = origin.split_once("://").map_or(origin, |(_, rest)| rest);
            return !name_of(page).is_empty() && name_of(page).eq_ignore_ascii_case(name_of(host));
        }
        self.settings.origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }

    fn cut_stream(
        &mut self,
        index: u32,
        mut carry: Carry,
        bytes: &mut [u8],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let limit = self.frame_limit(index);
        let fed = carry.feed(bytes, limit, |header, body| self.on_frame(index, header, body, owner, mail));
        self.give_back(index, Cutter::Stream((!carry.is_empty()).then(|| Box::new(carry))));
        match fed {
            Ok(taken) => self.keep_unread(index, &bytes[taken..], owner, mail),
            Err(error) => self.goodbye(index, error.code()),
        }
    }

    /// Until HELLO a stranger gets no more room than a HELLO needs.
    fn frame_limit(&mut self, index: u32) -> u32 {
        match self.at(index).phase {
            Phase::Greeting => HELLO_BYTES_MAX as u32,
            _ => FRAME_BYTES_MAX as u32,
        }
    }

    fn cut_websocket(
        &mut self,
        index: u32,
        mut socket: Socket,
        bytes: &mut [u8],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let fed = socket.feed(bytes, &mut Speaker { front: self, index, owner, mail });
        self.give_back(index, Cutter::WebSocket(socket));
        match fed {
            Fed::Taken(taken) => self.keep_unread(index, &bytes[taken..], owner, mail),
            Fed::Closing => self.at(index).closing = true,
        }
    }

    /// What follows a HELLO goes with the connection when it leaves, and is decoded here when it stays.
    fn keep_unread(&mut self, index: u32, rest: &[u8], owner: &mut Owner, mail: &mut Mail<'_>) {
        if rest.is_empty() {
            return;
        }
        let connection = self.at(index);
        if connection.closing {
            return;
        }
        if let Phase::Leaving { state, .. } = &mut connection.phase {
            state.unread.extend_from_slice(rest);
            return;
        }
        if self.is_full(index) {
            let stopped = self.stop(index, mail);
            stopped.unread.extend_from_slice(rest);
            return;
        }
        let mut rest = rest.to_vec();
        self.cut(index, &mut rest, owner, mail);
    }

    /// The frames of one binary message.
    fn on_binary(
        &mut self,
        index: u32,
        payload: &[u8],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) -> ControlFlow<()> {
        let mut at = 0;
        while at < payload.len() {
            if let Phase::Leaving { state, .. } = &mut self.at(index).phase {
                state.frames.extend_from_slice(&payload[at..]);
                return ControlFlow::Break(());
            }
            let limit = self.frame_limit(index);
            let found = frame::frames(&payload[at..], limit).next().expect("bytes are left");
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    self.goodbye(index, error.code());
                    return ControlFlow::Break(());
                }
            };
            at += found.wire_bytes();
            // A HELLO that stays here breaks off too; its message goes on.
            let _ = self.on_frame(index, found.header, found.body, owner, mail);
            if self.at(index).closing {
                return ControlFlow::Break(());
            }
        }
        self.flow(index)
    }

    fn on_text(&mut self, index: u32, text: &str, owner: &mut Owner, mail: &mut Mail<'_>) -> ControlFlow<()> {
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => return self.on_wire_error(index, (0, 0, 0), error),
        };
        match json::client(&document) {
            Ok(tagged) => {
                self.on_message(index, tagged.channel, tagged.tag, tagged.message, owner, mail);
                self.flow(index)
            }
            Err(error) => {
                let (tag, kind) = json::tag_and_kind(&document);
                self.on_wire_error(index, (0, tag, kind), error)
            }
        }
    }

    fn on_frame(
        &mut self,
        index: u32,
        header: Header,
        body: &[u8],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) -> ControlFlow<()> {
        match ClientMessage::decode(header.kind, body) {
            Ok(message) => {
                let greeting = matches!(self.at(index).phase, Phase::Greeting);
                self.on_message(index, header.channel, header.tag, message, owner, mail);
                // After HELLO the bounds change and the connection may leave: look again.
                if greeting { ControlFlow::Break(()) } else { self.flow(index) }
            }
            Err(error) => self.on_wire_error(index, (header.channel, header.tag, header.kind), error),
        }
    }

    /// Whether the loop over this connection's bytes goes on.
    fn flow(&mut self, index: u32) -> ControlFlow<()> {
        let full = self.is_full(index);
        let connection = self.at(index);
        if full || connection.closing || matches!(connection.phase, Phase::Leaving { .. }) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// A message that cannot be read: before HELLO that ends the connection, after it only the message is refused.
    fn on_wire_error(
        &mut self,
        index: u32,
        (channel, tag, kind): (u32, u32, u8),
        error: WireError,
    ) -> ControlFlow<()> {
        let connection = self.at(index);
        if matches!(connection.phase, Phase::Greeting) {
            let code = match error.code() {
                Code::UnknownKind => Code::HelloExpected,
                Code::BadHandshake => Code::BadHandshake,
                _ if kind == 0 || kind == HELLO => Code::BadHandshake,
                _ => Code::HelloExpected,
            };
            self.goodbye(index, code);
            return ControlFlow::Break(());
        }
        if kind == HELLO {
            self.goodbye(index, Code::ProtocolViolation);
            return ControlFlow::Break(());
        }
        let sentence = error.to_string();
        let message = ringdesk_protocol::ServerMessage::Reject {
            code: error.code(),
            of: kind,
            conversation: 0,
            retry_after_ms: 0,
            detail: 0,
            sentence: &sentence,
        };
        connection.put(channel, tag, &message);
        self.touch(index);
        self.flow(index)
    }
}

/// The terms of every WebSocket here, without compression.
pub(super) const WEBSOCKET: Terms = Terms { message_bytes_max: WS_MESSAGE_BYTES_MAX as u32, deflate: None };

/// A connection as its WebSocket sees it.
struct Speaker<'a, 'm> {
    front: &'a mut Front,
    index: u32,
    owner: &'a mut Owner,
    mail: &'a mut Mail<'m>,
}

impl Endpoint for Speaker<'_, '_> {
    fn outbox(&mut self) -> &mut Vec<u8> {
        self.front.touch(self.index);
        &mut self.front.at(self.index).outbox
    }

    fn admit(&mut self, request: &Request) -> Result<Terms, UpgradeError> {
        let transport = match request.subprotocol {
            Some(Subprotocol::Binary) => Transport::WsBinary,
            Some(Subprotocol::Json) => Transport::WsJson,
            None => return Err(UpgradeError::NoSubprotocol),
        };
        if !self.front.origin_allowed(request.origin.as_deref(), &request.host) {
            return Err(UpgradeError::ForeignOrigin);
        }
        self.front.at(self.index).transport = transport;
        Ok(Terms { deflate: request.deflate.filter(|_| self.front.settings.websocket_deflate), ..WEBSOCKET })
    }

    // Pongs wait in the outbox like everything else: a client that never reads them is not read either.
    fn ponged(&mut self) -> ControlFlow<Stop> {
        self.front.flow(self.index).map_break(|()| Stop::Pause)
    }

    // The other kind of message than the subprotocol says: RFC 6455 section 7.4.1, 1003.
    fn text(&mut self, text: &str) -> ControlFlow<Stop> {
        if self.front.at(self.index).transport != Transport::WsJson {
            return ControlFlow::Break(Stop::Close(1003));
        }
        self.front.on_text(self.index, text, self.owner, self.mail).map_break(|()| Stop::Pause)
    }

    fn binary(&mut self, bytes: &[u8]) -> ControlFlow<Stop> {
        if self.front.at(self.index).transport != Transport::WsBinary {
            return ControlFlow::Break(Stop::Close(1003));
        }
        self.front.on_binary(self.index, bytes, self.owner, self.mail).map_break(|()| Stop::Pause)
    }
}

/// Kind of HELLO.
pub(super) const HELLO: u8 = 0x01;

/// The host name of `name:port` or `[v6]:port`.
fn name_of(host: &str) -> &str {
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or(host);
    }
    host.split([':', '/']).next().unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_without_ports() {
        assert_eq!(name_of("127.0.0.1:7800"), "127.0.0.1");
        assert_eq!(name_of("[::1]:7800"), "[::1]");
        assert_eq!(name_of("desk.example"), "desk.example");
    }

    #[test]
    fn hello_is_what_the_protocol_says() {
        assert!(ClientMessage::KINDS.contains(&(HELLO, "hello")));
    }
}
