//! Compares the log's writes out of registered memory with ordinary ones, in one run on one disk.
//!
//! `cargo run --release -p ringdesk-uring --example log_writes -- DIR [ROUNDS [WRITES]]`
//!
//! Order: two kernels, alike but for the registration, each with a segment of its own below DIR that was filled with
//! zeros. A round writes WRITES batches (default 2000) one after the other through the first kernel and as many through
//! the second, the next round the other way about, so that a slow minute of the disk falls on both. Of ROUNDS rounds (default
//! 7) the median of each figure is printed, and the ratio of the medians: below 1, registered memory took less.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringdesk_persist::Pages;
use ringdesk_uring::buffers::Buffers;
use ringdesk_uring::kernel::{Completion, Kernel as _, Op};
use ringdesk_uring::sys::{Features, Fleet, SysConfig, SysKernel};

const SIZES: [usize; 2] = [4 << 10, 64 << 10];
const SEGMENT_BYTES: u64 = 64 << 20;
/// Where the first batch goes.
const START: u64 = 4096;

/// One kernel and the buffer its batches go out of.
struct Writer {
    kernel: SysKernel,
    buffers: Buffers,
    pages: Option<Pages>,
    arena: Vec<u8>,
    out: Vec<Completion>,
}

/// What a round measured.
#[derive(Clone, Copy)]
struct Round {
    p50_ns: u64,
    p99_ns: u64,
    cpu_ns: u64,
}

impl Writer {
    fn open(folder: &Path, registered_buffers: bool) -> Result<Self, String> {
        let features = Features { registered_buffers, ..Features::default() };
        let config = SysConfig { features, ..SysConfig::new(0, folder.to_owned()) };
        let fleet = Fleet::new(1).map_err(|error| error.to_string())?;
        let mut kernel = SysKernel::open(&config, fleet, Vec::new()).map_err(|error| error.to_string())?;
        for notice in kernel.notices() {
            println!("{notice}");
        }
        if kernel.features() != features {
            return Err("this host has not what is to be compared".to_owned());
        }
        let pages = kernel.log_pages().pop().unwrap_or_else(|| Pages::zeroed(1 << 20));
        let mut writer =
            Self { kernel, buffers: Buffers::new(), pages: Some(pages), arena: Vec::new(), out: Vec::new() };
        let header = writer.buffers.insert_pages(Pages::zeroed(4096));
        writer.buffers.lend(header);
        writer.carry_out(Op::Create { log: 0, segment: 1, bytes: SEGMENT_BYTES, header })?;
        for offset in (0..SEGMENT_BYTES).step_by(1 << 20) {
            writer.write(offset, 1 << 20)?;
        }
        Ok(writer)
    }

    fn carry_out(&mut self, op: Op) -> Result<i32, String> {
        self.kernel.submit(1, op, &mut self.buffers);
        loop {
            self.kernel.enter(Some(u64::MAX)).map_err(|failure| failure.0)?;
            self.kernel.reap(&mut self.buffers, &mut self.arena, &mut self.out);
            match self.out.drain(..).find(|completion| completion.user == 1) {
                Some(completion) if completion.result < 0 => {
                    return Err(std::io::Error::from_raw_os_error(-completion.result).to_string());
                }
                Some(completion) => return Ok(completion.result),
                None => {}
            }
        }
    }

    fn write(&mut self, offset: u64, len: usize) -> Result<(), String> {
        let mut pages = self.pages.take().expect("it came back from the write before");
        pages.set_len(len);
        let buffer = self.buffers.insert_pages(pages);
        self.buffers.lend(buffer);
        let len = len as u32;
        let written = self.carry_out(Op::Write { log: 0, segment: 1, offset, buffer, from: 0, len })?;
        self.buffers.give_back(buffer);
        self.pages = Some(self.buffers.take_pages(buffer));
        if written as u32 == len { Ok(()) } else { Err(format!("{written} bytes of {len} written")) }
    }

    fn round(&mut self, writes: usize, len: usize) -> Result<Round, String> {
        let mut took_ns = Vec::with_capacity(writes);
        let (mut offset, cpu) = (START, cpu_time());
        for _ in 0..writes {
            if offset + len as u64 > SEGMENT_BYTES {
                offset = START;
            }
            let started = Instant::now();
            self.write(offset, len)?;
            took_ns.push(started.elapsed().as_nanos() as u64);
            offset += len as u64;
        }
        let cpu_ns = (cpu_time() - cpu).as_nanos() as u64 / writes as u64;
        took_ns.sort_unstable();
        Ok(Round { p50_ns: took_ns[writes / 2], p99_ns: took_ns[writes * 99 / 100], cpu_ns })
    }
}

/// Processor time of this thread: what pinning costs is there even where the disk hides it.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> u64) -> u64 {
    let mut figures: Vec<u64> = rounds.iter().map(of).collect();
    figures.sort_unstable();
    figures[figures.len() / 2]
}

fn compare(folder: &Path, rounds: usize, writes: usize) -> Result<(), String> {
    let mut fixed = Writer::open(&folder.join("registered"), true)?;
    let mut plain = Writer::open(&folder.join("plain"), false)?;
    println!("{rounds} rounds of {writes} writes; medians in us: p50, p99, processor time of a write");
    for len in SIZES {
        let (mut of_fixed, mut of_plain) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            if round % 2 == 0 {
                of_fixed.push(fixed.round(writes, len)?);
                of_plain.push(plain.round(writes, len)?);
            } else {
                of_plain.push(plain.round(writes, len)?);
                of_fixed.push(fixed.round(writes, len)?);
            }
        }
        let figures = |of: &[Round]| {
            [median(of, |r| r.p50_ns), median(of, |r| r.p99_ns), median(of, |r| r.cpu_ns)]
                .map(|ns| ns as f64 / 1e3)
        };
        let (fixed, plain) = (figures(&of_fixed), figures(&of_plain));
        let ratio: Vec<String> = fixed.iter().zip(plain).map(|(a, b)| format!("{:.2}", a / b)).collect();
        println!(
            "{:>3} KiB  registered {fixed:.1?}  plain {plain:.1?}  ratio {}",
            len >> 10,
            ratio.join(" ")
        );
    }
    println!(
        "writes out of registered memory: {} and {}",
        fixed.kernel.registered_writes(),
        plain.kernel.registered_writes()
    );
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map(PathBuf::from);
    let mut number = |default| arguments.next().map_or(Some(default), |text| text.parse().ok());
    let (rounds, writes): (Option<usize>, Option<usize>) = (number(7), number(2000));
    let (Some(folder), Some(rounds @ 5..), Some(writes @ 100..)) = (folder, rounds, writes) else {
        eprintln!("log_writes DIR [ROUNDS [WRITES]]: at least 5 rounds of at least 100 writes");
        return ExitCode::from(2);
    };
    match compare(&folder, rounds, writes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}
