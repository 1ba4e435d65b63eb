//! Tests of the JSON form.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::samples;
use crate::{Code, Content, WireError};

fn parse_client(text: &str) -> Result<u8, WireError> {
    let document = Document::parse(text)?;
    client(&document).map(|tagged| tagged.message.kind())
}

/// For each sample: it comes back; without a field it is MALFORMED and names it; with a wrong type it is BAD_JSON
/// and names it; an unknown field changes nothing.
macro_rules! check_samples {
    ($samples:expr, $read:ident) => {
        for (name, channel, tag, message) in $samples {
            let mut bytes = Vec::new();
            message.write_json(channel, tag, &mut bytes);
            let text = String::from_utf8(bytes).expect(name);
            let document = Document::parse(&text).expect(name);
            assert_eq!($read(&document), Ok(Tagged { channel, tag, message }), "{name}");

            let Ok(Json::Object(fields)) = serde_json::from_str(&text) else { panic!("{name} is an object") };
            for field in fields.keys() {
                let optional = field == "tag" || (field == "channel" && !matches!(message.name(), "bind" | "unbind"));
                let mut without = fields.clone();
                without.remove(field);
                let without = Json::Object(without).to_string();
                match $read(&Document::parse(&without).expect(name)) {
                    Ok(_) => assert!(optional, "{name} without {field}"),
                    Err(WireError::Missing { field: named }) => assert!(!optional && named == field, "{name}"),
                    Err(other) => panic!("{name} without {field}: {other:?}"),
                }
                for wrong in ["null", "-1", "0.5", "{}"] {
                    let mut changed = fields.clone();
                    changed.insert(field.clone(), serde_json::from_str(wrong).expect("JSON"));
                    let changed = Json::Object(changed).to_string();
                    let error = $read(&Document::parse(&changed).expect(name)).map(|_| ()).expect_err(field);
                    assert!(matches!(error, WireError::WrongType { field: named, .. } if named == field), "{error:?}");
                    assert_eq!(error.code(), Code::BadJson);
                }
            }
            let grown = format!("{{\"future\":[null,{{\"x\":-0.5}}],{}", &text[1..]);
            let document = Document::parse(&grown).expect(name);
            assert_eq!($read(&document), Ok(Tagged { channel, tag, message }), "{name}");
        }
    };
}

#[test]
fn every_message_comes_back_and_every_fault_names_its_field() {
    check_samples!(samples::client(), client);
    check_samples!(samples::server(), server);
}

#[test]
fn the_written_form_is_compact_and_in_order() {
    let text = r#"{"type":"send","tag":1,"channel":0,"conversation":"00a4000000000001","n":1,"owner_epoch":0,"content":"text","body":"hi"}"#;
    let document = Document::parse(text).expect("JSON");
    let tagged = client(&document).expect("a SEND");
    let expected = crate::ClientMessage::Send {
        conversation: 0x00A4_0000_0000_0001,
        n: 1,
        owner_epoch: 0,
        content: Content::Text,
        body: b"hi",
    };
    assert_eq!((tagged.tag, tagged.message), (1, expected));
    let mut out = Vec::new();
    tagged.message.write_json(tagged.channel, tagged.tag, &mut out);
    assert_eq!(out, text.as_bytes());
}

