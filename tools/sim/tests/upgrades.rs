//! Upgrades in place: in every run of these seeds one process after the other has the connections.

use ringdesk_sim::plan::{MS, Plan, Trigger, Upgrade, UpgradeEnd};
use ringdesk_sim::run_plan;
use ringdesk_sim::upgrade::Upgraded;

/// Seeds of a run.
const SEEDS: u64 = 60;

fn upgrade(at: u64, shards: u16, end: UpgradeEnd) -> Upgrade {
    Upgrade { trigger: Trigger::At(at * MS), patience_ns: 5 * MS, shards, end }
}

/// Several upgrades, some of them called off early or late, and clients that do not read.
fn many(plan: &mut Plan) {
    plan.safety_ns = plan.safety_ns.max(1_500 * MS);
    plan.cast.slow_reader_ppm = 300_000;
    plan.cast.pause_ns = plan.cast.pause_ns.min(20 * MS);
    plan.cast.messages = plan.cast.messages.max(30);
    plan.upgrades = vec![
        upgrade(100, 2, UpgradeEnd::After(3 * MS)),
        upgrade(300, 1, UpgradeEnd::CalledOff(MS)),
        upgrade(400, 3, UpgradeEnd::CalledOff(600 * MS)),
        upgrade(1_000, 3, UpgradeEnd::After(40 * MS)),
        upgrade(1_100, 1, UpgradeEnd::After(0)),
    ];
}

/// The same with nothing else going wrong: every connection is carried through all of it.
fn many_and_nothing_else(plan: &mut Plan) {
    many(plan);
    plan.stops.clear();
    (plan.faults.eio_ppm, plan.faults.full_from_ns) = (0, u64::MAX);
}

fn run(change: fn(&mut Plan)) -> (Upgraded, u32) {
    let (mut all, mut crashes) = (Upgraded::default(), 0);
    for seed in 0..SEEDS {
        let outcome = run_plan(seed, false, change);
        all += outcome.upgraded;
        crashes += outcome.crashes;
    }
    println!("{all:?}, {crashes} crashes");
    (all, crashes)
}

#[test]
fn clients_notice_nothing_of_an_upgrade() {
    let (all, crashes) = run(many_and_nothing_else);
    assert_eq!((crashes, all.given_up), (0, 0));
    for (what, count) in all.named() {
        assert!(count > 0 || what == "given_up", "no upgrade was ever {what}");
    }
}

#[test]
fn a_crash_in_an_upgrade_breaks_no_promise() {
    let (all, crashes) = run(many);
    assert!(crashes > 0 && all.done > 0);
}
