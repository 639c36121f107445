//! aber-log: the replicated log and the content it refers to.
//!
//! Start with [`mod@env`] (the world), then [`segment`] (the log on disk), [`partition`] (Raft on it),
//! [`chunk`] (content), [`content`] (content between nodes), [`mesh`] and [`uplink`] (what goes out, and when) and [`outbox`] (the way in).

pub mod body;
pub mod chunk;
pub mod content;
pub mod env;
pub mod head;
pub mod history;
pub mod ingest;
pub mod life;
pub mod mesh;
pub mod outbox;
pub mod partition;
pub mod planted;
pub mod reader;
pub mod relay;
pub mod segment;
pub mod uplink;
pub mod watch;

#[cfg(test)]
mod testing;
