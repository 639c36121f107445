//! Members, links and tickets of the fake node.

use super::answers;
use aber_node::reason::{Problem, Reason};
use aber_node::service::{Answer, Answers};
use aber_proto::generated::v1::{self, MemberState, Role, TicketState};

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: 1_763_812_800 + seconds,
        nanos: 0,
    })
}

/// One of each kind.
pub fn all() -> Vec<v1::Member> {
    let member = |id: u64, name: &str, role: Role, state: MemberState| {
        let mut member = v1::Member {
            id,
            name: name.to_owned(),
            key: vec![u8::try_from(id).expect("small"); 32].into(),
            voter_eligible: true,
            addresses: vec![format!("[fd42::{id}]:7787")],
            version: "0.1.0".to_owned(),
            ..Default::default()
        };
        member.set_role(role);
        member.set_state(state);
        member
    };
    vec![
        v1::Member {
            votes_in: vec![0, 1, 2, 3],
            leads: vec![0, 2],
            ..member(1, "enora", Role::Admin, MemberState::Up)
        },
        v1::Member {
            last_seen_time: at(0),
            admitted_index: 7,
            uplink_bits_per_second: 1_000_000,
            downlink_bits_per_second: 819_200,
            neighbours: vec!["enora".to_owned(), "yann".to_owned()],
            clock_skew: Some(prost_types::Duration {
                seconds: -1,
                nanos: -500_000_000,
            }),
            ..member(7, "gwen", Role::Writer, MemberState::Away)
        },
        v1::Member {
            voter_eligible: false,
            entries_behind: 1200,
            addresses: vec![],
            version: String::new(),
            ..member(9, "phone", Role::Reader, MemberState::CatchingUp)
        },
        v1::Member {
            removed_index: 31,
            addresses: vec!["\u{1b}[2J:1".to_owned()],
            ..member(12, "old", Role::Writer, MemberState::Removed)
        },
    ]
}

pub fn list(request: &v1::ListMembersRequest) -> v1::ListMembersResponse {
    // Pages of two, so that callers must turn them.
    let after: u64 = request.page_token.parse().unwrap_or(0);
    let is_shown = |member: &v1::Member| {
        member.id > after && (request.with_removed || member.removed_index == 0)
    };
    let mut members: Vec<_> = all().into_iter().filter(is_shown).collect();
    let next = members.get(2).map(|_| members[1].id.to_string());
    members.truncate(2);
    v1::ListMembersResponse {
        members,
        next_page_token: next.unwrap_or_default(),
        ..Default::default()
    }
}

fn committed() -> Option<v1::WriteResult> {
    let mut result = v1::WriteResult {
        entry: Some(v1::EntryId {
            partition: 0,
            index: 42,
        }),
        ..Default::default()
    };
    result.set_acknowledgement(v1::Acknowledgement::Committed);
    Some(result)
}

fn named(name: &str) -> Result<v1::Member, Problem> {
    let found = all().into_iter().find(|member| member.name == name);
    match found {
        None => Err(Problem::new(Reason::MemberUnknown).with("member", name)),
        Some(member) if member.removed_index > 0 => Err(Problem::new(Reason::MemberRemoved)
            .with("member", name)
            .with("entry", "0:31")),
        Some(member) => Ok(member),
    }
}

pub fn update(request: &v1::UpdateMemberRequest) -> Answer<v1::UpdateMemberResponse> {
    let mut member = named(&request.name)?;
    let wanted = request.member.clone().expect("the command sets it");
    for field in &request.update_mask {
        match field.as_str() {
            "name" if wanted.name == "enora" => {
                return Err(Problem::new(Reason::NameTaken).with("name", "enora"));
            }
            "name" => member.name.clone_from(&wanted.name),
            "role" if request.name == "enora" => {
                return Err(Problem::new(Reason::LastAdmin).with("member", "enora"));
            }
            "role" => member.role = wanted.role,
            "voter_eligible" => member.voter_eligible = wanted.voter_eligible,
            "addresses" => member.addresses.clone_from(&wanted.addresses),
            "neighbours" => member.neighbours.clone_from(&wanted.neighbours),
            "uplink_bits_per_second" => {
                member.uplink_bits_per_second = wanted.uplink_bits_per_second;
            }
            "downlink_bits_per_second" => {
                member.downlink_bits_per_second = wanted.downlink_bits_per_second;
            }
            other => panic!("{other} is no field"),
        }
    }
    let mut result = committed();
    if request.name == "phone" {
        result = Some(v1::WriteResult {
            acknowledgement: v1::Acknowledgement::Queued.into(),
            waiting_for: Some(v1::Notice {
                what: "the change is not ordered yet".to_owned(),
                why: "too many voters are away".to_owned(),
                mend: "it lands by itself".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        });
    }
    Ok(v1::UpdateMemberResponse {
        member: Some(member),
        result,
    })
}

pub fn links() -> v1::ListLinksResponse {
    let link = |id: u64, name: &str| v1::MemberLink {
        id,
        name: name.to_owned(),
        ..Default::default()
    };
    v1::ListLinksResponse {
        links: vec![
            v1::MemberLink {
                up: true,
                content_up: true,
                round_trip: Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 12_345_678,
                }),
                address: "[fd42::1]:7787".to_owned(),
                sent_bytes: 43_201_331,
                received_bytes: 512,
                ..link(1, "enora")
            },
            v1::MemberLink {
                why_not: "it refused: node 7 must upgrade".to_owned(),
                ..link(7, "gwen")
            },
        ],
    }
}

