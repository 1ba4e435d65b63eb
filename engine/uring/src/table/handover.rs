//! Connections between shards: the descriptor goes through the kernel, the state through the lane.
//!
//! Order at the sender: `SendDescriptor`, its success, then the state into the lane and the close of the entry here.
//! At the receiver either may be seen first; the token joins them.

use ringdesk_shard::io::{ConnId, Input};
use ringdesk_shard::message::{HandOver, ShardMessage};

use super::connection::{Life, Receive};
use super::{Effects, HAND_OVER, Table, user};
use crate::kernel::{Completion, KIND_SHIFT, Op, TOKEN_COUNTER_BITS};

/// A connection on its way out.
#[derive(Debug)]
pub(super) struct Parcel {
    to: u16,
    token: u64,
    state: Box<HandOver>,
}

impl Table {
    /// [`ringdesk_shard::io::Output::HandOver`]. Panics with a receive armed or a send out: the bytes it brings
    /// would belong to nobody.
    pub fn hand_over(&mut self, conn: ConnId, to: u16, state: Box<HandOver>) {
        let shard = self.shard;
        let connection = self.held(conn);
        assert!(to != shard, "{conn:?}: hand-over to its own shard");
        assert!(connection.receive == Receive::Idle, "{conn:?}: hand-over with a receive armed");
        assert!(connection.send.is_none(), "{conn:?}: hand-over with a send out");
        assert!(!connection.hung, "{conn:?}: hand-over after a hang-up");
        connection.life = Life::HandingOver;
        let token = (u64::from(shard) << 48) | self.hand_over_counter;
        self.hand_over_counter += 1;
        self.parcels.insert(conn.index, Parcel { to, token, state });
        let op = Op::SendDescriptor { entry: conn.index, to, token };
        self.ops.push((user(HAND_OVER, conn.generation, conn.index), op));
    }

    pub(super) fn handed_over(&mut self, entry: u32, completion: Completion, effects: &mut Effects) {
        let Some(connection) = self.find(entry, completion.user) else { return };
        assert!(
            connection.life == Life::HandingOver,
            "entry {entry} handed over while {:?}",
            connection.life
        );
        let conn = ConnId { index: entry, generation: connection.generation };
        if completion.result < 0 {
            connection.life = Life::Open;
        }
        let parcel = self.parcels.remove(&entry).expect("a connection on its way out has a state");
        if completion.result >= 0 {
            self.counts.handed_out += 1;
            let message = ShardMessage::HandOver { token: parcel.token, state: parcel.state };
            effects.to_shards.push((parcel.to, message));
            self.submit_close(entry);
        } else {
            self.counts.hand_overs_failed += 1;
            effects.inputs.push(Input::HandOverFailed { conn, state: parcel.state });
        }
    }

    pub(super) fn descriptor_arrived(&mut self, completion: Completion, effects: &mut Effects) {
        let entry = u32::try_from(completion.result).expect("an arrived descriptor has an entry");
        let below_kind = completion.user & ((1 << KIND_SHIFT) - 1);
        let counter = below_kind & ((1 << TOKEN_COUNTER_BITS) - 1);
        let token = (below_kind >> TOKEN_COUNTER_BITS << 48) | counter;
        let conn = self.occupy(entry);
        match self.arrived_states.remove(&token) {
            Some(state) => self.adopt(conn, state, effects),
            None => {
                self.connections[entry as usize].life = Life::Arriving;
                let earlier = self.arrived_descriptors.insert(token, conn);
                assert!(earlier.is_none(), "token {token:#x} arrived twice");
            }
        }
    }

    /// [`ShardMessage::HandOver`] came out of a lane.
    pub fn state_arrived(&mut self, token: u64, state: Box<HandOver>, effects: &mut Effects) {
        match self.arrived_descriptors.remove(&token) {
            Some(conn) => {
                self.connections[conn.index as usize].life = Life::Open;
                self.adopt(conn, state, effects);
            }
            None => {
                let earlier = self.arrived_states.insert(token, state);
                assert!(earlier.is_none(), "state of token {token:#x} arrived twice");
            }
        }
    }

    fn adopt(&mut self, conn: ConnId, state: Box<HandOver>, effects: &mut Effects) {
        self.counts.handed_in += 1;
        effects.inputs.push(Input::HandedOver { conn, state });
    }
}
