//! What a host was told last, on disk, so that after a restart it still refuses what is older, and
//! under the same lease goes on with what it was told.
//!
//! A file has all of it, and another what has changed since: the checksum of the first, then for
//! each change its length, its checksum and itself. Numbers have four bytes, the lowest first. When
//! the changes are as long as all of it, all is written anew.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fleet_client::private_file;
use fleet_proto::host::AssignRequest;
use prost::Message;

use crate::told::Told;

/// Changes are written beside what they change until there are so many bytes of them, at least.
const CHANGES_BYTES: u64 = 256 << 10;
/// Where earlier builds had all of it. A build that is put back must find nothing there, rather than
/// what was told before the last changes.
const BEFORE: &str = "assignments";

/// The files.
pub(crate) struct Ledger {
    whole: PathBuf,
    /// Of what is in there.
    checksum: u32,
    /// Whether something else may be in there, by an attempt that failed.
    is_unsure: bool,
    changes: File,
    /// How much of it counts.
    written: u64,
    /// Whether more is in there.
    is_torn: bool,
    /// Where it has become too long.
    limit: u64,
    /// Bytes that could not be written when it was tried last.
    unwritten: usize,
}

impl Ledger {
    /// Opens the ledger in `dir` and answers what it held.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Told)> {
        fs::create_dir_all(dir)?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let changes = options.open(dir.join("changes"))?;
        let whole = dir.join("whole");
        take_over(&dir.join(BEFORE), &whole, &changes)?;
        File::open(dir)?.sync_all()?;
        let held = read(&whole)?;
        let mut bytes = Vec::new();
        (&changes).read_to_end(&mut bytes)?;

        let checksum = crc32fast::hash(&held);
        let (changed, written) = read_changes(&bytes, checksum);
        let mut told = Told::default();
        for message in [AssignRequest::decode(&*held)?].into_iter().chain(changed) {
            told.fold(message).map_err(io::Error::other)?;
        }
        let is_torn = written < bytes.len();
        if is_torn && written > 0 {
            let (bytes, dir) = (bytes.len() - written, dir.display());
            tracing::warn!(bytes, %dir, "the end of the ledger was not written: it is left out");
        }
        let written = u64::try_from(written).map_err(io::Error::other)?;
        let (limit, is_unsure, unwritten) = (limit(held.len()), false, 0);
        let ledger =
            Self { whole, checksum, is_unsure, changes, written, is_torn, limit, unwritten };
        Ok((ledger, told))
    }

    /// Adds a change to what it holds, which is `told`; on disk when this returns.
    pub(crate) fn add(&mut self, told: &Told, change: &AssignRequest) -> io::Result<()> {
        if self.is_unsure || self.written >= self.limit {
            self.write_anew(told)?;
        }
        let change = change.encode_to_vec();
        let added = self.append(&change);
        self.unwritten = if added.is_ok() { 0 } else { change.len() };
        added
    }

    /// Whether, when it was opened, all that had been written could be read.
    pub(crate) fn is_whole(&self) -> bool {
        !self.is_torn
    }

    /// Bytes that could not be written when it was tried last.
    pub(crate) fn unwritten(&self) -> usize {
        self.unwritten
    }

    fn append(&mut self, change: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.changes.set_len(self.written)?;
            self.changes.sync_data()?;
        }
        let length = u32::try_from(change.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(change.len() + 12);
        if self.written == 0 {
            bytes.extend(self.checksum.to_le_bytes());
        }
        bytes.extend(length.to_le_bytes());
        bytes.extend(crc32fast::hash(change).to_le_bytes());
        bytes.extend(change);
        self.is_torn = true;
        let written = self.changes.write_all_at(&bytes, self.written);
        written.and_then(|()| self.changes.sync_data()).inspect_err(|_| {
            // Part of it may have what room was left. If it stays, the next attempt cuts it off.
            let _ = self.changes.set_len(self.written);
        })?;
        self.is_torn = false;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes all of it anew, without changes. What cannot be done now need not be, and is not tried at
    /// each change; but what is in the file must be known.
    fn write_anew(&mut self, told: &Told) -> io::Result<()> {
        let whole = told.whole().encode_to_vec();
        match private_file::write(&self.whole, &whole) {
            // What was written beside it belongs to the file before.
            Ok(()) => {
                (self.checksum, self.is_unsure) = (crc32fast::hash(&whole), false);
                (self.written, self.is_torn, self.limit) = (0, true, limit(whole.len()));
                Ok(())
            }
            Err(error) => {
                let is_held = |held: Vec<u8>| crc32fast::hash(&held) == self.checksum;
                self.is_unsure = self.is_unsure || !read(&self.whole).is_ok_and(is_held);
                self.limit = 2 * self.written;
                if self.is_unsure {
                    self.unwritten = whole.len();
                    return Err(error);
                }
                tracing::warn!(%error, "the ledger stays long for now");
                Ok(())
            }
        }
    }
}

