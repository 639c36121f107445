//! The node's faces, over a real Unix socket or TCP, with a fake node behind them.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::too_many_lines,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests"
)]

mod api;
mod command;
mod fake;
mod keep;
mod membership;
mod remote;
mod upkeep;

use aber_node::api::Listener;
use fake::Fake;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A fake node that answers at the socket of a data directory of its own.
pub struct Served {
    pub data: TempDir,
    pub fake: Fake,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Served {
    pub async fn start() -> Self {
        let data = tempfile::tempdir().expect("temporary directory");
        let fake = Fake::new();
        let (stop, task) = serve(&data, &fake).await;
        Self {
            data,
            fake,
            stop,
            task,
        }
    }

    pub async fn stop(&mut self) {
        self.stop.take();
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    pub async fn restart(&mut self) {
        (self.stop, self.task) = serve(&self.data, &self.fake).await;
    }
}

async fn serve(data: &TempDir, fake: &Fake) -> (Option<oneshot::Sender<()>>, JoinHandle<()>) {
    let listener = Listener::bind(data.path()).await.expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let fake = fake.clone();
    let task = tokio::spawn(async move {
        let stopped = async move {
            let _ = stopped.await;
        };
        listener.serve(fake, stopped).await.expect("served");
    });
    (Some(stop), task)
}
