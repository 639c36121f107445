//! [adapter] What dialling, the listener and the door of one node share.

use super::gate::{Gate, Registry};
use super::handshake::Security;
use super::hello::{LinkIdentity, Refusal};
use super::join::Doorkeeper;
use super::link::SystemLink;
use super::peers::Peers;
use aber_log::env::network::Peer;
use aber_proto::generated::linkservice::LinkRefusalCode;
use aber_proto::{NodeId, PublicKey, SecretKey};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Connections of one key at once that others opened: two links, those that take their place, and
/// those that died and are not noticed yet.
const CONNECTIONS_PER_KEY: usize = 32;
/// Of callers of the API more than they have places for, those included that are told so.
const CALLS_PER_KEY: usize = 64;

/// Shared by everything that a node's network consists of.
pub(super) struct Shared {
    state: Mutex<State>,
    /// What the door gets; taken by `accept`.
    pub(super) arrivals: mpsc::Sender<SystemLink>,
}

/// Who this node is and whom it knows.
pub(super) struct State {
    pub(super) me: Option<Arc<LinkIdentity>>,
    pub(super) security: Option<Arc<Security>>,
    /// How the API proves this node's key.
    pub(super) api_security: Option<Arc<Security>>,
    pub(super) keeper: Option<Arc<dyn Doorkeeper>>,
    pub(super) peers: Peers,
    key: Option<Arc<SecretKey>>,
    is_plaintext: bool,
    accepted: Registry,
    dialled: Registry,
    callers: Registry,
}

impl Shared {
    pub(super) fn new(arrivals: mpsc::Sender<SystemLink>) -> Arc<Self> {
        let state = State {
            me: None,
            security: None,
            api_security: None,
            keeper: None,
            peers: Peers::default(),
            key: None,
            is_plaintext: false,
            accepted: Registry::new(CONNECTIONS_PER_KEY),
            dialled: Registry::new(CONNECTIONS_PER_KEY),
            callers: Registry::new(CALLS_PER_KEY),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            arrivals,
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn introduce(&mut self, me: LinkIdentity, key: Arc<SecretKey>) {
        self.security = Some(Arc::new(Security::new(Arc::clone(&key), self.is_plaintext)));
        self.api_security = Some(Arc::new(Security::for_api(Arc::clone(&key))));
        self.me = Some(Arc::new(me));
        self.key = Some(key);
    }

    pub(super) fn set_plaintext(&mut self, is_plaintext: bool) {
        self.is_plaintext = is_plaintext;
        let security = |key: &Arc<SecretKey>| Security::new(Arc::clone(key), is_plaintext);
        self.security = self.key.as_ref().map(security).map(Arc::new);
    }

    /// Replaces the table of members. A connection whose key does not stand for its node any more
    /// ends before this returns.
    pub(super) fn set_peers(&mut self, peers: BTreeMap<NodeId, Peer>) {
        for key in self.peers.set(peers) {
            self.accepted.shut(&key);
            self.dialled.shut(&key);
            self.callers.shut(&key);
        }
    }

    /// Notes a caller of the API, unless its key is neither a member's nor this node's own.
    pub(super) fn note_caller(&mut self, key: PublicKey, gate: &Arc<Gate>) -> bool {
        let is_own = self.key.as_ref().is_some_and(|own| own.public() == key);
        let may_call = is_own || self.peers.has(&key);
        if may_call {
            self.callers.add(key, gate);
        }
        may_call
    }

    /// Notes a connection that was accepted, unless its key is no member's.
    pub(super) fn note_accepted(&mut self, key: PublicKey, gate: &Arc<Gate>) -> bool {
        let is_member = self.peers.has(&key);
        if is_member {
            self.accepted.add(key, gate);
        }
        is_member
    }

    /// Notes a connection to a node, unless another key is the node's by now.
    pub(super) fn note_dialled(&mut self, node: NodeId, key: PublicKey, gate: &Arc<Gate>) -> bool {
        let is_still = self.peers.key_of(node) == Some(key);
        if is_still {
            self.dialled.add(key, gate);
        }
        is_still
    }

    /// Whether the one with this key may speak for a node, and if not why.
    pub(super) fn check_claim(&self, key: &PublicKey, node: NodeId) -> Result<(), Refusal> {
        if self.peers.key_of(node) == Some(*key) {
            return Ok(());
        }
        match self.peers.node_of(key) {
            Some(owner) => Err(Refusal::new(
                LinkRefusalCode::Node,
                format!("it says that it is node {node}, and its key is that of node {owner}"),
            )),
            None => Err(Refusal::not_a_member(key)),
        }
    }
}