pub fn tickets() -> v1::ListTicketsResponse {
    let ticket = |digit: &str, state: TicketState| {
        let mut ticket = v1::Ticket {
            id: digit.repeat(64),
            voter_eligible: true,
            inviter: "enora".to_owned(),
            expire_time: at(86_400),
            ..Default::default()
        };
        ticket.set_role(Role::Writer);
        ticket.set_state(state);
        ticket
    };
    v1::ListTicketsResponse {
        tickets: vec![
            v1::Ticket {
                used_by: "gwen".to_owned(),
                use_time: at(60),
                ..ticket("1", TicketState::Used)
            },
            v1::Ticket {
                node_name: "phone".to_owned(),
                voter_eligible: false,
                ..ticket("a", TicketState::Open)
            },
            ticket("b", TicketState::Expired),
        ],
        next_page_token: String::new(),
    }
}

pub fn revoke(request: &v1::RevokeTicketRequest) -> Answer<v1::RevokeTicketResponse> {
    let starts = |ticket: &v1::Ticket| ticket.id.starts_with(&request.id);
    let found = tickets().tickets.into_iter().find(starts);
    let unknown = || Problem::new(Reason::TicketUnknown).with("ticket", &request.id);
    let mut ticket = found.ok_or_else(unknown)?;
    if ticket.state() == TicketState::Used {
        return Err(Problem::new(Reason::TicketUsed)
            .with("usedBy", &ticket.used_by)
            .with("usedAt", "2025-11-22T12:01:00Z")
            .with("inviter", "enora"));
    }
    ticket.set_state(TicketState::Revoked);
    ticket.revoked_by = "yann".to_owned();
    ticket.revoke_time = at(120);
    Ok(v1::RevokeTicketResponse {
        ticket: Some(ticket),
        result: committed(),
    })
}

pub fn plan(request: &v1::PlanRemovalRequest) -> Answer<v1::PlanRemovalResponse> {
    let member = named(&request.member)?;
    if member.name == "enora" {
        return Err(Problem::new(Reason::LastAdmin).with("member", "enora"));
    }
    if member.name == "phone" && !request.accept_loss {
        return Err(Problem::new(Reason::LastCopy)
            .with("node", "phone")
            .with("bytes", 4096));
    }
    let plan = v1::Plan {
        id: "8hd2-x0mk".to_owned(),
        expire_time: at(3600),
        lines: vec!["- it leaves the cluster for good".to_owned()],
        warnings: vec![v1::Notice {
            code: "OUTBOX_LOST".to_owned(),
            what: "changes in its outbox are lost to the others".to_owned(),
            why: "nothing that a removed member sends is ordered".to_owned(),
            mend: "look first: aber status".to_owned(),
            ..Default::default()
        }],
    };
    Ok(v1::PlanRemovalResponse {
        plan: Some(plan),
        copy_bytes: 0,
    })
}

pub fn apply(
    request: &v1::ApplyClusterPlanRequest,
) -> Answer<Answers<v1::ApplyClusterPlanResponse>> {
    use v1::apply_cluster_plan_response::Message;
    if request.plan_id != "8hd2-x0mk" {
        return Err(Problem::new(Reason::PlanUnknown).with("plan", &request.plan_id));
    }
    let result = v1::ClusterPlanResult {
        result: committed(),
        still_votes_in: vec![2],
    };
    Ok(answers(vec![v1::ApplyClusterPlanResponse {
        message: Some(Message::Result(result)),
    }]))
}

/// Content of yann goes down two trees; nobody leads partition 7.
pub fn relay(request: &v1::GetRelayRequest) -> Answer<v1::GetRelayResponse> {
    use v1::get_relay_request::Of;
    let tree = |number, edges: &[(u32, u32, u32)]| {
        let edges = edges.iter().copied();
        let edges = edges.map(|(from, to, depth)| v1::RelayEdge { from, to, depth });
        let edges = edges.collect();
        v1::RelayTree { number, edges }
    };
    let member = |name: &str, mbit: u64, declared| v1::RelayMember {
        name: name.to_owned(),
        uplink_bits_per_second: mbit * 1_000_000,
        declared,
        for_now: name == "gwen",
        up: name != "gwen",
    };
    let chain = tree(0, &[(2, 0, 1), (0, 1, 2)]);
    let other = tree(1, &[(2, 1, 1), (1, 0, 2)]);
    let trees = match &request.of {
        Some(Of::Partition(7)) => {
            let problem = Problem::new(Reason::NoMajority).with("partition", 7);
            return Err(problem.with("votersUp", 1).with("votersNeeded", 2));
        }
        Some(Of::Partition(_)) => vec![chain],
        Some(Of::Writer(name)) if name != "yann" => {
            return Err(Problem::new(Reason::MemberUnknown).with("member", name));
        }
        _ => vec![chain, other],
    };
    Ok(v1::GetRelayResponse {
        root: "yann".to_owned(),
        layout: vec![0xab; 32].into(),
        members: vec![
            member("enora", 8, true),
            member("gwen", 1, false),
            member("yann", 2, true),
        ],
        trees,
    })
}

/// A slow line that content waits for.
pub fn uplink() -> v1::Uplink {
    let priority = |name: &str, waiting_bytes, sent_bytes| v1::UplinkPriority {
        name: name.to_owned(),
        waiting_count: u64::from(waiting_bytes > 0),
        waiting_bytes,
        sent_bytes,
    };
    v1::Uplink {
        bits_per_second: 1_100_000,
        backlog: Some(prost_types::Duration {
            seconds: 75,
            nanos: 0,
        }),
        priorities: vec![
            priority("vital", 0, 1024),
            priority("log", 0, 2048),
            priority("content", 10_312_500, 95_000),
            priority("catch-up", 0, 0),
        ],
    }
}
