//! Logs of released versions: they must replay to the same state for ever.
//!
//! A golden file has one record per line in hex, then `digest` and the digest of the desk that applied them.
//! Lines that begin with `#` are remarks. The records of a file are never changed; a new version of an event gets
//! a new file. The digest of an old file changes only in the change that gives the state a new field.
//! `RINGDESK_DESK_GOLDEN=write` writes the file of the current version when it does not exist.

mod world;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use ringdesk_desk::codec::{decode, encode};
use ringdesk_desk::command::{Availability, Command};
use ringdesk_desk::event::Event;
use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId};
use ringdesk_desk::{Desk, Limits};
use world::{SITE, SITE_SLOT, VISITOR_SLOT, World, agent, visitor};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// A history that has every kind of event in it.
fn history() -> World {
    let mut world = World::new(Limits::default());
    world.staff(7, 2);
    let id = world.opened("zoë 访客");
    let zoe = visitor("zoë 访客");
    world.send(id, zoe, (1, 1), 0, "hello").expect("the first key");
    world.drain();
    let receipt = |caller| Command::Receipt { conversation: id, caller, delivered: 3, read: 2 };
    world.run(&receipt(zoe)).expect("three items");
    world.run(&receipt(agent(7))).expect("the owner");
    world.send(id, agent(7), (1, 1), 1, "good day").expect("the owner");
    world.unlink(7).expect("known");
    world.pass_ms(31_000);
    world.drain();
    world.staff(8, 1);
    world.drain();
    // 33 devices: the last one takes the place of the first, both in the conversation and in OPEN.
    for device in 2..=33 {
        world.open("zoë 访客", device, 1).expect("a new device");
        world.send(id, zoe, (device, 1), 0, "from elsewhere").expect("a new device");
    }
    world.crash();
    world.declare(8, 2, Availability::Offline, 1).expect("in order");
    world.drain();
    world.resolve(id, zoe, (33, 2), 0).expect("the visitor may");
    world.drain();
    world.send(id, zoe, (33, 3), 0, "one more thing").expect("it reopens");
    world.declare(8, 3, Availability::Away, 1).expect("in order");
    world.open("bob", 1, 1).expect("a new visitor");
    world
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes all");
        hex
    })
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("hex")).collect()
}

fn kind_name(event: &Event) -> String {
    let text = format!("{event:?}");
    text.split(' ').next().expect("a name").to_owned()
}

#[test]
fn the_history_has_every_kind_of_event() {
    let world = history();
    let events = world.log.iter().flat_map(|record| decode(record).expect("our own"));
    let kinds: std::collections::BTreeSet<String> = events.map(|event| kind_name(&event)).collect();
    assert_eq!(kinds.len(), 18, "{kinds:?}");
}

#[test]
fn golden_logs_replay_to_their_digest() {
    let path = folder().join("v2.hex");
    if std::env::var("RINGDESK_DESK_GOLDEN").is_ok_and(|value| value == "write") && !path.exists() {
        let world = history();
        let mut text = String::from(
            "# Records of event version 1 with AgentLapsed, one per line; then the digest of the desk.\n",
        );
        for record in &world.log {
            text += &to_hex(record);
            text.push('\n');
        }
        writeln!(text, "digest {:016x}", world.desk.digest()).expect("a string takes all");
        fs::write(&path, text).expect("the golden folder is there");
    }
    let mut files: Vec<PathBuf> = fs::read_dir(folder())
        .expect("the golden folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = fs::read_to_string(&file).expect("a golden file");
        let mut desk = Desk::new(Limits::default());
        let mut digest = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(hex) = line.strip_prefix("digest ") {
                digest = Some(u64::from_str_radix(hex, 16).expect("hex"));
                continue;
            }
            let record = from_hex(line);
            let events =
                decode(&record).unwrap_or_else(|error| panic!("{}: {error}: {line}", file.display()));
            let mut again = Vec::new();
            encode(&events, &mut again);
            assert!(
                file != path || to_hex(&again) == line,
                "the version written today has another form: {line}"
            );
            events.iter().for_each(|event| desk.apply(event));
        }
        assert_eq!(Some(desk.digest()), digest, "{}", file.display());
    }
}

/// The golden state, spelled out: a digest alone would only say that something changed.
#[test]
fn the_history_ends_as_told() {
    let world = history();
    let id = ConversationId::new(VISITOR_SLOT, 1);
    let view = world.view(id);
    assert_eq!((view.visitor, view.epoch, view.agent), ("zoë 访客", 2, None));
    assert_eq!(world.desk.conversations(), 2);
    let site = world.desk.site_view(SITE_SLOT, SITE).expect("the site");
    let links: Vec<_> = site.agents().map(|agent| (agent.agent, agent.availability, agent.links)).collect();
    assert_eq!(links, [(AgentId(7), Availability::Offline, 0), (AgentId(8), Availability::Away, 0)]);
    assert_eq!(world.desk.unconfirmed().count(), 1, "the last Want is on its way");
    assert!(world.replayed().digest() == world.desk.digest());
    let expired = Command::Open {
        slot: VISITOR_SLOT,
        site_slot: SITE_SLOT,
        site: SITE,
        visitor: "zoë 访客",
        device: DeviceId(1),
        n: 2,
    };
    let refused = world.desk.decide(world.now, &expired, &mut Vec::new());
    assert_eq!(refused, Err(ringdesk_desk::command::Refusal::DeviceExpired));
}
