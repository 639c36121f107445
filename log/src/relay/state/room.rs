//! [pure] Parcels are forgotten once they are of no use, and make room for others.

use super::super::live::Live;
use super::{Core, Key};
use aber_proto::{Instant, limit};
use std::time::Duration;

/// Chunks of all parcels together.
const CHUNKS_LIVE: usize = 256 * limit::PARCEL_CHUNKS;
/// A parcel of which nothing is heard for so long is given up; its writer announces it again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// A complete parcel is remembered for who comes back.
const KEPT_FOR: Duration = Duration::from_secs(60);

impl Core {
    pub(super) fn forget(&mut self, now: Instant) {
        let is_over = |live: &Live| {
            let kept = match self.is_over(live) {
                true => KEPT_FOR,
                false => FORGOTTEN_AFTER,
            };
            now >= live.touched + kept
        };
        let over = self.live.iter().filter(|(_, live)| is_over(live));
        let over: Vec<Key> = over.map(|(key, _)| *key).collect();
        for key in over {
            self.remove(key);
        }
    }

    /// Whether nothing of a parcel is to come or to go, as far as is known.
    fn is_over(&self, live: &Live) -> bool {
        let mut places = live.places(|node| self.is_alive(node));
        live.is_complete() && places.all(|place| live.left(place) == 0)
    }

    /// Makes room for chunks of a new parcel: of what is done the oldest goes.
    pub(super) fn make_room(&mut self, count: usize) -> bool {
        let mut chunks: usize = self.live.values().map(Live::count).sum();
        while chunks + count > CHUNKS_LIVE {
            let done = self.live.iter().filter(|(_, live)| self.is_over(live));
            let Some((key, of)) = done.min_by_key(|(_, live)| live.touched) else {
                return false;
            };
            let (key, of) = (*key, of.count());
            chunks -= of;
            self.remove(key);
        }
        true
    }

    fn remove(&mut self, key: Key) {
        let Some(live) = self.live.remove(&key) else {
            return;
        };
        self.names.remove(&live.announcement.id);
        self.ready.forget(key);
        for chunk in live.announcement.chunks.iter() {
            if let Some(parcels) = self.by_hash.get_mut(&chunk.hash) {
                parcels.retain(|(of, _)| *of != key);
                if parcels.is_empty() {
                    self.by_hash.remove(&chunk.hash);
                }
            }
        }
    }
}
