//! Identities on a connection and what they listen to. One per connection, held in place, or those a gateway bound to
//! its channels.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringdesk_desk::command::Caller;
use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, SiteId};

/// Where a subscription stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Asked the owner for the items after `last`; pushes that come meanwhile belong to an earlier subscription.
    Asking,
    /// Pushes come, each `last + 1`.
    Live,
    /// The client is slow: nothing is pushed, the log serves it from `last` when it has drained.
    Paused,
}

/// One conversation a session listens to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// The conversation.
    pub conversation: ConversationId,
    /// Highest seq put into the outbox. The desk bounds seq to 32 bits.
    last: u32,
    /// Not answered yet since an invitation: starts near the end, wherever that is then.
    pub from_tail: bool,
    /// Never answered. The first answer says whether the conversation is the session's own; after that the items say it,
    /// each assignment in its place.
    pub fresh: bool,
    /// Where it stands.
    pub flow: Flow,
}

impl Listen {
    /// A subscription to what comes after `after`, not answered yet.
    pub fn asking(conversation: ConversationId, after: u64, from_tail: bool) -> Self {
        let mut listen = Self { conversation, last: 0, from_tail, fresh: true, flow: Flow::Asking };
        listen.reach(after);
        listen
    }

    /// Highest seq put into the outbox.
    pub fn last(&self) -> u64 {
        u64::from(self.last)
    }

    /// Everything up to `seq` is in the outbox. A client's cursor may lie beyond any seq there can be: it means the
    /// same as the highest.
    pub fn reach(&mut self, seq: u64) {
        self.last = u32::try_from(seq).unwrap_or(u32::MAX);
    }
}

/// What a session listens to, in order of subscription. A visitor listens to one conversation, which takes no
/// allocation.
#[derive(Clone, Default, Debug)]
pub enum Listens {
    /// Nothing yet.
    #[default]
    None,
    /// One conversation.
    One(Listen),
    /// Any number.
    #[allow(
        clippy::box_collection,
        reason = "8 bytes instead of 24 in every session, for the few that need it"
    )]
    Many(Box<Vec<Listen>>),
}

impl Listens {
    /// All of them.
    pub fn as_slice(&self) -> &[Listen] {
        match self {
            Self::None => &[],
            Self::One(listen) => std::slice::from_ref(listen),
            Self::Many(listens) => listens,
        }
    }

    /// All of them, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [Listen] {
        match self {
            Self::None => &mut [],
            Self::One(listen) => std::slice::from_mut(listen),
            Self::Many(listens) => listens,
        }
    }

    /// Adds one behind the others.
    pub fn push(&mut self, listen: Listen) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(listen),
            Self::One(first) => Self::Many(Box::new(vec![first, listen])),
            Self::Many(mut listens) => {
                listens.push(listen);
                Self::Many(listens)
            }
        };
    }

    /// Removes the subscription to a conversation.
    pub fn remove(&mut self, conversation: ConversationId) {
        match self {
            Self::One(listen) if listen.conversation == conversation => *self = Self::None,
            Self::Many(listens) => listens.retain(|listen| listen.conversation != conversation),
            _ => {}
        }
    }

    /// Takes the first one out, if there are at least `max`.
    pub fn make_room(&mut self, max: usize) -> Option<Listen> {
        match self {
            Self::Many(listens) if listens.len() >= max => Some(listens.remove(0)),
            _ => None,
        }
    }
}

/// The caller of a session's requests.
pub fn caller(site: SiteId, agent: Option<AgentId>, name: &str) -> Caller<'_> {
    match agent {
        Some(agent) => Caller::Agent { site, agent },
        None => Caller::Visitor { site, visitor: name },
    }
}

/// One identity on a connection.
#[derive(Debug)]
pub struct Session {
    /// External id of the visitor, or login of the agent. Shared with the desk once it knows the visitor.
    pub name: Arc<str>,
    /// Device of HELLO or BIND.
    pub device: DeviceId,
    /// What it listens to.
    pub listens: Listens,
    /// The agent's number, or 0 for a visitor.
    pub agent: u32,
    /// Number of requests not answered yet.
    pub asked: u16,
}

impl Session {
    /// The agent, or `None` for a visitor.
    pub fn agent(&self) -> Option<AgentId> {
        (self.agent != 0).then_some(AgentId(self.agent))
    }

