//! Runtime definitions: data that says how one kind of agent is configured, started, probed and
//! stopped. The built-in ones are `crates/host/runtimes/*.toml`; `docs/runtimes.md` is the schema.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use fleet_supervision::Policy;
use fleet_types::{ResourceLimits, Resources, RuntimeName, limits::PORT_BLOCK_MAX};
use serde::Deserialize;
use serde_json::Value;

use crate::{overlay, template::Variables};

const BUILT_IN: [&str; 2] =
    [include_str!("../runtimes/exec.toml"), include_str!("../runtimes/openclaw.toml")];

/// Why a runtime definition is not usable.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A directory or file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, lacks a key or has one that does not exist.
    #[error("runtime definition {origin}: {source}")]
    Parse {
        /// The file.
        origin: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value is not possible.
    #[error("runtime definition {origin}: {why}")]
    Value {
        /// The file.
        origin: String,
        /// Why.
        why: String,
    },
}

/// One kind of agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// For people.
    #[serde(rename = "description")]
    pub _description: String,
    /// Size of the port block of an agent that states none; a power of two.
    pub ports: u16,
    /// The least that works: where derived ports lie apart, all of them must be in the block.
    #[serde(default = "one")]
    pub ports_min: u16,
    /// Program and arguments; empty when the agent's spec gives them.
    pub command: Vec<String>,
    /// Files that must exist on a node that runs it.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Files that must not exist on a node that runs it, with what to do about them.
    #[serde(default)]
    pub forbids: BTreeMap<String, String>,
    /// Where its version is found.
    pub version: Option<VersionSource>,
    /// Its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// As `environment`, for what agents may not set otherwise.
    #[serde(default)]
    pub reserved_environment: BTreeMap<String, String>,
    /// Directories made in HOME.
    #[serde(default)]
    pub directories: Vec<PathBuf>,
    /// The configuration file written to HOME.
    pub config: Option<ConfigFile>,
    /// Whether the agent's config may set the probe.
    #[serde(default)]
    pub agent_probe: bool,
    /// How to tell that it is ready.
    pub probe: Probe,
    /// How to tell that it lives, if another start could help one that does not; asked once it was
    /// ready.
    pub liveness: Option<Probe>,
    /// Texts in its log that say that another copy of its session is live.
    #[serde(default)]
    pub double_run: Vec<String>,
    /// What to run when it ends with certain exit codes.
    pub repair: Option<Repair>,
    /// Its timings.
    #[serde(default)]
    pub policy: PolicyTable,
    /// What an agent may use that states nothing else.
    #[serde(default)]
    pub limits: LimitsTable,
    /// What is kept free for an agent that states nothing else.
    #[serde(default)]
    pub requests: RequestsTable,
}

/// Requests of a runtime; 0 is none.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestsTable {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u64,
}

impl RequestsTable {
    /// The same.
    pub fn requests(self) -> Resources {
        let Self { memory_bytes, cpu_millis } = self;
        Resources { memory_bytes, cpu_millis }
    }
}

/// A program that may cure an agent that ended by itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repair {
    /// Program and arguments; it runs as the agent would.
    pub command: Vec<String>,
    /// The exit codes of the agent it may help with.
    pub exit_codes: Vec<i32>,
    /// Seconds it may take.
    pub timeout_s: u64,
}

/// Limits of a runtime; 0 is none.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsTable {
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
    /// What of its log is kept, in bytes.
    pub log_bytes: u64,
}

impl LimitsTable {
    /// The same.
    pub fn limits(self) -> ResourceLimits {
        ResourceLimits {
            memory_bytes: self.memory_bytes,
            cpu_millis: self.cpu_millis,
            processes: self.processes,
            open_files: self.open_files,
            home_bytes: self.home_bytes,
            log_bytes: self.log_bytes,
        }
    }
}

/// A JSON file and the place of the version in it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionSource {
    /// The file.
    pub file: String,
    /// JSON pointer.
    pub pointer: String,
}

