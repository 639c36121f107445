//! [pure] Who stands at the door and has proved nothing yet; and places that are counted a key.
//!
//! A crowd is bounded. When one more comes, somebody has to go: of the address that has most, the
//! one who came first. So whoever fills the crowd from one address pushes out its own, and a
//! member's handshake, which takes a moment, passes.

use aber_proto::PublicKey;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// At most so many who wait.
pub(super) struct Crowd<T> {
    limit: usize,
    next: u64,
    /// By order of arrival.
    waiting: BTreeMap<u64, (IpAddr, T)>,
}

/// An IPv6 host has all addresses of its /64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

impl<T> Crowd<T> {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Somebody comes: its number, and who has to go for it.
    fn enter(&mut self, from: IpAddr, what: T) -> (u64, Option<T>) {
        let gone = (self.waiting.len() >= self.limit)
            .then(|| self.most_crowded())
            .flatten()
            .and_then(|number| self.waiting.remove(&number));
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number, (source(from), what));
        (number, gone.map(|(_, what)| what))
    }

    /// The oldest of the source that has most.
    fn most_crowded(&self) -> Option<u64> {
        let mut sources: BTreeMap<IpAddr, (usize, u64)> = BTreeMap::new();
        for (number, (from, _)) in &self.waiting {
            sources.entry(*from).or_insert((0, *number)).0 += 1;
        }
        let rank = |(count, oldest): &(usize, u64)| (*count, u64::MAX - *oldest);
        let most = sources.into_values().max_by_key(rank);
        most.map(|(_, oldest)| oldest)
    }
}

/// A crowd that several tasks use.
pub(super) struct Lobby<T>(Arc<Mutex<Crowd<T>>>);

impl<T> Clone for Lobby<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A place in a lobby, free again when it is dropped.
pub(super) struct Standing<T> {
    lobby: Lobby<T>,
    number: u64,
}

impl<T> Lobby<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Crowd::new(limit))))
    }

    /// Takes a place; also answers who has to go.
    pub(super) fn enter(&self, from: IpAddr, what: T) -> (Standing<T>, Option<T>) {
        let mut crowd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, gone) = crowd.enter(from, what);
        let lobby = self.clone();
        (Standing { lobby, number }, gone)
    }
}

impl<T> Drop for Standing<T> {
    fn drop(&mut self) {
        let mut crowd = self.lobby.0.lock().unwrap_or_else(PoisonError::into_inner);
        crowd.waiting.remove(&self.number);
    }
}

/// Places for members: so many in all, so many a key.
#[derive(Clone)]
pub(super) struct Places(Arc<Mutex<Taken>>);

struct Taken {
    total: usize,
    per_key: usize,
    count: usize,
    keys: BTreeMap<PublicKey, usize>,
}

/// A place, free again when it is dropped.
pub(super) struct Place {
    places: Places,
    key: PublicKey,
}

impl Places {
    pub(super) fn new(total: usize, per_key: usize) -> Self {
        Self(Arc::new(Mutex::new(Taken {
            total,
            per_key,
            count: 0,
            keys: BTreeMap::new(),
        })))
    }

    /// A place for a key, if there is one.
    pub(super) fn take(&self, key: PublicKey) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = taken.keys.get(&key).copied().unwrap_or(0);
        if taken.count >= taken.total || mine >= taken.per_key {
            return None;
        }
        taken.count += 1;
        taken.keys.insert(key, mine + 1);
        drop(taken);
        let places = self.clone();
        Some(Place { places, key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.count -= 1;
        match taken.keys.get(&self.key).copied() {
            Some(count) if count > 1 => {
                taken.keys.insert(self.key, count - 1);
            }
            _ => {
                taken.keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    /// B2: whoever fills the door pushes out its own.
    #[test]
    fn the_oldest_of_the_most_crowded_address_goes() {
        let mut crowd = Crowd::new(4);
        assert_eq!(crowd.enter(at("10.0.0.9"), 1), (0, None));
        assert_eq!(crowd.enter(at("10.0.0.1"), 2), (1, None));
        assert_eq!(crowd.enter(at("::ffff:10.0.0.1"), 3), (2, None));
        assert_eq!(crowd.enter(at("fd00::1"), 4), (3, None));
        assert_eq!(crowd.enter(at("10.0.0.9"), 5), (4, Some(2)));
        // 10.0.0.9 has most now.
        assert_eq!(crowd.enter(at("fd00::2"), 6), (5, Some(1)));
        // fd00::/64 has: one host may have all of it.
        assert_eq!(crowd.enter(at("10.0.0.7"), 7), (6, Some(4)));
        assert_eq!(crowd.waiting.len(), 4);
    }

    #[test]
    fn who_leaves_makes_room() {
        let lobby = Lobby::new(1);
        let (first, gone) = lobby.enter(at("10.0.0.1"), 'a');
        assert_eq!(gone, None);
        drop(first);
        let (_second, gone) = lobby.enter(at("10.0.0.1"), 'b');
        assert_eq!(gone, None);
        let (_third, gone) = lobby.enter(at("10.0.0.1"), 'c');
        assert_eq!(gone, Some('b'));
    }

    /// B2: one key never has all places.
    #[test]
    fn places_are_counted_in_all_and_a_key() {
        let places = Places::new(3, 2);
        let (one, two) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let first = places.take(one).expect("a place");
        let _second = places.take(one).expect("a place");
        assert!(places.take(one).is_none(), "of one key");
        let third = places.take(two).expect("a place");
        assert!(places.take(two).is_none(), "in all");
        drop(first);
        let _again = places.take(one).expect("free again");
        drop(third);
        assert_eq!(places.0.lock().expect("lock").keys.len(), 1);
    }
}
