//! The client's half of the upgrade, for load generators and tests.

use tungstenite::handshake::derive_accept_key;

use super::upgrade::{PATH, Subprotocol};
use crate::limits::UPGRADE_BYTES_MAX;

/// Appends an upgrade request. `key` is the Base64 form of 16 random bytes.
pub fn request(host: &str, origin: Option<&str>, key: &str, subprotocol: Subprotocol, out: &mut Vec<u8>) {
    let origin = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
    let text = format!(
        "GET {PATH} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{origin}\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
        subprotocol.name()
    );
    out.extend_from_slice(text.as_bytes());
}

/// Why the server did not upgrade.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseError {
    /// Not an HTTP response, or too long for one.
    NotHttp,
    /// The server refused with this status.
    Status(u16),
    /// The accept key or the subprotocol is not the answer to the request.
    NotForUs,
}

/// Reads the response at the start of `bytes`: its length once it is complete, `None` before. What follows it is
/// WebSocket frames.
///
/// # Errors
/// [`ResponseError`].
pub fn response(bytes: &[u8], key: &str, subprotocol: Subprotocol) -> Result<Option<usize>, ResponseError> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let end = match response.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) if bytes.len() < UPGRADE_BYTES_MAX => return Ok(None),
        _ => return Err(ResponseError::NotHttp),
    };
    match response.code {
        Some(101) => {}
        Some(status) => return Err(ResponseError::Status(status)),
        None => return Err(ResponseError::NotHttp),
    }
    let has = |name: &str, value: &str| {
        response.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case(name) && header.value.trim_ascii() == value.as_bytes()
        })
    };
    let accepted = has("sec-websocket-accept", &derive_accept_key(key.as_bytes()));
    match accepted && has("sec-websocket-protocol", subprotocol.name()) {
        true => Ok(Some(end)),
        false => Err(ResponseError::NotForUs),
    }
}
