//! The old process's half: lets another process follow, stands still for it, gives it everything, and ends; or goes on.
//!
//! Order: peer and version are checked, the other follows the logs while this one serves, then requests of the control
//! plane end, the shards stand still, the directory is closed, listeners, lock and connections are sent, and with `Yours`
//! the data are the other's. Every wait but the one for `Ready` is bounded. One take-over at a time; a second one is
//! refused.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringdesk_persist::Position;
use ringdesk_shard::carry;
use ringdesk_shard::io::Control;
use ringdesk_uring::mailbox::Letter;
use ringdesk_uring::still::{Settling, StoodCounts};
use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};

use super::wire::{self, Door, End, Hello, Kind, PROTOCOL, Refuse, SOCKET, Welcome, Wire, socket_path};
use super::{Standing, Summary};
use crate::boot::ropes::{Event, Ropes};
use crate::control::plane::{Phase, Plane};
use crate::directory::Directory;
use crate::say;

/// Longest wait for the other process to introduce itself.
const HELLO_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for each further word of the other process while the shards stand still.
const STEP_WAIT: Duration = Duration::from_secs(20);
/// Longest wait for the other process to serve once the data are its own.
const SERVE_WAIT: Duration = Duration::from_secs(120);
/// Longest time that requests of the control plane may still take.
const REQUESTS_WAIT: Duration = Duration::from_secs(5);
/// How long a slow reader has for what it is being sent; the rest goes along.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest wait for the shards to stand still, and to be drained.
const STILL_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for the end of connections that were told goodbye.
const LINGER_WAIT: Duration = Duration::from_secs(2);
/// After a take-over that was called off: what the shards said last is told by then.
const REST: Duration = Duration::from_secs(1);

/// What there is to give.
pub struct Giver {
    /// The data folder.
    pub data: PathBuf,
    /// A second descriptor of its lock.
    pub lock: OwnedFd,
    /// The shards.
    pub ropes: Ropes,
    /// The control plane.
    pub plane: Arc<Plane>,
    /// The directory.
    pub directory: Arc<dyn Directory>,
    /// Second descriptors of the listeners, by their words.
    pub doors: Vec<(&'static str, Vec<OwnedFd>)>,
    /// What the other process is told first.
    pub welcome: Welcome,
    /// Whether connections can leave the kernels.
    pub exports: bool,
}

/// Listens for another process from now on, on a thread of its own.
///
/// # Errors
/// What the system says: the socket cannot be made.
pub fn start(giver: Giver) -> io::Result<()> {
    let listener = listen_in(&giver.data)?;
    let giver = Arc::new(Mutex::new(giver));
    std::thread::Builder::new().name("rd-upgrade".into()).spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let giver = giver.clone();
            let session = std::thread::Builder::new().name("rd-give".into());
            if let Err(error) = session.spawn(move || meet(&giver, stream)) {
                say!(Error, "a take-over cannot be answered: {error}");
            }
        }
    })?;
    Ok(())
}

/// The socket, for the folder's owner only from its first moment on. One that is there belongs to a process that is gone or
/// was replaced: this one has the lock.
fn listen_in(data: &Path) -> io::Result<UnixListener> {
    let folder = File::open(data)?;
    match std::fs::remove_file(data.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(socket_path(&folder))?)?;
    listen(&socket, 8)?;
    Ok(UnixListener::from(socket))
}

fn refuse(wire: &mut Wire, sentence: &str) {
    // Who is refused may be gone.
    let _ = wire.tell(Kind::Refuse, &Refuse { sentence: sentence.to_string() });
}

