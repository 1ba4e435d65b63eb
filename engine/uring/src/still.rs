//! Standing still together: when nothing is under way on any shard or between two of them.
//!
//! Each shard that is quiet for itself says how many messages it has put into each lane and taken out of it
//! ([`Quiet`]). A quiet shard is woken by nothing but a message (nothing else is out, no deadline counts), and says so
//! again when it is quiet once more. So when what each last said of its end of every lane agrees with the other end,
//! nothing is under way: were one shard the first to be woken after its word, the message that woke it was sent either
//! before its sender's word, and then the two ends disagree, or after it, and then its sender had been woken before.

use ringdesk_shard::carry::Carried;
use ringdesk_shard::io::ConnId;

/// What a shard says of itself that has nothing left to do while it stands still.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quiet {
    /// Messages put into the lane to each shard since start.
    pub put: Vec<u64>,
    /// Messages taken out of the lane from each shard since start.
    pub taken: Vec<u64>,
}

/// The connections of a shard that stands still: the answer to `Letter::Collect`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stood {
    /// What each was, and its entry of the descriptor table, which holds the socket until `Letter::Gone`.
    pub connections: Vec<(ConnId, Carried)>,
    /// How many there are, and how many could not be carried.
    pub counts: StoodCounts,
}

/// Connections of a shard by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StoodCounts {
    /// Carried.
    pub carried: u64,
    /// In TLS: told GOODBYE, to come again.
    pub tls: u64,
}

/// What all shards said, for whoever waits until they stand still.
#[derive(Clone, Debug)]
pub struct Settling {
    said: Vec<Option<Quiet>>,
}

impl Settling {
    /// Nothing was said yet by any of `shards`.
    pub fn new(shards: usize) -> Self {
        Self { said: vec![None; shards] }
    }

    /// A shard is quiet; what it said before is out of date.
    pub fn tell(&mut self, shard: u16, quiet: Quiet) {
        self.said[usize::from(shard)] = Some(quiet);
    }

    /// Whether all are quiet and every lane is empty.
    pub fn is_still(&self) -> bool {
        let Some(said) = self.said.iter().map(Option::as_ref).collect::<Option<Vec<&Quiet>>>() else {
            return false;
        };
        let agree = |(from, to): (usize, usize)| said[from].put[to] == said[to].taken[from];
        (0..said.len()).flat_map(|from| (0..said.len()).map(move |to| (from, to))).all(agree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(put: &[u64], taken: &[u64]) -> Quiet {
        Quiet { put: put.to_vec(), taken: taken.to_vec() }
    }

    #[test]
    fn a_message_on_its_way_is_seen() {
        let mut settling = Settling::new(2);
        settling.tell(0, quiet(&[0, 3], &[0, 2]));
        assert!(!settling.is_still(), "one has said nothing");
        settling.tell(1, quiet(&[2, 0], &[2, 0]));
        assert!(!settling.is_still(), "a message is in the lane");
        settling.tell(1, quiet(&[2, 0], &[3, 0]));
        assert!(settling.is_still());
    }

    /// A word and its answer have passed since the first shard spoke: sums would agree, lanes do not.
    #[test]
    fn an_old_word_is_not_believed() {
        let mut settling = Settling::new(2);
        settling.tell(0, quiet(&[0, 0], &[0, 0]));
        settling.tell(1, quiet(&[1, 0], &[1, 0]));
        assert!(!settling.is_still());
    }
}
