//! Who goes first, what share each has, and what a link that stands still costs the others.

use super::*;
use crate::testing::Random;
use Priority::{CatchUp, Content, Log, Vital};

const MS: u64 = 1_000_000;
const MBIT: u64 = 1_000_000;

fn route(link: u64) -> Route {
    let peer = NodeId(link);
    Route { peer, link }
}

/// A schedule whose links take what they are given after some time.
struct World {
    schedule: Schedule,
    now: Instant,
    /// Who was granted what, when.
    sent: Vec<(Instant, u64, usize)>,
    /// Links that take nothing, and what they were given.
    stuck: BTreeMap<Route, Option<u64>>,
    routes: BTreeMap<u64, Route>,
}

impl World {
    fn new(line: Option<u64>) -> Self {
        let mut schedule = Schedule::default();
        schedule.set_line(Instant(0), line);
        Self {
            schedule,
            now: Instant(0),
            sent: Vec::new(),
            stuck: BTreeMap::new(),
            routes: BTreeMap::new(),
        }
    }

    fn send(&mut self, priority: Priority, link: u64, bytes: u64) -> u64 {
        let id = self.schedule.begin(self.now, priority, route(link), bytes);
        let id = id.unwrap();
        assert!(self.schedule.ask(id));
        self.routes.insert(id, route(link));
        self.turn();
        id
    }

    fn turn(&mut self) {
        while let Some((id, bytes)) = self.schedule.grant(self.now) {
            self.sent.push((self.now, id, bytes));
            match self.stuck.get_mut(&self.routes[&id]) {
                Some(given) => *given = Some(id),
                None if self.schedule.ask(id) => {}
                None => self.schedule.end(id),
            }
        }
    }

