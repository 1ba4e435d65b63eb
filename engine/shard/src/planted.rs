//! Bugs planted on purpose, so that a test can prove that the simulator finds each of them.
//!
//! Without the feature `planted` [`on`] is the constant `false` and every planted bug is compiled out. The feature is
//! for the simulator's tests alone; no shipped binary has it. The switch belongs to one thread.

/// A bug. Each is asked for at exactly one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// An ACK leaves before its record is durable.
    AckBeforeSync,
    /// Replay forgets which keys were recorded.
    ForgetDedup,
    /// An OPEN older than a device's newest conversation is answered with that one.
    ForgetOldOpens,
    /// A note leaves for another shard before it is durable.
    SkipRingGate,
    /// Notes that nobody confirmed are not told again at boot.
    ForgetUnconfirmed,
    /// A failed write of the log is tried again.
    RetryFailedSync,
    /// Replay misses the last record of a log, so that its seq is given out again.
    ReuseSeq,
    /// A send's buffer is filled again before the send has completed.
    ReuseBuffer,
    /// A connection is handed over while a receive is armed.
    HandOverArmed,
    /// What had arrived on a connection that is not read for a while is forgotten.
    ForgetUnread,
    /// A connection whose queues were full is never read again.
    NeverGoOn,
    /// What a slow client had not been sent when its shard stood still is not carried.
    DropUnsent,
    /// Cursors are carried one too low.
    CarryCursorLow,
    /// The connections that an upgrade adopts are not linked to their agents.
    AdoptUnlinked,
    /// A slow client is pushed everything in spite of its cap.
    IgnoreCap,
    /// The turn at the log always goes to the lowest of the paused subscriptions.
    LowestTurn,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::AckBeforeSync,
        Self::ForgetDedup,
        Self::ForgetOldOpens,
        Self::SkipRingGate,
        Self::ForgetUnconfirmed,
        Self::RetryFailedSync,
        Self::ReuseSeq,
        Self::ReuseBuffer,
        Self::HandOverArmed,
        Self::ForgetUnread,
        Self::NeverGoOn,
        Self::DropUnsent,
        Self::CarryCursorLow,
        Self::AdoptUnlinked,
        Self::IgnoreCap,
        Self::LowestTurn,
    ];
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in everything this thread runs from now on, or with `None` no more.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted.
#[cfg(feature = "planted")]
pub fn on(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is planted: never without the feature `planted`.
#[cfg(not(feature = "planted"))]
pub const fn on(_bug: Bug) -> bool {
    false
}
