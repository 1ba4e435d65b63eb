//! The simulated network: byte streams between clients and the engine, with delay, cuts and back-pressure.
//!
//! Order: within one direction of one connection bytes never overtake each other; between connections nothing is
//! ordered. Every read may be cut anywhere. A pipe holds a bounded number of bytes; a sender finds no room when the
//! other side does not read.

use std::collections::{BTreeMap, VecDeque};

use crate::rng::Rng;

/// Number of a connection, unique in a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// When the next pieces arrive, and how long they are.
    arriving: VecDeque<(u64, usize)>,
    /// Bytes at the front that have arrived.
    ready: usize,
    last_arrival: u64,
    /// The sender closed: the end of the stream arrives then.
    fin_at: Option<u64>,
}

impl Pipe {
    fn write(&mut self, bytes: &[u8], arrives: u64) {
        self.last_arrival = self.last_arrival.max(arrives);
        self.bytes.extend(bytes);
        self.arriving.push_back((self.last_arrival, bytes.len()));
    }

    fn settle(&mut self, now: u64) {
        while let Some(&(at, len)) = self.arriving.front() {
            if at > now {
                break;
            }
            self.ready += len;
            self.arriving.pop_front();
        }
    }

    fn read(&mut self, now: u64, max: usize) -> Vec<u8> {
        self.settle(now);
        let len = self.ready.min(max);
        self.ready -= len;
        self.bytes.drain(..len).collect()
    }

    /// When there is something to read, the end of the stream included.
    fn readable_at(&self) -> Option<u64> {
        if self.ready > 0 {
            return Some(0);
        }
        match (self.arriving.front(), self.fin_at) {
            (Some(&(at, _)), _) => Some(at),
            (None, fin) => fin,
        }
    }

    fn at_end(&self, now: u64) -> bool {
        self.bytes.is_empty() && self.fin_at.is_some_and(|at| at <= now)
    }
}

/// What a read gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Read {
    /// Nothing yet.
    Nothing,
    /// At least one byte.
    Bytes(Vec<u8>),
    /// The other side closed.
    End,
    /// The connection failed (ECONNRESET).
    Reset,
}

#[derive(Clone, Debug)]
struct Link {
    up: Pipe,
    down: Pipe,
    /// Failed from then on, for both sides.
    reset_at: Option<u64>,
    /// The client is gone without a word: nothing it sends leaves, nothing it is sent arrives.
    vanished: bool,
    /// Descriptors the engine holds of it: two for a moment while it is handed over.
    held: u32,
    accepted: bool,
    client_closed: bool,
    /// It ends for a reason outside the engine.
    excused: bool,
    /// Bytes the engine may have in flight towards the client.
    down_cap: usize,
}

/// A connection nobody accepted yet.
#[derive(Clone, Copy, Debug)]
struct Knock {
    at: u64,
    shard: u16,
    listener: u16,
    link: LinkId,
}

/// All connections.
#[derive(Clone, Debug, Default)]
pub struct SimNet {
    links: BTreeMap<LinkId, Link>,
    knocks: Vec<Knock>,
    next: u64,
}

impl SimNet {
    /// A client connects to a listener of a shard, where it shows up at `at`.
    pub fn connect(&mut self, at: u64, shard: u16, listener: u16, down_cap: usize) -> LinkId {
        self.next += 1;
        let link = LinkId(self.next);
        let state = Link {
            up: Pipe::default(),
            down: Pipe::default(),
            reset_at: None,
            vanished: false,
            held: 0,
            accepted: false,
            client_closed: false,
            excused: false,
            down_cap,
        };
        self.links.insert(link, state);
        self.knocks.push(Knock { at, shard, listener, link });
        link
    }

    /// The next connection a listener may accept.
    pub fn accept(&mut self, now: u64, shard: u16, listener: u16) -> Option<LinkId> {
        let at = self
            .knocks
            .iter()
            .position(|knock| knock.at <= now && knock.shard == shard && knock.listener == listener)?;
        let link = self.knocks.remove(at).link;
        let state = self.links.get_mut(&link)?;
        state.held = 1;
        state.accepted = true;
        Some(link)
    }

    /// When a listener has somebody to accept.
    pub fn knock_at(&self, shard: u16, listener: u16) -> Option<u64> {
        let mine = self.knocks.iter().filter(|knock| knock.shard == shard && knock.listener == listener);
        mine.map(|knock| knock.at).min()
    }

