//! Each planted bug is found, and is found because of the bug: the same seed passes without it.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use ringdesk_shard::planted::{Bug, plant};
use ringdesk_sim::plan::{Plan, Stop, Trigger, US, Upgrade, UpgradeEnd};
use ringdesk_sim::{disk::Crash, run_plan};

/// Seeds in which a bug must show.
const SEEDS: u64 = 500;

/// Panics of the runs under test are expected; only those of the tests themselves are worth printing.
fn quiet() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let standard = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let here = info.location().is_some_and(|at| at.file().ends_with("planted.rs"));
            if here {
                standard(info);
            }
        }));
    });
}

/// Runs one seed; the sentence of the failure, if it fails.
fn run(seed: u64, bug: Option<Bug>, change: fn(&mut Plan)) -> Option<String> {
    plant(bug);
    let ended = panic::catch_unwind(AssertUnwindSafe(|| run_plan(seed, false, change)));
    plant(None);
    let payload = ended.err()?;
    let text = payload.downcast_ref::<String>().cloned();
    Some(text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default())
}

/// Looks for the bug seed by seed, until a sentence has one of the `signs` by which the oracle would know it.
fn must_find(bug: Bug, change: fn(&mut Plan), signs: &[&str]) {
    quiet();
    for seed in 0..SEEDS {
        let Some(sentence) = run(seed, Some(bug), change) else { continue };
        if !signs.iter().any(|sign| sentence.contains(sign)) {
            // An assertion of the engine was faster than the oracle.
            println!("{bug:?} stopped seed {seed}: {}", sentence.lines().next().unwrap_or_default());
            continue;
        }
        let sound = run(seed, None, change);
        assert!(sound.is_none(), "seed {seed} fails without {bug:?}: {sound:?}");
        println!("{bug:?} found by seed {seed}: {}", sentence.lines().next().unwrap_or_default());
        return;
    }
    panic!("{bug:?} was not found in {SEEDS} seeds");
}

fn stop(trigger: Trigger, crash: Crash, shards: u16) -> Stop {
    Stop { trigger, after_ns: 0, crash, shards, down_ns: 1_000_000 }
}

/// Power fails right after clients saw something, twice.
fn power(plan: &mut Plan) {
    plan.stops.clear();
    for seen in [30, 20, 40] {
        plan.stops.push(stop(Trigger::Seen(seen), Crash::Power, plan.shards));
    }
}

/// Power fails while one shard's disk is far behind the others.
fn uneven(plan: &mut Plan) {
    plan.shards = plan.shards.max(2);
    plan.faults.disk_ns = (50 * US, 300 * US);
    plan.faults.slow_disk = Some((plan.sizes.site as u16 % plan.shards, 100));
    (plan.cast.visitors, plan.cast.channels) = (6, 0);
    plan.stops.clear();
    for writes in [18, 22, 26, 30, 34, 38] {
        plan.stops.push(stop(Trigger::Write(writes), Crash::Power, plan.shards));
    }
}

/// Many shards and many connections.
fn many_shards(plan: &mut Plan) {
    plan.shards = 4;
    plan.stops.clear();
}

/// Disk writes fail, and power fails after that.
fn bad_disk(plan: &mut Plan) {
    power(plan);
    plan.faults.eio_ppm = 20_000;
}

/// Visitors have many conversations one after the other, and nothing else goes wrong.
fn churn(plan: &mut Plan) {
    plan.stops.clear();
    plan.cast.opens = 40;
    plan.cast.churn_ppm = 600_000;
}

#[test]
fn an_ack_before_the_sync_is_found() {
    must_find(Bug::AckBeforeSync, power, &["C1", "C2", "C3", "C4", "C5", "liveness"]);
}

#[test]
fn a_replay_that_forgets_keys_is_found() {
    must_find(Bug::ForgetDedup, power, &["C4"]);
}

#[test]
fn old_opens_that_are_forgotten_are_found() {
    must_find(Bug::ForgetOldOpens, churn, &["C4: OPEN"]);
}

