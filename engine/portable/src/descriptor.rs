//! The socket calls of the data path, none of which ever waits. Results as the contract has them: not negative on
//! success, otherwise a negated errno.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use monoio::net::TcpStream;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, recv, send, sendmsg, shutdown};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// A descriptor under monoio's eyes. monoio has no type for "some descriptor", so listeners and eventfds go by this
/// one as well; nothing but their readiness is asked for.
pub(crate) fn watched(descriptor: OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(descriptor))
}

fn result(outcome: Result<usize, Errno>) -> i32 {
    match outcome {
        Ok(count) => i32::try_from(count).expect("less than 2 GiB in one call"),
        Err(errno) => -(errno as i32),
    }
}

/// Receives what is there. `-EAGAIN` when nothing is.
pub(crate) fn receive(stream: &TcpStream, into: &mut [u8]) -> i32 {
    result(recv(stream.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT))
}

/// Sends as much as the socket takes. `-EAGAIN` when it takes nothing.
pub(crate) fn transmit(stream: &TcpStream, bytes: &[u8]) -> i32 {
    result(send(stream.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL))
}

/// Ends the sending side.
pub(crate) fn shut_down(stream: &impl AsRawFd) -> i32 {
    result(shutdown(stream.as_raw_fd(), Shutdown::Write).map(|()| 0))
}

pub(crate) fn would_block(result: i32) -> bool {
    result == -(Errno::EAGAIN as i32)
}

pub(crate) fn interrupted(result: i32) -> bool {
    result == -(Errno::EINTR as i32)
}

/// Makes an owned descriptor of a connection that monoio holds, to give it to another thread: monoio gives a
/// descriptor back only as a number, and the way from a number to an owner that needs no unsafe code leads through
/// the kernel. The connection has two descriptors then; the sender closes its own.
#[derive(Debug)]
pub(crate) struct Airlock {
    inner: UnixStream,
    outer: UnixStream,
}

impl Airlock {
    pub(crate) fn new() -> io::Result<Self> {
        let (inner, outer) = UnixStream::pair()?;
        Ok(Self { inner, outer })
    }

    /// Fails with EMFILE when the process has no descriptor left.
    pub(crate) fn second(&self, stream: &impl AsRawFd) -> Result<OwnedFd, i32> {
        let descriptors: [RawFd; 1] = [stream.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&descriptors)];
        let byte = [IoSlice::new(&[0])];
        sendmsg::<()>(self.inner.as_raw_fd(), &byte, &message, MsgFlags::MSG_DONTWAIT, None)
            .map_err(|errno| -(errno as i32))?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let (mut byte, flags) = ([0], RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT);
        recvmsg(&self.outer, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)
            .map_err(|errno| -errno.raw_os_error())?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut received) = message
                && let Some(descriptor) = received.next()
            {
                return Ok(descriptor);
            }
        }
        // The kernel drops what it has no free number for, without an error.
        Err(-(Errno::EMFILE as i32))
    }
}
