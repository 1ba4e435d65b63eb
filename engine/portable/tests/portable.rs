//! The portable kernel does what the io_uring one does: the same suite over both, and what is its own.

#[path = "../../uring/tests/conformance/mod.rs"]
mod conformance;
mod contract;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use contract::{Bare, ECANCELED};
use ringdesk_portable::PortableKernel as Under;
use ringdesk_uring::kernel::{Kernel, Op};

const NAME: &str = "portable";

#[test]
fn a_cancelled_operation_ends_once_and_a_late_wait_belongs_to_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut bare = Bare::open("cancel", Some(listener));
    bare.submit(1, Op::AcceptMulti { listener: 0 });
    let mut client = TcpStream::connect(address).expect("it listens");
    let accepted = bare.wait(1);
    assert!(accepted.more && accepted.result == 0, "{accepted:?}");
    bare.submit(2, Op::Receive { entry: 0, once: false });
    client.write_all(b"first").expect("room");
    let first = bare.wait(2);
    assert_eq!((first.result, first.more, &bare.arena[..]), (5, true, &b"first"[..]));
    // Bytes arrive, the wait is over, and then the receive is cancelled: the bytes stay in the socket.
    client.write_all(b"second").expect("room");
    std::thread::sleep(Duration::from_millis(20));
    bare.kernel.enter(None).expect("a look");
    bare.submit(3, Op::Cancel { target: 2 });
    let ended = bare.wait(2);
    assert_eq!((ended.result, ended.more), (-ECANCELED, false));
    bare.submit(4, Op::Receive { entry: 0, once: true });
    let second = bare.wait(4);
    assert_eq!((second.result, second.more), (6, false));
    bare.submit(5, Op::Cancel { target: 1 });
    assert_eq!(bare.wait(1).result, -ECANCELED);
    bare.submit(6, Op::Cancel { target: 999 });
    assert_eq!(bare.wait(6).result, 0, "nothing to cancel is no error");
    bare.submit(7, Op::Close { entry: 0 });
    assert_eq!(bare.wait(7).result, 0);
    assert_eq!(client.read(&mut [0; 1]).expect("closed"), 0);
    assert!(bare.got.iter().all(|completion| ![1, 2, 4].contains(&completion.user)), "{:?}", bare.got);
}
