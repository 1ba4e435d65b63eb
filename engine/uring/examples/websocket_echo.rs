//! A WebSocket server that echoes, for Autobahn|Testsuite: the shipped `ws::Socket`, reactor and io_uring kernel with
//! the smallest possible shard between them. `make autobahn` runs the suite against it.
//!
//! `websocket_echo [LISTEN] [MESSAGE_BYTES_MAX]`: listens on LISTEN (`127.0.0.1:9001`; path `/ws`), takes messages of
//! up to MESSAGE_BYTES_MAX bytes (16 MiB), asks for no subprotocol and no origin, agrees to permessage-deflate. Prints
//! one line when it listens.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use ringdesk_protocol::ws::{
    Deflate, Deflater, Endpoint, Fed, Opcode, Request, Socket, Stop, Terms, UpgradeError, encode,
};
use ringdesk_ring::mesh;
use ringdesk_shard::io::{ConnId, Input, Inputs, ListenerKind, Now, Output, Outputs};
use ringdesk_shard::message::ShardMessage;
use ringdesk_uring::clock::HostClock;
use ringdesk_uring::listen::{self, Endpoint as Address};
use ringdesk_uring::reactor::{Limits, Reactor};
use ringdesk_uring::run::{RunEnd, SPIN_DEFAULT};
use ringdesk_uring::sys::{Fleet, SysConfig, SysKernel};
use ringdesk_uring::turn::Turn;

/// Largest messages that may wait for a client that sends and does not read.
const WAITING_MESSAGES: usize = 4;

/// All connections.
struct Echo {
    terms: Terms,
    peers: BTreeMap<ConnId, Peer>,
    deflater: Deflater,
}

#[derive(Default)]
struct Peer {
    socket: Socket,
    agreed: Option<Deflate>,
    outbox: Vec<u8>,
    /// A send is out; what is said meanwhile waits.
    sending: bool,
    /// Closes when its last bytes are out.
    closing: bool,
}

/// What says everything twice.
struct Mouth<'a> {
    terms: Terms,
    agreed: &'a mut Option<Deflate>,
    outbox: &'a mut Vec<u8>,
    deflater: &'a mut Deflater,
}

impl Mouth<'_> {
    fn say(&mut self, opcode: Opcode, payload: &[u8]) -> ControlFlow<Stop> {
        match *self.agreed {
            Some(agreed) => self.deflater.message(agreed, opcode, payload, self.outbox),
            None => encode::message(opcode, payload, self.outbox),
        }
        self.ponged()
    }
}

impl Endpoint for Mouth<'_> {
    fn outbox(&mut self) -> &mut Vec<u8> {
        self.outbox
    }

    fn admit(&mut self, request: &Request) -> Result<Terms, UpgradeError> {
        *self.agreed = request.deflate;
        Ok(Terms { deflate: request.deflate, ..self.terms })
    }

    fn ponged(&mut self) -> ControlFlow<Stop> {
        if self.outbox.len() > WAITING_MESSAGES * self.terms.message_bytes_max as usize {
            return ControlFlow::Break(Stop::Close(1008));
        }
        ControlFlow::Continue(())
    }

    fn text(&mut self, text: &str) -> ControlFlow<Stop> {
        self.say(Opcode::Text, text.as_bytes())
    }

    fn binary(&mut self, bytes: &[u8]) -> ControlFlow<Stop> {
        self.say(Opcode::Binary, bytes)
    }
}

impl Echo {
    fn received(&mut self, conn: ConnId, bytes: &mut [u8]) {
        let peer = self.peers.get_mut(&conn).expect("an open connection");
        if peer.closing {
            return;
        }
        let (terms, deflater) = (self.terms, &mut self.deflater);
        let mut mouth = Mouth { terms, agreed: &mut peer.agreed, outbox: &mut peer.outbox, deflater };
        peer.closing = peer.socket.feed(bytes, &mut mouth) == Fed::Closing;
    }

    /// Sends what waits; closes what is done.
    fn flush(&mut self, conn: ConnId, outputs: &mut Outputs) {
        let Some(peer) = self.peers.get_mut(&conn).filter(|peer| !peer.sending) else { return };
        if !peer.outbox.is_empty() {
            peer.sending = true;
            outputs.events.push(Output::Send { conn, buffer: std::mem::take(&mut peer.outbox) });
        } else if peer.closing {
            self.peers.remove(&conn);
            outputs.events.push(Output::Close { conn });
        }
    }
}

impl Turn for Echo {
    fn step(&mut self, _now: Now, inputs: &mut Inputs, outputs: &mut Outputs) {
        for event in inputs.events.drain(..) {
            let conn = match event {
                Input::Accepted { conn, .. } => {
                    self.peers.insert(conn, Peer::default());
                    outputs.events.push(Output::Receive { conn, once: false });
                    continue;
                }
                Input::Received { conn, start, len } => {
                    self.received(conn, &mut inputs.bytes[start as usize..][..len as usize]);
                    conn
                }
                Input::Sent { conn, .. } => {
                    self.peers.get_mut(&conn).expect("an open connection").sending = false;
                    conn
                }
                Input::Hangup { conn } => {
                    self.peers.remove(&conn);
                    outputs.events.push(Output::Close { conn });
                    continue;
                }
                other => panic!("nobody asked for {other:?}"),
            };
            self.flush(conn, outputs);
        }
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        None
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().unwrap_or_else(|| "127.0.0.1:9001".to_owned()).parse()?;
    let message_bytes_max = arguments.next().map_or(Ok(16 << 20), |text| text.parse())?;
    let terms = Terms { message_bytes_max, deflate: None };

    let listening = listen::open(&Address::Tcp(address), 1)?;
    let mut config = SysConfig::new(0, std::env::temp_dir());
    config.entries = 1024;
    let kernel = SysKernel::open(&config, Fleet::new(1)?, listening.sockets)
        .map_err(|error| format!("io_uring cannot be used here: {error:?}"))?;
    let port = mesh::<ShardMessage>(1, 64).pop().expect("a mesh of one");
    let echo = Echo { terms, peers: BTreeMap::new(), deflater: Deflater::new() };
    let mut reactor = Reactor::new(kernel, echo, port, &[ListenerKind::WEBSOCKET], Limits::default());
    println!("ws://{}/ws echoes messages of up to {message_bytes_max} bytes", listening.endpoint);
    let end = reactor.run(&mut HostClock::start(), SPIN_DEFAULT, &mut |_news| ControlFlow::Continue(()));
    match end {
        RunEnd::Stopped => Ok(()),
        RunEnd::Fatal(sentence) => Err(sentence.into()),
    }
}
