//! Connections: an entry of the descriptor table with what is armed, what is out, and where it is in its life.

use ringdesk_shard::io::{ConnId, Input};

use super::{CANCEL, CLOSE, Effects, RECEIVE, SEND, Table, errno, same_generation, user};
use crate::buffers::BufferId;
use crate::kernel::{Completion, Op};

/// What is armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receive {
    Idle,
    Once,
    Multi,
    /// Cancelled; its last completion has not come.
    Stopping {
        /// What the shard wants armed after the last completion.
        again: Again,
    },
}

/// What comes after a receive that was cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Again {
    No,
    Once,
    Multi,
}

impl Again {
    fn receive(self) -> Option<Receive> {
        match self {
            Self::No => None,
            Self::Once => Some(Receive::Once),
            Self::Multi => Some(Receive::Multi),
        }
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    /// Nobody's.
    Free,
    /// The descriptor was handed over to us, its state has not arrived yet.
    Arriving,
    /// The shard's.
    Open,
    /// A `SendDescriptor` is out.
    HandingOver,
    /// The shard let go and all it said is sent; what the peer still says is dropped (see `linger`).
    Lingering,
    /// The shard let go; cancelled operations have completions to come.
    Closing,
    /// The `Close` is out. The kernel may give the entry to a new connection before we see its completion.
    CloseOut,
}

/// One entry. 100,000 of them are resident, so it stays small.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) generation: u32,
    pub(super) life: Life,
    pub(super) receive: Receive,
    /// `Hangup` was reported: nothing more is until the shard closes.
    pub(super) hung: bool,
    /// The send that is out.
    pub(super) send: Option<BufferId>,
    /// A `Shutdown` is out.
    pub(super) shutting: bool,
}

const _: () = assert!(size_of::<Connection>() <= 16);

impl Connection {
    pub(super) const FREE: Self = Self {
        generation: 0,
        life: Life::Free,
        receive: Receive::Idle,
        hung: false,
        send: None,
        shutting: false,
    };

    fn listening(&self) -> bool {
        self.life == Life::Open && !self.hung
    }
}

impl Table {
    /// Gives an entry to a new connection.
    pub(super) fn occupy(&mut self, entry: u32) -> ConnId {
        assert!(entry < self.entries, "entry {entry} beyond the table of {}", self.entries);
        let index = entry as usize;
        self.connections.reach(index);
        let connection = &mut self.connections[index];
        match connection.life {
            Life::Free => self.open += 1,
            // The close was carried out, or the entry could not have been given away; its completion is late.
            Life::CloseOut => {}
            life => panic!("entry {entry} was given away while {life:?}"),
        }
        let generation = connection.generation.wrapping_add(1);
        self.passed.remove(&entry);
        *connection = Connection { generation, life: Life::Open, ..Connection::FREE };
        ConnId { index: entry, generation }
    }

    /// The connection a completion belongs to, or `None` if it is gone.
    pub(super) fn find(&mut self, entry: u32, user: u64) -> Option<&mut Connection> {
        let found = self
            .connections
            .get_mut(entry as usize)
            .filter(|c| c.life != Life::Free && same_generation(c.generation, user));
        if found.is_none() {
            self.counts.late += 1;
        }
        found
    }

    /// The connection an output names. The shard may only name one it was given and has not given back.
    pub(super) fn held(&mut self, conn: ConnId) -> &mut Connection {
        let connection = self.connections.get_mut(conn.index as usize);
        match connection {
            Some(c) if c.generation == conn.generation && c.life == Life::Open => c,
            other => panic!("{conn:?} used, but the entry is {other:?}"),
        }
    }

    /// [`ringdesk_shard::io::Output::Receive`]. Ignored after a hang-up.
    pub fn receive(&mut self, conn: ConnId, once: bool) {
        let connection = self.held(conn);
        if connection.hung {
            return;
        }
        if let Receive::Stopping { again } = &mut connection.receive {
            assert!(*again == Again::No, "{conn:?}: receive armed twice");
            *again = if once { Again::Once } else { Again::Multi };
            return;
        }
        assert!(connection.receive == Receive::Idle, "{conn:?}: receive armed twice");
        self.arm_receive(conn.index, if once { Receive::Once } else { Receive::Multi });
    }

