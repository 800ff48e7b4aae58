//! What anti-entropy asks: of other nodes over the network, of its own without.

use std::collections::BTreeSet;

use bytes::Bytes;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::limits::TIMEOUT_MS_DEFAULT;
use dynakv_protocol::mend::{Compare, Compared, List, Listed};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::peer::{MergeVersions, ReadVersions};
use dynakv_protocol::{ErrorCode, RingVersion};
use tokio::time::sleep;

use super::{AntiEntropy, BUSY_ATTEMPTS_MAX, BUSY_PAUSE, BUSY_PAUSE_MAX, LIST_BYTES, MendError};
use crate::engine::placement::ring::Ring;
use crate::runtime::shared::view::MemberView;

/// What came of each question, in the order of the questions.
type Answers<T> = Vec<Result<T, MendError>>;

/// What a node has of a key.
pub(super) struct Had {
    /// Empty for nothing.
    pub(super) versions: Bytes,
    /// It may have had more once.
    pub(super) rebuilding: bool,
}

/// Which runs of a node's process have answered.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeSet<u64>);

impl Runs {
    /// Whether all that was answered was by one: what it said first still held when it said the last of it.
    pub(super) fn is_one(&self) -> bool {
        self.0.len() == 1
    }
}

/// In each of these no member means this node.
impl AntiEntropy {
    /// A part of each segment's keys, from behind a key on.
    pub(super) async fn lists(
        &self,
        member: Option<&MemberView>,
        ring: &Ring,
        parts: impl IntoIterator<Item = (Segment, Option<Bytes>, bool)>,
    ) -> Answers<Listed> {
        let mut runs = Runs::default();
        self.lists_in_run(member, ring, parts, &mut runs).await
    }

    /// The same, and who answered.
    pub(super) async fn lists_in_run(
        &self,
        member: Option<&MemberView>,
        ring: &Ring,
        parts: impl IntoIterator<Item = (Segment, Option<Bytes>, bool)>,
        runs: &mut Runs,
    ) -> Answers<Listed> {
        let list = |(segment, after_key, with_versions)| {
            Request::List(List {
                ring_version: ring.version(),
                segment,
                bytes_max: LIST_BYTES,
                with_versions,
                after_key,
            })
        };
        let requests = parts.into_iter().map(list).collect();
        let take = |response| match response {
            Response::Listed(listed) => Ok(listed),
            other => Err(Box::new(other)),
        };
        self.ask_all_in_run(member, requests, take, runs).await
    }

    /// The hashes of what this node and `with` both own, as `member` has them, or this node.
    pub(super) async fn compared(
        &self,
        member: Option<&MemberView>,
        with: &MemberView,
        ring: &Ring,
        page: Option<u8>,
    ) -> Result<Compared, MendError> {
        let compare = Request::Compare(Compare {
            ring_version: ring.version(),
            node_id: match member {
                Some(_) => self.0.asker.me.clone(),
                None => with.id.clone(),
            },
            page,
        });
        let answers = self.ask_all(member, vec![compare], |response| match response {
            Response::Compared(compared) => Ok(compared),
            other => Err(Box::new(other)),
        });
        let first = answers.await.pop();
        // One question has one answer.
        first.unwrap_or_else(|| Err(self.no_answer(member)))
    }

    /// The versions of each key.
    pub(super) async fn read(
        &self,
        member: Option<&MemberView>,
        ring_version: RingVersion,
        keys: impl IntoIterator<Item = Bytes>,
    ) -> Answers<Had> {
        let read = |key| {
            Request::Read(ReadVersions {
                ring_version,
                timeout_ms: TIMEOUT_MS_DEFAULT,
                key,
                tell_actor: false,
                digest_above: None,
            })
        };
        let requests = keys.into_iter().map(read).collect();
        self.ask_all(member, requests, |response| match response {
            // A digest was not asked for, and says nothing here.
            Response::Versions(reply) if reply.digest.is_none() => Ok(Had {
                versions: reply.versions,
                rebuilding: reply.rebuilding,
            }),
            other => Err(Box::new(other)),
        })
        .await
    }

