//! How operations begin.

use std::time::Duration;

use bytes::Bytes;

use super::Operation;
use super::exchange::Effects;
use super::translate::{from_explain, from_import};
use crate::engine::placement::preference::{NodeSlot, Preference, Reach};
use crate::engine::quorum::Place;
use crate::engine::read::explain::Explain;
use crate::engine::read::get::{Get, Plan};
use crate::engine::read::pace::Pace;
use crate::engine::write::forward::{self, Forward};
use crate::engine::write::import::Import;
use crate::engine::write::mint::Intent;
use crate::engine::write::put::{self, Put};

impl Operation {
    /// Begins a write that this node coordinates.
    pub fn put(
        owners: Preference,
        terms: put::Terms,
        intent: Box<Intent>,
        reach: impl Fn(NodeSlot) -> Reach,
        effects: &mut Effects,
    ) -> Self {
        let put = Put::start(owners, terms, reach, &mut effects.of_put);
        let mut operation = Self::Put {
            put,
            intent: Some(intent),
        };
        operation.tell(effects);
        operation
    }

    /// Begins a read that this node coordinates at place `own`, at this time since the process started.
    pub fn get(
        owners: Preference,
        own: Place,
        plan: Plan,
        reach: impl Fn(NodeSlot) -> Reach,
        pace: (&mut Pace, Duration),
        effects: &mut Effects,
    ) -> Self {
        let mut operation = Self::Get(Get::start(
            owners,
            own,
            plan,
            reach,
            pace,
            &mut effects.of_get,
        ));
        operation.tell(effects);
        operation
    }

    /// Begins to hand a request on, to the owner at place `first`.
    pub fn forward(
        owners: &Preference,
        first: Place,
        terms: forward::Terms,
        reach: impl Fn(NodeSlot) -> Reach,
        effects: &mut Effects,
    ) -> Self {
        let out = &mut effects.of_forward;
        let mut operation = Self::Forward(Forward::start(owners, first, terms, reach, out));
        operation.tell(effects);
        operation
    }

    /// Begins to ask all owners what they have.
    pub fn explain(owners: &Preference, effects: &mut Effects) -> Self {
        let mut out = Vec::new();
        let operation = Self::Explain(Explain::start(owners, &mut out));
        effects.list.extend(out.into_iter().map(from_explain));
        operation
    }

    /// Begins to merge versions into a key. `w` is capped at the number of owners.
    pub fn import(owners: Preference, w: u8, versions: Bytes, effects: &mut Effects) -> Self {
        let mut out = Vec::new();
        let import = Import::start(owners, w, &mut out);
        let effects_of_it = out.into_iter();
        effects
            .list
            .extend(effects_of_it.map(|effect| from_import(effect, &versions)));
        Self::Import { import, versions }
    }
}
