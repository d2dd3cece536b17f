//! `fleet-guard` under something that starts it again when it ends, as a service manager would.

use std::{
    fs,
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{sh, until};

/// The classes of agents, with a guard each.
const CLASSES: [&str; 3] = ["strict", "sticky", "pinned"];

/// A guard that is started again when it ends, until this is dropped.
pub struct Keeper {
    keeper: Child,
    socket: PathBuf,
}

impl Keeper {
    /// Keeps the guards beside `binary` running, by way of `within`, which makes a command that
    /// runs others. That of strict agents is first.
    pub fn start_all(
        within: impl Fn() -> Command,
        binary: &Path,
        directory: &Path,
        group: &Path,
    ) -> Vec<Self> {
        let start = |class: &&str| {
            let (socket, group) = (directory.join(class).join("socket"), group.join(class));
            Self::start(within(), binary, &socket, &group, class)
        };
        CLASSES.iter().map(start).collect()
    }

    fn start(mut within: Command, binary: &Path, socket: &Path, group: &Path, class: &str) -> Self {
        // One left by a guard that was killed answers nobody.
        let _ = fs::remove_file(socket);
        let keeper = within
            .args(["sh", "-c", "while :; do \"$@\"; sleep 0.1; done", "-"])
            .arg(binary.with_file_name("fleet-guard"))
            .arg(socket)
            .arg(group)
            .arg(class)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let keeper = Self { keeper, socket: socket.to_owned() };
        until(5, "a guard that answers", || UnixStream::connect(socket).ok());
        keeper
    }

    /// Sends what keeps the guard a signal; paused, it starts no other.
    pub fn signal_keeper(&self, signal: &str) {
        sh(&format!("kill -{signal} {}", self.keeper.id()));
    }

    /// The guard's process, not that of what keeps it.
    pub fn pid(&self) -> u32 {
        let guard = format!("^[^ ]*/fleet-guard {} ", self.socket.display());
        let found = || Command::new("pgrep").args(["-f", &guard]).output().unwrap().stdout;
        until(5, "a guard", || String::from_utf8_lossy(&found()).trim().parse().ok())
    }

    /// Sends the guard, not what keeps it, a signal.
    pub fn signal(&self, signal: &str) {
        sh(&format!("kill -{signal} {}", self.pid()));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The group: the keeper, the guard and init, and with init every agent.
        let group = format!("-{}", self.keeper.id());
        let _ = Command::new("kill").args(["-9", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.keeper.wait();
    }
}

/// The cgroup v2 root of this machine.
pub fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    root.split(' ').nth(1).unwrap().into()
}

/// Takes control groups away, in every hierarchy, once what was killed in them has ended: each that
/// stays makes others slower.
pub(crate) fn remove_groups(pattern: &str) {
    let below = format!("/sys/fs/cgroup/{pattern} /sys/fs/cgroup/*/{pattern}");
    let remove = format!(
        "for n in 1 2 3 4 5 6 7 8 9 10; do all=$(ls -d {below} 2>/dev/null); \
         [ -n \"$all\" ] || break; \
         find $all -depth -type d -exec rmdir {{}} + 2>/dev/null || sleep 0.1; done"
    );
    let _ = Command::new("sh").args(["-c", &remove]).status();
}
