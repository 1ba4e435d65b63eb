//! TLS of one connection, between the socket's bytes and the cutter: records in, plaintext out, and back.
//!
//! Order: [`Tls::take`] for all that arrived, the connection's work on the plaintext, [`Tls::seal`] once when it is
//! flushed. Ownership: received bytes are decrypted where they lie; the state keeps bytes only while a record is
//! incomplete, and handshake bytes only until the next flush. It belongs to the connection and moves with it from shard
//! to shard.
//!
//! No I/O happens here, but rustls draws random numbers and reads the clock in a handshake
//! (`docs/decisions/0004-tls-outside-the-simulator.md`).

use std::fmt;
use std::sync::Arc;

use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{Error, HandshakeKind};

use crate::io::Speaks;

/// Longest record: 5 bytes of header, 2^14 of plaintext, 2,048 of expansion (RFC 5246 section 6.2.3, the larger of
/// the two versions' bounds).
const RECORD_BYTES_MAX: usize = 5 + (1 << 14) + 2048;

/// Bytes kept between receives: one incomplete record, and before it a handshake message of at most another.
const HELD_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX;

/// Plaintext of one record, and bytes a record adds to it at most: header 5, explicit nonce 8, tag 16, content type 1,
/// rounded up.
const FRAGMENT_BYTES: usize = 1 << 14;
const RECORD_OVERHEAD: usize = 32;

/// Room for a close_notify record.
const CLOSE_NOTIFY_BYTES: usize = 2 + RECORD_OVERHEAD;

/// What listeners with TLS present; replaced as a whole by a reload. Connections keep what they began with.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// ALPN `ringdesk/1`.
    pub binary: Arc<ServerConfig>,
    /// ALPN `http/1.1`.
    pub websocket: Arc<ServerConfig>,
}

