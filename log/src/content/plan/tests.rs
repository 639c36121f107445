//! Nodes that come late, and what they ask of whom: by the plan alone, over lines of given rates.

use super::*;

/// One way.
const DELAY: Duration = Duration::from_millis(10);
const CHUNK: u32 = 64 * 1024;

fn chunk(number: u64) -> ChunkRef {
    let mut hash = [7; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    let (hash, length) = (ChunkHash(hash), CHUNK);
    ChunkRef { hash, length }
}

enum Event {
    Arrives {
        at: NodeId,
        of: NodeId,
        portion: Portion,
    },
    Answers {
        to: NodeId,
        portion: Portion,
        got: Vec<ChunkRef>,
    },
    Look(NodeId),
}

struct Site {
    plan: Plan,
    has: BTreeSet<ChunkHash>,
    kbit: u64,
    free_at: Instant,
    sent: u64,
    /// Takes questions and never answers.
    is_mute: bool,
}

/// Lines that send one answer after the other.
struct World {
    sites: BTreeMap<NodeId, Site>,
    events: BTreeMap<(Instant, u64), Event>,
    next: u64,
    now: Instant,
    asks: usize,
    slowest: Duration,
    twice: usize,
}

impl World {
    /// The first `holders` have all of `count` chunks, the others none and want all.
    fn new(lines: &[u64], holders: usize, count: u64) -> Self {
        let all: Vec<ChunkRef> = (0..count).map(chunk).collect();
        let site = |(at, kbit): (usize, &u64)| {
            let id = NodeId(at as u64);
            let mut plan = Plan::new(id);
            let mut has = BTreeSet::new();
            match at < holders {
                true => has.extend(all.iter().map(|chunk| chunk.hash)),
                false => plan.want(&all, Instant(0)),
            }
            let free_at = Instant(0);
            let (kbit, sent, is_mute) = (*kbit, 0, false);
            (
                id,
                Site {
                    plan,
                    has,
                    kbit,
                    free_at,
                    sent,
                    is_mute,
                },
            )
        };
        let sites: BTreeMap<NodeId, Site> = lines.iter().enumerate().map(site).collect();
        let mut world = Self {
            events: BTreeMap::new(),
            next: 0,
            now: Instant(0),
            asks: 0,
            slowest: Duration::ZERO,
            twice: 0,
            sites,
        };
        let late: Vec<NodeId> = world.sites.keys().copied().skip(holders).collect();
        for id in late {
            world.after(Duration::ZERO, Event::Look(id));
        }
        world
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.next += 1;
        self.events.insert((self.now + delay, self.next), event);
    }

    fn site(&mut self, id: NodeId) -> &mut Site {
        self.sites.get_mut(&id).expect("a site")
    }

    fn ask(&mut self, of: NodeId) {
        let mut up: BTreeSet<NodeId> = self.sites.keys().copied().collect();
        up.remove(&of);
        let now = self.now;
        while let Some(portion) = self.site(of).plan.next(&up, now) {
            self.asks += 1;
            let at = portion.peer;
            self.after(DELAY, Event::Arrives { at, of, portion });
        }
    }

    fn arrives(&mut self, at: NodeId, to: NodeId, portion: Portion) {
        let now = self.now;
        let site = self.site(at);
        if site.is_mute {
            return;
        }
        let there = portion
            .chunks
            .iter()
            .filter(|chunk| site.has.contains(&chunk.hash));
        let got: Vec<ChunkRef> = there.copied().collect();
        let bytes: u64 = got.iter().map(|chunk| u64::from(chunk.length)).sum();
        let start = site.free_at.max(now);
        site.free_at = start + Duration::from_micros(bytes * 8000 / site.kbit);
        site.sent += bytes;
        let took = match bytes {
            0 => Duration::ZERO,
            _ => site.free_at - now,
        };
        self.slowest = self.slowest.max(took);
        self.after(took + DELAY, Event::Answers { to, portion, got });
    }

    fn answers(&mut self, to: NodeId, portion: &Portion, got: &[ChunkRef]) {
        let now = self.now;
        let site = self.site(to);
        let mut lacking: BTreeSet<ChunkHash> = portion.chunks.iter().map(|c| c.hash).collect();
        let mut twice = 0;
        for chunk in got {
            lacking.remove(&chunk.hash);
            twice += usize::from(!site.has.insert(chunk.hash));
        }
        site.plan.answered(portion.id, got, &lacking, now);
        self.twice += twice;
        self.ask(to);
    }

    /// Runs until all have all, at most so many seconds; answers how many it took.
    fn run(&mut self, most: u64) -> f64 {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            if self.sites.values().all(|site| site.plan.is_empty()) || at.0 > most * 1_000_000_000 {
                break;
            }
            match event {
                Event::Arrives { at, of, portion } => self.arrives(at, of, portion),
                Event::Answers { to, portion, got } => self.answers(to, &portion, &got),
                Event::Look(id) => {
                    self.ask(id);
                    self.after(Duration::from_millis(500), Event::Look(id));
                }
            }
        }
        self.now.0 as f64 / 1e9
    }

    fn is_done(&self) -> bool {
        self.sites.values().all(|site| site.plan.is_empty())
    }
}

