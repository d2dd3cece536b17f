//! The newest entries of the log, kept in memory: replication and applying ask for what was just
//! appended, and need not read it back from the database.

use std::collections::VecDeque;

use openraft::EntryPayload;

use crate::type_config::Entry;

/// Bytes of commands kept. A follower further behind is served from disk.
const BYTES_MAX: usize = 16 << 20;
/// Entries kept, whatever their size.
const ENTRIES_MAX: usize = 1_024;

/// A run of entries without gaps that ends with the log.
#[derive(Default)]
pub(crate) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// About how much room an entry takes.
pub(crate) fn size(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(batch) => batch.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

impl Tail {
    /// Adds the next entry, forgetting the oldest past the limits.
    pub(crate) fn push(&mut self, entry: Entry) {
        if self.entries.back().is_some_and(|last| last.log_id.index() + 1 != entry.log_id.index()) {
            self.clear();
        }
        self.bytes += size(&entry);
        self.entries.push_back(entry);
        while self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX && self.entries.len() > 1 {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, size);
        }
    }

    /// Forgets entries up to and including `index`.
    pub(crate) fn purge(&mut self, index: u64) {
        while self.entries.front().is_some_and(|first| first.log_id.index() <= index) {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, size);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The entries from `start` up to, not including, `end`; none when they are not all here.
    pub(crate) fn range(&self, start: u64, end: u64) -> Option<impl Iterator<Item = &Entry>> {
        let first = self.entries.front()?.log_id.index();
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        let last = self.entries.back()?.log_id.index();
        let count = usize::try_from(end.saturating_sub(start)).ok()?;
        (end <= last + 1).then(|| self.entries.iter().skip(skip).take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_config::{Batch, LeaderId, LogId};

    fn entry(index: u64, bytes: usize) -> Entry {
        let log_id = LogId::new(LeaderId { term: 1, node_id: 1 }, index);
        Entry { log_id, payload: EntryPayload::Normal(Batch(vec![0; bytes].into())) }
    }

    fn indexes(tail: &Tail, start: u64, end: u64) -> Option<Vec<u64>> {
        tail.range(start, end).map(|entries| entries.map(|e| e.log_id.index()).collect())
    }

    #[test]
    fn answers_only_what_it_holds_whole() {
        let mut tail = Tail::default();
        assert_eq!(indexes(&tail, 1, 2), None);
        (5..10).for_each(|index| tail.push(entry(index, 1)));
        assert_eq!(indexes(&tail, 6, 9), Some(vec![6, 7, 8]));
        assert_eq!(indexes(&tail, 5, 10), Some(vec![5, 6, 7, 8, 9]));
        assert_eq!(indexes(&tail, 4, 6), None);
        assert_eq!(indexes(&tail, 9, 11), None);
    }

    #[test]
    fn a_gap_empties_it() {
        let mut tail = Tail::default();
        tail.push(entry(1, 1));
        tail.push(entry(3, 1));
        assert_eq!(indexes(&tail, 1, 2), None);
        assert_eq!(indexes(&tail, 3, 4), Some(vec![3]));
    }

    #[test]
    fn stays_within_its_limits() {
        let mut tail = Tail::default();
        (0..2 * ENTRIES_MAX as u64).for_each(|index| tail.push(entry(index, 1)));
        assert_eq!(tail.entries.len(), ENTRIES_MAX);
        tail.push(entry(2 * ENTRIES_MAX as u64, BYTES_MAX + 1));
        assert_eq!((tail.entries.len(), tail.bytes), (1, BYTES_MAX + 1));
    }
}
