//! The raw relay: receive on one connection, send to two, no protocol and no log. What a core can do for a chat if
//! nothing but bytes had to be moved; the engine is held against it.
//!
//! Ownership: one thread pinned to one core owns the ring; it ends with its [`Relay`].

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ringdesk_uring::sys::{SocketEvent, SocketRing, SocketRingConfig};

use crate::cores::pin;

/// Kind (byte 4, as in a frame header) of the one message by which a connection says that it only listens; it comes
/// back as it is. The relay looks at nothing else.
pub const LISTENER: u8 = 0x7f;
const KIND_AT: usize = 4;

/// A running relay.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Relay {
    /// Starts a relay for `slots` connections on core `core`. What comes on a connection goes back to it and to one
    /// listener; senders are spread over the listeners evenly.
    ///
    /// # Errors
    /// A sentence when no port or no ring is to be had.
    pub fn start(slots: u32, core: usize) -> Result<Self, String> {
        let listener = TcpListener::bind("0.0.0.0:0").map_err(|e| format!("no port for the relay: {e}"))?;
        let address = listener.local_addr().map_err(|e| format!("no port for the relay: {e}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || serve(listener, slots, core, &stop)
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Ends it.
    ///
    /// # Errors
    /// Why it had ended before.
    pub fn stop(mut self) -> Result<(), String> {
        self.end()
    }

    fn end(&mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| "the relay panicked".to_owned())?,
            None => Ok(()),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn serve(listener: TcpListener, slots: u32, core: usize, stop: &AtomicBool) -> Result<(), String> {
    pin(core)?;
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
    let config = SocketRingConfig {
        slots,
        receive_buffers: 2048,
        receive_buffer_bytes: 4096,
        receive_socket_bytes: 0,
        to,
    };
    let mut ring = SocketRing::open(&config).map_err(|e| format!("no ring for the relay: {e}"))?;
    ring.accept(listener.into());
    let mut listeners = Vec::new();
    let (mut events, mut arena) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        ring.turn(Some(20_000_000), &mut arena, &mut events);
        for event in events.drain(..) {
            match event {
                SocketEvent::Received { slot, from, len }
                    if arena[from..][..len].get(KIND_AT) == Some(&LISTENER) =>
                {
                    listeners.push(slot);
                    append(&mut ring, slot, &arena[from..from + len]);
                }
                SocketEvent::Received { slot, from, len } => {
                    let bytes = &arena[from..from + len];
                    append(&mut ring, slot, bytes);
                    if !listeners.is_empty() {
                        append(&mut ring, listeners[slot as usize % listeners.len()], bytes);
                    }
                }
                SocketEvent::Ended { slot, .. } => {
                    listeners.retain(|known| *known != slot);
                    ring.abort(slot);
                }
                SocketEvent::Accepted { .. } | SocketEvent::Closed { .. } | SocketEvent::Connected { .. } => {
                }
            }
        }
        arena.clear();
    }
    Ok(())
}

fn append(ring: &mut SocketRing, slot: u32, bytes: &[u8]) {
    if let Some(outbox) = ring.outbox(slot) {
        outbox.extend_from_slice(bytes);
    }
}
