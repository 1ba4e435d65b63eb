//! A start that takes over from a running process: everything a start does, in an order that leaves that process serving
//! as long as possible and able to go on until the last moment.
//!
//! Order: greet it; read its logs while it writes them; open kernels; ask it to stand still; read the rest, take
//! listeners and connections; claim. **From here on the data are this process's**, and what follows is an ordinary start
//! from META on. Before, nothing in the data folder is written.

use std::fs::File;

use ringdesk_desk::ids::Slot;
use ringdesk_persist::Meta;
use ringdesk_shard::carry::Carried;
use ringdesk_shard::router::Router;
use ringdesk_uring::files::Durability;
use ringdesk_uring::host::raise_descriptor_limit;

use super::error::BootError;
use super::fleet::{self, Crew};
use super::folder::Lock;
use super::follow::Followers;
use super::listeners::{Listeners, keep_given};
use super::replay::{self, Replayed};
use super::{
    Ahead, Backend, Booted, Channels, backend, common, folder, open_directory, owner_configs, shard_count,
};
use crate::config::{Config, Overrides};
use crate::say;
use crate::tls::Certificate;
use crate::upgrade::Summary;
use crate::upgrade::take::Predecessor;
use crate::upgrade::wire::{Batch, Welcome};
use crate::{boot, journal};

/// Bytes left to read with which the old process may be asked to stand still.
const REST_BYTES: u64 = 256 << 10;
/// Most looks for more; under a load that grows faster than it is read, waiting does not help.
const ROUNDS_MAX: usize = 64;

/// Takes over from the process that serves the data folder, up to the point where the shards can be built.
pub(super) fn succeed(
    overrides: &Overrides,
    channels: &mut Option<Channels>,
) -> Result<(Booted, Ahead), BootError> {
    let config = Config::load(overrides)?;
    journal::set_level(config.live.log_level);
    folder::check(&config.fixed.data)?;
    let mut before = Predecessor::greet(&config.fixed.data)?;
    match succeed_to(&mut before, overrides, channels) {
        Ok((booted, crew, replayed, summary)) => Ok((booted, Ahead { crew, replayed, before, summary })),
        Err(error) => {
            before.refuse(&error.to_string());
            Err(error)
        }
    }
}

fn refused(sentence: impl Into<String>) -> BootError {
    BootError::TakeOver(sentence.into())
}

/// What is known before the logs are read.
struct Prepared {
    config: Config,
    overrides: Overrides,
    meta: Meta,
    shards: u16,
    nothing_moved: bool,
    entries: u32,
    table_entries: u32,
    backend: Backend,
    certificate: Option<Certificate>,
    listeners: Listeners,
}

/// Everything that can be found out or opened beside the running server.
fn prepare(welcome: &Welcome, overrides: &Overrides) -> Result<Prepared, BootError> {
    let mut overrides = overrides.clone();
    keep_given(&welcome.listeners, &mut overrides);
    let config = Config::load(&overrides)?;
    let data = &config.fixed.data;
    let shards = shard_count(config.fixed.shards)?;
    if shards != welcome.shards {
        let sentence = "the number of shards changes at a restart only";
        return Err(refused(format!(
            "the running server has {} shards and this one would have {shards}: {sentence}",
            welcome.shards
        )));
    }
    let meta = folder::read_meta(data)?;
    if meta.boot_epoch != welcome.boot_epoch {
        return Err(refused("the running server does not serve this data folder"));
    }
    let nothing_moved = folder::is_same_layout(data, shards);
    let descriptors = raise_descriptor_limit().unwrap_or(1024);
    let disk = if welcome.direct_io { Durability::Direct } else { Durability::Buffered };
    let backend = backend::choose(config.fixed.backend, data, Some(disk))?;
    let entries = boot::table_entries(&config, &backend, descriptors, shards);
    let certificate = boot::certificate(&config)?;
    let listeners = Listeners::beside(&config, &welcome.listeners)?;
    let table_entries = Backend::table(descriptors);
    Ok(Prepared {
        config,
        overrides,
        meta,
        shards,
        nothing_moved,
        entries,
        table_entries,
        backend,
        certificate,
        listeners,
    })
}

