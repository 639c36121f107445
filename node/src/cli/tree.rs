//! [adapter] `tree`: the trees down which content or entries go.

use super::{Context, Outcome, parse_path, print, rate};
use crate::reason::Problem;
use aber_proto::generated::v1::{self, get_relay_request::Of};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;

/// Arguments of `tree`.
#[derive(Args, Debug)]
pub(crate) struct TreeArgs {
    /// The content of whoever wrote what stands here [default: this node's]
    #[arg(value_name = "PATH", conflicts_with_all = ["partition", "writer"])]
    path: Option<String>,
    /// The entries of a partition, from its leader
    #[arg(long, value_name = "P", conflicts_with = "writer")]
    partition: Option<u32>,
    /// The content of a member
    #[arg(long, value_name = "NODE")]
    writer: Option<String>,
}

/// Runs `tree`.
pub(crate) async fn tree(context: &Context, args: TreeArgs) -> Outcome {
    let of = match (&args.path, args.partition, &args.writer) {
        (Some(path), ..) => Some(Of::Path(parse_path(path)?.to_string())),
        (None, Some(partition), _) => Some(Of::Partition(partition)),
        (None, None, Some(writer)) => Some(Of::Writer(writer.clone())),
        (None, None, None) => None,
    };
    let client = context.connect().await?;
    let relay = client.get_relay(v1::GetRelayRequest { of }).await?;
    let trees = named(&relay)?;
    if context.out.json {
        rows(context, &relay, &trees);
    }
    let depth = trees.iter().flat_map(|tree| &tree.edges);
    let depth = depth.map(|edge| edge.depth).max().unwrap_or(0);
    let value = json!({
        "root": relay.root,
        "partition": args.partition,
        "layout": print::hex(&relay.layout),
        "members_count": relay.members.len(),
        "trees_count": trees.len(),
        "depth": depth,
    });
    let text = drawn(&relay, &trees, args.partition)?;
    context.out.result(Some(text), value);
    Ok(0)
}

/// A tree with names.
struct Tree<'r> {
    number: u32,
    edges: Vec<Edge<'r>>,
}

#[derive(PartialEq, Eq)]
struct Edge<'r> {
    from: &'r str,
    to: &'r str,
    depth: u32,
}

fn named(relay: &v1::GetRelayResponse) -> Result<Vec<Tree<'_>>, Problem> {
    let name = |place: u32| {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let member = relay.members.get(place).map(|member| &*member.name);
        member.ok_or_else(|| Problem::internal("the node answered a tree with a stranger"))
    };
    let trees = relay.trees.iter().map(|tree| {
        let edges = tree.edges.iter().map(|edge| {
            Ok(Edge {
                from: name(edge.from)?,
                to: name(edge.to)?,
                depth: edge.depth,
            })
        });
        let edges = edges.collect::<Result<_, Problem>>()?;
        let number = tree.number;
        Ok(Tree { number, edges })
    });
    trees.collect()
}