    /// Lets time pass, from wake to wake.
    fn run(&mut self, until_ms: u64) {
        let until = Instant(until_ms * MS);
        assert!(until >= self.now, "time goes on");
        for _ in 0..100_000 {
            match self.schedule.next_wake(self.now) {
                Some(wake) if wake <= until => {
                    assert!(wake > self.now, "woken for nothing");
                    self.now = wake;
                    self.turn();
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("it wakes and wakes");
    }

    fn bytes_of(&self, ids: &[u64]) -> usize {
        let theirs = self.sent.iter().filter(|(_, id, _)| ids.contains(id));
        theirs.map(|(_, _, bytes)| bytes).sum()
    }

    /// The order in which messages had pieces, repetitions left out.
    fn order(&self) -> Vec<u64> {
        let mut order: Vec<_> = self.sent.iter().map(|(_, id, _)| *id).collect();
        order.dedup();
        order
    }
}

#[test]
fn without_a_limit_all_goes_at_once_and_nothing_wakes() {
    let mut world = World::new(None);
    for link in 0..50 {
        world.send(Content, link, 1 << 20);
        world.send(Vital, link, 100);
    }
    assert_eq!(world.sent.len(), 50 * (16 + 1));
    assert_eq!(world.schedule.next_wake(world.now), None);
    assert_eq!(world.schedule.backlog(Content), Backlog::default());
    assert!(world.schedule.messages.is_empty());
}

#[test]
fn the_more_urgent_pass_between_pieces() {
    let mut world = World::new(Some(MBIT));
    let late = world.send(CatchUp, 1, 1 << 20);
    world.run(1000);
    let before = world.sent.len();
    let content = world.send(Content, 1, 5000);
    let entry = world.send(Log, 1, 5000);
    let vote = world.send(Vital, 1, 200);
    // At once, though the bucket is empty.
    assert_eq!(world.sent[before..], [(world.now, vote, 200)]);
    world.run(2000);
    let order: Vec<_> = world.sent[before..].iter().map(|(_, id, _)| *id).collect();
    assert_eq!(order[..5], [vote, entry, entry, content, content]);
    assert_eq!(order[5], late);
}

/// T12: what is vital does not wait, up to 16 KiB beyond what there is.
#[test]
fn vital_messages_overdraw_up_to_a_bound() {
    let mut world = World::new(Some(MBIT));
    world.send(Content, 1, 1 << 20);
    world.run(1000);
    let before = world.sent.len();
    let ids: Vec<_> = (0..200).map(|_| world.send(Vital, 2, 120)).collect();
    let at_once = world.sent.len() - before;
    assert!((40..=64).contains(&at_once), "{at_once}");
    world.run(4000);
    // Then in order, before all else.
    let next: Vec<_> = world.sent[before..].iter().map(|(_, id, _)| *id).collect();
    assert_eq!(next[..200], ids[..]);
}

#[test]
fn a_message_begun_is_finished_and_links_take_turns() {
    let mut world = World::new(Some(MBIT));
    let first = world.send(Content, 1, 40_000);
    let of_one: Vec<_> = (0..3).map(|_| world.send(Content, 1, 10_000)).collect();
    let of_two: Vec<_> = (0..2).map(|_| world.send(Content, 2, 10_000)).collect();
    let of_three = world.send(Content, 3, 10_000);
    world.run(3000);
    let wanted = [
        first, of_two[0], of_three, of_one[0], of_two[1], of_one[1], of_one[2],
    ];
    assert_eq!(world.order(), wanted);
}

#[test]
fn catching_up_has_a_tenth_of_content() {
    let mut world = World::new(Some(8 * MBIT));
    let content = world.send(Content, 1, 1 << 30);
    let late = world.send(CatchUp, 2, 1 << 30);
    world.run(60_000);
    let (content, late) = (world.bytes_of(&[content]), world.bytes_of(&[late]));
    let share = late as f64 / (content + late) as f64;
    assert!((0.095..=0.105).contains(&share), "{share}");
    assert!(content + late > 45_000_000, "{}", content + late);
}

#[test]
fn who_is_alone_has_all_of_it() {
    for alone in [Content, CatchUp] {
        let mut world = World::new(Some(MBIT));
        let id = world.send(alone, 1, 1 << 30);
        world.run(10_000);
        let bytes = world.bytes_of(&[id]);
        assert!((1_000_000..1_070_000).contains(&bytes), "{bytes}");
    }
}

/// T12: a link that stands still costs the others 200 ms, once.
#[test]
fn a_link_that_takes_nothing_lets_others_go_first() {
    let mut world = World::new(Some(MBIT));
    world.stuck.insert(route(1), None);
    let stuck = world.send(Content, 1, 1 << 20);
    let behind = world.send(Content, 1, 4096);
    let (two, three) = (world.send(Content, 2, 8000), world.send(Content, 3, 8000));
    world.run(199);
    assert_eq!(world.order(), [stuck]);
    world.run(600);
    assert_eq!(world.order(), [stuck, two, three]);
    // It takes again: it goes on where it was, and what stands behind it keeps its place.
    let given = world.stuck.remove(&route(1)).unwrap().unwrap();
    assert!(world.schedule.ask(given));
    world.turn();
    world.run(20_000);
    assert_eq!(world.order(), [stuck, two, three, stuck, behind]);
}

#[test]
fn what_is_given_up_makes_room() {
    let mut world = World::new(Some(MBIT));
    let (one, two) = (world.send(Log, 1, 1 << 20), world.send(Log, 1, 9000));
    world.run(100);
    world.schedule.end(one);
    world.turn();
    world.run(300);
    assert_eq!(world.order(), [one, two]);
    assert!(world.schedule.messages.is_empty());
    let all = Priority::ALL.map(|lane| world.schedule.backlog(lane));
    assert_eq!(all, [Backlog::default(); 4]);
    assert_eq!(world.schedule.next_wake(world.now), None);
}

/// B2: the queue is bounded, each lane by itself.
#[test]
fn too_many_messages_are_refused() {
    let mut schedule = Schedule::default();
    let begin = |schedule: &mut Schedule, lane| schedule.begin(Instant(0), lane, route(1), 1);
    for _ in 0..limit::UPLINK_MESSAGES {
        assert!(begin(&mut schedule, Content).is_some());
    }
    assert_eq!(begin(&mut schedule, Content), None);
    let vital = begin(&mut schedule, Vital).unwrap();
    schedule.end(vital);
    schedule.end(0);
    assert!(begin(&mut schedule, Content).is_some());
}

#[test]
fn figures_for_people_add_up() {
    let mut world = World::new(Some(MBIT));
    world.send(Content, 1, 100_000);
    world.send(CatchUp, 2, 100_000);
    world.send(Log, 2, 100_000);
    let waiting: u64 = [Content, CatchUp]
        .map(|lane| world.schedule.backlog(lane).bytes)
        .iter()
        .sum();
    assert_eq!(world.schedule.backlog_ms(), waiting * 8000 / 850_000);
    world.run(10_000);
    let counted = world.schedule.sent_bytes().clone();
    assert_eq!(counted[&(NodeId(1), Content)], 100_000);
    assert_eq!(counted[&(NodeId(2), CatchUp)], 100_000);
    world.schedule.forget(NodeId(2));
    assert_eq!(world.schedule.sent_bytes().len(), 1);
    world.schedule.set_line(world.now, None);
    assert_eq!(world.schedule.backlog_ms(), 0);
}

/// Whatever comes and goes: never above rate, burst and overdraft over any window; in one line
/// first come, first served; and in the end all that was not given up is sent.
#[test]
fn any_mixture_keeps_the_rate_and_the_order() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let line = 100_000 + random.below(30 * MBIT);
        let mut world = World::new(Some(line));
        let mut lines: BTreeMap<(Priority, Route), Vec<u64>> = BTreeMap::new();
        for _ in 0..120 {
            let priority = Priority::from_byte(u8::try_from(random.below(4)).unwrap()).unwrap();
            let link = random.below(5);
            let bytes = match priority {
                Vital => 1 + random.below(4096),
                _ => 1 + random.below(100_000),
            };
            let id = world.send(priority, link, bytes);
            if random.below(8) == 0 {
                world.schedule.end(id);
                world.turn();
            } else {
                lines.entry((priority, route(link))).or_default().push(id);
            }
            world.run(world.now.0 / MS + 1 + random.below(40));
        }
        world.run(world.now.0 / MS + 3_000_000);
        assert!(world.schedule.messages.is_empty(), "seed {seed}");
        for ids in lines.values() {
            let order: Vec<_> = world
                .order()
                .into_iter()
                .filter(|id| ids.contains(id))
                .collect();
            let mut once = order.clone();
            once.dedup();
            assert_eq!(&once, ids, "seed {seed}");
        }
        let (rate, frame) = world.schedule.pace();
        let slack = (8192).max(2 * frame as u64) + OVERDRAFT_BYTES + 1;
        for from in 0..world.sent.len() {
            let start = world.sent[from].0;
            let mut bytes = 0;
            for (at, _, piece) in &world.sent[from..] {
                bytes += bucket::cost(*piece);
                let allowed = u128::from(rate.unwrap()) * u128::from(at.0 - start.0);
                let allowed = u64::try_from(allowed / 8_000_000_000).unwrap();
                assert!(bytes <= allowed + slack, "seed {seed}");
            }
        }
    }
}