fn succeed_to(
    before: &mut Predecessor,
    overrides: &Overrides,
    channels: &mut Option<Channels>,
) -> Result<(Booted, Crew, Vec<Replayed>, Summary), BootError> {
    let mut prepared = prepare(&before.welcome, overrides)?;
    let Prepared { config, meta, shards, .. } = &prepared;
    let (data, shards) = (config.fixed.data.clone(), *shards);
    let lock_file = data.join("LOCK");
    let align = File::open(&lock_file)
        .map(|file| folder::write_alignment(&file))
        .map_err(BootError::folder(&lock_file, "it cannot be read"))?;
    let owners = owner_configs(config, shards, meta.boot_epoch + 1, align);
    let mut followers = Followers::new(replay::Plan {
        data: &data,
        logs: meta.logs,
        boots: meta.boot_epoch,
        segment_bytes: owners[0].geometry.segment_bytes,
        shards: owners,
        nothing_moved: prepared.nothing_moved,
    })?;
    catch_up(&mut followers)?;
    let channels = channels.insert(Channels::new(shards));
    let tables = (prepared.entries, prepared.table_entries);
    let common = common(&config.fixed, &prepared.backend, tables, shards, channels.senders());
    let crew = fleet::open(shards, common)?;
    // The kernels took a while to open.
    catch_up(&mut followers)?;
    say!(Info, "read {} records beside the running server; asking it to stand still", followers.records());

    let listeners = &mut prepared.listeners;
    let given = before.stand_still(&mut |name, sockets| listeners.receive(name, sockets))?;
    let lock = Lock::handed_over(&data, given.lock)
        .map_err(BootError::folder(&lock_file, "the lock cannot be taken"))?
        .ok_or_else(|| refused("the running server's lock is not that of this data folder"))?;
    let replayed = followers.finish(&given.ends)?;
    let summary = adopt_all(before, &crew, shards)?;
    if !prepared.listeners.is_complete() {
        return Err(refused("not every listener came along"));
    }
    before.claim()?;
    Ok((own(prepared, lock)?, crew, replayed, summary))
}

/// The data are this process's: from META on in the order of any start.
fn own(prepared: Prepared, lock: Lock) -> Result<Booted, BootError> {
    let Prepared { config, overrides, meta, shards, nothing_moved, .. } = prepared;
    let Prepared { entries, table_entries, backend, certificate, listeners, .. } = prepared;
    let data = &config.fixed.data;
    let same = folder::same_layout_always(data, shards)?;
    assert_eq!(same, nothing_moved, "the numbers of shards used so far cannot have changed");
    let next = folder::next_boot(data, shards)?;
    assert_eq!(
        next.boot_epoch,
        meta.boot_epoch + 1,
        "the process before has written META after it gave it away"
    );
    replay::sync_all(data, next.logs, usize::from(shards))?;
    let (directory, first_start) = open_directory(data, next.logs)?;
    Ok(Booted {
        config,
        meta: next,
        lock,
        shards,
        entries,
        table_entries,
        nothing_moved,
        overrides,
        listeners,
        certificate,
        directory,
        first_start,
        backend,
    })
}

fn catch_up(followers: &mut Followers<'_>) -> Result<(), BootError> {
    for _ in 0..ROUNDS_MAX {
        if followers.advance()? <= REST_BYTES {
            break;
        }
    }
    Ok(())
}

/// Takes every connection, each to the shard that owns its identity.
fn adopt_all(before: &mut Predecessor, crew: &Crew, shards: u16) -> Result<Summary, BootError> {
    let router = Router::even(shards);
    let (mut carried_all, mut closed) = (0, 0);
    let end = before.connections(&mut |batch, descriptors| {
        let Batch { shard, connections } = batch;
        let mut sorted: Vec<(Vec<_>, Vec<Carried>)> = (0..shards).map(|_| Default::default()).collect();
        for (encoded, descriptor) in connections.iter().zip(descriptors) {
            let carried = Carried::decode(encoded)
                .map_err(|error| refused(format!("a connection cannot be understood: {error}")))?;
            let home = carried.home().map_or(shard % shards, |slot: Slot| router.owner(slot));
            let (sockets, states) = &mut sorted[usize::from(home)];
            sockets.push(descriptor);
            states.push(carried);
        }
        for (home, (sockets, states)) in (0..).zip(sorted) {
            let came = sockets.len();
            if came > 0 {
                let took = crew
                    .adopt(home, sockets, states)
                    .map_err(|error| refused(format!("shard {home} cannot take connections: {error}")))?;
                carried_all += took as u64;
                closed += (came - took) as u64;
            }
        }
        Ok(())
    })?;
    assert_eq!(end.carried, carried_all + closed, "every connection that was sent came");
    Ok(Summary { pause_ms: 0, carried: carried_all, drained: end.drained, closed })
}
