//! What an agent asks of its machine, and what it may use of it.

use core::fmt;

/// Memory and processor time: of a node what it has, of an agent what is kept free for it. 0 is
/// unknown of a node, and none of an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resources {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u64,
}

impl Resources {
    /// These and `other`.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes + other.memory_bytes,
            cpu_millis: self.cpu_millis + other.cpu_millis,
        }
    }

    /// These without `other`, which is part of them.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes - other.memory_bytes,
            cpu_millis: self.cpu_millis - other.cpu_millis,
        }
    }

    /// Checks that an agent may ask for this much.
    ///
    /// # Errors
    /// The first that is out of bounds.
    pub fn check(&self) -> Result<(), InvalidLimit> {
        let bounds = [
            ("memory_bytes", self.memory_bytes, 1 << 50),
            ("cpu_millis", self.cpu_millis, 1_024_000),
        ];
        for (what, value, max) in bounds {
            if value > max {
                return Err(InvalidLimit { what, value, min: 0, max });
            }
        }
        Ok(())
    }
}

/// Upper bounds; 0 is none, or the runtime's where an agent states it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u32,
    /// Processes and threads at once.
    pub processes: u32,
    /// Files one process may have open.
    pub open_files: u32,
    /// What its HOME may hold, in bytes.
    pub home_bytes: u64,
    /// What of its log is kept, in bytes, and as much again of what is older.
    pub log_bytes: u64,
}

/// A limit nothing could run under, or past every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLimit {
    /// Which.
    pub what: &'static str,
    /// What was asked for.
    pub value: u64,
    /// The least possible.
    pub min: u64,
    /// The most possible.
    pub max: u64,
}

impl fmt::Display for InvalidLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, min, max } = self;
        write!(f, "{what} = {value} is not between {min} and {max}; 0 is what its runtime says")
    }
}

impl ResourceLimits {
    /// These, with `others` for those that are not set.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        let pick = |own: u32, other: u32| if own == 0 { other } else { own };
        let pick_bytes = |own: u64, other: u64| if own == 0 { other } else { own };
        Self {
            memory_bytes: pick_bytes(self.memory_bytes, others.memory_bytes),
            home_bytes: pick_bytes(self.home_bytes, others.home_bytes),
            log_bytes: pick_bytes(self.log_bytes, others.log_bytes),
            cpu_millis: pick(self.cpu_millis, others.cpu_millis),
            processes: pick(self.processes, others.processes),
            open_files: pick(self.open_files, others.open_files),
        }
    }

    /// Checks every limit that is set.
    ///
    /// # Errors
    /// The first that is out of bounds.
    pub fn check(&self) -> Result<(), InvalidLimit> {
        let bounds = [
            ("memory_bytes", self.memory_bytes, 4 << 20, 1 << 50),
            ("cpu_millis", self.cpu_millis.into(), 10, 1_024_000),
            // The kernel's own bound of process numbers.
            ("processes", self.processes.into(), 1, 1 << 22),
            ("open_files", self.open_files.into(), 16, 1 << 20),
            ("home_bytes", self.home_bytes, 1 << 20, 1 << 50),
            ("log_bytes", self.log_bytes, 1 << 12, 1 << 26),
        ];
        for (what, value, min, max) in bounds {
            if value != 0 && !(min..=max).contains(&value) {
                return Err(InvalidLimit { what, value, min, max });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_limits_win_and_all_are_bounded() {
        let own = ResourceLimits { memory_bytes: 8 << 20, ..ResourceLimits::default() };
        let runtime = ResourceLimits { memory_bytes: 1, processes: 9, ..own };
        let both = own.or(runtime);
        assert_eq!((both.memory_bytes, both.processes, both.open_files), (8 << 20, 9, 0));
        assert_eq!(both.check(), Ok(()));
        let absurd = ResourceLimits { memory_bytes: 1, ..own };
        assert_eq!(absurd.check().map_err(|e| e.what), Err("memory_bytes"));
        let absurd = ResourceLimits { open_files: u32::MAX, ..own };
        assert_eq!(absurd.check().map_err(|e| e.what), Err("open_files"));
        let absurd = ResourceLimits { log_bytes: 100, ..own };
        assert_eq!(absurd.check().map_err(|e| e.what), Err("log_bytes"));
    }
}
