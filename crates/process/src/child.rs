//! Starting launchers and waiting for what they became.
//!
//! The processes are children of init, which the guard keeps beside the daemon: they outlive the
//! daemon, and their exit statuses wait for it there.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Seek, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard},
};

use fleet_init::{Report, Request, receive, send};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    process::{Signal, pidfd_send_signal},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};

use crate::{cgroup::Group, launch::LaunchSpec, logs::LogFile};

/// A process that ended with its namespace, and whose status nobody could keep.
const KILLED: i32 = 9;

/// Starts processes by way of init. Clones share the connection, which is made anew when init is.
#[derive(Clone)]
pub struct Launcher {
    socket: PathBuf,
    /// Opened once: an upgrade may put another at its path, which reads other specifications.
    program: Arc<File>,
    link: Arc<Mutex<Link>>,
}

#[derive(Default)]
struct Link {
    /// None until the first launch, and after init ended.
    socket: Option<Arc<OwnedFd>>,
    launches: HashMap<String, oneshot::Sender<io::Result<Child>>>,
    exits: HashMap<String, oneshot::Sender<i32>>,
    listing: Option<(Vec<Child>, oneshot::Sender<Vec<Child>>)>,
}

/// A process that was started, by this daemon or one before it.
#[derive(Debug)]
pub struct Child {
    key: String,
    pid: u32,
    /// None when it had ended before this daemon asked.
    pidfd: Option<OwnedFd>,
    /// None once it was heard, or nobody is left to say it.
    exit: Option<oneshot::Receiver<i32>>,
    status: Option<i32>,
}

impl Link {
    fn child(&mut self, key: &str, pidfd: Option<OwnedFd>) -> Child {
        let (ended, exit) = oneshot::channel();
        self.exits.insert(key.to_owned(), ended);
        let pid = pidfd.as_ref().and_then(|pidfd| pid_of(pidfd).ok()).unwrap_or(0);
        Child { key: key.to_owned(), pid, pidfd, exit: Some(exit), status: None }
    }

    fn hear(&mut self, report: Report, descriptors: Vec<OwnedFd>) {
        let pidfd = descriptors.into_iter().next();
        match report {
            Report::Launched(key) => {
                let child = self.child(&key, pidfd);
                if let Some(reply) = self.launches.remove(&key) {
                    // The asker may be gone; its group is killed later.
                    let _ = reply.send(Ok(child));
                }
            }
            // Said to init alone.
            Report::Born(..) => {}
            Report::Failed(key, why) => {
                if let Some(reply) = self.launches.remove(&key) {
                    let _ = reply.send(Err(io::Error::other(why)));
                }
            }
            Report::Running(key) => {
                let child = self.child(&key, pidfd);
                if let Some((found, _)) = &mut self.listing {
                    found.push(child);
                }
            }
            Report::Exited(key, status) => {
                if !self.exits.contains_key(&key) && self.listing.is_some() {
                    let child = self.child(&key, None);
                    if let Some((found, _)) = &mut self.listing {
                        found.push(child);
                    }
                }
                if let Some(exit) = self.exits.remove(&key) {
                    let _ = exit.send(status);
                }
            }
            Report::Listed => {
                if let Some((found, reply)) = self.listing.take() {
                    let _ = reply.send(found);
                }
            }
        }
    }
}

/// The number of the process behind a pidfd, as this process sees it.
fn pid_of(pidfd: &OwnedFd) -> io::Result<u32> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let line = about.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.and_then(|pid| pid.trim().parse().ok()).ok_or(io::ErrorKind::InvalidData.into())
}

