//! `sim`: runs seeds and says which fail.
//!
//! A campaign runs in child processes, a few hundred seeds each, so that a broken promise (a panic, which ends a
//! release build at once) costs one seed and not the campaign.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use clap::Parser;
use ringdesk_sim::run_seed;

/// Seeds one child process runs.
const CHUNK: u64 = 200;

/// Characters of a failure's text that a campaign prints.
const SENTENCE_CHARS: usize = 600;

/// Runs the deterministic simulator.
#[derive(Parser, Debug)]
#[command(
    name = "sim",
    about = "Runs Ringdesk's shards under faults in virtual time and checks what it promises."
)]
struct Arguments {
    /// Runs this one seed in this process.
    #[arg(long)]
    seed: Option<u64>,
    /// Number of seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Processes at once.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Prints what clients see and when the engine stops and starts.
    #[arg(long)]
    trace: bool,
    /// Runs each seed twice and compares the hashes.
    #[arg(long)]
    check_determinism: bool,
    /// Runs the seeds in this process and reports each to the parent.
    #[arg(long, hide = true)]
    worker: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let outcome = run(seed, &arguments);
        println!("{outcome:#?}");
        println!("seed {seed} passed, hash {:016x}", outcome.hash);
        return ExitCode::SUCCESS;
    }
    if arguments.worker {
        for seed in arguments.from..arguments.from + arguments.seeds {
            println!("begin {seed}");
            let outcome = run(seed, &arguments);
            println!("done {seed} {:016x}", outcome.hash);
        }
        return ExitCode::SUCCESS;
    }
    campaign(&arguments)
}

fn run(seed: u64, arguments: &Arguments) -> ringdesk_sim::Outcome {
    let outcome = run_seed(seed, arguments.trace);
    if arguments.check_determinism {
        let again = run_seed(seed, false);
        assert!(outcome == again, "seed {seed} is not deterministic: {outcome:?} and {again:?}");
    }
    outcome
}

fn campaign(arguments: &Arguments) -> ExitCode {
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from + arguments.seeds;
    let passed = AtomicU64::new(0);
    let failed = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if from >= end {
                        return;
                    }
                    chunk(from, (from + CHUNK).min(end), arguments, &passed, &failed);
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panicked").len();
    println!("{} passed, {failed} failed", passed.into_inner());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the seeds `from..end` in child processes: a new one after each failure.
fn chunk(
    mut from: u64,
    end: u64,
    arguments: &Arguments,
    passed: &AtomicU64,
    failed: &Mutex<BTreeMap<u64, String>>,
) {
    while from < end {
        let (done, failure) = child(from, end, arguments);
        passed.fetch_add(done, Ordering::Relaxed);
        let Some((seed, sentence)) = failure else { return };
        let again = if arguments.check_determinism { " --check-determinism" } else { "" };
        println!("seed {seed} failed: {sentence}\n    repeat with: sim --seed {seed} --trace{again}");
        failed.lock().expect("no thread panicked").insert(seed, sentence);
        from = seed + 1;
    }
}

/// Runs seeds in one child. Returns how many passed, and the seed it died of with its last words.
fn child(from: u64, end: u64, arguments: &Arguments) -> (u64, Option<(u64, String)>) {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["--worker", "--from", &from.to_string(), "--seeds", &(end - from).to_string()]);
    if arguments.check_determinism {
        command.arg("--check-determinism");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program can be started again");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let words = thread::spawn(move || {
        let mut words = Vec::new();
        // What cannot be read is missing from the message, no more.
        let _ = stderr.read_to_end(&mut words);
        String::from_utf8_lossy(&words).into_owned()
    });
    let (mut begun, mut done) = (from, 0);
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("begin", seed)) => begun = seed.parse().expect("the child prints numbers"),
            Some(("done", _)) => done += 1,
            _ => {}
        }
    }
    let status = child.wait().expect("a child that was started ends");
    let words = words.join().expect("reading does not panic");
    if status.success() {
        return (done, None);
    }
    let mut sentence: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = sentence.char_indices().nth(SENTENCE_CHARS) {
        sentence.truncate(at);
    }
    (done, Some((begun, format!("{sentence} ({status})"))))
}
