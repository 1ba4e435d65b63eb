//! Error codes: one number, one name, one sentence in English and one in Chinese, and whether it ends the
//! connection. Numbers are never reused or renumbered. Ranges: 1-19 connection, 20-39 form of a request,
//! 40-59 identity and rights, 60-89 conversations, 90-109 load and server.

/// Language of a sentence shown to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// English.
    English,
    /// Simplified Chinese.
    Chinese,
}

macro_rules! codes {
    ($( $variant:ident = $number:literal, $name:literal, $closes:literal, $english:literal, $chinese:literal; )*) => {
        /// An error code, as carried by REJECT and GOODBYE.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum Code {
            $(
                #[doc = concat!("`", $name, "` (", stringify!($number), "): ", $english)]
                $variant = $number,
            )*
        }

        impl Code {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The number on the wire.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The code with this number, if this version knows it.
            pub fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Code::$variant),)*
                    _ => None,
                }
            }

            /// The stable name, as in the JSON form.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Code::$variant => $name,)*
                }
            }

            /// The code with this name, if this version knows it.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Code::$variant),)*
                    _ => None,
                }
            }

            /// True if the server closes the connection after it (then it comes in a GOODBYE), false if only the
            /// one request is refused (then it comes in a REJECT). `BUSY` may also come in a GOODBYE, when the
            /// connection itself is refused; a GOODBYE always closes.
            pub const fn closes(self) -> bool {
                match self {
                    $(Code::$variant => $closes,)*
                }
            }

            /// One sentence for people. Says what happened and, where there is one, the way out.
            pub const fn sentence(self, language: Language) -> &'static str {
                match (self, language) {
                    $(
                        (Code::$variant, Language::English) => $english,
                        (Code::$variant, Language::Chinese) => $chinese,
                    )*
                }
            }
        }
    };
}

codes! {
    ProtocolViolation = 1, "PROTOCOL_VIOLATION", true, "The bytes break the rules of the protocol.", "数据不符合协议规则。";
    BadHandshake = 2, "BAD_HANDSHAKE", true, "The connection did not start with a valid Ringdesk handshake.", "连接没有以有效的 Ringdesk 握手开始。";
    BadVersion = 3, "BAD_VERSION", true, "Client and server share no protocol version.", "客户端与服务器没有共同的协议版本。";
    HelloExpected = 4, "HELLO_EXPECTED", true, "The first frame of a connection must be a HELLO.", "连接的第一帧必须是 HELLO。";
    FrameTooLarge = 5, "FRAME_TOO_LARGE", true, "The frame is longer than the server accepts.", "帧长度超过服务器的上限。";
    BadOrigin = 6, "BAD_ORIGIN", true, "Pages of this origin may not connect to this site.", "此来源的网页不允许连接本站点。";
    Idle = 7, "IDLE", true, "Nothing was received for two heartbeat intervals.", "在两个心跳周期内没有收到任何数据。";
    UnknownKind = 20, "UNKNOWN_KIND", false, "The server does not know this kind of frame.", "服务器不认识这种类型的帧。";
    Malformed = 21, "MALFORMED", false, "The body of the frame ends early or lacks a field.", "帧的内容不完整或缺少字段。";
    TooLarge = 22, "TOO_LARGE", false, "A field is longer than its limit.", "某个字段超过了长度上限。";
    BadUtf8 = 23, "BAD_UTF8", false, "A text field is not valid UTF-8.", "文本字段不是有效的 UTF-8。";
    BadJson = 24, "BAD_JSON", false, "The text is not valid JSON, or a field has the wrong type.", "文本不是有效的 JSON，或字段类型错误。";
    Invalid = 25, "INVALID", false, "A field has a value outside its range.", "字段的值超出允许范围。";
    TicketInvalid = 40, "TICKET_INVALID", true, "The ticket is not genuine; ask for a new one.", "凭证无效，请重新获取。";
    TicketExpired = 41, "TICKET_EXPIRED", true, "The ticket has expired; ask for a new one.", "凭证已过期，请重新获取。";
    TicketRevoked = 42, "TICKET_REVOKED", true, "The ticket was revoked; log in again.", "凭证已被撤销，请重新登录。";
    Forbidden = 43, "FORBIDDEN", false, "This role may not do that.", "当前角色无权执行此操作。";
    NotFound = 44, "NOT_FOUND", false, "There is no such conversation for this identity.", "此身份下没有该会话。";
    ChannelInUse = 45, "CHANNEL_IN_USE", false, "The channel is already bound; unbind it first.", "该通道已被占用，请先解除绑定。";
    ChannelUnknown = 46, "CHANNEL_UNKNOWN", false, "No visitor is bound to this channel.", "该通道没有绑定访客。";
    OutOfOrder = 60, "OUT_OF_ORDER", false, "A number was skipped; the detail names the one expected.", "序号不连续，detail 字段给出期望的序号。";
    IdReused = 61, "ID_REUSED", false, "This number was already used for another message.", "该序号已用于另一条消息。";
    DeviceExpired = 62, "DEVICE_EXPIRED", false, "This device id was retired; start again with a new one.", "该设备标识已停用，请换用新的标识。";
    DeviceLimit = 63, "DEVICE_LIMIT", false, "The conversation has had too many devices.", "该会话使用过的设备过多。";
    StaleOwner = 64, "STALE_OWNER", false, "The conversation belongs to another assignment now.", "该会话已转由其他分配处理。";
    Resolved = 65, "RESOLVED", false, "The conversation is already resolved.", "该会话已经结束。";
    BeyondEnd = 66, "BEYOND_END", false, "The number is past the end of the conversation.", "序号超出会话末尾。";
    Damaged = 67, "DAMAGED", false, "This range is damaged on disk and set aside; the rest is served.", "该区间的存储数据已损坏并被隔离，其余内容不受影响。";
    Busy = 90, "BUSY", false, "The server is busy; try again after the given time.", "服务器繁忙，请在指定时间后重试。";
    ShuttingDown = 91, "SHUTTING_DOWN", true, "The server is shutting down; connect again in a moment.", "服务器正在关闭，请稍后重新连接。";
    Internal = 92, "INTERNAL", true, "The server failed; what it acknowledged is kept.", "服务器内部故障，已确认的内容不会丢失。";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_go_both_ways() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].number() < pair[1].number(), "{:?} before {:?}", pair[0], pair[1]);
        }
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(code));
            assert_eq!(Code::from_name(code.name()), Some(code));
        }
        assert_eq!(Code::from_number(0), None);
        assert_eq!(Code::from_name("busy"), None);
    }

    #[test]
    fn every_sentence_is_short_and_in_its_language() {
        for &code in Code::ALL {
            let english = code.sentence(Language::English);
            let chinese = code.sentence(Language::Chinese);
            assert!(english.is_ascii() && english.ends_with('.'), "{}", code.name());
            assert!(
                chinese.ends_with('。') && chinese.len() < crate::limits::SENTENCE_BYTES_MAX,
                "{}",
                code.name()
            );
        }
    }
}
