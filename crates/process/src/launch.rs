//! Turning a short-lived process into an agent.
//!
//! The daemon starts its own binary as `fleet-cluster launch` and writes a [`LaunchSpec`] to its
//! standard input. That process enters the agent's control group, takes a host name of its own,
//! gives up root for the agent's uid, writes the agent's files *as that uid* (so nothing an agent
//! plants in its HOME, a symbolic link say, can make root write elsewhere), and becomes the agent.
//!
//! It looks at the lease after it entered the group: had the group been killed before, this
//! process would have escaped the kill, and the lease it was started under would be over.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        stat::{Mode, umask},
        time::TimeValLike,
    },
    time::{ClockId, clock_gettime},
    unistd::{Gid, Uid, execve, setgroups, sethostname, setresgid, setresuid},
};
use serde::{Deserialize, Serialize};

/// A file the agent needs, relative to its HOME.
#[derive(Clone, Serialize, Deserialize)]
pub struct LaunchFile {
    /// Where, relative to HOME.
    pub path: PathBuf,
    /// What is in it.
    pub content: String,
}

/// Everything a launch needs.
#[derive(Clone, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The agent's control group.
    pub group: PathBuf,
    /// The moment on `CLOCK_BOOTTIME`, in milliseconds, at which the lease it is started under
    /// ends.
    pub deadline_ms: u64,
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

fn drop_root(uid: u32) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_no_new_privs()
}

fn strings(texts: impl IntoIterator<Item = String>) -> io::Result<Vec<CString>> {
    texts.into_iter().map(|text| CString::new(text).map_err(io::Error::other)).collect()
}

/// Reads a [`LaunchSpec`] from standard input and becomes the agent. Returns only on failure.
///
/// # Errors
/// Whatever stood in the way; the caller prints it and exits non-zero.
pub fn become_agent() -> io::Result<std::convert::Infallible> {
    let spec: LaunchSpec = serde_json::from_reader(io::stdin()).map_err(io::Error::other)?;
    let own = std::process::id().to_string();
    fs::write(spec.group.join("cgroup.procs"), own)
        .map_err(context("entering the control group"))?;
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    if u64::try_from(now.num_milliseconds()).unwrap_or(0) >= spec.deadline_ms {
        return Err(io::Error::other("the node's lease ended before the agent started"));
    }
    rustix::process::setpriority_process(None, 0)?;
    unshare(CloneFlags::CLONE_NEWUTS)?;
    sethostname(&spec.hostname)?;
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    drop_root(spec.uid).map_err(|e| context("giving up root")(e.into()))?;
    // Set after the uid changed, which would clear it; without the daemon nobody ends the lease.
    prctl::set_pdeathsig(Some(Signal::SIGKILL))?;
    prepare_home(&spec)?;
    std::env::set_current_dir(&spec.home).map_err(context("entering HOME"))?;
    let null = fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    let environment = spec.environment.iter().map(|(key, value)| format!("{key}={value}"));
    let (command, environment) = (strings(spec.command.clone())?, strings(environment)?);
    let program = command.first().ok_or_else(|| io::Error::other("no program to run"))?;
    execve(program.as_c_str(), &command, &environment)
        .map_err(|e| context(&format!("running {}", spec.command[0]))(e.into()))
}
