//! `agent …`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use fleet_types::AgentClass;

use super::{
    Wait, Wants,
    parse::{cores, pair, size},
};

/// `agent …`.
#[derive(Subcommand)]
pub enum Agent {
    /// Make an agent, place it and start it
    Create(Box<CreateAgent>),
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
    /// Move an agent to another node
    Move {
        /// FLEET/AGENT
        agent: String,
        /// Name or number of the node [default: the best other]
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Show what happened to an agent, and why
    Events {
        /// FLEET/AGENT
        agent: String,
        /// How many of the latest
        #[arg(long, default_value_t = 20)]
        limit: u32,
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
    /// Where it may be placed.
    #[command(flatten)]
    pub wants: Wants,
    /// Make it although not all agents would fit after the loss of the largest node
    #[arg(long)]
    pub allow_overcommit: bool,
    /// Only show what would be made and where it would be placed
    #[arg(long)]
    pub dry_run: bool,
    /// Size of its port block; 0 for its fleet's, or else the runtime's
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
    /// What of its log is kept, and as much again of what is older; 0 for the runtime's limit, or
    /// else the node's
    #[arg(long, value_parser = size, default_value = "0")]
    pub log_size: u64,
    /// What becomes of it when its node is out of reach. `strict` ends it with the node's lease and
    /// places it elsewhere; `sticky` lets it run for a hundred leases first; `pinned` leaves it
    /// where it is
    #[arg(long, default_value_t = AgentClass::Strict)]
    pub class: AgentClass,
    /// From -1000 to 1000: the higher, the sooner it is placed and started when many wait; 0 for its
    /// fleet's
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
