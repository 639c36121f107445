//! [adapter] The simulated network behind `aber_log::env::Network`.
//!
//! No task carries frames: whoever receives waits until the head of its inbox has arrived, or until
//! something happened to the network. `network_state` decides; this file only waits.

use super::network_state::{Look, Side};
use super::world::World;
use aber_log::env::network::{Link, LinkClass, LinkProblem, Network, Peer};
use aber_log::life::Life;
use aber_proto::{NodeId, limit};
use bytes::Bytes;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Longer frames carry content, and a liar's are wrong. Shorter ones ask and answer.
const LIE_BYTES: usize = 1024;

/// Links of one boot of one node.
#[derive(Clone)]
pub struct SimNetwork {
    world: World,
    node: NodeId,
    boot: u64,
    life: Arc<Life>,
}

/// One end of a simulated link.
pub struct SimLink {
    world: World,
    node: NodeId,
    life: Arc<Life>,
    remote: NodeId,
    class: LinkClass,
    link: u64,
    side: Side,
    bells: [Arc<Notify>; 2],
}

impl SimNetwork {
    pub(super) fn new(world: &World, node: NodeId, life: &Arc<Life>) -> Self {
        Self {
            world: world.clone(),
            node,
            boot: world.boot_number(node),
            life: Arc::clone(life),
        }
    }

    fn link(&self, (link, side): (u64, Side), remote: NodeId, class: LinkClass) -> SimLink {
        SimLink {
            world: self.world.clone(),
            node: self.node,
            life: Arc::clone(&self.life),
            remote,
            class,
            link,
            side,
            bells: self.world.link_bells(link, side),
        }
    }

    /// Why a dial fails, and how long that takes in milliseconds.
    fn obstacle(&self, to: NodeId) -> Option<(u64, &'static str)> {
        let (is_cut, are_neighbours) = self.world.with_net(|net| {
            let is_cut = net.is_cut(self.node, to) || net.is_cut(to, self.node);
            (is_cut, net.are_neighbours(self.node, to))
        });
        if !are_neighbours {
            Some((1, "no route to host"))
        } else if is_cut || !self.world.has_power(to) {
            Some((self.world.between(1000, 5000), "connection timed out"))
        } else if self.world.is_up(to) {
            None
        } else {
            Some((self.world.between(1, 60), "connection refused"))
        }
    }
}

impl Network for SimNetwork {
    type Link = SimLink;

    async fn dial(&self, to: NodeId, class: LinkClass) -> Result<SimLink, LinkProblem> {
        let unreachable = |why: &str| LinkProblem::Unreachable {
            node: to,
            why: why.to_owned(),
        };
        let trip_ns = self.world.latency_ns(self.node, to) + self.world.latency_ns(to, self.node);
        tokio::time::sleep(Duration::from_nanos(trip_ns)).await;
        if let Some((after_ms, why)) = self.obstacle(to) {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            self.world
                .trace(self.node, format_args!("dial node{to} {class:?} {why}"));
            return Err(unreachable(why));
        }
        if self.life.is_dead() {
            return Err(LinkProblem::Closed);
        }
        let (from, to_boot) = ((self.node, self.boot), (to, self.world.boot_number(to)));
        let made = self.world.with_net(|net| net.connect(from, to_boot, class));
        let link = made.ok_or_else(|| unreachable("connection refused"))?;
        self.world.trace(
            self.node,
            format_args!("dial node{to} {class:?} link{link}"),
        );
        let link = self.link((link, 0), to, class);
        self.world.accept_bell(to).notify_waiters();
        Ok(link)
    }

    fn set_peers(&self, _: std::collections::BTreeMap<NodeId, Peer>) {}

    async fn accept(&self) -> Result<SimLink, LinkProblem> {
        let bell = self.world.accept_bell(self.node);
        loop {
            let mut rung = pin!(bell.notified());
            rung.as_mut().enable();
            if self.life.is_dead() {
                return Err(LinkProblem::Closed);
            }
            if let Some((link, from, class)) = self.world.with_net(|net| net.accept(self.node)) {
                self.world
                    .trace(self.node, format_args!("accept link{link}"));
                return Ok(self.link((link, 1), from, class));
            }
            rung.await;
        }
    }
}

fn with_wrong_end(frame: &Bytes) -> Bytes {
    let mut bytes = frame.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.into()
}

impl SimLink {
    fn ring_other(&self) {
        let [_, other] = &self.bells;
        other.notify_waiters();
    }

    /// Tries until it is ready or closed.
    async fn until<T>(&self, mut look: impl FnMut() -> Look<T> + Send) -> Result<T, LinkProblem> {
        let [bell, _] = &self.bells;
        loop {
            let mut rung = pin!(bell.notified());
            rung.as_mut().enable();
            if self.life.is_dead() {
                return Err(LinkProblem::Closed);
            }
            match look() {
                Look::Ready(ready) => return Ok(ready),
                Look::Closed => return Err(LinkProblem::Closed),
                Look::WaitUntil(until_ns) => {
                    tokio::select! {
                        biased;
                        () = rung => {}
                        () = self.world.sleep_until_ns(until_ns) => {}
                    }
                }
            }
        }
    }
}

impl Link for SimLink {
    async fn send(&self, frame: Bytes) -> Result<(), LinkProblem> {
        assert!(
            frame.len() <= limit::MESSAGE_BYTES - 1024,
            "a frame is longer than a link takes"
        );
        let place = (self.link, self.side);
        let is_lie = self.class == LinkClass::Bulk && frame.len() > LIE_BYTES;
        let frame = match is_lie && self.world.with_net(|net| net.liars.contains(&self.node)) {
            true => with_wrong_end(&frame),
            false => frame,
        };
        let latency_ns = self.world.latency_ns(self.node, self.remote);
        let sent = self.until(|| {
            let now_ns = self.world.now_ns();
            let send =
                |net: &mut super::network_state::Net| net.send(place, &frame, now_ns, latency_ns);
            self.world.with_net(send)
        });
        let sent = sent.await.map(|_| ());
        let word = if sent.is_ok() { "send" } else { "send failed" };
        self.world.trace(
            self.node,
            format_args!("link{} {word} {} bytes", self.link, frame.len()),
        );
        self.ring_other();
        sent
    }

    async fn receive(&self) -> Result<Bytes, LinkProblem> {
        let place = (self.link, self.side);
        // Timers tick in milliseconds; this mixes what happens within one.
        for _ in 0..self.world.draw(3) {
            tokio::task::yield_now().await;
        }
        let take = || {
            let now_ns = self.world.now_ns();
            self.world.with_net(|net| net.receive(place, now_ns))
        };
        let taken = self.until(take).await;
        let length = taken.as_ref().map_or(0, Bytes::len);
        let word = if taken.is_ok() { "receive" } else { "closed" };
        self.world.trace(
            self.node,
            format_args!("link{} {word} {length} bytes", self.link),
        );
        self.ring_other();
        taken
    }

    fn remote(&self) -> NodeId {
        self.remote
    }

    fn class(&self) -> LinkClass {
        self.class
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        // A dead node closes nothing: its crash decides what the other end sees.
        if !self.life.is_dead() {
            let at_ns = self.world.now_ns() + self.world.latency_ns(self.node, self.remote);
            self.world
                .with_net(|net| net.close((self.link, self.side), at_ns));
            self.world.forget_bell(self.link, self.side);
            self.ring_other();
        }
    }
}
