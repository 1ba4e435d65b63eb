//! `protocol::ws::Upgrade` and its client's half: the HTTP request that opens a WebSocket, and the response.
//!
//! Input: plan of the pieces (4), mode (1), then the bytes. Mode: bit 0 clear = a request, set = a response.

use ringdesk_protocol::limits::UPGRADE_BYTES_MAX;
use ringdesk_protocol::ws::client::{self, ResponseError};
use ringdesk_protocol::ws::{Request, Subprotocol, Upgrade, UpgradeError};

use crate::pieces::Pieces;

/// The nonce of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Every way of cutting gives the same request, taken to the same byte, or the same refusal; both are answered with
/// what a client understands. A response is whole at the same byte however much of what follows is there.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let Some((pieces, rest)) = Pieces::take(input) else { return };
    let Some((mode, bytes)) = rest.split_first() else { return };
    if mode & 1 == 1 {
        return response(pieces, bytes);
    }
    let whole = feed(Pieces::WHOLE, bytes);
    assert_eq!(feed(Pieces::EACH, bytes), whole, "byte by byte");
    assert_eq!(feed(pieces, bytes), whole, "{pieces:?}");
    match whole {
        Ok(Some((request, _))) => accepted(&request),
        Ok(None) => assert!(bytes.len() < UPGRADE_BYTES_MAX, "an endless request"),
        Err(error) => refused(error),
    }
}

/// The request and the place where it ends in the stream.
fn feed(pieces: Pieces, bytes: &[u8]) -> Result<Option<(Request, usize)>, UpgradeError> {
    let mut upgrade = Upgrade::new();
    let mut before = 0;
    for piece in pieces.of(bytes) {
        if let Some(mut request) = upgrade.feed(piece)? {
            assert!(request.taken <= piece.len());
            let end = before + std::mem::take(&mut request.taken);
            assert!(bytes[..end].ends_with(b"\r\n\r\n"));
            return Ok(Some((request, end)));
        }
        before += piece.len();
    }
    Ok(None)
}

/// The 101 is a whole response for the subprotocol asked for, and nothing of the request gets into its head.
fn accepted(request: &Request) {
    for deflate in [None, request.deflate] {
        let mut answer = Vec::new();
        request.response(deflate, &mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n"));
        let lines = 5 + usize::from(request.subprotocol.is_some()) + usize::from(deflate.is_some());
        assert_eq!(answer.windows(2).filter(|pair| pair == b"\r\n").count(), lines, "lines of the answer");
        // Its key is known to the request alone, so a foreign one is refused unless it was the same.
        let read = client::response(&answer, KEY, request.subprotocol.unwrap_or(Subprotocol::Json));
        assert!(matches!(read, Ok(Some(_)) | Err(ResponseError::NotForUs)), "{read:?}");
    }
    assert!(!request.host.contains(['\r', '\n']));
}

fn refused(error: UpgradeError) {
    let mut answer = Vec::new();
    error.response(&mut answer);
    let read = client::response(&answer, KEY, Subprotocol::Json);
    assert_eq!(read, Err(ResponseError::Status(error.status())));
}

/// Once a beginning of the bytes is a whole response, more bytes change nothing.
fn response(pieces: Pieces, bytes: &[u8]) {
    let mut known = None;
    let mut end = 0;
    for piece in pieces.of(bytes) {
        end += piece.len();
        match (client::response(&bytes[..end], KEY, Subprotocol::Json), known) {
            (Ok(Some(length)), None) => {
                assert!(length <= end);
                known = Some(length);
            }
            (read, Some(length)) => assert_eq!(read, Ok(Some(length)), "more bytes changed the response"),
            (Ok(None), None) => assert!(end < UPGRADE_BYTES_MAX, "an endless response"),
            (Err(_), None) => return,
        }
    }
}
