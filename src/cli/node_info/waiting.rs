//! What `status` says of nodes that want in and wait for an operator.

use dynakv_client::StatusReply;
use dynakv_protocol::ring_document::Member;
use serde::Serialize;

use crate::cli::prompt::Prompt;

/// One of them, in JSON.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Waiting<'a> {
    id: &'a str,
    address: &'a str,
    weight: u16,
    zone: &'a str,
}

impl<'a> Waiting<'a> {
    pub(in crate::cli) fn of(member: &'a Member) -> Self {
        Self {
            id: member.id.as_str(),
            address: &member.address,
            weight: member.weight,
            zone: &member.zone,
        }
    }
}

/// All of them for people, each with the command that lets it in.
pub(super) fn text(status: &StatusReply, prompt: &Prompt) -> String {
    let line = |member: &Member| {
        let (id, address) = (&member.id, &member.address);
        let next = prompt.command(&format!("cluster join {id}"));
        format!("dynakv: {id} at {address} waits to be let in\n  next: {next}\n")
    };
    status.waiting.iter().map(line).collect()
}
