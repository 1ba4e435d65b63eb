//! Every truncation and every flipped bit of a log of 64 KiB, and its sectors swapped and misdirected: no panic, no
//! wrong read, and a report that says exactly what was lost.
//!
//! Counts cases and closes with "N passed, N failed". `PERSIST_LONG=1` takes every case, otherwise a slice runs. Each
//! case is scanned twice: as after a crash, and with the EXTENT of a clean stop, which tells where the log ended.
//! Order: [`written`] makes the logs, [`oracle`] says what must be found, this file does the damage and compares.

mod cases;
mod oracle;
#[path = "../support/mod.rs"]
mod support;
mod written;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cases::{Family, families};

/// Of how many cases the slice takes one; no divisor of the bits of a byte or the bytes of a sector.
const SLICE: u64 = 97;
/// Failures that are printed.
const PRINTED_MAX: usize = 20;
/// Cases that a thread takes at a time.
const CHUNK: u64 = 64;

thread_local! {
    /// A panic now is a failed case, and told as one.
    static IN_CASE: Cell<bool> = const { Cell::new(false) };
}

fn main() -> ExitCode {
    // What cargo passes on to every test: a list, or a part of a name that this one may not have.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let elsewhere = words.iter().any(|word| !word.starts_with('-') && !"torture".contains(word.as_str()));
    if words.iter().any(|word| word == "--list") || elsewhere {
        return ExitCode::SUCCESS;
    }
    let step = if std::env::var_os("PERSIST_LONG").is_some() { 1 } else { SLICE };
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !IN_CASE.get() {
            loud(panic);
        }
    }));
    let (mut passed, mut failed) = (0, 0);
    for family in families() {
        let begun = Instant::now();
        let (good, bad) = run(&family, step);
        println!(
            "torture-log {}: {good} passed, {bad} failed, {:.1} s",
            family.name,
            begun.elapsed().as_secs_f64()
        );
        (passed, failed) = (passed + good, failed + bad);
    }
    println!("torture-log: {passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs every `step`-th case on all cores; cases passed and failed.
fn run(family: &Family, step: u64) -> (u64, u64) {
    let count = family.cases.div_ceil(step);
    let (next, passed, failures) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        let mut case = (family.start)();
        loop {
            let from = next.fetch_add(CHUNK, Ordering::Relaxed);
            if from >= count {
                return;
            }
            for index in from..(from + CHUNK).min(count) {
                IN_CASE.set(true);
                let verdict = catch_unwind(AssertUnwindSafe(|| case(index * step)));
                IN_CASE.set(false);
                match verdict {
                    Ok(Ok(())) => {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(Err(sentence)) => failures.lock().expect("whole").push((index * step, sentence)),
                    Err(panic) => {
                        let words = panic.downcast_ref::<String>().map(String::as_str);
                        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
                        failures.lock().expect("whole").push((index * step, format!("panicked: {words}")));
                        // What it was doing is half done.
                        case = (family.start)();
                    }
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().expect("whole");
    for (case, sentence) in failures.iter().take(PRINTED_MAX) {
        println!("torture-log {} case {case}: {sentence}", family.name);
    }
    (passed.into_inner(), failures.len() as u64)
}