/// What a file holds, nothing if there is none.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// Takes over what a build of before wrote, which may have come after the rest.
fn take_over(before: &Path, whole: &Path, changes: &File) -> io::Result<()> {
    if !before.try_exists()? {
        return Ok(());
    }
    let held = fs::read(before)?;
    AssignRequest::decode(&*held)?;
    changes.set_len(0)?;
    changes.sync_data()?;
    private_file::write(whole, &held)?;
    fs::remove_file(before)
}

/// Where changes become too long beside so many bytes.
fn limit(whole: usize) -> u64 {
    (whole as u64).max(CHANGES_BYTES)
}

/// The changes of what has this checksum, and where the last that is as it was written does end. One
/// that was not written to its end was not followed, and nothing comes after it.
fn read_changes(bytes: &[u8], of: u32) -> (Vec<AssignRequest>, usize) {
    let number = |at: usize| {
        let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map(|bytes| u32::from_le_bytes(*bytes))
    };
    let change_at = |at: usize| {
        let (length, checksum) = (number(at)?, number(at + 4)?);
        let end = (at + 8).checked_add(usize::try_from(length).ok()?)?;
        let change = bytes.get(at + 8..end).filter(|change| !change.is_empty())?;
        let is_it = crc32fast::hash(change) == checksum;
        Some((AssignRequest::decode(change).ok().filter(|_| is_it)?, end))
    };
    if number(0) != Some(of) {
        return (Vec::new(), 0);
    }
    let (mut changes, mut at) = (Vec::new(), 4);
    while let Some((change, end)) = change_at(at) {
        changes.push(change);
        at = end;
    }
    (changes, at)
}

#[cfg(test)]
mod tests {
    use fleet_proto::{convert::host::agent_key, host::Assignment};

    use super::*;

    fn agent(name: &str) -> Assignment {
        let (fleet, agent) = ("f".into(), name.into());
        Assignment { fleet, agent, run: true, token: "t".repeat(100), ..Assignment::default() }
    }

    fn put(names: &[&str]) -> AssignRequest {
        let put = names.iter().map(|name| agent(name)).collect();
        AssignRequest { term: 1, epoch: 1, put, ..AssignRequest::default() }
    }

    fn held(dir: &Path) -> Told {
        Ledger::open(dir).unwrap().1
    }

    fn told(changes: &[AssignRequest]) -> Told {
        let mut told = Told::default();
        changes.iter().for_each(|change| told.fold(change.clone()).unwrap());
        told
    }

    /// Three changes: one agent and another are told of, and the first is leaving.
    fn three() -> [AssignRequest; 3] {
        let stopped = vec![Assignment { run: false, ..agent("a") }];
        let remove = vec![agent_key(&"f/a".parse().unwrap())];
        [put(&["a"]), put(&["b"]), AssignRequest { put: stopped, remove, ..put(&[]) }]
    }

