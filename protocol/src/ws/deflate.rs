//! permessage-deflate (RFC 7692), without context takeover in either direction: each message stands alone, so a
//! connection keeps nothing between messages.
//!
//! Order: [`Deflate::of_offer`] reads what a client offers; the decoder inflates whole messages under their bound; a
//! [`Deflater`], one per shard, compresses what a connection sends.

use miniz_oxide::deflate::core::create_comp_flags_from_zip_params;
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, TDEFLStatus, compress};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::encode;
use super::head::{self, Opcode, WsError};

/// What ends every flushed message and is not sent (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// Payloads below this many bytes go as they are: they would hardly shrink.
pub const DEFLATE_BYTES_MIN: usize = 256;

const LEVEL: i32 = 6;
const WINDOW_BITS_MAX: u8 = 15;

/// The extension as agreed with one client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deflate {
    /// The client inflates with a window of 2 to this power: 8 to 15.
    window_bits: u8,
}

impl Deflate {
    /// As agreed elsewhere; `None` unless the window is one that can be agreed.
    pub fn of_window(window_bits: u8) -> Option<Self> {
        (8..=WINDOW_BITS_MAX).contains(&window_bits).then_some(Self { window_bits })
    }

    /// The client's window, as a power of 2.
    pub fn window_bits(self) -> u8 {
        self.window_bits
    }

    /// Reads one element of `Sec-WebSocket-Extensions`; `None` if it is another extension or has a parameter that
    /// RFC 7692 section 7.1 does not know.
    pub fn of_offer(offer: &str) -> Option<Self> {
        let mut parts = offer.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
            return None;
        }
        let mut agreed = Self { window_bits: WINDOW_BITS_MAX };
        let mut seen: Vec<&str> = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
                None => (part, None),
            };
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
                ("server_max_window_bits", Some(bits)) => agreed.window_bits = window_bits(bits)?,
                // What the client may use at most is its own affair: the output is the window here.
                ("client_max_window_bits", bits) => {
                    bits.map_or(Some(WINDOW_BITS_MAX), window_bits)?;
                }
                _ => return None,
            }
        }
        Some(agreed)
    }

    /// The value of `Sec-WebSocket-Extensions` in the response.
    pub fn answer(self) -> String {
        let mut text =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if self.window_bits < WINDOW_BITS_MAX {
            text += &format!("; server_max_window_bits={}", self.window_bits);
        }
        text
    }
}

fn window_bits(text: &str) -> Option<u8> {
    let well_formed =
        !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|bits| well_formed && (8..=WINDOW_BITS_MAX).contains(bits))
}

/// Inflates one message. The output, at most `bytes_max` bytes, is the window; the state lives on the stack.
pub(super) fn inflate(mut payload: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, WsError> {
    payload.extend_from_slice(&TAIL);
    let mut state = DecompressorOxide::new();
    // One byte more than allowed, so that "exactly full" and "too long" differ.
    let mut out = vec![0; (payload.len() * 4).clamp(1024, 1 << 20).min(bytes_max + 1)];
    let (mut read, mut written) = (0, 0);
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | TINFL_FLAG_HAS_MORE_INPUT;
    loop {
        let (status, taken, given) = decompress(&mut state, &payload[read..], &mut out, written, flags);
        read += taken;
        written += given;
        if written > bytes_max {
            return Err(WsError::TooLarge);
        }
        match status {
            TINFLStatus::HasMoreOutput => out.resize((out.len() * 2).min(bytes_max + 1), 0),
            // A final block: what follows is a stream of its own (RFC 7692 section 7.2.3.4).
            TINFLStatus::Done if read < payload.len() => state.init(),
            TINFLStatus::Done | TINFLStatus::NeedsMoreInput => {
                out.truncate(written);
                return Ok(out);
            }
            _ => return Err(WsError::BadDeflate),
        }
    }
}

/// Compresses messages, one after the other, for any number of connections. About 300 KiB, so one for a shard.
pub struct Deflater {
    state: Box<CompressorOxide>,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflater").finish_non_exhaustive()
    }
}

impl Deflater {
    /// Ready.
    pub fn new() -> Self {
        let flags = create_comp_flags_from_zip_params(LEVEL, -i32::from(WINDOW_BITS_MAX), 0);
        Self { state: Box::new(CompressorOxide::new(flags)), scratch: Vec::new() }
    }

    /// Appends a whole message from the server: compressed if that makes it shorter, as it is otherwise.
    pub fn message(&mut self, agreed: Deflate, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
        match self.shorter(agreed, payload) {
            Some(length) => {
                let start = out.len();
                encode::message(opcode, &self.scratch[..length], out);
                out[start] |= 0x40;
            }
            None => encode::message(opcode, payload, out),
        }
    }

    /// Compresses what waits for a client: whole frames of the server, none compressed yet, perhaps after the 101
    /// response. Each becomes what [`Deflater::message`] would have made of it.
    pub fn outbox(&mut self, agreed: Deflate, out: &mut Vec<u8>) {
        // No frame of the server begins with an H: that would be one with reserved bits, not the last of its message.
        let start = if out.starts_with(b"H") { end_of_response(out) } else { 0 };
        let frames = |from: usize, out: &[u8]| {
            let (head, bytes) =
                head::parse(&out[from..], false, false).ok().flatten().expect("own frames are whole");
            (head.opcode, from + bytes, from + bytes + head.length as usize)
        };
        let mut from = start;
        while from < out.len() {
            let (_, payload, end) = frames(from, out);
            if end - payload >= DEFLATE_BYTES_MIN {
                break;
            }
            from = end;
        }
        if from == out.len() {
            return;
        }
        let whole = std::mem::take(out);
        out.reserve(whole.len());
        out.extend_from_slice(&whole[..from]);
        while from < whole.len() {
            let (opcode, payload, end) = frames(from, &whole);
            match opcode.is_control() {
                true => out.extend_from_slice(&whole[from..end]),
                false => self.message(agreed, opcode, &whole[payload..end], out),
            }
            from = end;
        }
    }

    /// Compresses into the scratch buffer; the length, if it is below that of `payload`. A message longer than the
    /// client's window is left alone unless the window is a whole one: distances would reach beyond it.
    fn shorter(&mut self, agreed: Deflate, payload: &[u8]) -> Option<usize> {
        let fits = agreed.window_bits == WINDOW_BITS_MAX || payload.len() <= 1 << agreed.window_bits;
        if payload.len() < DEFLATE_BYTES_MIN || !fits {
            return None;
        }
        self.scratch.resize(payload.len(), 0);
        self.state.reset();
        let (status, read, written) = compress(&mut self.state, payload, &mut self.scratch, TDEFLFlush::Sync);
        // Without room to spare the flush may be incomplete, and there is nothing to win.
        let whole = status == TDEFLStatus::Okay && read == payload.len() && written < payload.len();
        let length = written.checked_sub(TAIL.len()).filter(|_| whole)?;
        assert_eq!(self.scratch[length..written], TAIL, "a flush ends with an empty block");
        Some(length)
    }
}

fn end_of_response(out: &[u8]) -> usize {
    let end = out.windows(4).position(|window| window == b"\r\n\r\n").expect("own responses are whole");
    end + 4
}

impl Default for Deflater {
    fn default() -> Self {
        Self::new()
    }
}
