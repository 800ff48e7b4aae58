//! The ring as `ring` and `dev` print it.

use dynakv_client::{MemberStatus, RingReply};
use dynakv_protocol::NodeId;
use serde::Serialize;

use crate::cli::output::{Format, Heading, Table, json_line};

#[derive(Serialize)]
pub(crate) struct RingSummary<'a> {
    version: u64,
    step: &'static str,
    cluster: &'a str,
    cluster_id: String,
    n: u8,
    w: u8,
    r: u8,
    total_nodes: usize,
    total_virtual_nodes: u32,
    members: Vec<RingMember<'a>>,
}

#[derive(Serialize)]
struct RingMember<'a> {
    id: &'a str,
    address: &'a str,
    weight: u16,
    zone: &'a str,
    virtual_nodes: u32,
    rebuilding_segments: u32,
}

impl<'a> RingSummary<'a> {
    pub(crate) fn new(ring: &'a RingReply, known: &[MemberStatus]) -> Self {
        let document = &ring.document;
        let members = document.members.iter().zip(&ring.addresses);
        let rebuilding = |id: &NodeId| {
            let member = known.iter().find(|member| member.id == *id);
            member.map_or(0, |member| member.rebuilding_segments)
        };
        Self {
            version: document.version.0,
            step: document.step.name(),
            cluster: &document.cluster_name,
            cluster_id: document.cluster_id.to_string(),
            n: document.n,
            w: document.w,
            r: document.r,
            total_nodes: document.members.len(),
            total_virtual_nodes: document.virtual_nodes(),
            members: members
                .map(|(member, address)| RingMember {
                    id: member.id.as_str(),
                    address,
                    weight: member.weight,
                    zone: &member.zone,
                    virtual_nodes: member.virtual_nodes(),
                    rebuilding_segments: rebuilding(&member.id),
                })
                .collect(),
        }
    }
}

/// The ring as `ring` and `dev` print it, with what is known of its members' losses.
pub(crate) fn ring_text(ring: &RingReply, known: &[MemberStatus], format: Format) -> String {
    let summary = RingSummary::new(ring, known);
    if format == Format::Json {
        return json_line(&summary);
    }
    let mut table = Table::new(&[
        Heading::Left("Id"),
        Heading::Left("Address"),
        Heading::Right("Weight"),
        Heading::Right("Virtual nodes"),
        Heading::Left("Zone"),
        Heading::Left("Rebuilding"),
    ]);
    for member in &summary.members {
        let zone = if member.zone.is_empty() {
            "-"
        } else {
            member.zone
        };
        table.push([
            member.id.to_owned(),
            member.address.to_owned(),
            member.weight.to_string(),
            member.virtual_nodes.to_string(),
            zone.to_owned(),
            match member.rebuilding_segments {
                0 => "-".to_owned(),
                segments => format!("{segments} segments"),
            },
        ]);
    }
    match format {
        Format::Table => format!(
            "ring {} of cluster {}: {} nodes, {} virtual nodes (n = {}, w = {}, r = {})\n\n{}",
            summary.version,
            summary.cluster,
            summary.total_nodes,
            summary.total_virtual_nodes,
            summary.n,
            summary.w,
            summary.r,
            table.aligned()
        ),
        Format::Json | Format::Plain => table.plain(),
    }
}
