//! What a directory takes up on its disk.

use std::{os::unix::fs::MetadataExt, path::Path};

use walkdir::WalkDir;

/// Unit of `st_blocks`, whatever the file system's own block size is. See `stat(2)`.
const BLOCK_BYTES: u64 = 512;

/// Bytes that the files below `directory` take up on its file system. What goes away meanwhile, or
/// cannot be read, takes up nothing.
pub fn disk_usage(directory: &Path) -> u64 {
    let files = WalkDir::new(directory).same_file_system(true).into_iter().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|about| about.blocks() * BLOCK_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn counts_what_lies_below_and_follows_no_link() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let empty = disk_usage(dir.path());
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), vec![1; 1 << 20]).unwrap();
        fs::write(elsewhere.path().join("c"), vec![1; 1 << 20]).unwrap();
        symlink(elsewhere.path(), dir.path().join("link")).unwrap();
        let more = disk_usage(dir.path()) - empty;
        assert!((1 << 20..(1 << 20) + 65_536).contains(&more), "{more}");
        assert_eq!(disk_usage(&dir.path().join("nothing")), 0);
    }
}
