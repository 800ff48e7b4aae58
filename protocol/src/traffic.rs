//! Which class of traffic a request belongs to: by it a node says which of its parts serves the request, and so what
//! that may wait behind.
//!
//! It is told by the kind byte alone, so that a body is decoded where it is served.

use crate::message::RequestKind;

/// The classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrafficClass {
    /// Opens a connection. Over an open one it is out of place.
    Handshake,
    /// Asks whether the other side lives: answered by whoever reads it, before everything that waits.
    Liveness,
    /// Reads or writes one key, for a client or for a node that hands a client's request on.
    Client,
    /// Reads all that a node holds, part by part, for an operator.
    Export,
    /// Reads, writes or keeps another node's copy of one key (nodes only).
    Replica,
    /// Compares the copies of two nodes, so that what differs can be mended (nodes only).
    Mending,
    /// Is about nodes and not about data: gossip, joins, ring decisions, status. Never waits behind data.
    Control,
}

impl TrafficClass {
    /// The class of the requests of this kind; `None` for kinds that this version does not know.
    pub fn of(message_kind: u8) -> Option<Self> {
        RequestKind::of(message_kind).map(RequestKind::class)
    }
}

impl RequestKind {
    /// The class of the requests of this kind. Each is named here, so that no new one is left out.
    pub fn class(self) -> TrafficClass {
        match self {
            Self::Hello => TrafficClass::Handshake,
            Self::Ping => TrafficClass::Liveness,
            Self::Get | Self::Put | Self::Delete | Self::Explain | Self::Import => {
                TrafficClass::Client
            }
            Self::Export => TrafficClass::Export,
            Self::Merge | Self::Read | Self::Hint | Self::Replace => TrafficClass::Replica,
            Self::Compare | Self::List => TrafficClass::Mending,
            Self::Stats
            | Self::Health
            | Self::Status
            | Self::Ring
            | Self::Repair
            | Self::Unlock
            | Self::Snapshot
            | Self::ChangeRing
            | Self::Gossip
            | Self::Probe
            | Self::Join
            | Self::FetchRing
            | Self::Prepare
            | Self::Accept => TrafficClass::Control,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::DecodeError;
    use crate::message::{Request, kind};

    #[test]
    fn every_kind_of_request_has_a_class_and_others_have_none() {
        for kind in 0..=u8::MAX {
            let decoded = Request::decode(kind, &Bytes::new());
            let is_known = decoded != Err(DecodeError::UnknownKind { kind });
            assert_eq!(TrafficClass::of(kind).is_some(), is_known, "{kind:#04x}");
        }
        for answer in [kind::ERROR, kind::GOAWAY, kind::GET | kind::ANSWER] {
            assert_eq!(TrafficClass::of(answer), None);
        }
    }

    #[test]
    fn the_classes_are_told_by_the_kind_byte() {
        let of = |class: TrafficClass| -> Vec<u8> {
            let is_of = |kind: &u8| TrafficClass::of(*kind) == Some(class);
            (0..=u8::MAX).filter(is_of).collect()
        };
        assert_eq!(of(TrafficClass::Handshake), [kind::HELLO]);
        assert_eq!(of(TrafficClass::Liveness), [kind::PING]);
        assert_eq!(of(TrafficClass::Client), [0x10, 0x11, 0x12, 0x17, 0x19]);
        assert_eq!(of(TrafficClass::Export), [kind::EXPORT]);
        assert_eq!(of(TrafficClass::Replica), [0x20, 0x21, 0x24, 0x28]);
        assert_eq!(of(TrafficClass::Mending), [kind::COMPARE, kind::LIST]);
        let control = [
            0x13, 0x14, 0x15, 0x16, 0x1a, 0x1c, 0x1d, 0x1e, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35,
        ];
        assert_eq!(of(TrafficClass::Control), control);
    }
}
