//! Starting launchers and waiting for what they became.

use std::{
    io::{self, Write},
    os::fd::OwnedFd,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};

use crate::{launch::LaunchSpec, logs::LogFile};

/// Launches that may wait for the spawning thread.
const WAITING_MAX: usize = 1_024;

struct Order {
    spec: LaunchSpec,
    log: LogFile,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts processes from one thread that never ends: the parent-death signal agents carry fires
/// when the *thread* that started them does.
#[derive(Clone)]
pub struct Spawner {
    orders: mpsc::SyncSender<Order>,
}

/// A started process.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    process: std::process::Child,
    pidfd: AsyncFd<OwnedFd>,
}

impl Spawner {
    /// Starts the spawning thread.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> io::Result<Self> {
        let (orders, queue) = mpsc::sync_channel::<Order>(WAITING_MAX);
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        std::thread::Builder::new().name("spawn".into()).spawn(move || {
            let _entered = runtime.enter();
            for order in queue {
                // The asker may be gone; the child is then dropped and its group killed later.
                let _ = order.reply.send(spawn(&order.spec, &order.log));
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts `spec`, its output appended to `log`.
    ///
    /// # Errors
    /// When the process cannot be made. What goes wrong after that ends the process with a message
    /// in its log.
    pub async fn launch(&self, spec: LaunchSpec, log: LogFile) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        self.orders
            .try_send(Order { spec, log, reply })
            .map_err(|_| io::Error::other("too many launches wait"))?;
        answer.await.map_err(|_| io::Error::other("the spawning thread ended"))?
    }
}

fn spawn(spec: &LaunchSpec, log: &LogFile) -> io::Result<Child> {
    let output = log.open()?;
    let mut process = Command::new("/proc/self/exe")
        .arg("launch")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    let mut stdin = process.stdin.take().ok_or_else(|| io::Error::other("no pipe"))?;
    stdin.write_all(&serde_json::to_vec(spec).map_err(io::Error::other)?)?;
    drop(stdin);
    let pid = process.id();
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| io::Error::other("pid out of range"))?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
    #[expect(deprecated, reason = "an OwnedFd keeps its file; the replacement is unsafe code")]
    let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
    Ok(Child { pid, process, pidfd })
}

impl Child {
    /// Its process id, for people.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// When the kernel refuses; a process that is gone is no error.
    pub fn terminate(&self) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::TERM) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for its end. Cancelling loses nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let _ready = self.pidfd.ready(Interest::READABLE).await?;
        self.process.wait()
    }
}

/// The signal that ended a process, or its exit code.
pub fn signal_or_code(status: ExitStatus) -> Result<i32, i32> {
    status.signal().map_or_else(|| Err(status.code().unwrap_or(-1)), Ok)
}
