//! The end of a connection: what the shard said last must reach a peer that is still sending.
//!
//! A socket that is closed while bytes wait in it unread answers with a reset, and a reset takes back what the peer had
//! received and not read yet: a GOODBYE, for instance. So our side is shut down first, and what the peer still sends is
//! dropped until it ends, for at most [`LINGER_NS`] and [`LINGER_BYTES_MAX`]; then the entry is closed.
//!
//! Not after a hang-up, and not with a send out: then the last bytes are lost anyway.
//!
//! Queue: `lingering`, one item per lingering connection and at most as many again that ended early.

use ringdesk_shard::io::ConnId;

use super::connection::{Life, Receive};
use super::{SHUTDOWN, Table, errno, user};
use crate::kernel::{Completion, Op};

/// How long a peer may go on after the last byte it was sent: a round trip and a retransmission or two.
pub const LINGER_NS: u64 = 2_000_000_000;

/// How much a peer may go on sending, bytes: what a socket's buffers hold by default, so that a peer which reads only
/// after all it had to say is through reads the end of it.
pub const LINGER_BYTES_MAX: u32 = 256 << 10;

impl Table {
    /// Shuts our side down and goes on receiving.
    pub(super) fn linger(&mut self, conn: ConnId) {
        let entry = conn.index;
        let connection = &mut self.connections[entry as usize];
        connection.life = Life::Lingering;
        connection.shutting = true;
        let armed = connection.receive != Receive::Idle;
        self.ops.push((user(SHUTDOWN, conn.generation, entry), Op::Shutdown { entry }));
        if !armed {
            self.arm_receive(entry, Receive::Multi);
        }
        self.lingerers += 1;
        self.counts.lingered += 1;
        self.lingering.push_back((self.now_ns + LINGER_NS, conn));
        if self.lingering.len() > 2 * self.entries as usize {
            let mut lingering = std::mem::take(&mut self.lingering);
            lingering.retain(|(_, conn)| self.lingers(*conn));
            self.lingering = lingering;
        }
    }

    /// Connections whose peers are waited for.
    pub fn lingering(&self) -> u32 {
        self.lingerers
    }

    fn lingers(&self, conn: ConnId) -> bool {
        let connection = &self.connections[conn.index as usize];
        connection.generation == conn.generation && connection.life == Life::Lingering
    }

    /// Our side is shut down, or could not be: then the peer is gone.
    pub(super) fn shut_down(&mut self, entry: u32, completion: Completion) {
        let Some(connection) = self.find(entry, completion.user) else { return };
        assert!(connection.shutting, "entry {entry}: completion of a shutdown that is not out");
        connection.shutting = false;
        if connection.life == Life::Lingering && completion.result < 0 {
            self.end(entry);
        } else {
            self.finish_close(entry);
        }
    }

    /// A completion of the receive of a lingering connection. What it brought is dropped.
    pub(super) fn dropped(&mut self, entry: u32, completion: Completion) {
        let go_on = match completion.result {
            received @ 1.. => {
                let dropped = self.passed.entry(entry).or_default();
                *dropped = dropped.saturating_add(received as u32);
                *dropped <= LINGER_BYTES_MAX
            }
            result => errno::PASSING.contains(&-result),
        };
        if !go_on {
            self.end(entry);
        } else if self.connections[entry as usize].receive == Receive::Idle {
            self.arm_receive(entry, Receive::Multi);
        }
    }

    /// Closes those that were waited for long enough.
    pub(super) fn expire_lingering(&mut self, now_ns: u64) {
        while let Some(&(until, conn)) = self.lingering.front() {
            let lingers = self.lingers(conn);
            if lingers && until > now_ns {
                return;
            }
            self.lingering.pop_front();
            if lingers {
                self.end(conn.index);
            }
        }
    }
}
