//! [adapter] Gates: how a connection that somebody else drives is closed at once.
//!
//! HTTP/2 owns a connection from its first byte. When a member is removed, its links must end
//! now, with what was read but not yet looked at. So each connection has a gate: its reads and
//! writes fail once it is shut, and its links look at it too.

use aber_proto::PublicKey;
use futures::task::AtomicWaker;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::Waker;
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Open,
    /// The connection ended by itself; what it brought is still good.
    Over,
    Shut,
}

/// Closes one connection.
#[derive(Debug)]
pub(super) struct Gate {
    stage: watch::Sender<Stage>,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            stage: watch::Sender::new(Stage::Open),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        })
    }

    /// Ends the connection and its links.
    pub(super) fn shut(&self) {
        self.stage.send_replace(Stage::Shut);
        self.reader.wake();
        self.writer.wake();
    }

    /// Notes that the connection is gone.
    pub(super) fn over(&self) {
        self.stage.send_if_modified(|stage| {
            let was_open = *stage == Stage::Open;
            if was_open {
                *stage = Stage::Over;
            }
            was_open
        });
    }

    pub(super) fn is_shut(&self) -> bool {
        *self.stage.borrow() == Stage::Shut
    }

    fn is_open(&self) -> bool {
        *self.stage.borrow() == Stage::Open
    }

    /// Whether it is shut now; if not, the reader is woken when it is.
    pub(super) fn stops_reader(&self, waker: &Waker) -> bool {
        self.reader.register(waker);
        self.is_shut()
    }

    /// As [`Gate::stops_reader`], for writing.
    pub(super) fn stops_writer(&self, waker: &Waker) -> bool {
        self.writer.register(waker);
        self.is_shut()
    }

    /// Waits until it is shut.
    pub(super) async fn shutting(&self) {
        let mut stage = self.stage.subscribe();
        // The sender is `self`: it cannot be gone.
        let _ = stage.wait_for(|stage| *stage == Stage::Shut).await;
    }

    /// Waits until the connection is gone, or shut.
    pub(super) async fn ending(&self) {
        let mut stage = self.stage.subscribe();
        let _ = stage.wait_for(|stage| *stage != Stage::Open).await;
    }
}

/// The open connections of each key.
pub(super) struct Registry {
    /// Of one key; the oldest goes when there is one more.
    per_key: usize,
    gates: BTreeMap<PublicKey, Vec<Weak<Gate>>>,
}

impl Registry {
    pub(super) fn new(per_key: usize) -> Self {
        Self {
            per_key,
            gates: BTreeMap::new(),
        }
    }

    /// Adds a connection. A member whose connections died without a word has them counted until
    /// that is noticed, so the newest is believed to be the one it uses.
    pub(super) fn add(&mut self, key: PublicKey, gate: &Arc<Gate>) {
        let is_live = |gate: &Weak<Gate>| gate.upgrade().is_some_and(|gate| gate.is_open());
        self.gates.retain(|_, gates| {
            gates.retain(is_live);
            !gates.is_empty()
        });
        let gates = self.gates.entry(key).or_default();
        if gates.len() >= self.per_key {
            let oldest = gates.remove(0);
            if let Some(gate) = oldest.upgrade() {
                gate.shut();
            }
        }
        gates.push(Arc::downgrade(gate));
    }

    /// Shuts all connections of a key.
    pub(super) fn shut(&mut self, key: &PublicKey) {
        for gate in self.gates.remove(key).into_iter().flatten() {
            if let Some(gate) = gate.upgrade() {
                gate.shut();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B2: connections of a key are bounded, and so is what is remembered of them.
    #[test]
    fn the_newest_connections_of_a_key_stay() {
        let (mine, other) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let mut registry = Registry::new(2);
        let gates: Vec<_> = (0..3).map(|_| Gate::new()).collect();
        let stranger = Gate::new();
        registry.add(other, &stranger);
        for gate in &gates {
            registry.add(mine, gate);
        }
        let shut: Vec<bool> = gates.iter().map(|gate| gate.is_shut()).collect();
        assert_eq!(shut, [true, false, false]);
        registry.shut(&mine);
        assert!(gates.iter().all(|gate| gate.is_shut()) && !stranger.is_shut());
        stranger.over();
        assert!(!stranger.is_shut());
        registry.add(mine, &Gate::new());
        registry.add(mine, &Gate::new());
        assert_eq!(registry.gates.len(), 1);
        assert_eq!(registry.gates[&mine].len(), 1);
    }

    #[tokio::test]
    async fn who_waits_at_a_gate_is_told() {
        let gate = Gate::new();
        let waits = {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.shutting().await })
        };
        gate.over();
        gate.ending().await;
        gate.shut();
        waits.await.expect("told");
    }
}
