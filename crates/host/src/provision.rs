//! From what the leader said of an agent to what its launch needs.

use std::{
    fs,
    io::{
        self,
        ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull},
    },
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::{Path, PathBuf},
};

use fleet_process::{Confinement, LaunchFile, LaunchSpec, LeaseCheck, walk};
use fleet_proto::{
    convert::api::{home, limits},
    host::Assignment,
    v1,
};
use fleet_supervision::Fault;
use fleet_types::{AgentId, ClusterId, NodeId, NodeName, PortBlock, ResourceLimits};
use serde_json::Value;

use crate::{
    overlay,
    runtimes::{Definition, Probe, Runtimes},
    template::Variables,
};

/// Where programs named without a slash are looked for, and the PATH of agents.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Least size a file may grow to where a HOME is limited.
const FILE_BYTES_MIN: u64 = 1 << 30;

/// How large one file may grow where a HOME may hold `home_bytes`, 0 being any size for both. An
/// agent's log is a file, too, which is cut once it has `log_bytes`: it must come that far.
fn file_bytes(home_bytes: u64, log_bytes: u64) -> u64 {
    if home_bytes == 0 { 0 } else { home_bytes.max(FILE_BYTES_MIN).max(2 * log_bytes) }
}

/// Why an agent cannot be prepared.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// In words.
    pub(crate) why: String,
    /// Whose fault that is.
    pub(crate) fault: Fault,
    /// The ports something else listens on.
    pub(crate) ports_taken: Option<PortBlock>,
}

fn fatal(why: impl Into<String>) -> Refusal {
    Refusal { why: why.into(), fault: Fault::Lasting, ports_taken: None }
}

/// What stays the same for every agent of a node.
pub(crate) struct Site {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) node_name: NodeName,
    pub(crate) runtimes: Runtimes,
    /// Directories every agent may write to.
    pub(crate) writable: Vec<PathBuf>,
    /// Directories no agent may read.
    pub(crate) hidden: Vec<PathBuf>,
    /// Size of an agent's log where its limits do not say.
    pub(crate) log_bytes_max: u64,
}

/// An agent, ready to be launched.
pub(crate) struct Prepared {
    pub(crate) launch: LaunchSpec,
    /// The command of its repair.
    pub(crate) repair: Option<Vec<String>>,
    pub(crate) plan: Plan,
}

/// What is kept of it while the agent runs.
pub(crate) struct Plan {
    pub(crate) home: PathBuf,
    pub(crate) limits: ResourceLimits,
    pub(crate) probe: Probe,
    pub(crate) liveness: Option<Probe>,
    /// Texts in its log that say that another copy of its session is live.
    pub(crate) double_run: Vec<String>,
    pub(crate) variables: Variables,
}

/// Ports as the leader writes them.
pub(crate) fn port_block(block: v1::PortBlock) -> PortBlock {
    let narrow = |n: u32| u16::try_from(n).unwrap_or(0);
    PortBlock { base: narrow(block.base), size: narrow(block.size) }
}

/// The ports of an assignment.
pub(crate) fn block(assignment: &Assignment) -> PortBlock {
    port_block(assignment.block.unwrap_or_default())
}

impl Site {
    /// The definition of an agent's runtime.
    pub(crate) fn definition(&self, assignment: &Assignment) -> Result<&Definition, Refusal> {
        let name = assignment.spec.as_ref().map(|spec| spec.runtime.as_str()).unwrap_or_default();
        let found = name.parse().ok().and_then(|name| self.runtimes.get(&name));
        found.ok_or_else(|| {
            fatal(format!("node {} has no definition of runtime {name:?}", self.node_name))
        })
    }

    fn variables(&self, id: &AgentId, assignment: &Assignment, home: &Path) -> Variables {
        let block = block(assignment);
        Variables::node(self.runtimes.variables())
            .with("home", home.display().to_string())
            .with("fleet", id.fleet.as_str())
            .with("agent", id.agent.as_str())
            .with("token", &assignment.token)
            .with("node_name", self.node_name.as_str())
            .with_number("port", block.base.into())
            .with_number("port_last", block.last().into())
    }

