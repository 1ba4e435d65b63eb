//! The new process's half of the conversation; what it does in between is `boot::succeed`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ringdesk_persist::Position;
use ringdesk_shard::carry;

use super::Summary;
use super::wire::{
    Batch, Door, End, Frame, Hello, Kind, PROTOCOL, Refuse, SOCKET, Stood, Welcome, Wire, socket_path,
};
use crate::boot::BootError;

/// Longest wait for each word of the old process. It gives its requests, its shards and each of its own waits less.
const STEP_WAIT: Duration = Duration::from_secs(60);

/// The process to be replaced.
pub struct Predecessor {
    wire: Wire,
    /// What it said of itself.
    pub welcome: Welcome,
    /// Since when nobody serves.
    still_since: Instant,
}

/// What it gave when its shards stood still.
pub struct Given {
    /// Where its logs end, by shard.
    pub ends: Vec<Position>,
    /// The lock of the data folder.
    pub lock: OwnedFd,
}

fn failed(sentence: impl Into<String>) -> BootError {
    BootError::TakeOver(sentence.into())
}

fn lost(error: &io::Error) -> BootError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            failed("the running server went away during the take-over")
        }
        _ => failed(format!("the running server is not heard of: {error}")),
    }
}

impl Predecessor {
    /// Finds the process that serves the data folder, and asks whether it can be replaced.
    ///
    /// # Errors
    /// [`BootError::TakeOver`]: there is none, or it refuses.
    pub fn greet(data: &Path) -> Result<Self, BootError> {
        let folder = File::open(data).map_err(BootError::folder(data, "the data folder cannot be read"))?;
        let stream = UnixStream::connect(socket_path(&folder)).map_err(|error| {
            let at = data.join(SOCKET);
            let why = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "no server that could be replaced runs on this data folder; start without --take-over"
                        .into()
                }
                _ => format!("the running server cannot be reached: {error}"),
            };
            failed(format!("{}: {why}", at.display()))
        })?;
        let mut wire = Wire::new(stream);
        wire.patience(Some(STEP_WAIT)).map_err(|error| lost(&error))?;
        let hello = Hello {
            version: PROTOCOL,
            carried_version: carry::VERSION.into(),
            pid: std::process::id(),
            program: env!("CARGO_PKG_VERSION").to_string(),
        };
        wire.tell(Kind::Hello, &hello).map_err(|error| lost(&error))?;
        let welcome: Welcome = expect(&mut wire, Kind::Welcome)?.json().map_err(|error| lost(&error))?;
        Ok(Self { wire, welcome, still_since: Instant::now() })
    }

    /// Nearly all was read: asks the old process to stand still. `door` is given each listener's sockets.
    ///
    /// # Errors
    /// [`BootError::TakeOver`]
    pub fn stand_still(&mut self, door: &mut dyn FnMut(&str, Vec<OwnedFd>)) -> Result<Given, BootError> {
        let asked = Instant::now();
        self.wire.send(Kind::Ready, &[], &[]).map_err(|error| lost(&error))?;
        loop {
            let mut frame = self.next()?;
            match frame.kind {
                Kind::Door => {
                    let Door { name } = frame.json().map_err(|error| lost(&error))?;
                    door(&name, frame.descriptors);
                }
                Kind::Stood => {
                    let Stood { ends, served_ms } = frame.json().map_err(|error| lost(&error))?;
                    self.still_since = (asked + Duration::from_millis(served_ms)).min(Instant::now());
                    let lock =
                        frame.descriptors.pop().ok_or_else(|| failed("the lock did not come along"))?;
                    return Ok(Given { ends: ends.into_iter().map(Position::from_bits).collect(), lock });
                }
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Takes the connections: `take` is given each batch with its descriptors.
    ///
    /// # Errors
    /// [`BootError::TakeOver`], and what `take` says.
    pub fn connections(
        &mut self,
        take: &mut dyn FnMut(Batch, Vec<OwnedFd>) -> Result<(), BootError>,
    ) -> Result<End, BootError> {
        loop {
            let frame = self.next()?;
            match frame.kind {
                Kind::Batch => {
                    let batch = Batch::decode(&frame.body)
                        .filter(|batch| batch.connections.len() == frame.descriptors.len())
                        .ok_or_else(|| failed("a batch of connections cannot be read"))?;
                    take(batch, frame.descriptors)?;
                    self.wire.send(Kind::Taken, &[], &[]).map_err(|error| lost(&error))?;
                }
                Kind::End => return frame.json().map_err(|error| lost(&error)),
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Asks for the data. When this returns, they are this process's.
    ///
    /// # Errors
    /// [`BootError::TakeOver`]
    pub fn claim(&mut self) -> Result<(), BootError> {
        self.wire.send(Kind::Claim, &[], &[]).map_err(|error| lost(&error))?;
        expect(&mut self.wire, Kind::Yours).map(|_| ())
    }

    /// This process serves: the old one may end. `summary` without its pause, which is given back in it.
    pub fn serving(mut self, mut summary: Summary) -> Summary {
        summary.pause_ms = u64::try_from(self.still_since.elapsed().as_millis()).unwrap_or(u64::MAX);
        // It ends either way: it cannot go on any more.
        let _ = self.wire.tell(Kind::Serving, &summary);
        summary
    }

    /// Tells the old process that nothing comes of it.
    pub fn refuse(&mut self, sentence: &str) {
        let _ = self.wire.tell(Kind::Refuse, &Refuse { sentence: sentence.to_string() });
    }

    fn next(&mut self) -> Result<Frame, BootError> {
        accepted(self.wire.receive())
    }
}

fn unexpected(kind: Kind) -> BootError {
    failed(format!("the running server says {kind:?}, which was not expected"))
}

fn accepted(frame: io::Result<Frame>) -> Result<Frame, BootError> {
    let frame = frame.map_err(|error| lost(&error))?;
    if frame.kind == Kind::Refuse {
        let Refuse { sentence } = frame.json().map_err(|error| lost(&error))?;
        return Err(failed(format!("the running server refuses: {sentence}")));
    }
    Ok(frame)
}

fn expect(wire: &mut Wire, kind: Kind) -> Result<Frame, BootError> {
    let frame = accepted(wire.receive())?;
    if frame.kind == kind { Ok(frame) } else { Err(unexpected(frame.kind)) }
}
