//! One file per command. Each checks everything first and changes the state only then.

pub(crate) mod admit_node;
pub(crate) mod confirm_stopped;
pub(crate) mod create_agents;
pub(crate) mod create_fleet;
pub(crate) mod create_token;
pub(crate) mod delete_agent;
pub(crate) mod delete_fleet;
pub(crate) mod evict_agents;
pub(crate) mod fence_node;
pub(crate) mod hold_node;
pub(crate) mod init_cluster;
pub(crate) mod place_agents;
pub(crate) mod quarantine_ports;
pub(crate) mod register_node;
pub(crate) mod release_ports;
pub(crate) mod remove_node;
pub(crate) mod report_double_run;
pub(crate) mod report_parked;
pub(crate) mod restart_agent;
pub(crate) mod revoke_token;
pub(crate) mod set_agent_desired;
pub(crate) mod set_move_policy;
pub(crate) mod set_placement_policy;
pub(crate) mod set_role;
pub(crate) mod set_schedulable;