    /// Works out an agent's launch and makes its HOME.
    pub(crate) fn prepare(
        &self,
        id: &AgentId,
        assignment: &Assignment,
    ) -> Result<Prepared, Refusal> {
        let definition = self.definition(assignment)?;
        let spec = assignment.spec.clone().unwrap_or_default();
        let home = PathBuf::from(home(id));
        let variables = self.variables(id, assignment, &home);
        let overlay = overlay::combine([spec.config_json.as_str()])
            .map_err(|e| fatal(format!("config: {e}")))?;
        self.runtimes
            .check_overlay(&spec.runtime.parse().map_err(|_| fatal("no runtime"))?, &overlay)
            .map_err(|why| fatal(format!("config: {why}")))?;
        let probe = match overlay.get("probe").filter(|_| definition.agent_probe) {
            Some(probe) => serde_json::from_value(probe.clone())
                .map_err(|e| fatal(format!("config: probe: {e}")))?,
            None => definition.probe.clone(),
        };
        let template =
            if definition.command.is_empty() { &spec.command } else { &definition.command };
        let fill = |text: &String| variables.fill(text).map_err(fatal);
        let mut command = if definition.command.is_empty() {
            template.clone()
        } else {
            template.iter().map(fill).collect::<Result<_, _>>()?
        };
        let program =
            command.first_mut().ok_or_else(|| fatal("the agent's spec has no command"))?;
        *program = find_program(program)
            .ok_or_else(|| fatal(format!("program {program:?} does not exist on this node")))?;

        let mut environment = self.environment(id, assignment, &home);
        for (key, value) in &definition.environment {
            environment.insert(key.clone(), fill(value)?);
        }
        environment.extend(spec.environment);
        for (key, value) in &definition.reserved_environment {
            environment.insert(key.clone(), fill(value)?);
        }
        let files = configuration(definition, &overlay, &variables)?;
        make_home(&home, assignment.uid).map_err(|e| {
            let why = format!("HOME {}: {e}", home.display());
            let full = matches!(e.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem);
            let fault = if full { Fault::Node } else { Fault::Agent };
            Refusal { why, fault, ports_taken: None }
        })?;
        let limits = limits(spec.limits).or(definition.limits.limits());
        let log_bytes = if limits.log_bytes > 0 { limits.log_bytes } else { self.log_bytes_max };
        let launch = LaunchSpec {
            groups: Vec::new(),
            open_files: limits.open_files,
            file_bytes: file_bytes(limits.home_bytes, log_bytes),
            lease: LeaseCheck::default(),
            uid: assignment.uid,
            // Stable and the same on every node: OpenClaw's owner lease names the host.
            hostname: format!("agent-{}", assignment.uid),
            home: home.clone(),
            directories: definition.directories.clone(),
            files,
            command,
            environment,
            confinement: Confinement {
                writable: self.writable.clone(),
                hidden: self.hidden.clone(),
                ports: (block(assignment).base, block(assignment).last()),
            },
        };
        let repair = definition.repair.as_ref();
        let repair = repair.map(|repair| repair.command.iter().map(fill).collect()).transpose()?;
        let liveness = definition.liveness.clone();
        let double_run = definition.double_run.clone();
        let plan = Plan { home, limits, probe, liveness, double_run, variables };
        Ok(Prepared { launch, repair, plan })
    }

