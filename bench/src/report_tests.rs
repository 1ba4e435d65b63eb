//! Percentiles against sorted samples, the names of the JSON, and the refusal.

use super::*;

fn sample() -> Report {
    let p = Percentiles { p50: 1, p90: 2, p99: 3, p999: 4, max: 5 };
    Report {
        messages_per_second: 5000.0,
        latency_us: Latencies { send_ack: Some(p), send_deliver: Some(p) },
        errors: 0,
        lost: 0,
        duplicated: 0,
        reordered: 0,
        messages: 50_000,
        unloaded_ack_us: Some(Single { p50: 300, p99: 400, samples: 500 }),
        unloaded_deliver_us: Some(Single { p50: 310, p99: 410, samples: 500 }),
        append_4k_us: Some(Single { p50: 120, p99: 200, samples: 500 }),
        ratio_unloaded_ack_to_append: None,
        error_detail: Default::default(),
        toll: None,
        refused: None,
        environment: Environment {
            kernel: "6.1".into(),
            cpu: "x".into(),
            cores: 2,
            commit: "c".into(),
            command: "ringbench run chat".into(),
            version: "0.1.0".into(),
            server_version: "0.1.0".into(),
            transport: "mixed".into(),
            visitors: 1000,
            agents: 50,
            rate: 5000,
            arrivals: "poisson".into(),
            body_bytes: 200,
            seed: 1,
            seconds: 10,
            warmup_seconds: 1,
            generator_cpu: 0.4,
            lateness_us: Some(p),
            lateness_bound_us: 100,
            append_mode: "O_DIRECT|O_DSYNC".into(),
        },
    }
}

#[test]
fn percentiles_are_those_of_the_sorted_samples() {
    let mut latency = Latency::new();
    assert_eq!(latency.percentiles(), None);
    for us in (1..=1000u64).rev() {
        latency.record_ns(us * 1000);
    }
    let p = latency.percentiles().unwrap();
    assert_eq!((p.p50, p.p90, p.p99, p.p999, p.max), (500, 900, 990, 999, 1000));
    assert_eq!(latency.count(), 1000);
    // Three digits: larger figures are within a thousandth.
    latency.record_ns(12_345_678_000);
    let max = latency.percentiles().unwrap().max;
    assert!(max.abs_diff(12_345_678) <= 12_346, "{max}");
}

#[test]
fn the_json_names_are_the_stable_ones() {
    let value: serde_json::Value = serde_json::from_str(&sample().judge().json()).unwrap();
    for name in ["messages_per_second", "errors", "lost", "duplicated", "reordered"] {
        assert!(value[name].is_number(), "{name}");
    }
    for what in ["send_ack", "send_deliver"] {
        for name in ["p50", "p90", "p99", "p999", "max"] {
            assert!(value["latency_us"][what][name].is_u64(), "latency_us.{what}.{name}");
        }
    }
    for name in [
        "kernel",
        "cpu",
        "cores",
        "commit",
        "command",
        "version",
        "transport",
        "visitors",
        "agents",
        "rate",
        "seconds",
        "generator_cpu",
        "lateness_us",
    ] {
        assert!(!value["environment"][name].is_null(), "environment.{name}");
    }
    assert_eq!(value["unloaded_ack_us"]["p50"], 300);
    assert_eq!(value["append_4k_us"]["p50"], 120);
    assert_eq!(value["ratio_unloaded_ack_to_append"], 2.5);
}

#[test]
fn a_late_generator_withholds_percentiles_and_says_so() {
    let mut report = sample();
    report.environment.lateness_bound_us = 2;
    let report = report.judge();
    assert_eq!(report.latency_us, Latencies { send_ack: None, send_deliver: None });
    assert!(report.refused.as_ref().unwrap().contains("bottleneck"));
    let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert!(value["latency_us"]["send_ack"].is_null());
    assert!(report.to_string().contains("The generator was the bottleneck"));
    assert!(sample().judge().refused.is_none());
}

#[test]
fn each_fault_alone_fails_the_run() {
    assert!(sample().passed());
    for fault in 0..4 {
        let mut report = sample();
        *[&mut report.errors, &mut report.lost, &mut report.duplicated, &mut report.reordered][fault] = 1;
        assert!(!report.passed());
    }
}
