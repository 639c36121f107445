//! [driver] Counters and gauges of this node. Names are stable, and listed in `docs/operating.md`.

use super::NodeService;
use crate::node::exposition::{Exposition, Kind, OTHERS, PEERS_NAMED, thousandths};
use aber_log::env::Env;
use aber_log::partition::BEAT_LIMITS_MS;
use aber_log::relay::RelayState;
use aber_log::uplink::{Priority, UplinkState};
use aber_proto::generated::v1;
use aber_proto::{NodeId, PartitionId};
use std::collections::BTreeMap;

/// What people call a priority, in metrics and in `status`.
pub(super) fn class_of(priority: Priority) -> &'static str {
    match priority {
        Priority::Vital => "vital",
        Priority::Log => "log",
        Priority::Content => "content",
        Priority::CatchUp => "catch-up",
    }
}

impl<E: Env> NodeService<E> {
    pub(super) fn metrics(&self) -> v1::GetMetricsResponse {
        let mut text = Exposition::default();
        self.say_members(&mut text);
        self.say_traffic(&mut text);
        say_relay(&mut text, &self.node.parts.content.relay().look());
        self.say_store(&mut text);
        self.say_partitions(&mut text);
        let text = text.finish();
        v1::GetMetricsResponse { text }
    }

    fn say_members(&self, text: &mut Exposition) {
        let version = env!("CARGO_PKG_VERSION");
        text.family(
            "aber_build_info",
            Kind::Gauge,
            "The version of this program.",
        );
        text.sample(&[("version", version)], 1);
        let members = self.node.parts.members.get();
        let up = members.present().filter(|row| self.is_up(row.node)).count();
        let away = members.present_count().saturating_sub(up);
        text.family(
            "aber_members",
            Kind::Gauge,
            "Members, by what this node sees.",
        );
        text.sample(&[("state", "up")], up);
        text.sample(&[("state", "away")], away);
    }

    fn say_traffic(&self, text: &mut Exposition) {
        let mesh = &self.node.parts.mesh;
        let (state, peers) = (mesh.uplink().look(), mesh.peers());
        let named: Vec<NodeId> = peers.iter().copied().take(PEERS_NAMED).collect();
        let label = |peer: &NodeId| match named.contains(peer) {
            true => self.node.name_of(*peer),
            false => OTHERS.to_owned(),
        };
        let help = "Bytes of messages sent, by urgency and member.";
        text.family("aber_sent_bytes_total", Kind::Counter, help);
        let mut sent: BTreeMap<(String, Priority), u64> = BTreeMap::new();
        for peer in &peers {
            for priority in Priority::ALL {
                let bytes = state.sent_bytes.get(&(*peer, priority));
                *sent.entry((label(peer), priority)).or_default() += bytes.copied().unwrap_or(0);
            }
        }
        for ((peer, priority), bytes) in &sent {
            text.sample(&[("class", class_of(*priority)), ("peer", peer)], bytes);
        }
        let help = "Bytes of frames received, by member.";
        text.family("aber_received_bytes_total", Kind::Counter, help);
        let mut received: BTreeMap<String, u64> = BTreeMap::new();
        for peer in &peers {
            let bytes = mesh
                .link_state(*peer)
                .map_or(0, |state| state.received_bytes);
            *received.entry(label(peer)).or_default() += bytes;
        }
        for (peer, bytes) in &received {
            text.sample(&[("peer", peer)], bytes);
        }
        say_uplink(text, &state);
    }

    fn say_store(&self, text: &mut Exposition) {
        let parts = &self.node.parts;
        let help = "Changes of this node that are not ordered yet.";
        let waiting = parts.outbox.waiting().get();
        text.one(("aber_outbox_changes", Kind::Gauge), help, waiting);
        let help = "Bytes of content on this disk, history included.";
        let stored = parts.content.store().stored_bytes();
        text.one(("aber_store_bytes", Kind::Gauge), help, stored);
    }

