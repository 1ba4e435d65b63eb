//! Waiting: monoio's part. One small task per wait; when it is over, a token says so.
//!
//! Order: [`Poller::watch`] starts a wait, [`Poller::look`] or [`Poller::sleep`] lets the tasks run, [`Poller::take`]
//! gives the tokens of waits that are over. A stopped wait leaves no token, unless the token was there before; the
//! owner tells such a late one by its number.
//!
//! All of it stays on one thread. monoio wants descriptors registered and let go inside its runtime, hence
//! [`Poller::inside`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use monoio::net::TcpStream;
use monoio::time::TimeDriver;
use monoio::{LegacyDriver, Runtime, RuntimeBuilder};

/// What a wait was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    /// The shard's bell.
    Bell,
    /// Wait `wait` for connections on a listener.
    Listener { listener: u16, wait: u64 },
    /// Wait `wait` for bytes on a connection.
    Readable { entry: u32, wait: u64 },
    /// Wait `wait` for room in a connection's socket.
    Writable { entry: u32, wait: u64 },
}

/// A wait under way. Dropping it does not end it, [`Poller::stop`] does.
#[derive(Debug)]
pub(crate) struct Wait {
    /// Unique among the waits of this shard.
    pub(crate) number: u64,
    state: Rc<WaitState>,
}

#[derive(Default, Debug)]
struct WaitState {
    stopped: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Tokens of waits that are over, and the sleeper that waits for the first.
#[derive(Default, Debug)]
struct Over {
    tokens: RefCell<VecDeque<Token>>,
    sleeper: RefCell<Option<Waker>>,
}

impl Over {
    fn push(&self, token: Token) {
        self.tokens.borrow_mut().push_back(token);
        if let Some(waker) = self.sleeper.take() {
            waker.wake();
        }
    }
}

/// The longest a sleep is asked for at a time; who wanted more finds nothing to do and sleeps again.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

pub(crate) struct Poller {
    runtime: Runtime<TimeDriver<LegacyDriver>>,
    over: Rc<Over>,
    waits: u64,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
        Ok(Self { runtime, over: Rc::default(), waits: 0 })
    }

    /// Calls `act` where descriptors may be registered and let go, after every task that can go on did.
    pub(crate) fn inside<R>(&mut self, act: impl FnOnce() -> R) -> R {
        self.runtime.block_on(async { act() })
    }

    /// Waits for bytes or connections (or, if `writable`, for room), then leaves the token that `token` makes of the
    /// wait's number.
    pub(crate) fn watch(
        &mut self,
        stream: &Rc<TcpStream>,
        writable: bool,
        token: impl FnOnce(u64) -> Token,
    ) -> Wait {
        self.waits += 1;
        let number = self.waits;
        let state = Rc::new(WaitState::default());
        let wait =
            wait_for(Rc::clone(stream), writable, Rc::clone(&state), Rc::clone(&self.over), token(number));
        // Detached: the task ends with its wait.
        self.inside(|| drop(monoio::spawn(wait)));
        Wait { number, state }
    }

    /// Ends waits without a token. Their tasks let go of the descriptors before [`Self::inside`] next acts.
    pub(crate) fn stop<'a>(&mut self, waits: impl IntoIterator<Item = &'a Wait>) {
        // monoio wakes a task of its own only from inside.
        self.inside(|| {
            for wait in waits {
                wait.state.stopped.set(true);
                if let Some(waker) = wait.state.waker.take() {
                    waker.wake();
                }
            }
        });
    }

    /// Puts a token back: its owner is not done with what is there.
    pub(crate) fn again(&self, token: Token) {
        self.over.push(token);
    }

    /// The next wait that is over.
    pub(crate) fn take(&self) -> Option<Token> {
        self.over.tokens.borrow_mut().pop_front()
    }

    /// Whether a token is there.
    pub(crate) fn has_tokens(&self) -> bool {
        !self.over.tokens.borrow().is_empty()
    }

    /// Asks the host once what is ready, without sleeping.
    pub(crate) fn look(&mut self) {
        // A task that ends at once, behind those that wait: the runtime polls the host while there is a task to run,
        // and without one it would sleep.
        self.runtime.block_on(async { monoio::spawn(async {}).await });
    }

    /// Sleeps until a token is there or `ns` nanoseconds passed (`u64::MAX`: no limit), to a millisecond.
    pub(crate) fn sleep(&mut self, ns: u64) {
        let over = Rc::clone(&self.over);
        let limit = (ns != u64::MAX).then(|| Duration::from_nanos(ns).min(SLEEP_MAX));
        self.runtime.block_on(async move {
            let mut timer = pin!(async {
                match limit {
                    Some(limit) => monoio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            });
            poll_fn(|context| {
                if !over.tokens.borrow().is_empty() {
                    return Poll::Ready(());
                }
                *over.sleeper.borrow_mut() = Some(context.waker().clone());
                timer.as_mut().poll(context)
            })
            .await;
        });
    }
}

async fn wait_for(stream: Rc<TcpStream>, writable: bool, state: Rc<WaitState>, over: Rc<Over>, token: Token) {
    let mut ready = pin!(async {
        // Not relaxed: monoio then asks the host whether it is so, and forgets what was true only before.
        let ready = if writable { stream.writable(false).await } else { stream.readable(false).await };
        // An error is one of the socket's own; the call that follows tells it.
        drop(ready);
    });
    let waited = poll_fn(|context| {
        if state.stopped.get() {
            return Poll::Ready(false);
        }
        *state.waker.borrow_mut() = Some(context.waker().clone());
        ready.as_mut().poll(context).map(|()| true)
    });
    if waited.await {
        over.push(token);
    }
}
