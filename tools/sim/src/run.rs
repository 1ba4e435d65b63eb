//! One seed from start to end: cast, safety phase, healing, liveness, audit.

use ringdesk_protocol::{Availability, Role, Side, Status};

use crate::client::device::{Device, Whose};
use crate::client::endpoint::Endpoint;
use crate::client::thread::Thread;
use crate::cluster::{Cluster, ticket};
use crate::kernel::Bites;
use crate::plan::{MS, Plan, S};
use crate::rng::Rng;
use crate::upgrade::Upgraded;
use crate::world::World;

/// Virtual time in which a healed world must have finished everything it owes: two heartbeats of the slowest
/// setting, the longest grace period after them, and room for retries.
const LIVENESS_NS: u64 = 300 * S;

/// What a run came to. A broken promise is a panic and has no outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Digest of every byte a client saw and every disk write.
    pub hash: u64,
    /// Turns and acts.
    pub steps: u64,
    /// Virtual time, nanoseconds.
    pub virtual_ns: u64,
    /// Times machine or process stopped.
    pub crashes: u32,
    /// Times a shard gave up.
    pub fatals: u32,
    /// Conversations.
    pub conversations: u32,
    /// Items of all conversations.
    pub items: u64,
    /// Facts the oracle was told.
    pub facts: u64,
    /// BUSY answers that clients got.
    pub busy: u64,
    /// Turns that ended with a message waiting for a place in a lane.
    pub lanes_full: u64,
    /// Upgrades begun, and what became of them.
    pub upgraded: Upgraded,
    /// Faults carried out.
    pub bites: Bites,
}

/// Runs one seed. Panics with the number of the promise where one is broken.
pub fn run_seed(seed: u64, trace: bool) -> Outcome {
    run_plan(seed, trace, |_| {})
}

/// Runs one seed with a plan that was changed, for tests that need a certain fault.
pub fn run_plan(seed: u64, trace: bool, change: impl FnOnce(&mut Plan)) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut plan = Plan::draw(&mut rng);
    change(&mut plan);
    if trace {
        println!("{plan:#?}");
    }
    let safety_ns = plan.safety_ns;
    let mut world = World::new(rng, plan, trace);
    enlist(&mut world);
    world.run(safety_ns, |_| false);
    heal(&mut world);
    audit(&mut world);
    if seed.is_multiple_of(4) {
        count_room(&mut world);
    }
    outcome(&world)
}

fn outcome(world: &World) -> Outcome {
    let env = world.env.borrow();
    let (mut conversations, mut items) = (0, 0);
    for (_, known) in world.oracle.conversations() {
        conversations += 1;
        items += known.highest();
    }
    Outcome {
        hash: env.hash.value(),
        steps: world.steps,
        virtual_ns: env.now,
        crashes: world.crashes,
        fatals: world.fatals,
        conversations,
        items,
        facts: world.oracle.facts,
        busy: world.busy,
        lanes_full: world.lanes_full + world.cluster.as_ref().map_or(0, Cluster::lanes_full),
        upgraded: world.upgraded,
        bites: env.bites,
    }
}

/// Makes the clients of the plan.
fn enlist(world: &mut World) {
    let cast = world.plan.cast;
    for agent in 1..=cast.agents {
        let device = add_device(world, Whose::Agent(agent), 0);
        add_endpoint(world, Role::Agent, agent, vec![device], Vec::new());
    }
    for visitor in 1..=cast.visitors {
        for _ in 0..world.rng.range(1, u64::from(cast.devices)) {
            let device = add_device(world, Whose::Visitor(visitor), 0);
            add_endpoint(world, Role::Visitor, visitor, vec![device], Vec::new());
        }
    }
    let (mut devices, mut names) = (Vec::new(), Vec::new());
    for channel in 1..=cast.channels {
        // Some of a gateway's visitors have tabs of their own as well.
        let visitor = if channel == 1 { 1 } else { 100 + channel };
        devices.push(add_device(world, Whose::Visitor(visitor), channel));
        names.push(visitor_name(visitor));
    }
    if !devices.is_empty() {
        add_endpoint(world, Role::Gateway, 1, devices, names);
    }
}