fn rows(context: &Context, relay: &v1::GetRelayResponse, trees: &[Tree<'_>]) {
    for member in &relay.members {
        let value = json!({
            "name": member.name, "uplink_bits_per_second": member.uplink_bits_per_second,
            "declared": member.declared, "for_now": member.for_now, "up": member.up,
        });
        context.out.row("member", String::new, value);
    }
    for tree in trees {
        for edge in &tree.edges {
            let value = json!({
                "tree": tree.number, "from": edge.from, "to": edge.to,
                "depth": edge.depth,
            });
            context.out.row("edge", String::new, value);
        }
    }
}

/// A tree as it is drawn: children by their parent.
type Children<'r> = BTreeMap<&'r str, Vec<&'r str>>;

fn drawn(
    relay: &v1::GetRelayResponse,
    trees: &[Tree<'_>],
    partition: Option<u32>,
) -> Result<String, Problem> {
    let root = print::escape(&relay.root);
    let mut lines = vec![match partition {
        Some(partition) => format!("entries of partition {partition} go from {root}, which leads"),
        None if relay.members.len() < 2 => format!("content of {root} has nowhere to go"),
        None => format!(
            "content of {root} goes down {}, a part of it each",
            print::plural(trees.len() as u64, "tree")
        ),
    }];
    // Where few nodes are, many stripes have the same tree.
    let mut alike: Vec<(&Tree<'_>, Vec<u32>)> = Vec::new();
    for tree in trees {
        match alike
            .iter_mut()
            .find(|(known, _)| known.edges == tree.edges)
        {
            Some((_, numbers)) => numbers.push(tree.number),
            None => alike.push((tree, vec![tree.number])),
        }
    }
    alike.retain(|(tree, _)| !tree.edges.is_empty());
    let members = relay.members.iter();
    let members: BTreeMap<&str, _> = members.map(|member| (&*member.name, member)).collect();
    for (tree, numbers) in alike {
        if partition.is_none() {
            let numbers: Vec<String> = numbers.iter().map(|n| (n + 1).to_string()).collect();
            let noun = if numbers.len() == 1 { "tree" } else { "trees" };
            lines.push(format!("{noun} {}", numbers.join(", ")));
        }
        let mut children = Children::new();
        for edge in &tree.edges {
            children.entry(edge.from).or_default().push(edge.to);
        }
        draw(&mut lines, &relay.root, &children, &members)?;
        let is_in =
            |name: &str| name == relay.root || tree.edges.iter().any(|edge| edge.to == name);
        let out = relay.members.iter().filter(|member| !is_in(&member.name));
        let out: Vec<String> = out.map(|member| print::escape(&member.name)).collect();
        if !out.is_empty() {
            lines.push(format!("no link leads to {}", out.join(", ")));
        }
    }
    Ok(lines.join("\n"))
}

/// One tree, depth first. A node stands on one line, so there are no more lines than members.
fn draw(
    lines: &mut Vec<String>,
    root: &str,
    children: &Children<'_>,
    members: &BTreeMap<&str, &v1::RelayMember>,
) -> Result<(), Problem> {
    let mut open = vec![(root, String::new(), String::new())];
    let mut left = members.len();
    while let Some((name, head, below)) = open.pop() {
        left = left
            .checked_sub(1)
            .ok_or_else(|| Problem::internal("the node answered a tree with a circle"))?;
        let label = format!("{head}{}", print::escape(name));
        let of = members.get(name);
        lines.push(format!(
            "{label:<24} {}",
            of.map_or_else(String::new, |of| about(of))
        ));
        let under = children.get(name).map(Vec::as_slice).unwrap_or_default();
        for (at, child) in under.iter().enumerate().rev() {
            let (turn, line) = match at + 1 == under.len() {
                true => ("└─ ", "   "),
                false => ("├─ ", "│  "),
            };
            open.push((child, format!("{below}{turn}"), format!("{below}{line}")));
        }
    }
    Ok(())
}

fn about(member: &v1::RelayMember) -> String {
    let mut text = rate::text(member.uplink_bits_per_second);
    if member.for_now {
        text += " for now";
    } else if !member.declared {
        text += " supposed";
    }
    text += if member.up { "   up" } else { "   away" };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn member(name: &str, mbit: u64, declared: bool, up: bool) -> v1::RelayMember {
        let name = name.to_owned();
        let uplink_bits_per_second = mbit * 1_000_000;
        v1::RelayMember {
            name,
            uplink_bits_per_second,
            declared,
            for_now: false,
            up,
        }
    }

    /// Enora is 0, gwen 1, malo 2, yann 3.
    fn tree(number: u32, edges: &[(u32, u32, u32)]) -> v1::RelayTree {
        let edges = edges.iter().copied();
        let edges = edges.map(|(from, to, depth)| v1::RelayEdge { from, to, depth });
        let edges = edges.collect();
        v1::RelayTree { number, edges }
    }

    fn relay(trees: Vec<v1::RelayTree>) -> v1::GetRelayResponse {
        v1::GetRelayResponse {
            root: "enora".to_owned(),
            members: vec![
                member("enora", 1, true, true),
                member("gwen", 8, true, true),
                member("malo", 2, false, false),
                member("yann", 1, true, true),
            ],
            trees,
            ..Default::default()
        }
    }

    fn drawn_of(relay: &v1::GetRelayResponse, partition: Option<u32>) -> Result<String, Problem> {
        drawn(relay, &named(relay)?, partition)
    }

    #[test]
    fn equal_trees_are_drawn_once_and_who_is_in_none_is_named() {
        let chain = [(0, 1, 1), (1, 2, 2), (1, 3, 2)];
        let trees = vec![
            tree(0, &chain),
            tree(1, &[(0, 3, 1), (3, 1, 2)]),
            tree(2, &chain),
        ];
        let text = drawn_of(&relay(trees), None).expect("trees");
        expect![[r"
            content of enora goes down 3 trees, a part of it each
            trees 1, 3
            enora                    1 Mbit/s   up
            └─ gwen                  8 Mbit/s   up
               ├─ malo               2 Mbit/s supposed   away
               └─ yann               1 Mbit/s   up
            tree 2
            enora                    1 Mbit/s   up
            └─ yann                  1 Mbit/s   up
               └─ gwen               8 Mbit/s   up
            no link leads to malo"]]
        .assert_eq(&text);
    }

    #[test]
    fn a_circle_is_an_error_and_not_for_ever() {
        let circle = tree(0, &[(0, 1, 1), (1, 0, 2)]);
        assert!(drawn_of(&relay(vec![circle]), Some(1)).is_err());
        let stranger = tree(0, &[(0, 4, 1)]);
        assert!(drawn_of(&relay(vec![stranger]), Some(1)).is_err());
    }

    #[test]
    fn alone_there_is_nowhere_to_go() {
        let mut alone = relay(vec![tree(0, &[]), tree(1, &[])]);
        alone.members.truncate(1);
        let text = drawn_of(&alone, None).expect("no trees");
        assert_eq!(text, "content of enora has nowhere to go");
    }
}
