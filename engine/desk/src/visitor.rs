//! One visitor: its latest conversation, and the dedup of OPEN by (site, visitor, device, n).
//!
//! Owned by the desk's store. Most OPENs of a device find the same conversation again, so a device keeps runs: the first
//! n that was answered with a conversation. All runs of a live device are kept, 8 bytes each, at most one per
//! conversation of the visitor, so every key is answered the same for ever. Finding old keys in the log instead would
//! need the position of each `Opened` and `Found`, which is more than a run.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::command::{Answer, Refusal};
use crate::decision::Decision;
use crate::device::Retired;
use crate::digest::Digest;
use crate::event::{Event, Status};
use crate::ids::{ConversationId, DeviceId, SLOTS, SiteId, Slot};
use crate::limits::Limits;

/// Devices of a visitor are not told apart by party in its memory of retired ones.
const PARTY: u32 = 0;

/// Highest OPEN sequence of one device, which a run keeps in 32 bits. A device that used it up is told that it has
/// expired, so that its user comes back under a new id.
const OPEN_N_MAX: u64 = u32::MAX as u64;

/// One visitor of a site.
pub(crate) struct Visitor {
    /// External id. Shared with the sessions of the visitor.
    pub(crate) name: Arc<str>,
    openers: Openers,
}

const _: () = assert!(size_of::<Visitor>() == 32);

/// The devices that opened a visitor's conversations, and the number of the latest one. Most visitors have one device and
/// one conversation, which takes no allocation.
enum Openers {
    /// One device, up to this n answered with the visitor's only conversation.
    One { device: DeviceId, last: NonZeroU32, latest: u32 },
    /// Whatever else.
    Many(Box<Crowd>),
}

struct Crowd {
    /// Least recently used first.
    live: Vec<Opener>,
    retired: Retired,
    latest: u32,
}

/// One device's OPEN keys.
struct Opener {
    device: DeviceId,
    last: u64,
    /// In order of `first_n`, the first from n 1 on.
    runs: Vec<Run>,
}

/// From `first_n` on, up to the next run, OPEN was answered with this conversation. `Limits::check` and `OPEN_N_MAX`
/// keep both within 32 bits.
struct Run {
    first_n: u32,
    number: u32,
}

impl Opener {
    /// Number of the conversation that `n`, which is recorded, was answered with.
    fn number(&self, n: u64) -> u64 {
        let behind = self.runs.partition_point(|run| u64::from(run.first_n) <= n);
        assert!(behind > 0, "device {:?}: no run holds OPEN {n}", self.device);
        u64::from(self.runs[behind - 1].number)
    }

    /// Records the next n.
    fn record(&mut self, n: u64, number: u64) {
        assert!(n == self.last + 1, "device {:?}: OPEN {n} after {}", self.device, self.last);
        self.last = n;
        if self.runs.last().is_some_and(|run| u64::from(run.number) == number) {
            return;
        }
        if self.runs.len() == self.runs.capacity() {
            // An eighth at a time: most devices have one run, and none shall pay for twice what it has.
            self.runs.reserve_exact(1 + self.runs.len() / 8);
        }
        let first_n = u32::try_from(n).expect("OPEN_N_MAX bounds n");
        self.runs.push(Run { first_n, number: narrow(number) });
    }
}

impl Visitor {
    /// A visitor whose first OPEN, which is the device's first, made conversation `number`.
    pub(crate) fn new(name: &str, device: DeviceId, number: u64) -> Self {
        let openers = Openers::One { device, last: NonZeroU32::MIN, latest: narrow(number) };
        Self { name: Arc::from(name), openers }
    }

    /// Number of its latest conversation.
    pub(crate) fn latest(&self) -> u64 {
        u64::from(match &self.openers {
            Openers::One { latest, .. } => *latest,
            Openers::Many(crowd) => crowd.latest,
        })
    }