    /// The client sends.
    pub fn client_write(&mut self, link: LinkId, bytes: &[u8], arrives: u64) {
        let Some(state) = self.links.get_mut(&link) else { return };
        if !state.vanished && !state.client_closed && !bytes.is_empty() {
            state.up.write(bytes, arrives);
        }
    }

    /// The client reads at most `max` bytes.
    pub fn client_read(&mut self, link: LinkId, now: u64, max: usize) -> Read {
        let Some(state) = self.links.get_mut(&link) else { return Read::Reset };
        if state.vanished {
            return Read::Nothing;
        }
        if state.reset_at.is_some_and(|at| at <= now) {
            return Read::Reset;
        }
        let bytes = state.down.read(now, max);
        match bytes.is_empty() {
            false => Read::Bytes(bytes),
            true if state.down.at_end(now) => Read::End,
            true => Read::Nothing,
        }
    }

    /// When the client has something to read.
    pub fn client_readable_at(&self, link: LinkId) -> Option<u64> {
        let state = self.links.get(&link)?;
        if state.vanished {
            return None;
        }
        earliest(state.down.readable_at(), state.reset_at)
    }

    /// The client closes in good order; what it sent before arrives.
    pub fn client_close(&mut self, link: LinkId, arrives: u64) {
        let Some(state) = self.links.get_mut(&link) else { return };
        state.client_closed = true;
        if !state.vanished {
            state.up.fin_at = Some(arrives.max(state.up.last_arrival));
        }
        self.sweep(link);
    }

    /// The client is gone without a word.
    pub fn vanish(&mut self, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.vanished = true;
            state.client_closed = true;
        }
        self.sweep(link);
    }

    /// The connection fails for both sides at `at`. Bytes that have not arrived by then are lost.
    pub fn cut(&mut self, link: LinkId, at: u64) {
        if let Some(state) = self.links.get_mut(&link) {
            state.reset_at = Some(state.reset_at.map_or(at, |old| old.min(at)));
            state.excused = true;
        }
    }

    /// The engine reads at most `max` bytes.
    pub fn engine_read(&mut self, link: LinkId, now: u64, max: usize) -> Read {
        let Some(state) = self.links.get_mut(&link) else { return Read::Reset };
        if state.reset_at.is_some_and(|at| at <= now) {
            return Read::Reset;
        }
        let bytes = state.up.read(now, max);
        match bytes.is_empty() {
            false => Read::Bytes(bytes),
            true if state.up.at_end(now) => Read::End,
            true => Read::Nothing,
        }
    }

    /// When the engine has something to read.
    pub fn engine_readable_at(&self, link: LinkId) -> Option<u64> {
        let state = self.links.get(&link)?;
        earliest(state.up.readable_at(), state.reset_at)
    }

    /// Room for bytes towards the client; `None`: the connection failed.
    pub fn engine_room(&self, link: LinkId, now: u64) -> Option<usize> {
        let state = self.links.get(&link)?;
        if state.reset_at.is_some_and(|at| at <= now) || (state.client_closed && !state.vanished) {
            return None;
        }
        Some(state.down_cap.saturating_sub(state.down.bytes.len()))
    }

    /// The engine sends; the caller asked for room.
    pub fn engine_write(&mut self, link: LinkId, bytes: &[u8], arrives: u64) {
        if let Some(state) = self.links.get_mut(&link) {
            state.down.write(bytes, arrives);
        }
    }

    /// The engine holds one more descriptor of the connection.
    pub fn engine_share(&mut self, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.held += 1;
        }
    }

    /// The engine ends its side: the client sees the end of the stream after what was sent before. `false`: the
    /// connection failed.
    pub fn engine_shutdown(&mut self, link: LinkId, now: u64, arrives: u64) -> bool {
        let Some(state) = self.links.get_mut(&link) else { return false };
        if state.reset_at.is_some_and(|at| at <= now) {
            return false;
        }
        state.down.fin_at = Some(arrives.max(state.down.last_arrival));
        true
    }

    /// The engine closes one descriptor. With the last one the client sees the end of the stream, or a reset if it
    /// had sent what nobody read.
    pub fn engine_close(&mut self, link: LinkId, now: u64, arrives: u64) {
        let Some(state) = self.links.get_mut(&link) else { return };
        assert!(state.held > 0, "{link:?} closed more often than opened");
        state.held -= 1;
        if state.held > 0 {
            return;
        }
        if state.up.bytes.is_empty() {
            let end = arrives.max(state.down.last_arrival);
            state.down.fin_at = Some(state.down.fin_at.map_or(end, |earlier| earlier.min(end)));
        } else {
            state.reset_at = Some(state.reset_at.map_or(arrives, |old| old.min(arrives)));
        }
        let _ = now;
        self.sweep(link);
    }

    /// The engine is gone: every connection fails, each at its own time within `spread` from `now`.
    pub fn engine_crash(&mut self, now: u64, spread: u64, rng: &mut Rng) {
        self.knocks.clear();
        for state in self.links.values_mut() {
            state.held = 0;
            state.excused = true;
            let at = now + rng.below(spread.max(1));
            state.reset_at = Some(state.reset_at.map_or(at, |old| old.min(at)));
        }
        self.links.retain(|_, state| !state.client_closed);
    }

    /// The listeners have as many shards from now on: who knocked at one that is no more knocks at another.
    pub fn reshard(&mut self, shards: u16) {
        self.knocks.iter_mut().for_each(|knock| knock.shard %= shards);
    }

    /// Whether the end of this connection has a reason outside the engine: the network, the client, a crash.
    pub fn is_excused(&self, link: LinkId) -> bool {
        self.links.get(&link).is_none_or(|state| state.excused)
    }

    /// Forgets a connection that neither side holds.
    fn sweep(&mut self, link: LinkId) {
        if self.links.get(&link).is_some_and(|state| state.client_closed && state.held == 0 && state.accepted)
        {
            self.links.remove(&link);
        }
    }

    /// Connections somebody still holds.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether nobody holds a connection.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

