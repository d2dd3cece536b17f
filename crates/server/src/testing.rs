//! Records for tests.

use std::{collections::BTreeMap, sync::Arc};

use fleet_core::{Agent, AgentSpec, Desired, Evidence, Lifecycle, PendingReason, Wants};
use fleet_types::{AgentClass, Generation, Labels, ResourceLimits, Resources, Revision, Timestamp};

/// An agent that waits for a node.
pub(crate) fn agent(number: usize) -> Agent {
    let spec = AgentSpec {
        runtime: "exec".parse().expect("a name"),
        config: String::new(),
        command: Vec::new(),
        environment: BTreeMap::new(),
        ports: 1,
        labels: Labels::default(),
        limits: ResourceLimits::default(),
        class: AgentClass::Strict,
        priority: 0,
        wants: Wants { requests: Resources::default(), ..Wants::default() },
    };
    Agent {
        id: format!("f/a{number}").parse().expect("a name"),
        spec: Arc::new(spec),
        desired: Desired::Running,
        lifecycle: Lifecycle::Live,
        restarts: 0,
        uid: 70_000,
        generation: Generation(0),
        placement: None,
        pending: Some(PendingReason::NoNode),
        evidence: Evidence::First,
        former: None,
        created: Timestamp(0),
        revision: Revision(1),
    }
}
