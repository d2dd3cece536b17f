//! Turning a process into an agent.
//!
//! `fleet-launch` waits for what init asks, and makes a process of itself for each start: in the
//! agent's control group, with a [`LaunchSpec`] on its standard input. That process takes
//! namespaces and a host name of its own, gives up root for the agent's uid, writes the agent's
//! files *as that uid* (so nothing an agent plants in its HOME, a symbolic link say, can make root
//! write elsewhere), confines itself, and becomes the agent.
//!
//! It asks for the lease first: the guard that holds it would take this process along when it ends,
//! and a guard that holds none must have nothing to end.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    io::{self, ErrorKind, Write},
    os::{
        fd::AsFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use fleet_guard::Status;
use fleet_init::{LAUNCH_FAILED, LAUNCH_HINDERED, Report, Request, receive, send};
use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
        stat::{Mode, SFlag, fstat, umask},
        time::TimeValLike,
    },
    time::{ClockId, clock_gettime},
    unistd::{
        Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, execve, setgroups, sethostname, setresgid,
        setresuid,
    },
};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use crate::{
    birth::{Born, bear},
    sandbox::{self, Confinement},
};

/// A file the agent needs, relative to its HOME.
#[derive(Clone, Serialize, Deserialize)]
pub struct LaunchFile {
    /// Where, relative to HOME.
    pub path: PathBuf,
    /// What is in it.
    pub content: String,
}

/// The lease a launch needs.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct LeaseCheck {
    /// Where the guard writes what it holds.
    pub status: PathBuf,
    /// The epoch it must hold.
    pub epoch: u64,
}

impl LeaseCheck {
    /// Whether the guard's `status` is that it holds the lease at `now_ms` of `CLOCK_BOOTTIME`.
    fn allows(&self, status: &str, now_ms: u64) -> bool {
        let held = status.trim_end().parse::<Status>().ok().and_then(|status| status.held);
        held.is_some_and(|held| held.epoch == self.epoch && now_ms < held.deadline_ms)
    }
}

/// Everything a launch needs.
#[derive(Clone, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The agent's control groups of version 1; it is born in that of version 2.
    pub groups: Vec<PathBuf>,
    /// Files each of its processes may have open; 0 for the system's limit.
    pub open_files: u32,
    /// How large one of its files may grow, in bytes; 0 for any size.
    pub file_bytes: u64,
    /// The lease it is started under.
    pub lease: LeaseCheck,
    /// Its uid and gid.
    pub uid: u32,
    /// Its host name.
    pub hostname: String,
    /// Its HOME, which exists and is its own.
    pub home: PathBuf,
    /// Directories made in its HOME.
    pub directories: Vec<PathBuf>,
    /// Files written to its HOME, replacing older ones.
    pub files: Vec<LaunchFile>,
    /// Program and arguments; the program is an absolute path.
    pub command: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// What it may touch beside its HOME.
    pub confinement: Confinement,
}

/// Why a process did not become the agent.
struct Failure {
    error: io::Error,
    /// What the process exits with.
    code: u8,
}

impl Failure {
    fn of_node(error: io::Error) -> Self {
        Self { error, code: LAUNCH_HINDERED }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem => Self::of_node(error),
            _ => Self { error, code: LAUNCH_FAILED },
        }
    }
}

impl From<nix::Error> for Failure {
    fn from(error: nix::Error) -> Self {
        io::Error::from(error).into()
    }
}