    fn environment(
        &self,
        id: &AgentId,
        assignment: &Assignment,
        home: &Path,
    ) -> std::collections::BTreeMap<String, String> {
        let block = block(assignment);
        let user = format!("agent-{}", assignment.uid);
        [
            ("PATH", PATH.to_owned()),
            ("HOME", home.display().to_string()),
            ("USER", user.clone()),
            ("LOGNAME", user),
            ("LANG", "C.UTF-8".to_owned()),
            ("FLEET_CLUSTER", self.cluster.to_string()),
            ("FLEET_NODE", self.node.to_string()),
            ("FLEET_NODE_NAME", self.node_name.to_string()),
            ("FLEET_NAME", id.fleet.to_string()),
            ("FLEET_AGENT", id.agent.to_string()),
            ("FLEET_GENERATION", assignment.generation.to_string()),
            ("FLEET_TOKEN", assignment.token.clone()),
            ("PORT_BASE", block.base.to_string()),
            ("PORT_COUNT", block.size.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}

fn configuration(
    definition: &Definition,
    overlay: &Value,
    variables: &Variables,
) -> Result<Vec<LaunchFile>, Refusal> {
    let Some(config) = &definition.config else { return Ok(Vec::new()) };
    let mut content = variables.fill_json(&config.defaults).map_err(fatal)?;
    overlay::merge(&mut content, overlay);
    overlay::merge(&mut content, &variables.fill_json(&config.reserved).map_err(fatal)?);
    let content = format!("{content:#}\n");
    Ok(vec![LaunchFile { path: config.path.clone(), content }])
}

fn find_program(program: &str) -> Option<String> {
    let executable = |path: &Path| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return executable(Path::new(program)).then(|| program.to_owned());
    }
    let mut candidates = PATH.split(':').map(|directory| Path::new(directory).join(program));
    candidates.find(|path| executable(path)).map(|path| path.display().to_string())
}

/// Makes an agent's HOME, its own and closed to others. The directories above it belong to root,
/// so nothing an agent does can redirect this.
fn make_home(home: &Path, uid: u32) -> io::Result<()> {
    let above: Vec<&Path> = home.ancestors().skip(1).take(2).collect();
    for directory in above.iter().rev() {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    match fs::create_dir(home) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    if !fs::symlink_metadata(home)?.is_dir() {
        return Err(io::Error::other("exists and is not a directory"));
    }
    own(home, uid)?;
    fs::set_permissions(home, fs::Permissions::from_mode(0o700))
}

/// Gives `home` to `uid`, and with it what is in it where it was another's: of an agent of the same
/// name that was deleted. It goes last, so what was interrupted is done again.
fn own(home: &Path, uid: u32) -> io::Result<()> {
    if fs::symlink_metadata(home)?.uid() == uid {
        return Ok(());
    }
    // Links are given away themselves, never what they point at.
    walk(home, &mut |path| lchown(path?, Some(uid), Some(uid)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn openclaw(config: &str) -> Result<Value, Refusal> {
        let variables = BTreeMap::from([
            ("node".to_owned(), "/bin/true".to_owned()),
            ("openclaw".to_owned(), "/opt/openclaw".to_owned()),
        ]);
        let runtimes = Runtimes::load(&[], &variables).unwrap();
        let definition = runtimes.get(&"openclaw".parse().unwrap()).unwrap().clone();
        let variables = Variables::node(&variables)
            .with("home", "/h")
            .with("token", "secret")
            .with_number("port", 20_480);
        let overlay = overlay::combine([config]).unwrap();
        let files = configuration(&definition, &overlay, &variables)?;
        Ok(serde_json::from_str(&files[0].content).unwrap())
    }

    #[test]
    fn openclaw_json_has_what_the_gateway_needs() {
        let json =
            openclaw(r#"{"logging": {"level": "debug"}, "hooks": {"enabled": true}}"#).unwrap();
        assert_eq!(json["gateway"]["port"], 20_480);
        assert_eq!(json["gateway"]["bind"], "loopback");
        assert_eq!(json["gateway"]["auth"]["token"], "secret");
        assert_eq!(json["logging"]["file"], "/h/logs/openclaw.log");
        assert_eq!(json["logging"]["level"], "debug", "the overlay wins over defaults");
        assert_eq!(json["logging"]["consoleStyle"], "json");
        assert_eq!(json["hooks"]["enabled"], true);
    }
}