    /// [`ringdesk_shard::io::Output::Pause`]. Ignored after a hang-up.
    pub fn pause(&mut self, conn: ConnId) {
        let connection = self.held(conn);
        if connection.hung {
            return;
        }
        match &mut connection.receive {
            // Taken back before it took effect.
            Receive::Stopping { again: again @ (Again::Once | Again::Multi) } => *again = Again::No,
            // A single-shot that completed in this turn.
            Receive::Idle => {}
            receive @ (Receive::Multi | Receive::Once) => {
                *receive = Receive::Stopping { again: Again::No };
                let target = user(RECEIVE, conn.generation, conn.index);
                self.ops.push((user(CANCEL, conn.generation, conn.index), Op::Cancel { target }));
            }
            other => panic!("{conn:?}: pause of a receive that is {other:?}"),
        }
    }

    pub(super) fn arm_receive(&mut self, entry: u32, mode: Receive) {
        let connection = &mut self.connections[entry as usize];
        connection.receive = mode;
        let once = mode == Receive::Once;
        self.ops.push((user(RECEIVE, connection.generation, entry), Op::Receive { entry, once }));
    }

    /// [`ringdesk_shard::io::Output::Send`] of at least one byte. After a hang-up the bytes are dropped: nobody can
    /// have them.
    pub fn send(&mut self, conn: ConnId, buffer: Vec<u8>) {
        assert!(!buffer.is_empty(), "{conn:?}: send of nothing");
        let connection = self.held(conn);
        if connection.hung {
            return;
        }
        assert!(connection.send.is_none(), "{conn:?}: second send while one is out");
        let len = u32::try_from(buffer.len()).expect("a send below 4 GiB");
        if self.late {
            self.taken_back.push((conn, buffer));
            return;
        }
        #[cfg(feature = "planted")]
        self.buffers.scribble(&buffer);
        let id = self.buffers.insert_bytes(buffer);
        let connection = &mut self.connections[conn.index as usize];
        connection.send = Some(id);
        self.submit_send(conn.index, id, 0, len);
    }

    fn submit_send(&mut self, entry: u32, buffer: BufferId, from: u32, len: u32) {
        self.buffers.lend(buffer);
        let generation = self.connections[entry as usize].generation;
        self.ops.push((user(SEND, generation, entry), Op::Send { entry, buffer, from, len }));
    }

    /// [`ringdesk_shard::io::Output::Close`].
    pub fn close(&mut self, conn: ConnId) {
        let connection = self.held(conn);
        if connection.hung || connection.send.is_some() {
            self.end(conn.index);
        } else {
            self.linger(conn);
        }
    }

    /// Cancels what is out and closes the entry after it.
    pub(super) fn end(&mut self, entry: u32) {
        let connection = &mut self.connections[entry as usize];
        self.lingerers -= u32::from(connection.life == Life::Lingering);
        connection.life = Life::Closing;
        let generation = connection.generation;
        let (armed, sending) = (connection.receive != Receive::Idle, connection.send.is_some());
        for (kind, out) in [(RECEIVE, armed), (SEND, sending)] {
            if out {
                let target = user(kind, generation, entry);
                self.ops.push((user(CANCEL, generation, entry), Op::Cancel { target }));
            }
        }
        self.finish_close(entry);
    }

    /// Closes the entry once nothing on it is out.
    pub(super) fn finish_close(&mut self, entry: u32) {
        let connection = &mut self.connections[entry as usize];
        let busy = connection.receive != Receive::Idle || connection.send.is_some() || connection.shutting;
        if connection.life == Life::Closing && !busy {
            self.submit_close(entry);
        }
    }

