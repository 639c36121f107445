//! Trees of all kinds: the golden ones, what holds for any, and how long content takes down them.

use super::testing::{all, bound_ns, circle, community, layout, mixed, pairs, run, straggler};
use super::*;
use proptest::prelude::*;

const SIZES: [usize; 4] = [8, 50, 500, 5000];

/// Every member that links lead to and somebody needs has one parent in each tree, over a link, and
/// there is no cycle; nobody else is in it.
fn check_spans(layout: &Layout, trees: &Trees, wanting: &BTreeSet<NodeId>) {
    let any_to_any = layout.near().is_none();
    for stripe in 0..trees.stripes() {
        let mut inside = BTreeSet::from([trees.root()]);
        assert_eq!(trees.parent(stripe, trees.root()), None);
        let mut queue = vec![(trees.root(), 0)];
        while let Some((node, depth)) = queue.pop() {
            assert_eq!(trees.depth(stripe, node), Some(depth));
            let children = trees.children(stripe, node);
            assert_eq!(children.len() > 0, trees.is_interior(stripe, node));
            assert!(children.len() > 0 || wanting.contains(&node) || node == trees.root());
            for child in children {
                assert!(inside.insert(child), "{child} has two parents");
                assert_eq!(trees.parent(stripe, child), Some(node));
                assert!(layout.is_linked(node, child), "{node} to {child}");
                assert!(!any_to_any || wanting.contains(&child));
                queue.push((child, depth + 1));
            }
        }
        assert!(wanting.is_subset(&inside), "stripe {stripe} does not span");
        for row in layout.members() {
            let parent = trees.parent(stripe, row.id);
            assert!(parent.is_none() || inside.contains(&row.id));
        }
    }
}

fn content(layout: &Layout, writer: u64) -> Trees {
    content_trees(layout, NodeId(writer), &all(layout)).expect("the writer is a member")
}

fn shallow(layout: &Layout, root: u64) -> Trees {
    shallow_tree(layout, NodeId(root)).expect("the root is a member")
}

fn children(trees: &Trees, node: NodeId) -> u64 {
    let counts = (0..trees.stripes()).map(|stripe| trees.children(stripe, node).len() as u64);
    counts.sum()
}

fn interior_in(trees: &Trees, node: NodeId) -> usize {
    let stripes = 0..trees.stripes();
    stripes.filter(|s| trees.is_interior(*s, node)).count()
}

/// T1: trees are a protocol. If this fails, nodes of two versions do not understand each other.
#[test]
fn golden_trees_do_not_change() {
    let any = |ups: &[u64]| layout(ups, &Links::Any);
    let ring = layout(&[1000; 12], &circle());
    let found = [
        content(&any(&[1000; 8]), 0).digest(),
        content(&any(&[1000; 50]), 3).digest(),
        content(&any(&mixed(50)), 3).digest(),
        shallow(&any(&mixed(50)), 0).digest(),
        content(&ring, 0).digest(),
        shallow(&ring, 0).digest(),
    ];
    assert_eq!(found.map(|digest| format!("{digest:016x}")), GOLDEN);
}

/// The values of `docs/protocol.md`, in its order.
const GOLDEN: [&str; 6] = [
    "0568e113c5505ccc",
    "50fd1a4277a06383",
    "09fb4eaf00bffe39",
    "727840f4d03c882c",
    "edd589aff5051005",
    "a88f5601ad5b46c7",
];

/// The mixes of uplinks that figures are given for, each with the writers that differ.
fn mixes(nodes: usize) -> Vec<(Layout, u64)> {
    let any = |ups: &[u64]| layout(ups, &Links::Any);
    vec![
        (any(&vec![1000; nodes]), 0),
        (any(&mixed(nodes)), 0),
        (any(&mixed(nodes)), 3),
        (any(&straggler(nodes)), 0),
    ]
}

/// T2: any to any.
#[test]
fn every_receiver_is_in_every_stripe() {
    for (layout, writer) in SIZES.into_iter().flat_map(mixes) {
        check_spans(&layout, &content(&layout, writer), &all(&layout));
        check_spans(&layout, &shallow(&layout, writer), &all(&layout));
    }
}

