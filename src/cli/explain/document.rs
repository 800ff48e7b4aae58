//! What `explain` prints with `--output json`.

use dynakv_client::Explained;
use dynakv_protocol::admin::{ExplainedOwner, SiblingDigest, ValueDigest};
use dynakv_protocol::hash::Position;
use serde::Serialize;

use super::verdict::{Held, Verdict, is_rebuilding};
use crate::cli::key::KeyFields;
use crate::cli::node_info::state_name;
use crate::cli::output::EncodedValue;

#[derive(Serialize)]
pub(super) struct Document<'a> {
    #[serde(flatten)]
    key: KeyFields,
    found: bool,
    position: String,
    segment: u16,
    ring_version: u64,
    seen_by: &'a str,
    now_ms: u64,
    agree: bool,
    conflict: bool,
    owners: Vec<OwnerDocument<'a>>,
    values: Vec<ValueDocument<'a>>,
    sentences: &'a [String],
    next: &'a str,
}

#[derive(Serialize)]
struct OwnerDocument<'a> {
    id: &'a str,
    address: &'a str,
    state: &'static str,
    answered: bool,
    reason: Option<&'a str>,
    standing: &'static str,
    rebuilding: bool,
    actor: Option<String>,
    clock: Vec<ClockDocument<'a>>,
    dots: Vec<String>,
    missing: Vec<String>,
    replaced: Vec<String>,
}

#[derive(Serialize)]
struct ClockDocument<'a> {
    actor: String,
    node: Option<&'a str>,
    counter: u64,
}

#[derive(Serialize)]
struct ValueDocument<'a> {
    dot: String,
    node: Option<&'a str>,
    write_id: String,
    timestamp_ms: u64,
    expires_at_ms: Option<u64>,
    deleted: bool,
    live: bool,
    bytes: Option<u64>,
    checksum: Option<String>,
    preview: Option<EncodedValue>,
    held_by: &'a [&'a str],
    replaced_at: &'a [&'a str],
}

impl<'a> Document<'a> {
    pub(super) fn new(
        key: &[u8],
        explained: &'a Explained,
        verdict: &'a Verdict<'a>,
        sentences: &'a [String],
        next: &'a str,
    ) -> Self {
        let position = Position::of_key(key);
        let owners = explained.owners.iter();
        let values = verdict.held.iter();
        Self {
            key: KeyFields::new(key),
            found: !verdict.clock.is_empty(),
            position: format!("{:016x}", position.0),
            segment: position.segment().0,
            ring_version: explained.ring_version.0,
            seen_by: explained.node_id.as_str(),
            now_ms: explained.now_unix_ms,
            agree: verdict.agree(),
            conflict: verdict.live().len() > 1,
            owners: owners
                .map(|owner| OwnerDocument::new(owner, verdict))
                .collect(),
            values: values
                .map(|held| ValueDocument::new(held, explained.now_unix_ms, verdict))
                .collect(),
            sentences,
            next,
        }
    }
}

impl<'a> OwnerDocument<'a> {
    fn new(owner: &'a ExplainedOwner, verdict: &Verdict<'a>) -> Self {
        let id = owner.id.as_str();
        let state = owner.answer.as_ref().ok();
        let dots = |held: Vec<&Held<'_>>| {
            let dots = held.into_iter().map(|held| held.sibling.dot.to_string());
            dots.collect()
        };
        let clock = state.into_iter().flat_map(|state| state.clock.iter());
        let siblings = state.into_iter().flat_map(|state| &state.siblings);
        Self {
            id,
            address: &owner.address,
            state: state_name(owner.state),
            answered: state.is_some(),
            reason: owner.answer.as_ref().err().map(String::as_str),
            standing: verdict.standing(id).name(),
            rebuilding: is_rebuilding(owner),
            actor: state.and_then(|state| Some(state.actor?.to_string())),
            clock: clock
                .map(|dot| ClockDocument {
                    actor: dot.actor.to_string(),
                    node: verdict.minter(dot.actor),
                    counter: dot.counter,
                })
                .collect(),
            dots: siblings.map(|sibling| sibling.dot.to_string()).collect(),
            missing: dots(verdict.missing(id)),
            replaced: dots(verdict.obsolete(id)),
        }
    }
}

impl<'a> ValueDocument<'a> {
    fn new(held: &'a Held<'a>, now_unix_ms: u64, verdict: &Verdict<'a>) -> Self {
        let SiblingDigest {
            dot,
            write_id,
            expires_at_ms,
            value,
            ..
        } = held.sibling;
        let (bytes, checksum, preview) = match value {
            ValueDigest::Tombstone => (None, None, None),
            ValueDigest::Bytes {
                length,
                checksum,
                preview,
            } => (
                Some(*length),
                Some(format!("{checksum:016x}")),
                Some(EncodedValue::new(preview)),
            ),
        };
        Self {
            dot: dot.to_string(),
            node: verdict.minter(dot.actor),
            write_id: format!("{:032x}", write_id.0),
            timestamp_ms: held.sibling.timestamp_ms(),
            expires_at_ms: *expires_at_ms,
            deleted: *value == ValueDigest::Tombstone && held.mark().is_none(),
            live: held.is_live(now_unix_ms) && !verdict.is_retired(held),
            bytes,
            checksum,
            preview,
            held_by: &held.by,
            replaced_at: &held.replaced_at,
        }
    }
}
