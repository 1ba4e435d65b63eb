//! Writes the seeds: one small file per thing worth knowing, from the golden vectors and from the table below.
//! `cargo run --example seeds`. What it writes is committed; inputs found by fuzzing lie beside them under other names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, SiteId};
use ringdesk_protocol::proxy::SIGNATURE;
use ringdesk_protocol::ws::{Deflate, Deflater, Opcode, Subprotocol, client, encode};
use ringdesk_shard::carry::{Carried, Hello, Listen, Ready, Session, Stage};
use ringdesk_shard::io::ListenerKind;
use ringdesk_shard::message::{Identity, Principal, Transport};
use serde_json::Value as Json;

fn main() -> io::Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let vectors = root.join("../protocol/vectors");
    let corpus = Corpus(root.join("corpus"));
    messages(&corpus, &vectors)?;
    proxy(&corpus)?;
    shard(&corpus, &vectors)?;
    websocket(&corpus, &vectors)?;
    upgrade(&corpus)?;
    ticket(&corpus)?;
    carry(&corpus)?;
    record(&corpus, &root)?;
    log(&corpus, &root)
}

struct Corpus(PathBuf);

impl Corpus {
    fn put(&self, target: &str, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), parts.concat())
    }
}

fn vectors(folder: &Path, file: &str) -> io::Result<Vec<Json>> {
    let text = fs::read_to_string(folder.join(file))?;
    Ok(serde_json::from_str(&text)?)
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Bytes of a field in hex.
fn bytes(vector: &Json, field: &str) -> Option<Vec<u8>> {
    vector[field].as_str().map(unhex)
}

fn name(vector: &Json) -> &str {
    vector["name"].as_str().expect("a name")
}

/// Frames, bodies and texts of the published messages.
fn messages(corpus: &Corpus, folder: &Path) -> io::Result<()> {
    let mut stream = Vec::new();
    for file in ["messages.json", "refused.json", "grown.json"] {
        for vector in vectors(folder, file)? {
            let name = name(&vector);
            if let Some(frame) = bytes(&vector, "frame") {
                corpus.put("message", name, &[&frame[4..5], &frame[16..]])?;
                if file == "refused.json" {
                    corpus.put("frame", name, &[&[0, 0, 0, 0, 0, 3], &frame])?;
                } else if stream.len() + frame.len() < 600 {
                    stream.extend_from_slice(&frame);
                }
            }
            let text = vector["text"].as_str().map(str::to_owned);
            let json = vector.get("json").map(Json::to_string);
            if let Some(text) = text.or(json) {
                corpus.put("json", name, &[text.as_bytes()])?;
            }
        }
    }
    for (name, plan) in [
        ("whole", [0; 4]),
        ("sevens", [7; 4]),
        ("header_then_rest", [16, 3, 200, 1]),
        ("odd", [1, 15, 2, 33]),
    ] {
        for breaks in [0, 0b1010_1010] {
            corpus.put("frame", &format!("stream_{name}_{breaks}"), &[&plan, &[breaks, 3], &stream])?;
        }
    }
    corpus.put("frame", "small_limit", &[&[5, 0, 0, 0, 0, 0], &stream])
}

/// Headers of every family and command, whole and wrong.
fn proxy(corpus: &Corpus) -> io::Result<()> {
    let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xC3, 0x50, 0x01, 0xBB];
    let v6 = [[0x20; 16].as_slice(), &[0x30; 16], &[0xC3, 0x50, 0x01, 0xBB]].concat();
    let tlv = [0x04, 0, 3, 1, 2, 3];
    let checksum = [0x03, 0, 4, 0, 0, 0, 0];
    let headers: &[(&str, u8, u8, Vec<u8>)] = &[
        ("v4", 0x21, 0x11, v4.to_vec()),
        ("v6", 0x21, 0x21, v6.clone()),
        ("unix", 0x21, 0x31, vec![b'/'; 216]),
        ("unspecified", 0x21, 0x00, Vec::new()),
        ("local", 0x20, 0x00, Vec::new()),
        ("local_with_block", 0x20, 0x11, v4.to_vec()),
        ("tlv", 0x21, 0x11, [&v4[..], &tlv].concat()),
        ("tlv_cut", 0x21, 0x11, [&v4[..], &tlv[..4]].concat()),
        ("checksum_wrong", 0x21, 0x11, [&v4[..], &checksum].concat()),
        ("checksum_twice", 0x21, 0x11, [&v4[..], &checksum, &checksum].concat()),
        ("too_short", 0x21, 0x21, v4.to_vec()),
        ("too_long", 0x21, 0x11, vec![0; 521]),
        ("datagram", 0x21, 0x12, v4.to_vec()),
        ("command", 0x22, 0x11, v4.to_vec()),
        ("version", 0x31, 0x11, v4.to_vec()),
    ];
    for (name, version_command, family, block) in headers {
        let length = u16::try_from(block.len()).expect("a short block").to_be_bytes();
        let header = [&SIGNATURE[..], &[*version_command, *family], &length, block, b"next"].concat();
        corpus.put("proxy", name, &[&[11, 3, 1, 200], &header])?;
    }
    corpus.put("proxy", "version_1", &[&[3, 1, 1, 1], b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n"])?;
    corpus.put("proxy", "no_header", &[&[1, 0, 0, 0], b"GET /ws HTTP/1.1\r\n"])
}

/// The published client messages, one after the other, from each kind of client over each transport.
fn shard(corpus: &Corpus, folder: &Path) -> io::Result<()> {
    let sent = vectors(folder, "messages.json")?;
    let sent: Vec<_> = sent.iter().filter(|vector| vector["direction"] == "client").collect();
    for (transport, form) in ["binary", "ws_binary", "ws_json"].iter().zip(0_u8..) {
        for (role, who) in ["visitor", "agent", "gateway", "nobody"].iter().zip(0_u8..) {
            let mut stream = Vec::new();
            for vector in &sent {
                let frame = bytes(vector, "frame").expect("a frame");
                let mask = [0; 4];
                match form {
                    0 => stream.extend_from_slice(&frame),
                    1 => encode::masked(Opcode::Binary, &frame, mask, &mut stream),
                    _ => {
                        encode::masked(Opcode::Text, vector["json"].to_string().as_bytes(), mask, &mut stream)
                    }
                }
            }
            let mode = form | who << 2;
            corpus.put("shard", &format!("{transport}_{role}"), &[&[mode, 0, 0, 0, 0], &stream])?;
            corpus.put(
                "shard",
                &format!("{transport}_{role}_in_pieces"),
                &[&[mode | 16, 90, 200, 33, 70], &stream],
            )?;
        }
    }
    let mut request = Vec::new();
    client::request("chat.example", None, "dGhlIHNhbXBsZSBub25jZQ==", Subprotocol::Binary, &mut request);
    corpus.put("shard", "raw_request", &[&[3, 50, 0, 0, 0], &request])
}

/// The published streams for a server, and the same events for a client.
fn websocket(corpus: &Corpus, folder: &Path) -> io::Result<()> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    for vector in vectors(folder, "websocket.json")? {
        let Some(stream) = bytes(&vector, "bytes") else { continue };
        if stream.len() <= 2_000 {
            corpus.put("websocket", name(&vector), &[&[3, 1, 0, 0], &[0, 2], &MASK, &stream])?;
        }
    }
    let mut stream = Vec::new();
    encode::message(Opcode::Text, "你好 🦀".as_bytes(), &mut stream);
    encode::message(Opcode::Ping, b"?", &mut stream);
    encode::message(Opcode::Binary, &[7; 130], &mut stream);
    encode::close(1000, "done", &mut stream);
    for mode in [1, 3, 5, 7] {
        corpus.put("websocket", &format!("client_{mode}"), &[&[9, 1, 2, 0], &[mode, 4], &MASK, &stream])?;
    }
    let deflate = Deflate::of_offer("permessage-deflate").expect("an offer");
    let (mut frame, mut stream) = (Vec::new(), Vec::new());
    Deflater::new().message(deflate, Opcode::Text, "squeeze ".repeat(40).as_bytes(), &mut frame);
    encode::masked(Opcode::Text, &frame[2..], [0; 4], &mut stream);
    stream[0] = frame[0];
    for (name, mode) in [("compressed", 8), ("compressed_too_long", 10), ("compressed_within", 14)] {
        corpus.put("websocket", name, &[&[5, 0, 1, 9], &[mode, 0], &MASK, &stream])?;
    }
    // Text over three fragments, cut inside a character, with a pong between; masks of zero, so it stays legible.
    let none = [0_u8; 4];
    let parts: [&[u8]; 13] = [
        &[1, 2, 3, 4, 0, 0, 0, 0, 0, 0],
        &[0x01, 0x82],
        &none,
        &[0xE6, 0xB1],
        &[0x8A, 0x80],
        &none,
        &[0x00, 0x81],
        &none,
        &[0x89],
        &[0x80, 0x82],
        &none,
        b"ok",
        &[],
    ];
    corpus.put("websocket", "fragments_inside_a_character", &parts)?;
    let long: [&[u8]; 4] = [&[0; 10], &[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0], &[1, 2, 3, 4], &[5; 64]];
    corpus.put("websocket", "length_in_eight_bytes", &long)
}

fn upgrade(corpus: &Corpus) -> io::Result<()> {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let mut good = Vec::new();
    client::request("chat.example", Some("https://shop.example"), KEY, Subprotocol::Json, &mut good);
    let good = String::from_utf8(good).expect("a request is text");
    let put = |name: &str, text: &str| corpus.put("upgrade", name, &[&[40, 1, 90, 7, 0], text.as_bytes()]);
    put("good", &good)?;
    put("frames_follow", &(good.clone() + "\u{1}frames"))?;
    let changes = [
        ("post", "GET", "POST"),
        ("path", "/ws", "/chat"),
        ("query", "/ws", "/ws?a=b#c"),
        ("old_http", "HTTP/1.1", "HTTP/1.0"),
        ("no_host", "Host: chat.example\r\n", ""),
        ("two_hosts", "Host: chat.example", "Host: a\r\nHost: b"),
        ("no_upgrade", "Upgrade: websocket\r\n", ""),
        (
            "deflate",
            "Host:",
            "Sec-WebSocket-Extensions: x-y, permessage-deflate; server_max_window_bits=10\r\nHost:",
        ),
        ("closing", "Connection: Upgrade", "Connection: close"),
        ("tokens", "Connection: Upgrade", "Connection: keep-alive, uPgRaDe"),
        ("version", "Version: 13", "Version: 8"),
        ("short_key", KEY, "c2hvcnQ="),
        ("foreign_protocol", "ringdesk.v1.json", "graphql-ws"),
        ("two_protocols", "ringdesk.v1.json", "x, ringdesk.v1.bin"),
        ("body", "Host: chat.example", "Host: a\r\nContent-Length: 5"),
        ("chunked", "Host: chat.example", "Host: a\r\nTransfer-Encoding: chunked"),
        ("bare_lines", "\r\n", "\n"),
        ("not_ascii", "chat.example", "ch\u{e4}t.example"),
    ];
    for (name, from, to) in changes {
        put(name, &good.replace(from, to))?;
    }
    put("many_headers", &good.replace("Host:", &("a:b\r\n".repeat(60) + "Host:")))?;
    put("no_end", good.trim_end())?;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: ringdesk.v1.json\r\n\r\n";
    let response =
        |name: &str, text: &str| corpus.put("upgrade", name, &[&[9, 70, 1, 3, 1], text.as_bytes()]);
    response("response", &(answer.to_owned() + "frames"))?;
    response("response_refused", "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nBAD_ORIGIN")?;
    response("response_foreign", &answer.replace("s3pP", "S3pP"))
}

fn ticket(corpus: &Corpus) -> io::Result<()> {
    let header = r#"{"typ":"JWT","alg":"HS256"}"#;
    let visitor = r#"{"iss":"ringdesk","site":"demo","sid":1,"role":"visitor","sub":"v-1","aid":0,"iat":1000,"exp":2000}"#;
    let agent = visitor.replace("visitor", "agent").replace("\"aid\":0", "\"aid\":9");
    let signed: &[(&str, u8, &str, &str)] = &[
        ("visitor", 1, header, visitor),
        ("agent", 2, header, &agent),
        ("gateway", 3, header, &visitor.replace("visitor", "gateway")),
        ("wrong_role", 2, header, visitor),
        ("expired", 1, header, &visitor.replace("2000", "1500")),
        ("from_the_future", 1, header, &visitor.replace("1000", "1561")),
        ("visitor_with_number", 1, header, &visitor.replace("\"aid\":0", "\"aid\":7")),
        ("no_site", 1, header, &visitor.replace("\"sid\":1", "\"sid\":0")),
        ("empty_sub", 1, header, &visitor.replace("v-1", "")),
        ("foreign_issuer", 1, header, &visitor.replace("ringdesk", "else")),
        ("issuers", 1, header, &visitor.replace("\"ringdesk\"", "[\"ringdesk\"]")),
        ("extra_claims", 1, header, &visitor.replace("\"sid\"", "\"nbf\":9999,\"aud\":\"x\",\"sid\"")),
        ("twice", 1, header, &visitor.replace("\"sid\":1", "\"sid\":1,\"sid\":2")),
        ("huge_times", 1, header, &visitor.replace("2000", "18446744073709551615")),
        ("hs384", 1, r#"{"alg":"HS384"}"#, visitor),
        ("none", 1, r#"{"alg":"none"}"#, visitor),
        ("rs256", 1, r#"{"alg":"RS256"}"#, visitor),
        ("critical", 1, r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, visitor),
        ("key_in_header", 1, r#"{"alg":"HS256","kid":"1","jwk":{"kty":"oct","k":"AA"}}"#, visitor),
        ("no_claims", 1, header, "{}"),
        ("claims_are_a_list", 1, header, "[]"),
    ];
    let site = r#"{"sub":"customer-42","iat":1000,"exp":2000,"plan":"gold"}"#;
    let of_site = r#"{"alg":"EdDSA","kid":"shop:1"}"#;
    let by_site: &[(&str, &str, &str)] = &[
        ("site_visitor", of_site, site),
        ("site_agent", of_site, &site.replace("\"plan\":\"gold\"", "\"role\":\"agent\",\"aid\":1")),
        ("site_for_long", of_site, &site.replace("2000", "90000")),
        ("site_hash_tag", of_site, &site.replace("customer-42", "a}b")),
        ("site_unknown_key", &of_site.replace("shop:1", "shop:2"), site),
        ("site_no_key", r#"{"alg":"EdDSA"}"#, site),
        ("site_hmac", &of_site.replace("EdDSA", "HS256"), site),
    ];
    for (name, header, claims) in by_site {
        corpus.put("ticket", name, &[&[2, 1], header.as_bytes(), b"\n", claims.as_bytes()])?;
    }
    for (name, role, header, claims) in signed {
        corpus.put("ticket", name, &[&[1, *role], header.as_bytes(), b"\n", claims.as_bytes()])?;
    }
    for (name, token) in [
        ("raw_empty", ""),
        ("raw_dots", ".."),
        ("raw_short", "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"),
        ("raw_four_parts", "eyJhbGciOiJIUzI1NiJ9.e30.c2ln.e30"),
        ("raw_none", "eyJhbGciOiJub25lIn0.e30."),
    ] {
        corpus.put("ticket", name, &[&[0, 1], token.as_bytes()])?;
    }
    Ok(())
}

/// The golden log's records, the first of each sequence of kinds.
fn record(corpus: &Corpus, root: &Path) -> io::Result<()> {
    let golden = fs::read_to_string(root.join("../engine/desk/golden/v1.hex"))?;
    let mut known = Vec::new();
    for line in golden.lines().filter(|line| !line.starts_with(['#', 'd'])) {
        let record = unhex(line.trim());
        let kinds = kinds(&record);
        if !kinds.is_empty() && !known.contains(&kinds) {
            let name = kinds.iter().map(u8::to_string).collect::<Vec<_>>().join("_");
            corpus.put("record", &format!("kinds_{name}"), &[&record])?;
            known.push(kinds);
        }
    }
    Ok(())
}

/// Kinds of the events of a record, by the layout in `desk/codec.rs`.
fn kinds(record: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    let mut rest = &record[2..];
    while let [kind, _, a, b, c, d, left @ ..] = rest {
        kinds.push(*kind);
        rest = &left[u32::from_le_bytes([*a, *b, *c, *d]) as usize..];
    }
    kinds
}

fn log(corpus: &Corpus, root: &Path) -> io::Result<()> {
    // Steps: 0..=2 a record of a length, 3 poll, 4 complete one, 5 write all, 6 idle, 7 crash; 255, then wounds.
    let lives: &[(&str, &[u8])] = &[
        ("two_batches", &[0, 0, 9, 5, 1, 40, 5, 6]),
        ("crash_between", &[0, 0, 9, 5, 1, 40, 3, 7, 0xA0, 0, 7, 5, 6]),
        ("crash_twice", &[0, 1, 90, 3, 4, 0, 3, 7, 0xFF, 1, 60, 3, 4, 0, 3, 7, 0x55, 0, 5, 5]),
        ("rolls", &[0, 2, 200, 5, 2, 200, 5, 2, 200, 5, 2, 200, 5, 2, 90, 5, 6]),
        ("wide_blocks", &[3, 2, 100, 5, 1, 8, 3, 7, 0x3C, 0, 1, 6]),
        ("filled_ahead", &[5, 2, 100, 3, 4, 1, 4, 0, 3, 4, 1, 5, 7, 0xF0]),
        ("flipped_bit", &[0, 0, 9, 5, 1, 40, 5, 6, 255, 0, 0, 2, 30, 0, 3]),
        ("unreadable", &[0, 1, 99, 1, 99, 5, 6, 255, 2, 0, 2]),
        ("zeroed", &[0, 1, 99, 5, 1, 99, 5, 255, 3, 0, 4]),
        ("copied", &[0, 1, 99, 5, 1, 99, 5, 6, 255, 4, 0, 1, 3]),
        ("truncated", &[0, 1, 99, 5, 6, 255, 5, 0, 2, 100]),
        ("removed", &[0, 2, 200, 5, 2, 200, 5, 2, 200, 5, 2, 200, 5, 2, 90, 5, 6, 255, 6, 1, 0]),
        ("crash_then_wound", &[0, 1, 90, 3, 4, 0, 3, 7, 0xC0, 1, 60, 5, 6, 255, 0, 0, 1, 9, 1, 5, 2, 0, 9]),
    ];
    for (name, life) in lives {
        corpus.put("log", name, &[life])?;
    }
    for file in ["log-v1.hex", "meta-v1.hex"] {
        let text = fs::read_to_string(root.join("../persist/golden").join(file))?;
        corpus.put("log", &format!("raw_{}", &file[..4].trim_end_matches('-')), &[&[255], &golden(&text)])?;
    }
    Ok(())
}

/// `persist`'s golden notation: a length, then lines of an offset and its bytes.
fn golden(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.strip_prefix("length ")).expect("a length");
    let mut bytes = vec![0; length.parse().expect("a number")];
    for line in lines {
        let (offset, row) = line.split_once(':').expect("an offset");
        let offset = usize::from_str_radix(offset, 16).expect("hex");
        let row = unhex(&row.replace(' ', ""));
        bytes[offset..offset + row.len()].copy_from_slice(&row);
    }
    bytes
}

/// Connections at every stage, with what a shard makes of their bytes.
fn carry(corpus: &Corpus) -> io::Result<()> {
    let ping = [[8, 0, 0, 0, 0x0B, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0].as_slice(), &[7; 8]].concat();
    let mut masked = Vec::new();
    encode::masked(Opcode::Binary, &ping, [1, 2, 3, 4], &mut masked);
    let tail = Listen { from_tail: true, ..listen(0) };
    let visitor = |seq| ready(false, vec![(0, session("visitor-2", 0, vec![listen(seq)]))]);
    let bound = (1..4).map(|channel| (channel, session("g", 0, vec![listen(channel)]))).collect();
    let proxied = ListenerKind { proxied: true, ..ListenerKind::WEBSOCKET };
    let (stream, binary, text) = (Transport::Stream, Transport::WsBinary, Transport::WsJson);
    let agent = Identity::Agent { agent: AgentId(7), login: "agent-1".into() };
    let seeds = [
        ("visitor", stream, ping.clone(), visitor(2)),
        ("cut", stream, ping[..5].to_vec(), visitor(1)),
        (
            "agent",
            binary,
            masked.clone(),
            ready(false, vec![(0, session("agent-1", 7, vec![listen(2), tail]))]),
        ),
        ("gateway", stream, ping, ready(true, bound)),
        ("ended", text, b"\x81\x80".to_vec(), ready(false, Vec::new())),
        ("beyond", text, Vec::new(), visitor(u32::MAX)),
        ("hello", binary, masked[..9].to_vec(), taken(Identity::Visitor { visitor: "visitor-2".into() })),
        ("hello_agent", stream, Vec::new(), taken(agent)),
        ("hello_gateway", stream, vec![0; 3], taken(Identity::Gateway)),
        ("greeting", stream, vec![9; 20], Stage::Greeting { upgraded: false }),
        ("upgrading", text, b"GET /ws HTTP/1.1\r\n".to_vec(), Stage::Greeting { upgraded: false }),
        ("upgraded", binary, masked, Stage::Greeting { upgraded: true }),
        ("proxy", text, SIGNATURE[..7].to_vec(), Stage::Proxy(proxied)),
        ("proxy_tls", stream, Vec::new(), Stage::Proxy(ListenerKind { tls: true, ..proxied })),
        ("closing", stream, Vec::new(), Stage::Closing),
    ];
    for (name, transport, undecoded, stage) in seeds {
        let deflate = (transport == binary).then(|| Deflate::of_window(12).expect("a window"));
        let address = Some(std::net::IpAddr::from([192, 0, 2, 1]));
        let unsent = if name == "closing" { b"bye".to_vec() } else { Vec::new() };
        let mut bytes = Vec::new();
        Carried { transport, deflate, address, silent_s: 3, unsent, undecoded, stage }.encode(&mut bytes);
        corpus.put("carry", name, &[&bytes])?;
    }
    Ok(())
}

fn listen(after: u32) -> Listen {
    Listen { conversation: ConversationId(1 << 48 | 1), after, from_tail: false, live: after > 1 }
}

fn session(name: &str, agent: u32, listens: Vec<Listen>) -> Session {
    Session { name: name.into(), device: DeviceId(2), agent, listens }
}

fn ready(gateway: bool, sessions: Vec<(u32, Session)>) -> Stage {
    let (site, site_name) = (SiteId(1), "demo".into());
    Stage::Ready(Box::new(Ready { site, site_name, issued_s: 1, log_epoch: 1, gateway, sessions }))
}

/// A HELLO that was taken and not answered.
fn taken(identity: Identity) -> Stage {
    let (site, site_name) = (SiteId(1), "demo".into());
    let principal = Principal { site, site_name, identity, expires_s: 2, issued_s: 1 };
    let cursors = vec![(1 << 48 | 1, 1, 1)];
    Stage::Hello(Box::new(Hello { principal, device: DeviceId(2), tag: 1, cursors, frames: Vec::new() }))
}
