//! A damaged log's report: files and ranges from the scan, conversations from what can still be read.

use std::fmt;

use ringdesk_desk::census::Census;
use ringdesk_persist::{Damage, LogId};

use super::replay::{Plan, scan_each};

/// Ranges told in one error; the rest is counted.
const RANGES_TOLD_MAX: usize = 20;

/// What is damaged.
#[derive(Debug)]
pub struct DamageReport {
    /// Every range, log by log.
    pub ranges: Vec<Damage>,
    /// Whose it was, in sentences.
    pub conversations: Vec<String>,
}

impl DamageReport {
    /// Reads all logs once more: conversations lie in several logs when the number of shards changed. A log that
    /// cannot even be listed was told by whoever found it first.
    pub fn survey(plan: &Plan<'_>, ranges: Vec<Damage>) -> Self {
        let mut census = Census::default();
        for log in 0..plan.logs {
            // A record that cannot be decoded is another fault; here it only tells nothing.
            let _ = scan_each(plan, LogId(log), &mut |record| {
                let _ = census.record(record.payload);
            });
        }
        let slots: Vec<u16> = ranges.iter().flat_map(|range| &range.lost).map(|lost| lost.slot).collect();
        let more = ranges.iter().any(|range| range.records_unknown > 0 || range.lost.is_empty());
        let conversations = census.sentences(&slots, more);
        Self { ranges, conversations }
    }
}

impl fmt::Display for DamageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ranges.len() {
            1 => write!(f, "the log is damaged in one place and was left as it is")?,
            count => write!(f, "the logs are damaged in {count} places and were left as they are")?,
        }
        for range in self.ranges.iter().take(RANGES_TOLD_MAX) {
            write!(f, "\n  {range}")?;
        }
        if self.ranges.len() > RANGES_TOLD_MAX {
            write!(f, "\n  and {} more (ringdesk log verify)", self.ranges.len() - RANGES_TOLD_MAX)?;
        }
        for sentence in &self.conversations {
            write!(f, "\n  {sentence}")?;
        }
        Ok(())
    }
}
