//! The process that holds the lease and dies with it.

use std::{
    ffi::CString,
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use fleet_guard::{Lease, Status};
use fleet_mutants::{Mutant, planted};
use fleet_types::AgentClass;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        mman::{MlockAllFlags, mlockall},
        signal::{SigEvent, SigSet, SigevNotify, Signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{getsockopt, sockopt::PeerCredentials},
        time::TimeSpec,
        timer::{Expiration, Timer, TimerSetTimeFlags},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    time::{ClockId, clock_gettime},
    unistd::execvp,
};
use rustix::rand::{GetRandomFlags, getrandom};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::{book::Book, stand_in::end_after};

/// Longest request; a client that sends more without a line end is cut off.
const REQUEST_BYTES_MAX: usize = 128;
/// Pause between looks at a group that is being emptied.
const EMPTYING: Duration = Duration::from_millis(5);
/// Least of a lease that must be left for the guard to be replaced, which takes some milliseconds.
const REPLACING: Duration = Duration::from_millis(100);

/// The clock this machine counts by, and one that stands still while a hypervisor lets the machine
/// stand still, so that nobody here could tell that a lease is over.
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
const BLIND_CLOCK: &str = "kvm-clock";

/// How it was called.
pub(crate) struct Options {
    pub(crate) socket: PathBuf,
    pub(crate) group: PathBuf,
    pub(crate) class: AgentClass,
}

/// What came before.
pub(crate) enum Start {
    /// Nothing may run.
    Fresh,
    /// This very process, with another program: its init, and what was held.
    Replaced(Option<Lease>),
}

/// Goes on while the machine sleeps, and nobody sets it.
fn clock() -> ClockId {
    if planted(Mutant::WallClock) { ClockId::CLOCK_REALTIME } else { ClockId::CLOCK_BOOTTIME }
}

fn boot_ms() -> u64 {
    let now = clock_gettime(clock()).expect("Linux has this clock");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds * 1_000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
}

/// Runs until the lease ends, init does, or it is told to.
pub(crate) fn run(options: Options, start: Start) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGHUP);
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let mut ends = SigSet::empty();
    // The stand-in's, whatever was blocked where this was started.
    ends.add(Signal::SIGALRM);
    ends.thread_unblock()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut lacks = take_priority();
    let (lease, init) = match start {
        Start::Fresh => {
            let directory = options.socket.parent().unwrap_or(Path::new("/run"));
            fs::create_dir_all(directory)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
            if UnixStream::connect(&options.socket).is_ok() {
                return Err(io::Error::other("another guard is running"));
            }
            empty(&options.group)?;
            // Before init is there: it would start agents under a lease that nobody holds any more.
            remove(&options.socket.with_file_name("status"))?;
            (None, Some(start_init(&options)?))
        }
        Start::Replaced(lease) => (lease, None),
    };
    let killer = SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 };
    let timer = Timer::new(clock(), SigEvent::new(killer))?;
    lacks.ends_agents = has_namespace();
    let (book, _init) = (Book::with(lease), init);
    let mut guard = Guard { options, timer, book, lacks };
    if let Some(held) = lease {
        guard.arm(held)?;
        end_after(Duration::ZERO)?;
    }
    guard.publish();
    remove(&guard.options.socket)?;
    let listener = UnixListener::bind(&guard.options.socket)?;
    guard.serve(&listener, &signals)
}

/// Whether root is at the other end of a socket.
fn from_root(socket: &impl AsFd) -> bool {
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

/// Removes a file that may not be there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What a guard lacks.
struct Lacks {
    /// Without this the end may be late.
    degraded: Option<String>,
    /// Without this it may be late by any time.
    unfit: Option<String>,
    /// Whether agents end with it; else the next guard ends them, once it is there.
    ends_agents: bool,
}

/// Memory that is never paged out, and a priority no ordinary process has; what could not be had.
fn take_priority() -> Lacks {
    let (mut degraded, mut unfit) = (Vec::new(), Vec::new());
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        degraded.push(format!("memory is not locked: {error}"));
    }
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let lowest = ThreadPriority::from_posix(thread_priority::ScheduleParams { sched_priority: 1 });
    if !planted(Mutant::NoRealtimePriority)
        && let Err(error) = set_thread_priority_and_policy(thread_native_id(), lowest, fifo)
    {
        unfit.push(format!("no real-time priority: {error}"));
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        degraded.push(format!("not spared when memory runs out: {error}"));
    }
    let said = |kind: &str, why: Vec<String>| {
        let why = (!why.is_empty()).then(|| why.join(", "))?;
        eprintln!("fleet-guard: {kind}: {why}");
        Some(why)
    };
    let (degraded, unfit) = (said("degraded", degraded), said("unfit for strict agents", unfit));
    Lacks { degraded, unfit, ends_agents: true }
}

