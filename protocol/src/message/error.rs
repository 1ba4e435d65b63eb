//! Why a message could not be read.

use std::fmt;

use crate::code::Code;

/// Why a frame body or a JSON text is no message. The framing is intact, so the connection goes on: the server
/// answers REJECT with [`WireError::code`] and the sentence of `Display`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// The kind, or in JSON the `type`, is none of this direction.
    UnknownKind,
    /// A HELLO that does not start with the magic. Ends the connection.
    Magic,
    /// The body ends before or inside this field; in JSON the field is not there.
    Missing {
        /// The field.
        field: &'static str,
    },
    /// The field is longer than its bound.
    TooLarge {
        /// The field.
        field: &'static str,
        /// The bound: bytes, or elements of a list.
        max: usize,
    },
    /// The field is not valid UTF-8.
    NotUtf8 {
        /// The field.
        field: &'static str,
    },
    /// The value is outside the field's range.
    Invalid {
        /// The field.
        field: &'static str,
    },
    /// The text is not one JSON object.
    NotJson,
    /// The JSON value has the wrong type.
    WrongType {
        /// The field.
        field: &'static str,
        /// What is expected.
        expected: &'static str,
    },
}

impl WireError {
    /// The code for the REJECT (GOODBYE for [`WireError::Magic`]).
    pub fn code(self) -> Code {
        match self {
            WireError::UnknownKind => Code::UnknownKind,
            WireError::Magic => Code::BadHandshake,
            WireError::Missing { .. } => Code::Malformed,
            WireError::TooLarge { .. } => Code::TooLarge,
            WireError::NotUtf8 { .. } => Code::BadUtf8,
            WireError::Invalid { .. } => Code::Invalid,
            WireError::NotJson | WireError::WrongType { .. } => Code::BadJson,
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::UnknownKind => write!(f, "The server does not know this kind of frame."),
            WireError::Magic => write!(f, "The HELLO does not start with RDK1."),
            WireError::Missing { field } => write!(f, "The field `{field}` is missing or cut short."),
            WireError::TooLarge { field, max } => write!(f, "The field `{field}` is larger than {max}."),
            WireError::NotUtf8 { field } => write!(f, "The field `{field}` is not valid UTF-8."),
            WireError::Invalid { field } => write!(f, "The field `{field}` has a value outside its range."),
            WireError::NotJson => write!(f, "The text is not one JSON object."),
            WireError::WrongType { field, expected } => write!(f, "The field `{field}` must be {expected}."),
        }
    }
}

impl std::error::Error for WireError {}
