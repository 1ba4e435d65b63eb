//! The server under test as a child process: started, awaited, killed by its own pid, never by name.
//!
//! Ownership: the child dies with its [`Server`], so that a failed campaign leaves nothing running.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a start may take, replay included.
const START: Duration = Duration::from_secs(120);
/// How long a drain may take.
const DRAIN: Duration = Duration::from_secs(20);
/// Lines of standard output that may wait to be read. Full: the reader thread waits, the server's pipe fills.
const LINES_MAX: usize = 1024;

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its data folder.
    pub data: PathBuf,
    /// `--listen-binary`.
    pub binary: SocketAddr,
    /// `--listen-ws`.
    pub websocket: SocketAddr,
    /// `--http`.
    pub http: SocketAddr,
    /// `--shards`, when given.
    pub shards: Option<u16>,
    /// `--config`, when given.
    pub config: Option<PathBuf>,
    /// `--take-over`: from the process that serves this folder now.
    pub take_over: bool,
    /// Where its standard error is appended.
    pub log: PathBuf,
    /// Whether its allocator gives memory back as soon as it is free and takes no huge pages. Otherwise it may hold on to
    /// what a burst has left for as long as it is idle, and a page of 2 MiB counts as a whole once a byte of it was used:
    /// its resident memory then says by whole megabytes too much, and may shrink while connections come.
    pub exact_memory: bool,
}

/// Settings of mimalloc, the server's allocator, for [`Launch::exact_memory`]: milliseconds until free memory goes back,
/// and whether there may be transparent huge pages.
const EXACT_MEMORY: [(&str, &str); 2] = [("MIMALLOC_PURGE_DELAY", "0"), ("MIMALLOC_ALLOW_THP", "0")];

/// A running server.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
}

impl Server {
    /// Starts the program and waits for its line with `ready`.
    ///
    /// # Errors
    /// A sentence when it cannot be started, ends early or does not become ready; its own words are in the log.
    pub fn start(launch: &Launch) -> Result<Self, String> {
        let name = launch.program.display();
        let log = File::options().create(true).append(true).open(&launch.log);
        let log = log.map_err(|e| format!("cannot write {}: {e}", launch.log.display()))?;
        let mut command = Command::new(&launch.program);
        command.arg("--data").arg(&launch.data);
        for (option, address) in
            [("--listen-binary", launch.binary), ("--listen-ws", launch.websocket), ("--http", launch.http)]
        {
            command.arg(option).arg(address.to_string());
        }
        if let Some(shards) = launch.shards {
            command.arg("--shards").arg(shards.to_string());
        }
        if let Some(config) = &launch.config {
            command.arg("--config").arg(config);
        }
        if launch.take_over {
            command.arg("--take-over");
        }
        if launch.exact_memory {
            command.envs(EXACT_MEMORY);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(|e| format!("cannot start {name}: {e}"))?;
        let stdout = child.stdout.take().expect("standard output was piped");
        let (sender, lines) = sync_channel(LINES_MAX);
        // The reader ends with the pipe, that is with the child.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Self { child, lines };
        server.await_ready().map_err(|what| format!("{name} {what}; see {}", launch.log.display()))?;
        Ok(server)
    }

    fn await_ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + START;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains("ready") => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("was not ready after {} s", START.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().map_or("unknown".into(), |status| status.to_string());
                    return Err(format!("ended before it was ready ({status})"));
                }
            }
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// A sentence when it had ended by itself before.
    pub fn kill(mut self) -> Result<(), String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(format!("the server had ended by itself ({status})"));
        }
        self.child.kill().map_err(|e| format!("cannot kill the server: {e}"))?;
        self.child.wait().map(drop).map_err(|e| format!("cannot await the killed server: {e}"))
    }

    /// SIGTERM, and waits for a clean end.
    ///
    /// # Errors
    /// A sentence when it ends with another status than 0 or not in time.
    pub fn stop(mut self) -> Result<(), String> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).map_err(|e| format!("cannot stop the server: {e}"))?;
        match self.ended_within(DRAIN)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the server ended its drain with {status}")),
            None => Err(format!("the server did not end within {} s of SIGTERM", DRAIN.as_secs())),
        }
    }

    /// Waits until the process ends by itself; what it said since it was ready.
    ///
    /// # Errors
    /// A sentence when it ends with another status than 0 or not in time.
    pub fn await_end(mut self, limit: Duration) -> Result<Vec<String>, String> {
        match self.ended_within(limit)? {
            Some(status) if status.success() => Ok(self.lines.iter().collect()),
            Some(status) => Err(format!("the old server ended with {status}")),
            None => Err(format!("the old server did not end within {} s", limit.as_secs())),
        }
    }

    fn ended_within(&mut self, limit: Duration) -> Result<Option<ExitStatus>, String> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Ok(ended) => return Ok(ended),
                Err(e) => return Err(format!("cannot await the server: {e}")),
            }
        }
        Ok(None)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail harmlessly when kill() or stop() has been here before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Refuses a data folder that already holds something: a campaign must own what it checks.
