//! [adapter] The code generated from `proto/`; the one place where its lints are waived.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]

/// What is durable, hashed or signed.
pub mod store {
    include!(concat!(env!("OUT_DIR"), "/aber.store.rs"));
}

/// What nodes say to each other.
pub mod link {
    include!(concat!(env!("OUT_DIR"), "/aber.link.rs"));
}

/// Changes that wait in their author's outbox.
pub mod outbox {
    include!(concat!(env!("OUT_DIR"), "/aber.outbox.rs"));
}

/// What nodes ask each other.
pub mod rpc {
    include!(concat!(env!("OUT_DIR"), "/aber.rpc.rs"));
}

/// How links travel by gRPC.
#[cfg(feature = "service")]
pub mod linkservice {
    include!(concat!(env!("OUT_DIR"), "/aber.linkservice.rs"));
}

/// How nodes join.
#[cfg(feature = "service")]
pub mod joinservice {
    include!(concat!(env!("OUT_DIR"), "/aber.joinservice.rs"));
}

/// The gRPC API of a node.
#[cfg(feature = "service")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/aber.v1.rs"));
}
