//! Tasks on sockets. Each waits in glommio for readiness and does its call when it is there; a stopped task ends without
//! a word, because whoever stopped it has told the end.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use ::glommio::net::TcpStream;
use futures_io::{AsyncRead, AsyncWrite};
use ringdesk_uring::kernel::WOKEN;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::{Shared, Stop, Stream, Told, negated};

/// A descriptor under glommio's eyes. Inside the executor only.
pub(super) fn watched(descriptor: OwnedFd) -> TcpStream {
    TcpStream::from(socket2::Socket::from(std::net::TcpStream::from(descriptor)))
}

/// Waits until a listener or an eventfd can be read. glommio has no such wait for itself: a stream on a second
/// descriptor waits before it first receives, and what the receive then says of such a descriptor does not matter. It
/// takes nothing: neither has bytes for a receive. `false`: stopped.
async fn readable(descriptor: &OwnedFd, stop: &Stop) -> io::Result<bool> {
    let mut stream = watched(descriptor.try_clone()?);
    let waited = poll_fn(|context| {
        if stop.is_set(context) {
            return Poll::Ready(false);
        }
        Pin::new(&mut stream).poll_read(context, &mut [0; 1]).map(|_| true)
    });
    Ok(waited.await)
}

/// Hears the shard's bell for as long as the executor lives.
pub(super) async fn hear(shared: Rc<Shared>, bell: OwnedFd) {
    let never = Stop::default();
    loop {
        if let Err(error) = readable(&bell, &never).await {
            *shared.failure.borrow_mut() = Some(format!("the shard's bell cannot be watched: {error}"));
            shared.complete(WOKEN, 0);
            return;
        }
        // Whatever it was for, the shard looks at its lanes and its mailbox. Empty if another ring was read with an
        // earlier one.
        let _ = rustix::io::read(&bell, &mut [0; 8]);
        shared.complete(WOKEN, 0);
        shared.next_turn(&never).await;
    }
}

/// Connections accepted from one listener in a turn; more wait for the next, so that nobody else does.
const ACCEPTS_PER_TURN: usize = 64;

pub(super) async fn accept(shared: Rc<Shared>, listener: Rc<OwnedFd>, user: u64, stop: Rc<Stop>) {
    loop {
        match readable(&listener, &stop).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let result = -error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
                return shared.ended(Told { user, result, ..Told::default() });
            }
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let result = match accept_with(&*listener, SocketFlags::CLOEXEC) {
                // Without a place for it the connection is closed at once: its client learns so, instead of waiting.
                Ok(descriptor) => match shared.fleet.berth(shared.shard).reserve() {
                    Ok(()) => shared.adopt(descriptor) as i32,
                    Err(_) => negated(Errno::NFILE),
                },
                Err(Errno::AGAIN) => break,
                // Gone before it was accepted.
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(errno) => negated(errno),
            };
            if result < 0 {
                return shared.ended(Told { user, result, ..Told::default() });
            }
            shared.tell(Told { user, result, more: true, ..Told::default() });
        }
        if !shared.next_turn(&stop).await {
            return;
        }
    }
}

pub(super) async fn receive(shared: Rc<Shared>, stream: Stream, user: u64, once: bool, stop: Rc<Stop>) {
    loop {
        let received = poll_fn(|context| {
            if stop.is_set(context) {
                return Poll::Ready(None);
            }
            let mut scratch = shared.scratch.borrow_mut();
            let got = Pin::new(&mut *stream.borrow_mut()).poll_read(context, &mut scratch);
            got.map(|got| Some(got.map(|count| scratch[..count].to_vec())))
        });
        let Some(received) = received.await else { return };
        let (result, bytes) = match received {
            Ok(bytes) => (i32::try_from(bytes.len()).expect("less than 2 GiB in one call"), Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => (-error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()), None),
        };
        let more = result > 0 && !once;
        let told = Told { user, result, more, bytes: bytes.filter(|_| result > 0), portion: None };
        if !more {
            return shared.ended(told);
        }
        shared.tell(told);
        if !shared.next_turn(&stop).await {
            return;
        }
    }
}

/// Closes an entry. glommio keeps a wait on every connection, and through it the connection itself, until it has told
/// the kernel otherwise, which it does at the beginning of the next turn: only then it is closed for the peer as well.
pub(super) async fn close(shared: Rc<Shared>, entry: u32, user: u64) {
    let place = shared.connections.borrow_mut().get_mut(entry as usize).and_then(Option::take);
    let stream = place.unwrap_or_else(|| panic!("close of entry {entry}, which holds no connection"));
    drop(stream);
    shared.next_turn(&Stop::default()).await;
    shared.free.borrow_mut().push(entry);
    shared.fleet.berth(shared.shard).release();
    shared.complete(user, 0);
}

pub(super) async fn send(shared: Rc<Shared>, stream: Stream, user: u64, bytes: Vec<u8>, stop: Rc<Stop>) {
    loop {
        let sent = poll_fn(|context| {
            if stop.is_set(context) {
                return Poll::Ready(None);
            }
            Pin::new(&mut *stream.borrow_mut()).poll_write(context, &bytes).map(Some)
        });
        let result = match sent.await {
            None => return,
            Some(Ok(count)) => i32::try_from(count).expect("less than 2 GiB in one call"),
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Some(Err(error)) => -error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
        };
        return shared.ended(Told { user, result, ..Told::default() });
    }
}
