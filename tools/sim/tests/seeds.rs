//! A slice of the campaign: every run of the test suite takes these seeds; `make sim` takes thousands.

use ringdesk_sim::kernel::Bites;
use ringdesk_sim::run_seed;
use ringdesk_sim::upgrade::Upgraded;

/// Seeds from the environment variable `SIM_SEEDS`, or 100.
fn seeds() -> u64 {
    let set = std::env::var("SIM_SEEDS").ok();
    set.map_or(100, |text| text.parse().expect("SIM_SEEDS is a number"))
}

#[test]
fn every_promise_holds_and_every_fault_occurs() {
    let (mut sum, mut upgraded) = (Bites::default(), Upgraded::default());
    let (mut crashes, mut fatals, mut items, mut busy, mut lanes_full) = (0, 0, 0, 0, 0);
    // BUSY comes in one seed of fifty: the slice goes on until one is met, or for so long that it must have been.
    for seed in 0..seeds() + 500 {
        if seed >= seeds() && busy > 0 {
            break;
        }
        let outcome = run_seed(seed, false);
        sum += outcome.bites;
        upgraded += outcome.upgraded;
        crashes += outcome.crashes;
        fatals += outcome.fatals;
        items += outcome.items;
        busy += outcome.busy;
        lanes_full += outcome.lanes_full;
    }
    println!(
        "{crashes} crashes, {fatals} shards gave up, {items} items, {busy} BUSY, {lanes_full} full lanes, {sum:?}, {upgraded:?}"
    );
    assert!(upgraded.done > 0 && upgraded.called_off_early > 0 && upgraded.called_off_late > 0);
    assert!(crashes > 0 && fatals > 0 && items > 0 && busy > 0);
    let idle: Vec<&str> =
        sum.named().into_iter().filter(|(_, times)| *times == 0).map(|(name, _)| name).collect();
    assert!(idle.is_empty(), "these faults never occurred: {idle:?}");
}

#[test]
fn a_seed_gives_the_same_hash_again() {
    for seed in 1_000..1_010 {
        let (first, second) = (run_seed(seed, false), run_seed(seed, false));
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(run_seed(1_000, false).hash, run_seed(1_001, false).hash);
}