    /// Number of the conversation a recorded key was answered with; `None` for the next key.
    fn answer(&self, device: DeviceId, n: u64) -> Result<Option<u64>, Refusal> {
        let (last, number) = match &self.openers {
            Openers::One { device: known, last, latest } if *known == device => {
                (u64::from(last.get()), u64::from(*latest))
            }
            Openers::One { .. } => (0, 0),
            Openers::Many(crowd) => {
                if crowd.retired.contains(PARTY, device) {
                    return Err(Refusal::DeviceExpired);
                }
                let opener = crowd.live.iter().find(|known| known.device == device);
                let last = opener.map_or(0, |opener| opener.last);
                (last, opener.filter(|_| (1..=last).contains(&n)).map_or(0, |opener| opener.number(n)))
            }
        };
        match n {
            _ if n <= last => Ok(Some(number)),
            _ if n > last + 1 => Err(Refusal::OutOfOrder { expected: last + 1 }),
            _ if n > OPEN_N_MAX => Err(Refusal::DeviceExpired),
            _ => Ok(None),
        }
    }

    /// Room for a device: `None` when it is known or there is some, else the device to retire.
    fn device_room(&self, device: DeviceId, limits: &Limits) -> Result<Option<DeviceId>, Refusal> {
        let (known, live, retired, oldest) = match &self.openers {
            Openers::One { device: one, .. } => (*one == device, 1, 0, Some(*one)),
            Openers::Many(crowd) => {
                let known = crowd.live.iter().any(|known| known.device == device);
                let oldest = crowd.live.first().map(|oldest| oldest.device);
                (known, crowd.live.len(), crowd.retired.len(), oldest)
            }
        };
        if known || live < limits.devices_live_max as usize {
            return Ok(None);
        }
        if retired >= limits.devices_retired_max as usize {
            return Err(Refusal::DeviceLimit);
        }
        Ok(oldest)
    }

    fn crowd(&mut self) -> &mut Crowd {
        if let Openers::One { device, last, latest } = self.openers {
            let runs = vec![Run { first_n: 1, number: latest }];
            let live = vec![Opener { device, last: u64::from(last.get()), runs }];
            self.openers = Openers::Many(Box::new(Crowd { live, retired: Retired::default(), latest }));
        }
        let Openers::Many(crowd) = &mut self.openers else { panic!("it was just made one") };
        crowd
    }

    /// An OPEN was answered with a conversation.
    pub(crate) fn apply_open(&mut self, device: DeviceId, n: u64, number: u64, limits: &Limits) {
        let narrowed = narrow(number);
        match &mut self.openers {
            Openers::One { device: known, last, latest } if *known == device && *latest == narrowed => {
                assert!(n == u64::from(last.get()) + 1, "device {device:?}: OPEN {n} after {last}");
                *last = last.checked_add(1).expect("OPEN_N_MAX bounds n");
                return;
            }
            _ => {}
        }
        let crowd = self.crowd();
        let mut opener = match crowd.live.iter().position(|known| known.device == device) {
            Some(known) => crowd.live.remove(known),
            None => Opener { device, last: 0, runs: Vec::new() },
        };
        assert!(crowd.live.len() < limits.devices_live_max as usize, "live devices are bounded by decide");
        opener.record(n, number);
        crowd.live.push(opener);
        crowd.latest = narrowed;
    }

    pub(crate) fn apply_retired(&mut self, device: DeviceId, limits: &Limits) {
        let crowd = self.crowd();
        let live = crowd.live.iter().position(|known| known.device == device);
        crowd.live.remove(live.expect("only a live device is retired"));
        crowd.retired.insert(PARTY, device, limits.devices_retired_max);
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.u64(self.latest());
        let crowd = match &self.openers {
            Openers::Many(crowd) => crowd,
            Openers::One { device, last, latest } => {
                digest.count(1);
                digest.u64(device.0);
                digest.u32(last.get());
                digest.count(1);
                digest.u64(1);
                digest.u64(u64::from(*latest));
                return digest.count(0);
            }
        };
        digest.count(crowd.live.len());
        for opener in &crowd.live {
            digest.u64(opener.device.0);
            digest.u64(opener.last);
            digest.count(opener.runs.len());
            for run in &opener.runs {
                digest.u64(u64::from(run.first_n));
                digest.u64(u64::from(run.number));
            }
        }
        crowd.retired.digest(digest);
    }