/// External id of a visitor.
pub fn visitor_name(visitor: u32) -> String {
    format!("v-{visitor}")
}

fn add_device(world: &mut World, whose: Whose, channel: u32) -> usize {
    let id = (world.devices.len() as u64 + 1) << 8 | 0xD;
    let mut device = Device::new(id, whose, channel);
    device.budget = world.rng.range(1, u64::from(world.plan.cast.messages)) as u32;
    if matches!(device.whose, Whose::Agent(_)) {
        device.budget *= 4;
    }
    device.window = world.rng.range(1, u64::from(world.plan.cast.window)) as usize;
    device.next_act = world.now() + world.rng.below(world.plan.cast.pause_ns);
    world.devices.push(device);
    world.devices.len() - 1
}

fn add_endpoint(
    world: &mut World,
    role: Role,
    number: u32,
    devices: Vec<usize>,
    names: Vec<String>,
) -> usize {
    let endpoint = Endpoint::new(role, ticket(role, number, world.plan.sizes.site), devices, names);
    world.endpoints.push(endpoint);
    world.endpoints.len() - 1
}

/// Ends the faults and waits until nothing is owed to anybody.
fn heal(world: &mut World) {
    // An agent that never comes back: its conversations must go to the others.
    let agents: Vec<usize> =
        (0..world.endpoints.len()).filter(|index| world.endpoints[*index].role == Role::Agent).collect();
    if agents.len() > 1 && world.rng.one_in(3) {
        let gone = agents[world.rng.index(agents.len())];
        world.dismiss(gone);
    }
    world.heal();
    declare_all(world, |_, _| 1_000);
    settle(world, "after healing");
}

/// Every agent that takes part declares itself online with a capacity.
fn declare_all(world: &mut World, capacity: impl Fn(&World, u32) -> u16) {
    for index in 0..world.devices.len() {
        let device = &world.devices[index];
        let (agent, dead) = (device.agent(), device.dead || device.auditor);
        if agent != 0 && !dead {
            let capacity = capacity(world, agent);
            world.devices[index].declare(Availability::Online, capacity);
            world.devices[index].next_act = world.now();
        }
    }
}

fn settle(world: &mut World, when: &str) {
    let until = world.now() + LIVENESS_NS;
    if !world.run(until, |world| unsettled(world).is_none()) {
        let owed = unsettled(world).expect("it did not settle");
        panic!("liveness {when}: {owed}");
    }
}

/// The first thing that is still owed to somebody.
fn unsettled(world: &World) -> Option<String> {
    if world.cluster.is_none() {
        return Some("the engine is down".into());
    }
    for device in world.devices.iter().filter(|device| !device.dead) {
        if let Some(what) = device.waits_for() {
            return Some(format!("device {:x} ({:?}) waits for {what}", device.id, device.whose));
        }
        for (id, thread) in &device.threads {
            let highest = world.oracle.conversation(*id).highest();
            let follows = device.agent() == 0 || thread.owner_epoch.is_some();
            if thread.based && follows && thread.cursor < highest {
                return Some(format!(
                    "device {:x} ({:?}) has {id:016x} up to {} of {highest}",
                    device.id, device.whose, thread.cursor
                ));
            }
        }
    }
    world.oracle.conversations().find_map(|(id, known)| unserved(world, id, known.standing()))
}

/// Why a conversation is not where it should be with enough agents there.
fn unserved(world: &World, id: u64, (status, owner): (Status, u32)) -> Option<String> {
    let known = world.oracle.conversation(id);
    if known.walked() < known.highest() {
        return None;
    }
    match status {
        Status::Open | Status::Resolved => None,
        Status::Queued => Some(format!("{id:016x} waits although agents are free")),
        Status::Assigned if !world.agents().contains(&owner) => {
            Some(format!("{id:016x} belongs to agent {owner}, who is gone"))
        }
        Status::Assigned => {
            let told = world.devices.iter().any(|device| {
                device.agent() == owner
                    && !device.dead
                    && device.threads.get(&id).is_some_and(|thread| thread.owner_epoch.is_some())
            });
            (!told).then(|| format!("agent {owner} was not told that {id:016x} is its own"))
        }
    }
}

