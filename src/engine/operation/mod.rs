//! One operation: a request about data in hand, whatever it is.
//!
//! A put, a get, an import, a question and a request on its way to an owner are decided in a file each, and each
//! has words of its own: a put hears nothing of digests, a get nothing of dots. Here is the one language in
//! which the coordinator speaks with all of them. It hands in an [`Event`] and carries out the [`Effect`]s; what
//! an event means to which of them stands in `step.rs` and nowhere else.
//!
//! | File | What is in it |
//! |---|---|
//! | `exchange.rs` | events, effects, answers |
//! | `purpose.rs` | what a message about an operation is for |
//! | `begin.rs` | how each begins |
//! | `step.rs` | what an event means to which operation |
//! | `translate.rs` | the effects of each, in the common words |

use bytes::Bytes;

use crate::engine::read::explain::Explain;
use crate::engine::read::get::Get;
use crate::engine::write::attempts::Attempts;
use crate::engine::write::forward::Forward;
use crate::engine::write::import::Import;
use crate::engine::write::mint::Intent;
use crate::engine::write::put::Put;

mod begin;
mod exchange;
mod purpose;
mod step;
mod translate;

pub use self::exchange::{Answer, Effect, Effects, Event, Lost, Mint, Owed, Reading};
pub use self::purpose::Purpose;

/// One request about data in hand.
#[derive(Debug)]
pub enum Operation {
    /// A write coordinated here.
    Put {
        /// Its state.
        put: Put,
        /// The write, until the store takes it.
        intent: Option<Box<Intent>>,
    },
    /// A read coordinated here.
    Get(Get),
    /// A request handed on to an owner.
    Forward(Forward),
    /// A key explained.
    Explain(Explain),
    /// Versions merged into a key.
    Import {
        /// Its state.
        import: Import,
        /// What is merged, encoded.
        versions: Bytes,
    },
}

/// What becomes of an operation after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Its client waits.
    InHand,
    /// Its client has the answer, and some owners have not said yet that they have the write.
    Tail,
    /// Nothing more will come of it.
    Over,
}

impl Operation {
    /// The read that it is.
    pub fn as_get(&self) -> Option<&Get> {
        match self {
            Self::Get(get) => Some(get),
            Self::Put { .. } | Self::Forward(_) | Self::Explain(_) | Self::Import { .. } => None,
        }
    }

    /// Who was given it before and may have acted on it; `None` where that is not for it to say.
    pub fn attempts(&self) -> Option<Attempts> {
        match self {
            Self::Forward(forward) => Some(forward.attempts()),
            Self::Put { .. } | Self::Get(_) | Self::Explain(_) | Self::Import { .. } => None,
        }
    }

    /// Whether it may be refused half-way when too much is gathered for clients. What writes is never given up
    /// for that.
    pub fn may_be_given_up(&self) -> bool {
        match self {
            Self::Get(_) | Self::Explain(_) => true,
            Self::Put { .. } | Self::Forward(_) | Self::Import { .. } => false,
        }
    }

    /// Whether it is told again that it is slow, some time after it was.
    pub fn passes_by(&self) -> bool {
        match self {
            Self::Put { put, .. } => put.passes_by(),
            Self::Get(_) | Self::Forward(_) | Self::Explain(_) | Self::Import { .. } => false,
        }
    }

    /// What becomes of it, once its last effects are carried out.
    pub fn rest(&self) -> Rest {
        let is_answered = match self {
            Self::Put { put, .. } if put.is_over() => return Rest::Over,
            Self::Put { put, .. } if put.is_answered() => return Rest::Tail,
            Self::Put { .. } => false,
            Self::Forward(forward) => forward.is_answered(),
            Self::Get(get) => get.is_answered(),
            Self::Explain(explain) => explain.is_answered(),
            Self::Import { import, .. } => import.is_answered(),
        };
        match is_answered {
            true => Rest::Over,
            false => Rest::InHand,
        }
    }
}

#[cfg(test)]
mod tests;
