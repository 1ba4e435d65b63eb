//! All lanes between N shards: one in each direction for each pair.

use crate::doorbell::Doorbell;
use crate::lane::{Consumer, Producer, channel};
use crate::sync::Arc;

/// One shard's ends of the mesh. Index = the other shard; the own entry is `None`.
#[derive(Debug)]
pub struct Port<M> {
    /// The shard this port belongs to.
    pub shard: u16,
    /// Lanes out.
    pub to: Vec<Option<Producer<M>>>,
    /// Lanes in.
    pub from: Vec<Option<Consumer<M>>>,
    /// Everybody's doorbell, the own one included.
    pub doorbells: Vec<Arc<Doorbell>>,
}

impl<M> Port<M> {
    /// Whether a message waits in any lane.
    pub fn waiting(&mut self) -> bool {
        self.from.iter_mut().flatten().any(|lane| !lane.is_empty())
    }
}

/// Builds the ports of `shards` shards (at least 1), with lanes of `capacity` messages (a power of two).
/// Takes `shards * (shards - 1) * capacity` places of memory.
pub fn mesh<M>(shards: u16, capacity: usize) -> Vec<Port<M>> {
    assert!(shards > 0, "a mesh of no shards");
    let doorbells: Vec<_> = (0..shards).map(|_| Arc::new(Doorbell::new())).collect();
    let mut ports: Vec<Port<M>> = (0..shards)
        .map(|shard| Port { shard, to: Vec::new(), from: Vec::new(), doorbells: doorbells.clone() })
        .collect();
    for sender in 0..usize::from(shards) {
        for receiver in 0..usize::from(shards) {
            // Pushing in (sender, receiver) order fills `ports[s].to` by receiver and `ports[r].from` by sender.
            let (producer, consumer) = if sender == receiver {
                (None, None)
            } else {
                let (producer, consumer) = channel(capacity);
                (Some(producer), Some(consumer))
            };
            ports[sender].to.push(producer);
            ports[receiver].from.push(consumer);
        }
    }
    ports
}
