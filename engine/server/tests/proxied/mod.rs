//! Behind a front proxy: PROXY headers on TCP, TLS and Unix sockets, and the cap they make possible.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use ringdesk_protocol::proxy::{SIGNATURE, write};

use crate::process::{Client, Folder, Server, connect};

fn proxied(name: &str, more: &str) -> (Folder, Server) {
    let folder = Folder::new(name);
    folder.write("small.toml", &format!("[log]\nsegment_mib = 4\n{more}"));
    let server = Server::start(&folder, &["--shards", "1"]);
    (folder, server)
}

fn from(server: &Server, peer: &str) -> TcpStream {
    let mut stream = connect(server.binary);
    let mut header = Vec::new();
    write(peer.parse().expect("an address"), "127.0.0.1:7801".parse().expect("an address"), &mut header);
    stream.write_all(&header).expect("sent");
    stream
}

#[test]
fn a_header_comes_before_everything() {
    let (_folder, server) = proxied("proxied", "[listen]\nproxy_protocol = [\"binary\"]\n");
    let mut visitor = Client::visitor_over(&server, from(&server, "203.0.113.7:5000"));
    visitor.open();
    visitor.send(1, "through a proxy");
    // LOCAL, a proxy's own connection: address and all are ignored.
    let mut stream = connect(server.binary);
    let local = [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
    for byte in local {
        stream.write_all(&[byte]).expect("sent");
    }
    Client::visitor_over(&server, stream).open();
}

#[test]
fn a_malformed_header_ends_the_connection_without_a_word() {
    let (_folder, server) = proxied("malformed", "[listen]\nproxy_protocol = [\"binary\"]\n");
    let wrong = [&SIGNATURE[..], &[0x21, 0x11, 0, 3, 1, 2, 3]].concat();
    let version_1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 7801\r\n".to_vec();
    let none = vec![0x40, 0, 0, 0, 1, 0, 0, 0];
    for bytes in [wrong, version_1, none] {
        let mut stream = connect(server.binary);
        stream.write_all(&bytes).expect("sent");
        let mut answer = Vec::new();
        // Closed with bytes unread the end may be a reset.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:02x?}");
    }
    std::thread::sleep(std::time::Duration::from_millis(250));
    let metrics = server.get("/metrics");
    assert!(metrics.contains("ringdesk_proxy_refused_total{shard=\"0\"} 3"), "{metrics}");
}

#[test]
fn one_address_has_so_many_connections() {
    let settings = "[listen]\nproxy_protocol = [\"binary\"]\n[clients]\nconnections_per_address_max = 2\n";
    let (_folder, server) = proxied("cap", settings);
    let mut kept: Vec<Client> = ["203.0.113.7:1", "203.0.113.7:2", "203.0.113.8:1"]
        .map(|peer| Client::visitor_over(&server, from(&server, peer)))
        .into();
    let mut third = from(&server, "203.0.113.7:3");
    let mut answer = Vec::new();
    third.read_to_end(&mut answer).expect("an end");
    // GOODBYE.
    assert_eq!(answer.get(4), Some(&0x8B), "{answer:02x?}");
    kept.remove(0);
    let again = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut stream = from(&server, "203.0.113.7:4");
        stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).expect("a timeout");
        // Silence: it waits for HELLO.
        stream.read(&mut [0; 64]).is_err().then_some(stream)
    });
    let again = again.expect("a place is free when one leaves");
    again.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a timeout");
    kept.push(Client::visitor_over(&server, again));
    for client in &mut kept {
        client.open();
    }
}

#[test]
fn unix_sockets_serve_with_and_without_headers() {
    for (name, listeners, header) in
        [("unix", "", false), ("unix-proxied", "proxy_protocol = [\"unix\"]", true)]
    {
        let folder = Folder::new(name);
        let path = folder.path("ringdesk.sock");
        let listen = format!("[log]\nsegment_mib = 4\n[listen]\nunix = {path:?}\n{listeners}\n");
        folder.write("small.toml", &listen);
        let server = Server::start(&folder, &["--shards", "2"]);
        let mut clients: Vec<Client> = (0..4)
            .map(|_| {
                let mut stream = UnixStream::connect(&path).expect("listened on");
                stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a timeout");
                if header {
                    let mut bytes = Vec::new();
                    let local: SocketAddr = "[::1]:7801".parse().expect("an address");
                    write("[2001:db8::1]:9".parse().expect("an address"), local, &mut bytes);
                    stream.write_all(&bytes).expect("sent");
                }
                Client::visitor_over(&server, stream)
            })
            .collect();
        for client in &mut clients {
            client.open();
            client.send(1, "over a Unix socket");
            assert_eq!(client.history(), ["over a Unix socket"]);
        }
    }
}