/// What the clock lacks. The kernel may turn to another at any time.
fn clock_lacks() -> Option<String> {
    let blind = fs::read_to_string(CLOCK).is_ok_and(|clock| clock.trim() == BLIND_CLOCK);
    blind.then(|| format!("the clock {BLIND_CLOCK} does not see a pause of the machine"))
}

/// Whether init, once it is started, is the first of a namespace that ends with it.
fn has_namespace() -> bool {
    let namespace = |of| fs::read_link(format!("/proc/self/ns/{of}")).ok();
    planted(Mutant::NoPidNamespace) || namespace("pid") != namespace("pid_for_children")
}

/// Kills what an earlier guard's init may have left, until nothing runs.
fn empty(group: &Path) -> io::Result<()> {
    fs::create_dir_all(group)?;
    loop {
        fs::write(group.join("cgroup.kill"), "1")?;
        let events = fs::read_to_string(group.join("cgroup.events"))?;
        if events.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        std::thread::sleep(EMPTYING);
    }
}

fn start_init(options: &Options) -> io::Result<Child> {
    if !planted(Mutant::NoPidNamespace)
        && let Err(error) = unshare(CloneFlags::CLONE_NEWPID)
    {
        eprintln!("fleet-guard: no namespace for agents: {error}");
    }
    let program = std::env::current_exe()?.with_file_name("fleet-init");
    let mut init = Command::new(program)
        .arg(options.socket.with_file_name("init"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = [0; 6];
    let out = init.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    out.read_exact(&mut said).map_err(|_| io::Error::other("init did not start"))?;
    Ok(init)
}

struct Guard {
    options: Options,
    timer: Timer,
    book: Book,
    lacks: Lacks,
}

impl Guard {
    /// From here on the kernel kills this process at the deadline.
    fn arm(&mut self, lease: Lease) -> io::Result<()> {
        let at = TimeSpec::from_duration(Duration::from_millis(lease.deadline_ms));
        let absolute = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        Ok(self.timer.set(Expiration::OneShot(at), absolute)?)
    }

    fn status(&self) -> String {
        let Lacks { degraded, unfit, ends_agents } = &self.lacks;
        let outlived = (!ends_agents).then(|| "no namespace of agents ends with it".into());
        let unfit: Vec<String> =
            unfit.iter().cloned().chain(clock_lacks()).chain(outlived).collect();
        let unfit = (!unfit.is_empty()).then(|| unfit.join(", "));
        let degraded = degraded.clone();
        Status { held: self.book.lease, degraded, unfit }.to_string()
    }

    /// Writes the status where it can be read without asking; never half of it.
    fn publish(&self) {
        let path = self.options.socket.with_file_name("status");
        let new = path.with_extension("new");
        let written = fs::write(&new, self.status() + "\n").and_then(|()| fs::rename(&new, path));
        if let Err(error) = written {
            eprintln!("fleet-guard: the status file: {error}");
        }
    }

    /// An error ends the guard, and everything with it.
    fn answer(&mut self, request: &str) -> io::Result<String> {
        Ok(match request.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["begin"] => {
                let mut nonce = [0; 8];
                getrandom(&mut nonce, GetRandomFlags::empty())?;
                let nonce = u64::from_ne_bytes(nonce);
                self.book.begin(nonce, boot_ms());
                format!("nonce {nonce}")
            }
            ["grant", nonce, epoch, lease_ms] => {
                let (Ok(nonce), Ok(epoch), Ok(lease_ms)) =
                    (nonce.parse(), epoch.parse(), lease_ms.parse())
                else {
                    return Ok("refused not a number".into());
                };
                let class = self.options.class;
                // Of strict ones none is placed here, and pinned ones are placed nowhere else.
                if class == AgentClass::Sticky && !self.lacks.ends_agents {
                    return Ok("refused: agents would outlive their lease".into());
                }
                match self.book.grant(nonce, epoch, lease_ms, boot_ms(), class) {
                    Err(why) => format!("refused {why}"),
                    Ok(held) => {
                        self.arm(held)?;
                        self.publish();
                        self.status()
                    }
                }
            }
            ["raise", lease_ms] => match lease_ms.parse().map(|ms| self.book.raise(ms)) {
                Ok(Ok(())) => self.status(),
                Ok(Err(why)) => format!("refused {why}"),
                Err(_) => "refused not a number".into(),
            },
            ["status"] => self.status(),
            _ => "refused not a request".into(),
        })
    }

    /// Lets requests and signals come in; returns when this guard is to end.
    fn serve(mut self, listener: &UnixListener, signals: &SignalFd) -> io::Result<()> {
        let mut client: Option<(UnixStream, Vec<u8>)> = None;
        loop {
            let mut fds = vec![
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            ];
            if let Some((stream, _)) = &client {
                fds.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            if ready[0] {
                while let Some(signal) = signals.read_signal()? {
                    if signal.ssi_signo != Signal::SIGCHLD as u32 {
                        self.replace()?;
                    } else if waitpid(None, Some(WaitPidFlag::WNOHANG))? != WaitStatus::StillAlive {
                        return Err(io::Error::other("init is dead, and with it every agent"));
                    }
                }
            }
            if ready[1] {
                let (stream, _) = listener.accept()?;
                // The newest daemon counts; an older one is gone or should be.
                if from_root(&stream) {
                    client = Some((stream, Vec::new()));
                    continue;
                }
            }
            if ready.get(2) == Some(&true)
                && let Some((mut stream, mut buffer)) = client.take()
            {
                match self.hear(&mut stream, &mut buffer)? {
                    Heard::Goes => client = Some((stream, buffer)),
                    Heard::Gone => {}
                    Heard::End => return Ok(()),
                }
            }
        }
    }

    /// Answers what a client sent.
    fn hear(&mut self, stream: &mut UnixStream, buffer: &mut Vec<u8>) -> io::Result<Heard> {
        let mut bytes = [0; REQUEST_BYTES_MAX];
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return Ok(Heard::Gone),
            Ok(length) => buffer.extend_from_slice(&bytes[..length]),
        }
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if line == b"end\n" {
                // Who asked may have gone; the end comes all the same.
                let _ = stream.write_all(b"ending\n");
                return Ok(Heard::End);
            }
            let answer = self.answer(&String::from_utf8_lossy(&line))?;
            if stream.write_all(format!("{answer}\n").as_bytes()).is_err() {
                return Ok(Heard::Gone);
            }
        }
        Ok(if buffer.len() < REQUEST_BYTES_MAX { Heard::Goes } else { Heard::Gone })
    }

    /// Becomes the program at this one's path, with the lease it has.
    fn replace(&mut self) -> io::Result<()> {
        let lease = self.book.lease;
        if let Some(held) = lease {
            let left = Duration::from_millis(held.deadline_ms.saturating_sub(boot_ms()));
            if left < REPLACING {
                eprintln!("fleet-guard: too little of the lease is left to be replaced now");
                return Ok(());
            }
            end_after(left)?;
        }
        let (epoch, deadline_ms) = lease.map_or((0, 0), |held| (held.epoch, held.deadline_ms));
        let Options { socket, group, class } = &self.options;
        let args = [
            std::env::args_os().next().unwrap_or_default().into_vec(),
            socket.as_os_str().as_bytes().to_vec(),
            group.as_os_str().as_bytes().to_vec(),
            class.as_str().into(),
            "resume".into(),
            epoch.to_string().into(),
            deadline_ms.to_string().into(),
        ];
        let args = args.map(CString::new).into_iter().collect::<Result<Vec<_>, _>>()?;
        // Not the standard library's, which lets signals through that are blocked here: another
        // SIGHUP would kill the new program before it blocks them itself.
        let Err(error) = execvp(&args[0], &args);
        end_after(Duration::ZERO)?;
        eprintln!("fleet-guard: was not replaced: {error}");
        Ok(())
    }
}

enum Heard {
    /// More may come.
    Goes,
    /// The client is gone, or cut off.
    Gone,
    /// The lease is to end.
    End,
}
