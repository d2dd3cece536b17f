//! Resource names: `nodes/3`, `fleets/demo`, `fleets/demo/agents/a1`, `tokens/…`.

use fleet_types::{AgentId, FleetName, RequestId};
use tonic::Status;

use crate::error::invalid_field;

/// The name of a fleet.
pub fn fleet(name: &FleetName) -> String {
    format!("fleets/{name}")
}

/// The name of an agent.
pub fn agent(id: &AgentId) -> String {
    format!("fleets/{}/agents/{}", id.fleet, id.agent)
}

fn wrong(field: &str, value: &str, pattern: &str) -> Status {
    let why = format!("{value:?} is not of the form {pattern}");
    invalid_field("INVALID_RESOURCE_NAME", field, value, why)
}

/// Reads `fleets/{fleet}`.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub fn parse_fleet(field: &str, name: &str) -> Result<FleetName, Status> {
    let fleet = name.strip_prefix("fleets/").ok_or_else(|| wrong(field, name, "fleets/{fleet}"))?;
    fleet.parse().map_err(|e| invalid_field("INVALID_NAME", field, fleet, e))
}

/// Reads `fleets/{fleet}/agents/{agent}`.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub fn parse_agent(field: &str, name: &str) -> Result<AgentId, Status> {
    let parts = name.strip_prefix("fleets/").and_then(|rest| rest.split_once("/agents/"));
    let (fleet, agent) =
        parts.ok_or_else(|| wrong(field, name, "fleets/{fleet}/agents/{agent}"))?;
    let invalid = |e| invalid_field("INVALID_NAME", field, name, e);
    Ok(AgentId { fleet: fleet.parse().map_err(invalid)?, agent: agent.parse().map_err(invalid)? })
}

/// Reads the last part of `{collection}/{id}`.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub fn parse_simple<'a>(field: &str, collection: &str, name: &'a str) -> Result<&'a str, Status> {
    let rest = name.strip_prefix(collection).and_then(|rest| rest.strip_prefix('/'));
    rest.filter(|id| !id.is_empty() && !id.contains('/'))
        .ok_or_else(|| wrong(field, name, &format!("{collection}/{{id}}")))
}

/// Reads an optional idempotency key.
///
/// # Errors
/// `INVALID_ARGUMENT` when it is too long or not printable.
pub fn parse_request_id(text: &str) -> Result<Option<RequestId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = text.parse();
    id.map(Some).map_err(|e| invalid_field("INVALID_REQUEST_ID", "request_id", text, e))
}
