//! Frames appended to a byte vector. The server never masks and never fragments; clients mask.

use super::head::{Opcode, apply_mask};

/// Bytes of an unmasked frame's head before a payload of this length: 2, 4 or 10.
pub const fn head_bytes(length: usize) -> usize {
    match length {
        0..=125 => 2,
        126..=65_535 => 4,
        _ => 10,
    }
}

/// Appends the head of one unfragmented frame; the payload of `length` bytes must follow. With a mask (clients
/// only) the payload must follow masked.
pub fn head(opcode: Opcode, length: usize, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    assert!(!opcode.is_control() || length <= 125, "control frame of {length} bytes");
    let bit = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode as u8);
    match length {
        0..=125 => out.push(bit | length as u8),
        126..=65_535 => {
            out.push(bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if let Some(mask) = mask {
        out.extend_from_slice(&mask);
    }
}

/// Appends a whole frame from the server.
pub fn message(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    head(opcode, payload.len(), None, out);
    out.extend_from_slice(payload);
}

/// Appends a whole frame from a client. The mask should be random (RFC 6455 section 5.3).
pub fn masked(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    head(opcode, payload.len(), Some(mask), out);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask, 0);
}

/// Turns what was appended since `start` into one unmasked frame, by moving it up and putting a head before it:
/// for messages that are encoded straight into an outbox.
pub fn wrap(opcode: Opcode, start: usize, out: &mut Vec<u8>) {
    let length = out.len() - start;
    head(opcode, length, None, out);
    out[start..].rotate_right(head_bytes(length));
}

/// Appends a close frame from the server; `reason` is clipped to 123 bytes at a character boundary.
pub fn close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let reason = &reason[..reason.floor_char_boundary(123)];
    head(Opcode::Close, 2 + reason.len(), None, out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}
