//! Control groups, version 2: the one thing a process cannot leave by forking or by `setsid`.
//!
//! Only `cgroup.procs`, `cgroup.kill` and `cgroup.events` are used, which need no controller, so
//! hosts that mount version 2 beside version 1 do as well.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Why a control group is not usable.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The host has no version 2 hierarchy.
    #[error(
        "no cgroup v2 is mounted here: boot with systemd.unified_cgroup_hierarchy=1, or mount one at /sys/fs/cgroup/unified"
    )]
    NoVersion2,
    /// The kernel is older than `cgroup.kill` (Linux 5.14).
    #[error("this kernel has no cgroup.kill: Linux 5.14 or newer is needed")]
    TooOld,
    /// A file of the group cannot be used.
    #[error("control group {}", path.display())]
    Io {
        /// The group.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A control group.
#[derive(Clone, Debug)]
pub struct Group {
    path: PathBuf,
}

/// Removes the directories in a group's directory that are empty groups. The kernel keeps others.
pub(crate) fn remove_empty(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn populated(events: &str) -> bool {
    events.lines().any(|line| line == "populated 1")
}

impl Group {
    /// The version 2 hierarchy of this host.
    ///
    /// # Errors
    /// When there is none.
    pub fn root() -> Result<Self, GroupError> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        });
        mount.map(|path| Self { path }).ok_or(GroupError::NoVersion2)
    }

    fn error(&self) -> impl Fn(io::Error) -> GroupError {
        let path = self.path.clone();
        move |source| GroupError::Io { path: path.clone(), source }
    }

    /// The group `name` in this one, made if it is missing. `name` may have several parts.
    ///
    /// # Errors
    /// When it cannot be made, or cannot be killed on this kernel.
    pub fn child(&self, name: &str) -> Result<Self, GroupError> {
        let group = Self { path: self.path.join(name) };
        fs::create_dir_all(&group.path).map_err(group.error())?;
        if group.path.join("cgroup.kill").exists() { Ok(group) } else { Err(GroupError::TooOld) }
    }

    /// Takes it away, if it is there and empty, and makes another in its place. A process is to be born in a
    /// group that was never killed: Linux 6.18 counts the kills of a group, compares the count with
    /// that of the parent's group, and kills the child when they differ.
    ///
    /// # Errors
    /// When it is not empty.
    pub fn renew(&self) -> Result<(), GroupError> {
        match self.remove() {
            Err(GroupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        fs::create_dir(&self.path).map_err(self.error())
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills every process in it and below. Those die asynchronously; see [`Group::emptied`].
    ///
    /// # Errors
    /// When the group is gone or not writable.
    pub fn kill(&self) -> Result<(), GroupError> {
        fs::write(self.path.join("cgroup.kill"), "1").map_err(self.error())
    }

    fn open_events(&self) -> Result<OwnedFd, GroupError> {
        let file = fs::File::open(self.path.join("cgroup.events")).map_err(self.error())?;
        Ok(file.into())
    }

    /// Returns once no process is in it or below.
    ///
    /// # Errors
    /// When the group is gone.
    pub async fn emptied(&self) -> Result<(), GroupError> {
        let events = self.open_events()?;
        if self.reread(&events)? {
            return Ok(());
        }
        #[expect(deprecated, reason = "an OwnedFd keeps its file; the replacement is unsafe code")]
        let events = AsyncFd::with_interest(events, Interest::PRIORITY).map_err(self.error())?;
        loop {
            if self.reread(events.get_ref())? {
                return Ok(());
            }
            let mut ready = events.ready(Interest::PRIORITY).await.map_err(self.error())?;
            ready.clear_ready();
        }
    }

    /// Reads `cgroup.events` from its start, which also arms the next announcement.
    fn reread(&self, events: &OwnedFd) -> Result<bool, GroupError> {
        let mut buffer = [0_u8; 256];
        let length = rustix::io::pread(events.as_fd(), &mut buffer, 0)
            .map_err(|e| self.error()(e.into()))?;
        Ok(!populated(&String::from_utf8_lossy(&buffer[..length])))
    }

    /// Removes the groups in it that are empty.
    pub fn remove_empty(&self) {
        remove_empty(&self.path);
    }

    /// Removes it; it must be empty.
    ///
    /// # Errors
    /// When it is not empty.
    pub fn remove(&self) -> Result<(), GroupError> {
        fs::remove_dir(&self.path).map_err(self.error())
    }
}
