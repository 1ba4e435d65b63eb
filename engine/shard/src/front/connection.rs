//! One connection: how its bytes are cut into frames, what waits to leave for it, and who speaks through it.

use std::ops::{Deref, DerefMut};

use ringdesk_desk::ids::ConversationId;
use ringdesk_protocol::ws::{self, Deflate, Opcode, Socket};
use ringdesk_protocol::{Carry, Code, ServerMessage};

use super::ASKING_MAX;
use super::address::AddressNumber;
use super::admit::Preamble;
use super::session::{Session, Sessions};
use super::waiting::Waiting;
use crate::io::ConnId;
use crate::message::{HandOver, SessionRef, Transport};
use crate::owner::CHUNK_BYTES;
use crate::tls::Tls;

/// Byte offset of the channel in a frame header.
const CHANNEL_AT: usize = 8;

/// How the bytes of a connection are cut. Between messages a cutter has no state.
#[derive(Debug)]
pub enum Cutter {
    /// Binary frames on the stream, none of them begun.
    Stream,
    /// WebSocket frames, no message begun, with the compression that was agreed.
    WebSocket(Option<Deflate>),
    /// In the middle of something, which is in [`Busy::cutting`].
    Amid,
    /// Lent to the decoding loop.
    Lent,
}

/// What a cutter is in the middle of.
#[derive(Debug)]
pub enum Cutting {
    /// PROXY header not complete yet; nothing of the client's own came.
    Proxy(Preamble),
    /// An incomplete binary frame.
    Stream(Carry),
    /// An incomplete HTTP upgrade request or WebSocket message.
    WebSocket(Socket),
}

/// How an outbox grows once it holds this much.
const STEP_BYTES: usize = 64 << 10;

/// Memory a buffer of so many bytes takes. The allocator hands out larger blocks in quarters of a power of two, and the
/// largest in slices of 64 KiB, of which no page can be counted on to be untouched.
pub(super) fn block_bytes(bytes: usize) -> usize {
    const SLICE_BYTES: usize = 64 << 10;
    if bytes <= SLICE_BYTES {
        bytes
    } else if bytes <= 2 * SLICE_BYTES {
        bytes.next_multiple_of(SLICE_BYTES / 4)
    } else {
        bytes.next_multiple_of(SLICE_BYTES)
    }
}

/// Bytes that wait to leave.
#[derive(Default, Debug)]
pub struct Outbox(Vec<u8>);

impl Outbox {
    const EMPTY: Self = Self(Vec::new());

    /// Uses `buffer`, which is empty, for the bytes to come, unless it has one: gives it back then.
    pub fn lend(&mut self, buffer: Option<Vec<u8>>) -> Option<Vec<u8>> {
        if self.0.capacity() > 0 {
            return buffer;
        }
        if let Some(buffer) = buffer {
            self.0 = buffer;
        }
        None
    }

    /// Has room for `more` bytes. Doubles while it is small; beyond [`STEP_BYTES`] it grows by that much, and not above
    /// `limit` bytes unless it must: what a slow client costs is its cap, not the power of two above it.
    pub fn make_room(&mut self, more: usize, limit: usize) {
        let (len, capacity) = (self.len(), self.capacity());
        let needed = len + more;
        if needed > capacity.max(STEP_BYTES) {
            let step = (len + STEP_BYTES).min(limit);
            self.deref_mut().reserve_exact(needed.max(step) - len);
        }
    }

