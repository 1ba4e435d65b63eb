//! Close codes: which may appear on the wire (RFC 6455 section 7.4 and the IANA registry), and which goes with
//! which of our codes.

use crate::code::Code;

/// True if a peer may send this code: 1000-1003, 1007-1014, 3000-4999. 1004-1006 and 1015 never travel.
pub fn is_valid_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The close code that follows a GOODBYE with `code` on a WebSocket.
pub fn close_code_of(code: Code) -> u16 {
    match code {
        Code::ProtocolViolation | Code::BadHandshake | Code::BadVersion | Code::HelloExpected => 1002,
        Code::FrameTooLarge => 1009,
        Code::ShuttingDown => 1001,
        Code::Internal => 1011,
        Code::Busy => 1013,
        _ => 1008,
    }
}
