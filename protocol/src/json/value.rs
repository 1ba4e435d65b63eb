//! A parsed JSON text that borrows from its input. Bounds: the text itself (by its caller), 64 fields per object,
//! 256 elements per list, nesting by serde_json (128).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::codec::{Fixed, Id, Number};
use crate::limits;
use crate::message::{Cursor, QueueEntries, QueueEntry, ServerMessage, WireError};

const FIELDS_MAX: usize = 64;
const ELEMENTS_MAX: usize = 256;
const _: () = assert!(ELEMENTS_MAX >= limits::CURSORS_MAX && ELEMENTS_MAX >= limits::PAGE_ITEMS_MAX);

/// One JSON value. What the wire format never uses (null, fractions, numbers with a sign or an exponent) is `Other`.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    Number(u64),
    /// A number of 2^64 or more: in no field's range.
    Beyond,
    Flag(bool),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
    Other,
}

impl<'a> Value<'a> {
    pub(crate) fn number(&self, field: &'static str) -> Result<u64, WireError> {
        match self {
            Value::Number(number) => Ok(*number),
            Value::Beyond => Err(WireError::Invalid { field }),
            _ => Err(WireError::WrongType { field, expected: "a whole number that is not negative" }),
        }
    }

    pub(crate) fn flag(&self, field: &'static str) -> Result<bool, WireError> {
        match self {
            Value::Flag(flag) => Ok(*flag),
            _ => Err(WireError::WrongType { field, expected: "true or false" }),
        }
    }

    pub(crate) fn text(&self, field: &'static str) -> Result<&str, WireError> {
        match self {
            Value::Text(text) => Ok(text),
            _ => Err(WireError::WrongType { field, expected: "text" }),
        }
    }

