//! Before an upgrade: accepts end, sends are taken back, and nothing is out on any connection the shard holds. Receives
//! are the shard's to pause. Everything can be taken up again at any time.

use ringdesk_shard::io::{ConnId, Input};

use super::connection::{Life, Receive};
use super::{ACCEPT, CANCEL, Effects, SEND, Table, user};
use crate::kernel::Op;

impl Table {
    /// Accepts nobody any more. Who was accepted before the cancellation took effect is still passed on.
    pub fn stand_still(&mut self) {
        self.still = true;
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            listener.resume_ns = None;
            if listener.armed {
                let target = user(ACCEPT, listener.arms, index as u32);
                self.ops.push((user(CANCEL, listener.arms, index as u32), Op::Cancel { target }));
            }
        }
    }

    /// Takes back what clients have not been sent, and what the shard sends from now on. Only while standing still.
    pub fn take_back_sends(&mut self) {
        assert!(self.still, "sends are taken back while the shard stands still");
        self.late = true;
        for (entry, connection) in (0u32..).zip(&self.connections) {
            if connection.life == Life::Open && connection.send.is_some() {
                let target = user(SEND, connection.generation, entry);
                self.ops.push((user(CANCEL, connection.generation, entry), Op::Cancel { target }));
            }
        }
    }

    /// Passes back the sends that were asked for too late. At the start of a turn.
    pub fn give_back_sends(&mut self, effects: &mut Effects) {
        let back = self.taken_back.drain(..);
        effects.inputs.extend(back.map(|(conn, buffer)| Input::Unsent { conn, buffer, from: 0 }));
    }

    /// Accepts and sends again.
    pub fn go_on(&mut self) {
        self.still = false;
        self.late = false;
        for index in 0..self.listeners.len() {
            // One whose cancellation is under way is armed by its last completion.
            if !self.listeners[index].armed {
                self.arm_accept(index);
            }
        }
    }

    /// Whether nothing is out that the shard could hear of: no accept, no receive and no send on a connection it holds,
    /// no hand-over, no disk operation. What lingers or closes does not count.
    pub fn is_quiet(&self) -> bool {
        let busy = self.listeners.iter().any(|listener| listener.armed)
            || !self.taken_back.is_empty()
            || !self.parcels.is_empty()
            || !self.arrived_descriptors.is_empty()
            || !self.arrived_states.is_empty()
            || self.disk.pending() > 0;
        !busy
            && self.connections.iter().all(|connection| match connection.life {
                Life::Open => connection.receive == Receive::Idle && connection.send.is_none(),
                Life::Arriving | Life::HandingOver => false,
                Life::Free | Life::Lingering | Life::Closing | Life::CloseOut => true,
            })
    }

    /// An entry that holds the socket of a connection which another process had before.
    pub fn take_over(&mut self, entry: u32) -> ConnId {
        self.occupy(entry)
    }

    /// Lets go of a connection that another process has now: its end here is no end for its peer.
    pub fn forget(&mut self, conn: ConnId) {
        let connection = self.held(conn);
        let busy = connection.receive != Receive::Idle || connection.send.is_some();
        assert!(!busy, "{conn:?} is another process's while something is out on it");
        self.submit_close(conn.index);
    }
}
