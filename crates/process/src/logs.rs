//! What agents write to their standard output and error: a file each, capped, with one older file
//! beside it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Most bytes read at once: enough for thousands of lines, little enough for one message.
pub const READ_BYTES_MAX: u64 = 1 << 20;

/// An agent's log file. It belongs to root: the agent can write to it, not replace it.
#[derive(Clone, Debug)]
pub struct LogFile {
    path: PathBuf,
    bytes_max: u64,
}

impl LogFile {
    /// The log file at `path`, of at most about `bytes_max`.
    pub fn new(path: PathBuf, bytes_max: u64) -> Self {
        Self { path, bytes_max }
    }

    /// The same, of at most about `bytes_max`.
    #[must_use]
    pub fn of_at_most(self, bytes_max: u64) -> Self {
        Self { bytes_max, ..self }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn older(&self) -> PathBuf {
        self.path.with_extension("log.1")
    }

    /// Opens it for appending, making it if it is missing.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn open(&self) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)
    }

    /// Moves the end of it to the older file once it is too large, or forgets it unless it is to be
    /// `kept`, and answers whether it was. The writers keep their open file, so its content is copied
    /// and cut; a line written in between is lost.
    ///
    /// # Errors
    /// When the disk is full; the file is cut all the same, so that one agent cannot fill a disk.
    pub fn cap(&self, kept: bool) -> io::Result<bool> {
        let length = match fs::metadata(&self.path) {
            Ok(about) => about.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        if length <= self.bytes_max {
            return Ok(false);
        }
        let copied = if kept { self.copy_from(length - self.bytes_max) } else { Ok(()) };
        OpenOptions::new().write(true).open(&self.path)?.set_len(0)?;
        copied.map(|()| true)
    }

    fn copy_from(&self, start: u64) -> io::Result<()> {
        let mut from = File::open(&self.path)?;
        from.seek(SeekFrom::Start(start))?;
        let mut to = File::create(self.older())?;
        io::copy(&mut from.take(self.bytes_max), &mut to).map(|_| ())
    }
}

/// The last `lines` lines of the file at `path`, and the position after them.
///
/// # Errors
/// When it cannot be read; a missing file is an empty one.
pub fn tail(path: &Path, lines: usize) -> io::Result<(Vec<u8>, u64)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(e) => return Err(e),
    };
    let end = file.metadata()?.len();
    let start = end.saturating_sub(READ_BYTES_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(end - start).read_to_end(&mut bytes)?;
    let position = start + bytes.len() as u64;
    let breaks = bytes.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(i, _)| i);
    let trailing = usize::from(bytes.last() == Some(&b'\n'));
    let from = match lines {
        0 => bytes.len(),
        _ => breaks.into_iter().nth(lines + trailing - 1).map_or(0, |i| i + 1),
    };
    Ok((bytes.split_off(from), position))
}

/// What was written to the file at `path` after `position`, and the position after it. A file that
/// was cut meanwhile is read from its start.
///
/// # Errors
/// When it cannot be read; a missing file is an empty one.
pub fn read_from(path: &Path, position: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(e) => return Err(e),
    };
    let end = file.metadata()?.len();
    let start = if end < position { 0 } else { position };
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take((end - start).min(READ_BYTES_MAX)).read_to_end(&mut bytes)?;
    let next = start + bytes.len() as u64;
    Ok((bytes, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn tails_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        assert_eq!(tail(&path, 5).unwrap(), (vec![], 0));
        fs::write(&path, "part").unwrap();
        assert_eq!(tail(&path, 0).unwrap(), (vec![], 4));
        fs::write(&path, "1\n2\n3\n").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), (b"2\n3\n".to_vec(), 6));
        assert_eq!(tail(&path, 9).unwrap().0, b"1\n2\n3\n");
        fs::write(&path, "1\n2\npart").unwrap();
        assert_eq!(tail(&path, 2).unwrap().0, b"2\npart");
    }

    #[test]
    fn a_flood_is_capped_while_its_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile::new(dir.path().join("a.log"), 1_000);
        let mut writer = log.open().unwrap();
        for _ in 0..100 {
            writer.write_all(&[b'x'; 99]).unwrap();
            writer.write_all(b"\n").unwrap();
            log.cap(true).unwrap();
        }
        let sizes =
            fs::metadata(log.path()).unwrap().len() + fs::metadata(log.older()).unwrap().len();
        assert!(sizes <= 2_200, "{sizes}");
        writer.write_all(b"last\n").unwrap();
        assert!(tail(log.path(), 1).unwrap().0.ends_with(b"last\n"));
        let older = fs::read(log.older()).unwrap();
        writer.write_all(&[b'y'; 2_000]).unwrap();
        assert!(log.cap(false).unwrap());
        assert_eq!(
            (fs::metadata(log.path()).unwrap().len(), fs::read(log.older()).unwrap()),
            (0, older)
        );
    }
}
