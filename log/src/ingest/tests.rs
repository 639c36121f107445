//! Tests of the way in and back.