/// T3: nobody's load is more than 15 % above what an equal share by uplink would be.
#[test]
fn load_is_in_proportion_to_uplinks() {
    for (layout, writer) in SIZES.into_iter().flat_map(mixes) {
        let trees = content(&layout, writer);
        let receivers = || layout.members().iter().filter(|row| row.id.0 != writer);
        let total: u64 = receivers().map(|row| row.up_kbit).sum();
        let need = trees.stripes() as u64 * (receivers().count() as u64 - 1);
        for row in receivers() {
            let found = children(&trees, row.id);
            assert!(
                100 * found * total <= 115 * need * row.up_kbit,
                "{} of {need} for {row:?}, writer {writer}",
                found
            );
        }
    }
}

/// T4: where uplinks are equal, a node that fails costs one stripe. Only the last whose budgets are
/// spent, fewer than there are stripes, get theirs from several: what no stripe has whole any more.
/// The writer has one child a stripe.
#[test]
fn equal_nodes_pass_on_in_one_stripe() {
    for nodes in (2..60).chain(SIZES) {
        let layout = layout(&vec![1000; nodes], &Links::Any);
        let trees = content(&layout, 0);
        assert_eq!(children(&trees, NodeId(0)), trees.stripes() as u64);
        let receivers = layout.members().iter().skip(1);
        let split = receivers.filter(|row| interior_in(&trees, row.id) > 1);
        let split = split.count();
        assert!(split < trees.stripes(), "{split} of {nodes} nodes");
    }
}

/// T2 on graphs: trees go along links, and reach all that links reach.
#[test]
fn trees_on_graphs_span_along_links() {
    for (nodes, seed) in [(8, 1), (50, 1), (50, 2), (50, 3), (500, 1)] {
        for ups in [vec![1000; nodes], mixed(nodes)] {
            let layout = layout(&ups, &community(nodes as u64, seed));
            check_spans(&layout, &content(&layout, 3), &all(&layout));
            check_spans(&layout, &shallow(&layout, 3), &all(&layout));
        }
    }
}

/// T1: the local search remembers who has no move. It must look again at those above a node that
/// lost a child, who may give to its subtree then: without that it is wrong on each of these graphs, and
/// notices where debug assertions are on.
#[test]
fn who_had_no_move_is_looked_at_again() {
    for (seed, nodes, writer) in [(63, 60, 3), (123, 33, 24), (228, 62, 42), (609, 48, 33)] {
        let layout = layout(&vec![1000; nodes], &community(nodes as u64, seed));
        check_spans(&layout, &content(&layout, writer), &all(&layout));
    }
    for (seed, nodes, writer) in [(313, 24, 1), (811, 48, 43), (841, 31, 4), (1213, 54, 25)] {
        let layout = layout(&mixed(nodes), &community(nodes as u64, seed));
        check_spans(&layout, &content(&layout, writer), &all(&layout));
    }
}

/// T2: the largest graph, once.
#[test]
fn the_largest_graph_is_spanned() {
    let layout = layout(&[1000; 5000], &community(5000, 1));
    check_spans(&layout, &content(&layout, 0), &all(&layout));
    check_spans(&layout, &shallow(&layout, 0), &all(&layout));
}

#[test]
fn whom_no_link_reaches_has_no_parent() {
    let links = pairs([(0, 1), (1, 2), (3, 4)].into_iter());
    let layout = layout(&[1000; 6], &links);
    for trees in [content(&layout, 0), shallow(&layout, 0)] {
        for stripe in 0..trees.stripes() {
            let depths = (0..6).map(|id| trees.depth(stripe, NodeId(id)));
            let expected = [Some(0), Some(1), Some(2), None, None, None];
            assert_eq!(depths.collect::<Vec<_>>(), expected);
            assert_eq!(trees.parent(stripe, NodeId(4)), None);
            assert!(!trees.is_interior(stripe, NodeId(3)));
        }
    }
}

