//! Looking for certain texts in what an agent logs.

use std::{fs, time::Duration};

use fleet_process::{LogFile, READ_BYTES_MAX, read_from, tail};
use fleet_types::limits;
use tokio::time::Instant;

/// Looks in vain after which a log is looked at half as often.
const QUIET: u32 = 10;

/// When logs are looked at: once a second, or every other when nothing was logged for a while; all
/// at the same moments, so that a thousand silent agents wake their host once and not a thousand
/// times.
pub(crate) struct Pace {
    origin: Instant,
}

impl Pace {
    /// A pace that begins now.
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// The next of the moments for a log.
    pub(crate) fn next(&self, watch: &LogWatch) -> Instant {
        let seconds = if watch.vain < QUIET { 1 } else { 2 };
        let passed = self.origin.elapsed().as_secs() / seconds;
        self.origin + Duration::from_secs((passed + 1) * seconds)
    }
}

/// How far a log was looked at.
pub(crate) struct LogWatch {
    position: u64,
    /// How far it was read: the last line may not be complete.
    read: u64,
    length: u64,
    /// How often in a row it was looked at in vain.
    vain: u32,
}

impl LogWatch {
    /// Looks at what is logged from now on.
    pub(crate) fn new(log: &LogFile) -> Self {
        let position = tail(log.path(), 0).map_or(0, |(_, end)| end);
        Self { position, read: position, length: position, vain: 0 }
    }

    /// Whether the log is another than at the last call, or was not read to its end.
    pub(crate) fn grown(&mut self, log: &LogFile) -> bool {
        let length = fs::metadata(log.path()).map_or(0, |about| about.len());
        let grown = std::mem::replace(&mut self.length, length) != length || self.read < length;
        self.vain = if grown { 0 } else { self.vain.saturating_add(1) };
        grown
    }

    /// What there was is elsewhere now; the log begins anew.
    pub(crate) fn begin(&mut self) {
        (self.position, self.read) = (0, 0);
    }

    /// The first new line that holds one of `texts`. Of a flood only a part is looked at.
    pub(crate) fn look(&mut self, log: &LogFile, texts: &[String]) -> Option<String> {
        if texts.is_empty() {
            self.read = self.length;
            return None;
        }
        let (bytes, next) = read_from(log.path(), self.position).ok()?;
        self.read = next;
        // A line that is not complete is looked at once it is, unless it is longer than is read.
        let end = bytes.iter().rev().position(|byte| *byte == b'\n');
        let cut = bytes.len() as u64 == READ_BYTES_MAX;
        let rest = end.unwrap_or(if cut { 0 } else { bytes.len() });
        self.position = next - rest as u64;
        let new = String::from_utf8_lossy(&bytes[..bytes.len() - rest]);
        let line = new.lines().find(|line| texts.iter().any(|text| line.contains(text)))?;
        Some(line.chars().take(limits::QUOTE_CHARS_MAX).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_new_line_that_says_it_is_found_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile::new(dir.path().join("a.log"), 1_000);
        let mut writer = log.open().unwrap();
        let texts = ["conflict".to_owned()];
        writer.write_all(b"an old conflict\n").unwrap();
        let mut watch = LogWatch::new(&log);
        assert_eq!(watch.look(&log, &texts), None);
        writer.write_all(b"fine\na con").unwrap();
        assert_eq!(watch.look(&log, &texts), None);
        writer.write_all(b"flict with n2\nfine\n").unwrap();
        assert_eq!(watch.look(&log, &texts).as_deref(), Some("a conflict with n2"));
        assert_eq!(watch.look(&log, &texts), None);
        assert!(watch.grown(&log) && !watch.grown(&log));
    }

    #[test]
    fn the_end_of_a_flood_and_the_start_after_a_cut_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile::new(dir.path().join("a.log"), 1 << 20);
        let (mut writer, texts) = (log.open().unwrap(), ["conflict".to_owned()]);
        let mut watch = LogWatch::new(&log);
        let flood = "fine\n".repeat(300_000);
        writer.write_all(format!("{flood}a conflict\n").as_bytes()).unwrap();
        assert!(watch.grown(&log));
        assert_eq!(watch.look(&log, &texts), None, "of a part of it");
        assert!(watch.grown(&log), "there is more to look at");
        assert_eq!(watch.look(&log, &texts).as_deref(), Some("a conflict"));
        assert!(!watch.grown(&log));
        assert!(log.cap(true).unwrap());
        watch.begin();
        writer.write_all(format!("another conflict\n{flood}").as_bytes()).unwrap();
        assert_eq!(watch.look(&log, &texts).as_deref(), Some("another conflict"));
    }
}
