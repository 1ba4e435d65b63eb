//! One server-side WebSocket from its first byte to its close: upgrade, frames, control frames, close codes.
//!
//! Order: [`Socket::feed`] reads the request and asks [`Endpoint::admit`]; from then on each message goes to the
//! endpoint, pings and closes are answered here, and a violation is answered with its close code. Ownership: the
//! outbox is the endpoint's; the socket keeps 16 bytes, and heap memory only while a request or message is incomplete.

use std::ops::ControlFlow;

use super::decoder::{Decoder, Event};
use super::deflate::Deflate;
use super::encode;
use super::head::Opcode;
use super::upgrade::{Request, Upgrade, UpgradeError};

/// What was agreed with a client that was let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Most payload bytes of one message, over all its fragments. More is answered with close code 1009.
    pub message_bytes_max: u32,
    /// Compression, if the client offered it and the endpoint wants it.
    pub deflate: Option<Deflate>,
}

/// Why an endpoint takes no further message from this input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The rest of the input is left as it is; it can be fed later or elsewhere. Also for an endpoint that has written
    /// its own last words into the outbox.
    Pause,
    /// Close with this code.
    Close(u16),
}

/// Who stands behind a [`Socket`].
pub trait Endpoint {
    /// Where the socket appends what it answers. Asked for only when there is something to append.
    fn outbox(&mut self) -> &mut Vec<u8>;

    /// Whether a request that is in order may come here, and on which terms.
    ///
    /// # Errors
    /// The refusal; its response is sent and the connection closes.
    fn admit(&mut self, request: &Request) -> Result<Terms, UpgradeError>;

    /// A ping was answered. Whether to go on: pongs pile up in the outbox of a client that does not read.
    fn ponged(&mut self) -> ControlFlow<Stop>;

    /// A whole text message.
    fn text(&mut self, text: &str) -> ControlFlow<Stop>;

    /// A whole binary message.
    fn binary(&mut self, bytes: &[u8]) -> ControlFlow<Stop>;
}

/// What became of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fed {
    /// So many bytes were taken: all, unless the endpoint said [`Stop::Pause`].
    Taken(usize),
    /// The last bytes (a refusal, or a close frame) are in the outbox: flush it and close the connection. Nothing more
    /// may be fed.
    Closing,
}

/// The state of one connection. 16 bytes; see [`Socket::heap_bytes`] for what it holds beside them.
#[derive(Debug)]
pub enum Socket {
    /// The request is not complete yet.
    Upgrade(Upgrade),
    /// Frames.
    Open(Decoder),
}

const _: () = assert!(size_of::<Socket>() <= 16);

impl Socket {
    /// Nothing received yet.
    pub const fn new() -> Self {
        Socket::Upgrade(Upgrade::new())
    }

    /// A connection that was upgraded elsewhere and is between messages.
    pub const fn open(terms: Terms) -> Self {
        Socket::Open(Decoder::server(terms.message_bytes_max, terms.deflate))
    }

    /// Whether the upgrade is done, so that frames may be sent.
    pub fn is_open(&self) -> bool {
        matches!(self, Socket::Open(_))
    }

    /// The compression that was agreed.
    pub fn deflate(&self) -> Option<Deflate> {
        match self {
            Socket::Upgrade(_) => None,
            Socket::Open(decoder) => decoder.deflate(),
        }
    }

    /// Heap memory held, in bytes: 0 between messages.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Socket::Upgrade(upgrade) => upgrade.heap_bytes(),
            Socket::Open(decoder) => decoder.heap_bytes(),
        }
    }

    /// Appends bytes that bring a new socket, or one opened on the same terms, to where this one is in an incomplete
    /// request, frame or message. They need not be the bytes that came, but say the same.
    pub fn put_held(&self, out: &mut Vec<u8>) {
        match self {
            Socket::Upgrade(upgrade) => out.extend_from_slice(upgrade.held()),
            Socket::Open(decoder) => decoder.put_held(out),
        }
    }

    /// Feeds `input`, which is unmasked in place.
    pub fn feed<E: Endpoint>(&mut self, input: &mut [u8], endpoint: &mut E) -> Fed {
        let mut taken = 0;
        if let Socket::Upgrade(upgrade) = self {
            let request = match upgrade.feed(input) {
                Ok(Some(request)) => request,
                Ok(None) => return Fed::Taken(input.len()),
                Err(error) => return refuse(error, endpoint),
            };
            let terms = match endpoint.admit(&request) {
                Ok(terms) => terms,
                Err(error) => return refuse(error, endpoint),
            };
            request.response(terms.deflate, endpoint.outbox());
            taken = request.taken;
            *self = Socket::open(terms);
        }
        let Socket::Open(decoder) = self else { unreachable!("the upgrade is done") };
        let mut code = None;
        let fed = decoder.feed(&mut input[taken..], |event| {
            let flow = on_event(event, endpoint);
            if let ControlFlow::Break(Stop::Close(given)) = flow {
                code = Some(given);
            }
            flow.map_break(|_| ())
        });
        let code = match (fed, code) {
            (Ok(bytes), None) => return Fed::Taken(taken + bytes),
            (Ok(_), Some(code)) => code,
            (Err(error), _) => error.close_code(),
        };
        encode::close(code, "", endpoint.outbox());
        Fed::Closing
    }
}

impl Default for Socket {
    fn default() -> Self {
        Self::new()
    }
}

fn refuse<E: Endpoint>(error: UpgradeError, endpoint: &mut E) -> Fed {
    error.response(endpoint.outbox());
    Fed::Closing
}

/// Control frames are answered here (RFC 6455 section 5.5). A close is answered with its own code; without one, with
/// 1000.
fn on_event<E: Endpoint>(event: Event<'_>, endpoint: &mut E) -> ControlFlow<Stop> {
    match event {
        Event::Text(text) => endpoint.text(text),
        Event::Binary(bytes) => endpoint.binary(bytes),
        Event::Ping(payload) => {
            encode::message(Opcode::Pong, payload, endpoint.outbox());
            endpoint.ponged()
        }
        Event::Pong(_) => ControlFlow::Continue(()),
        Event::Close(code) => ControlFlow::Break(Stop::Close(code.unwrap_or(1000))),
    }
}