    /// The bytes, and the buffer they are in; none if it has none.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl Deref for Outbox {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Outbox {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// Where a connection stands.
#[derive(Debug)]
pub enum Phase {
    /// No HELLO yet.
    Greeting,
    /// HELLO taken; waits for its sends to complete, then goes to another shard.
    Leaving {
        /// The shard that owns the identity.
        to: u16,
        /// What goes with it.
        state: Box<HandOver>,
    },
    /// Descriptor and state are on their way to another shard.
    Gone,
    /// Served here.
    Ready(Ready),
}

/// A connection after HELLO.
#[derive(Debug)]
pub struct Ready {
    /// Its own session, or those a gateway bound.
    pub sessions: Sessions,
    /// Place of its ticket's site in `Front::sites`.
    pub site: u32,
    /// When its ticket was issued, seconds since 1970; the last second 32 bits can name for any later one.
    pub issued_s: u32,
}

/// One connection of this shard.
#[derive(Debug)]
pub struct Connection {
    /// Its identity at the driver.
    pub id: ConnId,
    /// How its bytes are cut.
    pub cutter: Cutter,
    /// How frames are wrapped for it.
    pub transport: Transport,
    /// Where it stands.
    pub phase: Phase,
    /// The number its address is counted under.
    pub address: AddressNumber,
    /// When it was last heard, or accepted: seconds of the monotonic clock, good for 136 years.
    pub heard_s: u32,
    /// Whether it is in the list of connections to flush this turn.
    pub dirty: bool,
    /// Nothing more is taken from it; it closes when its outbox is flushed.
    pub closing: bool,
    /// What it has only while something is going on. Reached through `Deref`: writing makes it, [`Self::rest`] ends it.
    busy: Option<Box<Busy>>,
}

/// The part of a connection that an idle one is without.
#[derive(Debug)]
pub struct Busy {
    /// TLS between the socket and the cutter: such a connection is never without this part.
    pub tls: Option<Box<Tls>>,
    /// Bytes that wait for the send in flight to complete, before encryption.
    pub outbox: Outbox,
    /// Bytes of the send in flight; 0 = none.
    pub sending_bytes: u32,
    /// Paused subscriptions, by channel.
    pub paused: Waiting<(u32, ConversationId)>,
    /// Number of requests not answered yet.
    pub asked: u32,
    /// Number of subscriptions that asked and were not answered yet.
    pub asking: u8,
    /// Number of HISTORY requests not answered yet.
    pub pages_out: u8,
    /// What is not read any more until its queues have room again.
    pub stopped: Option<Box<Stopped>>,
    /// What [`Cutter::Amid`] is amid.
    pub cutting: Option<Box<Cutting>>,
}

impl Busy {
    const IDLE: Self = Self {
        tls: None,
        outbox: Outbox::EMPTY,
        sending_bytes: 0,
        paused: Waiting::EMPTY,
        asked: 0,
        asking: 0,
        pages_out: 0,
        stopped: None,
        cutting: None,
    };

    fn is_idle(&self) -> bool {
        let Self { tls, outbox, sending_bytes, paused, asked, asking, pages_out, stopped, cutting } = self;
        let counts = [*sending_bytes, *asked, u32::from(*asking), u32::from(*pages_out)];
        let nothing = tls.is_none() && stopped.is_none() && cutting.is_none() && paused.is_empty();
        counts == [0; 4] && outbox.capacity() == 0 && nothing
    }
}

static IDLE: Busy = Busy::IDLE;

impl Deref for Connection {
    type Target = Busy;

    fn deref(&self) -> &Busy {
        self.busy.as_deref().unwrap_or(&IDLE)
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Busy {
        self.busy.get_or_insert_with(|| Box::new(Busy::IDLE))
    }
}

/// A connection that is not read: the client does not read its answers, has too many requests out, or the lane to
/// another shard is full.
#[derive(Default, Debug)]
pub struct Stopped {
    /// Bytes that had arrived and were not decoded: at most what the kernel had taken before the stop took effect.
    pub unread: Vec<u8>,
    /// Bytes of a send that was taken back: they go out before anything else. Only while the shard stands still.
    pub unsent: Vec<u8>,
    /// It took one of the last places of a lane and waits for that lane.
    pub behind_lane: bool,
}

impl Connection {
    /// A connection just accepted or handed over.
    pub fn new(id: ConnId, transport: Transport, cutter: Cutter, now_s: u32) -> Self {
        Self {
            id,
            cutter,
            transport,
            phase: Phase::Greeting,
            address: 0,
            heard_s: now_s,
            dirty: false,
            closing: false,
            busy: None,
        }
    }

