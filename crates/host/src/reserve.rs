//! Keeps the kernel from giving agents' ports to connections that ask for any.

use std::{fs, path::Path};

use fleet_types::PortRange;

/// Ports and ranges, comma separated, that are only given to who asks for them by number.
/// <https://docs.kernel.org/networking/ip-sysctl.html>
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Reserves `range` in this network namespace, beside what is reserved already, and no more what
/// was reserved for the range before, as noted in `note`. Answers why not, if it could not be.
pub fn reserve(range: PortRange, note: &Path) -> Option<String> {
    reserve_in(Path::new(RESERVED), range, note)
}

fn reserve_in(file: &Path, range: PortRange, note: &Path) -> Option<String> {
    let own = format!("{}-{}", range.first(), range.last());
    let before = fs::read_to_string(note).unwrap_or_default();
    let all = fs::read_to_string(file).map(|all| {
        let others = all.trim().split(',').filter(|it| !it.is_empty() && *it != before);
        // The kernel merges what overlaps.
        others.chain([own.as_str()]).collect::<Vec<_>>().join(",")
    });
    if let Err(why) = all.and_then(|all| fs::write(file, all)) {
        return Some(format!("connections may be given agents' ports: {}: {why}", file.display()));
    }
    if let Err(error) = fs::write(note, &own) {
        tracing::warn!(%error, "these ports stay reserved until the machine starts anew");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_already_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let [file, note] = ["reserved", "note"].map(|name| dir.path().join(name));
        let range = PortRange::new(10_240, 10_495).unwrap();
        fs::write(&file, "\n").unwrap();
        assert_eq!(reserve_in(&file, range, &note), None);
        assert_eq!(fs::read_to_string(&file).unwrap(), "10240-10495");
        fs::write(&file, "8080,9000-9010,10240-10495\n").unwrap();
        assert_eq!(reserve_in(&file, range, &note), None);
        assert_eq!(fs::read_to_string(&file).unwrap(), "8080,9000-9010,10240-10495");
        let other = PortRange::new(20_480, 20_735).unwrap();
        assert_eq!(reserve_in(&file, other, &note), None);
        assert_eq!(fs::read_to_string(&file).unwrap(), "8080,9000-9010,20480-20735");
        let why = reserve_in(&dir.path().join("none"), range, &note).unwrap();
        assert!(why.contains("agents' ports"));
    }
}