    fn say_partitions(&self, text: &mut Exposition) {
        let parts = &self.node.parts;
        let applied = |id| parts.applied.get(&id).and_then(|at| at.get()).unwrap_or(0);
        let me = parts.config.me;
        let group = |id| parts.partitions.get(&id);
        if let Some(group) = parts.partitions.values().next() {
            let times = group.beat_times();
            text.histogram(
                "aber_heartbeat_seconds",
                "How long heartbeats of this node took to be answered.",
                (&BEAT_LIMITS_MS, &times.counts),
                u64::try_from(times.sum.as_millis()).unwrap_or(u64::MAX),
            );
        }
        let mut say = |name, help, of: &dyn Fn(PartitionId) -> u64| {
            text.family(name, Kind::Gauge, help);
            for id in parts.partitions.keys() {
                text.sample(&[("partition", &id.to_string())], of(*id));
            }
        };
        let help = "Raft's term: each election raises it.";
        say("aber_log_term", help, &|id| {
            group(id).map_or(0, |g| g.term())
        });
        let help = "Whether this node leads.";
        say("aber_log_leader", help, &|id| {
            u64::from(group(id).and_then(|g| g.leader()) == Some(me))
        });
        let help = "Whether a majority of the voters is here.";
        say("aber_log_majority", help, &|id| {
            u64::from(self.has_majority(id))
        });
        let help = "The last index that is committed, as known here.";
        say("aber_log_committed_index", help, &|id| {
            let committed = group(id).and_then(|g| g.committed().get());
            committed.map_or(0, |id| id.index)
        });
        say(
            "aber_log_applied_index",
            "The last index applied here.",
            &applied,
        );
    }
}

fn say_uplink(text: &mut Exposition, state: &UplinkState) {
    if let Some(rate) = state.rate {
        let help = "What is sent at most, in bits a second; absent without a limit.";
        let name = "aber_uplink_limit_bits_per_second";
        text.one((name, Kind::Gauge), help, rate);
    }
    let help = "Bytes that wait to be sent, by urgency.";
    text.family("aber_uplink_backlog_bytes", Kind::Gauge, help);
    for (priority, backlog) in &state.backlog {
        text.sample(&[("class", class_of(*priority))], backlog.bytes);
    }
    let help = "How long content that waits would take.";
    let seconds = thousandths(state.backlog_ms);
    text.one(("aber_uplink_backlog_seconds", Kind::Gauge), help, seconds);
}

fn say_relay(text: &mut Exposition, state: &RelayState) {
    let counts = &state.counts;
    let name = "aber_upload_copies_ratio";
    let help = "Copies of its own new content that this node sent; absent before there is any.";
    if let Some(copies) = counts.copies_thousandths() {
        text.one((name, Kind::Gauge), help, thousandths(copies));
    }
    for (name, help, bytes) in [
        (
            "aber_relay_own_bytes_total",
            "Bytes of own content that was announced, each chunk once.",
            counts.own_bytes,
        ),
        (
            "aber_relay_own_sent_bytes_total",
            "Bytes of own content that was sent and arrived.",
            counts.own_sent_bytes,
        ),
        (
            "aber_relay_passed_on_bytes_total",
            "Bytes of content of others that was passed on and arrived.",
            counts.passed_on_bytes,
        ),
        (
            "aber_relay_received_bytes_total",
            "Bytes of content that came while it was on its way.",
            counts.received_bytes,
        ),
        (
            "aber_relay_twice_bytes_total",
            "Those among them that were here already.",
            counts.twice_bytes,
        ),
        (
            "aber_relay_pulled_chunks_total",
            "Chunks asked for because their way was broken or they were late.",
            counts.pulled_count,
        ),
        (
            "aber_relay_bad_chunks_total",
            "Chunks that were not what they were said to be; none was kept.",
            counts.bad_count,
        ),
    ] {
        text.one((name, Kind::Counter), help, bytes);
    }
    let help = "Parcels that are remembered, by whether all of them is here.";
    text.family("aber_relay_parcels", Kind::Gauge, help);
    let complete = state.live_count.saturating_sub(state.incomplete_count);
    text.sample(&[("state", "complete")], complete);
    text.sample(&[("state", "incomplete")], state.incomplete_count);
    let only_here = &state.only_here;
    let help = "Bytes of own content that no other node has taken yet.";
    text.one(
        ("aber_content_only_here_bytes", Kind::Gauge),
        help,
        only_here.bytes,
    );
    let help = "Changes whose content no other node is known to hold.";
    let changes = only_here.changes_count;
    text.one(
        ("aber_content_only_here_changes", Kind::Gauge),
        help,
        changes,
    );
}
