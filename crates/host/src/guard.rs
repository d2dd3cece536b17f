//! A [`Deadline`] enforced by `fleet-guard`, which outlives this process and is not paused by what
//! pauses it.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use fleet_runtime::clock::boot_ms;
use tokio::sync::watch;

use crate::lease::{Deadline, Lease};

/// How long the guard may take to answer; it does nothing that takes long.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the watching thread looks.
const LOOK: Duration = Duration::from_millis(20);

struct Shared {
    socket: PathBuf,
    stream: Mutex<Option<BufReader<UnixStream>>>,
    lease: Mutex<Option<Lease>>,
    announced: watch::Sender<Option<Lease>>,
}

/// The guard, as the daemon knows it.
#[derive(Clone)]
pub struct GuardDeadline {
    shared: Arc<Shared>,
}

impl Shared {
    /// Makes a request and answers what the guard says.
    fn ask(&self, request: &str) -> io::Result<String> {
        let mut held = self.stream.lock().expect("no holder panics");
        let mut stream = match held.take() {
            Some(stream) => stream,
            None => {
                let stream = UnixStream::connect(&self.socket)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        if stream.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *held = Some(stream);
        Ok(answer.trim().to_owned())
    }

    fn forget(&self) {
        *self.lease.lock().expect("no holder panics") = None;
    }

    /// Waits for the end of a lease, then until nothing runs, then says so.
    fn watch(&self) {
        loop {
            std::thread::sleep(LOOK);
            let lease = *self.lease.lock().expect("no holder panics");
            let announced = self.announced.borrow().is_some();
            if lease.is_some_and(|lease| boot_ms() >= lease.deadline_ms) {
                self.forget();
            } else if lease.is_some() || !announced {
                continue;
            }
            match self.ask("status").as_deref() {
                Ok("empty") => {
                    tracing::warn!("the lease is over: every agent of this node was ended");
                    self.announced.send_replace(None);
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "the guard does not answer"),
            }
        }
    }
}

impl GuardDeadline {
    /// Connects to the guard at `socket`.
    ///
    /// # Errors
    /// When none answers there.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let (announced, _) = watch::channel(None);
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            stream: Mutex::new(None),
            lease: Mutex::new(None),
            announced,
        });
        shared.ask("status")?;
        let watching = shared.clone();
        std::thread::Builder::new().name("guard-watch".into()).spawn(move || watching.watch())?;
        Ok(Self { shared })
    }
}

impl Deadline for GuardDeadline {
    fn extend(&self, new: Lease) {
        let request = format!("extend {} {}", new.epoch, new.deadline_ms);
        match self.shared.ask(&request) {
            Ok(answer) if answer.starts_with("held") => {
                *self.shared.lease.lock().expect("no holder panics") = Some(new);
                self.shared.announced.send_replace(Some(new));
            }
            Ok(answer) => tracing::debug!(answer, "the guard did not take a renewal"),
            // A guard that died took its agents along; the next one knows of no lease.
            Err(error) => {
                tracing::error!(%error, "the guard does not answer");
                self.shared.forget();
            }
        }
    }

    fn current(&self) -> Option<Lease> {
        let lease = *self.shared.lease.lock().expect("no holder panics");
        lease.filter(|lease| boot_ms() < lease.deadline_ms)
    }

    fn end(&self) {
        self.shared.forget();
        if let Err(error) = self.shared.ask("end") {
            tracing::error!(%error, "the guard does not answer");
        }
    }

    fn watch(&self) -> watch::Receiver<Option<Lease>> {
        self.shared.announced.subscribe()
    }
}
