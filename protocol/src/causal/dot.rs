//! One write, named: which actor made it and the how-manieth of that actor it was.

use std::fmt;

use bytes::BytesMut;

use crate::codec::{DecodeError, Reader, Wire, put_varint};
use crate::ids::Actor;

/// The name of one write. No two writes ever share a dot (docs/design/causality.md, "Actors").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who minted it.
    pub actor: Actor,
    /// The actor's counter, from 1 on; node-wide, so one key sees only some of them.
    pub counter: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.actor, self.counter)
    }
}

impl Wire for Dot {
    fn encode(&self, out: &mut BytesMut) {
        self.actor.encode(out);
        put_varint(out, self.counter);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let actor = Actor::decode(reader)?;
        match reader.varint()? {
            0 => Err(DecodeError::Invalid { what: "dot" }),
            counter => Ok(Self { actor, counter }),
        }
    }
}
