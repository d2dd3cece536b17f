//! Starting one process of an agent.

use std::{sync::Arc, time::Duration};

use fleet_process::{Child, Group, LeaseCheck, LogFile, holders};
use fleet_proto::host::Assignment;
use fleet_types::AgentId;

use crate::{
    host::{Shared, group_name},
    provision::{Plan, Refusal, block},
    start_key::StartKey,
};

/// Kills a group until it is empty.
pub(crate) async fn empty(group: &Group) {
    loop {
        let result = match group.kill() {
            Ok(()) => group.emptied().await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(%error, "emptying a control group failed; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Prepares and starts an agent, or its `repair`, as start number `start`.
pub(crate) async fn launch(
    host: Arc<Shared>,
    id: AgentId,
    assignment: Assignment,
    start: u32,
    repair: bool,
    group: Group,
    log: LogFile,
) -> Result<(Child, Arc<Plan>), Refusal> {
    let passing = |why: String| Refusal { why, fatal: false };
    empty(&group).await;
    let key = StartKey {
        agent: id.clone(),
        generation: assignment.generation,
        restarts: assignment.restarts,
        start,
        salt: rand::random(),
    };
    let site = host.clone();
    let prepared = tokio::task::spawn_blocking(move || {
        let plan = site.site.prepare(&id, &assignment)?;
        let holders = holders(block(&assignment));
        match holders.first() {
            Some(holder) => Err(Refusal { why: holder.to_string(), fatal: false }),
            None => Ok(plan),
        }
    });
    let mut plan = prepared.await.map_err(|e| passing(e.to_string()))??;
    if let Some(command) = plan.repair.take_if(|_| repair) {
        plan.launch.command = command;
    }
    let Some(lease) = host.guard.current() else {
        return Err(passing("the node has no lease".into()));
    };
    let limited = host.limiter.set(&group_name(&key.agent), &plan.limits);
    let limited = limited.map_err(|e| passing(format!("limiting it: {e}")))?;
    plan.launch.groups = std::iter::once(group.path().to_owned()).chain(limited).collect();
    plan.launch.lease = LeaseCheck { status: host.guard.status_file(), epoch: lease.epoch.0 };
    let child = host.launcher.launch(&key.to_string(), &plan.launch, &log).await;
    let child = child.map_err(|e| passing(format!("starting failed: {e}")))?;
    Ok((child, Arc::new(plan)))
}
