//! Socket activation: listening sockets that somebody opened before the process, handed over as systemd does it.

mod process;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use process::{Client, Folder, Server, connect};
use rustix::process::Signal;

fn tcp() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener.into(), address)
}

#[test]
fn sockets_opened_before_the_start_serve_in_place_of_the_configured_addresses() {
    let folder = Folder::new("activated");
    let (binary, binary_at) = tcp();
    let (http, http_at) = tcp();
    let path = folder.path("clients.sock");
    let unix = UnixListener::bind(&path).expect("a new socket");
    // Somebody calls before there is a server: the backlog keeps it.
    let early = connect(binary_at);
    let sockets = vec![("binary", binary), ("unix", unix.into()), ("http", http)];
    let mut server = Server::start_with_sockets(&folder, sockets, &["--shards", "2"]);
    assert_eq!((server.binary, server.http), (binary_at, http_at));
    let mut first = Client::visitor_over(&server, early);
    first.open();
    first.send(1, "early");
    // Every shard accepts from the same socket.
    let mut others: Vec<Client> = (0..16).map(|_| Client::visitor(&server)).collect();
    for client in &mut others {
        client.open();
        client.send(1, "later");
    }
    let stream = UnixStream::connect(&path).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    Client::visitor_over(&server, stream).open();
    // A reload finds the same addresses in force and refuses nothing.
    server.signal(Signal::HUP);
    server.wait_for_error("reload: nothing changed");
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0));
    assert!(std::fs::exists(&path).expect("readable"), "the path belongs to who opened the socket");
}

#[test]
fn a_socket_that_is_no_listener_of_ours_is_refused_in_a_sentence() {
    let folder = Folder::new("foreign-socket");
    let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0").expect("a free port").into();
    let unix = |name: &str| OwnedFd::from(UnixListener::bind(folder.path(name)).expect("a new socket"));
    for (sockets, sentence) in [
        (
            vec![("smtp", tcp().0)],
            "the socket `smtp` that was handed over is none of this server's listeners",
        ),
        (vec![("binary", udp)], "the socket `binary` that was handed over is not a listening stream socket"),
        (vec![("binary", unix("a.sock"))], "the socket `binary` that was handed over is not a TCP socket"),
        (vec![("unix", tcp().0)], "the socket `unix` that was handed over is not a Unix socket"),
        (vec![("http", tcp().0), ("http", tcp().0)], "two sockets named `http` were handed over"),
    ] {
        let (code, said) = Server::fail_with_sockets(&folder, sockets);
        assert_eq!(code, 5, "{said}");
        assert!(said.contains(sentence), "{said}");
    }
    // TLS without a certificate is a matter of the configuration.
    let (code, said) = Server::fail_with_sockets(&folder, vec![("tls_binary", tcp().0)]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("`tls.certificate`"), "{said}");
}
