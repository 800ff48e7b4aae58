//! What holds for every ring and every entry in it, whoever proposes it.

use dynakv_protocol::ids::{NAME_BYTES_MAX, RingVersion};
use dynakv_protocol::ring_document::{Member, RingDocument, WEIGHT_MAX};

use crate::engine::counters::check_ring_version;

/// The present ring under the next number; `None` after the last that there is.
pub(super) fn successor(current: &RingDocument) -> Option<RingDocument> {
    let version = RingVersion(current.version.0.checked_add(1)?);
    check_ring_version(version).ok()?;
    Some(RingDocument {
        version,
        ..current.clone()
    })
}

/// Bounds that hold for every entry of a ring, so that whoever reads it back accepts it.
///
/// # Errors
/// What is wrong, with its limits.
pub(super) fn check_member(member: &Member) -> Result<(), String> {
    check_entry(member)?;
    match (1..=WEIGHT_MAX).contains(&member.weight) {
        true => Ok(()),
        false => Err(format!(
            "the weight is {}, 1 to {WEIGHT_MAX} are possible",
            member.weight
        )),
    }
}

/// The same but for the weight, which is 0 for who is being taken in.
///
/// # Errors
/// As [`check_member`].
pub(super) fn check_entry(member: &Member) -> Result<(), String> {
    if member.address.is_empty() || member.address.len() > NAME_BYTES_MAX {
        return Err(format!(
            "the address has {} bytes, 1 to {NAME_BYTES_MAX} are possible",
            member.address.len()
        ));
    }
    if member.zone.len() > NAME_BYTES_MAX {
        return Err(format!(
            "the zone has {} bytes, {NAME_BYTES_MAX} at most are possible",
            member.zone.len()
        ));
    }
    Ok(())
}
