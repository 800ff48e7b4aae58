//! Changing the members of the ring, as an operator asks for it.

use bytes::{BufMut, BytesMut};

use crate::codec::{DecodeError, Reader, Wire, put_bool, put_string, put_tag_u8, put_varint};
use crate::ids::{NAME_BYTES_MAX, NodeId, RingVersion};
use crate::limits::MEMBERS_MAX;
use crate::ring_document::{Member, Stake};

const WISH_MEMBERS: u8 = 0;
const WISH_ABORT: u8 = 1;

const MEMBER_JOINS: u8 = 0;
const MEMBER_LEAVES: u8 = 1;
const MEMBER_IS_GONE: u8 = 2;
const MEMBER_HAS_STAKE: u8 = 3;

const TAG_IS_FORCED: u8 = 1;

/// The most members that one request is about.
pub const WISHES_MAX: usize = MEMBERS_MAX;

/// Change the members of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRing {
    /// The ring that the sender has looked at: on no other one is the change carried out.
    pub planned_on: RingVersion,
    /// Nothing is to be changed: the answer is the ring that would be proposed.
    pub is_plan: bool,
    /// Acknowledged writes may be lost, where too few copies are left without those that are gone.
    pub accept_loss: bool,
    /// The answering node decides by itself, as more than half of those that would are gone for good.
    pub is_forced: bool,
    /// What is to become of the ring.
    pub wish: RingWish,
}

/// What is to become of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingWish {
    /// All of this at once, by one change; at most [`WISHES_MAX`].
    Members(Vec<MemberWish>),
    /// The change that is under way is given up.
    Abort,
}

/// What is to become of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberWish {
    /// It comes in. It is one that waits for that, as a node has told of it.
    Joins(Member),
    /// It hands on what it has, and goes.
    Leaves(NodeId),
    /// It goes, and is gone already: nobody waits for it.
    IsGone(NodeId),
    /// It stays, with this weight and zone.
    HasStake(NodeId, Stake),
}

impl Wire for MemberWish {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Joins(member) => {
                out.put_u8(MEMBER_JOINS);
                member.encode(out);
            }
            Self::Leaves(id) => {
                out.put_u8(MEMBER_LEAVES);
                id.encode(out);
            }
            Self::IsGone(id) => {
                out.put_u8(MEMBER_IS_GONE);
                id.encode(out);
            }
            Self::HasStake(id, stake) => {
                out.put_u8(MEMBER_HAS_STAKE);
                id.encode(out);
                out.put_u16(stake.weight);
                put_string(out, &stake.zone);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            MEMBER_JOINS => Self::Joins(Member::decode(reader)?),
            MEMBER_LEAVES => Self::Leaves(NodeId::decode(reader)?),
            MEMBER_IS_GONE => Self::IsGone(NodeId::decode(reader)?),
            MEMBER_HAS_STAKE => {
                let id = NodeId::decode(reader)?;
                let weight = reader.u16()?;
                let zone = reader.string("zone", NAME_BYTES_MAX)?.to_owned();
                Self::HasStake(id, Stake { weight, zone })
            }
            _ => {
                return Err(DecodeError::Invalid {
                    what: "wish for a member",
                });
            }
        })
    }
}

impl Wire for ChangeRing {
    fn encode(&self, out: &mut BytesMut) {
        self.planned_on.encode(out);
        put_bool(out, self.is_plan);
        put_bool(out, self.accept_loss);
        match &self.wish {
            RingWish::Abort => out.put_u8(WISH_ABORT),
            RingWish::Members(wishes) => {
                out.put_u8(WISH_MEMBERS);
                put_varint(out, wishes.len() as u64);
                for wish in wishes {
                    wish.encode(out);
                }
            }
        }
        if self.is_forced {
            put_tag_u8(out, TAG_IS_FORCED, 1);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let planned_on = RingVersion::decode(reader)?;
        let is_plan = reader.bool("is plan")?;
        let accept_loss = reader.bool("accept loss")?;
        let wish = match reader.u8()? {
            WISH_ABORT => RingWish::Abort,
            WISH_MEMBERS => {
                let mut wishes = Vec::new();
                for _ in 0..reader.count("wishes", WISHES_MAX)? {
                    wishes.push(MemberWish::decode(reader)?);
                }
                RingWish::Members(wishes)
            }
            _ => {
                return Err(DecodeError::Invalid {
                    what: "wish for the ring",
                });
            }
        };
        let mut is_forced = false;
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_IS_FORCED {
                is_forced = field.bool("is forced")?;
            }
        }
        Ok(Self {
            planned_on,
            is_plan,
            accept_loss,
            is_forced,
            wish,
        })
    }
}
