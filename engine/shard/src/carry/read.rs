//! Bytes to a carried connection. Every count is held against the bytes that are left before anything is allocated.

use super::*;
use crate::front::{CHANNELS_MAX, LISTENS_MAX};

struct Reader<'b> {
    rest: &'b [u8],
}

type Read<T> = Result<T, CarryError>;

/// Least bytes of a session, a subscription and a cursor.
const SESSION_BYTES: usize = 24;
const LISTEN_BYTES: usize = 13;
const CURSOR_BYTES: usize = 20;

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Read<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CarryError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as long as was taken"))
    }

    fn u8(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self, name: &'static str) -> Read<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CarryError::Field(name)),
        }
    }

    fn bytes(&mut self) -> Read<&'b [u8]> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// A count of things of at least `least` bytes each.
    fn count(&mut self, least: usize, max: usize, name: &'static str) -> Read<usize> {
        let count = self.u32()? as usize;
        if count > max {
            return Err(CarryError::Field(name));
        }
        if count > self.rest.len() / least {
            return Err(CarryError::Short);
        }
        Ok(count)
    }

    fn name(&mut self, field: &'static str) -> Read<Arc<str>> {
        let bytes = self.bytes()?;
        let name = std::str::from_utf8(bytes).map_err(|_| CarryError::Field(field))?;
        if bytes.len() > NAME_MAX { Err(CarryError::Field(field)) } else { Ok(Arc::from(name)) }
    }
}

pub(super) fn carried(bytes: &[u8]) -> Read<Carried> {
    if bytes.len() > CARRIED_BYTES_MAX {
        return Err(CarryError::Field("length"));
    }
    let mut reader = Reader { rest: bytes };
    match reader.u8()? {
        VERSION => {}
        other => return Err(CarryError::Version(other)),
    }
    let transport = match reader.u8()? {
        0 => Transport::Stream,
        1 => Transport::WsBinary,
        2 => Transport::WsJson,
        _ => return Err(CarryError::Field("transport")),
    };
    let deflate = match reader.u8()? {
        0 => None,
        bits => Some(Deflate::of_window(bits).ok_or(CarryError::Field("deflate"))?),
    };
    let address = match reader.u8()? {
        0 => None,
        4 => Some(IpAddr::from(reader.array::<4>()?)),
        6 => Some(IpAddr::from(reader.array::<16>()?)),
        _ => return Err(CarryError::Field("address")),
    };
    let silent_s = reader.u32()?;
    let (unsent, undecoded) = (reader.bytes()?.to_vec(), reader.bytes()?.to_vec());
    let stage = stage(&mut reader)?;
    if !reader.rest.is_empty() {
        return Err(CarryError::Long);
    }
    Ok(Carried { transport, deflate, address, silent_s, unsent, undecoded, stage })
}

fn stage(reader: &mut Reader<'_>) -> Read<Stage> {
    Ok(match reader.u8()? {
        0 => {
            let speaks = if reader.flag("speaks")? { Speaks::WebSocket } else { Speaks::Binary };
            let (tls, proxied) = (reader.flag("tls")?, reader.flag("proxied")?);
            Stage::Proxy(ListenerKind { speaks, tls, proxied })
        }
        1 => Stage::Greeting { upgraded: reader.flag("upgraded")? },
        2 => Stage::Hello(Box::new(hello(reader)?)),
        3 => Stage::Ready(Box::new(ready(reader)?)),
        4 => Stage::Closing,
        _ => return Err(CarryError::Field("stage")),
    })
}

fn hello(reader: &mut Reader<'_>) -> Read<Hello> {
    let site = SiteId(reader.u32()?);
    let site_name = reader.name("site_name")?;
    let identity = match reader.u8()? {
        0 => Identity::Visitor { visitor: reader.name("visitor")? },
        1 => Identity::Agent { agent: AgentId(reader.u32()?), login: reader.name("login")? },
        2 => Identity::Gateway,
        _ => return Err(CarryError::Field("identity")),
    };
    let (expires_s, issued_s) = (reader.u64()?, reader.u64()?);
    let (device, tag) = (DeviceId(reader.u64()?), reader.u32()?);
    let count = reader.count(CURSOR_BYTES, CURSORS_MAX, "cursors")?;
    let cursors = (0..count).map(|_| Ok((reader.u64()?, reader.u32()?, reader.u64()?)));
    let cursors = cursors.collect::<Read<Vec<_>>>()?;
    let frames = reader.bytes()?.to_vec();
    let principal = Principal { site, site_name, identity, expires_s, issued_s };
    Ok(Hello { principal, device, tag, cursors, frames })
}

fn ready(reader: &mut Reader<'_>) -> Read<Ready> {
    let site = SiteId(reader.u32()?);
    let site_name = reader.name("site_name")?;
    let (issued_s, log_epoch) = (reader.u32()?, reader.u32()?);
    let gateway = reader.flag("gateway")?;
    let most = if gateway { CHANNELS_MAX } else { 1 };
    let count = reader.count(SESSION_BYTES, most, "sessions")?;
    let mut sessions: Vec<(u32, Session)> = Vec::with_capacity(count);
    for _ in 0..count {
        let channel = reader.u32()?;
        // A gateway's own channel is 0, everybody else's session is on it; the order says that none is there twice.
        let follows = sessions.last().is_none_or(|(before, _)| *before < channel);
        if gateway == (channel == 0) || !follows {
            return Err(CarryError::Field("channel"));
        }
        sessions.push((channel, session(reader)?));
    }
    Ok(Ready { site, site_name, issued_s, log_epoch, gateway, sessions })
}

fn session(reader: &mut Reader<'_>) -> Read<Session> {
    let name = reader.name("name")?;
    let (device, agent) = (DeviceId(reader.u64()?), reader.u32()?);
    let count = reader.count(LISTEN_BYTES, LISTENS_MAX, "listens")?;
    let mut listens = Vec::with_capacity(count);
    for _ in 0..count {
        let (conversation, after) = (ConversationId(reader.u64()?), reader.u32()?);
        let (from_tail, live) = match reader.u8()? {
            0 => (false, false),
            1 => (true, false),
            2 => (false, true),
            _ => return Err(CarryError::Field("listen")),
        };
        listens.push(Listen { conversation, after, from_tail, live });
    }
    Ok(Session { name, device, agent, listens })
}
