//! The shards as the control plane sees them: a mailbox to each and reports back. Nothing else of a shard is reachable
//! from here, so the data path runs on whatever the control plane does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringdesk_shard::io::Control;
use ringdesk_shard::report::ShardReport;
use tokio::sync::Mutex;
use tokio::sync::mpsc;

/// Longest wait for the reports of all shards.
const REPORT_WAIT: Duration = Duration::from_millis(500);
/// Reports younger than this are given again instead of asking the shards.
const REPORT_AGE: Duration = Duration::from_millis(200);
/// Longest wait for a place in a mailbox.
const MAILBOX_WAIT: Duration = Duration::from_secs(2);

/// Puts one control message into a shard's mailbox and wakes the shard; gives it back when the mailbox is full.
pub type Post = Box<dyn Fn(Control) -> Result<(), Control> + Send + Sync>;

/// A mailbox stayed full for [`MAILBOX_WAIT`].
#[derive(Debug)]
pub struct MailboxFull {
    /// Which shard.
    pub shard: usize,
}

struct Reports {
    inbox: mpsc::Receiver<Box<ShardReport>>,
    newest: Arc<Vec<ShardReport>>,
    at: Option<Instant>,
}

/// All shards of the process.
pub struct Shards {
    posts: Vec<Post>,
    reports: Mutex<Reports>,
}

impl Shards {
    /// `posts[i]` reaches shard `i`; its reports come through `inbox`.
    pub fn new(posts: Vec<Post>, inbox: mpsc::Receiver<Box<ShardReport>>) -> Self {
        Self { posts, reports: Mutex::new(Reports { inbox, newest: Arc::default(), at: None }) }
    }

    /// Number of shards.
    pub fn count(&self) -> usize {
        self.posts.len()
    }

    /// Posts to every shard, waiting for places in full mailboxes.
    pub async fn post(&self, message: &Control) -> Result<(), MailboxFull> {
        let deadline = Instant::now() + MAILBOX_WAIT;
        for (shard, post) in self.posts.iter().enumerate() {
            let mut rest = post(message.clone());
            while let Err(back) = rest {
                if Instant::now() > deadline {
                    return Err(MailboxFull { shard });
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                rest = post(back);
            }
        }
        Ok(())
    }

    /// One report per shard that answered in time, by shard number.
    pub async fn reports(&self) -> Arc<Vec<ShardReport>> {
        let mut state = self.reports.lock().await;
        if state.at.is_some_and(|at| at.elapsed() < REPORT_AGE) {
            return state.newest.clone();
        }
        while state.inbox.try_recv().is_ok() {}
        let mut found: Vec<ShardReport> = Vec::with_capacity(self.posts.len());
        if self.post(&Control::Report).await.is_ok() {
            let deadline = tokio::time::Instant::now() + REPORT_WAIT;
            while found.len() < self.posts.len() {
                match tokio::time::timeout_at(deadline, state.inbox.recv()).await {
                    Ok(Some(report)) if found.iter().all(|known| known.shard != report.shard) => {
                        found.push(*report)
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
        found.sort_by_key(|report| report.shard);
        state.newest = Arc::new(found);
        state.at = Some(Instant::now());
        state.newest.clone()
    }
}