    /// Gives back what only a busy connection needs, if it is idle.
    pub fn rest(&mut self) {
        self.busy.take_if(|busy| busy.is_idle());
    }

    /// Whether a send is out or something waits to leave.
    pub fn has_output(&self) -> bool {
        self.busy.is_some() && (self.tls.is_some() || self.sending_bytes > 0 || !self.outbox.is_empty())
    }

    /// In the middle of something from now on.
    pub fn cut_amid(&mut self, cutting: Cutting) {
        self.cutter = Cutter::Amid;
        self.cutting = Some(Box::new(cutting));
    }

    /// A reference to one of its sessions.
    pub fn session_ref(&self, shard: u16, channel: u32) -> SessionRef {
        SessionRef { shard, index: self.id.index, generation: self.id.generation, channel }
    }

    /// The sessions after HELLO.
    pub fn ready_mut(&mut self) -> Option<&mut Ready> {
        match &mut self.phase {
            Phase::Ready(ready) => Some(ready),
            _ => None,
        }
    }

    /// One session.
    pub fn session_mut(&mut self, channel: u32) -> Option<&mut Session> {
        self.ready_mut()?.sessions.get_mut(channel)
    }

    /// This subscription is not paused any more.
    pub fn waits_no_more(&mut self, channel: u32, conversation: ConversationId) {
        if !self.paused.is_empty() {
            self.paused.remove((channel, conversation));
        }
    }

    /// Takes out the paused subscription whose turn it is, and how many turns others had while it waited.
    pub fn next_paused(&mut self) -> Option<((u32, ConversationId), u32)> {
        if self.paused.is_empty() { None } else { self.paused.take() }
    }

    /// Whether a paused subscription may read on: the client keeps up.
    pub fn may_resume(&self, cap: usize) -> bool {
        !self.paused.is_empty() && self.backlog_bytes() <= cap / 2
    }

    /// Whether one subscription more may read the log: not all turns are taken, and what those who read may come back
    /// with fits below the cap. One may always, when no more waits than a sixteenth of it, such as a WELCOME.
    pub fn may_ask(&self, cap: usize) -> bool {
        let backlog = self.backlog_bytes();
        let alone = self.asking == 0 && backlog <= cap / 16;
        let come = (usize::from(self.asking) + 1) * CHUNK_BYTES as usize;
        alone || (self.asking < ASKING_MAX && self.held_with(come) <= cap)
    }

    /// Whether frames of so many bytes do not fit below the cap any more. With nothing else waiting, any fit.
    pub fn is_slow(&self, bytes: usize, cap: usize) -> bool {
        let backlog = self.backlog_bytes();
        backlog >= cap || (backlog > 0 && self.held_with(bytes) > cap)
    }

    /// Memory that is taken once so many bytes more wait: the cap bounds this and not what of it is used.
    fn held_with(&self, more: usize) -> usize {
        block_bytes(self.sending_bytes as usize) + block_bytes(self.outbox.len() + more)
    }

    /// The compression agreed on its WebSocket.
    pub fn deflate(&self) -> Option<Deflate> {
        match &self.cutter {
            Cutter::WebSocket(deflate) => *deflate,
            _ => match self.cutting.as_deref() {
                Some(Cutting::WebSocket(socket)) => socket.deflate(),
                _ => None,
            },
        }
    }

    /// Bytes that wait or are being sent.
    pub fn backlog_bytes(&self) -> usize {
        self.outbox.len() + self.sending_bytes as usize
    }

    /// Puts complete binary frames into the outbox, each with this channel, wrapped as the transport wants.
    pub fn put_frames(&mut self, channel: u32, frames: &[u8]) {
        match self.transport {
            Transport::Stream => {
                let start = self.outbox.len();
                self.outbox.extend_from_slice(frames);
                patch_channels(&mut self.outbox[start..], channel);
            }
            Transport::WsBinary => {
                ws::encode::head(Opcode::Binary, frames.len(), None, &mut self.outbox);
                let start = self.outbox.len();
                self.outbox.extend_from_slice(frames);
                patch_channels(&mut self.outbox[start..], channel);
            }
            Transport::WsJson => self.put_json(channel, frames),
        }
    }

