//! `ringbench run chat`: arrive, measure unloaded, load, drain, check, report.

use std::path::Path;

use crate::cli::{ChatArgs, CrewArgs};
use crate::control::Control;
use crate::disk::{APPEND_BYTES, AppendProbe};
use crate::environment;
use crate::fleet::{Crew, Fleet};
use crate::ledger::Side;
use crate::load::Load;
use crate::report::{Environment, Latencies, Latency, Percentiles, Report, Single, round2};
use crate::schedule::Schedule;

/// How long one unloaded message, and the drain after the load, may take.
const DRAIN_NS_MAX: u64 = 15_000_000_000;

/// Makes the people of a run: a site of its own, tickets, and a fleet that has not connected.
///
/// # Errors
/// A sentence naming what the server refused.
pub fn hire(args: &CrewArgs, control: &mut Control, run: u64) -> Result<Fleet, String> {
    let site = format!("bench-{run:016x}");
    control.add_site(&site)?;
    let agent_tickets = control.agents(&site, args.agents)?;
    let visitor_tickets = control.visitors(&site, args.visitors)?;
    Fleet::new(Crew {
        binary: args.addr,
        websocket: args.ws,
        mix: args.transport,
        body_bytes: args.body_bytes,
        visitor_tickets,
        agent_tickets,
        capacity: args.capacity(),
        device_base: (run << 24) | 1,
    })
}

/// A number no earlier run on this machine used: nanoseconds since 1970.
pub fn run_number() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("the clock is past 1970").as_nanos() as u64
}

/// What the unloaded phase measured.
struct Unloaded {
    ack: Latency,
    deliver: Latency,
    append: Latency,
    mode: &'static str,
}

/// One message in flight at a time between one pair, and bare appends before and after on the same disk, so that a
/// drift of the disk falls on both figures.
fn unloaded(fleet: &mut Fleet, disk: &Path, samples: usize) -> Result<Unloaded, String> {
    let mut append = Latency::new();
    let mut probe = AppendProbe::create(disk, APPEND_BYTES, samples)?;
    for _ in 0..samples / 2 {
        append.record_ns(probe.append()?);
    }
    fleet.measure(0..u64::MAX);
    for sample in 0..samples {
        let side = if sample.is_multiple_of(2) { Side::Agent } else { Side::Visitor };
        fleet.say(0, side, fleet.now_ns());
        if !fleet.run_until(DRAIN_NS_MAX, Fleet::quiet) {
            return Err(format!(
                "an unloaded message got no ACK or was not delivered; {}",
                fleet.fault_list()
            ));
        }
    }
    let meter = fleet.measure(0..0);
    for _ in samples / 2..samples {
        append.record_ns(probe.append()?);
    }
    Ok(Unloaded { ack: meter.ack, deliver: meter.deliver, append, mode: probe.mode().name() })
}

/// Runs a chat load and returns its report.
///
/// # Errors
/// A sentence when the run could not be made at all; what goes wrong within it is in the report.
pub fn run(args: &ChatArgs) -> Result<Report, String> {
    let mut control = Control::open(args.http, args.data.as_deref())?;
    let server_version = control.server_version()?;
    let mut fleet = hire(&args.crew, &mut control, run_number())?;
    fleet.begin()?;
    let alone = match args.unloaded_samples {
        0 => None,
        samples => Some(unloaded(&mut fleet, args.disk.as_deref().unwrap_or(control.data()), samples)?),
    };

    let second = 1_000_000_000;
    let begin = fleet.now_ns();
    let schedule = Schedule::new(args.crew.seed, args.crew.rate, args.arrivals, args.crew.visitors, begin);
    let start = begin + args.warmup * second;
    let end = start + args.seconds * second;
    fleet.measure(start..end);
    let mut load = Load::new(schedule, args.crew.visitors);
    load.drive(&mut fleet, start);
    let (cpu_before, wall_before) = (environment::cpu_ns(), fleet.now_ns());
    load.drive(&mut fleet, end);
    let wall = (fleet.now_ns() - wall_before).max(1);
    let generator_cpu = (environment::cpu_ns() - cpu_before) as f64 / wall as f64;
    fleet.run_until(DRAIN_NS_MAX, Fleet::quiet);

    let faults = fleet.check();
    let mut errors = std::mem::take(&mut fleet.faults);
    let busy = std::mem::take(&mut fleet.busy);
    fleet.end();
    let meter = fleet.measure(0..0);
    for (name, count) in [
        ("altered item", faults.altered),
        ("message without an ACK", faults.unacked),
        ("refused for now: BUSY", busy),
    ] {
        if count > 0 {
            errors.insert(name.into(), count);
        }
    }
    let measured = Measured { server_version, generator_cpu, lateness: load.lateness.percentiles() };
    Ok(Report {
        messages_per_second: round2(meter.acks as f64 / args.seconds as f64),
        latency_us: Latencies {
            send_ack: meter.ack.percentiles(),
            send_deliver: meter.deliver.percentiles(),
        },
        messages: load.offered,
        unloaded_ack_us: alone.as_ref().and_then(|alone| Single::of(&alone.ack)),
        unloaded_deliver_us: alone.as_ref().and_then(|alone| Single::of(&alone.deliver)),
        append_4k_us: alone.as_ref().and_then(|alone| Single::of(&alone.append)),
        ratio_unloaded_ack_to_append: None,
        toll: None,
        refused: None,
        environment: surroundings(args, measured, alone.as_ref().map_or("not measured", |alone| alone.mode)),
        errors: errors.values().sum(),
        lost: faults.lost,
        duplicated: faults.duplicated,
        reordered: faults.reordered,
        error_detail: errors,
    }
    .judge())
}

/// Figures of the run that belong to its surroundings.
struct Measured {
    server_version: String,
    generator_cpu: f64,
    lateness: Option<Percentiles>,
}

fn surroundings(args: &ChatArgs, measured: Measured, append_mode: &str) -> Environment {
    Environment {
        kernel: environment::kernel(),
        cpu: environment::cpu(),
        cores: environment::cores(),
        commit: environment::commit(),
        command: environment::command(),
        version: env!("CARGO_PKG_VERSION").into(),
        server_version: measured.server_version,
        transport: args.crew.transport.name().into(),
        visitors: args.crew.visitors,
        agents: args.crew.agents,
        rate: args.crew.rate,
        arrivals: format!("{:?}", args.arrivals).to_lowercase(),
        body_bytes: args.crew.body_bytes,
        seed: args.crew.seed,
        seconds: args.seconds,
        warmup_seconds: args.warmup,
        generator_cpu: round2(measured.generator_cpu),
        lateness_us: measured.lateness,
        lateness_bound_us: args.lateness_bound_us,
        append_mode: append_mode.into(),
    }
}