/// The earlier of two times, either of which may never come.
pub fn earliest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(net: &mut SimNet) -> LinkId {
        let link = net.connect(5, 0, 0, 8);
        assert_eq!(net.accept(4, 0, 0), None);
        assert_eq!(net.accept(5, 0, 0), Some(link));
        link
    }

    #[test]
    fn bytes_arrive_in_order_and_in_any_cut() {
        let mut net = SimNet::default();
        let link = open(&mut net);
        net.client_write(link, b"abc", 20);
        net.client_write(link, b"de", 10);
        assert_eq!(net.engine_read(link, 19, 9), Read::Nothing);
        assert_eq!(net.engine_read(link, 20, 2), Read::Bytes(b"ab".to_vec()));
        assert_eq!(net.engine_read(link, 20, 9), Read::Bytes(b"cde".to_vec()));
        net.client_close(link, 30);
        assert_eq!(net.engine_readable_at(link), Some(30));
        assert_eq!(net.engine_read(link, 30, 9), Read::End);
    }

    #[test]
    fn a_client_that_does_not_read_stops_the_sender() {
        let mut net = SimNet::default();
        let link = open(&mut net);
        net.engine_write(link, b"12345678", 10);
        assert_eq!(net.engine_room(link, 10), Some(0));
        assert_eq!(net.client_read(link, 10, 3), Read::Bytes(b"123".to_vec()));
        assert_eq!(net.engine_room(link, 10), Some(3));
    }

    #[test]
    fn the_last_descriptor_closes() {
        let mut net = SimNet::default();
        let link = open(&mut net);
        net.engine_share(link);
        net.engine_close(link, 10, 11);
        assert_eq!(net.client_read(link, 12, 9), Read::Nothing);
        net.engine_close(link, 20, 21);
        assert_eq!(net.client_read(link, 21, 9), Read::End);
    }

    #[test]
    fn a_client_reads_to_the_end_of_a_side_that_was_shut_down() {
        let mut net = SimNet::default();
        let link = open(&mut net);
        net.engine_write(link, b"bye", 20);
        assert!(net.engine_shutdown(link, 10, 11));
        net.client_write(link, b"late", 15);
        assert_eq!(net.client_read(link, 20, 9), Read::Bytes(b"bye".to_vec()));
        assert_eq!(net.client_read(link, 20, 9), Read::End);
        assert_eq!(net.engine_read(link, 20, 9), Read::Bytes(b"late".to_vec()));
        net.cut(link, 30);
        assert!(!net.engine_shutdown(link, 30, 31));
    }

    #[test]
    fn a_vanished_client_says_nothing() {
        let mut net = SimNet::default();
        let link = open(&mut net);
        net.vanish(link);
        net.client_write(link, b"x", 6);
        assert_eq!(net.engine_readable_at(link), None);
        assert_eq!(net.engine_room(link, 10), Some(8));
    }
}