#[test]
fn faults_have_their_codes() {
    let code = |text: &str| parse_client(text).map_err(WireError::code);
    let ping = |nonce: &str| format!("{{\"type\":\"ping\",\"nonce\":{nonce}}}");
    assert_eq!(code(&ping("\"0123456789abcdef\"")), Ok(0x0B));
    assert_eq!(code(&ping("\"0123456789ABCDEF\"")), Err(Code::Invalid));
    assert_eq!(code(&ping("\"+123456789abcdef\"")), Err(Code::Invalid));
    assert_eq!(code(&ping("\"12\"")), Err(Code::Invalid));
    assert_eq!(code(&ping("12")), Err(Code::BadJson));
    for text in ["", "{", "[]", "7", "\"ping\"", "{} {}", "{\"type\":\"ping\"", "nonsense", "null"] {
        assert_eq!(code(text), Err(Code::BadJson), "{text}");
    }
    assert_eq!(code("{\"type\":\"welcome\"}"), Err(Code::UnknownKind));
    assert_eq!(code("{\"type\":\"unbind\",\"channel\":4294967296}"), Err(Code::Invalid));
    assert_eq!(code("{\"type\":\"open\",\"n\":18446744073709551616,\"topic\":\"\"}"), Err(Code::Invalid));
    for number in ["-0", "-1", "1.0", "1e0", "0.5"] {
        let open = format!("{{\"type\":\"open\",\"n\":{number},\"topic\":\"\"}}");
        assert_eq!(code(&open), Err(Code::BadJson), "{number}");
    }
    let topic = "a".repeat(65);
    assert_eq!(code(&format!("{{\"type\":\"open\",\"n\":1,\"topic\":\"{topic}\"}}")), Err(Code::TooLarge));
    let presence = "{\"type\":\"presence\",\"n\":1,\"capacity\":1,\"availability\":\"ONLINE\"}";
    assert_eq!(code(presence), Err(Code::Invalid));
}

#[test]
fn depth_width_and_count_are_bounded() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
    assert_eq!(parse_client(&deep), Err(WireError::NotJson));
    // The object itself is the first of the 127 levels.
    let ping = |lists: usize| {
        let nested = format!("{}{}", "[".repeat(lists), "]".repeat(lists));
        parse_client(&format!("{{\"type\":\"ping\",\"nonce\":\"0000000000000000\",\"a\":{nested}}}"))
    };
    assert_eq!((ping(126), ping(127)), (Ok(0x0B), Err(WireError::NotJson)));
    let wide = format!("{{\"a\":[{}0]}}", "0,".repeat(256));
    assert_eq!(parse_client(&wide), Err(WireError::NotJson));
    let fields: Vec<String> = (0..65).map(|number| format!("\"f{number}\":0")).collect();
    assert_eq!(parse_client(&format!("{{{}}}", fields.join(","))), Err(WireError::NotJson));
}

#[test]
fn a_reject_finds_the_tag_and_kind_of_what_it_refuses() {
    let tag_of = |text: &str| tag_and_kind(&Document::parse(text).expect("JSON"));
    assert_eq!(tag_of("{\"type\":\"send\",\"tag\":9,\"n\":\"one\"}"), (9, 0x03));
    assert_eq!(tag_of("{\"type\":\"no\",\"tag\":\"x\"}"), (0, 0));
    assert_eq!(tag_of("{}"), (0, 0));
}

#[test]
fn list_faults_are_named() {
    let hello = |cursors: &str| {
        parse_client(&format!(
            "{{\"type\":\"hello\",\"version_min\":1,\"version_max\":1,\"role\":\"visitor\",\
             \"device\":\"0000000000000001\",\"ticket\":\"t\",\"cursors\":{cursors}}}"
        ))
    };
    assert_eq!(hello("[]"), Ok(0x01));
    assert_eq!(hello("[{}]"), Err(WireError::Missing { field: "conversation" }));
    assert_eq!(hello("[7]").map_err(WireError::code), Err(Code::BadJson));
    let cursor =
        |epoch: &str| format!("[{{\"conversation\":\"0000000000000001\",\"epoch\":{epoch},\"seq\":1}}]");
    assert_eq!(hello(&cursor("1")), Ok(0x01));
    assert_eq!(hello(&cursor("\"1\"")).map_err(WireError::code), Err(Code::BadJson));
}

proptest! {
    #[test]
    fn any_text_comes_back_in_a_body(body in any::<String>(), n: u64) {
        let body = body.as_bytes();
        let send = crate::ClientMessage::Send { conversation: n, n, owner_epoch: 1, content: Content::Card, body };
        let mut out = Vec::new();
        send.write_json(2, 3, &mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        let document = Document::parse(&text).expect("JSON");
        prop_assert_eq!(client(&document), Ok(Tagged { channel: 2, tag: 3, message: send }));
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>(), part in "[\\[\\]{}:,\"a-z0-9 ]{0,40}") {
        let _ = parse_client(&text);
        let _ = parse_client(&part);
    }
}
