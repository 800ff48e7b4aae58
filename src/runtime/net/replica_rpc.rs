//! Questions about copies, to other nodes over the network and to this one without: what mending and
//! handing over have in common.

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::limits::FRAME_BYTES_MAX;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{ErrorCode, ErrorReply, NodeId};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::calls::Calls;
use super::local::Local;
use crate::runtime::shared::view::MemberView;

/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a frame with versions has beside them and the key, in bytes, at most.
const OVERHEAD_BYTES: usize = 1024;

/// Why a request is not sent: a frame that is too long ends its connection, and all that is asked over it.
fn too_large(request: &Request) -> Option<ErrorReply> {
    let Request::Merge(merge) = request else {
        return None;
    };
    let bytes = merge.key.len() + merge.versions.len() + OVERHEAD_BYTES;
    (bytes > FRAME_BYTES_MAX).then(|| {
        let message = format!(
            "the versions of \"{}\" have {} bytes and do not fit into a frame ({FRAME_BYTES_MAX}); reconcile \
             its siblings",
            merge.key.escape_ascii(),
            merge.versions.len(),
        );
        ErrorReply::new(ErrorCode::TooLarge, message)
    })
}

/// A node could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("asking {node}: {reason}")]
pub struct Unreachable {
    /// The node that does not answer.
    pub node: NodeId,
    /// Why not, for people.
    pub reason: String,
}

/// Asks nodes about their copies.
pub struct Asker {
    /// This node's name.
    pub me: NodeId,
    /// The nonce of this run of it.
    pub run: u64,
    /// How it asks this node, as another node would.
    pub local: Arc<Local>,
    /// How it asks the others.
    pub calls: Calls,
}

impl Asker {
    /// Asks a node, or this one for `None`, many things at once; as many answers as there are requests. They
    /// may be asked twice. What is too large for a frame is refused here, and the rest is asked.
    pub async fn ask(
        &self,
        member: Option<&MemberView>,
        requests: Vec<Request>,
    ) -> Vec<Result<Response, Unreachable>> {
        self.ask_in_run(member, requests).await.0
    }

    /// The same, and the nonce of the process that answered: one process gave all answers.
    pub async fn ask_in_run(
        &self,
        member: Option<&MemberView>,
        requests: Vec<Request>,
    ) -> (Vec<Result<Response, Unreachable>>, u64) {
        let too_large: Vec<_> = requests.iter().map(too_large).collect();
        if too_large.iter().all(Option::is_none) {
            return self.ask_all(member, requests).await;
        }
        let fitting = requests.into_iter().zip(&too_large);
        let fitting = fitting.filter_map(|(it, refusal)| refusal.is_none().then_some(it));
        let (answers, run) = self.ask_all(member, fitting.collect()).await;
        let mut answers = answers.into_iter();
        let answer = |refusal: Option<ErrorReply>| match refusal {
            Some(refusal) => Some(Ok(Response::Error(refusal))),
            None => answers.next(),
        };
        (too_large.into_iter().filter_map(answer).collect(), run)
    }

    async fn ask_all(
        &self,
        member: Option<&MemberView>,
        requests: Vec<Request>,
    ) -> (Vec<Result<Response, Unreachable>>, u64) {
        let Some(member) = member.filter(|member| member.id != self.me) else {
            return (self.ask_myself(requests).await, self.run);
        };
        let called = self
            .calls
            .call_all(&member.address, &member.id, &requests, TIMEOUT);
        match called.await {
            Ok((responses, welcome)) => (responses.into_iter().map(Ok).collect(), welcome.nonce),
            Err(error) => {
                let failed = || Err(self.unreachable(Some(member), error.to_string()));
                // Nobody answered, so the run is of no use.
                (requests.iter().map(|_| failed()).collect(), 0)
            }
        }
    }

    async fn ask_myself(&self, requests: Vec<Request>) -> Vec<Result<Response, Unreachable>> {
        let deadline = Instant::now() + TIMEOUT;
        let mut answers = Vec::new();
        answers.resize_with(requests.len(), || {
            Err(self.unreachable(None, "it ends".to_owned()))
        });
        let mut under_way = JoinSet::new();
        for (at, request) in requests.into_iter().enumerate() {
            let local = self.local.clone();
            under_way.spawn(async move { (at, local.call(&request, deadline).await) });
        }
        while let Some(joined) = under_way.join_next().await {
            match joined {
                Ok((at, answer)) => {
                    answers[at] = answer
                        .map_err(|error| self.unreachable(None, format!("{:?}", error.cause)));
                }
                // It takes this task with it, as if it had run here.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        answers
    }

    /// What is said of a node, or of this one, that gives no answer.
    pub fn unreachable(&self, member: Option<&MemberView>, reason: String) -> Unreachable {
        Unreachable {
            node: self.name(member),
            reason,
        }
    }

    /// The name of a node, or of this one.
    pub fn name(&self, member: Option<&MemberView>) -> NodeId {
        member.map_or_else(|| self.me.clone(), |member| member.id.clone())
    }
}