fn specification(spec: &LaunchSpec) -> io::Result<File> {
    let mut file = File::from(memfd_create("launch", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(spec).map_err(io::Error::other)?)?;
    file.rewind()?;
    Ok(file)
}

impl Launcher {
    /// A launcher by way of the init that listens, or will, at `socket`.
    ///
    /// # Errors
    /// When `fleet-launch` does not lie beside this program.
    pub fn new(socket: PathBuf) -> io::Result<Self> {
        let path = std::env::current_exe()?.with_file_name("fleet-launch");
        let program = File::open(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(Self { socket, program: Arc::new(program), link: Arc::default() })
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().expect("no holder panics")
    }

    /// The connection to init; a thread hears what comes over it until init ends.
    fn connected(&self) -> io::Result<Arc<OwnedFd>> {
        let mut link = self.link();
        if let Some(socket) = &link.socket {
            return Ok(socket.clone());
        }
        let socket = Arc::new(open(&self.socket)?);
        link.socket = Some(socket.clone());
        let (heard, shared) = (socket.clone(), self.link.clone());
        std::thread::Builder::new().name("launch".into()).spawn(move || {
            while let Ok(Some((report, descriptors))) = receive::<Report>(&heard) {
                shared.lock().expect("no holder panics").hear(report, descriptors);
            }
            // Whoever waits for a launch or an exit sees that nobody will answer.
            *shared.lock().expect("no holder panics") = Link::default();
        })?;
        Ok(socket)
    }

    /// What runs, or ran, from before this daemon. Init must be asked before anything is launched.
    ///
    /// # Errors
    /// When init is not there.
    pub async fn found(&self) -> io::Result<Vec<Child>> {
        let socket = self.connected()?;
        let (reply, answer) = oneshot::channel();
        self.link().listing = Some((Vec::new(), reply));
        send(&*socket, &Request::List, &[])?;
        answer.await.map_err(|_| gone())
    }

    /// Starts `spec` in `group`, its output appended to `log`. The key, without spaces, was never used before.
    ///
    /// # Errors
    /// When the process cannot be made. What goes wrong after that ends the process with a message
    /// in its log.
    pub async fn launch(
        &self,
        key: &str,
        spec: &LaunchSpec,
        log: &LogFile,
        group: &Group,
    ) -> io::Result<Child> {
        let socket = self.connected()?;
        let (input, output, group) = (specification(spec)?, log.open()?, File::open(group.path())?);
        let (reply, answer) = oneshot::channel();
        self.link().launches.insert(key.to_owned(), reply);
        let given = [self.program.as_fd(), input.as_fd(), output.as_fd(), group.as_fd()];
        send(&*socket, &Request::Launch(key.to_owned()), &given)?;
        answer.await.map_err(|_| gone())?
    }

    /// Lets init forget a process that has ended.
    pub fn forget(&self, child: &Child) {
        // Not under the lock: who hears init needs it, and init waits for that when it has much to
        // say.
        let socket = self.link().socket.clone();
        if let Some(socket) = socket {
            // An init that is gone has forgotten everything.
            let _ = send(&*socket, &Request::Forget(child.key.clone()), &[]);
        }
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn gone() -> io::Error {
    io::Error::other("the guard ended, and with it everything it ran")
}

impl Child {
    /// Its process id, for people; 0 when it had ended.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it was launched as.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// When the kernel refuses; a process that is gone is no error.
    pub fn terminate(&self) -> io::Result<()> {
        let Some(pidfd) = &self.pidfd else { return Ok(()) };
        match pidfd_send_signal(pidfd, Signal::TERM) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether it ran when this daemon first heard of it.
    pub fn was_running(&self) -> bool {
        self.pidfd.is_some()
    }

    /// Whether init said how it ended; after [`Child::wait`].
    pub fn was_told_of(&self) -> bool {
        self.status.is_some()
    }

    /// Waits for its end. Cancelling loses nothing.
    pub async fn wait(&mut self) -> ExitStatus {
        if let Some(exit) = &mut self.exit {
            self.status = exit.await.ok();
            self.exit = None;
        }
        if self.status.is_none() {
            self.ended().await;
        }
        ExitStatus::from_raw(self.status.unwrap_or(KILLED))
    }

    /// Waits for its end where nobody says how it ended: init has ended and it with it, or init cut
    /// this daemon off, which had not listened for long, and it runs on.
    async fn ended(&self) {
        let Some(pidfd) = &self.pidfd else { return };
        #[expect(
            deprecated,
            reason = "a BorrowedFd keeps its file; the replacement is unsafe code"
        )]
        let pidfd = AsyncFd::with_interest(pidfd.as_fd(), Interest::READABLE);
        if let Ok(pidfd) = pidfd {
            // Readable once it has ended.
            let _ = pidfd.readable().await;
        }
    }
}

/// The signal that ended a process, or its exit code.
pub fn signal_or_code(status: ExitStatus) -> Result<i32, i32> {
    status.signal().map_or_else(|| Err(status.code().unwrap_or(-1)), Ok)
}

#[cfg(test)]
mod tests {
    use std::{future::Future, process::Command, task::Poll};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[tokio::test]
    async fn what_runs_has_not_ended_because_init_says_no_more() {
        let mut sleeps = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&sleeps), PidfdFlags::empty()).unwrap();
        let mut link = Link::default();
        let mut child = link.child("f/a", Some(pidfd));
        drop(link);
        for _ in 0..2 {
            let mut waiting = std::pin::pin!(child.wait());
            let polled = std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
            assert_eq!(polled, Poll::Pending);
        }
        sleeps.kill().unwrap();
        assert_eq!(signal_or_code(child.wait().await), Ok(KILLED));
        sleeps.wait().unwrap();
    }
}