    #[test]
    fn what_was_written_is_read_back_from_all_of_it_and_what_changed_since() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Told::default();
        for change in three() {
            let (mut ledger, before) = Ledger::open(dir.path()).unwrap();
            assert_eq!(before, all);
            ledger.add(&before, &change).unwrap();
            all.fold(change).unwrap();
            assert_eq!(held(dir.path()), all);
        }
        let (mut ledger, _) = Ledger::open(dir.path()).unwrap();
        let changes = fs::read(dir.path().join("changes")).unwrap();
        ledger.write_anew(&all).unwrap();
        assert_eq!(fs::read(dir.path().join("changes")).unwrap(), changes, "it is of no account");
        assert_eq!(held(dir.path()), all);
        ledger.add(&all, &put(&["c"])).unwrap();
        all.fold(put(&["c"])).unwrap();
        assert_eq!(held(dir.path()), all);
    }

    #[test]
    fn what_a_build_of_before_wrote_comes_after_the_rest_and_is_not_left_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(BEFORE);
        for agent in ["x", "y"] {
            let before = told(&[put(&[agent])]);
            private_file::write(&path, &before.whole().encode_to_vec()).unwrap();
            let (mut ledger, read) = Ledger::open(dir.path()).unwrap();
            assert_eq!(read, before);
            assert!(!path.exists());
            ledger.add(&read, &put(&["c"])).unwrap();
            assert_eq!(held(dir.path()), told(&[put(&[agent]), put(&["c"])]));
        }
        fs::write(&path, "cut").unwrap();
        assert!(Ledger::open(dir.path()).is_err(), "what is not whole is not taken for nothing");
    }

    #[test]
    fn a_file_that_may_have_been_replaced_is_written_before_anything_is_added() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ledger, mut all) = Ledger::open(dir.path()).unwrap();
        ledger.add(&all, &put(&["a"])).unwrap();
        all.fold(put(&["a"])).unwrap();
        // It cannot be replaced, and is what it was.
        let blocked = dir.path().join("whole.new");
        fs::create_dir(&blocked).unwrap();
        ledger.limit = 0;
        ledger.add(&all, &put(&["b"])).unwrap();
        all.fold(put(&["b"])).unwrap();
        assert_eq!(held(dir.path()), all);
        // It is another.
        private_file::write(&dir.path().join("other"), &all.whole().encode_to_vec()).unwrap();
        fs::rename(dir.path().join("other"), &ledger.whole).unwrap();
        ledger.limit = 0;
        for _ in 0..2 {
            assert!(ledger.add(&all, &put(&["c"])).is_err());
            assert_eq!(ledger.unwritten(), all.whole().encoded_len());
        }
        fs::remove_dir(&blocked).unwrap();
        ledger.add(&all, &put(&["c"])).unwrap();
        all.fold(put(&["c"])).unwrap();
        assert_eq!((held(dir.path()), ledger.unwritten()), (all, 0));
    }

    #[test]
    fn a_change_that_was_not_written_to_its_end_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(dir.path()).unwrap();
        let path = dir.path().join("changes");
        let mut ends = vec![0];
        for change in three() {
            ledger.add(&Told::default(), &change).unwrap();
            ends.push(fs::metadata(&path).unwrap().len());
        }
        let bytes = fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end > 0 && **end <= cut as u64).count();
            let before = told(&three()[..whole]);
            for tail in [vec![], vec![0; bytes.len() - cut], vec![7; bytes.len() - cut]] {
                fs::write(&path, [&bytes[..cut], &tail].concat()).unwrap();
                let (mut ledger, read) = Ledger::open(dir.path()).unwrap();
                assert_eq!(read, before, "{cut} bytes, then {tail:?}");
                let at_an_end = cut == size_of::<u32>() || ends.contains(&(cut as u64));
                assert_eq!(ledger.is_whole(), at_an_end && tail.is_empty(), "{cut}, {tail:?}");
                ledger.add(&read, &put(&["z"])).unwrap();
                let after = told(&[&three()[..whole], &[put(&["z"])]].concat());
                assert_eq!(held(dir.path()), after, "{cut} bytes, then {tail:?}, then one more");
            }
        }
    }

    #[test]
    fn a_change_of_one_agent_writes_no_other_down_and_the_files_stay_short() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ledger, mut all) = Ledger::open(dir.path()).unwrap();
        let mut write = |change: AssignRequest| {
            ledger.add(&all, &change).unwrap();
            all.fold(change).unwrap();
            ledger.written
        };
        let names: Vec<String> = (0..4_000).map(|n| format!("a{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let first = write(put(&names));
        assert!(first > CHANGES_BYTES);
        for n in 1..=20 {
            let written = write(put(&["a7"]));
            assert!(written < 200 * n, "{written} after {n} changes");
        }
        for _ in 0..4 {
            assert!(write(put(&names[..2_000])) < 2 * first);
        }
        assert_eq!(held(dir.path()), all);
    }
}
