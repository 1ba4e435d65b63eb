//! What two processes say to each other over the Unix socket of the data folder, version [`PROTOCOL`].
//!
//! A frame is `RDUP`, its kind (1 byte), the length of its body (4 bytes, little-endian), the body; descriptors ride on
//! its first byte, at most [`DESCRIPTORS_MAX`]. Bodies are JSON, but for [`Kind::Batch`]. The frames `Hello`, `Welcome` and
//! `Refuse` keep their form in every version, so that two that do not understand each other can say so.
//!
//! | Old | | New |
//! |---|---|---|
//! | | ← `Hello` | version of this protocol and of carried connections |
//! | `Welcome` or `Refuse` | → | shards, listeners, how the disk is written |
//! | | ← `Ready` | all but the newest of the logs was read |
//! | `Door` for each listener | → | its sockets, behind the stand-still |
//! | `Stood` | → | the ends of the logs; the descriptor of the lock |
//! | `Batch`, again and again | → | connections: descriptors and what they are |
//! | | ← `Taken` | for each batch, so that few descriptors are on their way |
//! | `End` | → | counts |
//! | | ← `Claim` | all of it was read and taken |
//! | `Yours` | → | **the point of no return** |
//! | | ← `Serving` | the pause |
//!
//! Until `Yours` either may say `Refuse` with a sentence, or be gone; then the old process goes on.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of this protocol.
pub const PROTOCOL: u32 = 1;
/// Descriptors of one frame: the kernel takes no more in one message (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 253;
/// Longest body, bytes: a batch ends after a connection that makes it long, and one connection is bounded
/// (`ringdesk_shard::carry`).
const BODY_BYTES_MAX: u32 = 512 << 20;
/// Body bytes after which a batch takes no further connection.
pub const BATCH_BYTES: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"RDUP";
const HEAD_BYTES: usize = 9;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// [`Hello`]
    Hello = 1,
    /// [`Welcome`]
    Welcome = 2,
    /// [`Refuse`]
    Refuse = 3,
    /// Empty.
    Ready = 4,
    /// [`Door`]
    Door = 5,
    /// [`Stood`]
    Stood = 6,
    /// Connections ([`Batch`])
    Batch = 7,
    /// Empty.
    Taken = 8,
    /// [`End`]
    End = 9,
    /// Empty.
    Claim = 10,
    /// Empty.
    Yours = 11,
    /// [`super::Summary`]
    Serving = 12,
}

const KINDS: [Kind; 12] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Refuse,
    Kind::Ready,
    Kind::Door,
    Kind::Stood,
    Kind::Batch,
    Kind::Taken,
    Kind::End,
    Kind::Claim,
    Kind::Yours,
    Kind::Serving,
];

/// The new process introduces itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`]
    pub version: u32,
    /// `ringdesk_shard::carry::VERSION`
    pub carried_version: u32,
    /// Its process.
    pub pid: u32,
    /// Its program's version, for people.
    pub program: String,
}

/// What the new process has to know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL`]
    pub version: u32,
    /// The old process.
    pub pid: u32,
    /// Its shards.
    pub shards: u16,
    /// Its number among the boots of the data folder.
    pub boot_epoch: u32,
    /// Whether the log is written with O_DIRECT.
    pub direct_io: bool,
    /// Its listeners.
    pub listeners: Vec<Address>,
}

/// Where a listener is bound.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Address {
    /// Its word in the configuration.
    pub name: String,
    /// Of a TCP listener.
    pub tcp: Option<std::net::SocketAddr>,
    /// Of a Unix listener.
    pub unix: Option<PathBuf>,
    /// The path is not the server's to remove.
    pub given: bool,
}

/// A sentence for the operator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refuse {
    /// Why not.
    pub sentence: String,
}

/// Sockets of a listener, with as many descriptors. More than fit into a frame come in several.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Door {
    /// Its word in the configuration.
    pub name: String,
}

/// The shards stand still; one descriptor, the lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stood {
    /// End of each shard's log, as the bits of a position, by shard.
    pub ends: Vec<u64>,
    /// Milliseconds from `Ready` to the stand-still, in which clients were served.
    pub served_ms: u64,
}

/// All connections went over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End {
    /// Sent.
    pub carried: u64,
    /// Told GOODBYE.
    pub drained: u64,
}

/// Connections of one shard, each with a descriptor.
#[derive(Debug)]
pub struct Batch {
    /// The shard.
    pub shard: u16,
    /// Encoded `Carried`, in the order of the descriptors.
    pub connections: Vec<Vec<u8>>,
}

impl Batch {
    /// The body of the frame: shard (2 bytes), then length (4 bytes) and bytes of each, little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.shard.to_le_bytes().to_vec();
        for connection in &self.connections {
            body.extend_from_slice(&u32::try_from(connection.len()).expect("bounded").to_le_bytes());
            body.extend_from_slice(connection);
        }
        body
    }

    /// Reads a body. `None`: it is none.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (shard, mut rest) = body.split_first_chunk()?;
        let mut connections = Vec::new();
        while !rest.is_empty() {
            let (len, after) = rest.split_first_chunk()?;
            let (connection, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            connections.push(connection.to_vec());
            rest = after;
        }
        Some(Self { shard: u16::from_le_bytes(*shard), connections })
    }
}

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Its body.
    pub body: Vec<u8>,
    /// Its descriptors.
    pub descriptors: Vec<OwnedFd>,
}

