//! [driver] Links to other members, as this node knows them.

use super::members::skew_message;
use super::{NodeService, render};
use aber_log::env::network::{LinkProblem, Network};
use aber_log::env::{Env, Runtime};
use aber_proto::generated::v1;

/// Said while no try to open a link has ended.
const NOT_TRIED: &str = "no try has ended yet";

/// What a link's problem says, without naming the node again.
pub(super) fn why_not(problem: &LinkProblem) -> String {
    match problem {
        LinkProblem::Unreachable { why, .. } => why.clone(),
        LinkProblem::Refused { why, .. } | LinkProblem::NotAMember { why, .. } => {
            format!("it refused: {why}")
        }
        LinkProblem::Closed => "the link broke".to_owned(),
    }
}

impl<E: Env> NodeService<E> {
    pub(super) fn links(&self) -> v1::ListLinksResponse {
        let parts = &self.node.parts;
        let now = parts.env.runtime().wall_clock();
        let mut sightings = parts.sightings.get();
        let links = parts.mesh.peers().into_iter().filter_map(|node| {
            let state = parts.mesh.link_state(node)?;
            let sighting = sightings.remove(&node);
            let why_not = match &state.problem {
                _ if state.is_up && state.is_content_up => String::new(),
                Some(problem) => why_not(problem),
                None => NOT_TRIED.to_owned(),
            };
            let seen = sighting.as_ref().map(|sighting| sighting.seen);
            let round_trip = sighting.as_ref().map(|sighting| sighting.round_trip);
            Some(v1::MemberLink {
                name: self.node.name_of(node),
                id: node.0,
                up: state.is_up,
                content_up: state.is_content_up,
                why_not,
                round_trip: round_trip.and_then(|time| time.try_into().ok()),
                address: parts.env.network().reached_at(node).unwrap_or_default(),
                sent_bytes: state.sent_bytes,
                received_bytes: state.received_bytes,
                last_seen_time: if state.is_up { Some(now) } else { seen }
                    .map(render::stamp_message),
                clock_skew: sighting.and_then(|seen| seen.skew_ms).map(skew_message),
            })
        });
        v1::ListLinksResponse {
            links: links.collect(),
        }
    }
}
