//! A process that wants to take over, played by the test up to a certain word and then gone.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ringdesk_server::upgrade::wire::{Frame, Hello, Kind, PROTOCOL, Wire, socket_path};

use crate::process::Folder;

/// How far it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// It was welcomed.
    Welcome,
    /// It said that it is ready, and listens to nothing more.
    Ready,
    /// It heard that the shards stand still.
    Stood,
    /// It took one batch of connections.
    Batch,
    /// It took all of them.
    End,
    /// The data are its own.
    Yours,
}

pub struct Successor {
    pub wire: Wire,
    // What it was given lives until it goes.
    frames: Vec<Frame>,
}

impl Successor {
    pub fn connect(folder: &Folder) -> Self {
        let data = File::open(folder.path("")).expect("the folder");
        let stream = UnixStream::connect(socket_path(&data)).expect("a server listens");
        let wire = Wire::new(stream);
        wire.patience(Some(Duration::from_secs(30))).expect("a timeout");
        Self { wire, frames: Vec::new() }
    }

    pub fn hello(&mut self, version: u32, carried_version: u32) {
        let hello = Hello { version, carried_version, pid: std::process::id(), program: "test".into() };
        self.wire.tell(Kind::Hello, &hello).expect("sent");
    }

    /// Batches of connections heard of so far.
    pub fn batches(&self) -> usize {
        self.frames.iter().filter(|frame| frame.kind == Kind::Batch).count()
    }

    /// Reads frames until one of this kind.
    fn hear(&mut self, kind: Kind) {
        loop {
            let frame = self.wire.receive().expect("a frame");
            let found = frame.kind;
            assert!(found != Kind::Refuse, "{}", String::from_utf8_lossy(&frame.body));
            self.frames.push(frame);
            if found == kind {
                return;
            }
            if found == Kind::Batch {
                self.wire.send(Kind::Taken, &[], &[]).expect("sent");
            }
        }
    }

    pub fn go(folder: &Folder, until: Until) -> Self {
        Self::go_as(folder, until, ringdesk_shard::carry::VERSION.into())
    }

    /// The same, as a program that writes connections down in this version.
    pub fn go_as(folder: &Folder, until: Until, carried_version: u32) -> Self {
        let mut successor = Self::connect(folder);
        successor.hello(PROTOCOL, carried_version);
        successor.hear(Kind::Welcome);
        if until == Until::Welcome {
            return successor;
        }
        successor.wire.send(Kind::Ready, &[], &[]).expect("sent");
        let next = match until {
            Until::Welcome | Until::Ready => return successor,
            Until::Stood => Kind::Stood,
            Until::Batch => Kind::Batch,
            Until::End | Until::Yours => Kind::End,
        };
        successor.hear(next);
        if until == Until::Yours {
            successor.wire.send(Kind::Claim, &[], &[]).expect("sent");
            successor.hear(Kind::Yours);
        }
        successor
    }
}
