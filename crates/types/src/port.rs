//! Port ranges and blocks.

use core::fmt;

/// Ports `first..=last` that a node may hand to agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why two numbers are not a usable port range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidPortRange {
    /// The last port lies before the first.
    Empty,
    /// It holds ports below 1024, which are the system's.
    Privileged,
    /// It overlaps the kernel's ephemeral ports, from which outgoing connections are numbered.
    Ephemeral {
        /// First ephemeral port.
        first: u16,
        /// Last ephemeral port.
        last: u16,
    },
}

impl fmt::Display for InvalidPortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the last port lies before the first"),
            Self::Privileged => f.write_str("ports below 1024 belong to the system"),
            Self::Ephemeral { first, last } => write!(
                f,
                "it overlaps the kernel's ephemeral ports {first}-{last}; choose others, or move \
                 those with sysctl net.ipv4.ip_local_port_range"
            ),
        }
    }
}

impl core::error::Error for InvalidPortRange {}

impl PortRange {
    /// The range `first..=last`.
    ///
    /// # Errors
    /// When it is empty or reaches below port 1024.
    pub fn new(first: u16, last: u16) -> Result<Self, InvalidPortRange> {
        if last < first {
            return Err(InvalidPortRange::Empty);
        }
        if first < 1024 {
            return Err(InvalidPortRange::Privileged);
        }
        Ok(Self { first, last })
    }

    /// The range, if it shares no port with the ephemeral ports `first..=last` of a kernel.
    ///
    /// # Errors
    /// When it shares one.
    pub fn clear_of_ephemeral(self, first: u16, last: u16) -> Result<Self, InvalidPortRange> {
        if self.first <= last && first <= self.last {
            return Err(InvalidPortRange::Ephemeral { first, last });
        }
        Ok(self)
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many ports it holds.
    pub fn size(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A power-of-two run of ports whose base is a multiple of its size, owned by one placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortBlock {
    /// The first port.
    pub base: u16,
    /// How many ports; a power of two.
    pub size: u16,
}

impl PortBlock {
    /// The last port of the block.
    pub fn last(self) -> u16 {
        self.base + (self.size - 1)
    }

    /// Whether the two share a port.
    pub fn overlaps(self, other: Self) -> bool {
        self.base <= other.last() && other.base <= self.last()
    }
}

impl fmt::Display for PortBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.base, self.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        assert_eq!(PortRange::new(20, 10), Err(InvalidPortRange::Empty));
        assert_eq!(PortRange::new(80, 9000), Err(InvalidPortRange::Privileged));
        let range = PortRange::new(20_000, 32_767).unwrap();
        assert!(range.clear_of_ephemeral(32_768, 60_999).is_ok());
        assert!(range.clear_of_ephemeral(32_767, 60_999).is_err());
        assert!(range.clear_of_ephemeral(1024, 20_000).is_err());
        assert_eq!(range.size(), 12_768);
    }
}
