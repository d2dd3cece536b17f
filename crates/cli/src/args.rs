//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use fleet_types::{AgentClass, LeaseProfile, NodeName};

/// Runs agents on a few bare-metal machines as one place, and moves them when a machine dies.
#[derive(Parser)]
#[command(name = "fleet-cluster", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Args {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the cluster is out of \
reach; 4 not found; 5 refused by the present state; 6 (status) something is wrong; 7 waited too \
long";

/// What applies to every command.
#[derive(Clone, Parser)]
pub struct Global {
    /// File with the cluster's endpoints and your certificate [default: ~/.config/fleet-cluster/context.json]
    #[arg(long, global = true, env = "FLEET_CLUSTER_CONTEXT", value_name = "FILE")]
    pub context: Option<PathBuf>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Seconds to look for a node that answers
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS")]
    pub patience: u64,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// Canonical proto3 JSON of the API's answer
    Json,
    /// The same as YAML
    Yaml,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Make a new cluster with this machine as its first node
    Init(Init),
    /// Make this machine a node of an existing cluster
    Join(Join),
    /// Run this machine's daemon (systemd does)
    Run(Run),
    /// Show who leads, which nodes live, what is wrong and what to do
    Status,
    /// Rights to join
    #[command(subcommand)]
    Token(Token),
    /// The machines
    #[command(subcommand)]
    Node(Node),
    /// Named sets of agents
    #[command(subcommand)]
    Fleet(Fleet),
    /// The supervised workloads
    #[command(subcommand)]
    Agent(Agent),
    /// Show or set when the agents of lost nodes are placed elsewhere
    Moves(Moves),
    /// Show the version
    Version,
    /// Print a completion script
    Completion {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Where this node is.
#[derive(Parser)]
pub struct Place {
    /// Address others reach this machine at: HOST or HOST:PORT; the two ports after it are used too [default port: 7400]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub advertise: String,
    /// Name of this node [default: the host name]
    #[arg(long)]
    pub name: Option<NodeName>,
    /// Address the listeners bind
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub listen: std::net::IpAddr,
    /// The daemon's configuration
    #[arg(long, default_value = CONFIG, value_name = "FILE")]
    pub config: PathBuf,
    /// Do not start the daemon through systemd
    #[arg(long)]
    pub no_start: bool,
}

/// Where the configuration is when nothing else is said.
pub const CONFIG: &str = "/etc/fleet-cluster/config.toml";

/// `init`.
#[derive(Parser)]
pub struct Init {
    /// Where this node is.
    #[command(flatten)]
    pub place: Place,
    /// How quickly a silent node is given up: default, fast or aggressive
    #[arg(long, default_value = "default")]
    pub profile: LeaseProfile,
}

/// `join`.
#[derive(Parser)]
pub struct Join {
    /// HOST:PORT of any node's API
    pub address: String,
    /// Where this node is.
    #[command(flatten)]
    pub place: Place,
    /// File with the join token; - for standard input. Else FLEET_CLUSTER_TOKEN is taken
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The join token itself. Other users can see it in the process list: prefer --token-file
    #[arg(
        long,
        env = "FLEET_CLUSTER_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    pub token: Option<String>,
}

/// `run`.
#[derive(Parser)]
pub struct Run {
    /// The daemon's configuration
    #[arg(long, default_value = CONFIG, value_name = "FILE")]
    pub config: PathBuf,
    /// Only check the configuration
    #[arg(long)]
    pub check_config: bool,
    /// Only print the configuration, defaults filled in
    #[arg(long)]
    pub print_config: bool,
}

/// `token …`.
#[derive(Subcommand)]
pub enum Token {
    /// Make a join token; it is shown once
    Create {
        /// The best role a node it admits may have
        #[arg(long, value_enum, default_value_t = Role::Voter)]
        role: Role,
        /// How long it lives, e.g. 30m or 24h
        #[arg(long, default_value = "1h", value_parser = span)]
        ttl: u64,
        /// How many nodes it admits
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// Print nothing but the token
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show all join tokens, without secrets
    List,
    /// End a join token
    Revoke {
        /// Its id
        id: String,
    },
}

/// A node's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// May become one of the three that vote
    Voter,
    /// Only hosts agents
    Worker,
}

/// When the agents of lost nodes are placed elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MoveRule {
    /// Unless too many nodes are lost at once
    Automatic,
    /// However many are lost
    Always,
    /// They wait until their node is back
    Never,
}

/// `moves`.
#[derive(Parser)]
pub struct Moves {
    /// The rule [default: show it]
    pub rule: Option<MoveRule>,
    /// How many nodes in a hundred may be lost under `automatic` [default: as it is]
    #[arg(long, value_name = "PERCENT", requires = "rule")]
    pub lost_max: Option<u32>,
}

/// `node …`.
#[derive(Subcommand)]
pub enum Node {
    /// Show all nodes
    List,
    /// Show one node
    Get {
        /// Name or number
        node: String,
    },
    /// Allow no new agents on a node
    Cordon {
        /// Name or number
        node: String,
    },
    /// Allow agents on a node again
    Uncordon {
        /// Name or number
        node: String,
    },
    /// Move a node's agents off and allow no new ones
    Drain {
        /// Name or number
        node: String,
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Show what would become of a node's agents if it were lost now
    PlanLoss {
        /// Name or number
        node: String,
    },
    /// Let a node's agents go on while its daemon is away for longer than a lease
    Hold {
        /// Name or number
        node: String,
        /// How long it may be away: 10s to 1h. If the node is lost, its agents move as much later
        #[arg(long = "for", default_value = "10m", value_parser = span, value_name = "TIME")]
        seconds: u64,
    },
    /// End a hold: the node's leases are as long as others again, once the last long one is over
    Release {
        /// Name or number
        node: String,
    },
    /// Forget a node for good; it must be empty and its daemon stopped
    Remove {
        /// Name or number
        node: String,
    },
    /// Place the agents of a machine without power elsewhere at once, not after its lease
    ConfirmDead {
        /// Name or number
        node: String,
        /// Its power is cut; if it is not, agents will run twice
        #[arg(long, required = true)]
        i_have_powered_it_off: bool,
    },
}

/// How to wait for the result.
#[derive(Parser, Clone, Copy)]
pub struct Wait {
    /// Do not wait for the result
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait, e.g. 90s or 5m
    #[arg(long, default_value = "5m", value_parser = span)]
    pub timeout: u64,
}

/// `fleet …`.
#[derive(Subcommand)]
pub enum Fleet {
    /// Make a fleet
    Create {
        /// Its name
        name: String,
        /// File with a JSON object its agents' configuration starts from; - for standard input
        #[arg(long, value_name = "FILE")]
        config_file: Option<PathBuf>,
        /// Label, KEY=VALUE; may be repeated
        #[arg(short, long = "label", value_parser = pair)]
        labels: Vec<(String, String)>,
    },
    /// Show all fleets
    List,
    /// Show one fleet
    Get {
        /// Its name
        name: String,
    },
    /// Delete an empty fleet
    Delete {
        /// Its name
        name: String,
    },
}

/// `agent …`.
#[derive(Subcommand)]
pub enum Agent {
    /// Make an agent, place it and start it
    Create(CreateAgent),
    /// Show agents
    List {
        /// Of this fleet only
        #[arg(long)]
        fleet: Option<String>,
    },
    /// Show one agent
    Get {
        /// FLEET/AGENT
        agent: String,
    },
    /// Say why an agent is where it is, or waits, and what every node is to it
    Explain {
        /// FLEET/AGENT
        agent: String,
    },
    /// Start an agent
    Start {
        /// FLEET/AGENT
        agent: String,
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop an agent
    Stop {
        /// FLEET/AGENT
        agent: String,
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop an agent and start it again where it is
    Restart {
        /// FLEET/AGENT
        agent: String,
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete an agent; its HOME stays on disk
    Delete {
        /// FLEET/AGENT
        agent: String,
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Show what an agent wrote
    Logs {
        /// FLEET/AGENT
        agent: String,
        /// Stay and show what it writes
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines
        #[arg(long, default_value_t = 100)]
        lines: u32,
    },
}

/// `agent create`.
#[derive(Parser)]
pub struct CreateAgent {
    /// FLEET/AGENT
    pub agent: String,
    /// Which kind of agent
    #[arg(long, default_value = "openclaw")]
    pub runtime: String,
    /// File with a JSON object merged into its configuration; - for standard input
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Environment, KEY=VALUE; may be repeated
    #[arg(short, long = "env", value_parser = pair)]
    pub environment: Vec<(String, String)>,
    /// Label, KEY=VALUE; may be repeated
    #[arg(short, long = "label", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// Only on nodes with this label, KEY=VALUE; may be repeated
    #[arg(long = "on", value_parser = pair)]
    pub node_labels: Vec<(String, String)>,
    /// Size of its port block; 0 for the runtime's
    #[arg(long, default_value_t = 0)]
    pub ports: u32,
    /// Memory it may use, like 512M or 2G; 0 for the runtime's limit
    #[arg(long, value_parser = size, default_value = "0")]
    pub memory: u64,
    /// Cores it may use, like 0.5 or 2; 0 for the runtime's limit
    #[arg(long, value_parser = cores, default_value = "0")]
    pub cpus: u32,
    /// Processes and threads it may have; 0 for the runtime's limit
    #[arg(long, default_value_t = 0)]
    pub processes: u32,
    /// Files one process of it may have open; 0 for the runtime's limit
    #[arg(long, default_value_t = 0)]
    pub open_files: u32,
    /// What its HOME may hold, like 500M or 10G; 0 for the runtime's limit
    #[arg(long, value_parser = size, default_value = "0")]
    pub home_size: u64,
    /// What becomes of it when its node is out of reach. `strict` ends it with the node's lease and
    /// places it elsewhere; `sticky` lets it run for a hundred leases first; `pinned` leaves it
    /// where it is
    #[arg(long, default_value_t = AgentClass::Strict)]
    pub class: AgentClass,
    /// From -1000 to 1000: the higher, the sooner it is placed and started when many wait
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i32,
    /// Do not start it
    #[arg(long)]
    pub stopped: bool,
    /// How to wait.
    #[command(flatten)]
    pub wait: Wait,
    /// Its command, for runtimes that take one
    #[arg(last = true)]
    pub command: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Bytes from `1048576`, `512K`, `64M` or `2G`.
fn size(text: &str) -> Result<u64, String> {
    let expected = "expected a number with K, M or G";
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| expected)?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".into())
}

/// Thousandths of a core from `0.5` or `2`.
fn cores(text: &str) -> Result<u32, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let expected = "expected a number of cores with up to three decimals";
    if part.len() > 3 {
        return Err(expected.into());
    }
    let parse = |digits: &str| digits.parse::<u32>().map_err(|_| expected.to_owned());
    let part = parse(&format!("{part:0<3}"))?;
    let whole = parse(whole)?.checked_mul(1_000).ok_or("too many")?;
    whole.checked_add(part).ok_or_else(|| "too many".into())
}

/// Seconds from `90`, `90s`, `5m`, `2h` or `7d`.
fn span(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("expected a number with s, m, h or d".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a number with s, m, h or d")?;
    number.checked_mul(factor).ok_or_else(|| "too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_and_cores() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("2G"), Ok(2 << 30));
        assert!(size("2T").is_err() && size("").is_err() && size("99999999999999999999").is_err());
        assert_eq!(cores("2"), Ok(2_000));
        assert_eq!(cores("0.25"), Ok(250));
        assert!(cores("0.0001").is_err() && cores("-1").is_err() && cores(".").is_err());
    }

    #[test]
    fn spans() {
        assert_eq!(span("90"), Ok(90));
        assert_eq!(span("5m"), Ok(300));
        assert_eq!(span("7d"), Ok(604_800));
        assert!(span("5x").is_err() && span("m").is_err() && span("").is_err());
    }
}
