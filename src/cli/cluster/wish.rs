//! From what was typed to what the cluster is asked.

use dynakv_client::{ChangeRing, MemberState, MemberWish, RingReply, RingWish, StatusReply};
use dynakv_protocol::NodeId;
use dynakv_protocol::ring_document::{Member, Stake};
use dynakv_protocol::shell::quoted;

use super::command::{ReplaceArgs, SetArgs, WishCommand};
use crate::cli::prompt::Prompt;

/// Why nobody is asked, and what to type instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) what: String,
    pub(super) next: String,
}

/// What is known where a command is typed.
pub(super) struct Known<'a> {
    pub(super) status: &'a StatusReply,
    pub(super) ring: &'a RingReply,
    /// Nodes that wait to be let in.
    pub(super) waiting: &'a [Member],
    pub(super) prompt: &'a Prompt,
}

impl Known<'_> {
    /// The question which ring it would be.
    ///
    /// # Errors
    /// [`Refusal`], where it cannot even be asked.
    pub(super) fn question(&self, command: &WishCommand) -> Result<ChangeRing, Refusal> {
        Ok(ChangeRing {
            planned_on: self.ring.document.version,
            is_plan: true,
            accept_loss: command.accept_loss(),
            is_forced: command.is_forced(),
            wish: self.wish(command)?,
        })
    }

    fn wish(&self, command: &WishCommand) -> Result<RingWish, Refusal> {
        Ok(RingWish::Members(match command {
            WishCommand::Join(args) => {
                let joins = args.ids.iter().map(|id| self.joins(id));
                joins.collect::<Result<_, _>>()?
            }
            WishCommand::Leave(args) => {
                let ids = args.ids.iter().cloned();
                ids.map(MemberWish::Leaves).collect()
            }
            WishCommand::Remove(args) => {
                let ids = args.ids.iter().cloned();
                ids.map(MemberWish::IsGone).collect()
            }
            WishCommand::Replace(ReplaceArgs { old, new, .. }) => {
                let goes = match self.is_dead(old) {
                    true => MemberWish::IsGone(old.clone()),
                    false => MemberWish::Leaves(old.clone()),
                };
                vec![self.joins(new)?, goes]
            }
            WishCommand::Set(args) => vec![self.has_stake(args)?],
            WishCommand::Abort => return Ok(RingWish::Abort),
        }))
    }

    fn is_dead(&self, id: &NodeId) -> bool {
        let mut members = self.status.members.iter();
        let member = members.find(|member| member.id == *id);
        // Nobody has heard of who is not among them.
        member.is_none_or(|member| member.state == MemberState::Dead)
    }

    fn joins(&self, id: &NodeId) -> Result<MemberWish, Refusal> {
        if self.ring.document.member(id).is_some() {
            return Err(Refusal {
                what: format!("{id} is a member of this cluster already: nothing is to be done"),
                next: self.prompt.command("status"),
            });
        }
        let waiting = self.waiting.iter().find(|member| member.id == *id);
        waiting.cloned().map(MemberWish::Joins).ok_or_else(|| {
            let members = &self.status.members;
            let own = members.iter().find(|it| it.id == self.status.node_id);
            let seed = own.map_or("HOST:PORT", |member| &member.address);
            let seed = quoted(seed);
            Refusal {
                what: format!(
                    "nobody waits to be let in as {id}: start that node with --auto-join false, and it waits for your \
                     word"
                ),
                next: format!("dynakv serve --id {id} --seed {seed} --auto-join false"),
            }
        })
    }

    fn has_stake(&self, args: &SetArgs) -> Result<MemberWish, Refusal> {
        let id = &args.id;
        let Some(member) = self.ring.document.member(id) else {
            return Err(Refusal {
                what: format!("{id} is no member of this cluster: `dynakv status` names them"),
                next: self.prompt.command("status"),
            });
        };
        let stake = Stake {
            weight: args.weight.unwrap_or(member.weight),
            zone: args.zone.clone().unwrap_or_else(|| member.zone.clone()),
        };
        Ok(MemberWish::HasStake(id.clone(), stake))
    }

    /// What to type after the node that was asked has refused with this message.
    pub(super) fn next_after(&self, command: &WishCommand, message: &str) -> String {
        if self.ring.document.change().is_some() {
            return self.prompt.command("cluster status");
        }
        let is_member = |id: &NodeId| self.ring.document.member(id).is_some();
        let first = |ids: &[NodeId], is_dead: bool| {
            let mut ids = ids.iter();
            ids.find(|id| self.is_dead(id) == is_dead).cloned()
        };
        let next = match command {
            WishCommand::Leave(args) if args.ids.iter().all(is_member) => {
                first(&args.ids, true).map(|dead| format!("cluster plan remove {dead}"))
            }
            WishCommand::Remove(args) if args.ids.iter().all(is_member) => {
                first(&args.ids, false).map(|lives| format!("cluster plan leave {lives}"))
            }
            _ => None,
        };
        let with_loss = || {
            let is_it = message.contains("--accept-loss") && !command.accept_loss();
            is_it.then(|| format!("cluster plan {} --accept-loss", command.words()))
        };
        let next = next.or_else(with_loss);
        self.prompt.command(next.as_deref().unwrap_or("status"))
    }
}
