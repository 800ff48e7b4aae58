//! From a client's frame to a checked request, or to the error that says what is wrong with it.

use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::admin::{Explain, Import};
use dynakv_protocol::causal::{Clock, Value, Versions, context};
use dynakv_protocol::client::{Get, HandedOn, Write};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::Frame;
use dynakv_protocol::limits::{KEY_BYTES_MAX, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX};
use dynakv_protocol::message::Request;
use dynakv_protocol::{ClusterId, ErrorCode, ErrorReply};

use crate::engine::limits;
use crate::engine::placement::preference::{Access, Strictness};
use crate::engine::write::mint::Intent;
use crate::engine::write::plausible;
use crate::runtime::net::undecodable::undecodable;

/// The bounds that a client's request is held against.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest value, in bytes.
    pub value_bytes_max: usize,
    /// Replicas of each key at present.
    pub effective_n: u8,
    /// The default write quorum.
    pub w: u8,
    /// The default read quorum.
    pub r: u8,
    /// The cluster that contexts must belong to.
    pub cluster_id: ClusterId,
}

/// A client's request about data, checked.
#[derive(Debug)]
pub struct DataRequest {
    /// The key.
    pub key: Bytes,
    /// How long its sender waits.
    pub timeout: Duration,
    /// Which owner may coordinate it.
    pub access: Access,
    /// When it was handed on, by the clock of whoever did.
    pub handed_on: Option<HandedOn>,
    /// The rest.
    pub action: Action,
}

/// What a client wants done.
#[derive(Debug)]
pub enum Action {
    /// Read.
    Get {
        /// How many owners.
        r: u8,
        /// Mend stale owners before the answer.
        repair_first: bool,
    },
    /// Write.
    Put {
        /// How many owners.
        w: u8,
        /// Whether others may stand in for them.
        strictness: Strictness,
        /// The write itself.
        intent: Box<Intent>,
    },
    /// Ask all owners what they have.
    Explain,
    /// Merge these versions.
    Import {
        /// How many owners.
        w: u8,
        /// Encoded, and checked.
        versions: Bytes,
    },
}

impl Action {
    /// How many owners it needs; none for what asks all of them.
    pub fn needed(&self) -> u8 {
        match self {
            Self::Get { r, .. } => *r,
            Self::Put { w, .. } | Self::Import { w, .. } => *w,
            Self::Explain => 0,
        }
    }

    /// Whether stand-ins may count for it.
    pub fn is_sloppy(&self) -> bool {
        matches!(
            self,
            Self::Put {
                strictness: Strictness::Sloppy,
                ..
            }
        )
    }
}

/// Decodes and checks a request about data.
///
/// # Errors
/// `BadRequest` or `TooLarge`, saying what to change.
pub fn data_request(frame: &Frame, limits: Limits) -> Result<DataRequest, ErrorReply> {
    match Request::decode(frame.header.kind, &frame.body) {
        Ok(Request::Get(get)) => read(get, limits),
        Ok(Request::Put(write) | Request::Delete(write)) => self::write(write, limits),
        Ok(Request::Explain(explain)) => self::explain(explain),
        Ok(Request::Import(import)) => self::import(import, limits),
        Ok(_) => Err(bad("this is no request about data")),
        Err(error) => Err(undecodable(&error)),
    }
}

/// Whether a request about data is of its form: as much of it as a node can check that knows no ring.
///
/// # Errors
/// `BadRequest` or `TooLarge`.
pub fn check_form(frame: &Frame) -> Result<(), ErrorReply> {
    match Request::decode(frame.header.kind, &frame.body) {
        Ok(Request::Get(Get { key, .. }))
        | Ok(Request::Put(Write { key, .. }) | Request::Delete(Write { key, .. }))
        | Ok(Request::Explain(Explain { key, .. }))
        | Ok(Request::Import(Import { key, .. })) => check_key(&key),
        Ok(_) => Ok(()),
        Err(error) => Err(undecodable(&error)),
    }
}