    /// Exactly 16 lower-case hex digits.
    pub(crate) fn id(&self, field: &'static str) -> Result<u64, WireError> {
        const EXPECTED: &str = "text of 16 lower-case hex digits";
        let Value::Text(text) = self else {
            return Err(WireError::WrongType { field, expected: EXPECTED });
        };
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| digits).ok_or(WireError::Invalid { field })
    }

    pub(crate) fn list(&self, field: &'static str) -> Result<&[Value<'a>], WireError> {
        match self {
            Value::List(list) => Ok(list),
            _ => Err(WireError::WrongType { field, expected: "a list" }),
        }
    }

    /// The first field with this name.
    pub(crate) fn field(&self, field: &'static str) -> Result<&Value<'a>, WireError> {
        let Value::Object(fields) = self else {
            return Err(WireError::WrongType { field, expected: "a field of an object" });
        };
        fields
            .iter()
            .find(|(name, _)| name == field)
            .map(|(_, value)| value)
            .ok_or(WireError::Missing { field })
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Flag(value))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number(value))
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value<'de>, E> {
        const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;
        Ok(if value >= BEYOND_U64 { Value::Beyond } else { Value::Other })
    }
    fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(value.to_owned())))
    }
    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value<'de>, A::Error> {
        let mut list = Vec::new();
        while list.len() < ELEMENTS_MAX {
            match access.next_element()? {
                Some(value) => list.push(value),
                None => return Ok(Value::List(list)),
            }
        }
        match access.next_element::<IgnoredAny>()? {
            None => Ok(Value::List(list)),
            Some(_) => Err(A::Error::custom("a list has too many elements")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(Value::Text(name)) = access.next_key()? {
            if fields.len() == FIELDS_MAX {
                return Err(A::Error::custom("an object has too many fields"));
            }
            fields.push((name, access.next_value()?));
        }
        Ok(Value::Object(fields))
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// A JSON message, parsed; messages borrow from it. Lists are turned into their wire form once, here.
#[derive(Debug)]
pub struct Document<'a> {
    root: Value<'a>,
    cursors: Result<Vec<Cursor>, WireError>,
    /// Wire form of `items` (PAGE) or `entries` (QUEUE); a message has one of them at most.
    list: Result<Vec<u8>, WireError>,
}

impl<'a> Document<'a> {
    /// Parses one JSON text. What is in it is checked when a message is read from it.
    ///
    /// # Errors
    /// [`WireError::NotJson`] if the text is not one JSON object.
    pub fn parse(text: &'a str) -> Result<Self, WireError> {
        let mut root: Value<'a> = serde_json::from_str(text).map_err(|_| WireError::NotJson)?;
        let Value::Object(fields) = &mut root else {
            return Err(WireError::NotJson);
        };
        // Items become documents of their own, so they are moved out; the empty list stays to be found.
        let items = fields.iter_mut().find(|(name, _)| name == "items").and_then(|(_, value)| match value {
            Value::List(list) => Some(std::mem::take(list)),
            _ => None,
        });
        let cursors = match root.field("cursors") {
            Ok(value) => parse_cursors(value),
            Err(_) => Ok(Vec::new()),
        };
        let list = match (items, root.field("entries")) {
            (Some(items), _) => parse_items(items),
            (None, Ok(entries)) => parse_entries(entries),
            (None, Err(_)) => Ok(Vec::new()),
        };
        Ok(Self { root, cursors, list })
    }

    pub(crate) fn field(&self, field: &'static str) -> Result<&Value<'a>, WireError> {
        self.root.field(field)
    }

    /// A number that may be absent and is 0 then.
    pub(crate) fn number_or_zero(&self, field: &'static str) -> Result<u32, WireError> {
        match self.field(field) {
            Ok(value) => Number::read_json(value, field),
            Err(_) => Ok(0),
        }
    }

    pub(crate) fn cursors(&self) -> Result<&[Cursor], WireError> {
        self.cursors.as_deref().map_err(|error| *error)
    }

    pub(crate) fn frames(&self, field: &'static str) -> Result<&[u8], WireError> {
        self.wire_list(field)
    }

    pub(crate) fn queue(&self, field: &'static str) -> Result<&[u8], WireError> {
        self.wire_list(field)
    }

    fn wire_list(&self, field: &'static str) -> Result<&[u8], WireError> {
        self.field(field)?.list(field)?;
        self.list.as_deref().map_err(|error| *error)
    }
}

fn parse_cursors(value: &Value<'_>) -> Result<Vec<Cursor>, WireError> {
    let list = value.list("cursors")?;
    if list.len() > limits::CURSORS_MAX {
        return Err(WireError::TooLarge { field: "cursors", max: limits::CURSORS_MAX });
    }
    list.iter()
        .map(|cursor| {
            Ok(Cursor::new(
                Id::read_json(cursor.field("conversation")?, "conversation")?,
                Number::read_json(cursor.field("epoch")?, "epoch")?,
                Number::read_json(cursor.field("seq")?, "seq")?,
            ))
        })
        .collect()
}

fn parse_entries(value: &Value<'_>) -> Result<Vec<u8>, WireError> {
    let mut wire = Vec::new();
    for entry in value.list("entries")? {
        let visitor = entry.field("visitor")?.text("visitor")?;
        if visitor.len() > limits::VISITOR_BYTES_MAX {
            return Err(WireError::Invalid { field: "visitor" });
        }
        let conversation = entry.field("conversation")?.id("conversation")?;
        let since = entry.field("since")?.id("since")?;
        QueueEntries::put_one(&QueueEntry { conversation, since, visitor }, &mut wire);
    }
    Ok(wire)
}

/// Items are DELIVER or STATE, which hold no lists: nothing nests deeper than this.
fn parse_items(items: Vec<Value<'_>>) -> Result<Vec<u8>, WireError> {
    let mut wire = Vec::new();
    for root in items {
        let item = Document { root, cursors: Ok(Vec::new()), list: Ok(Vec::new()) };
        let (channel, tag, message) = ServerMessage::from_document(&item)?;
        match message {
            ServerMessage::Deliver { .. } | ServerMessage::State { .. } => {
                message.encode(channel, tag, &mut wire)
            }
            _ => return Err(WireError::Invalid { field: "items" }),
        }
    }
    Ok(wire)
}
