//! `ringdesk upgrade`: has the running server start its successor, and waits until that one serves.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::remote::Remote;
use crate::{Failure, print};

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the address may stay silent once the successor is gone.
const SILENCE: Duration = Duration::from_secs(10);

/// Starts the take-over and waits for its end. How long that takes depends on the log: the successor reads it first, while
/// the running server goes on.
pub fn run(remote: &Remote) -> Result<(), Failure> {
    let answer = remote.admin("/v1/admin/upgrade", &json!({}))?;
    let pid = answer["pid"].as_u64().unwrap_or(0);
    print(&format!("process {pid} reads the logs beside the running server"));
    let mut gone_since: Option<Instant> = None;
    loop {
        std::thread::sleep(LOOK_EVERY);
        let alive = Path::new("/proc").join(pid.to_string()).exists();
        let status = remote.get("/v1/status");
        match outcome(pid, alive, status.as_ref().ok()) {
            Some(Ok(sentence)) => {
                print(&sentence);
                return Ok(());
            }
            Some(Err(sentence)) => return Err(Failure::new(Failure::REFUSED, sentence)),
            None if alive => gone_since = None,
            None => {
                let since = *gone_since.get_or_insert_with(Instant::now);
                if since.elapsed() > SILENCE
                    && let Err(failure) = status
                {
                    return Err(failure);
                }
            }
        }
    }
}

/// What came of it, if that is known: from whether the successor lives, and what the server answers.
fn outcome(pid: u64, alive: bool, status: Option<&Value>) -> Option<Result<String, String>> {
    let status = status?;
    if status["pid"] == json!(pid) {
        let upgraded = &status["upgraded"];
        // It serves a moment before it knows what it took over.
        return upgraded.is_object().then(|| {
            Ok(format!(
                "process {pid} serves: {} connections carried, {} told goodbye, {} closed; pause {} ms",
                upgraded["carried"], upgraded["drained"], upgraded["closed"], upgraded["pause_ms"]
            ))
        });
    }
    let sentence = "did not take over; the server runs on, and its log says why";
    (!alive).then(|| Err(format!("process {pid} {sentence}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_take_over_is_recognised() {
        let old = json!({ "pid": 7, "upgraded": null });
        let new = json!({ "pid": 8, "upgraded": null });
        let upgraded = json!({ "carried": 3, "drained": 1, "closed": 0, "pause_ms": 40 });
        let done = json!({ "pid": 8, "upgraded": upgraded });
        assert_eq!(outcome(8, true, Some(&old)), None, "it reads");
        assert_eq!(outcome(8, true, None), None, "nobody answers in the pause");
        assert_eq!(outcome(8, true, Some(&new)), None);
        let sentence = outcome(8, true, Some(&done)).expect("over").expect("done");
        assert!(
            sentence.ends_with("3 connections carried, 1 told goodbye, 0 closed; pause 40 ms"),
            "{sentence}"
        );
        assert!(outcome(8, false, Some(&old)).expect("over").is_err(), "it ended, and the old one serves");
    }
}
