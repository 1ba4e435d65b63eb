//! Upgrades in place: two processes, one after the other, and connections that notice nothing.
//!
//! Order: all shards are told to stand still; when all are quiet and the lanes empty, they write their connections down;
//! after a pause the old process lets go, and when nothing of it is left a new one boots from the disk and adopts. Until
//! the old process lets go it may be called off. A crash ends an upgrade like everything else.
//!
//! What is checked beside the oracle's promises, which hold across it: while all stand still nothing is out at the disk;
//! the disk loses what was not durable before the new process reads it; a carried connection says the same after it was
//! bytes; and no client loses a carried connection but for a reason outside the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use ringdesk_shard::carry::{Carried, Stage};
use ringdesk_shard::router::Router;
use ringdesk_uring::mailbox::Letter;
use ringdesk_uring::still::Settling;

use crate::cluster::{Cluster, Told};
use crate::net::LinkId;
use crate::plan::{S, Upgrade, UpgradeEnd};
use crate::world::World;

/// How long all shards may need to stand still beyond the patience with slow clients: the slowest disk and network a
/// plan draws, for a handful of rounds between shards.
const SETTLE_NS: u64 = 20 * S;

macro_rules! upgraded {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// Upgrades of a run, and connections they carried.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Upgraded {
            $($(#[$meta])* pub $name: u64,)*
        }

        impl Upgraded {
            /// Every count with its name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }

        impl std::ops::AddAssign for Upgraded {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

upgraded! {
    /// Begun.
    begun,
    /// Taken over by another process.
    done,
    /// Called off while not all stood still.
    called_off_early,
    /// Called off after the connections were written down.
    called_off_late,
    /// Given up because a full disk kept a shard from finishing.
    given_up,
    /// Connections carried.
    carried,
    /// Of these, with bytes that a slow client had not been sent.
    unsent,
    /// Of these, with bytes that nobody had decoded.
    undecoded,
    /// Of these, before WELCOME.
    greeting,
}

/// How far an upgrade is.
#[derive(Debug)]
enum Phase {
    Settling(Settling),
    /// Connections are being written down, by shard.
    Collecting(BTreeMap<u16, Vec<(LinkId, Carried)>>),
    /// All are: the other process takes over at `at`.
    Stood {
        at: u64,
        connections: Vec<(LinkId, Carried)>,
    },
    /// The old process lets go.
    Leaving {
        connections: Vec<(LinkId, Carried)>,
    },
}

/// The upgrade under way.
#[derive(Debug)]
pub struct Running {
    plan: Upgrade,
    begun: u64,
    phase: Phase,
}

impl Running {
    fn due(&self) -> u64 {
        let call_off = match self.plan.end {
            UpgradeEnd::CalledOff(after) => self.begun + after,
            UpgradeEnd::After(_) => u64::MAX,
        };
        match self.phase {
            Phase::Settling(_) | Phase::Collecting(_) => {
                call_off.min(self.begun + self.plan.patience_ns + SETTLE_NS)
            }
            Phase::Stood { at, .. } => call_off.min(at),
            Phase::Leaving { .. } => u64::MAX,
        }
    }
}

impl World {
    /// When the upgrade under way, or the next, has something to do of its own.
    pub(crate) fn upgrade_due(&self) -> u64 {
        match (&self.running, self.upgrades.last()) {
            (Some(running), _) => running.due(),
            (None, Some(next)) if self.reached(next.trigger) => 0,
            _ => u64::MAX,
        }
    }

    pub(crate) fn go_upgrade(&mut self) {
        let now = self.now();
        let Some(running) = self.running.take() else {
            let plan = self.upgrades.pop().expect("an upgrade is due");
            self.trace(|| format!("-- upgrade: {plan:?}"));
            self.upgraded.begun += 1;
            let settling = Settling::new(usize::from(self.shards));
            self.running = Some(Running { plan, begun: now, phase: Phase::Settling(settling) });
            self.post(&Letter::Still { patience: Duration::from_nanos(plan.patience_ns) });
            return;
        };
        let called_off =
            matches!(running.plan.end, UpgradeEnd::CalledOff(after) if running.begun + after <= now);
        match running.phase {
            Phase::Stood { connections, .. } if !called_off => {
                self.trace(|| "-- upgrade: the old process lets go".into());
                self.running = Some(Running { phase: Phase::Leaving { connections }, ..running });
                self.post(&Letter::Gone);
            }
            Phase::Stood { connections, .. } => {
                // The process that would have taken over closes what it was given.
                for (link, _) in connections {
                    self.env.borrow_mut().net.engine_close(link, now, now);
                }
                self.upgraded.called_off_late += 1;
                self.call_off();
            }
            _ if called_off => {
                self.upgraded.called_off_early += 1;
                self.call_off();
            }
            phase => {
                let full = self.env.borrow().bites.disk_full > 0;
                assert!(full, "upgrade: the shards do not come to stand still: {phase:?}");
                self.upgraded.given_up += 1;
                self.call_off();
            }
        }
    }

    fn call_off(&mut self) {
        self.trace(|| "-- upgrade: called off".into());
        self.post(&Letter::GoOn);
    }

    fn post(&mut self, letter: &Letter) {
        let now = self.now();
        self.cluster.as_mut().expect("an upgrade of a running engine").post(letter, now);
    }

    /// Takes what shards said in their last turn.
    pub(crate) fn hear_shards(&mut self) {
        let cluster = self.cluster.as_mut().expect("a shard that ran");
        for told in std::mem::take(&mut cluster.told) {
            self.hear_shard(told);
        }
        let left = matches!(&self.running, Some(Running { phase: Phase::Leaving { .. }, .. }));
        if left && self.env.borrow().is_left() {
            self.take_over();
        }
    }

    fn hear_shard(&mut self, told: Told) {
        let (now, shards) = (self.now(), usize::from(self.shards));
        // Called off in between.
        let Some(running) = &mut self.running else { return };
        match (told, &mut running.phase) {
            (Told::Quiet(shard, quiet), Phase::Settling(settling)) => {
                settling.tell(shard, quiet);
                if settling.is_still() {
                    running.phase = Phase::Collecting(BTreeMap::new());
                    self.env.borrow().assert_no_disk_operation();
                    self.post(&Letter::Collect);
                }
            }
            (Told::Stood(shard, stood), Phase::Collecting(connections)) => {
                let mut env = self.env.borrow_mut();
                let exported = stood.connections.into_iter();
                let exported = exported.map(|(conn, carried)| (env.export(shard, conn.index), carried));
                connections.insert(shard, exported.collect());
                drop(env);
                if connections.len() == shards {
                    let connections = std::mem::take(connections).into_values().flatten().collect();
                    let pause = match running.plan.end {
                        UpgradeEnd::After(pause) => pause,
                        UpgradeEnd::CalledOff(_) => S,
                    };
                    running.phase = Phase::Stood { at: now + pause, connections };
                }
            }
            (Told::Drained(_), Phase::Leaving { .. }) => {}
            (told, phase) => panic!("{told:?} in {phase:?}"),
        }
    }

    /// Nothing of the old process is left: a new one boots and adopts.
    fn take_over(&mut self) {
        let Some(Running { plan, phase: Phase::Leaving { connections }, .. }) = self.running.take() else {
            panic!("an upgrade that is through");
        };
        self.upgraded.done += 1;
        self.boots += 1;
        self.seen = 0;
        self.lanes_full += self.cluster.take().map_or(0, |cluster| cluster.lanes_full());
        self.shards = plan.shards;
        let mut env = self.env.borrow_mut();
        env.disk_forgets();
        env.start(plan.shards);
        env.net.reshard(plan.shards);
        drop(env);
        let mut cluster = Cluster::boot(&self.env, &self.plan.sizes, plan.shards, self.boots);
        self.trace(|| {
            format!(
                "-- upgrade: boot {} with {} shards, {} connections",
                self.boots,
                plan.shards,
                connections.len()
            )
        });
        for (link, carried) in connections {
            self.adopt(&mut cluster, link, &carried);
        }
        self.cluster = Some(cluster);
    }

    fn adopt(&mut self, cluster: &mut Cluster, link: LinkId, carried: &Carried) {
        let mut bytes = Vec::new();
        carried.encode(&mut bytes);
        let read = Carried::decode(&bytes).unwrap_or_else(|error| panic!("{error}: {carried:?}"));
        assert_eq!(&read, carried, "a carried connection says something else after it was bytes");
        self.upgraded.carried += 1;
        self.upgraded.unsent += u64::from(!read.unsent.is_empty());
        self.upgraded.undecoded += u64::from(!read.undecoded.is_empty());
        match &read.stage {
            Stage::Proxy(_) | Stage::Greeting { .. } | Stage::Hello(_) => self.upgraded.greeting += 1,
            Stage::Closing | Stage::Ready(_) => {}
        }
        if read.stage != Stage::Closing {
            self.carried.insert(link);
        }
        let router = Router::even(self.shards);
        let shard = read.home().map(|slot| router.owner(slot));
        let shard = shard.unwrap_or_else(|| self.rng.below(u64::from(self.shards)) as u16);
        let entry = self.env.borrow_mut().place(shard, link);
        cluster.adopt(shard, entry, read);
    }
}
