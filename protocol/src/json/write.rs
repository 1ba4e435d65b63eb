//! JSON values appended to a byte vector. No allocation of their own.

/// A 64-bit id: 16 lower-case hex digits in quotes.
pub(crate) fn id(value: u64, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'"'; 18];
    for (place, digit) in text[1..17].iter_mut().enumerate() {
        *digit = DIGITS[(value >> (60 - 4 * place)) as usize & 15];
    }
    out.extend_from_slice(&text);
}

/// A number.
pub(crate) fn number(value: u64, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &value).expect("writing into memory cannot fail");
}

/// Text in quotes, escaped.
pub(crate) fn text(value: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("writing into memory cannot fail");
}

/// A list in brackets.
pub(crate) fn list<T>(
    items: impl Iterator<Item = T>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Vec<u8>),
) {
    out.push(b'[');
    for (place, item) in items.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// `,"name":`, before a value.
pub(crate) fn key(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// `{"type":name,"tag":tag`, the start of every message.
pub(crate) fn open(name: &str, tag: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\",\"tag\":");
    number(u64::from(tag), out);
}