fn explain(explain: Explain) -> Result<DataRequest, ErrorReply> {
    check_key(&explain.key)?;
    Ok(DataRequest {
        timeout: timeout(explain.timeout_ms),
        handed_on: None,
        access: Access::AnyOwner,
        action: Action::Explain,
        key: explain.key,
    })
}

fn import(import: Import, bounds: Limits) -> Result<DataRequest, ErrorReply> {
    check_key(&import.key)?;
    let versions =
        Versions::from_bytes(&import.versions).map_err(|error| {
            match limits::is_beyond(&error) {
                true => undecodable(&error),
                false => bad(&format!("these are no versions of a key: {error}")),
            }
        })?;
    plausible::check(versions.clock(), &Clock::new())?;
    if versions.is_empty() {
        return Err(bad("versions with an empty clock say nothing of a key"));
    }
    limits::check_import(&versions, import.versions.len())?;
    let mut siblings = versions.siblings().iter();
    if let Some(large) = siblings.find(|sibling| sibling.value.len() > bounds.value_bytes_max) {
        return Err(too_large(large.value.len(), bounds));
    }
    Ok(DataRequest {
        timeout: timeout(import.timeout_ms),
        handed_on: None,
        access: Access::AnyOwner,
        action: Action::Import {
            w: quorum("w", import.w, bounds.w, bounds.effective_n)?,
            versions: import.versions,
        },
        key: import.key,
    })
}

fn read(get: Get, limits: Limits) -> Result<DataRequest, ErrorReply> {
    check_key(&get.key)?;
    Ok(DataRequest {
        timeout: timeout(get.timeout_ms),
        handed_on: None,
        access: Access::AnyOwner,
        action: Action::Get {
            r: quorum("r", get.r, limits.r, limits.effective_n)?,
            repair_first: get.repair_first,
        },
        key: get.key,
    })
}

fn write(write: Write, limits: Limits) -> Result<DataRequest, ErrorReply> {
    check_key(&write.key)?;
    let ttl_ms = write.value.as_ref().and(write.ttl_ms);
    let value = match write.value {
        None => Value::Tombstone,
        Some(value) if value.len() > limits.value_bytes_max => {
            return Err(too_large(value.len(), limits));
        }
        Some(value) => Value::Bytes(value),
    };
    let context = match &write.context {
        None => None,
        Some(sealed) => Some(
            context::open(limits.cluster_id, &write.key, sealed)
                .map_err(|e| bad(&e.to_string()))?,
        ),
    };
    let access = match &context {
        Some(_) => Access::AnyOwner,
        None => Access::FirstOwner,
    };
    Ok(DataRequest {
        timeout: timeout(write.timeout_ms),
        handed_on: write.handed_on,
        access,
        action: Action::Put {
            w: quorum("w", write.w, limits.w, limits.effective_n)?,
            strictness: match write.sloppy {
                true => Strictness::Sloppy,
                false => Strictness::Strict,
            },
            intent: Box::new(Intent {
                write_id: write.write_id,
                again: write.again,
                value,
                context,
                // A deletion does not expire.
                ttl_ms,
                value_bytes_max: limits.value_bytes_max,
                if_no_conflict: write.if_no_conflict,
            }),
        },
        key: write.key,
    })
}

fn too_large(value_bytes: usize, limits: Limits) -> ErrorReply {
    let message = format!(
        "the value has {value_bytes} bytes, this cluster takes {}; raise value_bytes_max or store it in \
         parts",
        limits.value_bytes_max
    );
    ErrorReply::new(ErrorCode::TooLarge, message)
}

fn check_key(key: &Bytes) -> Result<(), ErrorReply> {
    if key.is_empty() {
        return Err(bad(&format!(
            "a key has 1 to {KEY_BYTES_MAX} bytes, this one is empty"
        )));
    }
    Ok(())
}

