//! One visitor: its latest conversation, and the dedup of OPEN by (site, visitor, device, n).
//!
//! Owned by its slot. Most OPENs of a device find the same conversation again, so a device keeps runs: the first
//! n that was answered with a conversation. The newest `Limits::window` runs are kept, which is at least as many
//! keys. An n older than the oldest run gets `OutOfOrder` with the next n: it was recorded, yet what it was
//! answered with is forgotten, and naming another conversation would be a lie.

use crate::command::{Answer, Refusal};
use crate::decision::Decision;
use crate::device::Retired;
use crate::digest::Digest;
use crate::event::{Event, Status};
use crate::ids::{ConversationId, DeviceId, SLOTS, SiteId, Slot};
use crate::limits::Limits;

/// A visitor's key in its slot: `site/external id`, the site in decimal, so that the first slash ends it. One string
/// instead of a map per site: with many sites most slots have one visitor of each.
pub(crate) fn visitor_key(site: SiteId, visitor: &str) -> String {
    format!("{}/{visitor}", site.0)
}

/// The external id in a `visitor_key`.
pub(crate) fn visitor_name(key: &str) -> &str {
    let (_, name) = key.split_once('/').expect("a visitor's key has a slash behind the site");
    name
}

/// Devices of a visitor are not told apart by party in its memory of retired ones.
const PARTY: u32 = 0;

/// One visitor of a site.
#[derive(Default)]
pub(crate) struct Visitor {
    /// Number of its latest conversation.
    pub(crate) latest: u64,
    /// Least recently used first.
    openers: Vec<Opener>,
    retired: Retired,
}

/// One device's OPEN keys.
struct Opener {
    device: DeviceId,
    last: u64,
    runs: Vec<Run>,
}

/// From `first_n` on, up to the next run, OPEN was answered with this conversation.
struct Run {
    first_n: u64,
    number: u64,
}

impl Opener {
    fn number(&self, n: u64) -> Option<u64> {
        self.runs.iter().rev().find(|run| run.first_n <= n).map(|run| run.number)
    }
}

impl Visitor {
    /// Number of the conversation a recorded key was answered with; `None` for the next key.
    fn key(&self, device: DeviceId, n: u64) -> Result<Option<u64>, Refusal> {
        if self.retired.contains(PARTY, device) {
            return Err(Refusal::DeviceExpired);
        }
        let opener = self.openers.iter().find(|known| known.device == device);
        let next = opener.map_or(0, |opener| opener.last) + 1;
        if n == next {
            return Ok(None);
        }
        let known = opener.filter(|_| n < next).and_then(|opener| opener.number(n));
        known.map(Some).ok_or(Refusal::OutOfOrder { expected: next })
    }

    /// Room for a device: `None` when it is known or there is some, else the device to retire.
    fn device_room(&self, device: DeviceId, limits: &Limits) -> Result<Option<DeviceId>, Refusal> {
        let known = self.openers.iter().any(|known| known.device == device);
        if known || self.openers.len() < limits.devices_live_max as usize {
            return Ok(None);
        }
        if self.retired.len() >= limits.devices_retired_max as usize {
            return Err(Refusal::DeviceLimit);
        }
        Ok(self.openers.first().map(|oldest| oldest.device))
    }

    /// An OPEN was answered with a conversation.
    pub(crate) fn apply_open(&mut self, device: DeviceId, n: u64, number: u64, limits: &Limits) {
        let mut opener = match self.openers.iter().position(|known| known.device == device) {
            Some(known) => self.openers.remove(known),
            None => Opener { device, last: 0, runs: Vec::with_capacity(1) },
        };
        assert!(n == opener.last + 1, "device {device:?}: OPEN {n} after {}", opener.last);
        assert!(self.openers.len() < limits.devices_live_max as usize, "live devices are bounded by decide");
        opener.last = n;
        if opener.runs.last().is_none_or(|run| run.number != number) {
            if opener.runs.len() == limits.window as usize {
                opener.runs.remove(0);
            }
            opener.runs.push(Run { first_n: n, number });
        }
        if self.openers.is_empty() {
            self.openers.reserve_exact(1);
        }
        self.openers.push(opener);
    }

    pub(crate) fn apply_retired(&mut self, device: DeviceId, limits: &Limits) {
        let live = self.openers.iter().position(|known| known.device == device);
        self.openers.remove(live.expect("only a live device is retired"));
        self.retired.insert(PARTY, device, limits.devices_retired_max);
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.u64(self.latest);
        digest.count(self.openers.len());
        for opener in &self.openers {
            digest.u64(opener.device.0);
            digest.u64(opener.last);
            digest.count(opener.runs.len());
            for run in &opener.runs {
                digest.u64(run.first_n);
                digest.u64(run.number);
            }
        }
        self.retired.digest(digest);
    }
}

impl Decision<'_> {
    /// OPEN: a key seen before, the latest conversation while it is not resolved, or a new one.
    pub(crate) fn open(
        &mut self,
        (site, site_slot): (SiteId, Slot),
        visitor: &str,
        device: DeviceId,
        n: u64,
    ) -> Result<Answer, Refusal> {
        let bytes_max = self.limits.visitor_bytes_max as usize;
        if site_slot.0 >= SLOTS || n == 0 || visitor.is_empty() || visitor.len() > bytes_max {
            return Err(Refusal::Invalid);
        }
        let known = self.state.visitor(site, visitor);
        let (mut retire, mut latest) = (None, None);
        if let Some(known) = known {
            if let Some(number) = known.key(device, n)? {
                return Ok(self.opened(number, true));
            }
            retire = known.device_room(device, self.limits)?;
            latest = Some(known.latest);
        } else if n != 1 {
            return Err(Refusal::OutOfOrder { expected: 1 });
        }
        let open = latest.filter(|latest| self.state.conversations[latest].status != Status::Resolved);
        if open.is_none() && self.conversations >= self.limits.conversations_max {
            return Err(Refusal::Busy);
        }
        if let (Some(device), Some(latest)) = (retire, latest) {
            let conversation = ConversationId::new(self.slot, latest);
            self.push(Event::OpenerRetired { conversation, device });
        }
        let at = self.now;
        if let Some(number) = open {
            let conversation = ConversationId::new(self.slot, number);
            self.push(Event::Found { conversation, device, n, at });
            return Ok(self.opened(number, false));
        }
        let conversation = ConversationId::new(self.slot, self.state.last_number + 1);
        let visitor = visitor.to_owned();
        self.push(Event::Opened { conversation, site, site_slot, visitor, device, n, at });
        Ok(Answer::Opened { conversation, seq: 0, duplicate: false })
    }

    fn opened(&self, number: u64, duplicate: bool) -> Answer {
        let seq = self.state.conversations[&number].seq();
        Answer::Opened { conversation: ConversationId::new(self.slot, number), seq, duplicate }
    }
}
