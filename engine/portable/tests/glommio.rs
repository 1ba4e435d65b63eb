//! The glommio kernel does what the io_uring one does: the same suite over both, and what is its own.

#[path = "../../uring/tests/conformance/mod.rs"]
mod conformance;
mod contract;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use contract::{Bare, ECANCELED};
use ringdesk_portable::GlommioKernel as Under;
use ringdesk_uring::kernel::Op;

const NAME: &str = "glommio";

#[test]
fn a_cancelled_receive_ends_once_and_takes_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut bare = Bare::open("cancel", Some(listener));
    bare.submit(1, Op::AcceptMulti { listener: 0 });
    let mut client = TcpStream::connect(address).expect("it listens");
    let entry = bare.wait(1).result as u32;
    bare.submit(2, Op::Receive { entry, once: false });
    bare.look();
    client.write_all(b"kept").expect("it has room");
    bare.submit(3, Op::Cancel { target: 2 });
    assert_eq!((bare.wait(2).result, bare.wait(3).result), (-ECANCELED, 0));
    bare.submit(4, Op::Cancel { target: 2 });
    assert_eq!(bare.wait(4).result, 0, "it is gone, which is no error");
    for _ in 0..5 {
        bare.look();
    }
    assert!(bare.got.is_empty() && bare.arena.is_empty(), "{:?}", bare.got);
    bare.submit(5, Op::Receive { entry, once: true });
    let received = bare.wait(5);
    assert_eq!((received.result, received.more, &bare.arena[..]), (4, false, &b"kept"[..]));
    bare.submit(6, Op::Close { entry });
    assert_eq!(bare.wait(6).result, 0);
    assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
}