/// New devices read everything from the start, and every agent logs in once more.
fn audit(world: &mut World) {
    let epoch = world.devices.iter().map(|device| device.epoch).max().unwrap_or(0);
    let mut visitors: Vec<u32> = world.oracle.conversations().map(|(_, known)| known.visitor).collect();
    visitors.sort_unstable();
    visitors.dedup();
    let mut auditors = Vec::new();
    for visitor in visitors {
        let device = add_device(world, Whose::Visitor(visitor), 0);
        auditors.push(add_endpoint(world, Role::Visitor, visitor, vec![device], Vec::new()));
        world.devices[device].auditor = true;
        world.devices[device].epoch = epoch;
        let mine: Vec<u64> = world
            .oracle
            .conversations()
            .filter(|(_, known)| known.visitor == visitor)
            .map(|(id, _)| id)
            .collect();
        let threads = mine.into_iter().map(|id| (id, Thread { based: true, ..Thread::default() }));
        world.devices[device].threads = threads.collect();
    }
    for agent in world.agents() {
        let device = add_device(world, Whose::Agent(agent), 0);
        world.devices[device].auditor = true;
        auditors.push(add_endpoint(world, Role::Agent, agent, vec![device], Vec::new()));
    }
    settle(world, "in the audit");
    // What comes although nothing is owed comes now.
    let until = world.now() + 300 * MS;
    world.run(until, |_| false);
    settle(world, "after the audit");
    world.oracle.close();
    audit_receipts(world);
    for index in auditors {
        world.dismiss(index);
    }
}

/// Receipts that were shown still stand: a new session is told them with each conversation it listens to.
fn audit_receipts(world: &mut World) {
    let mut told = Vec::new();
    for device in world.devices.iter().filter(|device| device.auditor) {
        let visitor = device.agent() == 0;
        for (id, thread) in
            device.threads.iter().filter(|(_, thread)| visitor || thread.owner_epoch.is_some())
        {
            told.push((*id, thread.receipts));
        }
    }
    for (id, [visitor, staff]) in told {
        world.oracle.audit_marks(id, Side::Visitor, visitor);
        world.oracle.audit_marks(id, Side::Staff, staff);
    }
}

/// The dispatcher's load is the number of assigned conversations: with room for one more at each agent exactly that
/// many new visitors are served, and the next one waits.
fn count_room(world: &mut World) {
    let held = |world: &World, agent: u32| {
        let all = world.oracle.conversations();
        all.filter(|(_, known)| known.standing() == (Status::Assigned, agent)).count() as u16
    };
    if world.agents().len() < world.plan.cast.agents as usize {
        // An agent that vanished without a word is served until its silence is noticed.
        let sizes = world.plan.sizes;
        let silence = 2 * u64::from(sizes.heartbeat_s) * S + sizes.grace_ms * MS + 5 * S;
        let until = world.now() + silence;
        world.run(until, |_| false);
    }
    declare_all(world, |world, agent| held(world, agent) + 1);
    settle(world, "after lowering the capacity");
    let agents = world.agents().len();
    let mut devices = Vec::new();
    for number in 0..=agents as u32 {
        let device = add_device(world, Whose::Visitor(1_000 + number), 0);
        add_endpoint(world, Role::Visitor, 1_000 + number, vec![device], Vec::new());
        world.devices[device].open_and_write();
        devices.push(device);
    }
    let until = world.now() + LIVENESS_NS;
    let served = |world: &World| {
        let threads = devices.iter().filter_map(|device| world.devices[*device].current);
        let standings: Vec<Status> = threads.map(|id| world.oracle.conversation(id).standing().0).collect();
        let count = |status| standings.iter().filter(|standing| **standing == status).count();
        (count(Status::Assigned), count(Status::Queued))
    };
    let done = world.run(until, |world| served(world) == (agents, 1));
    let found = served(world);
    assert!(
        done,
        "C7: {agents} agents have room for one each; of {} visitors (served, waiting) are {found:?}",
        agents + 1
    );
    let until = world.now() + 2 * S;
    world.run(until, |_| false);
    let found = served(world);
    assert!(found == (agents, 1), "C7: an agent took more than its capacity: {found:?} of {agents}");
}
