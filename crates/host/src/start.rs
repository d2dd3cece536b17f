//! Starting one process of an agent.

use std::{io::ErrorKind::NotFound, sync::Arc, time::Duration};

use fleet_process::{Child, Group, GroupError, LeaseCheck, LogFile, holders};
use fleet_proto::host::Assignment;
use fleet_supervision::Fault;
use fleet_types::AgentId;

use crate::{
    host::{Kept, Shared, group_name},
    provision::{Plan, Prepared, Refusal, block},
    start_key::StartKey,
};

/// How long looking at an agent's HOME may take before it is started. Giving one another
/// owner takes a second for 190,000 files that are in memory (ext4).
const PREPARING_MAX: Duration = Duration::from_secs(300);

/// Kills a group until it is empty, or is no more.
pub(crate) async fn empty(group: &Group) {
    loop {
        let result = match group.kill() {
            Ok(()) => group.emptied().await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => return,
            Err(GroupError::Io { source, .. }) if source.kind() == NotFound => return,
            Err(error) => {
                tracing::error!(%error, "emptying a control group failed; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Waits for what looks at an agent's HOME, until its lease is over: a file system that hangs keeps
/// neither its node from a new lease nor other agents from starting.
pub(crate) async fn waited<T: Send + 'static>(
    kept: &Kept,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let refused = |why: String, fault| Refusal { why, fault, ports_taken: None };
    let mut lease = kept.guard.watch();
    let over = async {
        // One that was just granted is announced a moment later.
        if kept.guard.current().is_some() {
            let _ = lease.wait_for(Option::is_some).await;
        }
        let _ = lease.wait_for(Option::is_none).await;
    };
    tokio::select! {
        done = tokio::task::spawn_blocking(work) => {
            done.map_err(|e| refused(e.to_string(), Fault::Agent))
        }
        // Not again by itself: each try that hangs keeps a thread.
        () = tokio::time::sleep(PREPARING_MAX) => {
            let seconds = PREPARING_MAX.as_secs();
            Err(refused(format!("its HOME could not be prepared within {seconds} s"), Fault::Lasting))
        }
        () = over => Err(refused("its lease is over".into(), Fault::Node)),
    }
}

/// One start of an agent, or of its repair.
pub(crate) struct Start {
    pub(crate) id: AgentId,
    pub(crate) assignment: Assignment,
    /// Which it is since the agent was placed.
    pub(crate) number: u32,
    pub(crate) repair: bool,
    pub(crate) group: Group,
    pub(crate) log: LogFile,
}

/// What was started.
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) plan: Arc<Plan>,
    /// Kills for its memory limit before it.
    pub(crate) memory_kills: u64,
}

/// Prepares and starts an agent.
pub(crate) async fn launch(
    host: Arc<Shared>,
    kept: Arc<Kept>,
    start: Start,
) -> Result<Launched, Refusal> {
    let Start { id, assignment, number, repair, group, log } = start;
    let of_node = |why: String| Refusal { why, fault: Fault::Node, ports_taken: None };
    // There is mostly nothing in it, and no need to look.
    if group.renew().is_err() {
        empty(&group).await;
        group.renew().map_err(|e| of_node(format!("making its control group: {e}")))?;
    }
    let key = StartKey {
        agent: id.clone(),
        generation: assignment.generation,
        restarts: assignment.restarts,
        start: number,
        salt: rand::random(),
        uid: assignment.uid,
    };
    let site = host.clone();
    let prepared = waited(&kept, move || {
        let prepared = site.site.prepare(&id, &assignment)?;
        let block = block(&assignment);
        let holders = holders(block).map_err(|e| Refusal {
            why: format!("looking who listens on its ports: {e}"),
            fault: Fault::Node,
            ports_taken: None,
        })?;
        match holders.first() {
            Some(holder) => Err(Refusal {
                why: holder.to_string(),
                fault: Fault::Node,
                ports_taken: Some(block),
            }),
            None => Ok(prepared),
        }
    });
    let prepared = prepared.await??;
    let Prepared { mut launch, repair: command, plan } = prepared;
    if let Some(command) = command.filter(|_| repair) {
        launch.command = command;
    }
    let lease = kept.guard.cover(&group);
    let lease = lease.map_err(|e| of_node(format!("leasing what it sends: {e}")))?;
    let Some(lease) = lease else {
        return Err(of_node("there is no lease for its class here".into()));
    };
    let limited = kept.limiter.set(&group_name(&key.agent), &plan.limits);
    let limited = limited.map_err(|e| Refusal {
        why: format!("limiting it: {e}"),
        fault: Fault::Agent,
        ports_taken: None,
    })?;
    launch.groups = limited;
    launch.lease = LeaseCheck { status: kept.guard.status_file(), epoch: lease.epoch.0 };
    let memory_kills = kept.limiter.memory_kills(&group_name(&key.agent));
    let child = kept.launcher.launch(&key.to_string(), &launch, &log, &group).await;
    let child = child.map_err(|e| of_node(format!("starting failed: {e}")))?;
    Ok(Launched { child, plan: Arc::new(plan), memory_kills })
}
