//! Bytes with named values.

use crate::codec::NamedValue;

macro_rules! named {
    ($( $(#[$meta:meta])* $enum:ident { $( $(#[$vmeta:meta])* $variant:ident = $number:literal, $name:literal; )* } )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $enum {
            $( $(#[$vmeta])* $variant = $number, )*
        }

        impl $enum {
            /// Every value, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The byte on the wire.
            pub const fn number(self) -> u8 {
                self as u8
            }

            /// The value with this byte.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name in the JSON form.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The value with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl NamedValue for $enum {
            #[inline]
            fn number(self) -> u8 {
                self.number()
            }
            #[inline]
            fn from_number(number: u8) -> Option<Self> {
                Self::from_number(number)
            }
            fn name(self) -> &'static str {
                self.name()
            }
            fn from_name(name: &str) -> Option<Self> {
                Self::from_name(name)
            }
        }
    )*};
}

named! {
    /// What a connection asks to be. The ticket must allow it.
    Role {
        /// One visitor.
        Visitor = 1, "visitor";
        /// One agent or bot.
        Agent = 2, "agent";
        /// A gateway front-end that binds many visitors to channels.
        Gateway = 3, "gateway";
    }
    /// How the body of a message is meant. Opaque to the engine.
    Content {
        /// Plain text.
        Text = 0, "text";
        /// A reference to something stored elsewhere, as text agreed between the clients.
        Reference = 1, "reference";
        /// A structured card, as text agreed between the clients.
        Card = 2, "card";
    }
    /// What an agent declares about itself.
    Availability {
        /// Takes nothing, gives back what it has.
        Offline = 0, "offline";
        /// Takes conversations up to its capacity.
        Online = 1, "online";
        /// Keeps its conversations, takes no new ones.
        Away = 2, "away";
    }
    /// Who wrote or did something.
    Author {
        /// The visitor of the conversation.
        Visitor = 1, "visitor";
        /// An agent; the field `agent` says which.
        Agent = 2, "agent";
        /// The engine itself.
        System = 3, "system";
    }
    /// Where a conversation stands.
    Status {
        /// Opened, nothing said yet.
        Open = 0, "open";
        /// Waits for an agent.
        Queued = 1, "queued";
        /// Owned by one agent.
        Assigned = 2, "assigned";
        /// Ended; the visitor's next message reopens it.
        Resolved = 3, "resolved";
    }
    /// Why the status changed.
    Cause {
        /// The visitor's first message.
        FirstMessage = 0, "first_message";
        /// The visitor wrote into a resolved conversation.
        Reopened = 1, "reopened";
        /// An agent was found.
        Assigned = 2, "assigned";
        /// The agent went offline or was lost for longer than the grace period.
        AgentLost = 3, "agent_lost";
        /// It was resolved.
        Resolved = 4, "resolved";
    }
    /// One of the two reading sides of a conversation; receipts are kept per side.
    Side {
        /// The visitor, on all devices.
        Visitor = 1, "visitor";
        /// The agents of the site.
        Staff = 2, "staff";
    }
}