impl TlsConfig {
    /// The configuration of a listener.
    pub fn of(&self, speaks: Speaks) -> &Arc<ServerConfig> {
        match speaks {
            Speaks::Binary => &self.binary,
            Speaks::WebSocket => &self.websocket,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Handshaking,
    Open,
    /// Failed: an alert may wait to leave, nothing else does.
    Over,
}

/// How a connection's TLS ended.
#[derive(Clone, PartialEq, Debug)]
pub enum TlsEnd {
    /// The peer sent close_notify.
    Closed,
    /// The peer broke the protocol or found no common ground; the alert waits for the next [`Tls::seal`].
    Failed(Error),
}

/// What a [`Tls::take`] came to.
#[derive(Clone, PartialEq, Debug)]
pub struct Taken {
    /// The handshake was completed by these bytes; `true`: resumed from a ticket.
    pub opened: Option<bool>,
    /// Nothing more is read from this connection.
    pub end: Option<TlsEnd>,
}

/// The TLS state of one connection.
pub struct Tls {
    connection: UnbufferedServerConnection,
    /// Received, and not a whole record yet.
    held: Vec<u8>,
    /// Handshake messages and alerts that leave before anything sealed later.
    ready: Vec<u8>,
    stage: Stage,
    close_told: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("stage", &self.stage)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

/// A TLS state equals only itself.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Tls {
    /// The server's side of a new connection. Fails only on a configuration that serves nobody.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        let (held, ready) = (Vec::new(), Vec::new());
        Ok(Self { connection, held, ready, stage: Stage::Handshaking, close_told: false })
    }

    /// Whether handshake bytes or an alert wait for a [`Self::seal`].
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes all that arrived; appends the plaintext of its application data to `plain`.
    pub fn take(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Taken {
        let stage = self.stage;
        let mut held = std::mem::take(&mut self.held);
        let mut end;
        if held.is_empty() {
            let used;
            (used, end) = self.records(bytes, plain);
            self.held = bytes[used..].to_vec();
        } else {
            held.extend_from_slice(bytes);
            let used;
            (used, end) = self.records(&mut held, plain);
            held.drain(..used);
            // An idle connection owns no buffer.
            self.held = if held.is_empty() { Vec::new() } else { held };
        }
        if self.held.len() > HELD_BYTES_MAX {
            end = Some(TlsEnd::Failed(Error::General("handshake message too long".into())));
        }
        if let Some(TlsEnd::Failed(_)) = end {
            self.stage = Stage::Over;
            self.held = Vec::new();
        }
        let opened = (stage == Stage::Handshaking && self.stage == Stage::Open)
            .then(|| self.connection.handshake_kind() == Some(HandshakeKind::Resumed));
        Taken { opened, end }
    }

    /// Every whole record of `bytes`. Gives the number of bytes done with.
    fn records(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> (usize, Option<TlsEnd>) {
        let mut at = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut bytes[at..]);
            let mut end = None;
            let mut waits = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                plain.extend_from_slice(record.payload);
                            }
                            Err(error) => end = Some(TlsEnd::Failed(error)),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.ready),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::BlockedHandshake) => waits = true,
                Ok(ConnectionState::WriteTraffic(_)) => {
                    waits = true;
                    self.stage = Stage::Open;
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => end = Some(TlsEnd::Closed),
                // Early data is not offered.
                Ok(_) => end = Some(TlsEnd::Failed(Error::HandshakeNotComplete)),
                Err(error) => {
                    self.alert();
                    end = Some(TlsEnd::Failed(error));
                }
            }
            at += discard;
            if waits || end.is_some() {
                return (at, end);
            }
        }
    }

    /// Fetches the alert that an error left behind. Asks rustls only while it has one: it would go on to look for
    /// messages at places of received bytes that are gone.
    fn alert(&mut self) {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.ready),
                _ => return,
            }
        }
    }

    /// Appends to `wire` what leaves next: waiting handshake bytes or alert, then `plain` encrypted, then close_notify
    /// if this is the `last`. Before the handshake is done and after a failure `plain` is dropped: there are no keys
    /// for it. `false`: the connection cannot go on.
    pub fn seal(&mut self, plain: &[u8], last: bool, wire: &mut Vec<u8>) -> bool {
        wire.append(&mut self.ready);
        self.ready = Vec::new();
        let tell_close = last && !self.close_told;
        if self.stage != Stage::Open || (plain.is_empty() && !tell_close) {
            return self.stage != Stage::Over;
        }
        loop {
            // With what is held, because rustls remembers places in it.
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.held);
            let mut done = false;
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    done = encrypt(&mut traffic, plain, wire);
                    if done && tell_close {
                        let start = wire.len();
                        wire.resize(start + CLOSE_NOTIFY_BYTES, 0);
                        let written = traffic.queue_close_notify(&mut wire[start..]);
                        wire.truncate(start + written.unwrap_or(0));
                        self.close_told = true;
                    }
                    if !done {
                        self.stage = Stage::Over;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, wire),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(_) | Err(_) => self.stage = Stage::Over,
            }
            self.held.drain(..discard);
            if done || self.stage == Stage::Over {
                return done;
            }
        }
    }
}

/// Appends one handshake message or alert.
fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, out: &mut Vec<u8>) {
    let start = out.len();
    let Err(EncodeError::InsufficientSize(wanted)) = data.encode(&mut []) else { return };
    out.resize(start + wanted.required_size, 0);
    let written = data.encode(&mut out[start..]).expect("it has the room it asked for");
    out.truncate(start + written);
}

/// Appends `plain` as records. `false`: the keys are used up.
fn encrypt<Data>(traffic: &mut WriteTraffic<'_, Data>, plain: &[u8], wire: &mut Vec<u8>) -> bool {
    if plain.is_empty() {
        return true;
    }
    let start = wire.len();
    // One record more than needed, for a key update that rustls may put first.
    let mut room = plain.len() + (plain.len().div_ceil(FRAGMENT_BYTES) + 1) * RECORD_OVERHEAD;
    loop {
        wire.resize(start + room, 0);
        match traffic.encrypt(plain, &mut wire[start..]) {
            Ok(written) => {
                wire.truncate(start + written);
                return true;
            }
            Err(EncryptError::InsufficientSize(wanted)) if wanted.required_size > room => {
                room = wanted.required_size;
            }
            Err(_) => {
                wire.truncate(start);
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests;
