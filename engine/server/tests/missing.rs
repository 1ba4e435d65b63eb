//! The whole process over data folders of which something is gone: nothing missing may look like nothing written.

mod process;

use std::fs;
use std::path::PathBuf;

use process::{Client, Folder, Server};

const ONE_SHARD: [&str; 2] = ["--shards", "1"];

/// A folder in which one visitor wrote 20 messages, after a clean stop.
fn written(name: &str) -> Folder {
    let folder = Folder::new(name);
    let mut server = Server::start(&folder, &ONE_SHARD);
    let mut visitor = Client::visitor(&server);
    visitor.open();
    (1..=20).for_each(|n| visitor.send(n, &format!("message {n}")));
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.exit_code(), Some(0));
    folder
}

fn segments(folder: &Folder) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder.path("log/0000")).expect("a log").map(|entry| entry.expect("entry").path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|name| name == "seg")).collect();
    found.sort();
    found
}

fn refused(folder: &Folder, exit: i32, sentence: &str) {
    let (code, error) = Server::fail(folder, &ONE_SHARD);
    assert_eq!(code, exit, "{error}");
    assert!(error.contains(sentence), "{error}");
}

#[test]
fn a_missing_segment_is_told_be_it_the_first_the_last_or_all() {
    let folder = written("segments");
    let all = segments(&folder);
    assert!(all.len() > 1, "a segment and a spare");
    let contents: Vec<_> = all.iter().map(|path| fs::read(path).expect("readable")).collect();
    for path in &all {
        fs::remove_file(path).expect("there");
        refused(&folder, 7, "the file is missing");
        fs::write(path, &contents[all.iter().position(|other| other == path).expect("its place")])
            .expect("back");
    }
    all.iter().for_each(|path| fs::remove_file(path).expect("there"));
    refused(&folder, 7, "in all, are missing");
    refused(&folder, 7, "in all, are missing");
}

#[test]
fn a_folder_of_an_older_version_starts_and_is_watched_from_then_on() {
    let folder = written("older");
    let note = folder.path("log/0000/EXTENT");
    fs::remove_file(&note).expect("there");
    let mut server = Server::start(&folder, &ONE_SHARD);
    server.kill();
    assert!(fs::exists(&note).expect("readable"), "a start makes the note");
    fs::remove_file(&segments(&folder)[0]).expect("there");
    refused(&folder, 7, "00000000.seg");
    fs::remove_file(&note).expect("there");
    segments(&folder).iter().for_each(|path| fs::remove_file(path).expect("there"));
    refused(&folder, 7, "no segment file is there");
}

#[test]
fn the_end_of_a_log_that_was_closed_is_damage_when_it_is_gone() {
    let folder = written("closed");
    let path = segments(&folder).remove(0);
    let whole = fs::read(&path).expect("readable");
    let end = whole.iter().rposition(|byte| *byte != 0).expect("written").next_multiple_of(512);
    let mut cut = whole.clone();
    cut[end - 512..].fill(0);
    fs::write(&path, &cut).expect("written");
    refused(&folder, 7, "at the last clean stop");
    fs::write(&path, &whole).expect("written");
    let mut server = Server::start(&folder, &ONE_SHARD);
    server.kill();
    // A start takes the note back: what a kill interrupts may be torn.
    let mut server = Server::start(&folder, &ONE_SHARD);
    server.kill();
}

#[test]
fn a_directory_is_not_made_anew_beside_logs() {
    let folder = written("directory");
    let path = folder.path("directory.redb");
    let whole = fs::read(&path).expect("readable");
    fs::remove_file(&path).expect("there");
    refused(&folder, 3, "missing although the folder holds logs");
    assert!(!fs::exists(&path).expect("readable"), "nothing was made in its place");
    fs::write(&path, b"").expect("written");
    refused(&folder, 3, "empty although the folder holds logs");
    fs::write(&path, whole).expect("written");
    let mut server = Server::start(&folder, &ONE_SHARD);
    server.kill();
}
