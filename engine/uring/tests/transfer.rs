//! Connections that leave one ring as descriptors of the process and come into another.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use ringdesk_uring::files::Durability;
use ringdesk_uring::kernel::{Kernel, Transfer};
use ringdesk_uring::sys::{Fleet, SysConfig, SysKernel};

fn open(name: &str) -> SysKernel {
    let mut config = SysConfig::new(0, PathBuf::from("/nonexistent").join(name));
    // Three rings of 64 entries, and nothing is written to find out how to write.
    (config.entries, config.table_entries) = (192, 64);
    config.durability = Some(Durability::Buffered);
    SysKernel::open(&config, Fleet::new(1).expect("eventfds"), Vec::new()).expect("io_uring works here")
}

#[test]
fn connections_survive_the_ring_that_held_them() {
    let mut old = open("old");
    if !old.exports() {
        println!("skipped: this kernel has no IORING_OP_FIXED_FD_INSTALL");
        return;
    }
    assert_eq!(old.rings(), 3);
    let (mut clients, sockets): (Vec<UnixStream>, Vec<OwnedFd>) =
        (0..150).map(|_| UnixStream::pair().map(|(a, b)| (a, b.into())).expect("a pair")).unzip();
    let entries = old.import(sockets).expect("taken in");
    assert_eq!(entries.len(), 150);
    let mut new = open("new");
    let mut taken = Vec::new();
    for batch in entries.chunks(40) {
        taken.extend(new.import(old.export(batch).expect("installed")).expect("taken in"));
    }
    assert_eq!(taken.len(), 150);
    drop(old);
    // Each client still has its own connection: what comes out of the new ring says which.
    for (number, client) in (0u8..).zip(&mut clients) {
        client.write_all(&[number]).expect("the connection lives");
    }
    for (number, entry) in (0u8..).zip(&taken) {
        let mut socket = UnixStream::from(new.export(&[*entry]).expect("installed").remove(0));
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("the client's byte");
        assert_eq!(byte, [number]);
    }
}

#[test]
fn a_full_table_takes_what_fits() {
    let mut kernel = open("full");
    let sockets = (0..200).map(|_| UnixStream::pair().expect("a pair").0.into()).collect();
    let entries = kernel.import(sockets).expect("taken in");
    assert_eq!(entries.len(), kernel.entries() as usize);
    assert_eq!(entries.iter().collect::<std::collections::BTreeSet<_>>().len(), 192, "each entry once");
}