    /// The subscription to a conversation.
    pub fn listen_mut(&mut self, conversation: ConversationId) -> Option<&mut Listen> {
        self.listens.as_mut_slice().iter_mut().find(|listen| listen.conversation == conversation)
    }
}

/// The sessions of a connection by channel.
#[derive(Debug)]
pub enum Sessions {
    /// The connection's own session has ended.
    None,
    /// The connection's own, on channel 0.
    One(Session),
    /// Those a gateway bound, none of them on channel 0.
    Gateway(BTreeMap<u32, Session>),
}

impl Sessions {
    /// Whether the connection is a gateway's.
    pub fn is_gateway(&self) -> bool {
        matches!(self, Self::Gateway(_))
    }

    /// The session on a channel.
    pub fn get(&self, channel: u32) -> Option<&Session> {
        match self {
            Self::One(session) if channel == 0 => Some(session),
            Self::Gateway(sessions) => sessions.get(&channel),
            _ => None,
        }
    }

    /// The session on a channel, to be changed.
    pub fn get_mut(&mut self, channel: u32) -> Option<&mut Session> {
        match self {
            Self::One(session) if channel == 0 => Some(session),
            Self::Gateway(sessions) => sessions.get_mut(&channel),
            _ => None,
        }
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Gateway(sessions) => sessions.len(),
        }
    }

    /// Binds a session to a channel of a gateway. Panics on any other connection.
    pub fn bind(&mut self, channel: u32, session: Session) {
        let Self::Gateway(sessions) = self else { panic!("only a gateway binds") };
        sessions.insert(channel, session);
    }

    /// Ends the session on a channel. `false`: there was none.
    pub fn remove(&mut self, channel: u32) -> bool {
        match self {
            Self::One(_) if channel == 0 => {
                *self = Self::None;
                true
            }
            Self::Gateway(sessions) => sessions.remove(&channel).is_some(),
            _ => false,
        }
    }

    /// All sessions with their channels, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Session)> {
        let (own, bound) = match self {
            Self::None => (None, None),
            Self::One(session) => (Some((0, session)), None),
            Self::Gateway(sessions) => (None, Some(sessions)),
        };
        own.into_iter().chain(
            bound.into_iter().flat_map(|bound| bound.iter().map(|(channel, session)| (*channel, session))),
        )
    }
}

/// The sites that had a session here by number and name, each kept once, for ever: there are as many as the operator
/// has customers.
#[derive(Default, Debug)]
pub struct Sites {
    places: BTreeMap<(SiteId, Arc<str>), u32>,
    known: Vec<(SiteId, Arc<str>)>,
}

impl Sites {
    /// The place of a site, from now on.
    pub fn place(&mut self, site: SiteId, name: &Arc<str>) -> u32 {
        let key = (site, name.clone());
        if let Some(place) = self.places.get(&key) {
            return *place;
        }
        let place = self.known.len() as u32;
        self.known.push(key.clone());
        self.places.insert(key, place);
        place
    }

    /// The name of the site at a place.
    pub fn name(&self, place: u32) -> &Arc<str> {
        &self.known[place as usize].1
    }

    /// The number of the site at a place.
    pub fn site(&self, place: u32) -> SiteId {
        self.known[place as usize].0
    }
}

#[cfg(test)]
mod tests {
    use ringdesk_desk::ids::Slot;

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size_of::<Listens>(), 16);
        assert_eq!(size_of::<Session>(), 48);
        assert_eq!(size_of::<Sessions>(), 48);
    }

    #[test]
    fn listens_keep_their_order() {
        let id = |number| ConversationId::new(Slot(1), number);
        let mut listens = Listens::default();
        for number in 1..=4 {
            listens.push(Listen::asking(id(number), number, false));
        }
        listens.remove(id(2));
        let numbers = |listens: &Listens| -> Vec<u64> {
            listens.as_slice().iter().map(|listen| listen.conversation.number()).collect()
        };
        assert_eq!(numbers(&listens), [1, 3, 4]);
        assert_eq!(listens.make_room(4), None);
        assert_eq!(listens.make_room(3).map(|first| first.last()), Some(1));
        assert_eq!(numbers(&listens), [3, 4]);
        let mut one = Listens::One(Listen::asking(id(9), u64::MAX >> 1, false));
        assert_eq!(one.as_slice()[0].last(), u64::from(u32::MAX));
        one.remove(id(9));
        assert!(one.as_slice().is_empty());
    }
}
