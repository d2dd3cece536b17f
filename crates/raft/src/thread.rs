//! The thread consensus has for itself.
//!
//! Calls of operators and the supervision of agents run elsewhere, so a flood of them delays no
//! vote and no heartbeat. And it is one thread: an entry passes through a dozen tasks, which cost
//! less where none of them wakes another processor.

use std::{io, sync::Mutex, time::Duration};

use tokio::runtime::{Builder, Handle, Runtime};

/// How long its tasks may take to end.
const GOODBYE: Duration = Duration::from_secs(1);

pub(crate) struct Thread {
    handle: Handle,
    /// Taken away to end it.
    runtime: Mutex<Option<Runtime>>,
}

impl Thread {
    pub(crate) fn start() -> io::Result<Self> {
        // Not the current-thread kind: that one cannot step aside for what blocks, as a snapshot.
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("raft").enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok(Self { handle, runtime: Mutex::new(Some(runtime)) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    fn take(&self) -> Option<Runtime> {
        self.runtime.lock().expect("no holder panics").take()
    }

    /// Ends what runs on it and waits for that: RocksDB must be closed before the process ends.
    pub(crate) async fn end(&self) {
        let Some(runtime) = self.take() else { return };
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(GOODBYE));
        if let Err(error) = ended.await {
            tracing::warn!(%error, "the thread of consensus did not end cleanly");
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // An ordinary drop would wait, which a task may not; who ends in order calls `end`.
        if let Some(runtime) = self.take() {
            runtime.shutdown_background();
        }
    }
}