/// What a request asks for itself must be possible. The default is all that the ring promises, though there may be
/// fewer owners now: more may come while the request is in hand.
fn quorum(name: &str, asked: Option<u8>, default: u8, owners: u8) -> Result<u8, ErrorReply> {
    match asked {
        None => Ok(default),
        Some(asked) if (1..=owners).contains(&asked) => Ok(asked),
        Some(asked) => Err(bad(&format!(
            "{name} = {asked} is not possible: a key has {owners} owners at present, so {name} is 1 to \
             {owners}"
        ))),
    }
}

fn timeout(asked_ms: u32) -> Duration {
    let ms = match asked_ms {
        0 => TIMEOUT_MS_DEFAULT,
        ms => ms.min(TIMEOUT_MS_MAX),
    };
    Duration::from_millis(u64::from(ms))
}

fn bad(message: &str) -> ErrorReply {
    ErrorReply::new(ErrorCode::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use dynakv_protocol::DecodeError;
    use dynakv_protocol::causal::{Clock, Dot, Sibling};
    use dynakv_protocol::frame::Header;
    use dynakv_protocol::{Actor, WriteId};

    use super::*;

    fn limits() -> Limits {
        Limits {
            value_bytes_max: 8,
            effective_n: 3,
            w: 2,
            r: 2,
            cluster_id: ClusterId(1),
        }
    }

    fn frame(request: &Request) -> Frame {
        let mut body = BytesMut::new();
        request.encode(&mut body);
        Frame {
            header: Header::new(request.kind(), 1),
            body: body.freeze(),
        }
    }

    fn put() -> Write {
        Write {
            timeout_ms: 0,
            write_id: WriteId(1),
            key: Bytes::from_static(b"k"),
            value: Some(Bytes::from_static(b"v")),
            context: None,
            w: None,
            ttl_ms: None,
            sloppy: false,
            again: false,
            if_no_conflict: false,
            handed_on: None,
        }
    }

    fn code_of(write: Write) -> ErrorCode {
        data_request(&frame(&Request::Put(write)), limits())
            .unwrap_err()
            .code
    }

    #[test]
    fn a_blind_write_belongs_to_the_first_owner_one_with_context_to_any() {
        let request = data_request(&frame(&Request::Put(put())), limits()).unwrap();
        assert_eq!(request.access, Access::FirstOwner);
        assert_eq!(request.timeout, Duration::from_secs(5));
        let mut with_context = put();
        with_context.context = Some(context::seal(ClusterId(1), b"k", &Clock::new()));
        let request = data_request(&frame(&Request::Put(with_context)), limits()).unwrap();
        assert_eq!(request.access, Access::AnyOwner);
    }

    #[test]
    fn impossible_requests_say_what_is_wrong() {
        let empty_key = Write {
            key: Bytes::new(),
            ..put()
        };
        let large = Write {
            value: Some(Bytes::from_static(b"123456789")),
            ..put()
        };
        let elsewhere = Write {
            context: Some(context::seal(ClusterId(1), b"other", &Clock::new())),
            ..put()
        };
        let too_many = Write {
            w: Some(4),
            ..put()
        };
        let none = Write {
            w: Some(0),
            ..put()
        };
        assert_eq!(code_of(empty_key), ErrorCode::BadRequest);
        assert_eq!(code_of(large), ErrorCode::TooLarge);
        assert_eq!(code_of(elsewhere), ErrorCode::BadRequest);
        assert_eq!(code_of(too_many), ErrorCode::BadRequest);
        assert_eq!(code_of(none), ErrorCode::BadRequest);
    }

    #[test]
    fn an_import_is_checked_before_anybody_is_sent_it() {
        let dot = |counter| Dot {
            actor: Actor(1),
            counter,
        };
        let versions = |value: &'static [u8]| {
            let sibling = Sibling {
                dot: dot(1),
                write_id: WriteId(1),
                timestamp: 1,
                expires_at_ms: None,
                value: Value::Bytes(Bytes::from_static(value)),
            };
            let clock = [dot(2)].into_iter().collect();
            Versions::from_parts(clock, [sibling]).unwrap().to_bytes()
        };
        let import = |versions: Bytes| Import {
            timeout_ms: 0,
            key: Bytes::from_static(b"k"),
            versions,
            w: None,
        };
        let outcome = |import: Import| data_request(&frame(&Request::Import(import)), limits());
        let code = |import: Import| outcome(import).unwrap_err().code;
        let good = outcome(import(versions(b"v"))).unwrap();
        assert!(matches!(good.action, Action::Import { w: 2, .. }));
        let mut no_key = import(versions(b"v"));
        no_key.key = Bytes::new();
        assert_eq!(code(no_key), ErrorCode::BadRequest);
        let mut too_many = import(versions(b"v"));
        too_many.w = Some(4);
        assert_eq!(code(too_many), ErrorCode::BadRequest);
        assert_eq!(code(import(versions(b"123456789"))), ErrorCode::TooLarge);
        for nothing in [Bytes::new(), Bytes::from_static(&[1, 0, 0])] {
            assert_eq!(code(import(nothing)), ErrorCode::BadRequest);
        }
        // A clock that lost an entry: its sibling is beyond it.
        let mut beyond = versions(b"v").to_vec();
        let counter_at = 2 + 8;
        assert_eq!(beyond[counter_at], 2);
        beyond[counter_at + 10] = 3;
        assert_eq!(code(import(Bytes::from(beyond))), ErrorCode::BadRequest);
    }

    #[test]
    fn what_cannot_be_decoded_has_a_code_of_its_own() {
        let too_long = DecodeError::TooLong {
            what: "key",
            length: 5000,
            max: 4096,
        };
        assert_eq!(undecodable(&too_long).code, ErrorCode::TooLarge);
        let unknown = DecodeError::UnknownKind { kind: 0x7e };
        assert_eq!(undecodable(&unknown).code, ErrorCode::UnknownKind);
        let malformed = DecodeError::MalformedVarint;
        assert_eq!(undecodable(&malformed).code, ErrorCode::BadRequest);
    }

    #[test]
    fn a_deletion_does_not_expire() {
        let ttl_of =
            |request: Request| match data_request(&frame(&request), limits()).unwrap().action {
                Action::Put { intent, .. } => intent.ttl_ms,
                other => panic!("{other:?}"),
            };
        let write = Write {
            ttl_ms: Some(5),
            ..put()
        };
        assert_eq!(ttl_of(Request::Put(write.clone())), Some(5));
        let deletion = Write {
            value: None,
            ..write
        };
        assert_eq!(ttl_of(Request::Delete(deletion)), None);
    }

    #[test]
    fn a_form_is_checked_without_a_ring() {
        let good = frame(&Request::Put(put()));
        assert_eq!(check_form(&good), Ok(()));
        let mut cut = good.clone();
        cut.body.truncate(good.body.len() - 1);
        assert_eq!(check_form(&cut).unwrap_err().code, ErrorCode::BadRequest);
        let empty_key = Write {
            key: Bytes::new(),
            ..put()
        };
        let code = check_form(&frame(&Request::Put(empty_key)))
            .unwrap_err()
            .code;
        assert_eq!(code, ErrorCode::BadRequest);
    }

    #[test]
    fn a_default_is_what_the_ring_promises_however_few_owners_there_are_now() {
        let alone = Limits {
            effective_n: 1,
            ..limits()
        };
        let request = data_request(&frame(&Request::Put(put())), alone).unwrap();
        assert!(matches!(request.action, Action::Put { w: 2, .. }));
        let more = Write {
            w: Some(2),
            ..put()
        };
        let refused = data_request(&frame(&Request::Put(more)), alone);
        assert_eq!(refused.unwrap_err().code, ErrorCode::BadRequest);
    }
}