/// T14: a metered line and one without an uplink send nothing, not even where all the others need
/// it; whoever else there is carries them.
#[test]
fn a_node_without_uplink_is_a_leaf() {
    for nodes in SIZES {
        let row = |id: u64| Row {
            id: NodeId(id),
            up_kbit: if id == 1 { 0 } else { 1000 },
            relay_ok: id != 2,
        };
        let rows = (0..nodes as u64).map(row).collect();
        let layout = Layout::new(7, rows, &Links::Any).expect("good");
        let trees = content(&layout, 0);
        check_spans(&layout, &trees, &all(&layout));
        let entries = shallow(&layout, 0);
        for leaf in [NodeId(1), NodeId(2)] {
            assert_eq!(children(&trees, leaf) + children(&entries, leaf), 0);
        }
    }
}

/// T14: a line of three is the graph that leaves no other way.
#[test]
fn a_node_without_uplink_passes_on_where_only_it_can() {
    let links = pairs([(0, 1), (1, 2)].into_iter());
    let layout = layout(&[1000, 0, 1000], &links);
    for trees in [content(&layout, 0), shallow(&layout, 0)] {
        assert!((0..trees.stripes()).all(|s| trees.is_interior(s, NodeId(1))));
    }
}

#[test]
fn odd_questions_have_answers() {
    let layout = layout(&[1000; 5], &Links::Any);
    let stranger = NodeId(77);
    assert_eq!(content_trees(&layout, stranger, &all(&layout)), None);
    assert_eq!(shallow_tree(&layout, stranger), None);
    let trees = content(&layout, 0);
    assert_eq!(trees.parent(0, stranger), None);
    assert_eq!(trees.depth(0, stranger), None);
    assert_eq!(trees.children(0, stranger).len(), 0);
    for wanting in [BTreeSet::new(), BTreeSet::from([NodeId(0), stranger])] {
        let trees = content_trees(&layout, NodeId(0), &wanting).expect("a member");
        assert_eq!(trees.stripes(), 8);
        assert_eq!(children(&trees, NodeId(0)), 0);
    }
    let one = BTreeSet::from([NodeId(3)]);
    let trees = content_trees(&layout, NodeId(0), &one).expect("a member");
    check_spans(&layout, &trees, &one);
}

/// A writer alone, one pair, and everybody without an uplink: nothing to divide by.
#[test]
fn the_smallest_and_the_poorest_have_trees() {
    for nodes in 1..6 {
        for up in [0, 1, u64::MAX] {
            let layout = layout(&vec![up; nodes], &Links::Any);
            check_spans(&layout, &content(&layout, 0), &all(&layout));
            check_spans(&layout, &shallow(&layout, 0), &all(&layout));
            let links = pairs((1..nodes as u64).map(|id| (id - 1, id)));
            let layout = testing::layout(&vec![up; nodes], &links);
            check_spans(&layout, &content(&layout, 0), &all(&layout));
        }
    }
}

/// The largest sums: no overflow, which would panic here.
#[test]
fn the_fastest_lines_of_the_largest_cluster_add_up() {
    let mut ups = vec![u64::MAX; 5000];
    ups[17] = 1;
    let layout = layout(&ups, &Links::Any);
    check_spans(&layout, &content(&layout, 17), &all(&layout));
    check_spans(&layout, &content(&layout, 0), &all(&layout));
    check_spans(&layout, &shallow(&layout, 0), &all(&layout));
}

#[test]
fn stripes_turn_from_parcel_to_parcel_and_take_turns_within() {
    let begins: BTreeSet<usize> = (0..100).map(|part| stripe_of(&[5, part], 0, 8)).collect();
    assert_eq!(begins.len(), 8);
    let first = stripe_of(&[1, 2, 3], 0, 16);
    assert_eq!((fold([1, 2, 3]) % 16) as usize, first);
    for (chunk, turn) in (0..256).zip(first..) {
        assert_eq!(stripe_of(&[1, 2, 3], chunk, 16), turn % 16);
    }
}

