//! Sockets: each operation tries its call when the socket is said to be ready, and waits on when it was not.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use ringdesk_uring::buffers::{BufferId, Buffers};
use ringdesk_uring::kernel::{Completion, arrival};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::{Connection, PortableKernel, Receiving, Sending, Target};
use crate::descriptor::{interrupted, receive, transmit, watched, would_block};
use crate::fleet::Parcel;
use crate::watch::Token;

/// Connections accepted from one listener in a turn; more wait for the next, so that nobody else does.
const ACCEPTS_PER_TURN: usize = 64;

fn negated(errno: Errno) -> i32 {
    -errno.raw_os_error()
}

impl PortableKernel {
    pub(super) fn connection(&mut self, entry: u32) -> &mut Connection {
        let connection = self.connections.get_mut(entry as usize).and_then(Option::as_mut);
        connection.unwrap_or_else(|| panic!("entry {entry} holds no connection"))
    }

    /// Puts a descriptor into an entry that was reserved for it.
    fn adopt(&mut self, descriptor: OwnedFd) -> std::io::Result<u32> {
        let stream = Rc::new(self.poller.inside(|| watched(descriptor))?);
        let entry = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            (self.connections.len() - 1) as u32
        });
        assert!(entry < self.entries, "entry {entry} beyond the reserved {}", self.entries);
        self.connections[entry as usize] = Some(Connection { stream, receive: None, send: None });
        Ok(entry)
    }

    pub(super) fn close(&mut self, entry: u32) {
        let place = self.connections.get_mut(entry as usize).and_then(Option::take);
        let connection = place.unwrap_or_else(|| panic!("close of entry {entry}, which holds no connection"));
        let idle = connection.receive.is_none() && connection.send.is_none();
        assert!(idle, "close of entry {entry} with an operation out");
        self.poller.inside(|| drop(connection));
        self.free.push(entry);
        self.fleet.berth(self.shard).release();
    }

    pub(super) fn accept(&mut self, user: u64, number: u16) {
        let listener = &mut self.listeners[usize::from(number)];
        assert!(listener.accept.is_none(), "listener {number} accepts already");
        let token = |wait| Token::Listener { listener: number, wait };
        let wait = self.poller.watch(&listener.stream, false, token);
        listener.accept = Some(Receiving { user, once: false, wait });
        self.targets.insert(user, Target::Accept(number));
    }

    pub(super) fn accept_some(&mut self, number: u16, wait: u64, out: &mut Vec<Completion>) {
        for _ in 0..ACCEPTS_PER_TURN {
            let listener = &mut self.listeners[usize::from(number)];
            // Cancelled, and maybe armed again, since the token was left.
            let Some(accept) = listener.accept.as_mut().filter(|accept| accept.wait.number == wait) else {
                return;
            };
            let user = accept.user;
            let result = match accept_with(&listener.socket, SocketFlags::CLOEXEC) {
                Ok(descriptor) => self.take_in(descriptor),
                Err(Errno::AGAIN) => {
                    let token = |wait| Token::Listener { listener: number, wait };
                    accept.wait = self.poller.watch(&listener.stream, false, token);
                    return;
                }
                // Gone before it was accepted.
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(errno) => Err(negated(errno)),
            };
            let more = result.is_ok();
            if !more {
                listener_ended(self, number, user);
            }
            let result = result.map_or_else(|errno| errno, |entry| entry as i32);
            out.push(Completion { user, result, more, bytes: None });
        }
        self.poller.again(Token::Listener { listener: number, wait });
    }

    /// Without a place for it the connection is closed at once: its client learns so, instead of waiting.
    pub(super) fn take_in(&mut self, descriptor: OwnedFd) -> Result<u32, i32> {
        self.fleet.berth(self.shard).reserve().map_err(|_| negated(Errno::NFILE))?;
        self.adopt(descriptor).map_err(|error| {
            self.fleet.berth(self.shard).release();
            -error.raw_os_error().unwrap_or(Errno::NOMEM.raw_os_error())
        })
    }

    pub(super) fn receive(&mut self, user: u64, entry: u32, once: bool) {
        let stream = Rc::clone(&self.connection(entry).stream);
        let wait = self.poller.watch(&stream, false, |wait| Token::Readable { entry, wait });
        let earlier = self.connection(entry).receive.replace(Receiving { user, once, wait });
        assert!(earlier.is_none(), "entry {entry} receives already");
        self.targets.insert(user, Target::Receive(entry));
    }

    pub(super) fn receive_some(
        &mut self,
        entry: u32,
        wait: u64,
        arena: &mut Vec<u8>,
        out: &mut Vec<Completion>,
    ) {
        let Self { connections, scratch, poller, targets, .. } = self;
        let Some(connection) = connections[entry as usize].as_mut() else { return };
        let armed = connection.receive.as_mut().filter(|armed| armed.wait.number == wait);
        let Some(&mut Receiving { user, once, ref mut wait }) = armed else { return };
        let result = receive(&connection.stream, scratch);
        if would_block(result) || interrupted(result) {
            *wait = poller.watch(&connection.stream, false, |wait| Token::Readable { entry, wait });
            return;
        }
        let more = result > 0 && !once;
        let bytes = (result > 0).then(|| {
            let start = u32::try_from(arena.len()).expect("less than 4 GiB received in a turn");
            arena.extend_from_slice(&scratch[..result as usize]);
            start
        });
        if more {
            if result as usize == scratch.len() {
                // There may be more; the others come first.
                poller.again(Token::Readable { entry, wait: wait.number });
            } else {
                *wait = poller.watch(&connection.stream, false, |wait| Token::Readable { entry, wait });
            }
        } else {
            connection.receive = None;
            targets.remove(&user);
        }
        out.push(Completion { user, result, more, bytes });
    }

    pub(super) fn send(
        &mut self,
        user: u64,
        entry: u32,
        (buffer, from, len): (BufferId, u32, u32),
        buffers: &Buffers,
    ) {
        let stream = Rc::clone(&self.connection(entry).stream);
        let result = transmit(&stream, &buffers.lent(buffer)[from as usize..][..len as usize]);
        if !would_block(result) {
            self.complete(user, result);
            return;
        }
        let wait = self.poller.watch(&stream, true, |wait| Token::Writable { entry, wait });
        let earlier = self.connection(entry).send.replace(Sending { user, buffer, from, len, wait });
        assert!(earlier.is_none(), "entry {entry} sends already");
        self.targets.insert(user, Target::Send(entry));
    }

    /// There is room again for a send that waited.
    pub(super) fn send_on(&mut self, entry: u32, wait: u64, buffers: &Buffers, out: &mut Vec<Completion>) {
        let Self { connections, poller, targets, .. } = self;
        let Some(connection) = connections[entry as usize].as_mut() else { return };
        let waiting = connection.send.as_mut().filter(|send| send.wait.number == wait);
        let Some(&mut Sending { user, buffer, from, len, ref mut wait }) = waiting else { return };
        let result = transmit(&connection.stream, &buffers.lent(buffer)[from as usize..][..len as usize]);
        if would_block(result) {
            *wait = poller.watch(&connection.stream, true, |wait| Token::Writable { entry, wait });
            return;
        }
        connection.send = None;
        targets.remove(&user);
        out.push(Completion { user, result, more: false, bytes: None });
    }

    /// The entry here keeps its own descriptor until the table closes it.
    pub(super) fn send_descriptor(&mut self, entry: u32, to: u16, token: u64) -> i32 {
        let connection = self.connection(entry);
        let idle = connection.receive.is_none() && connection.send.is_none();
        assert!(idle, "hand-over of entry {entry} with an operation out");
        let stream = Rc::clone(&connection.stream);
        self.fleet.hand_over(to, token, || self.airlock.second(&*stream))
    }

    pub(super) fn take_parcels(&mut self, out: &mut Vec<Completion>) {
        for _ in 0..self.completions_per_turn {
            let Some(Parcel { token, descriptor }) = self.fleet.berth(self.shard).parcels.pop() else {
                return;
            };
            match self.adopt(descriptor) {
                Ok(entry) => {
                    let user = arrival(token);
                    out.push(Completion { user, result: entry as i32, more: false, bytes: None });
                }
                Err(error) => {
                    // Its sender was told that it arrived. epoll refuses for want of memory or of watches.
                    self.failure = Some(format!("a connection that was handed over is lost: {error}"));
                    return;
                }
            }
        }
    }
}

fn listener_ended(kernel: &mut PortableKernel, number: u16, user: u64) {
    kernel.listeners[usize::from(number)].accept = None;
    kernel.targets.remove(&user);
}
