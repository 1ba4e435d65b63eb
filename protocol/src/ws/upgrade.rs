//! The HTTP/1.1 upgrade (RFC 6455 section 4.2). Owns the bytes of a request only while it is incomplete.

use std::fmt;

use base64::Engine as _;
use tungstenite::handshake::derive_accept_key;

use super::deflate::Deflate;
use crate::code::Code;
use crate::limits::UPGRADE_BYTES_MAX;

/// The one path that upgrades; a query after it is ignored.
pub const PATH: &str = "/ws";

const HEADERS_MAX: usize = 64;

/// The form of the messages on a WebSocket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subprotocol {
    /// `ringdesk.v1.bin`: binary messages of whole protocol frames.
    Binary,
    /// `ringdesk.v1.json`: text messages of one JSON object each.
    Json,
}

impl Subprotocol {
    /// The name in `Sec-WebSocket-Protocol`.
    pub const fn name(self) -> &'static str {
        match self {
            Subprotocol::Binary => "ringdesk.v1.bin",
            Subprotocol::Json => "ringdesk.v1.json",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Subprotocol::Binary, Subprotocol::Json].into_iter().find(|known| known.name() == name)
    }
}

/// An upgrade request that is in order. Whether its origin may come here is for the server to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The first of the client's subprotocols that the server speaks; `None` if it asked for no such.
    pub subprotocol: Option<Subprotocol>,
    /// The first compression offered that the server could agree to; it is for the endpoint to want it.
    pub deflate: Option<Deflate>,
    /// The `Origin` header: browsers always send it, others need not.
    pub origin: Option<String>,
    /// The `Host` header.
    pub host: String,
    /// Bytes of the input that belong to the request; what follows is WebSocket frames.
    pub taken: usize,
    accept: String,
}

impl Request {
    /// Appends the 101 response, which agrees to `deflate`.
    pub fn response(&self, deflate: Option<Deflate>, out: &mut Vec<u8>) {
        let text = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            self.accept
        );
        out.extend_from_slice(text.as_bytes());
        if let Some(subprotocol) = self.subprotocol {
            out.extend_from_slice(format!("Sec-WebSocket-Protocol: {}\r\n", subprotocol.name()).as_bytes());
        }
        if let Some(deflate) = deflate {
            out.extend_from_slice(format!("Sec-WebSocket-Extensions: {}\r\n", deflate.answer()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Why an upgrade is refused. The server sends [`UpgradeError::response`] and closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpgradeError {
    /// Not an HTTP/1.1 request, or a header that must be there is missing, double or wrong (400).
    BadRequest(&'static str),
    /// The origin may not come here (403). Never from [`Upgrade`]; for the server to use.
    ForeignOrigin,
    /// None of the subprotocols that the server speaks (400). Never from [`Upgrade`]; for the server to use.
    NoSubprotocol,
    /// Another path than [`PATH`] (404).
    NotFound,
    /// Another method than GET (405).
    NotGet,
    /// Another WebSocket version than 13 (426).
    Version,
    /// Longer than `UPGRADE_BYTES_MAX` or more than 64 headers (431).
    TooLarge,
}

impl UpgradeError {
    /// The code named in the body of the response.
    pub fn code(self) -> Code {
        match self {
            UpgradeError::ForeignOrigin => Code::BadOrigin,
            _ => Code::BadHandshake,
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            UpgradeError::BadRequest(_) | UpgradeError::NoSubprotocol => 400,
            UpgradeError::ForeignOrigin => 403,
            UpgradeError::NotFound => 404,
            UpgradeError::NotGet => 405,
            UpgradeError::Version => 426,
            UpgradeError::TooLarge => 431,
        }
    }

    /// Appends the response: the code's name and a sentence as plain text. The connection closes after it.
    pub fn response(self, out: &mut Vec<u8>) {
        let (reason, extra) = match self {
            UpgradeError::BadRequest(_) | UpgradeError::NoSubprotocol => ("Bad Request", ""),
            UpgradeError::ForeignOrigin => ("Forbidden", ""),
            UpgradeError::NotFound => ("Not Found", ""),
            UpgradeError::NotGet => ("Method Not Allowed", "Allow: GET\r\n"),
            UpgradeError::Version => {
                ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
            }
            UpgradeError::TooLarge => ("Request Header Fields Too Large", ""),
        };
        let body = format!("{}: {self}\n", self.code().name());
        let text = format!(
            "HTTP/1.1 {} {reason}\r\n{extra}Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.status(),
            body.len()
        );
        out.extend_from_slice(text.as_bytes());
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpgradeError::BadRequest(what) => write!(f, "This is no WebSocket upgrade request: {what}."),
            UpgradeError::NoSubprotocol => {
                write!(f, "`Sec-WebSocket-Protocol` names neither ringdesk.v1.bin nor ringdesk.v1.json.")
            }
            UpgradeError::ForeignOrigin => write!(f, "Pages of this origin may not connect to this site."),
            UpgradeError::NotFound => write!(f, "The WebSocket is at {PATH}."),
            UpgradeError::NotGet => write!(f, "An upgrade request is a GET."),
            UpgradeError::Version => write!(f, "The WebSocket version must be 13."),
            UpgradeError::TooLarge => {
                write!(
                    f,
                    "The request is longer than {UPGRADE_BYTES_MAX} bytes or has over {HEADERS_MAX} headers."
                )
            }
        }
    }
}

impl std::error::Error for UpgradeError {}

/// Collects an upgrade request. Parsed once, when its end has arrived. 8 bytes, and heap memory only while a request is
/// incomplete.
#[derive(Default, Debug)]
pub struct Upgrade {
    pending: Option<Box<Pending>>,
}

const _: () = assert!(size_of::<Upgrade>() <= 8);

/// The part of a request that has arrived; not empty.
#[derive(Debug)]
struct Pending {
    bytes: Vec<u8>,
}

impl Upgrade {
    /// Nothing received yet; no heap memory.
    pub const fn new() -> Self {
        Self { pending: None }
    }

    /// Heap memory held, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| size_of::<Pending>() + pending.bytes.capacity())
    }

    /// The bytes of the incomplete request: fed to a new upgrade, they bring it here again.
    pub(super) fn held(&self) -> &[u8] {
        self.pending.as_ref().map_or(&[], |pending| &pending.bytes)
    }

    /// Feeds input; `None` while the request is incomplete.
    ///
    /// # Errors
    /// [`UpgradeError`]; send its response and close.
    pub fn feed(&mut self, input: &[u8]) -> Result<Option<Request>, UpgradeError> {
        let pending = self.pending.as_deref_mut().map(|pending| &mut pending.bytes);
        let held = pending.as_ref().map_or(0, |bytes| bytes.len());
        let room = UPGRADE_BYTES_MAX.saturating_sub(held).min(input.len());
        let known: &[u8] = match pending {
            None => &input[..room],
            Some(bytes) => {
                bytes.extend_from_slice(&input[..room]);
                bytes
            }
        };
        if !b"GET ".starts_with(&known[..known.len().min(4)]) {
            return Err(UpgradeError::NotGet);
        }
        // The end may straddle the cut: look again at the last three bytes.
        let start = held.saturating_sub(3);
        let Some(end) = find_end(&known[start..]).map(|end| start + end) else {
            if known.len() == UPGRADE_BYTES_MAX {
                return Err(UpgradeError::TooLarge);
            }
            if held == 0 && !input.is_empty() {
                self.pending = Some(Box::new(Pending { bytes: input.to_vec() }));
            }
            return Ok(None);
        };
        let mut request = parse(&known[..end])?;
        request.taken = end - held;
        self.pending = None;
        Ok(Some(request))
    }
}

fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|place| place + 4)
}

fn parse(bytes: &[u8]) -> Result<Request, UpgradeError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
        Ok(_) => return Err(UpgradeError::BadRequest("it does not end where its headers end")),
        Err(httparse::Error::TooManyHeaders) => return Err(UpgradeError::TooLarge),
        Err(_) => return Err(UpgradeError::BadRequest("it is not HTTP/1.1")),
    }
    if request.version != Some(1) {
        return Err(UpgradeError::BadRequest("it is not HTTP/1.1"));
    }
    if request.path.and_then(|path| path.split('?').next()) != Some(PATH) {
        return Err(UpgradeError::NotFound);
    }
    negotiate(&Headers(request.headers))
}