/// Sends `mib` in chunks of 64 KiB; answers the permille of the bound that it took, and of copies
/// that the writer sent. T5: everybody has everything, and nothing came twice.
fn send(ups: &[u64], writer: u64, mib: u64) -> (u64, u64) {
    let (layout, chunks) = (layout(ups, &Links::Any), mib * 16);
    let outcome = run(&layout, &content(&layout, writer), chunks, 64 * 1024);
    assert_eq!((outcome.complete, outcome.duplicates), (ups.len() - 1, 0));
    let bound = bound_ns(&layout, NodeId(writer), mib << 20);
    let copies = outcome.sent[&NodeId(writer)] * 1000 / chunks;
    (outcome.all_ns * 1000 / bound, copies)
}

/// T5, and the figures the trees were chosen for: time against the bound, copies of the writer.
#[test]
fn content_takes_little_longer_than_the_uplinks_allow() {
    let equal = |nodes: usize| vec![1000; nodes];
    for (nodes, most) in [(8, 1060), (16, 1060), (50, 1060), (500, 1100)] {
        let (took, copies) = send(&equal(nodes), 0, 16);
        assert!(took <= most, "{nodes} nodes took {took} permille");
        assert!(copies <= 1010, "{nodes}: the writer sent {copies} permille");
    }
    let (took, copies) = send(&mixed(50), 0, 64);
    assert!(took <= 1050 && copies <= 1010, "slow: {took}, {copies}");
    let (took, _) = send(&mixed(50), 3, 64);
    assert!(took <= 1120, "a fast writer took {took} permille");
    let (took, copies) = send(&straggler(50), 0, 64);
    assert!(
        took <= 1050 && copies <= 1010,
        "straggler: {took}, {copies}"
    );
}

/// T5 on graphs: whoever passes on what it does not need, everybody gets everything, once. Where the
/// links are even, it takes no longer than where anybody may link to any.
#[test]
fn content_on_a_graph_comes_once() {
    for (layout, chunks) in [
        (layout(&[1000; 12], &circle()), 1024),
        (layout(&[1000; 50], &community(50, 1)), 256),
        (layout(&mixed(50), &community(50, 2)), 256),
    ] {
        let nodes = layout.members().len();
        let outcome = run(&layout, &content(&layout, 0), chunks, 64 * 1024);
        assert_eq!((outcome.complete, outcome.duplicates), (nodes - 1, 0));
        if nodes == 12 {
            let bound = bound_ns(&layout, NodeId(0), chunks * 64 * 1024);
            assert!(outcome.all_ns * 100 <= bound * 103, "{outcome:?}, {bound}");
        }
    }
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let up = prop_oneof![1 => Just(0), 4 => Just(1000_u64), 4 => 1..30_000_u64];
    let row = (any::<u64>(), up, prop::bool::weighted(0.9));
    prop::collection::vec(row, 1..40).prop_map(|rows| {
        let rows: std::collections::BTreeMap<u64, Row> = rows
            .into_iter()
            .map(|(id, up_kbit, relay_ok)| {
                let id = NodeId(id);
                (
                    id.0,
                    Row {
                        id,
                        up_kbit,
                        relay_ok,
                    },
                )
            })
            .collect();
        rows.into_values().collect()
    })
}