///
/// # Errors
/// A sentence naming the folder.
pub fn claim_folder(data: &Path) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("cannot use {}: {e}", data.display());
    std::fs::create_dir_all(data).map_err(fail)?;
    match std::fs::read_dir(data).map_err(fail)?.next() {
        None => Ok(()),
        Some(_) => Err(format!("{} is not empty; a campaign needs a folder of its own", data.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A stand-in that speaks like a server's console; what is tested is the parent's half.
    fn launch(name: &str, script: &str) -> Launch {
        let dir = std::env::temp_dir().join(format!("ringbench-server-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let program = dir.join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        Launch {
            program,
            data: dir.clone(),
            binary: address,
            websocket: address,
            http: address,
            shards: Some(2),
            config: None,
            take_over: false,
            log: dir.join("log"),
            exact_memory: true,
        }
    }

    // One test, not several: a script that another thread's fork still holds open for writing cannot be started.
    #[test]
    fn programs_that_are_ready_end_early_or_end_badly() {
        let forever = "while :; do sleep 0.02; done";
        let exact = r#"[ "$MIMALLOC_PURGE_DELAY$MIMALLOC_ALLOW_THP" = 00 ] || exit 5"#;
        let kind = launch(
            "kind",
            &format!("{exact}\ntrap 'exit 0' TERM\necho booting\necho \"ready $*\"\n{forever}"),
        );
        Server::start(&kind).unwrap().stop().unwrap();
        Server::start(&kind).unwrap().kill().unwrap();

        let early = launch("early", "echo no >&2\nexit 3");
        let error = Server::start(&early).err().unwrap();
        assert!(error.contains("ended before it was ready") && error.contains('3'), "{error}");
        assert_eq!(std::fs::read_to_string(&early.log).unwrap(), "no\n");

        let bad = launch("bad", &format!("trap 'exit 4' TERM\necho ready\n{forever}"));
        assert!(Server::start(&bad).unwrap().stop().unwrap_err().contains('4'));

        let heir = Launch { take_over: true, ..launch("heir", "echo ready\necho \"after $*\"") };
        let said = Server::start(&heir).unwrap().await_end(DRAIN).unwrap();
        assert!(
            said.len() == 1 && said[0].starts_with("after ") && said[0].contains("--take-over"),
            "{said:?}"
        );
        let fails = launch("fails", "echo ready\nexit 5");
        assert!(Server::start(&fails).unwrap().await_end(DRAIN).unwrap_err().contains('5'));
        let stays = Server::start(&kind).unwrap().await_end(Duration::from_millis(50));
        assert!(stays.unwrap_err().contains("did not end"));

        for used in [kind, early, bad, heir, fails] {
            assert!(claim_folder(&used.data).unwrap_err().contains("not empty"));
            std::fs::remove_dir_all(&used.data).unwrap();
            claim_folder(&used.data).unwrap();
            std::fs::remove_dir_all(&used.data).unwrap();
        }
    }
}