/// Four come back to three that have 16 MiB: they serve each other, so that it takes less than one line
/// needs for one copy.
#[test]
fn those_who_come_late_serve_each_other() {
    let mut world = World::new(&[8000; 7], 3, 256);
    let took = world.run(600) / (256.0 * f64::from(CHUNK) / 1e6);
    let by_late: u64 = world.sites.values().skip(3).map(|site| site.sent).sum();
    println!(
        "{took:.3} F/u, asks {}, twice {}, late sent {by_late}",
        world.asks, world.twice
    );
    assert!(world.is_done());
    assert!(took <= 0.85, "{took:.3}");
    assert!(world.twice <= 40, "{} came twice", world.twice);
}

/// A line of 100 kbit/s answers in time, and what it cannot bring the others do.
#[test]
fn portions_fit_a_slow_line() {
    let mut world = World::new(&[100, 8000, 8000], 2, 256);
    let took = world.run(3600);
    println!("{took:.1} s, slowest {:?}", world.slowest);
    assert!(world.is_done());
    assert!(took < 30.0, "{took:.1} s");
    let mut alone = World::new(&[100, 8000], 1, 32);
    let took = alone.run(3600);
    println!("{took:.1} s, slowest {:?}", alone.slowest);
    assert!(alone.is_done() && took < 190.0, "{took:.1} s");
    assert!(
        alone.slowest < Duration::from_secs(45),
        "{:?}",
        alone.slowest
    );
}

/// One that hears and never answers costs little; what nobody has is asked for ever more rarely.
#[test]
fn silence_and_what_nobody_has_cost_little() {
    let mut world = World::new(&[8000; 4], 3, 256);
    world.site(NodeId(1)).is_mute = true;
    let took = world.run(600);
    println!("{took:.1} s");
    assert!(world.is_done() && took < 45.0, "{took:.1} s");
    let mut world = World::new(&[8000; 3], 2, 16);
    for id in [0, 1] {
        world.site(NodeId(id)).has.clear();
    }
    let took = world.run(600);
    assert!(took > 599.0 && !world.is_done());
    assert!(world.asks < 200, "{} asks", world.asks);
}

#[test]
fn what_failed_is_asked_of_others_and_what_is_put_off_of_nobody() {
    let mut plan = Plan::new(NodeId(9));
    let up: BTreeSet<NodeId> = [NodeId(1), NodeId(2)].into();
    plan.want(&[chunk(1), chunk(2), chunk(1)], Instant(1));
    assert_eq!(plan.next(&up, Instant(0)), None, "not yet");
    plan.put_off(&chunk(2).hash, Instant(5));
    let first = plan.next(&up, Instant(1)).expect("one to ask for");
    assert_eq!(first.chunks, [chunk(1)]);
    assert_eq!(plan.next(&up, Instant(1)), None);
    plan.failed(first.id, Instant(2));
    let again = plan.next(&up, Instant(6)).expect("it is free again");
    assert_ne!(again.peer, first.peer, "who failed rests");
    let (got, lacking) = (again.chunks.clone(), BTreeSet::new());
    plan.answered(again.id, &got, &lacking, Instant(7));
    plan.have(&chunk(1).hash);
    plan.have(&chunk(2).hash);
    assert!(plan.is_empty() && plan.names.is_empty() && plan.asked.is_empty());
}