/// Links that connect all rows: a random tree, and some more.
fn links_of(rows: &[Row], dice: u64) -> Links {
    // Node `at` or one before it, of those that are `at` at most.
    let before = |at: u64, salt: u64| mix(dice ^ mix(at ^ salt << 32)) % at;
    let ids: Vec<u64> = rows.iter().map(|row| row.id.0).collect();
    let id = |at: u64| ids[usize::try_from(at).expect("small")];
    let count = ids.len() as u64;
    let tree = (1..count).map(|at| (id(at), id(before(at, 1))));
    let more = (1..count).map(|at| (id(before(at, 2)), id(at)));
    pairs(tree.chain(more))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// T1, T2, T14 for whatever members there are, in whatever order they are told.
    #[test]
    fn any_members_have_the_same_sound_trees_everywhere(
        rows in rows(), number: u64, writer: prop::sample::Index, turn: prop::sample::Index, few: u64,
    ) {
        let layout = Layout::new(number, rows.clone(), &Links::Any).expect("good");
        let mut turned = rows.clone();
        turned.reverse();
        turned.rotate_left(turn.index(rows.len()));
        let other = Layout::new(number, turned, &Links::Any).expect("good");
        let writer = rows[writer.index(rows.len())].id;
        let wanting = rows.iter().map(|row| row.id).filter(|id| !mix(few ^ id.0).is_multiple_of(3));
        let wanting: BTreeSet<NodeId> = wanting.collect();
        for wanting in [wanting, all(&layout)] {
            let trees = content_trees(&layout, writer, &wanting).expect("a member");
            prop_assert_eq!(&trees, &content_trees(&other, writer, &wanting).expect("a member"));
            check_spans(&layout, &trees, &wanting);
            for row in rows.iter().filter(|row| row.id != writer && (row.up_kbit == 0 || !row.relay_ok)) {
                prop_assert_eq!(children(&trees, row.id), 0);
            }
        }
        let entries = shallow_tree(&layout, writer).expect("a member");
        prop_assert_eq!(&entries, &shallow_tree(&other, writer).expect("a member"));
        check_spans(&layout, &entries, &all(&layout));
    }

    /// T1 and T2 on graphs, pruned ones too: what stays stands where it stood. In builds with
    /// debug assertions the local search checks what it remembers on the way.
    #[test]
    fn any_graph_has_the_same_sound_trees_everywhere(
        rows in rows(), writer: prop::sample::Index, dice: u64, few: u64,
    ) {
        let links = links_of(&rows, dice);
        let layout = Layout::new(3, rows.clone(), &links).expect("good");
        let turned = rows.iter().rev().copied().collect();
        let other = Layout::new(3, turned, &links).expect("good");
        let writer = rows[writer.index(rows.len())].id;
        let whole = content_trees(&layout, writer, &all(&layout)).expect("a member");
        prop_assert_eq!(&whole, &content_trees(&other, writer, &all(&layout)).expect("a member"));
        check_spans(&layout, &whole, &all(&layout));
        check_spans(&layout, &shallow_tree(&layout, writer).expect("a member"), &all(&layout));
        let wanting = rows.iter().map(|row| row.id).filter(|id| mix(few ^ id.0).is_multiple_of(3));
        let wanting: BTreeSet<NodeId> = wanting.collect();
        let pruned = content_trees(&layout, writer, &wanting).expect("a member");
        check_spans(&layout, &pruned, &wanting);
        for (stripe, row) in (0..pruned.stripes()).flat_map(|s| rows.iter().map(move |row| (s, row))) {
            let parent = pruned.parent(stripe, row.id);
            prop_assert!(parent.is_none() || parent == whole.parent(stripe, row.id));
        }
    }

    /// T14 on graphs: who has no uplink is a leaf, where the others are connected without it.
    #[test]
    fn a_graph_spares_who_has_no_uplink(ups in prop::collection::vec(500..2000_u64, 3..20), dice: u64) {
        let able = ups.len();
        let mut rows: Vec<Row> = (0..).zip(ups).map(|(id, up_kbit)| Row {
            id: NodeId(id), up_kbit, relay_ok: true,
        }).collect();
        let Links::Pairs(mut links) = links_of(&rows, dice) else { unreachable!() };
        for id in able as u64..able as u64 + 5 {
            rows.push(Row { id: NodeId(id), up_kbit: 0, relay_ok: true });
            for turn in 0..3 {
                // One link to somebody who can; the others to whoever was there.
                let below = if turn == 0 { able as u64 } else { id };
                links.insert((NodeId(mix(dice ^ id ^ turn << 32) % below), NodeId(id)));
            }
        }
        let layout = Layout::new(7, rows, &Links::Pairs(links)).expect("good");
        for trees in [content(&layout, 0), shallow(&layout, 0)] {
            check_spans(&layout, &trees, &all(&layout));
            for id in able as u64..able as u64 + 5 {
                prop_assert_eq!(children(&trees, NodeId(id)), 0);
            }
        }
    }
}
