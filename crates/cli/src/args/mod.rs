//! The command line.

mod agent;
mod parse;
mod placement;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use fleet_types::{LeaseProfile, NodeName};

pub use agent::{Agent, CreateAgent};
use parse::{pair, span};
pub use placement::{Events, Manifest, Placement, Rebalance, SetPlacement, Wants};

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
long. Of plan: 0 nothing would change; 1 something would; more: as above, 2 for failed";

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
    /// The ports of the machines
    #[command(subcommand)]
    Port(Port),
    /// Named sets of agents
    #[command(subcommand)]
    Fleet(Fleet),
    /// The supervised workloads
    #[command(subcommand)]
    Agent(Agent),
    /// Show or set when the agents of lost nodes are placed elsewhere
    Moves(Moves),
    /// How agents are placed, and what room is left
    #[command(subcommand)]
    Placement(Placement),
    /// Move agents to nodes with more room
    Rebalance(Rebalance),
    /// Show what happened, and why
    Events(Events),
    /// Show what would change if a manifest were applied: exits with 0 for nothing, 1 for changes
    Plan(Manifest),
    /// Make the fleets and agents of a manifest that do not exist
    Apply(Manifest),
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
        /// How many agents may be on the move at once; 0 for all
        #[arg(long, default_value_t = 8, value_name = "COUNT")]
        at_once: u32,
        /// After this long all leave, even if no other node has room, e.g. 30m [default: never]; the
        /// timeout counts from then
        #[arg(long, value_parser = span, value_name = "TIME")]
        deadline: Option<u64>,
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Show a node's ports: who owns which, what is free, what is kept from agents
    Ports {
        /// Name or number
        node: String,
    },
    /// Show what happened to a node, and why
    Events {
        /// Name or number
        node: String,
        /// How many of the latest
        #[arg(long, default_value_t = 20)]
        limit: u32,
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
    /// Give a node a vote
    Promote {
        /// Name or number
        node: String,
    },
    /// Take a node's vote; it is not given one again by itself
    Demote {
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

/// A `port` command.
#[derive(Subcommand)]
pub enum Port {
    /// Show how many ports each node has used, free and kept from agents; or one node's, one by one
    List {
        /// Name or number of a node
        node: Option<String>,
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
        /// Where its agents may be placed, where they state nothing else.
        #[command(flatten)]
        wants: Wants,
        /// Size of the port block of one that states none; 0 for its runtime's
        #[arg(long, default_value_t = 0)]
        ports: u32,
        /// Priority of one that states none, from -1000 to 1000
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        priority: i32,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
