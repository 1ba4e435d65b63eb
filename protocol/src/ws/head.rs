//! The head of a WebSocket frame (RFC 6455 section 5.2): 2 to 14 bytes. Checked here as far as it can be without
//! knowing what came before.

use std::fmt;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Opcode {
    /// Goes on with a fragmented message.
    Continuation = 0,
    /// Starts (or is) a text message.
    Text = 1,
    /// Starts (or is) a binary message.
    Binary = 2,
    /// Ends the connection.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping, or says hello unasked.
    Pong = 10,
}

impl Opcode {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    /// Close, ping and pong: at most 125 bytes, never fragmented, allowed between fragments.
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// Why a peer's bytes are no WebSocket stream. Ends the connection with [`WsError::close_code`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WsError {
    /// A reserved bit is set that no negotiated extension gives a meaning here.
    ReservedBits,
    /// A reserved opcode.
    ReservedOpcode,
    /// A client's frame without a mask, or a server's with one.
    WrongMask,
    /// The length is not in its shortest form.
    LengthNotMinimal,
    /// A control frame that is fragmented or longer than 125 bytes.
    BadControl,
    /// A continuation without a message, or a new message inside another.
    BadFragment,
    /// The message is longer than allowed. Found before anything is allocated.
    TooLarge,
    /// A text message or a close reason that is not UTF-8.
    NotUtf8,
    /// A close frame of one byte, or with a code that may not be sent.
    BadClose,
    /// A compressed message that cannot be inflated.
    BadDeflate,
}

impl WsError {
    /// The close code to answer with: 1002, 1007 or 1009.
    pub fn close_code(self) -> u16 {
        match self {
            WsError::NotUtf8 | WsError::BadDeflate => 1007,
            WsError::TooLarge => 1009,
            _ => 1002,
        }
    }
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WsError::ReservedBits => "A reserved bit of a WebSocket frame is set.",
            WsError::ReservedOpcode => "A WebSocket frame has a reserved opcode.",
            WsError::WrongMask => "A WebSocket frame is masked the wrong way round.",
            WsError::LengthNotMinimal => "A WebSocket frame length is not in its shortest form.",
            WsError::BadControl => "A WebSocket control frame is fragmented or too long.",
            WsError::BadFragment => "WebSocket fragments are out of order.",
            WsError::TooLarge => "The WebSocket message is too long.",
            WsError::NotUtf8 => "The WebSocket text is not valid UTF-8.",
            WsError::BadClose => "The WebSocket close frame is not valid.",
            WsError::BadDeflate => "The compressed WebSocket message cannot be inflated.",
        })
    }
}

impl std::error::Error for WsError {}

/// Most bytes of a head: 2, a 64-bit length, a mask.
pub(super) const HEAD_BYTES_MAX: usize = 14;
/// Most payload bytes of a control frame.
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// A decoded head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) last: bool,
    /// The first frame of a compressed message.
    pub(super) compressed: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) length: u64,
}

/// Reads the head at the start of `bytes`, and its length; `None` while it is incomplete. The checks come in the
/// order of the bytes, so that the error found does not depend on how the bytes were cut. `deflate`: whether messages
/// may be compressed.
pub(super) fn parse(bytes: &[u8], masked: bool, deflate: bool) -> Result<Option<(Head, usize)>, WsError> {
    let Some((&[first, second], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let compressed = first & 0x70 == 0x40 && deflate;
    if first & 0x70 != 0 && !compressed {
        return Err(WsError::ReservedBits);
    }
    let opcode = Opcode::from_number(first & 0x0F).ok_or(WsError::ReservedOpcode)?;
    if compressed && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(WsError::ReservedBits);
    }
    let last = first & 0x80 != 0;
    if masked != (second & 0x80 != 0) {
        return Err(WsError::WrongMask);
    }
    let short = second & 0x7F;
    if opcode.is_control() && (!last || usize::from(short) > CONTROL_BYTES_MAX) {
        return Err(WsError::BadControl);
    }
    let Some((length, rest)) = parse_length(short, rest)? else {
        return Ok(None);
    };
    let (mask, rest) = match (masked, rest.split_first_chunk()) {
        (false, _) => (None, rest),
        (true, Some((mask, rest))) => (Some(*mask), rest),
        (true, None) => return Ok(None),
    };
    Ok(Some((Head { last, compressed, opcode, mask, length }, bytes.len() - rest.len())))
}

fn parse_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, WsError> {
    let (length, shortest, rest) = match short {
        126 => match rest.split_first_chunk() {
            Some((bytes, rest)) => (u64::from(u16::from_be_bytes(*bytes)), 126, rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((bytes, rest)) => (u64::from_be_bytes(*bytes), 65_536, rest),
            None => return Ok(None),
        },
        short => (u64::from(short), 0, rest),
    };
    if length < shortest {
        return Err(WsError::LengthNotMinimal);
    }
    Ok(Some((length, rest)))
}

impl Head {
    /// Appends the head as it came.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let first = if self.last { 0x80 } else { 0 } | if self.compressed { 0x40 } else { 0 };
        out.push(first | self.opcode as u8);
        let bit = if self.mask.is_some() { 0x80 } else { 0 };
        match self.length {
            0..=125 => out.push(bit | self.length as u8),
            126..=65_535 => {
                out.push(bit | 126);
                out.extend_from_slice(&(self.length as u16).to_be_bytes());
            }
            length => {
                out.push(bit | 127);
                out.extend_from_slice(&length.to_be_bytes());
            }
        }
        out.extend(self.mask.iter().flatten());
    }
}

/// Masks or unmasks in place; `offset` is the place of `bytes` in the payload.
pub(super) fn apply_mask(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let turned: [u8; 8] = std::array::from_fn(|place| mask[(place + offset) % 4]);
    let word = u64::from_ne_bytes(turned);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(turned) {
        *byte ^= mask;
    }
}