impl Frame {
    /// The body as JSON.
    ///
    /// # Errors
    /// `InvalidData`.
    pub fn json<T: DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| wrong(&format!("a frame cannot be read: {error}")))
    }
}

fn wrong(sentence: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, sentence)
}

/// One end of the socket.
#[derive(Debug)]
pub struct Wire(UnixStream);

impl Wire {
    /// Over a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// How long each read and write may take; `None`: for ever.
    pub fn patience(&self, limit: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(limit)?;
        self.0.set_write_timeout(limit)
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends a frame with a JSON body.
    pub fn tell(&mut self, kind: Kind, body: &impl Serialize) -> io::Result<()> {
        self.send(kind, &serde_json::to_vec(body).expect("frames have string keys only"), &[])
    }

    /// Sends a frame. The descriptors stay open here.
    pub fn send(&mut self, kind: Kind, body: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
        let len = u32::try_from(body.len()).ok().filter(|len| *len <= BODY_BYTES_MAX);
        let len = len.ok_or_else(|| wrong("a frame is too long"))?;
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[4] = kind as u8;
        head[5..].copy_from_slice(&len.to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(wrong("a frame has too many descriptors"));
        }
        let sent = loop {
            match sendmsg(&self.0, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                outcome => break outcome?,
            }
        };
        self.0.write_all(&head[sent..])?;
        self.0.write_all(body)
    }

    /// The next frame.
    ///
    /// # Errors
    /// `UnexpectedEof`: the other process is gone. `WouldBlock`: it says nothing. `InvalidData`: what it says is not this
    /// protocol.
    pub fn receive(&mut self) -> io::Result<Frame> {
        let mut head = [0; HEAD_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut head)];
            match recvmsg(&self.0, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                outcome => break outcome?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(wrong("this process has no room for the descriptors that were sent (RLIMIT_NOFILE)"));
        }
        self.0.read_exact(&mut head[received.bytes..])?;
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == head[4]);
        let (Some(kind), true) = (kind, head[..4] == MAGIC) else {
            return Err(wrong("what the other process says is not the take-over protocol"));
        };
        let len = u32::from_le_bytes(head[5..].try_into().expect("four bytes"));
        if len > BODY_BYTES_MAX {
            return Err(wrong("a frame is too long"));
        }
        let mut body = Vec::new();
        if (&self.0).take(len.into()).read_to_end(&mut body)? < len as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Frame { kind, body, descriptors })
    }
}

/// A path to the socket of the data folder that is short enough for any folder (`sun_path` holds 107 bytes): through the
/// folder's descriptor, which must stay open while the path is used.
pub fn socket_path(folder: &std::fs::File) -> PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET)
}

/// The socket's name in the data folder.
pub const SOCKET: &str = "upgrade.sock";

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (Wire::new(one), Wire::new(other))
    }

    #[test]
    fn descriptors_arrive_with_the_frame_they_were_sent_with() {
        let (mut one, mut other) = pair();
        let many: Vec<OwnedFd> =
            (0..DESCRIPTORS_MAX).map(|_| std::fs::File::open("/dev/null").expect("there").into()).collect();
        one.tell(Kind::Refuse, &Refuse { sentence: "no".into() }).expect("sent");
        one.send(Kind::Batch, b"body", &many).expect("sent");
        one.send(Kind::Taken, b"", &[]).expect("sent");
        let first = other.receive().expect("a frame");
        assert_eq!((first.kind, first.descriptors.len()), (Kind::Refuse, 0));
        assert_eq!(first.json::<Refuse>().expect("JSON").sentence, "no");
        let second = other.receive().expect("a frame");
        assert_eq!(
            (second.kind, &second.body[..], second.descriptors.len()),
            (Kind::Batch, &b"body"[..], 253)
        );
        let third = other.receive().expect("a frame");
        assert_eq!((third.kind, third.body.len(), third.descriptors.len()), (Kind::Taken, 0, 0));
        drop(one);
        assert_eq!(other.receive().expect_err("gone").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"RDUP\x63\0\0\0\0", b"RDUP\x01\xff\xff\xff\xff"] {
            let (one, mut other) = pair();
            (&one.0).write_all(bytes).expect("sent");
            assert_eq!(other.receive().expect_err("no frame").kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_batch_reads_as_it_was_written() {
        let batch = Batch { shard: 7, connections: vec![vec![], vec![1, 2, 3], vec![9; 300]] };
        let body = batch.encode();
        let read = Batch::decode(&body).expect("a batch");
        assert_eq!((read.shard, &read.connections), (7, &batch.connections));
        assert!(Batch::decode(&body[..body.len() - 1]).is_none());
        assert!(Batch::decode(&[1]).is_none());
    }
}