    fn put_json(&mut self, channel: u32, frames: &[u8]) {
        let limit = ringdesk_protocol::limits::FRAME_BYTES_MAX as u32;
        for frame in ringdesk_protocol::frame::frames(frames, limit) {
            let frame = frame.expect("own frames are whole");
            let message = ServerMessage::decode(frame.header.kind, frame.body).expect("own frames decode");
            let start = self.outbox.len();
            message.write_json(channel, frame.header.tag, &mut self.outbox);
            ws::encode::wrap(Opcode::Text, start, &mut self.outbox);
        }
    }

    /// Puts one message into the outbox.
    pub fn put(&mut self, channel: u32, tag: u32, message: &ServerMessage<'_>) {
        let mut frame = Vec::with_capacity(128);
        message.encode(channel, tag, &mut frame);
        self.put_frames(channel, &frame);
    }

    /// Says goodbye; the connection closes when that is flushed.
    pub fn goodbye(&mut self, code: Code, retry_after_ms: u32) {
        if self.closing {
            return;
        }
        let sentence = code.sentence(ringdesk_protocol::Language::English);
        // Before the upgrade is answered no frame may be sent, and nothing at all to a proxy.
        let speaks = match self.cutting.as_deref() {
            Some(Cutting::WebSocket(socket)) => socket.is_open(),
            Some(Cutting::Proxy(_)) => false,
            Some(Cutting::Stream(_)) | None => true,
        };
        if speaks {
            self.put(0, 0, &ServerMessage::Goodbye { code, retry_after_ms, sentence });
            if self.transport != Transport::Stream {
                ws::encode::close(ws::close_code_of(code), code.name(), &mut self.outbox);
            }
        }
        self.closing = true;
    }
}

/// Writes the channel into each of a run of complete frames.
fn patch_channels(frames: &mut [u8], channel: u32) {
    if channel == 0 {
        return;
    }
    let mut at = 0;
    while at < frames.len() {
        let length = u32::from_le_bytes(frames[at..at + 4].try_into().expect("a whole header"));
        frames[at + CHANNEL_AT..at + CHANNEL_AT + 4].copy_from_slice(&channel.to_le_bytes());
        at += ringdesk_protocol::limits::HEADER_BYTES + length as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each idle visitor costs here, beside what the desk knows of it.
    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Cutter>() <= 2, "{}", size_of::<Cutter>());
        assert!(size_of::<Ready>() <= 56, "{}", size_of::<Ready>());
        assert!(size_of::<Option<Connection>>() <= 88, "{}", size_of::<Option<Connection>>());
        assert!(size_of::<Busy>() <= 72, "{}", size_of::<Busy>());
    }

    const PAUSED: (u32, ConversationId) = (0, ConversationId(1));

    #[test]
    fn only_what_is_idle_rests() {
        let id = ConnId { index: 1, generation: 1 };
        let mut connection = Connection::new(id, Transport::Stream, Cutter::Stream, 0);
        type Change = fn(&mut Busy);
        let busy: [(Change, Change); 7] = [
            (|busy| busy.outbox.push(1), |busy| drop(busy.outbox.take())),
            (|busy| busy.sending_bytes = 1, |busy| busy.sending_bytes = 0),
            (|busy| busy.paused.add(PAUSED), |busy| busy.paused.remove(PAUSED)),
            (|busy| busy.asked = 1, |busy| busy.asked = 0),
            (|busy| busy.asking = 1, |busy| busy.asking = 0),
            (|busy| busy.pages_out = 1, |busy| busy.pages_out = 0),
            (|busy| busy.stopped = Some(Box::default()), |busy| busy.stopped = None),
        ];
        for (begin, end) in busy {
            begin(&mut connection);
            connection.rest();
            assert!(connection.busy.is_some());
            end(&mut connection);
            connection.rest();
            assert!(connection.busy.is_none());
        }
        connection.cut_amid(Cutting::Stream(Carry::new()));
        connection.rest();
        assert!(connection.cutting.is_some());
    }