    /// Takes every key for one of the newest run: a bug, planted to see it found.
    #[cfg(feature = "planted")]
    pub(crate) fn forget_old_opens(&mut self) {
        let Openers::Many(crowd) = &mut self.openers else { return };
        for opener in &mut crowd.live {
            opener.runs.drain(..opener.runs.len() - 1);
            opener.runs[0].first_n = 1;
        }
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).expect("conversations_max bounds numbers")
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
            if let Some(number) = known.answer(device, n)? {
                return Ok(self.opened(number, true));
            }
            retire = known.device_room(device, self.limits)?;
            latest = Some(known.latest());
        } else if n != 1 {
            return Err(Refusal::OutOfOrder { expected: 1 });
        }
        let open = latest.filter(|latest| self.state.numbered(*latest).status != Status::Resolved);
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
        let conversation = ConversationId::new(self.slot, self.state.last_number() + 1);
        let visitor = visitor.to_owned();
        self.push(Event::Opened { conversation, site, site_slot, visitor, device, n, at });
        Ok(Answer::Opened { conversation, seq: 0, duplicate: false })
    }

    fn opened(&self, number: u64, duplicate: bool) -> Answer {
        let seq = self.state.numbered(number).seq();
        Answer::Opened { conversation: ConversationId::new(self.slot, number), seq, duplicate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(7);

    /// A device whose conversation `number` was opened with `keys` keys each.
    fn visitor_with(conversations: u64, keys: u64) -> Visitor {
        let mut visitor = Visitor::new("v", DEVICE, 10);
        for n in 2..=conversations * keys {
            visitor.apply_open(DEVICE, n, 10 * n.div_ceil(keys), &Limits::default());
        }
        visitor
    }

    #[test]
    fn every_key_keeps_its_conversation() {
        for (conversations, keys) in [(1, 1), (1, 40), (40, 1), (1000, 3)] {
            let visitor = visitor_with(conversations, keys);
            let last = conversations * keys;
            for n in 1..=last {
                assert_eq!(visitor.answer(DEVICE, n), Ok(Some(10 * n.div_ceil(keys))), "n {n} of {last}");
            }
            assert_eq!(visitor.answer(DEVICE, last + 1), Ok(None));
            assert_eq!(visitor.answer(DEVICE, last + 2), Err(Refusal::OutOfOrder { expected: last + 1 }));
            assert_eq!(visitor.answer(DEVICE, u64::MAX), Err(Refusal::OutOfOrder { expected: last + 1 }));
            assert_eq!(visitor.answer(DeviceId(8), 2), Err(Refusal::OutOfOrder { expected: 1 }));
        }
    }

    #[test]
    fn a_run_costs_eight_bytes_and_an_eighth() {
        assert_eq!(std::mem::size_of::<Run>(), 8);
        for conversations in [1, 16, 1000] {
            let mut visitor = visitor_with(conversations, 2);
            let opener = &visitor.crowd().live[0];
            let (len, room) = (opener.runs.len(), opener.runs.capacity());
            assert_eq!(len as u64, conversations);
            assert!(room <= len + 1 + len / 8, "room for {room} runs, {len} used");
        }
    }

    #[test]
    fn a_device_that_used_up_its_numbers_has_expired() {
        let mut visitor = visitor_with(1, 1);
        visitor.openers = Openers::One { device: DEVICE, last: NonZeroU32::MAX, latest: 10 };
        assert_eq!(visitor.answer(DEVICE, OPEN_N_MAX), Ok(Some(10)));
        assert_eq!(visitor.answer(DEVICE, OPEN_N_MAX + 1), Err(Refusal::DeviceExpired));
        assert_eq!(
            visitor.answer(DEVICE, OPEN_N_MAX + 2),
            Err(Refusal::OutOfOrder { expected: OPEN_N_MAX + 1 })
        );
    }
}
