//! Frames to events. A message that lies whole in the input is unmasked there and passed on; anything else goes
//! through a [`Partial`], which exists only while a message or a frame is incomplete.

use std::ops::ControlFlow;

use super::close::is_valid_close_code;
use super::deflate::{self, Deflate};
use super::head::{self, CONTROL_BYTES_MAX, HEAD_BYTES_MAX, Head, Opcode, WsError};

/// What a WebSocket stream says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// Answer with a pong of the same bytes.
    Ping(&'a [u8]),
    /// An answer to a ping, or unasked.
    Pong(&'a [u8]),
    /// The peer closes; answer with the same code and close. `None` if it gave no code. Nothing comes after it.
    Close(Option<u16>),
}

/// Incremental decoder of one direction. 16 bytes while no message is incomplete.
#[derive(Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    message_bytes_max: u32,
    masked: bool,
    deflate: Option<Deflate>,
    end: End,
}

const _: () = assert!(size_of::<Decoder>() <= 16);

#[derive(Clone, Copy, Debug)]
enum End {
    Open,
    Closed,
    Failed(WsError),
}

/// An incomplete message, frame or head.
#[derive(Debug, Default)]
struct Partial {
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    /// The frame being read, and how much of its payload is there.
    frame: Option<(Head, usize)>,
    /// Set from the first fragment to the last.
    message: Option<Opcode>,
    /// The message is inflated when it is whole.
    compressed: bool,
    /// Payload of the message so far.
    payload: Vec<u8>,
    /// Bytes of a text payload known to be whole UTF-8 characters.
    checked: usize,
    /// Payload of a control frame so far.
    control: Vec<u8>,
}

impl Decoder {
    /// The server's side: frames must be masked. `message_bytes_max`: most payload bytes of one message, as sent and
    /// as inflated. With `deflate` messages may come compressed.
    pub const fn server(message_bytes_max: u32, deflate: Option<Deflate>) -> Self {
        Self::new(true, message_bytes_max, deflate)
    }

    /// A client's side: frames must not be masked. Pages in JSON can be long; the client sets its own bound.
    pub const fn client(message_bytes_max: u32) -> Self {
        Self::new(false, message_bytes_max, None)
    }

    const fn new(masked: bool, message_bytes_max: u32, deflate: Option<Deflate>) -> Self {
        Self { partial: None, message_bytes_max, masked, deflate, end: End::Open }
    }

    /// The compression that was agreed.
    pub fn deflate(&self) -> Option<Deflate> {
        self.deflate
    }

    /// True if no message, frame or head is incomplete. Then no heap memory is held.
    pub fn is_between_messages(&self) -> bool {
        self.partial.is_none()
    }

