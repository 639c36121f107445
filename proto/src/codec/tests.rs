//! Round trips, limits and damage.
