//! Sockets: non-blocking TCP under one epoll, in either transport. No thread per connection, one thread in all.
//!
//! Order per link: frames are appended to [`Link::frames`], [`Link::flush`] wraps them for the transport and
//! writes what the socket takes, [`Link::receive`] reads what is there and cuts it into frames. Ownership: a link
//! owns its socket and its unsent bytes; the epoll knows it by its token until the socket closes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use ringdesk_protocol::limits::FRAME_BYTES_MAX;
use ringdesk_protocol::{Carry, Header, frame};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::Timespec;

use crate::websocket::{Received, Socket};

/// Bytes read from one socket at once.
const READ_BYTES: usize = 64 * 1024;
/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 512;
/// Unsent bytes of one link above which it is given up: the server has stopped reading.
const UNSENT_BYTES_MAX: usize = 64 * 1024 * 1024;
const LIMIT: u32 = FRAME_BYTES_MAX as u32;

/// How a link speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Frames straight on TCP.
    Binary,
    /// Frames in binary WebSocket messages.
    WebSocket,
}

/// The epoll and the buffer all links read into.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    scratch: Box<[u8]>,
}

/// One ready link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// The token it was connected with.
    pub token: usize,
    /// Bytes, an end or an error wait to be read.
    pub readable: bool,
    /// The socket takes bytes again.
    pub writable: bool,
}

impl Poll {
    /// A new epoll.
    ///
    /// # Errors
    /// A sentence when the process has no descriptor left.
    pub fn new() -> Result<Self, String> {
        let epoll =
            epoll::create(CreateFlags::CLOEXEC).map_err(|e| format!("cannot create an epoll: {e}"))?;
        let scratch = vec![0; READ_BYTES].into_boxed_slice();
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX), scratch })
    }

    /// Waits at most `wait_ns` (0 = look only) and appends what is ready.
    pub fn wait(&mut self, wait_ns: u64, ready: &mut Vec<Ready>) {
        let timeout =
            Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as i64 };
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll_wait on an own epoll failed: {error}"),
        }
        let end = EventFlags::IN | EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP;
        for event in &self.events {
            let flags = event.flags;
            ready.push(Ready {
                token: event.data.u64() as usize,
                readable: flags.intersects(end),
                writable: flags.contains(EventFlags::OUT),
            });
        }
    }
}

/// One connection.
pub struct Link {
    stream: TcpStream,
    socket: Option<Socket>,
    carry: Carry,
    /// Whole frames not yet given to the transport.
    pub frames: Vec<u8>,
    wire: Vec<u8>,
    written: usize,
    waits_for_room: bool,
    token: usize,
}

impl Link {
    /// Connects (blocking: loopback answers at once) and registers with the epoll under `token`.
    ///
    /// # Errors
    /// A sentence naming the address.
    pub fn connect(
        poll: &Poll,
        address: SocketAddr,
        transport: Transport,
        token: usize,
    ) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("cannot connect to {address}: {error}");
        let stream = TcpStream::connect(address).map_err(fail)?;
        stream.set_nodelay(true).map_err(fail)?;
        stream.set_nonblocking(true).map_err(fail)?;
        epoll::add(
            &poll.epoll,
            &stream,
            EventData::new_u64(token as u64),
            EventFlags::IN | EventFlags::RDHUP,
        )
        .map_err(|e| fail(e.into()))?;
        let mut wire = Vec::new();
        let socket = match transport {
            Transport::Binary => None,
            Transport::WebSocket => Some(Socket::start(&address.to_string(), &mut wire)),
        };
        Ok(Self {
            stream,
            socket,
            carry: Carry::new(),
            frames: Vec::new(),
            wire,
            written: 0,
            waits_for_room: false,
            token,
        })
    }

    /// Writes what the socket takes; the rest goes when it has room.
    ///
    /// # Errors
    /// A sentence when the connection is broken or the server has long stopped reading.
    pub fn flush(&mut self, poll: &Poll) -> Result<(), String> {
        match &mut self.socket {
            None if self.wire.is_empty() => std::mem::swap(&mut self.wire, &mut self.frames),
            None => self.wire.append(&mut self.frames),
            Some(socket) if socket.upgraded() => {
                socket.wrap(&self.frames, &mut self.wire);
                self.frames.clear();
            }
            Some(_) => {}
        }
        while self.written < self.wire.len() {
            match self.stream.write(&self.wire[self.written..]) {
                Ok(0) => return Err("the connection takes no bytes".into()),
                Ok(count) => self.written += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(format!("write failed: {}", e.kind())),
            }
        }
        let blocked = self.written < self.wire.len();
        if !blocked {
            self.wire.clear();
            self.written = 0;
        } else if self.wire.len() - self.written > UNSENT_BYTES_MAX {
            return Err("the server has stopped reading".into());
        }
        if blocked != self.waits_for_room {
            self.waits_for_room = blocked;
            let mut flags = EventFlags::IN | EventFlags::RDHUP;
            flags.set(EventFlags::OUT, blocked);
            epoll::modify(&poll.epoll, &self.stream, EventData::new_u64(self.token as u64), flags)
                .map_err(|e| format!("epoll_ctl failed: {e}"))?;
        }
        Ok(())
    }

    /// Reads once and visits each whole frame. Returns false when the server has closed the connection.
    ///
    /// # Errors
    /// A sentence when the connection is broken or the server breaks the framing.
    pub fn receive(&mut self, poll: &mut Poll, mut visit: impl FnMut(Header, &[u8])) -> Result<bool, String> {
        let count = match self.stream.read(&mut poll.scratch) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(true),
            Err(e) => return Err(format!("read failed: {}", e.kind())),
        };
        let bytes = &poll.scratch[..count];
        let Some(socket) = &mut self.socket else {
            let mut all = |header: Header, body: &[u8]| {
                visit(header, body);
                ControlFlow::Continue(())
            };
            return self.carry.feed(bytes, LIMIT, &mut all).map(|_| true).map_err(|e| e.to_string());
        };
        for received in socket.feed(bytes, &mut self.wire)? {
            match received {
                Received::Upgraded => {}
                Received::Message(message) => {
                    for frame in frame::frames(&message, LIMIT) {
                        let frame = frame.map_err(|e| e.to_string())?;
                        visit(frame.header, frame.body);
                    }
                }
                Received::Closed(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}
