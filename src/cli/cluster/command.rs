//! What can be asked of the ring on the command line.

use dynakv_protocol::NodeId;
use dynakv_protocol::ring_document::WEIGHT_MAX;
use dynakv_protocol::shell::quoted;

/// `dynakv cluster`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show what a change would do, and change nothing
    Plan {
        #[command(subcommand)]
        wish: WishCommand,
    },
    /// Let in nodes that wait for it
    Join(Begin<IdsArgs>),
    /// Have nodes hand on what they have, and go
    Leave(Begin<IdsArgs>),
    /// Take away nodes that are dead and will not come back
    Remove(Begin<RemoveArgs>),
    /// Let one node in for another, which hands on what it has, or is dead and taken away
    Replace(Begin<ReplaceArgs>),
    /// Give a node another weight or zone
    Set(Begin<SetArgs>),
    /// Give up the change that is under way
    Abort {
        /// Do not ask back
        #[arg(long)]
        yes: bool,
    },
    /// Show the change that is under way, and who waits to be let in
    Status,
}

/// A change, and how it is begun.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct Begin<W: clap::Args> {
    #[command(flatten)]
    pub(super) wish: W,
    #[command(flatten)]
    pub(super) consent: Consent,
}

/// How a change is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct Consent {
    /// Do not ask back. This holds for the ring that was planned on, and for no other
    #[arg(long)]
    pub(super) yes: bool,
    /// Do not follow the change to its end
    #[arg(long)]
    pub(super) no_wait: bool,
}

/// What is to become of the ring.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum WishCommand {
    /// Let in nodes that wait for it
    Join(IdsArgs),
    /// Have nodes hand on what they have, and go
    Leave(IdsArgs),
    /// Take away nodes that are dead and will not come back
    Remove(RemoveArgs),
    /// Let one node in for another, which hands on what it has, or is dead and taken away
    Replace(ReplaceArgs),
    /// Give a node another weight or zone
    Set(SetArgs),
    /// Give up the change that is under way
    Abort,
}

/// Some nodes.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct IdsArgs {
    /// The nodes; all of them come or go by one change
    #[arg(value_name = "ID", required = true)]
    pub(super) ids: Vec<NodeId>,
}

/// Nodes that are gone.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct RemoveArgs {
    /// The nodes; all of them are taken away by one change
    #[arg(value_name = "ID", required = true)]
    pub(super) ids: Vec<NodeId>,
    /// Go on where too few copies are left to be sure: acknowledged writes may be lost
    #[arg(long)]
    pub(super) accept_loss: bool,
    /// Have the node that is asked decide by itself, where more than half of those that decide are gone. Say so to one node
    /// only: with two, what was written under one of the two rings is lost
    #[arg(long)]
    pub(super) force: bool,
}

/// A node, and who takes its place.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct ReplaceArgs {
    /// The node that goes
    #[arg(value_name = "OLD")]
    pub(super) old: NodeId,
    /// The node that comes; it waits to be let in
    #[arg(value_name = "NEW")]
    pub(super) new: NodeId,
    /// Go on where OLD is dead and too few copies are left to be sure: acknowledged writes may be lost
    #[arg(long)]
    pub(super) accept_loss: bool,
}

/// A node, and what it is to have.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(group(clap::ArgGroup::new("stake").required(true).multiple(true).args(["weight", "zone"])))]
pub(crate) struct SetArgs {
    /// The node
    #[arg(value_name = "ID")]
    pub(super) id: NodeId,
    /// How much it holds, beside others: a node of weight 2 holds twice as much as one of weight 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(WEIGHT_MAX)))]
    pub(super) weight: Option<u16>,
    /// Copies of a key go to different zones first; "" for none
    #[arg(long, value_name = "ZONE")]
    pub(super) zone: Option<String>,
}

impl WishCommand {
    /// As it is typed behind `cluster`, quoted for a shell.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Join(IdsArgs { ids }) => format!("join {}", joined(ids, " ")),
            Self::Leave(IdsArgs { ids }) => format!("leave {}", joined(ids, " ")),
            Self::Remove(args) => {
                let loss = accepted(args.accept_loss);
                let force = if args.force { " --force" } else { "" };
                format!("remove {}{loss}{force}", joined(&args.ids, " "))
            }
            Self::Replace(args) => {
                let loss = accepted(args.accept_loss);
                format!("replace {} {}{loss}", args.old, args.new)
            }
            Self::Set(args) => {
                let mut words = format!("set {}", args.id);
                if let Some(weight) = args.weight {
                    words += &format!(" --weight {weight}");
                }
                if let Some(zone) = &args.zone {
                    words += &format!(" --zone {}", quoted(zone));
                }
                words
            }
            Self::Abort => "abort".to_owned(),
        }
    }

    /// Whether acknowledged writes may be lost.
    pub(super) fn accept_loss(&self) -> bool {
        match self {
            Self::Remove(args) => args.accept_loss,
            Self::Replace(args) => args.accept_loss,
            Self::Join(_) | Self::Leave(_) | Self::Set(_) | Self::Abort => false,
        }
    }

    /// Whether the node that is asked decides by itself.
    pub(super) fn is_forced(&self) -> bool {
        matches!(self, Self::Remove(RemoveArgs { force: true, .. }))
    }

    /// Who is to come in.
    pub(super) fn joining(&self) -> &[NodeId] {
        match self {
            Self::Join(args) => &args.ids,
            Self::Replace(args) => std::slice::from_ref(&args.new),
            Self::Leave(_) | Self::Remove(_) | Self::Set(_) | Self::Abort => &[],
        }
    }
}

fn accepted(loss: bool) -> &'static str {
    match loss {
        true => " --accept-loss",
        false => "",
    }
}

/// The names with this between them.
pub(super) fn joined(ids: &[NodeId], between: &str) -> String {
    let names: Vec<&str> = ids.iter().map(NodeId::as_str).collect();
    names.join(between)
}
