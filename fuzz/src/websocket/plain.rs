//! RFC 6455 read plainly: the whole stream at hand, one byte after the other, nothing kept between calls. It owes
//! nothing to the decoder under test but the order in which a frame's faults are named: that of its bytes.

use ringdesk_protocol::ws::WsError;

use super::Said;

/// Reads a stream to its end, its close frame or its first fault. `bound` is that on a message.
pub fn read(stream: &[u8], masked: bool, bound: u64) -> (Vec<Said>, Option<WsError>) {
    let mut reader = Reader { bytes: stream.iter().copied(), said: Vec::new(), open: None };
    let end = reader.run(masked, bound);
    let fault = match end {
        End::Closed | End::Bytes => None,
        End::Fault(fault) => Some(fault),
    };
    (reader.said, fault)
}

enum End {
    /// The stream ends here.
    Bytes,
    /// A close frame.
    Closed,
    Fault(WsError),
}

struct Reader<I> {
    bytes: I,
    said: Vec<Said>,
    /// A fragmented message: whether it is text, and what it says so far.
    open: Option<(bool, Vec<u8>)>,
}

impl<I: Iterator<Item = u8>> Reader<I> {
    fn byte(&mut self) -> Result<u8, End> {
        self.bytes.next().ok_or(End::Bytes)
    }

    /// A number in network order (section 5.2).
    fn number(&mut self, bytes: u32) -> Result<u64, End> {
        (0..bytes).try_fold(0, |number, _| Ok(number << 8 | u64::from(self.byte()?)))
    }

    fn run(&mut self, masked: bool, bound: u64) -> End {
        loop {
            if let Err(end) = self.frame(masked, bound) {
                return end;
            }
        }
    }

    fn frame(&mut self, masked: bool, bound: u64) -> Result<(), End> {
        let (first, second) = (self.byte()?, self.byte()?);
        let (fin, opcode, control) = (first & 0x80 != 0, first & 0x0F, first & 0x08 != 0);
        let fault = |fault| Err(End::Fault(fault));
        if first & 0x70 != 0 {
            return fault(WsError::ReservedBits);
        }
        if !matches!(opcode, 0..=2 | 8..=10) {
            return fault(WsError::ReservedOpcode);
        }
        if (second & 0x80 != 0) != masked {
            return fault(WsError::WrongMask);
        }
        if control && (!fin || second & 0x7F > 125) {
            return fault(WsError::BadControl);
        }
        let length = match second & 0x7F {
            126 => (self.number(2)?, 126),
            127 => (self.number(8)?, 65_536),
            short => (u64::from(short), 0),
        };
        if length.0 < length.1 {
            return fault(WsError::LengthNotMinimal);
        }
        let mask = if masked { self.number(4)?.to_be_bytes() } else { [0; 8] };
        if !control && (opcode == 0) != self.open.is_some() {
            return fault(WsError::BadFragment);
        }
        let before =
            if control { 0 } else { self.open.as_ref().map_or(0, |(_, so_far)| so_far.len() as u64) };
        if !control && before.saturating_add(length.0) > bound {
            return fault(WsError::TooLarge);
        }
        let mut payload = Vec::new();
        let mut whole = true;
        for place in 0..length.0 {
            let Some(byte) = self.bytes.next() else {
                whole = false;
                break;
            };
            payload.push(byte ^ mask[4 + (place % 4) as usize]);
        }
        if control {
            return if whole { self.control(opcode, payload) } else { Err(End::Bytes) };
        }
        self.data(opcode, fin && whole, payload)?;
        if whole { Ok(()) } else { Err(End::Bytes) }
    }

    fn control(&mut self, opcode: u8, payload: Vec<u8>) -> Result<(), End> {
        match opcode {
            9 => self.said.push(Said::Ping(payload)),
            10 => self.said.push(Said::Pong(payload)),
            _ => {
                let code = match payload[..] {
                    [] => None,
                    [_] => return Err(End::Fault(WsError::BadClose)),
                    [high, low, ..] => Some(u16::from(high) << 8 | u16::from(low)),
                };
                // Section 7.4.2 and the IANA registry.
                let may = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
                if code.is_some_and(|code| !may(code)) {
                    return Err(End::Fault(WsError::BadClose));
                }
                if !payload.is_empty() && std::str::from_utf8(&payload[2..]).is_err() {
                    return Err(End::Fault(WsError::NotUtf8));
                }
                self.said.push(Said::Close(code));
                return Err(End::Closed);
            }
        }
        Ok(())
    }

    fn data(&mut self, opcode: u8, last: bool, payload: Vec<u8>) -> Result<(), End> {
        let (text, mut message) = self.open.take().unwrap_or((opcode == 1, Vec::new()));
        message.extend(payload);
        if text {
            match std::str::from_utf8(&message) {
                Ok(_) => {}
                // A character may go on in the next fragment.
                Err(error) if error.error_len().is_none() && !last => {}
                Err(_) => return Err(End::Fault(WsError::NotUtf8)),
            }
        }
        if !last {
            self.open = Some((text, message));
        } else if text {
            self.said.push(Said::Text(String::from_utf8(message).expect("just checked")));
        } else {
            self.said.push(Said::Binary(message));
        }
        Ok(())
    }
}
