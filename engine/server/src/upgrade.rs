//! Upgrade in place: another process takes over data, listeners and connections of this one while clients wait a moment.
//!
//! The old process's half is [`give`], the new one's [`take`]; they speak over a Unix socket in the data folder
//! ([`wire`]). What each step is, and what a death of either leaves behind, is told in `docs/OPERATIONS.md` ("Upgrade in
//! place"). The rule behind all of it: until the old process has said `Yours`, it alone may write, and the new one has
//! written nothing; from then on the new one alone may, and the old one can only end. The lock of the data folder goes
//! along as a descriptor, so that it is never free in between.

pub mod give;
pub mod spawn;
pub mod take;
pub mod wire;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Where a replacement of this process by another stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// No other process keeps this one from serving.
    Serving,
    /// The shards stand still, or are about to.
    Still,
    /// This process ends by itself and is not to be replaced.
    Refusing,
    /// Another process serves in this one's place.
    Replaced,
    /// Another process has the data, and ended before it served.
    Abandoned,
}

/// The standing, shared by the thread that gives and by the control plane that may want to stop.
#[derive(Debug)]
pub struct Replacement(watch::Sender<Standing>);

impl Default for Replacement {
    fn default() -> Self {
        Self(watch::Sender::new(Standing::Serving))
    }
}

impl Replacement {
    /// Where it stands.
    pub fn stands(&self) -> Standing {
        *self.0.borrow()
    }

    fn step(&self, from: Standing, to: Standing) -> bool {
        self.0.send_if_modified(|standing| {
            let right = *standing == from;
            if right {
                *standing = to;
            }
            right
        })
    }

    /// The shards are about to stand still. `false`: this process is ending.
    pub fn begin(&self) -> bool {
        self.step(Standing::Serving, Standing::Still)
    }

    /// This process goes on.
    pub fn call_off(&self) {
        self.step(Standing::Still, Standing::Serving);
    }

    /// This process can only end.
    pub fn end(&self, how: Standing) {
        self.0.send_replace(how);
    }

    /// Waits until this process can only end.
    pub async fn ended(&self) {
        let mut standing = self.0.subscribe();
        let over = |standing: &Standing| matches!(standing, Standing::Replaced | Standing::Abandoned);
        // The sender lives as long as this call.
        let _ = standing.wait_for(over).await;
    }

    /// Lets no replacement begin any more, and waits for the end of one that has begun: its waits are bounded.
    pub async fn refuse(&self) -> Standing {
        let mut standing = self.0.subscribe();
        loop {
            if self.step(Standing::Serving, Standing::Refusing) {
                return Standing::Refusing;
            }
            let now = standing.wait_for(|standing| *standing != Standing::Still).await;
            match now.map_or(Standing::Refusing, |standing| *standing) {
                Standing::Serving | Standing::Still => {}
                other => return other,
            }
        }
    }
}

/// What came over from the process before.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Milliseconds from the first shard's stand-still to the first turn of the new ones.
    pub pause_ms: u64,
    /// Connections taken over.
    pub carried: u64,
    /// Connections told GOODBYE: under TLS, or all where the kernel cannot hand descriptors over.
    pub drained: u64,
    /// Connections closed: those the new process had no room for.
    pub closed: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pause_ms, carried, drained, closed } = self;
        write!(
            f,
            "{carried} connections carried, {drained} told goodbye, {closed} closed; pause {pause_ms} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_is_not_replaced() {
        let replacement = Replacement::default();
        assert!(replacement.begin());
        assert!(!replacement.begin(), "one at a time");
        replacement.call_off();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        assert_eq!(runtime.block_on(replacement.refuse()), Standing::Refusing);
        assert!(!replacement.begin());
    }

    #[test]
    fn who_wants_to_stop_waits_for_a_replacement_that_has_begun() {
        let replacement = Replacement::default();
        assert!(replacement.begin());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let standing = runtime.block_on(async {
            tokio::join!(replacement.refuse(), async { replacement.end(Standing::Replaced) }).0
        });
        assert_eq!(standing, Standing::Replaced);
    }
}