    /// Merges versions into each key, durably.
    pub(super) async fn merge(
        &self,
        member: Option<&MemberView>,
        ring_version: RingVersion,
        keys: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Answers<()> {
        let mut runs = Runs::default();
        self.merge_in_run(member, ring_version, keys, &mut runs)
            .await
    }

    /// The same, and who answered.
    pub(super) async fn merge_in_run(
        &self,
        member: Option<&MemberView>,
        ring_version: RingVersion,
        keys: impl IntoIterator<Item = (Bytes, Bytes)>,
        runs: &mut Runs,
    ) -> Answers<()> {
        let merge = |(key, versions)| {
            Request::Merge(MergeVersions {
                ring_version,
                timeout_ms: TIMEOUT_MS_DEFAULT,
                key,
                versions,
                tell_beside: false,
            })
        };
        let requests = keys.into_iter().map(merge).collect();
        let take = |response| match response {
            Response::Merged(_) => Ok(()),
            other => Err(Box::new(other)),
        };
        self.ask_all_in_run(member, requests, take, runs).await
    }

    /// Asks a node, or this one, many things at once. A node that has too much in hand is asked again
    /// after a pause, for longer each time.
    async fn ask_all<T>(
        &self,
        member: Option<&MemberView>,
        requests: Vec<Request>,
        take: impl Fn(Response) -> Result<T, Box<Response>>,
    ) -> Answers<T> {
        let mut runs = Runs::default();
        self.ask_all_in_run(member, requests, take, &mut runs).await
    }

    async fn ask_all_in_run<T>(
        &self,
        member: Option<&MemberView>,
        requests: Vec<Request>,
        take: impl Fn(Response) -> Result<T, Box<Response>>,
        runs: &mut Runs,
    ) -> Answers<T> {
        let mut answers: Vec<Option<Result<T, MendError>>> = Vec::new();
        answers.resize_with(requests.len(), || None);
        let mut open: Vec<usize> = (0..requests.len()).collect();
        let mut pause = BUSY_PAUSE;
        let mut attempts_left = BUSY_ATTEMPTS_MAX;
        while !open.is_empty() {
            attempts_left -= 1;
            let asked: Vec<Request> = open.iter().map(|&at| requests[at].clone()).collect();
            let mut busy = Vec::new();
            let (responses, run) = self.0.asker.ask_in_run(member, asked).await;
            runs.0.insert(run);
            for (at, response) in open.into_iter().zip(responses) {
                let taken = match response.map(&take) {
                    Ok(Ok(taken)) => Ok(taken),
                    Ok(Err(other)) => match *other {
                        Response::Error(ref error)
                            if error.code == ErrorCode::Overloaded && attempts_left > 0 =>
                        {
                            busy.push(at);
                            continue;
                        }
                        other => Err(self.refused(member, &other)),
                    },
                    Err(error) => Err(error.into()),
                };
                answers[at] = Some(taken);
            }
            open = busy;
            if !open.is_empty() {
                sleep(pause).await;
                pause = (pause * 2).min(BUSY_PAUSE_MAX);
            }
        }
        let missing = || Err(self.no_answer(member));
        let answers = answers.into_iter();
        answers.map(|it| it.unwrap_or_else(missing)).collect()
    }

    fn no_answer(&self, member: Option<&MemberView>) -> MendError {
        let reason = "no answer".to_owned();
        self.0.asker.unreachable(member, reason).into()
    }

    fn refused(&self, member: Option<&MemberView>, response: &Response) -> MendError {
        let node = self.0.asker.name(member);
        match response {
            Response::Error(error) if error.code == ErrorCode::TooLarge => MendError::Locked {
                node,
                reason: error.message.clone(),
            },
            Response::Error(error) => MendError::Refused {
                node,
                reason: error.message.clone(),
            },
            _ => MendError::Refused {
                node,
                reason: "it answered something else".to_owned(),
            },
        }
    }
}
