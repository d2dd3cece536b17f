//! The logs of agents that do not run here any more. They are kept for a time: why an agent was
//! stopped, moved or deleted is asked after that.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use fleet_types::AgentId;

/// How long after the last line the log of an agent is kept that does not run here any more.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Removes logs below `directory` of agents that are not `here` and were silent for long.
pub(crate) fn remove(directory: &Path, here: impl Fn(&AgentId) -> bool) {
    let Some(oldest) = SystemTime::now().checked_sub(KEPT) else { return };
    for fleet in entries(directory) {
        for log in entries(&fleet) {
            let is_here = agent(&fleet, &log).is_none_or(|agent| here(&agent));
            let last = fs::metadata(&log).and_then(|about| about.modified());
            if is_here || last.is_ok_and(|last| last >= oldest) {
                continue;
            }
            let removed = fs::remove_file(&log);
            tracing::info!(log = %log.display(), ?removed, "an agent left it long ago");
        }
        // Unless there is something in it.
        let _ = fs::remove_dir(&fleet);
    }
}

/// What is in a directory, if it is one.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Whose log it is; none for what is no log.
fn agent(fleet: &Path, log: &Path) -> Option<AgentId> {
    let name = log.file_name()?.to_str()?;
    let agent = name.strip_suffix(".log").or_else(|| name.strip_suffix(".log.1"))?;
    format!("{}/{agent}", fleet.file_name()?.to_str()?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_logs_of_agents_that_left_go() {
        let directory = tempfile::tempdir().unwrap();
        let fleet = directory.path().join("f");
        fs::create_dir(&fleet).unwrap();
        let old = SystemTime::now() - KEPT - Duration::from_secs(60);
        let logs = ["here.log", "left.log", "left.log.1", "late.log", "notes.txt"];
        for name in logs {
            let file = fs::File::create(fleet.join(name)).unwrap();
            if name != "late.log" {
                file.set_modified(old).unwrap();
            }
        }
        fs::write(directory.path().join("no fleet"), "").unwrap();
        remove(directory.path(), |agent| agent.agent.as_str() == "here");
        let left = logs.map(|name| fleet.join(name).exists());
        assert_eq!(left, [true, false, false, true, true]);
        remove(&directory.path().join("none"), |_| false);
    }
}