fn negotiate(headers: &Headers<'_>) -> Result<Request, UpgradeError> {
    use UpgradeError::BadRequest;
    if !headers.has_token("upgrade", "websocket") {
        return Err(BadRequest("`Upgrade: websocket` is missing"));
    }
    if !headers.has_token("connection", "upgrade") {
        return Err(BadRequest("`Connection: Upgrade` is missing"));
    }
    if headers.one("content-length")?.is_some_and(|length| length != "0")
        || headers.one("transfer-encoding")?.is_some()
    {
        return Err(BadRequest("it has a body"));
    }
    if headers.one("sec-websocket-version")? != Some("13") {
        return Err(UpgradeError::Version);
    }
    let host = headers.one("host")?.ok_or(BadRequest("`Host` is missing"))?.to_owned();
    let key = headers.one("sec-websocket-key")?.ok_or(BadRequest("`Sec-WebSocket-Key` is missing"))?;
    if base64::engine::general_purpose::STANDARD.decode(key).map(|nonce| nonce.len()) != Ok(16) {
        return Err(BadRequest("`Sec-WebSocket-Key` is not 16 bytes in Base64"));
    }
    let subprotocol = headers.tokens("sec-websocket-protocol").find_map(Subprotocol::from_name);
    let deflate = headers.tokens("sec-websocket-extensions").find_map(Deflate::of_offer);
    let origin = headers.one("origin")?.map(str::to_owned);
    Ok(Request { subprotocol, deflate, origin, host, taken: 0, accept: derive_accept_key(key.as_bytes()) })
}

struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        let matching = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        matching.map(|header| std::str::from_utf8(header.value).unwrap_or("").trim())
    }

    /// The value of a header that may come once at most.
    fn one(&self, name: &'static str) -> Result<Option<&'a str>, UpgradeError> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(UpgradeError::BadRequest("a header comes twice")),
        }
    }

    fn tokens(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.values(name).flat_map(|value| value.split(',')).map(str::trim)
    }

    fn has_token(&self, name: &'static str, token: &str) -> bool {
        self.tokens(name).any(|found| found.eq_ignore_ascii_case(token))
    }
}
