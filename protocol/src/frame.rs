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

    /// The bytes of the incomplete frame: fed to an empty carry, they bring it here again.
    pub fn held(&self) -> &[u8] {
        &self.bytes
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u32 = 300;

    /// What a carry gives for one way of cutting: the frames, and how it ended.
    fn feed_in_pieces(bytes: &[u8], cuts: &[usize]) -> (Vec<(Header, Vec<u8>)>, Option<FrameError>) {
        let mut carry = Carry::new();
        let mut seen = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([bytes.len()]) {
            let piece = &bytes[start..end];
            let fed = carry.feed(piece, LIMIT, |header, body| {
                seen.push((header, body.to_vec()));
                ControlFlow::Continue(())
            });
            match fed {
                Ok(taken) => assert_eq!(taken, piece.len()),
                Err(error) => {
                    let again = carry.feed(b"more", LIMIT, |_, _| panic!("a frame after an error"));
                    assert_eq!(again, Err(error));
                    return (seen, Some(error));
                }
            }
            start = end;
        }
        (seen, None)
    }

    fn frame_bytes(kind: u8, channel: u32, tag: u32, body: &[u8]) -> Vec<u8> {
        let header = Header { length: body.len() as u32, kind, channel, tag };
        [&header.to_bytes(), body].concat()
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let body = proptest::collection::vec(any::<u8>(), 0..80);
        let frame = (any::<u8>(), any::<u32>(), any::<u32>(), body)
            .prop_map(|(kind, channel, tag, body)| frame_bytes(kind, channel, tag, &body));
        let ending = prop_oneof![
            Just(Vec::new()),
            Just(frame_bytes(1, 0, 0, &[7; 301])),
            Just([&[3, 0, 0, 0, 2, 1][..], &[0; 13]].concat()),
            Just(frame_bytes(1, 0, 0, &[7; 20])[..30].to_vec()),
        ];
        (proptest::collection::vec(frame, 0..6), ending).prop_map(|(frames, ending)| {
            let mut bytes = frames.concat();
            bytes.extend_from_slice(&ending);
            bytes
        })
    }

    proptest! {
        #[test]
        fn every_cut_gives_the_same_frames(
            bytes in stream(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            places.sort_unstable();
            let whole = feed_in_pieces(&bytes, &[]);
            prop_assert_eq!(&feed_in_pieces(&bytes, &places), &whole);
            let each: Vec<usize> = (0..bytes.len()).collect();
            prop_assert_eq!(&feed_in_pieces(&bytes, &each), &whole);
        }

        #[test]
        fn headers_go_both_ways(length in 0..=LIMIT, kind: u8, channel: u32, tag: u32) {
            let header = Header { length, kind, channel, tag };
            prop_assert_eq!(decode_header(&header.to_bytes(), LIMIT), Ok(Some(header)));
        }
    }

    #[test]
    fn layout_is_little_endian_and_reserved_is_ignored() {
        let mut bytes = frame_bytes(3, 0x0403_0201, 0x0807_0605, b"hi");
        assert_eq!(bytes, [2, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, b'h', b'i']);
        bytes[6] = 0xFF;
        bytes[7] = 0xEE;
        let frame = decode(&bytes, LIMIT).expect("a good frame").expect("a whole frame");
        assert_eq!((frame.header.kind, frame.body), (3, &b"hi"[..]));
    }

    #[test]
    fn oversize_is_refused_from_the_header_before_any_memory_is_taken() {
        let header = Header { length: LIMIT + 1, kind: 1, channel: 0, tag: 0 }.to_bytes();
        let mut carry = Carry::new();
        assert_eq!(carry.feed(&header[..15], LIMIT, |_, _| ControlFlow::Continue(())), Ok(15));
        let refused = carry.feed(&header[15..], LIMIT, |_, _| ControlFlow::Continue(()));
        assert_eq!(refused, Err(FrameError::TooLarge { length: LIMIT + 1, limit: LIMIT }));
        assert!(carry.heap_bytes() <= 64);
    }

    #[test]
    fn a_carry_holds_what_arrived_and_nothing_between_frames() {
        let bytes = frame_bytes(1, 0, 0, &[9; 250]);
        let mut carry = Carry::new();
        carry.feed(&bytes[..40], LIMIT, |_, _| panic!("incomplete")).expect("no error");
        assert!((40..=80).contains(&carry.heap_bytes()));
        let mut frames = 0;
        let visit = |_: Header, _: &[u8]| {
            frames += 1;
            ControlFlow::Continue(())
        };
        carry.feed(&bytes[40..], LIMIT, visit).expect("no error");
        assert_eq!((frames, carry.heap_bytes(), carry.is_empty()), (1, 0, true));
    }

    #[test]
    fn breaking_off_leaves_the_rest_to_the_caller() {
        let bytes = [frame_bytes(1, 0, 1, b"first"), frame_bytes(2, 0, 2, b"second")].concat();
        for cut in 0..21 {
            let mut carry = Carry::new();
            let held = carry.feed(&bytes[..cut], LIMIT, |_, _| ControlFlow::Break(())).expect("no error");
            assert_eq!(held, cut);
            let taken = carry.feed(&bytes[cut..], LIMIT, |_, _| ControlFlow::Break(())).expect("no error");
            assert_eq!((cut + taken, carry.is_empty()), (21, true));
        }
    }

    #[test]
    fn a_message_must_hold_whole_frames() {
        let bytes = [frame_bytes(1, 0, 0, b"one"), frame_bytes(2, 0, 0, b"two")].concat();
        assert_eq!(frames(&bytes, LIMIT).filter(Result::is_ok).count(), 2);
        let cut: Vec<_> = frames(&bytes[..bytes.len() - 1], LIMIT).collect();
        assert_eq!((cut.len(), cut[1]), (2, Err(FrameError::Truncated)));
        let oversize = Header { length: 999, kind: 1, channel: 0, tag: 0 }.to_bytes();
        let bad: Vec<_> = frames(&oversize, LIMIT).collect();
        assert_eq!(bad, [Err(FrameError::TooLarge { length: 999, limit: LIMIT })]);
    }
}
