//! What an agent may use of the machine, kept by the kernel's control groups: version 2 where it
//! has the controllers, else version 1, which some hosts mount beside it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fleet_types::ResourceLimits;

use crate::cgroup::remove_empty;

/// The period of processor quotas, in microseconds; the kernel's default.
const PERIOD_US: u64 = 100_000;

/// Controllers that limits need.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where one controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// In the version 2 hierarchy.
    Two,
    /// In a version 1 hierarchy mounted here.
    One(PathBuf),
    /// Nowhere.
    None,
}

/// Limits the agents of one node.
#[derive(Clone, Debug)]
pub struct Limiter {
    root: PathBuf,
    parent: PathBuf,
    places: [Place; 3],
}

fn find(mounts: &str, controller: &str, in_two: bool) -> Place {
    if in_two {
        return Place::Two;
    }
    let mount = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, path, "cgroup", options, ..] = fields.as_slice() else { return None };
        options.split(',').any(|option| option == controller).then(|| PathBuf::from(path))
    });
    mount.map_or(Place::None, Place::One)
}

fn write(path: &Path, value: impl ToString) -> io::Result<()> {
    fs::write(path, value.to_string())
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// As [`write()`], if the file does not hold that: setting a quota makes the kernel walk over all
/// groups of the machine, milliseconds where there are a thousand, and reading one does not.
fn write_other(path: &Path, value: impl ToString) -> io::Result<()> {
    let value = value.to_string();
    if fs::read_to_string(path).is_ok_and(|held| held.trim_end() == value) {
        return Ok(());
    }
    write(path, value)
}

impl Limiter {
    /// A limiter for groups below `parent`, a path below the version 2 hierarchy at `root`.
    pub fn new(root: &Path, parent: &Path) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let in_two = CONTROLLERS.map(|controller| enable(root, parent, controller));
        let mut places = CONTROLLERS.map(|_| Place::None);
        for (position, controller) in CONTROLLERS.iter().enumerate() {
            places[position] = find(&mounts, controller, in_two[position]);
        }
        Self { root: root.to_owned(), parent: parent.to_owned(), places }
    }

    /// What cannot be limited here, if anything.
    pub fn lacking(&self) -> Option<String> {
        let missing: Vec<&str> = CONTROLLERS
            .iter()
            .zip(&self.places)
            .filter(|(_, place)| **place == Place::None)
            .map(|(controller, _)| *controller)
            .collect();
        (!missing.is_empty()).then(|| format!("no control group limits {}", missing.join(", ")))
    }

    fn directory(&self, controller: usize, group: &str) -> Option<PathBuf> {
        let hierarchy = match &self.places[controller] {
            Place::Two => &self.root,
            Place::One(mount) => mount,
            Place::None => return None,
        };
        Some(hierarchy.join(&self.parent).join(group))
    }

    /// Sets the limits of `group`, and answers the directories of the groups a process of it must
    /// enter beside that of version 2.
    ///
    /// # Errors
    /// When a group cannot be made, or refuses a limit.
    pub fn set(&self, group: &str, limits: &ResourceLimits) -> io::Result<Vec<PathBuf>> {
        let asked = [limits.memory_bytes, limits.processes.into(), limits.cpu_millis.into()];
        let mut further = Vec::new();
        for (controller, value) in asked.into_iter().enumerate() {
            let Some(directory) = self.directory(controller, group) else { continue };
            let two = self.places[controller] == Place::Two;
            // Groups share the processor, and so do processes in none: it must be in one.
            let shares = CONTROLLERS[controller] == "cpu" && !two;
            if value == 0 && !shares {
                continue;
            }
            fs::create_dir_all(&directory)?;
            match (CONTROLLERS[controller], two) {
                // Another of its name may have had one. Kernels without quotas have no file.
                _ if value == 0 => {
                    let quota = directory.join("cpu.cfs_quota_us");
                    if quota.exists() {
                        write_other(&quota, -1)?;
                    }
                }
                ("memory", true) => {
                    write(&directory.join("memory.max"), value)?;
                    write(&directory.join("memory.oom.group"), 1)?;
                    only_if_there(&directory.join("memory.swap.max"), 0)?;
                }
                ("memory", false) => {
                    // The limit with swap is never below the one without.
                    only_if_there(&directory.join("memory.memsw.limit_in_bytes"), -1)?;
                    write(&directory.join("memory.limit_in_bytes"), value)?;
                    only_if_there(&directory.join("memory.memsw.limit_in_bytes"), value)?;
                }
                ("pids", _) => write(&directory.join("pids.max"), value)?,
                (_, true) => {
                    let quota = value * PERIOD_US / 1_000;
                    write(&directory.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
                }
                (_, false) => {
                    write_other(&directory.join("cpu.cfs_period_us"), PERIOD_US)?;
                    write_other(&directory.join("cpu.cfs_quota_us"), value * PERIOD_US / 1_000)?;
                }
            }
            if !two {
                further.push(directory);
            }
        }
        Ok(further)
    }

    /// How often the kernel has ended a process of `group` for its memory limit.
    pub fn memory_kills(&self, group: &str) -> u64 {
        let Some(directory) = self.directory(0, group) else { return 0 };
        let two = self.places[0] == Place::Two;
        let events = directory.join(if two { "memory.events" } else { "memory.oom_control" });
        let events = fs::read_to_string(events).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Takes away all version 1 groups that are empty.
    pub fn remove_empty(&self) {
        for controller in 0..CONTROLLERS.len() {
            if let (Place::One(_), Some(directory)) =
                (&self.places[controller], self.directory(controller, ""))
            {
                remove_empty(&directory);
            }
        }
    }

    /// Takes the version 1 groups of `group` away; nothing may run in them.
    pub fn remove(&self, group: &str) {
        for controller in 0..CONTROLLERS.len() {
            if let (Place::One(_), Some(directory)) =
                (&self.places[controller], self.directory(controller, group))
            {
                // One that is not there, or whose dead wait to be reaped, is of no harm.
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

fn only_if_there(path: &Path, value: impl ToString) -> io::Result<()> {
    if path.exists() { write(path, value) } else { Ok(()) }
}

/// Hands a controller down from the root to the children of `parent`; false where it is not to be
/// had.
fn enable(root: &Path, parent: &Path, controller: &str) -> bool {
    let available = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if !available.split_whitespace().any(|name| name == controller) {
        return false;
    }
    let below: Vec<&Path> = parent.ancestors().collect();
    below.into_iter().rev().all(|path| {
        let control = root.join(path).join("cgroup.subtree_control");
        fs::write(control, format!("+{controller}")).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_where_they_are_mounted() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let one = Place::One("/sys/fs/cgroup/cpu,cpuacct".into());
        assert_eq!(find(mounts, "cpu", false), one);
        assert_eq!(find(mounts, "cpu", true), Place::Two);
        assert_eq!(find(mounts, "memory", false), Place::None);
    }
}
