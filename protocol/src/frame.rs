//! Frames: a 16-byte header and a body. The bottom layer of the binary form; order: bytes -> [`decode`] or
//! [`Carry::feed`] -> header and body -> `message`. Owns nothing but the bytes of one incomplete frame.

use std::ops::ControlFlow;

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::code::Code;
use crate::limits::HEADER_BYTES;

/// The header as it lies on the wire.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Wire {
    length: U32,
    kind: u8,
    flags: u8,
    reserved: U16,
    channel: U32,
    tag: U32,
}

const _: () = assert!(size_of::<Wire>() == HEADER_BYTES);

/// A decoded frame header. `flags` is 0 in version 1 and `reserved` is ignored, so neither is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes of body after the header.
    pub length: u32,
    /// Kind of the message; see `message`.
    pub kind: u8,
    /// 0 = the connection's own identity; else a visitor attached by BIND on a gateway connection.
    pub channel: u32,
    /// Chosen by the client and echoed in the answer; 0 in pushes.
    pub tag: u32,
}

impl Header {
    /// The 16 bytes of this header: `flags` and `reserved` are 0.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let wire = Wire {
            length: U32::new(self.length),
            kind: self.kind,
            flags: 0,
            reserved: U16::new(0),
            channel: U32::new(self.channel),
            tag: U32::new(self.tag),
        };
        zerocopy::transmute!(wire)
    }
}

/// Why a byte stream is no sequence of frames. Always ends the connection: the place of the next frame is unknown
/// or untrusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The header announces a longer body than allowed. Found before anything is allocated.
    TooLarge {
        /// Announced bytes.
        length: u32,
        /// Bytes allowed here.
        limit: u32,
    },
    /// The header sets flags that version 1 does not have.
    Flags(u8),
    /// A WebSocket message ended inside a frame (only from [`frames`]).
    Truncated,
}

impl FrameError {
    /// The code for the GOODBYE.
    pub fn code(self) -> Code {
        match self {
            FrameError::TooLarge { .. } => Code::FrameTooLarge,
            FrameError::Flags(_) | FrameError::Truncated => Code::ProtocolViolation,
        }
    }
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::TooLarge { length, limit } => {
                write!(f, "The frame announces {length} bytes; at most {limit} are accepted.")
            }
            FrameError::Flags(flags) => write!(f, "The frame sets unknown flags {flags:#04x}."),
            FrameError::Truncated => write!(f, "The message ends inside a frame."),
        }
    }
}

impl std::error::Error for FrameError {}

/// One whole frame inside somebody else's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// The header.
    pub header: Header,
    /// The body, `header.length` bytes.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of header and body together: what a reader must skip to reach the next frame.
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

/// Reads the header at the start of `bytes`; `None` while fewer than 16 bytes are there. `limit` bounds the body.
///
/// # Errors
/// [`FrameError::TooLarge`] and [`FrameError::Flags`].
#[inline]
pub fn decode_header(bytes: &[u8], limit: u32) -> Result<Option<Header>, FrameError> {
    let Ok((wire, _)) = Wire::read_from_prefix(bytes) else {
        return Ok(None);
    };
    let length = wire.length.get();
    if length > limit {
        return Err(FrameError::TooLarge { length, limit });
    }
    if wire.flags != 0 {
        return Err(FrameError::Flags(wire.flags));
    }
    Ok(Some(Header { length, kind: wire.kind, channel: wire.channel.get(), tag: wire.tag.get() }))
}

/// Reads the frame at the start of `bytes`; `None` while it is incomplete. `limit` bounds the body.
///
/// # Errors
/// As [`decode_header`].
#[inline]
pub fn decode(bytes: &[u8], limit: u32) -> Result<Option<Frame<'_>>, FrameError> {
    let Some(header) = decode_header(bytes, limit)? else {
        return Ok(None);
    };
    let end = HEADER_BYTES + header.length as usize;
    Ok(bytes.get(HEADER_BYTES..end).map(|body| Frame { header, body }))
}

/// The frames of one WebSocket message (or of the items of a PAGE), which must hold whole frames only.
/// After an error the iterator is at its end.
pub fn frames(bytes: &[u8], limit: u32) -> Frames<'_> {
    Frames { rest: bytes, limit }
}

/// Iterator of [`frames`].
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    limit: u32,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let found = match decode(self.rest, self.limit) {
            Ok(Some(frame)) => {
                self.rest = &self.rest[frame.wire_bytes()..];
                return Some(Ok(frame));
            }
            Ok(None) => FrameError::Truncated,
            Err(error) => error,
        };
        self.rest = &[];
        Some(Err(found))
    }
}

/// Cuts a byte stream into frames. Frames that lie whole in the input are passed on without a copy; only the
/// bytes of one incomplete frame are kept, and only as many as have arrived (a header that announces much
/// reserves nothing). Between frames it owns no heap memory.
#[derive(Default, Debug)]
pub struct Carry {
    bytes: Vec<u8>,
}

impl Carry {
    /// An empty carry.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// True if no frame is incomplete. Then no heap memory is held.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Heap memory held, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Feeds `input` and calls `visit` for each frame that is complete, in order. Returns the bytes of `input`
    /// taken: all of them, unless `visit` broke off; then the carry is empty and the rest of the input is the
    /// caller's (to be fed later, or handed over with the connection). `limit` bounds the body of a frame.
    ///
    /// # Errors
    /// As [`decode`]. The connection must be closed; further calls give the same error.
    pub fn feed(
        &mut self,
        input: &[u8],
        limit: u32,
        mut visit: impl FnMut(Header, &[u8]) -> ControlFlow<()>,
    ) -> Result<usize, FrameError> {
        let mut taken = 0;
        if !self.bytes.is_empty() {
            taken = self.top_up(input, limit)?;
            let Some(frame) = decode(&self.bytes, limit)? else {
                return Ok(taken);
            };
            let flow = visit(frame.header, frame.body);
            self.bytes = Vec::new();
            if flow.is_break() {
                return Ok(taken);
            }
        }
        loop {
            let rest = &input[taken..];
            match decode(rest, limit) {
                Ok(Some(frame)) => {
                    taken += frame.wire_bytes();
                    if visit(frame.header, frame.body).is_break() {
                        return Ok(taken);
                    }
                }
                Ok(None) => {
                    self.bytes.extend_from_slice(rest);
                    return Ok(input.len());
                }
                Err(error) => {
                    // Keep the bad header, so that whoever feeds on sees the error again.
                    self.bytes.extend_from_slice(&rest[..HEADER_BYTES]);
                    return Err(error);
                }
            }
        }
    }

    /// Moves input into the carry until the frame in it is complete or the input is used up; returns bytes taken.
    fn top_up(&mut self, input: &[u8], limit: u32) -> Result<usize, FrameError> {
        let missing = HEADER_BYTES.saturating_sub(self.bytes.len()).min(input.len());
        self.bytes.extend_from_slice(&input[..missing]);
        let Some(header) = decode_header(&self.bytes, limit)? else {
            return Ok(missing);
        };
        let end = HEADER_BYTES + header.length as usize;
        let body = (end - self.bytes.len()).min(input.len() - missing);
        self.bytes.extend_from_slice(&input[missing..missing + body]);
        Ok(missing + body)
    }
}
