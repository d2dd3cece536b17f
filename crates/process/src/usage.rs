//! The files below a directory, however deep they lie, and what they take up on their disk.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{errno::Errno, libc};
use walkdir::WalkDir;

/// Unit of `st_blocks`, whatever the file system's own block size is. See `stat(2)`.
const BLOCK_BYTES: u64 = 512;
/// What a file counts for at least.
pub(crate) const FILE_BYTES: u64 = 4_096;

/// How many paths as long as the kernel takes may follow one another: each takes its place on the
/// stack, and some descriptors.
const PATHS_MAX: usize = 32;

/// Calls `each` for `root` and all below it on its file system, what a directory holds before the
/// directory itself, and with the error for what cannot be read or made `each` fail. A path may not
/// be the file's usual one: where that is longer than the kernel takes (`PATH_MAX`), which whoever
/// writes there can bring about, it begins at a descriptor; up to [`PATHS_MAX`] times such a path.
///
/// # Errors
/// Those `each` makes of an error.
pub fn walk(
    root: &Path,
    each: &mut dyn FnMut(io::Result<&Path>) -> io::Result<()>,
) -> io::Result<()> {
    walk_from(root, PATHS_MAX, each)
}

fn walk_from(
    root: &Path,
    paths_left: usize,
    each: &mut dyn FnMut(io::Result<&Path>) -> io::Result<()>,
) -> io::Result<()> {
    for entry in WalkDir::new(root).contents_first(true).same_file_system(true) {
        let (path, error) = match entry {
            Ok(entry) => match each(Ok(entry.path())) {
                Ok(()) => continue,
                Err(error) => (entry.into_path(), error),
            },
            Err(error) => (error.path().unwrap_or(root).to_owned(), error.into()),
        };
        if !is_too_deep(&error) || paths_left == 0 {
            each(Err(error))?;
            continue;
        }
        match shorten(&path) {
            Ok((_directory, path)) => walk_from(&path, paths_left - 1, each)?,
            Err(error) => each(Err(error))?,
        }
    }
    Ok(())
}

/// The directory of `path`, and a path that is good while that is open.
fn shorten(path: &Path) -> io::Result<(File, PathBuf)> {
    let (directory, name) = path.parent().zip(path.file_name()).ok_or(Errno::ENAMETOOLONG)?;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok((directory, Path::new(&path).join(name)))
}

fn is_too_deep(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidFilename
}

/// Bytes that the files below `directory` take up on its file system, each at least 4 KiB: a file
/// system may be out of files before it is out of room. What goes away meanwhile, or
/// cannot be read, takes up nothing; none when some lie too deep to be counted.
pub fn disk_usage(directory: &Path) -> Option<u64> {
    let (mut bytes, mut linked) = (0, HashSet::new());
    let counted = walk(directory, &mut |path| match path {
        Ok(path) => {
            let about = fs::symlink_metadata(path)?;
            // One with several names counts once.
            if about.is_dir() || about.nlink() < 2 || linked.insert(about.ino()) {
                bytes += (about.blocks() * BLOCK_BYTES).max(FILE_BYTES);
            }
            Ok(())
        }
        Err(error) if is_too_deep(&error) => Err(error),
        Err(_) => Ok(()),
    });
    counted.ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn counts_what_lies_below_and_follows_no_link() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let empty = disk_usage(dir.path()).unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), vec![1; 1 << 20]).unwrap();
        fs::write(elsewhere.path().join("c"), vec![1; 1 << 20]).unwrap();
        symlink(elsewhere.path(), dir.path().join("link")).unwrap();
        fs::hard_link(dir.path().join("a/b"), dir.path().join("another")).unwrap();
        let more = disk_usage(dir.path()).unwrap() - empty;
        assert!((1 << 20..(1 << 20) + 65_536).contains(&more), "{more}");
        assert_eq!(disk_usage(&dir.path().join("nothing")), Some(0));
    }

    /// Makes directories in each other, longer together than a path may be, by moving what was made
    /// down into a new one; the innermost holds a file.
    fn bury(directory: &Path, levels: usize) {
        let name = "d".repeat(200);
        fs::create_dir(directory.join(&name)).unwrap();
        fs::write(directory.join(&name).join("deep"), vec![1; 1 << 20]).unwrap();
        for _ in 1..levels {
            fs::create_dir(directory.join("next")).unwrap();
            fs::rename(directory.join(&name), directory.join("next").join(&name)).unwrap();
            fs::rename(directory.join("next"), directory.join(&name)).unwrap();
        }
    }

    #[test]
    fn what_lies_deeper_than_a_path_is_counted_up_to_some_paths() {
        let dir = tempfile::tempdir().unwrap();
        bury(dir.path(), 25 * PATHS_MAX);
        assert_eq!(disk_usage(dir.path()), None);
        let dir = tempfile::tempdir().unwrap();
        bury(dir.path(), 50);
        assert!(disk_usage(dir.path()).unwrap() >= 1 << 20);
        let mut found = Vec::new();
        walk(dir.path(), &mut |path| {
            let path = path?;
            fs::symlink_metadata(path)?;
            found.push(path.file_name().unwrap().to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(found.len(), 52, "a file, the directories and what they are in");
        assert_eq!(found[0], "deep");
    }
}