/// A JSON configuration file: defaults, the owner's overlay over them, reserved values over both.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Where in HOME.
    pub path: PathBuf,
    /// What the owner may change.
    #[serde(default = "nothing")]
    pub defaults: Value,
    /// What the owner may not.
    #[serde(default = "nothing")]
    pub reserved: Value,
}

fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

/// How an agent is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// It is taken to answer when its process runs.
    None,
    /// A port of its block accepts connections.
    Tcp,
    /// A GET is answered with status 200 and the text `body`.
    Http,
    /// A conversation of JSON messages over a WebSocket.
    WebSocket,
}

/// A readiness or liveness probe.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What is done.
    pub kind: ProbeKind,
    /// `tcp`, `http`: offset of the port from the block's base.
    #[serde(default)]
    pub port_offset: u16,
    /// `http`: the path asked for.
    #[serde(default = "root_path")]
    pub path: String,
    /// `http`: text the body must hold; empty for any.
    #[serde(default)]
    pub body: String,
    /// `websocket`: where.
    #[serde(default)]
    pub url: String,
    /// `websocket`: what is said and heard, in order.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Milliseconds between probes of a ready agent.
    #[serde(default = "interval_ms")]
    pub interval_ms: u64,
    /// Milliseconds between probes of a starting one.
    #[serde(default = "starting_interval_ms")]
    pub starting_interval_ms: u64,
    /// Milliseconds one probe may take.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

fn root_path() -> String {
    "/".into()
}

fn interval_ms() -> u64 {
    5_000
}

fn starting_interval_ms() -> u64 {
    100
}

fn timeout_ms() -> u64 {
    2_000
}

/// One turn of a WebSocket conversation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Step {
    /// Send this.
    Send(Value),
    /// Wait for a message that has at least this; others are passed over.
    Expect(Value),
}

/// An agent's timings, as a definition states them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyTable {
    start_timeout_s: u64,
    stop_timeout_s: u64,
    backoff_min_ms: u64,
    backoff_max_s: u64,
    healthy_after_s: u64,
    crashes_max: u32,
    crash_window_s: u64,
    probe_failures: u32,
    liveness_failures: u32,
    fatal_exit_codes: Vec<i32>,
}

impl Default for PolicyTable {
    fn default() -> Self {
        Self {
            start_timeout_s: 60,
            stop_timeout_s: 30,
            backoff_min_ms: 1_000,
            backoff_max_s: 60,
            healthy_after_s: 60,
            crashes_max: 8,
            crash_window_s: 600,
            probe_failures: 3,
            liveness_failures: 3,
            fatal_exit_codes: Vec::new(),
        }
    }
}

impl PolicyTable {
    /// As supervision wants them, of an agent with this repair.
    pub fn policy(&self, repair: Option<&Repair>) -> Policy {
        Policy {
            start_timeout_ms: self.start_timeout_s * 1_000,
            stop_timeout_ms: self.stop_timeout_s * 1_000,
            backoff_min_ms: self.backoff_min_ms,
            backoff_max_ms: self.backoff_max_s * 1_000,
            healthy_after_ms: self.healthy_after_s * 1_000,
            crashes_max: self.crashes_max,
            crash_window_ms: self.crash_window_s * 1_000,
            probe_failures: self.probe_failures,
            liveness_failures: self.liveness_failures,
            repair_exit_codes: repair.map_or_else(Vec::new, |repair| repair.exit_codes.clone()),
            repair_timeout_ms: repair.map_or(0, |repair| repair.timeout_s * 1_000),
            fatal_exit_codes: self.fatal_exit_codes.clone(),
        }
    }
}

const fn one() -> u16 {
    1
}

/// All runtimes a node knows, by name.
#[derive(Clone, Debug)]
pub struct Runtimes {
    definitions: BTreeMap<RuntimeName, Definition>,
    variables: BTreeMap<String, String>,
}