fn context(what: &str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// A path that stays inside the directory it is relative to.
fn inside(path: &Path) -> io::Result<&Path> {
    let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain { Ok(path) } else { Err(io::Error::other(format!("{} leaves HOME", path.display()))) }
}

fn prepare_home(spec: &LaunchSpec) -> io::Result<()> {
    for directory in &spec.directories {
        let path = spec.home.join(inside(directory)?);
        fs::create_dir_all(&path).map_err(context("making a directory in HOME"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    }
    for file in &spec.files {
        let path = spec.home.join(inside(&file.path)?);
        let temporary = path.with_extension("fleet-new");
        let _ = fs::remove_file(&temporary);
        let write = || -> io::Result<()> {
            let options = &mut fs::OpenOptions::new();
            let options = options.write(true).create_new(true).mode(0o600);
            io::Write::write_all(&mut options.open(&temporary)?, file.content.as_bytes())?;
            fs::rename(&temporary, &path)
        };
        write().map_err(context("writing the agent's configuration"))?;
    }
    Ok(())
}

/// The standing of an ordinary process when memory runs out. Its scheduling is that already.
fn ordinary() -> io::Result<()> {
    let spared = "/proc/self/oom_score_adj";
    if fs::read_to_string(spared)?.starts_with('-') { fs::write(spared, "0") } else { Ok(()) }
}

fn drop_root(uid: u32) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_no_new_privs()
}

/// This program's start ignored SIGPIPE; an agent that does is not ended by what it writes to.
#[allow(unsafe_code, reason = "setting a handler is; this one runs no code")]
fn heed_sigpipe() -> nix::Result<()> {
    // SAFETY: the default action is the kernel's.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.map(drop)
}

fn strings(texts: impl IntoIterator<Item = String>) -> io::Result<Vec<CString>> {
    texts.into_iter().map(|text| CString::new(text).map_err(io::Error::other)).collect()
}

/// Says why a process does not become the agent; its log may be on a full disk, too.
fn said(why: &io::Error, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "fleet-launch: {why}");
    code.into()
}

/// Makes the agents that init asks for on standard input, until init is gone or asks another. In a
/// process that was to be an agent it returns when that failed. Answers how the process is to exit.
///
/// # Errors
/// When this kernel cannot deny system calls, or what is asked is no request.
pub fn serve() -> io::Result<ExitCode> {
    prctl::set_name(c"fleet-launch")?;
    // Not those it has: what it executes later gets no others.
    sandbox::drop_capabilities().map_err(context("giving up capabilities"))?;
    let calls = sandbox::denied_calls()?;
    let init = io::stdin();
    if fstat(&init)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFSOCK.bits() {
        // An init of before a rolling upgrade, which executes a launcher for each agent.
        let Err(Failure { error, code }) = become_agent(&calls);
        return Ok(said(&error, code));
    }
    while let Some((request, descriptors)) = receive(&init)? {
        let (Request::Launch(key), [input, output, group]) = (request, descriptors.as_slice())
        else {
            return Err(io::Error::other("init asks for something else than a launch"));
        };
        match bear(group.as_fd()) {
            Ok(Born::Child) => {
                let streams = dup2_stdin(input).and(dup2_stdout(output)).and(dup2_stderr(output));
                let became = streams.map_err(Failure::from).and_then(|()| become_agent(&calls));
                let Err(Failure { error, code }) = became;
                return Ok(said(&error, code));
            }
            Ok(Born::Parent(pid, pidfd)) => {
                send(&init, &Report::Born(key, pid), &[pidfd.as_fd()])?;
            }
            Err(why) => send(&init, &Report::Failed(key, why.to_string()), &[])?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads a [`LaunchSpec`] from standard input and becomes the agent. Returns only on failure.
fn become_agent(calls: &BpfProgram) -> Result<std::convert::Infallible, Failure> {
    let spec: LaunchSpec = serde_json::from_reader(io::stdin()).map_err(io::Error::other)?;
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    let now_ms = u64::try_from(now.num_milliseconds()).unwrap_or(u64::MAX);
    let held = fs::read_to_string(&spec.lease.status).map_err(context("asking for the lease"));
    if !spec.lease.allows(&held.map_err(Failure::of_node)?, now_ms) {
        let why = "the guard does not hold the lease it was to start under";
        return Err(Failure::of_node(io::Error::other(why)));
    }
    ordinary().map_err(context("giving up being spared"))?;
    for group in &spec.groups {
        // 0 is the writer. As a thread, of which this process has one: moving a process makes the
        // kernel wait for all processors.
        let entered = fs::write(group.join("tasks"), "0");
        entered.map_err(context("entering a control group")).map_err(Failure::of_node)?;
    }
    let separate = sandbox::separate().map_err(context("making namespaces"));
    separate.map_err(Failure::of_node)?;
    sethostname(&spec.hostname)?;
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if spec.open_files > 0 {
        // An upper bound: what the system allows less of stays so.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let files = hard.min(spec.open_files.into());
        setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    }
    if spec.file_bytes > 0 {
        setrlimit(Resource::RLIMIT_FSIZE, spec.file_bytes, spec.file_bytes)?;
    }
    drop_root(spec.uid).map_err(|e| context("giving up root")(e.into()))?;
    prepare_home(&spec)?;
    std::env::set_current_dir(&spec.home).map_err(context("entering HOME"))?;
    let null = fs::File::open("/dev/null")?;
    dup2_stdin(&null)?;
    heed_sigpipe()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    let lacking = sandbox::confine(&spec.home, &spec.confinement);
    if let Some(lacking) = lacking.map_err(context("confining the agent"))? {
        eprintln!("degraded: {lacking}");
    }
    sandbox::deny_calls(calls).map_err(context("filtering system calls"))?;
    let environment = spec.environment.iter().map(|(key, value)| format!("{key}={value}"));
    let (command, environment) = (strings(spec.command.clone())?, strings(environment)?);
    let program = command.first().ok_or_else(|| io::Error::other("no program to run"))?;
    execve(program.as_c_str(), &command, &environment)
        .map_err(|e| context(&format!("running {}", spec.command[0]))(e.into()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_needs_the_lease_it_was_meant_for() {
        let lease = LeaseCheck { status: PathBuf::new(), epoch: 4 };
        assert!(lease.allows("held 4 1000\n", 999));
        assert!(lease.allows("held 4 1000 degraded no real-time priority\n", 999));
        for status in ["held 4 1000", "held 5 2000", "held 3 2000", "empty", "", "held 4"] {
            assert!(!lease.allows(status, 1_000), "{status}");
        }
    }

    #[test]
    fn a_full_disk_is_the_nodes_fault() {
        let code = |kind: ErrorKind| Failure::from(io::Error::from(kind)).code;
        assert_eq!(code(ErrorKind::StorageFull), LAUNCH_HINDERED);
        assert_eq!(code(ErrorKind::PermissionDenied), LAUNCH_FAILED);
        let kept = context("writing")(ErrorKind::StorageFull.into());
        assert_eq!(Failure::from(kept).code, LAUNCH_HINDERED);
    }

    #[test]
    fn files_stay_inside_home() {
        assert!(inside(Path::new("a/b")).is_ok());
        for path in ["/etc/passwd", "../x", "a/../../x"] {
            assert!(inside(Path::new(path)).is_err(), "{path}");
        }
    }
}