#[test]
fn a_note_that_outruns_its_log_is_found() {
    must_find(Bug::SkipRingGate, uneven, &["C7", "liveness", "broken", "note"]);
}

#[test]
fn a_note_that_is_not_told_again_is_found() {
    must_find(Bug::ForgetUnconfirmed, uneven, &["C7", "liveness"]);
}

#[test]
fn a_failed_write_tried_again_is_found() {
    must_find(Bug::RetryFailedSync, bad_disk, &["C1", "C3", "C4", "C5", "C9", "liveness"]);
}

#[test]
fn a_seq_given_out_twice_is_found() {
    must_find(Bug::ReuseSeq, power, &["C1", "C3", "C4", "C5", "C7"]);
}

#[test]
fn a_buffer_filled_too_early_is_found() {
    must_find(Bug::ReuseBuffer, many_shards, &["the engine sent bytes", "C", "tag", "channel"]);
}

#[test]
fn a_hand_over_with_a_receive_armed_is_found() {
    must_find(Bug::HandOverArmed, many_shards, &["hand", "armed", "SendDescriptor"]);
}

/// Outboxes so small that connections are stopped again and again, and nothing else goes wrong.
fn narrow(plan: &mut Plan) {
    plan.stops.clear();
    plan.sizes.outbox_bytes = 1024;
}

/// The same, and no heartbeat closes who is not read, which would let it come back and be read.
fn narrow_and_patient(plan: &mut Plan) {
    narrow(plan);
    plan.sizes.heartbeat_s = 3_600;
}

#[test]
fn bytes_forgotten_while_a_connection_is_not_read_are_found() {
    must_find(Bug::ForgetUnread, narrow, &["C", "liveness", "GOODBYE"]);
}

#[test]
fn a_connection_that_is_never_read_again_is_found() {
    must_find(Bug::NeverGoOn, narrow_and_patient, &["liveness"]);
}

/// Clients that often do not read, while much is written to them.
fn slow_readers(plan: &mut Plan) {
    narrow(plan);
    plan.cast.slow_reader_ppm = 200_000;
    plan.cast.messages = 40;
}

/// A gateway that does not keep up with what its visitors are sent.
fn slow_gateway(plan: &mut Plan) {
    slow_readers(plan);
    (plan.cast.visitors, plan.cast.channels, plan.cast.opens) = (1, 6, 1);
    plan.cast.churn_ppm = 0;
    plan.sizes.socket_bytes = 256;
}

#[test]
fn a_cap_that_is_ignored_is_found() {
    must_find(Bug::IgnoreCap, slow_readers, &["C8: an item was pushed", "bytes wait"]);
}

#[test]
fn turns_that_go_round_among_few_are_found() {
    must_find(Bug::LowestTurn, slow_gateway, &["C8: a subscription waited"]);
}

/// One upgrade after the other, and clients that do not read; nothing else goes wrong.
fn upgrades(plan: &mut Plan) {
    plan.stops.clear();
    (plan.faults.eio_ppm, plan.faults.full_from_ns) = (0, u64::MAX);
    (plan.cast.slow_reader_ppm, plan.cast.drop_ppm) = (300_000, 0);
    plan.cast.messages = 40;
    plan.upgrades = [40, 120, 200]
        .map(|seen| Upgrade {
            trigger: Trigger::Seen(seen),
            patience_ns: 2_000 * US,
            shards: plan.shards,
            end: UpgradeEnd::After(0),
        })
        .to_vec();
}

#[test]
fn what_a_slow_client_was_not_sent_and_an_upgrade_drops_is_found() {
    must_find(Bug::DropUnsent, upgrades, &["the engine sent bytes", "C", "liveness", "tag", "channel"]);
}

#[test]
fn cursors_carried_too_low_are_found() {
    must_find(Bug::CarryCursorLow, upgrades, &["again"]);
}

#[test]
fn agents_that_an_upgrade_forgets_are_found() {
    must_find(Bug::AdoptUnlinked, upgrades, &["C7", "liveness"]);
}
