//! Keeps the kernel from giving agents' ports to connections that ask for any.

use std::{fs, path::Path};

use fleet_types::PortRange;

/// Ports and ranges, comma separated, that are only given to who asks for them by number.
/// <https://docs.kernel.org/networking/ip-sysctl.html>
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Reserves `range` in this network namespace, beside what is reserved already; answers why not, if
/// it could not be.
pub fn reserve(range: PortRange) -> Option<String> {
    reserve_in(Path::new(RESERVED), range)
}

fn reserve_in(file: &Path, range: PortRange) -> Option<String> {
    let own = format!("{}-{}", range.first(), range.last());
    let all = fs::read_to_string(file).map(|others| match others.trim() {
        "" => own.clone(),
        // The kernel merges what overlaps.
        others => format!("{others},{own}"),
    });
    let why = all.and_then(|all| fs::write(file, all)).err()?;
    Some(format!("connections may be given agents' ports: {}: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_already_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("reserved");
        let range = PortRange::new(10_240, 10_495).unwrap();
        fs::write(&file, "\n").unwrap();
        assert_eq!(reserve_in(&file, range), None);
        assert_eq!(fs::read_to_string(&file).unwrap(), "10240-10495");
        fs::write(&file, "8080,9000-9010\n").unwrap();
        assert_eq!(reserve_in(&file, range), None);
        assert_eq!(fs::read_to_string(&file).unwrap(), "8080,9000-9010,10240-10495");
        assert!(reserve_in(&dir.path().join("none"), range).unwrap().contains("agents' ports"));
    }
}
