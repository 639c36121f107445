//! [driver] The trees down which content and entries go, as this node computes them now.

use super::{NodeService, members, parse_path};
use crate::node::layout::layout_of;
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::Env;
use aber_log::relay::{Layout, Trees, content_trees, shallow_tree};
use aber_proto::generated::v1;
use aber_proto::generated::v1::get_relay_request::Of;
use aber_proto::{NodeId, PartitionId};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};

impl<E: Env> NodeService<E> {
    pub(super) fn relay(&self, request: &v1::GetRelayRequest) -> Answer<v1::GetRelayResponse> {
        let parts = &self.node.parts;
        let root = self.root_of(request.of.as_ref())?;
        let unknown =
            || Problem::new(Reason::MemberUnknown).with("member", self.node.name_of(root));
        let members = parts.members.get();
        let layout = layout_of(&members).ok_or_else(unknown)?;
        let trees = match &request.of {
            Some(Of::Partition(_)) => shallow_tree(&layout, root),
            _ => content_trees(&layout, root, &everybody(&layout)),
        };
        let trees = trees.ok_or_else(unknown)?;
        let rows = layout.members().iter().map(|row| {
            let (declared, usable) = members
                .member(row.id)
                .map_or((0, 0), |row| (row.uplink.up, row.usable_up));
            v1::RelayMember {
                name: self.node.name_of(row.id),
                uplink_bits_per_second: row.up_kbit.saturating_mul(1000),
                declared: declared > 0 || usable > 0,
                for_now: usable > 0,
                up: self.is_up(row.id),
            }
        });
        let stripes = (0..trees.stripes()).map(|stripe| v1::RelayTree {
            number: u32::try_from(stripe).unwrap_or(u32::MAX),
            edges: edges(&layout, &trees, stripe),
        });
        Ok(v1::GetRelayResponse {
            root: self.node.name_of(root),
            layout: Bytes::copy_from_slice(&layout.digest().0),
            members: rows.collect(),
            trees: stripes.collect(),
        })
    }

    fn root_of(&self, of: Option<&Of>) -> Result<NodeId, Problem> {
        let parts = &self.node.parts;
        let members = parts.members.get();
        let named = |name: &str| members::named(&members, name).map(|row| row.node);
        match of {
            None => Ok(parts.config.me),
            Some(Of::Writer(name)) if name.is_empty() => Ok(parts.config.me),
            Some(Of::Writer(name)) => named(name),
            Some(Of::Path(path)) => {
                let path = parse_path(path)?;
                let Some(node) = self.find(&path)? else {
                    return Err(Problem::new(Reason::NotAFile).with("path", path));
                };
                let mut item = super::render::item(path.to_string(), &node);
                self.add_writer(&mut item, &mut super::read::Writers::default());
                named(&item.author)
            }
            Some(Of::Partition(number)) => {
                let id = PartitionId(*number);
                let group = parts.partitions.get(&id);
                let group = group.ok_or_else(|| {
                    Problem::usage(format!(
                        "there is no partition {number}: aber status --verbose"
                    ))
                })?;
                let no_leader = || self.no_majority_problem(id);
                group.leader().ok_or_else(no_leader)
            }
        }
    }
}

/// Breadth first, so that a parent stands before its children. Members are named by their places:
/// the trees of the largest cluster fit one answer.
fn edges(layout: &Layout, trees: &Trees, stripe: usize) -> Vec<v1::RelayEdge> {
    let place = |node: NodeId| {
        let place = layout.members().partition_point(|row| row.id < node);
        u32::try_from(place).unwrap_or(u32::MAX)
    };
    let mut open = VecDeque::from([(trees.root(), 0)]);
    let mut edges = Vec::new();
    while let Some((parent, depth)) = open.pop_front() {
        for child in trees.children(stripe, parent) {
            open.push_back((child, depth + 1));
            edges.push(v1::RelayEdge {
                from: place(parent),
                to: place(child),
                depth: depth + 1,
            });
        }
    }
    edges
}

fn everybody(layout: &Layout) -> BTreeSet<NodeId> {
    layout.members().iter().map(|row| row.id).collect()
}