/// One other process, from its first word to its end.
fn meet(giver: &Mutex<Giver>, stream: UnixStream) {
    let mut wire = Wire::new(stream);
    let Some(hello) = introduced(&mut wire) else { return };
    let pid = hello.pid;
    let Some(mut giver) = giver.try_lock() else {
        say!(Warn, "process {pid} wants to take over, but another one is at it: refused");
        return refuse(&mut wire, "another process is taking over already");
    };
    if giver.plane.phase() != Phase::Serving {
        return refuse(&mut wire, "it does not serve: it is starting or ending");
    }
    if wire.tell(Kind::Welcome, &giver.welcome).is_err() || wire.patience(None).is_err() {
        return;
    }
    say!(Info, "process {pid} (version {}) reads the logs to take over", hello.program);
    match wire.receive() {
        Ok(frame) if frame.kind == Kind::Ready => {
            let carries = giver.carries(&hello);
            giver.hand_over(&mut wire, pid, carries);
        }
        Ok(frame) => {
            let why = frame.json::<Refuse>().map_or_else(|_| "it is confused".to_string(), |no| no.sentence);
            say!(Warn, "process {pid} does not take over: {why}");
        }
        Err(error) => say!(Warn, "process {pid}, which wanted to take over, is gone: {error}"),
    }
}

/// Who it is, if it may take over and can.
fn introduced(wire: &mut Wire) -> Option<Hello> {
    wire.patience(Some(HELLO_WAIT)).ok()?;
    let peer = sockopt::socket_peercred(wire.socket().as_fd()).ok()?;
    let me = rustix::process::geteuid();
    if peer.uid != me && !peer.uid.is_root() {
        let (peer, me) = (peer.uid.as_raw(), me.as_raw());
        say!(Warn, "a process of user {peer} wants to take over: refused");
        refuse(wire, &format!("it runs as user {me}, and you are user {peer}"));
        return None;
    }
    let hello: Hello = wire.receive().ok().filter(|frame| frame.kind == Kind::Hello)?.json().ok()?;
    if hello.version != PROTOCOL {
        let sentence = format!(
            "it speaks version {PROTOCOL} of the take-over, and you speak {}: restart it instead",
            hello.version
        );
        say!(Warn, "process {} cannot take over: {sentence}", hello.pid);
        refuse(wire, &sentence);
        return None;
    }
    Some(hello)
}

/// What was given, before the other process serves.
struct Gave {
    since: Instant,
    end: End,
}

impl Giver {
    /// The other process has read nearly all. Ends with this process replaced, or going on.
    fn hand_over(&mut self, wire: &mut Wire, pid: u32, carries: bool) {
        if !self.plane.replacement.begin() {
            return refuse(wire, "it is ending");
        }
        match self.give_all(wire, carries) {
            Ok(gave) => self.be_replaced(wire, pid, &gave),
            Err(sentence) => self.go_on(wire, pid, carries, &sentence),
        }
    }

    /// Whether connections go along; otherwise says why not.
    fn carries(&self, hello: &Hello) -> bool {
        let why = if !self.exports {
            "this kernel hands no connections over (Linux 6.8)"
        } else if hello.carried_version != u32::from(carry::VERSION) {
            "the other process is of a version that writes connections down differently"
        } else {
            return true;
        };
        say!(Warn, "{why}: all clients are told goodbye");
        false
    }

    fn give_all(&mut self, wire: &mut Wire, carries: bool) -> Result<Gave, String> {
        let lost = |error: io::Error| format!("the other process is not heard of: {error}");
        wire.patience(Some(STEP_WAIT)).map_err(lost)?;
        let asked = Instant::now();
        self.end_requests();
        let since = Instant::now();
        let served_ms = millis(asked.elapsed());
        let mut drained = 0;
        if !carries {
            drained = self.drain()?;
        }
        let (ends, counts) = self.stand_still()?;
        drained += counts.tls;
        self.directory.release();
        for (word, sockets) in &self.doors {
            for some in sockets.chunks(wire::DESCRIPTORS_MAX) {
                let body = serde_json::to_vec(&Door { name: (*word).to_string() }).expect("string keys");
                wire.send(Kind::Door, &body, some).map_err(lost)?;
            }
        }
        let ends = ends.into_iter().map(Position::to_bits).collect();
        let body = serde_json::to_vec(&wire::Stood { ends, served_ms }).expect("string keys");
        let lock = self.lock.try_clone().map_err(|error| format!("the lock cannot be sent: {error}"))?;
        wire.send(Kind::Stood, &body, &[lock]).map_err(lost)?;
        let carried = if carries { self.send_connections(wire)? } else { 0 };
        let end = End { carried, drained };
        wire.tell(Kind::End, &end).map_err(lost)?;
        expect(wire, Kind::Claim)?;
        // From here on this process writes nothing, whatever happens: perhaps the word arrived.
        let _ = wire.send(Kind::Yours, &[], &[]);
        Ok(Gave { since, end })
    }

