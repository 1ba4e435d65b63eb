//! The whole process on a disk that fills up: a small ext4 on a loop device. Needs root and loop devices; without them
//! the test says so and passes.

mod process;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use process::{Client, Folder, Server};

const ONE_SHARD: [&str; 2] = ["--shards", "1"];
const BODY: usize = 60_000;
/// Longer than the pause between two attempts to prepare a segment.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mounted disk of its own.
struct SmallDisk {
    folder: Folder,
    at: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

impl SmallDisk {
    fn mount(name: &str, mib: u64) -> Option<Self> {
        let folder = Folder::new(name);
        let (image, at) = (folder.path("disk.img"), folder.path("disk"));
        fs::File::create(&image).expect("image").set_len(mib << 20).expect("sparse");
        fs::create_dir_all(&at).expect("mount point");
        if !run("mkfs.ext4", &["-q", &image]) || !run("mount", &["-o", "loop", &image, &at]) {
            println!("skipped: no loop device can be mounted here");
            return None;
        }
        Some(Self { folder, at: PathBuf::from(at) })
    }

    /// A data folder on the disk, with the small segments of the tests.
    fn data(&self) -> Folder {
        Folder::at(self.at.join("data"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.at.to_str().expect("UTF-8")]);
        let _ = &self.folder;
    }
}

#[test]
fn a_full_disk_refuses_messages_and_serves_the_rest() {
    let Some(disk) = SmallDisk::mount("full", 64) else { return };
    let filler = disk.at.join("filler");
    fs::write(&filler, vec![1; 24 << 20]).expect("room for it");
    let folder = disk.data();
    let mut server = Server::start(&folder, &ONE_SHARD);
    let mut writer = Client::visitor(&server);
    writer.open();
    let mut reader = Client::visitor(&server);
    reader.open();
    reader.send(1, "before");
    let mut agent = Client::agent(&server, &folder);
    agent.online(10);

    let body = "q".repeat(BODY);
    let mut sent = 0;
    while writer.try_send(sent + 1, &body) {
        sent += 1;
        assert!(sent < 2_000, "the disk never fills");
    }
    server.wait_for_error("No space left on device");
    // Refused, and everything else goes on.
    assert!(!writer.try_send(sent + 1, &body));
    assert_eq!(reader.history(), ["before"]);
    reader.reconnect(&server);
    assert_eq!(reader.history(), ["before"]);
    agent.online_again(2, 11);
    let left =
        fs::read_dir(folder.path("log/0000")).expect("a log").map(|entry| entry.expect("entry").path());
    let unborn: Vec<PathBuf> =
        left.filter(|path| path.extension().is_some_and(|name| name == "new")).collect();
    assert_eq!(unborn, Vec::<PathBuf>::new(), "a failed preparation leaves nothing");

    // A start on the full disk serves what there is.
    server.kill();
    while fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(disk.at.join("rest"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[1; 4096]))
        .is_ok()
    {}
    let mut server = Server::start(&folder, &ONE_SHARD);
    reader.reconnect(&server);
    assert_eq!(reader.history(), ["before"]);
    writer.reconnect(&server);
    assert!(!writer.try_send(sent + 1, &body), "the disk is still full");

    // Room again: the same process goes on.
    fs::remove_file(&filler).expect("there");
    let began = Instant::now();
    while !writer.try_send(sent + 1, &body) {
        assert!(began.elapsed() < PATIENCE, "no message is taken although there is room");
        std::thread::sleep(Duration::from_millis(200));
    }
    server.wait_for_error("there is space for the log again");
    assert_eq!(reader.history(), ["before"]);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.exit_code(), Some(0));
}