    pub(super) fn submit_close(&mut self, entry: u32) {
        let connection = &mut self.connections[entry as usize];
        connection.life = Life::CloseOut;
        self.passed.remove(&entry);
        self.ops.push((user(CLOSE, connection.generation, entry), Op::Close { entry }));
    }

    pub(super) fn closed(&mut self, entry: u32, completion: Completion) {
        if let Some(connection) = self.find(entry, completion.user)
            && connection.life == Life::CloseOut
        {
            connection.life = Life::Free;
            self.open -= 1;
        }
    }

    pub(super) fn received(&mut self, entry: u32, completion: Completion, effects: &mut Effects) {
        let Some(connection) = self.find(entry, completion.user) else { return };
        let conn = ConnId { index: entry, generation: connection.generation };
        let mode = connection.receive;
        assert!(mode != Receive::Idle, "{conn:?}: completion of a receive that is not armed");
        if !completion.more {
            connection.receive = Receive::Idle;
        }
        if connection.life == Life::Lingering {
            self.dropped(entry, completion);
            return;
        }
        if !connection.listening() {
            self.finish_close(entry);
            return;
        }
        // What is armed again after the last completion of a receive that went well, or went wrong for a moment.
        let next = match mode {
            Receive::Idle => None,
            Receive::Stopping { again } => again.receive(),
            armed @ (Receive::Multi | Receive::Once) => Some(armed),
        };
        match completion.result {
            1.. => {
                let start = completion.bytes.expect("received bytes have a place in the arena");
                effects.inputs.push(Input::Received { conn, start, len: completion.result as u32 });
                if !completion.more && next == Some(Receive::Multi) {
                    self.arm_receive(entry, Receive::Multi);
                }
            }
            // Nothing cancels a receive but a pause, whose cancellation may hit the receive that came after it.
            result if errno::PASSING.contains(&-result) => {
                if result == -errno::ENOBUFS {
                    self.counts.receive_starved += 1;
                }
                if let Some(next) = next.filter(|_| !completion.more) {
                    self.arm_receive(entry, next);
                }
            }
            _ => self.hang_up(conn, effects),
        }
    }

    pub(super) fn sent(&mut self, entry: u32, completion: Completion, effects: &mut Effects) {
        let Some(connection) = self.find(entry, completion.user) else { return };
        let conn = ConnId { index: entry, generation: connection.generation };
        assert!(!completion.more, "{conn:?}: a send completes once");
        let listening = connection.listening();
        let id = connection.send.take().expect("completion of a send that is not out");
        let before = self.passed.remove(&entry).unwrap_or(0);
        self.buffers.give_back(id);
        let bytes = self.buffers.take_bytes(id);
        let done = before as usize + usize::try_from(completion.result).unwrap_or(0);
        assert!(done <= bytes.len(), "{conn:?}: sent {done} of {} bytes", bytes.len());
        if !listening {
            self.finish_close(entry);
            return;
        }
        // Nothing cancels a send that is listened to but a stand-still, which may be over by now.
        let again = errno::PASSING.contains(&-completion.result);
        if completion.result > 0 && done == bytes.len() {
            effects.inputs.push(Input::Sent { conn, buffer: bytes });
        } else if self.late && (completion.result > 0 || again) {
            effects.inputs.push(Input::Unsent { conn, buffer: bytes, from: done as u32 });
        } else if completion.result > 0 || again {
            self.counts.short_sends += 1;
            let left = (bytes.len() - done) as u32;
            let id = self.buffers.insert_bytes(bytes);
            self.connections[entry as usize].send = Some(id);
            self.passed.insert(entry, done as u32);
            self.submit_send(entry, id, done as u32, left);
        } else {
            self.hang_up(conn, effects);
        }
    }

    /// The peer is gone. Said once; what is still out ends with the shard's `Close`.
    fn hang_up(&mut self, conn: ConnId, effects: &mut Effects) {
        self.connections[conn.index as usize].hung = true;
        effects.inputs.push(Input::Hangup { conn });
    }
}