    /// Requests of the control plane are answered, and no new ones are taken.
    fn end_requests(&self) {
        self.plane.gate.shut();
        let until = Instant::now() + REQUESTS_WAIT;
        while !self.plane.gate.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Says goodbye to everybody. There is no way back.
    fn drain(&self) -> Result<u64, String> {
        let connections = self.connections();
        say!(
            Warn,
            "this kernel cannot hand connections over (Linux 6.8): all {connections} are told goodbye"
        );
        self.ropes.forget();
        self.post(&Letter::Control(Control::Drain))?;
        let until = Instant::now() + STILL_WAIT;
        let mut left = self.ropes.shards();
        while left > 0 {
            match self.ropes.next(until.saturating_duration_since(Instant::now())) {
                Some(Event::Drained(_)) => left -= 1,
                Some(_) => {}
                None => break,
            }
        }
        Ok(connections)
    }

    fn connections(&self) -> u64 {
        let handle = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let shards = self.plane.shards();
        let (Ok(runtime), Some(shards)) = (handle, shards) else { return 0 };
        runtime.block_on(shards.reports()).iter().map(|report| report.connections).sum()
    }

    fn post(&self, letter: &Letter) -> Result<(), String> {
        if self.ropes.post(letter) { Ok(()) } else { Err("a shard's mailbox is full".to_string()) }
    }

    /// All shards stand still together; where their logs end, by shard, and what they have.
    fn stand_still(&self) -> Result<(Vec<Position>, StoodCounts), String> {
        let late = |what: &str| format!("the shards did not {what} within {} s", STILL_WAIT.as_secs());
        let until = Instant::now() + STILL_WAIT;
        let next = || self.ropes.next(until.saturating_duration_since(Instant::now()));
        self.ropes.forget();
        self.post(&Letter::Still { patience: PATIENCE })?;
        let mut settling = Settling::new(self.ropes.shards());
        while !settling.is_still() {
            match next() {
                Some(Event::Quiet(shard, quiet)) => settling.tell(shard, quiet),
                Some(_) => {}
                None => return Err(late("stand still")),
            }
        }
        self.ropes.hold();
        self.post(&Letter::Collect)?;
        let mut ends = vec![None; self.ropes.shards()];
        let mut sum = StoodCounts::default();
        while ends.contains(&None) {
            match next() {
                Some(Event::Still(shard, end, counts)) => {
                    ends[usize::from(shard)] = Some(end);
                    sum.carried += counts.carried;
                    sum.tls += counts.tls;
                }
                Some(_) => {}
                None => return Err(late("write their connections down")),
            }
        }
        Ok((ends.into_iter().flatten().collect(), sum))
    }

    /// Sends every connection; at most one batch of descriptors is open here and on its way.
    fn send_connections(&self, wire: &mut Wire) -> Result<u64, String> {
        let mut sent = 0;
        for shard in 0..self.ropes.shards() {
            loop {
                self.ropes.ask(shard);
                let (batch, descriptors) = loop {
                    match self.ropes.next(STEP_WAIT) {
                        Some(Event::Batch(Ok(batch))) => break batch,
                        Some(Event::Batch(Err(error))) => {
                            return Err(format!("connections cannot leave shard {shard}: {error}"));
                        }
                        Some(_) => {}
                        None => return Err(format!("shard {shard} does not give its connections")),
                    }
                };
                if descriptors.is_empty() {
                    break;
                }
                sent += descriptors.len() as u64;
                wire.send(Kind::Batch, &batch.encode(), &descriptors)
                    .map_err(|error| format!("the other process does not take connections: {error}"))?;
                expect(wire, Kind::Taken)?;
            }
        }
        Ok(sent)
    }

    /// The data are the other process's. Waits until it serves.
    fn be_replaced(&self, wire: &mut Wire, pid: u32, gave: &Gave) {
        let waits = wire.patience(Some(SERVE_WAIT)).map_err(|error| error.to_string());
        let serving = waits.and_then(|()| expect(wire, Kind::Serving));
        match serving.and_then(|frame| frame.json::<Summary>().map_err(|error| error.to_string())) {
            Ok(summary) => {
                let summary = Summary { pause_ms: millis(gave.since.elapsed()), ..summary };
                say!(Info, "process {pid} serves in place of this one: {summary}");
                self.ropes.forget();
                // Frees the entries whose sockets the other process holds, and waits for goodbyes to be read.
                let gone = self.post(&Letter::Gone);
                self.ropes.release();
                let until = Instant::now() + LINGER_WAIT;
                let mut left = if gone.is_ok() { self.ropes.shards() } else { 0 };
                while left > 0
                    && let Some(event) = self.ropes.next(until.saturating_duration_since(Instant::now()))
                {
                    left -= usize::from(matches!(event, Event::Drained(_)));
                }
                self.plane.replacement.end(Standing::Replaced);
            }
            Err(why) => {
                let End { carried, drained } = gave.end;
                say!(
                    Error,
                    "process {pid} took the data over and does not serve ({why}); {carried} connections carried, \
                     {drained} told goodbye. This process ends, since only the other one may write; start again"
                );
                self.plane.replacement.end(Standing::Abandoned);
            }
        }
    }

    /// The other process does not take over: everything as before.
    fn go_on(&self, wire: &mut Wire, pid: u32, carries: bool, sentence: &str) {
        refuse(wire, sentence);
        let stood = self.post(&Letter::GoOn);
        self.ropes.release();
        if let Err(error) = self.take_directory_back() {
            say!(Error, "{error}; the control plane answers nothing that needs it until a restart");
        }
        self.plane.gate.open();
        self.plane.replacement.call_off();
        match stood {
            Ok(()) if carries => {
                say!(Warn, "the take-over by process {pid} was called off: {sentence}; this process goes on");
            }
            Ok(()) => {
                say!(
                    Warn,
                    "the take-over by process {pid} was called off: {sentence}; clients are gone, so this process stops"
                );
                self.plane.ask_to_drain();
            }
            Err(why) => {
                say!(Error, "the take-over was called off, and a shard does not go on: {why}");
                self.plane.ask_to_drain();
            }
        }
        std::thread::sleep(REST);
    }

    fn take_directory_back(&self) -> Result<(), crate::directory::DirectoryError> {
        let until = Instant::now() + REQUESTS_WAIT;
        loop {
            match self.directory.take_back() {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                outcome => return outcome,
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The next frame, which must be of this kind; else why it is not.
fn expect(wire: &mut Wire, kind: Kind) -> Result<wire::Frame, String> {
    match wire.receive() {
        Ok(frame) if frame.kind == kind => Ok(frame),
        Ok(frame) if frame.kind == Kind::Refuse => {
            Err(frame.json::<Refuse>().map_or_else(|error| error.to_string(), |refuse| refuse.sentence))
        }
        Ok(frame) => Err(format!("the other process says {:?} where {kind:?} was expected", frame.kind)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err("the other process is gone".into()),
        Err(error) => Err(format!("the other process is not heard of: {error}")),
    }
}