fn parse(origin: &str, text: &str) -> Result<(RuntimeName, Definition), RuntimeError> {
    let value = |why: String| RuntimeError::Value { origin: origin.to_owned(), why };
    let definition: Definition = toml::from_str(text)
        .map_err(|e| RuntimeError::Parse { origin: origin.to_owned(), source: Box::new(e) })?;
    let name =
        definition.name.parse().map_err(|e: fleet_types::InvalidName| value(e.to_string()))?;
    if !definition.ports.is_power_of_two() || definition.ports > PORT_BLOCK_MAX {
        let why =
            format!("ports = {} is not a power of two up to {PORT_BLOCK_MAX}", definition.ports);
        return Err(value(why));
    }
    if definition.ports < definition.ports_min {
        let (ports, least) = (definition.ports, definition.ports_min);
        return Err(value(format!("ports = {ports} is less than ports_min = {least}")));
    }
    definition.limits.limits().check().map_err(|e| value(format!("limits: {e}")))?;
    definition.requests.requests().check().map_err(|e| value(format!("requests: {e}")))?;
    Ok((name, definition))
}

impl Runtimes {
    /// The built-in definitions and those in `directories`; a later one replaces an earlier one of
    /// the same name. A directory that does not exist holds none.
    ///
    /// # Errors
    /// When a definition is not valid.
    pub fn load(
        directories: &[PathBuf],
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, RuntimeError> {
        let mut definitions = BTreeMap::new();
        for text in BUILT_IN {
            let (name, definition) = parse("(built in)", text)?;
            definitions.insert(name, definition);
        }
        for directory in directories {
            for path in files(directory)? {
                let read = |source| RuntimeError::Read { path: path.clone(), source };
                let text = fs::read_to_string(&path).map_err(read)?;
                let (name, definition) = parse(&path.display().to_string(), &text)?;
                definitions.insert(name, definition);
            }
        }
        Ok(Self { definitions, variables: variables.clone() })
    }

    /// A definition.
    pub fn get(&self, name: &RuntimeName) -> Option<&Definition> {
        self.definitions.get(name)
    }

    /// The node's variables for definitions.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The runtimes this machine can start, with versions, and why it cannot start the others.
    pub fn available(&self) -> (BTreeMap<RuntimeName, String>, Vec<String>) {
        let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
        for (name, definition) in &self.definitions {
            match self.check(definition) {
                Ok(version) => {
                    found.insert(name.clone(), version);
                }
                Err(why) => missing.push(format!("runtime {name} cannot run here: {why}")),
            }
        }
        (found, missing)
    }

    fn check(&self, definition: &Definition) -> Result<String, String> {
        let variables = Variables::node(&self.variables);
        for required in &definition.requires {
            let path = variables.fill(required)?;
            if !Path::new(&path).is_file() {
                return Err(format!("{path} does not exist"));
            }
        }
        for (file, mend) in &definition.forbids {
            let path = variables.fill(file)?;
            if Path::new(&path).exists() {
                return Err(format!("{path} exists: {}", variables.fill(mend)?));
            }
        }
        let Some(source) = &definition.version else { return Ok("-".into()) };
        let path = variables.fill(&source.file)?;
        let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| format!("{path}: {e}"))?;
        let version = json.pointer(&source.pointer).and_then(Value::as_str);
        version.map(str::to_owned).ok_or_else(|| format!("{path} has no {}", source.pointer))
    }

