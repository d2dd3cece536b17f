//! What concerns placement: wants of agents, policies, events and manifests.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::parse::{cores, pair, size};

/// Where agents may be placed.
#[derive(Parser)]
pub struct Wants {
    /// Only on nodes with this label, KEY=VALUE; may be repeated
    #[arg(long = "on", value_parser = pair)]
    pub node_labels: Vec<(String, String)>,
    /// Memory kept free for an agent on its node, like 512M or 2G; 0 for the default
    #[arg(long, value_parser = size, default_value = "0", value_name = "SIZE")]
    pub request_memory: u64,
    /// Cores kept free for an agent on its node, like 0.5 or 2; 0 for the default
    #[arg(long, value_parser = cores, default_value = "0", value_name = "CORES")]
    pub request_cpus: u32,
    /// Only on nodes whose runtime has this version or a newer one, like 2026.9.6
    #[arg(long, default_value = "", hide_default_value = true, value_name = "VERSION")]
    pub runtime_version: String,
    /// Share no node with another agent of the fleet that stands apart
    #[arg(long)]
    pub apart: bool,
    /// Spread the fleet over the values of this node label, like rack
    #[arg(long, default_value = "", hide_default_value = true, value_name = "KEY")]
    pub spread_by: String,
}

/// `placement …`.
#[derive(Subcommand)]
pub enum Placement {
    /// Show how agents are placed and what room is left
    Show,
    /// Change how agents are placed; what is not given stays
    Set(SetPlacement),
}

/// `placement set`.
#[derive(Parser)]
pub struct SetPlacement {
    /// How much of a node's memory may be promised to agents, in hundredths
    #[arg(long, value_name = "PERCENT")]
    pub memory_percent: Option<u32>,
    /// How much of a node's processor time may be promised to agents, in hundredths
    #[arg(long, value_name = "PERCENT")]
    pub cpu_percent: Option<u32>,
    /// Whether agents are moved by themselves to nodes that have more room
    #[arg(long, value_name = "BOOL")]
    pub rebalance: Option<bool>,
    /// How many agents may be on the move at once for that
    #[arg(long, value_name = "COUNT")]
    pub moves_at_once: Option<u32>,
    /// How many nodes vote, once there are as many: 3, 5 or 7
    #[arg(long, value_name = "COUNT")]
    pub voters: Option<u32>,
    /// A node label, like rack: nodes are chosen to vote so that they have many values of it
    #[arg(long, value_name = "KEY")]
    pub voters_spread_by: Option<String>,
}

/// `rebalance`.
#[derive(Parser)]
pub struct Rebalance {
    /// Only show which agents would move
    #[arg(long)]
    pub dry_run: bool,
    /// Most agents to move [default: the policy's number at once, less those on the move; all with
    /// --dry-run]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "COUNT")]
    pub moves: u32,
}

/// `events`.
#[derive(Parser)]
pub struct Events {
    /// Only of this agent, FLEET/AGENT
    #[arg(long)]
    pub agent: Option<String>,
    /// Only of this node, by name or number
    #[arg(long)]
    pub node: Option<String>,
    /// Only of agents of this fleet
    #[arg(long)]
    pub fleet: Option<String>,
    /// How many of the latest
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
}

/// `plan` and `apply`.
#[derive(Parser)]
pub struct Manifest {
    /// YAML or JSON with fleets and their agents, see docs/operations; - for standard input
    #[arg(short, long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// Make agents although not all would fit after the loss of the largest node
    #[arg(long)]
    pub allow_overcommit: bool,
}
