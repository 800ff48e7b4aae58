//! The effects of each kind of operation, in the words that the coordinator knows.

use bytes::Bytes;

use super::exchange::{Answer, Effect, Effects, Mint, Owed, Reading};
use super::{Operation, Purpose};
use crate::engine::placement::preference::SELF;
use crate::engine::read::{explain, get};
use crate::engine::write::mint::Intent;
use crate::engine::write::put::{self, Put, Round, Seen};
use crate::engine::write::{forward, import};

impl Operation {
    /// Puts what the operation wants done into the common list.
    pub(super) fn tell(&mut self, effects: &mut Effects) {
        let Effects {
            list,
            of_put,
            of_get,
            of_forward,
        } = effects;
        match self {
            Self::Put { put, intent } => {
                list.extend(of_put.drain(..).map(|effect| from_put(effect, put, intent)));
            }
            Self::Get(_) => list.extend(of_get.drain(..).map(from_get)),
            Self::Forward(forward) => {
                for effect in of_forward.drain(..) {
                    list.push(from_forward(effect, forward));
                }
            }
            // They are so rare that they tell it themselves.
            Self::Explain(_) | Self::Import { .. } => {}
        }
    }
}

fn from_put(effect: put::Effect, put: &Put, intent: &mut Option<Box<Intent>>) -> Effect {
    let owed = || Owed {
        owners: put.owners().iter().collect(),
        needed: put.w(),
    };
    match effect {
        put::Effect::Ping(to) => Effect::Ping(to),
        put::Effect::Read(from) => Effect::Read {
            from,
            how: Reading::InFull,
        },
        put::Effect::Mint(_) if put.is_stand_in() => Effect::MintHint {
            intent: intent.take(),
            owed: owed(),
        },
        put::Effect::Mint(seen) => Effect::Mint(Mint {
            intent: intent.take(),
            round: match seen.as_deref() {
                Some(Seen::Beside(_)) => Round::Second,
                Some(Seen::Read(_)) | None => Round::First,
            },
            seen,
            catches_up: put.catches_up(),
        }),
        put::Effect::Merge {
            to,
            round,
            versions,
            tell_beside,
        } => Effect::Merge {
            to,
            purpose: Purpose::write(round),
            versions,
            tell_beside,
        },
        put::Effect::Hint {
            to,
            round,
            versions,
        } => Effect::Hint {
            to,
            round,
            versions,
            owed: owed(),
        },
        put::Effect::AwaitRing(version) => Effect::AwaitRing(version),
        put::Effect::Rebase { round, versions } => Effect::Rebase { round, versions },
        put::Effect::Remind(owner) => Effect::Remind(owner),
        put::Effect::Answer(result) => Effect::Answer(result.map(Answer::Written)),
    }
}

fn from_get(effect: get::Effect) -> Effect {
    match effect {
        get::Effect::Read(from) => Effect::Read {
            from,
            how: Reading::OrDigest,
        },
        get::Effect::ReadFull(from) => Effect::Read {
            from,
            how: Reading::InFull,
        },
        get::Effect::ReadAgain(from) => Effect::Read {
            from,
            how: Reading::Again,
        },
        get::Effect::ReadLocal => Effect::Read {
            from: SELF,
            how: Reading::InFull,
        },
        get::Effect::Repair { to, versions } => Effect::Merge {
            to,
            purpose: Purpose::Repair,
            versions,
            tell_beside: false,
        },
        get::Effect::Answer(result) => Effect::Answer(result.map(Answer::Found)),
    }
}

fn from_forward(effect: forward::Effect, forward: &forward::Forward) -> Effect {
    match effect {
        forward::Effect::Send(to) => Effect::HandOn {
            to,
            again: forward.attempts().any(),
            may_go_elsewhere: forward.may_go_elsewhere(),
        },
        forward::Effect::TakeOver => Effect::TakeOver,
        forward::Effect::StandIn => Effect::StandIn,
        forward::Effect::PassOn(frame) => Effect::Answer(Ok(Answer::Forwarded(frame))),
        forward::Effect::Answer(error) => Effect::Answer(Err(error)),
    }
}

pub(super) fn from_explain(effect: explain::Effect) -> Effect {
    match effect {
        explain::Effect::Read(from) => Effect::Read {
            from,
            how: Reading::WithActor,
        },
        explain::Effect::ReadLocal => Effect::Read {
            from: SELF,
            how: Reading::WithActor,
        },
        explain::Effect::Answer(answers) => Effect::Answer(Ok(Answer::Explained(answers))),
    }
}

pub(super) fn from_import(effect: import::Effect, versions: &Bytes) -> Effect {
    let merge = |to| Effect::Merge {
        to,
        purpose: Purpose::Write,
        versions: versions.clone(),
        tell_beside: false,
    };
    match effect {
        import::Effect::Merge(to) => merge(to),
        import::Effect::MergeLocal => merge(SELF),
        import::Effect::Answer(result) => Effect::Answer(result.map(Answer::Imported)),
    }
}
