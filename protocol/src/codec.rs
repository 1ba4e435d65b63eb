//! Field codecs: how one field lies on the wire and in JSON. A codec is a type without values; the `messages!`
//! macro names one per field, so that the binary and the JSON form of a message come from one line.
//!
//! Fixed fields come first in a body and are read from one array of known size, so that their bounds are checked
//! once. Variable fields follow, each with its length in front.

use std::marker::PhantomData;

use crate::code::Code;
use crate::json::value::{Document, Value};
use crate::json::write;
use crate::limits;
use crate::message::{Cursor, Items, QueueEntries, WireError, kind_from_name, kind_name};

/// A field of fixed size. `T` is its Rust type.
pub(crate) trait Fixed<T> {
    /// Bytes on the wire.
    const BYTES: usize;
    /// Writes the field; `out` is exactly `BYTES` long.
    fn put(value: &T, out: &mut [u8]);
    /// Reads the field from exactly `BYTES` bytes; `None` if the value has no meaning.
    fn get(bytes: &[u8]) -> Option<T>;
    /// Appends the JSON value.
    fn write_json(value: &T, out: &mut Vec<u8>);
    /// Reads the JSON value.
    fn read_json(value: &Value<'_>, field: &'static str) -> Result<T, WireError>;
}

/// A field with its length in front.
pub(crate) trait Variable<'a, T> {
    /// Bytes on the wire, length included.
    fn bytes(value: &T) -> usize;
    /// Appends the field. A value beyond its bound is a broken invariant of the sender and panics.
    fn put(value: &T, out: &mut Vec<u8>);
    /// Reads the field from the front and returns what follows it.
    fn take(rest: &'a [u8], field: &'static str) -> Result<(T, &'a [u8]), WireError>;
    /// Appends the JSON value.
    fn write_json(value: &T, out: &mut Vec<u8>);
    /// Reads the JSON value, borrowing from the document.
    fn read_json(document: &'a Document<'_>, field: &'static str) -> Result<T, WireError>;
}

/// An unsigned integer; in JSON a number.
pub(crate) struct Number;
/// A 64-bit id or stamp; in JSON 16 lower-case hex digits.
pub(crate) struct Id;
/// 0 or 1; in JSON a boolean.
pub(crate) struct Flag;
/// One byte with named values; in JSON the name.
pub(crate) struct Named;
/// The kind of a client message; in JSON its name, or `unknown`.
pub(crate) struct Kind;

macro_rules! number {
    ($($ty:ty),*) => {$(
        impl Fixed<$ty> for Number {
            const BYTES: usize = size_of::<$ty>();
            #[inline]
            fn put(value: &$ty, out: &mut [u8]) {
                out.copy_from_slice(&value.to_le_bytes());
            }
            #[inline]
            fn get(bytes: &[u8]) -> Option<$ty> {
                Some(<$ty>::from_le_bytes(bytes.try_into().ok()?))
            }
            fn write_json(value: &$ty, out: &mut Vec<u8>) {
                write::number(u64::from(*value), out);
            }
            fn read_json(value: &Value<'_>, field: &'static str) -> Result<$ty, WireError> {
                <$ty>::try_from(value.number(field)?).map_err(|_| WireError::Invalid { field })
            }
        }
    )*};
}
number!(u8, u16, u32, u64);

impl Fixed<u64> for Id {
    const BYTES: usize = 8;
    #[inline]
    fn put(value: &u64, out: &mut [u8]) {
        out.copy_from_slice(&value.to_le_bytes());
    }
    #[inline]
    fn get(bytes: &[u8]) -> Option<u64> {
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
    fn write_json(value: &u64, out: &mut Vec<u8>) {
        write::id(*value, out);
    }
    fn read_json(value: &Value<'_>, field: &'static str) -> Result<u64, WireError> {
        value.id(field)
    }
}

impl Fixed<bool> for Flag {
    const BYTES: usize = 1;
    #[inline]
    fn put(value: &bool, out: &mut [u8]) {
        out[0] = u8::from(*value);
    }
    #[inline]
    fn get(bytes: &[u8]) -> Option<bool> {
        match bytes[0] {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
    fn write_json(value: &bool, out: &mut Vec<u8>) {
        out.extend_from_slice(if *value { b"true" } else { b"false" });
    }
    fn read_json(value: &Value<'_>, field: &'static str) -> Result<bool, WireError> {
        value.flag(field)
    }
}

/// An enum of the wire: one byte, one lower-case name per value.
pub(crate) trait NamedValue: Copy {
    /// The byte on the wire.
    fn number(self) -> u8;
    /// The value with this byte.
    fn from_number(number: u8) -> Option<Self>;
    /// The name in JSON.
    fn name(self) -> &'static str;
    /// The value with this name.
    fn from_name(name: &str) -> Option<Self>;
}

impl<T: NamedValue> Fixed<T> for Named {
    const BYTES: usize = 1;
    #[inline]
    fn put(value: &T, out: &mut [u8]) {
        out[0] = value.number();
    }
    #[inline]
    fn get(bytes: &[u8]) -> Option<T> {
        T::from_number(bytes[0])
    }
    fn write_json(value: &T, out: &mut Vec<u8>) {
        write::text(value.name(), out);
    }
    fn read_json(value: &Value<'_>, field: &'static str) -> Result<T, WireError> {
        T::from_name(value.text(field)?).ok_or(WireError::Invalid { field })
    }
}

impl Fixed<u8> for Kind {
    const BYTES: usize = 1;
    fn put(value: &u8, out: &mut [u8]) {
        out[0] = *value;
    }
    fn get(bytes: &[u8]) -> Option<u8> {
        Some(bytes[0])
    }
    fn write_json(value: &u8, out: &mut Vec<u8>) {
        write::text(kind_name(*value), out);
    }
    fn read_json(value: &Value<'_>, field: &'static str) -> Result<u8, WireError> {
        kind_from_name(value.text(field)?).ok_or(WireError::Invalid { field })
    }
}

impl Fixed<Code> for Named {
    const BYTES: usize = 2;
    fn put(value: &Code, out: &mut [u8]) {
        out.copy_from_slice(&value.number().to_le_bytes());
    }
    fn get(bytes: &[u8]) -> Option<Code> {
        Code::from_number(u16::from_le_bytes(bytes.try_into().ok()?))
    }
    fn write_json(value: &Code, out: &mut Vec<u8>) {
        write::text(value.name(), out);
    }
    fn read_json(value: &Value<'_>, field: &'static str) -> Result<Code, WireError> {
        Code::from_name(value.text(field)?).ok_or(WireError::Invalid { field })
    }
}

/// Splits `length` bytes off the front.
fn split<'a>(rest: &'a [u8], length: usize, field: &'static str) -> Result<(&'a [u8], &'a [u8]), WireError> {
    rest.split_at_checked(length).ok_or(WireError::Missing { field })
}

fn take_u16<'a>(rest: &'a [u8], field: &'static str) -> Result<(usize, &'a [u8]), WireError> {
    let (bytes, rest) = rest.split_first_chunk().ok_or(WireError::Missing { field })?;
    Ok((usize::from(u16::from_le_bytes(*bytes)), rest))
}

fn take_u32<'a>(rest: &'a [u8], field: &'static str) -> Result<(usize, &'a [u8]), WireError> {
    let (bytes, rest) = rest.split_first_chunk().ok_or(WireError::Missing { field })?;
    Ok((u32::from_le_bytes(*bytes) as usize, rest))
}

fn within(length: usize, min: usize, max: usize, field: &'static str) -> Result<(), WireError> {
    match length {
        _ if length > max => Err(WireError::TooLarge { field, max }),
        _ if length < min => Err(WireError::Invalid { field }),
        _ => Ok(()),
    }
}

/// Text of `MIN..=MAX` bytes: u16 length, UTF-8.
pub(crate) struct Text<const MIN: usize, const MAX: usize>;

impl<'a, const MIN: usize, const MAX: usize> Variable<'a, &'a str> for Text<MIN, MAX> {
    fn bytes(value: &&'a str) -> usize {
        2 + value.len()
    }
    fn put(value: &&'a str, out: &mut Vec<u8>) {
        assert!((MIN..=MAX).contains(&value.len()), "text of {} bytes, bound {MIN}..={MAX}", value.len());
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    fn take(rest: &'a [u8], field: &'static str) -> Result<(&'a str, &'a [u8]), WireError> {
        let (length, rest) = take_u16(rest, field)?;
        within(length, MIN, MAX, field)?;
        let (bytes, rest) = split(rest, length, field)?;
        Ok((std::str::from_utf8(bytes).map_err(|_| WireError::NotUtf8 { field })?, rest))
    }
    fn write_json(value: &&'a str, out: &mut Vec<u8>) {
        write::text(value, out);
    }
    fn read_json(document: &'a Document<'_>, field: &'static str) -> Result<&'a str, WireError> {
        let text = document.field(field)?.text(field)?;
        within(text.len(), MIN, MAX, field)?;
        Ok(text)
    }
}

/// A sentence for people: as `Text`, but the sender clips it to its bound at a character boundary.
pub(crate) struct Sentence;

impl Sentence {
    fn clip(text: &str) -> &str {
        &text[..text.floor_char_boundary(limits::SENTENCE_BYTES_MAX)]
    }
}

impl<'a> Variable<'a, &'a str> for Sentence {
    fn bytes(value: &&'a str) -> usize {
        2 + Self::clip(value).len()
    }
    fn put(value: &&'a str, out: &mut Vec<u8>) {
        Text::<0, { limits::SENTENCE_BYTES_MAX }>::put(&Self::clip(value), out);
    }
    fn take(rest: &'a [u8], field: &'static str) -> Result<(&'a str, &'a [u8]), WireError> {
        Text::<0, { limits::SENTENCE_BYTES_MAX }>::take(rest, field)
    }
    fn write_json(value: &&'a str, out: &mut Vec<u8>) {
        write::text(Self::clip(value), out);
    }
    fn read_json(document: &'a Document<'_>, field: &'static str) -> Result<&'a str, WireError> {
        Text::<0, { limits::SENTENCE_BYTES_MAX }>::read_json(document, field)
    }
}

/// Message body: u32 length, UTF-8, at most `BODY_BYTES_MAX`. `WHO` says whether the reader checks the UTF-8.
pub(crate) struct Body<WHO>(PhantomData<WHO>);
/// The reader is the server: the bytes come from a stranger and are checked.
pub(crate) struct FromClient;
/// The reader is a client: the server checked them when it took them.
pub(crate) struct FromServer;

/// Whether a reader checks what it reads.
pub(crate) trait Checks {
    /// True if UTF-8 is checked on reading.
    const UTF8: bool;
}
impl Checks for FromClient {
    const UTF8: bool = true;
}
impl Checks for FromServer {
    const UTF8: bool = false;
}

impl<'a, WHO: Checks> Variable<'a, &'a [u8]> for Body<WHO> {
    #[inline]
    fn bytes(value: &&'a [u8]) -> usize {
        4 + value.len()
    }
    #[inline]
    fn put(value: &&'a [u8], out: &mut Vec<u8>) {
        assert!(value.len() <= limits::BODY_BYTES_MAX, "body of {} bytes", value.len());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
    #[inline]
    fn take(rest: &'a [u8], field: &'static str) -> Result<(&'a [u8], &'a [u8]), WireError> {
        let (length, rest) = take_u32(rest, field)?;
        within(length, 0, limits::BODY_BYTES_MAX, field)?;
        let (bytes, rest) = split(rest, length, field)?;
        if WHO::UTF8 && std::str::from_utf8(bytes).is_err() {
            return Err(WireError::NotUtf8 { field });
        }
        Ok((bytes, rest))
    }
    fn write_json(value: &&'a [u8], out: &mut Vec<u8>) {
        let text = std::str::from_utf8(value).expect("a message body was checked when it was accepted");
        write::text(text, out);
    }
    fn read_json(document: &'a Document<'_>, field: &'static str) -> Result<&'a [u8], WireError> {
        let text = document.field(field)?.text(field)?;
        within(text.len(), 0, limits::BODY_BYTES_MAX, field)?;
        Ok(text.as_bytes())
    }
}

/// Resume cursors: u16 count, then 20 bytes each.
pub(crate) struct Cursors;

impl<'a> Variable<'a, &'a [Cursor]> for Cursors {
    fn bytes(value: &&'a [Cursor]) -> usize {
        2 + value.len() * limits::CURSOR_BYTES
    }
    fn put(value: &&'a [Cursor], out: &mut Vec<u8>) {
        assert!(value.len() <= limits::CURSORS_MAX, "{} cursors", value.len());
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(zerocopy::IntoBytes::as_bytes(*value));
    }
    fn take(rest: &'a [u8], field: &'static str) -> Result<(&'a [Cursor], &'a [u8]), WireError> {
        let (count, rest) = take_u16(rest, field)?;
        within(count, 0, limits::CURSORS_MAX, field)?;
        <[Cursor] as zerocopy::FromBytes>::ref_from_prefix_with_elems(rest, count)
            .map_err(|_| WireError::Missing { field })
    }
    fn write_json(value: &&'a [Cursor], out: &mut Vec<u8>) {
        write::list(value.iter(), out, |cursor, out| {
            out.extend_from_slice(b"{\"conversation\":");
            write::id(cursor.conversation(), out);
            out.extend_from_slice(b",\"epoch\":");
            write::number(u64::from(cursor.epoch()), out);
            out.extend_from_slice(b",\"seq\":");
            write::number(cursor.seq(), out);
            out.push(b'}');
        });
    }
    fn read_json(document: &'a Document<'_>, field: &'static str) -> Result<&'a [Cursor], WireError> {
        document.field(field)?;
        document.cursors()
    }
}

/// Items of a PAGE: u32 length, then whole frames.
pub(crate) struct PageItems;

impl<'a> Variable<'a, Items<'a>> for PageItems {
    fn bytes(value: &Items<'a>) -> usize {
        4 + value.as_bytes().len()
    }
    fn put(value: &Items<'a>, out: &mut Vec<u8>) {
        out.extend_from_slice(&(value.as_bytes().len() as u32).to_le_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    fn take(rest: &'a [u8], field: &'static str) -> Result<(Items<'a>, &'a [u8]), WireError> {
        let (length, rest) = take_u32(rest, field)?;
        let (bytes, rest) = split(rest, length, field)?;
        Ok((Items::new(bytes), rest))
    }
    fn write_json(value: &Items<'a>, out: &mut Vec<u8>) {
        write::list(value.iter(), out, |item, out| {
            let (header, message) = item.expect("a page is built from whole frames");
            message.write_json(header.channel, header.tag, out);
        });
    }
    fn read_json(document: &'a Document<'_>, field: &'static str) -> Result<Items<'a>, WireError> {
        document.field(field)?;
        document.frames(field).map(Items::new)
    }
}

/// Entries of a QUEUE: u16 count, then per entry conversation u64, since u64, visitor text.
pub(crate) struct Waiting;

impl<'a> Variable<'a, QueueEntries<'a>> for Waiting {
    fn bytes(value: &QueueEntries<'a>) -> usize {
        2 + value.as_bytes().len()
    }
    fn put(value: &QueueEntries<'a>, out: &mut Vec<u8>) {
        assert!(value.len() <= limits::QUEUE_ENTRIES_MAX, "{} queue entries", value.len());
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    fn take(rest: &'a [u8], field: &'static str) -> Result<(QueueEntries<'a>, &'a [u8]), WireError> {
        let (count, rest) = take_u16(rest, field)?;
        within(count, 0, limits::QUEUE_ENTRIES_MAX, field)?;
        let mut left = rest;
        for _ in 0..count {
            (_, left) = QueueEntries::take_one(left, field)?;
        }
        let (bytes, rest) = rest.split_at(rest.len() - left.len());
        Ok((QueueEntries::new(count as u16, bytes), rest))
    }
    fn write_json(value: &QueueEntries<'a>, out: &mut Vec<u8>) {
        write::list(value.iter(), out, |entry, out| {
            out.extend_from_slice(b"{\"conversation\":");
            write::id(entry.conversation, out);
            out.extend_from_slice(b",\"since\":");
            write::id(entry.since, out);
            out.extend_from_slice(b",\"visitor\":");
            write::text(entry.visitor, out);
            out.push(b'}');
        });
    }
    fn read_json(document: &'a Document<'_>, field: &'static str) -> Result<QueueEntries<'a>, WireError> {
        let count = document.field(field)?.list(field)?.len();
        within(count, 0, limits::QUEUE_ENTRIES_MAX, field)?;
        document.queue(field).map(|bytes| QueueEntries::new(count as u16, bytes))
    }
}

/// Reads one text with its length, for codecs of lists.
pub(crate) fn take_visitor<'a>(
    rest: &'a [u8],
    field: &'static str,
) -> Result<(&'a str, &'a [u8]), WireError> {
    Text::<0, { limits::VISITOR_BYTES_MAX }>::take(rest, field)
}