    /// What a slow client costs is its cap and not what doubling makes of it.
    #[test]
    fn an_outbox_grows_to_its_limit_and_not_beyond_unless_it_must() {
        let limit = 256 << 10;
        for frame in [300, 5_000, 65_600] {
            let mut outbox = Outbox::default();
            while outbox.len() + frame <= limit {
                outbox.make_room(frame, limit);
                outbox.extend_from_slice(&vec![7; frame]);
                assert!(outbox.capacity() <= limit, "{} bytes for {}", outbox.capacity(), outbox.len());
                assert!(outbox.capacity() <= 2 * outbox.len().max(STEP_BYTES));
            }
            outbox.make_room(2 * limit, limit);
            assert!(
                outbox.capacity() >= outbox.len() + 2 * limit,
                "an answer larger than the limit still fits"
            );
        }
    }

    /// Three messages of 64 KiB are below the cap, but not the blocks they are in.
    #[test]
    fn what_a_slow_client_costs_is_counted_in_blocks() {
        let (cap, frame) = (256 << 10, 65_600);
        let mut connection =
            Connection::new(ConnId { index: 1, generation: 1 }, Transport::Stream, Cutter::Stream, 0);
        connection.sending_bytes = frame as u32;
        assert!(!connection.is_slow(frame, cap) && connection.may_ask(cap));
        connection.outbox.extend_from_slice(&vec![7; frame]);
        assert!(connection.is_slow(frame, cap) && !connection.may_ask(cap));
        assert_eq!([1, 65_536, 65_537, 131_073].map(block_bytes), [1, 65_536, 81_920, 196_608]);
    }

    #[test]
    fn one_reads_the_log_always_and_several_only_below_the_cap() {
        let mut connection =
            Connection::new(ConnId { index: 1, generation: 1 }, Transport::Stream, Cutter::Stream, 0);
        let (small, large) = (16 << 10, 4 * CHUNK_BYTES as usize);
        assert!(connection.may_ask(small) && connection.may_ask(large));
        connection.asking = 3;
        assert!(!connection.may_ask(small) && connection.may_ask(large));
        connection.outbox.push(0);
        assert!(!connection.may_ask(large));
        connection.asking = 0;
        assert!(connection.may_ask(small), "a WELCOME does not keep the log from being read");
        connection.asking = 2;
        assert!(connection.may_ask(large));
        assert!(!connection.is_slow(large - 1, large) && connection.is_slow(large, large));
        connection.outbox.clear();
        assert!(!connection.is_slow(2 * large, large), "with nothing waiting any frame fits");
    }

    #[test]
    fn every_frame_of_a_run_gets_the_channel() {
        let id = ConnId { index: 1, generation: 1 };
        let mut connection = Connection::new(id, Transport::Stream, Cutter::Stream, 0);
        let mut run = Vec::new();
        ServerMessage::Pong { nonce: 1 }.encode(0, 5, &mut run);
        ServerMessage::Pong { nonce: 2 }.encode(0, 6, &mut run);
        connection.put_frames(77, &run);
        let channels: Vec<(u32, u32)> = ringdesk_protocol::frame::frames(&connection.outbox, 1024)
            .map(|frame| frame.map(|frame| (frame.header.channel, frame.header.tag)).unwrap())
            .collect();
        assert_eq!(channels, [(77, 5), (77, 6)]);
    }

    #[test]
    fn json_clients_get_text_with_the_channel() {
        let id = ConnId { index: 1, generation: 1 };
        let cutter = Cutter::WebSocket(None);
        let mut connection = Connection::new(id, Transport::WsJson, cutter, 0);
        connection.put(0, 9, &ServerMessage::Pong { nonce: 1 });
        let text = std::str::from_utf8(&connection.outbox[2..]).unwrap();
        assert!(text.contains("\"type\":\"pong\"") && text.contains("\"tag\":9"), "{text}");
    }
}