    /// Heap memory held, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            size_of::<Partial>() + partial.payload.capacity() + partial.control.capacity()
        })
    }

    /// Appends frames that bring a new decoder with the same bounds to where this one is. The fragments of a message
    /// that are whole become one; the frame that is not goes on with its own mask, since the rest of it is still to
    /// come. Nothing once the stream has ended.
    pub fn put_held(&self, out: &mut Vec<u8>) {
        let (Some(partial), End::Open) = (&self.partial, self.end) else { return };
        let first = partial.message.map(|opcode| Head {
            last: false,
            compressed: partial.compressed,
            opcode,
            mask: self.masked.then_some([0; 4]),
            length: 0,
        });
        let mut whole = partial.payload.as_slice();
        let mut begun = None;
        match partial.frame {
            Some((head, _)) if head.opcode.is_control() => begun = Some((head, partial.control.as_slice())),
            Some((head, done)) => {
                let (before, part) = partial.payload.split_at(partial.payload.len() - done);
                (whole, begun) = (before, Some((head, part)));
            }
            None => {}
        }
        // The frame that began the message brings its kind itself.
        let begins = begun.is_some_and(|(head, _)| matches!(head.opcode, Opcode::Text | Opcode::Binary));
        if let Some(first) = first.filter(|_| !begins) {
            Head { length: whole.len() as u64, ..first }.put(out);
            out.extend_from_slice(whole);
        }
        if let Some((head, part)) = begun {
            head.put(out);
            let start = out.len();
            out.extend_from_slice(part);
            if let Some(mask) = head.mask {
                head::apply_mask(&mut out[start..], mask, 0);
            }
        }
        out.extend_from_slice(&partial.head[..partial.head_bytes]);
    }

    /// Feeds `input` (which is unmasked in place) and calls `visit` for each event, in order. Returns the bytes
    /// taken: all, unless `visit` broke off; the rest is untouched then and can be fed later or elsewhere. After a
    /// Close event the rest of the stream is taken and ignored.
    ///
    /// # Errors
    /// [`WsError`]; the connection must be closed with its code, and further calls give the same error.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        mut visit: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<usize, WsError> {
        match self.end {
            End::Open => {}
            End::Closed => return Ok(input.len()),
            End::Failed(error) => return Err(error),
        }
        let mut taken = 0;
        while taken < input.len() && matches!(self.end, End::Open) {
            let step = match self.partial {
                None => self.whole_frame(&mut input[taken..], &mut visit),
                Some(_) => self.part(&mut input[taken..], &mut visit),
            };
            let (bytes, flow) = step.inspect_err(|error| self.fail(*error))?;
            taken += bytes;
            if flow.is_break() {
                return Ok(taken);
            }
        }
        Ok(input.len())
    }

    fn fail(&mut self, error: WsError) {
        self.partial = None;
        self.end = End::Failed(error);
    }

    /// Takes one unfragmented frame that lies whole in the input; else starts a `Partial` and takes nothing.
    fn whole_frame(
        &mut self,
        input: &mut [u8],
        visit: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(usize, ControlFlow<()>), WsError> {
        if let Some((head, head_bytes)) = head::parse(input, self.masked, self.deflate.is_some())? {
            self.check(&head, None, 0)?;
            let end = head_bytes as u64 + head.length;
            if head.last && !head.compressed && end <= input.len() as u64 {
                let payload = &mut input[head_bytes..end as usize];
                if let Some(mask) = head.mask {
                    head::apply_mask(payload, mask, 0);
                }
                let event = event_of(head.opcode, payload)?;
                return Ok((end as usize, self.tell(event, visit)));
            }
        }
        self.partial = Some(Box::default());
        Ok((0, ControlFlow::Continue(())))
    }

    /// Whether a frame may come here, and whether its message stays within the bound.
    fn check(&self, head: &Head, message: Option<Opcode>, held: usize) -> Result<(), WsError> {
        if head.opcode.is_control() {
            return Ok(());
        }
        if message.is_some() != (head.opcode == Opcode::Continuation) {
            return Err(WsError::BadFragment);
        }
        if head.length > u64::from(self.message_bytes_max).saturating_sub(held as u64) {
            return Err(WsError::TooLarge);
        }
        Ok(())
    }

    /// Passes an event on, and notes a close.
    fn tell(
        &mut self,
        event: Event<'_>,
        visit: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if matches!(event, Event::Close(_)) {
            self.partial = None;
            self.end = End::Closed;
        }
        visit(event)
    }

    /// Moves input into the `Partial`: to the end of the head, or of the frame, or of the input.
    fn part(
        &mut self,
        input: &mut [u8],
        visit: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(usize, ControlFlow<()>), WsError> {
        let mut partial = self.partial.take().expect("a partial message is there");
        let mut taken = 0;
        let (head, mut done) = match partial.frame {
            Some(frame) => frame,
            None => {
                let deflate = self.deflate.is_some();
                let Some(head) = partial.read_head(input, (self.masked, deflate), &mut taken)? else {
                    self.partial = Some(partial);
                    return Ok((taken, ControlFlow::Continue(())));
                };
                self.check(&head, partial.message, partial.payload.len())?;
                partial.start(&head);
                (head, 0)
            }
        };
        let wanted = (head.length - done as u64).min((input.len() - taken) as u64) as usize;
        partial.append(&head, done, &mut input[taken..taken + wanted])?;
        taken += wanted;
        done += wanted;
        if (done as u64) < head.length {
            partial.frame = Some((head, done));
            self.partial = Some(partial);
            return Ok((taken, ControlFlow::Continue(())));
        }
        partial.frame = None;
        Ok((taken, self.end_of_frame(partial, &head, visit)?))
    }

    /// Passes on what a finished frame completes, and keeps the `Partial` if a message is still open.
    fn end_of_frame(
        &mut self,
        mut partial: Box<Partial>,
        head: &Head,
        visit: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, WsError> {
        if head.opcode.is_control() {
            let control = std::mem::take(&mut partial.control);
            if partial.message.is_some() {
                self.partial = Some(partial);
            }
            let event = event_of(head.opcode, &control)?;
            return Ok(self.tell(event, visit));
        }
        if !head.last {
            self.partial = Some(partial);
            return Ok(ControlFlow::Continue(()));
        }
        let opcode = partial.message.expect("the last fragment belongs to a message");
        if partial.compressed {
            let payload = std::mem::take(&mut partial.payload);
            partial.payload = deflate::inflate(payload, self.message_bytes_max as usize)?;
        }
        let event = event_of(opcode, &partial.payload)?;
        Ok(self.tell(event, visit))
    }
}

impl Partial {
    /// Collects head bytes. The bytes go in one by one, since only the head tells its own length.
    fn read_head(
        &mut self,
        input: &[u8],
        (masked, deflate): (bool, bool),
        taken: &mut usize,
    ) -> Result<Option<Head>, WsError> {
        for &byte in input {
            self.head[self.head_bytes] = byte;
            self.head_bytes += 1;
            *taken += 1;
            if let Some((head, _)) = head::parse(&self.head[..self.head_bytes], masked, deflate)? {
                self.head_bytes = 0;
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Notes the message that a data frame begins.
    fn start(&mut self, head: &Head) {
        if !head.opcode.is_control() && self.message.is_none() {
            self.message = Some(head.opcode);
            self.compressed = head.compressed;
        }
    }

    /// Takes payload bytes of the current frame, `done` bytes into it. Invalid text is found at once, not at the
    /// end of the message, unless it is compressed.
    fn append(&mut self, head: &Head, done: usize, bytes: &mut [u8]) -> Result<(), WsError> {
        if let Some(mask) = head.mask {
            head::apply_mask(bytes, mask, done);
        }
        if head.opcode.is_control() {
            assert!(self.control.len() + bytes.len() <= CONTROL_BYTES_MAX, "the head was checked");
            self.control.extend_from_slice(bytes);
            return Ok(());
        }
        self.payload.extend_from_slice(bytes);
        if self.message == Some(Opcode::Text) && !self.compressed {
            self.checked += match std::str::from_utf8(&self.payload[self.checked..]) {
                Ok(text) => text.len(),
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(WsError::NotUtf8),
            };
        }
        Ok(())
    }
}

/// The event of a whole message or control frame.
fn event_of(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, WsError> {
    Ok(match opcode {
        Opcode::Text => Event::Text(std::str::from_utf8(payload).map_err(|_| WsError::NotUtf8)?),
        Opcode::Binary => Event::Binary(payload),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close => Event::Close(close_code(payload)?),
        Opcode::Continuation => unreachable!("a continuation without a message was refused"),
    })
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, WsError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let (code, reason) = payload.split_first_chunk().ok_or(WsError::BadClose)?;
    let code = u16::from_be_bytes(*code);
    if !is_valid_close_code(code) {
        return Err(WsError::BadClose);
    }
    std::str::from_utf8(reason).map_err(|_| WsError::NotUtf8)?;
    Ok(Some(code))
}