    /// The first of an agent's variables that its runtime reserves.
    pub fn reserved_variable<'a>(
        &self,
        name: &RuntimeName,
        variables: impl IntoIterator<Item = &'a String>,
    ) -> Option<&'a String> {
        let reserved = &self.get(name)?.reserved_environment;
        variables.into_iter().find(|variable| reserved.contains_key(*variable))
    }

    /// Checks a merged overlay against a runtime before an agent is made.
    ///
    /// # Errors
    /// In words, naming the key.
    pub fn check_overlay(&self, name: &RuntimeName, overlay: &Value) -> Result<(), String> {
        let Some(definition) = self.get(name) else { return Ok(()) };
        if let Some(config) = &definition.config {
            return match overlay::first_conflict(overlay, &config.reserved) {
                Some(key) => Err(format!("{key} is set by fleet-cluster and cannot be overridden")),
                None => Ok(()),
            };
        }
        let keys = overlay.as_object().into_iter().flat_map(|object| object.iter());
        for (key, value) in keys {
            if key != "probe" || !definition.agent_probe {
                return Err(format!("runtime {name} takes no config key {key:?}"));
            }
            serde_json::from_value::<Probe>(value.clone()).map_err(|e| format!("probe: {e}"))?;
        }
        Ok(())
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    let read = |source| RuntimeError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(read(e)),
    };
    let paths: Result<Vec<_>, _> = entries.map(|e| e.map(|e| e.path())).collect();
    let mut paths = paths.map_err(read)?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn built_in() -> Runtimes {
        Runtimes::load(&[], &BTreeMap::new()).unwrap()
    }

    #[test]
    fn built_in_definitions_are_valid() {
        let openclaw: RuntimeName = "openclaw".parse().unwrap();
        assert_eq!(built_in().get(&openclaw).unwrap().ports, 128);
    }

    #[test]
    fn one_that_never_gets_ready_is_parked() {
        for definition in built_in().definitions.values() {
            let policy = definition.policy.policy(None);
            let in_vain = u64::from(policy.crashes_max) * policy.start_timeout_ms;
            assert!(policy.crash_window_ms > in_vain, "{}", definition.name);
        }
    }

    #[test]
    fn unknown_keys_are_an_error() {
        let text = BUILT_IN[0].replace("ports = 16", "ports = 16\nprots = 3");
        assert!(parse("x", &text).unwrap_err().to_string().contains("prots"));
        let text = BUILT_IN[0].replace("ports = 16", "ports = 17");
        assert!(parse("x", &text).unwrap_err().to_string().contains("power of two"));
    }

    #[test]
    fn a_missing_binary_is_named() {
        let variables = BTreeMap::from([
            ("node".to_owned(), "/nonexistent/node".to_owned()),
            ("openclaw".to_owned(), "/nonexistent".to_owned()),
        ]);
        let (found, missing) = Runtimes::load(&[], &variables).unwrap().available();
        assert!(found.contains_key(&"exec".parse().unwrap()));
        assert!(missing[0].contains("/nonexistent/node does not exist"), "{missing:?}");
    }

    #[test]
    fn reserved_keys_cannot_be_overridden() {
        let openclaw = "openclaw".parse().unwrap();
        let check = |overlay| built_in().check_overlay(&openclaw, &overlay);
        for key in ["port", "bind", "mode"] {
            let why = check(json!({"gateway": {key: 1}})).unwrap_err();
            assert!(why.contains(&format!("gateway.{key}")), "{why}");
        }
        assert!(check(json!({"gateway": {"auth": {"token": "x"}}})).is_err());
        assert!(check(json!({"gateway": "x"})).is_err(), "replacing a parent overrides too");
        assert!(check(json!({"logging": {"file": "/x"}})).is_err());
        assert!(check(json!({"logging": {"level": "debug"}})).is_ok());
    }

    #[test]
    fn a_configuration_may_reserve_nothing() {
        let text = "name = \"r\"\ndescription = \"\"\nports = 1\ncommand = [\"/bin/true\"]\n\
                    [probe]\nkind = \"none\"\n[config]\npath = \"c.json\"\n";
        let config = toml::from_str::<Definition>(text).unwrap().config.unwrap();
        assert_eq!(overlay::first_conflict(&json!({"a": 1}), &config.reserved), None);
    }

    #[test]
    fn reserved_variables_are_named() {
        let openclaw = "openclaw".parse().unwrap();
        let found = |key: &str| {
            let variables = ["MALLOC_ARENA_MAX".to_owned(), key.to_owned()];
            built_in().reserved_variable(&openclaw, &variables).cloned()
        };
        assert_eq!(found("OPENCLAW_GATEWAY_PORT").as_deref(), Some("OPENCLAW_GATEWAY_PORT"));
        assert_eq!(found("NODE_ENV"), None);
    }

    #[test]
    fn exec_takes_only_a_probe() {
        let exec = "exec".parse().unwrap();
        let check = |overlay| built_in().check_overlay(&exec, &overlay);
        assert!(check(json!({"probe": {"kind": "http", "path": "/up"}})).is_ok());
        assert!(check(json!({"probe": {"kind": "smoke"}})).is_err());
        assert!(check(json!({"gateway": {}})).is_err());
    }
}
