//! What is held against agents that ended by themselves, on disk: a daemon that comes back neither
//! starts what was parked nor forgets how often it was tried. It counts while the machine runs.
//!
//! Each is the first line of a file, written in place by one call, which a daemon that ends does
//! not cut short. A new file for each would take ext4 the longer the more were replaced in the
//! last half minute: it uses none of their inodes, and looks at each.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use fleet_proto::host::Assignment;
use fleet_supervision::Past;
use fleet_types::AgentId;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

/// [`Past`], with what it is the past of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// Times are of this boot.
    boot: String,
    /// 0 in what a daemon of before kept.
    #[serde(default)]
    uid: u32,
    generation: u64,
    restarts: u64,
    crashes_ms: Vec<u64>,
    tries: u32,
    repaired: bool,
    repairing: bool,
    #[serde(default)]
    ready: bool,
    parked: Option<String>,
    /// How often it was started, when it was kept last.
    #[serde(default)]
    starts: u32,
}

impl Stored {
    /// What a file holds, if that is whole.
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read(path).ok()?;
        serde_json::from_slice(text.split(|byte| *byte == b'\n').next()?).ok()
    }
}

/// Where the pasts of all agents of a node are kept.
#[derive(Clone, Debug)]
pub(crate) struct Histories {
    /// The directory.
    pub(crate) directory: PathBuf,
    /// The machine's boot.
    pub(crate) boot: String,
}

/// What is kept of one agent.
pub(crate) struct History {
    path: PathBuf,
    boot: String,
    kept: Past,
}

impl Histories {
    /// Removes what is of an earlier boot: agents may have left or been deleted meanwhile.
    pub(crate) fn sweep(&self) {
        let files = WalkDir::new(&self.directory).into_iter().flatten();
        for file in files.filter(|entry| entry.file_type().is_file()) {
            if Stored::read(file.path()).is_none_or(|stored| stored.boot != self.boot)
                && let Err(error) = fs::remove_file(file.path())
            {
                tracing::debug!(%error, "an old history stays");
            }
        }
    }

    /// The history of an agent, what of it holds against `assignment`, and how often that was
    /// started.
    pub(crate) fn of(&self, id: &AgentId, assignment: &Assignment) -> (History, Past, u32) {
        let path = self.directory.join(id.fleet.as_str()).join(id.agent.as_str());
        let same = |stored: &Stored| {
            (stored.uid == 0 || stored.uid == assignment.uid)
                && (&stored.boot, stored.generation, stored.restarts)
                    == (&self.boot, assignment.generation, assignment.restarts)
        };
        let kept = Stored::read(&path).filter(same).map(|stored| {
            let past = Past {
                crashes_ms: stored.crashes_ms,
                tries: stored.tries,
                repaired: stored.repaired,
                repairing: stored.repairing,
                ready: stored.ready,
                parked: stored.parked,
            };
            (past, stored.starts)
        });
        let (past, starts) = kept.unwrap_or_default();
        (History { path, boot: self.boot.clone(), kept: past.clone() }, past, starts)
    }
}

impl History {
    /// Keeps a past after so many starts, if it is another one.
    pub(crate) fn keep(
        &mut self,
        past: Past,
        starts: u32,
        assignment: &Assignment,
    ) -> io::Result<()> {
        // How often it was started is known of what runs, too.
        if past == self.kept {
            return Ok(());
        }
        let kept = past.clone();
        let stored = Stored {
            boot: self.boot.clone(),
            uid: assignment.uid,
            generation: assignment.generation,
            restarts: assignment.restarts,
            crashes_ms: past.crashes_ms,
            tries: past.tries,
            repaired: past.repaired,
            repairing: past.repairing,
            ready: past.ready,
            parked: past.parked,
            starts,
        };
        let mut line = serde_json::to_vec(&stored)?;
        line.push(b'\n');
        // Not synced: it counts as long as the machine runs.
        let mut file = self.open()?;
        file.write_all(&line)?;
        file.set_len(line.len() as u64)?;
        self.kept = kept;
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        let open = || OpenOptions::new().write(true).create(true).truncate(false).open(&self.path);
        match (open(), self.path.parent()) {
            (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(directory)?;
                open()
            }
            (opened, _) => opened,
        }
    }

    /// Keeps nothing.
    pub(crate) fn forget(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_holds_for_one_placement_one_restart_and_one_boot() {
        let directory = tempfile::tempdir().unwrap();
        let histories = |boot: &str| Histories {
            directory: directory.path().to_owned(),
            boot: boot.to_owned(),
        };
        let id: AgentId = "f/a".parse().unwrap();
        let assignment = Assignment { uid: 7, generation: 3, restarts: 1, ..Assignment::default() };
        let (mut history, past, starts) = histories("b").of(&id, &assignment);
        assert_eq!(starts, 0);
        assert_eq!(past, Past::default());
        let parked = Past { tries: 2, parked: Some("why".into()), ..Past::default() };
        history.keep(parked.clone(), 5, &assignment).unwrap();
        let (_, past, starts) = histories("b").of(&id, &assignment);
        assert_eq!((past, starts), (parked.clone(), 5));
        assert_eq!(histories("c").of(&id, &assignment).1, Past::default());
        for (uid, generation, restarts) in [(7, 4, 1), (7, 3, 2), (8, 3, 1)] {
            let other = Assignment { uid, generation, restarts, ..Assignment::default() };
            assert_eq!(histories("b").of(&id, &other).1, Past::default());
        }
        histories("b").sweep();
        assert_eq!(histories("b").of(&id, &assignment).1, parked);
        histories("c").sweep();
        assert_eq!(histories("b").of(&id, &assignment).1, Past::default());
        history.keep(Past { tries: 3, ..Past::default() }, 6, &assignment).unwrap();
        history.keep(Past::default(), 6, &assignment).unwrap();
        assert_eq!(histories("b").of(&id, &assignment).1, Past::default());
        // A daemon that ended before it cut off what was longer.
        let path = directory.path().join("f/a");
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"rest of a longer one\n");
        fs::write(&path, text).unwrap();
        assert_eq!(histories("b").of(&id, &assignment).2, 6);
    }
}
