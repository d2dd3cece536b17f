//! The daemon's configuration file.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use fleet_types::{InvalidPortRange, Labels, PortRange};
use serde::{Deserialize, Serialize};

/// What becomes of the agents when the daemon is told to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnShutdown {
    /// They go on. A daemon that is back before the node's lease is over adopts them; else they end
    /// with the lease and are placed elsewhere. When the whole system goes down, as `stop`.
    #[default]
    Keep,
    /// They are stopped first, each with its runtime's drain time.
    Stop,
    /// They are ended at once. Quick, for machines that go down.
    Kill,
}

/// The daemon's settings: `/etc/fleet-cluster/config.toml`, every key optional.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the node keeps its identity, log and state.
    pub data_dir: PathBuf,
    /// Directories with further runtime definitions (`*.toml`); later ones win.
    pub runtime_dirs: Vec<PathBuf>,
    /// First port handed to agents.
    pub port_first: u16,
    /// Last port handed to agents.
    pub port_last: u16,
    /// Labels of this node.
    pub labels: BTreeMap<String, String>,
    /// Variables for runtime definitions, e.g. where `node` and `openclaw` are installed.
    pub runtime_variables: BTreeMap<String, String>,
    /// Control group of the node's agents, below the host's cgroup v2 root.
    pub cgroup: PathBuf,
    /// Where the guards' sockets are, `CLASS/socket` for each; the daemon does not run without.
    pub guard_dir: PathBuf,
    /// Directories every agent may write to, beside its HOME.
    pub writable_paths: Vec<PathBuf>,
    /// How many agents may start at once; 0 for one a core.
    pub starts_at_once: usize,
    /// What becomes of the agents when the daemon is told to end.
    pub on_shutdown: OnShutdown,
    /// Largest size of one agent's log file, in bytes; one older file is kept beside it.
    pub log_bytes_max: u64,
    /// Log filter, e.g. `info`.
    pub log: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/fleet-cluster".into(),
            runtime_dirs: vec!["/etc/fleet-cluster/runtimes".into()],
            port_first: 10_240,
            port_last: 32_767,
            labels: BTreeMap::new(),
            runtime_variables: BTreeMap::new(),
            cgroup: "fleet-cluster".into(),
            guard_dir: "/run/fleet-guard".into(),
            writable_paths: Vec::new(),
            starts_at_once: 0,
            on_shutdown: OnShutdown::Keep,
            log_bytes_max: 16 << 20,
            log: "info,openraft=error".into(),
        }
    }
}

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or has a key that does not exist.
    #[error("{} is not a valid configuration: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// The port range is not usable.
    #[error("port_first = {first}, port_last = {last}: {source}")]
    Ports {
        /// First port given.
        first: u16,
        /// Last port given.
        last: u16,
        /// Why.
        source: InvalidPortRange,
    },
    /// A label is not valid.
    #[error("labels: {0}")]
    Labels(#[from] fleet_types::InvalidLabel),
}

impl Config {
    /// Reads a file; a missing one at the default place means every default.
    ///
    /// # Errors
    /// When it cannot be read, is not TOML or has an unknown key.
    pub fn load(path: &Path, required: bool) -> Result<Self, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !required => {
                return Ok(Self::default());
            }
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        toml::from_str(&text)
            .map_err(|e| ConfigError::Parse { path: path.to_owned(), source: Box::new(e) })
    }

    /// The port range, checked against itself and this kernel's ephemeral ports.
    ///
    /// # Errors
    /// When it is empty, privileged, or overlaps the ephemeral ports.
    pub fn port_range(&self) -> Result<PortRange, ConfigError> {
        let (first, last) = (self.port_first, self.port_last);
        let ports = |source| ConfigError::Ports { first, last, source };
        let range = PortRange::new(first, last).map_err(ports)?;
        let Some((low, high)) = ephemeral() else { return Ok(range) };
        range.clear_of_ephemeral(low, high).map_err(ports)
    }

    /// The labels, checked.
    ///
    /// # Errors
    /// When one is malformed.
    pub fn labels(&self) -> Result<Labels, ConfigError> {
        Ok(Labels::new(self.labels.clone())?)
    }

    /// The settings as a file would state them.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every setting has a TOML form")
    }
}

/// The kernel's ephemeral ports.
fn ephemeral() -> Option<(u16, u16)> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map(str::parse);
    Some((ports.next()?.ok()?, ports.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = parse("data_dri = \"/x\"").unwrap_err().to_string();
        assert!(error.contains("data_dri"), "{error}");
    }

    #[test]
    fn port_ranges_are_refused_with_the_way_out() {
        let refuse = |first, last| {
            let config = Config { port_first: first, port_last: last, ..Config::default() };
            config.port_range().unwrap_err().to_string()
        };
        assert!(refuse(3000, 2000).contains("before the first"));
        assert!(refuse(80, 2000).contains("belong to the system"));
        assert!(refuse(20_000, 40_000).contains("ip_local_port_range"));
        assert!(Config::default().port_range().is_ok());
    }

    #[test]
    fn defaults_survive_a_round_trip() {
        let config = parse(&Config::default().to_toml()).unwrap();
        assert_eq!(config.port_last, Config::default().port_last);
    }
}
