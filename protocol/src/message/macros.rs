//! The `messages!` table: from one declaration per message, its enum variant and both of its forms.

/// Where a field lies in an encoded frame; for the golden vectors.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) name: &'static str,
    pub(crate) codec: &'static str,
    pub(crate) bytes: usize,
}

/// Names the first fixed field that a body of `length` bytes does not hold whole.
#[cold]
pub(crate) fn first_missing(
    length: usize,
    prefix: usize,
    fields: &[(&'static str, usize)],
) -> super::WireError {
    let mut end = prefix;
    if length < prefix {
        return super::WireError::Missing { field: "magic" };
    }
    for (field, bytes) in fields {
        end += bytes;
        if length < end {
            return super::WireError::Missing { field };
        }
    }
    panic!("a body of {length} bytes holds every fixed field")
}

/// Declares an enum of messages. `own_channel` tells whether the message has a field `channel` of its own, which
/// then takes the place of the header's in the JSON form.
macro_rules! messages {
    (
        $(#[$meta:meta])*
        pub enum $enum:ident<$lt:lifetime>;
        $(
            $(#[$vmeta:meta])*
            $variant:ident = $kind:literal, $name:literal, $prefix:expr, own_channel: $own:literal {
                fixed { $( $(#[$fmeta:meta])* $field:ident: $ty:ty => $codec:ty, )* }
                variable { $( $(#[$wmeta:meta])* $var:ident: $vty:ty => $vcodec:ty, )* }
            }
        )*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $enum<$lt> {
            $(
                $(#[$vmeta])*
                $variant {
                    $( $(#[$fmeta])* $field: $ty, )*
                    $( $(#[$wmeta])* $var: $vty, )*
                },
            )*
        }

        impl<$lt> $enum<$lt> {
            /// Kind and JSON name of every message of this direction.
            pub const KINDS: &'static [(u8, &'static str)] = &[$(($kind, $name)),*];

            /// The kind, as in the frame header.
            pub const fn kind(&self) -> u8 {
                match self {
                    $( $enum::$variant { .. } => $kind, )*
                }
            }

            /// The name, as in the field `type` of the JSON form.
            pub const fn name(&self) -> &'static str {
                match self {
                    $( $enum::$variant { .. } => $name, )*
                }
            }

            /// Reads the body of a frame. Bytes after the last known field are ignored.
            ///
            /// # Errors
            /// [`WireError`], naming the field.
            #[inline]
            pub fn decode(kind: u8, body: &$lt [u8]) -> Result<Self, WireError> {
                match kind {
                    $( $kind => {
                        const PREFIX: &[u8] = $prefix;
                        const FIXED: usize = PREFIX.len() $( + <$codec as Fixed<$ty>>::BYTES )*;
                        let Some((fixed, rest)) = body.split_first_chunk::<FIXED>() else {
                            let fields = [$((stringify!($field), <$codec as Fixed<$ty>>::BYTES)),*];
                            return Err($crate::message::macros::first_missing(body.len(), PREFIX.len(), &fields));
                        };
                        if !fixed.starts_with(PREFIX) {
                            return Err(WireError::Magic);
                        }
                        let at = PREFIX.len();
                        $(
                            let end = at + <$codec as Fixed<$ty>>::BYTES;
                            let $field = <$codec as Fixed<$ty>>::get(&fixed[at..end])
                                .ok_or(WireError::Invalid { field: stringify!($field) })?;
                            let at = end;
                        )*
                        $( let ($var, rest) = <$vcodec as Variable<$lt, $vty>>::take(rest, stringify!($var))?; )*
                        let _ = (at, rest);
                        Ok($enum::$variant { $($field,)* $($var,)* })
                    } )*
                    _ => Err(WireError::UnknownKind),
                }
            }

            /// Appends the whole frame, header included. Never allocates but to grow `out`.
            ///
            /// # Panics
            /// If a field is beyond its bound or the body beyond `FRAME_BYTES_MAX`.
            #[inline]
            pub fn encode(&self, channel: u32, tag: u32, out: &mut Vec<u8>) {
                match self {
                    $( $enum::$variant { $($field,)* $($var,)* } => {
                        const PREFIX: &[u8] = $prefix;
                        const FIXED: usize = PREFIX.len() $( + <$codec as Fixed<$ty>>::BYTES )*;
                        let body = FIXED $( + <$vcodec as Variable<'_, $vty>>::bytes($var) )*;
                        assert!(body <= FRAME_BYTES_MAX, "{} of {body} bytes", $name);
                        let header = Header { length: body as u32, kind: $kind, channel, tag };
                        let mut fixed = [0; HEADER_BYTES + FIXED];
                        fixed[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
                        fixed[HEADER_BYTES..HEADER_BYTES + PREFIX.len()].copy_from_slice(PREFIX);
                        let at = HEADER_BYTES + PREFIX.len();
                        $(
                            let end = at + <$codec as Fixed<$ty>>::BYTES;
                            <$codec as Fixed<$ty>>::put($field, &mut fixed[at..end]);
                            let at = end;
                        )*
                        let _ = at;
                        out.reserve(HEADER_BYTES + body);
                        out.extend_from_slice(&fixed);
                        $( <$vcodec as Variable<'_, $vty>>::put($var, out); )*
                    } )*
                }
            }

            /// Appends the JSON form as one object.
            ///
            /// # Panics
            /// If a message body is not UTF-8 or the items of a page are no frames.
            pub fn write_json(&self, channel: u32, tag: u32, out: &mut Vec<u8>) {
                write::open(self.name(), tag, out);
                match self {
                    $( $enum::$variant { $($field,)* $($var,)* } => {
                        if !$own {
                            write::key("channel", out);
                            write::number(u64::from(channel), out);
                        }
                        $(
                            write::key(stringify!($field), out);
                            <$codec as Fixed<$ty>>::write_json($field, out);
                        )*
                        $(
                            write::key(stringify!($var), out);
                            <$vcodec as Variable<'_, $vty>>::write_json($var, out);
                        )*
                    } )*
                }
                out.push(b'}');
            }

            /// Reads channel, tag and message of a JSON document.
            pub(crate) fn from_document(document: &$lt Document<'_>) -> Result<(u32, u32, Self), WireError> {
                let tag = document.number_or_zero("tag")?;
                match document.field("type")?.text("type")? {
                    $( $name => {
                        let channel_of_header = if $own { 0 } else { document.number_or_zero("channel")? };
                        $(
                            let name = stringify!($field);
                            let $field = <$codec as Fixed<$ty>>::read_json(document.field(name)?, name)?;
                        )*
                        $( let $var = <$vcodec as Variable<$lt, $vty>>::read_json(document, stringify!($var))?; )*
                        Ok((channel_of_header, tag, $enum::$variant { $($field,)* $($var,)* }))
                    } )*
                    _ => Err(WireError::UnknownKind),
                }
            }

            /// Where the fields of this message lie, in order, after the header.
            #[cfg(test)]
            pub(crate) fn spans(&self) -> Vec<$crate::message::macros::Span> {
                use $crate::message::macros::Span;
                let mut spans = Vec::new();
                match self {
                    $( $enum::$variant { $($field,)* $($var,)* } => {
                        let prefix: &[u8] = $prefix;
                        if !prefix.is_empty() {
                            spans.push(Span { name: "magic", codec: "4 bytes", bytes: prefix.len() });
                        }
                        $(
                            let _ = $field;
                            let bytes = <$codec as Fixed<$ty>>::BYTES;
                            spans.push(Span { name: stringify!($field), codec: stringify!($codec), bytes });
                        )*
                        $(
                            let bytes = <$vcodec as Variable<'_, $vty>>::bytes($var);
                            spans.push(Span { name: stringify!($var), codec: stringify!($vcodec), bytes });
                        )*
                    } )*
                }
                spans
            }
        }
    };
}

pub(crate) use messages;
