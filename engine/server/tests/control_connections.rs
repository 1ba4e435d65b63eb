//! Callers of the control plane that say too little, too slowly or too much.

mod plant;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use plant::Plant;
use ringdesk_server::control::socket::CONNECTIONS_OF_ONE_MAX;

/// Longer than the server waits for a header.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(plant: &Plant, says: &str) -> TcpStream {
    let mut stream = TcpStream::connect(plant.address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(says.as_bytes()).expect("sent");
    stream
}

/// Whether the server closed the connection without a word.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn silence_and_half_requests_hold_no_place_for_long() {
    let plant = Plant::start("silence");
    let began = Instant::now();
    let kept = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", plant.address);
    let mut kept_alive = connect(&plant, &kept);
    assert!(kept_alive.read(&mut [0; 4096]).expect("answered") > 0);
    let mut held: Vec<TcpStream> = (1..CONNECTIONS_OF_ONE_MAX)
        .map(|index| connect(&plant, if index % 2 == 0 { "" } else { "GET / HT" }))
        .collect();
    let mut late = TcpStream::connect(plant.address).expect("connects");
    late.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert!(is_closed(&mut late), "an address has its share and no more");
    assert!(began.elapsed() < Duration::from_secs(8), "at once");
    for stream in held.iter_mut().chain([&mut kept_alive]) {
        assert!(is_closed(stream), "closed");
    }
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(plant.get("/healthz").status, 200);
}

#[test]
fn the_refusal_of_a_body_too_large_can_be_read() {
    let plant = Plant::start("large");
    let body = "a".repeat(10 << 20);
    for length in ["Content-Length: 10485760".to_string(), "Transfer-Encoding: chunked".to_string()] {
        let head = format!(
            "POST /v1/tickets/visitor HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{length}\r\n\r\n",
            plant.address
        );
        let mut stream = connect(&plant, &head);
        if length.starts_with('T') {
            stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).expect("sent");
        }
        stream.write_all(body.as_bytes()).expect("the server reads on");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("not reset");
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("too large"), "{answer}");
    }
}
