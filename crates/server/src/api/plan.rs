//! `AgentService.PlanAgents`: what making fleets and agents would come to, all together.

use fleet_core::{AgentDraft, check_drafts, plan::Planner, provision::Provision};
use fleet_proto::{
    error::{from_rejection, invalid_field},
    v1::{Agent, PlanAgentsRequest, PlannedFleet},
};
use fleet_types::{FleetName, limits};
use tonic::Status;

use super::{
    Api,
    agent::{Wanted, rehearsed},
    fleet::Gives,
};

impl Api {
    /// What would be made, in the order of the requests.
    pub(super) async fn plan(&self, request: PlanAgentsRequest) -> Result<Vec<Agent>, Status> {
        let fleets = request.fleets.len();
        if fleets > limits::AGENTS_PER_CALL_MAX {
            let why = format!("at most {} fleets a call", limits::AGENTS_PER_CALL_MAX);
            return Err(invalid_field("LIMIT_REACHED", "fleets", &fleets.to_string(), why));
        }
        let count: usize = request.fleets.iter().map(|fleet| fleet.requests.len()).sum();
        let most = limits::AGENTS_PER_PLAN_MAX;
        if count > most {
            let why = format!("at most {most} agents a call");
            return Err(invalid_field("LIMIT_REACHED", "fleets", &count.to_string(), why));
        }
        self.linearize().await?;
        let fleets = request.fleets.into_iter().map(|fleet| self.planned(fleet));
        let mut fleets = fleets.collect::<Result<Vec<_>, _>>()?;
        let admission = super::agent::admission(request.allow_overcommit);
        self.raft.read(|state| {
            let mut planner = Planner::beside_moves(state);
            for (fleet, drafts) in &mut fleets {
                for draft in drafts {
                    draft.node = planner.choose(fleet, &draft.spec);
                }
            }
            let all = fleets.iter().map(|(fleet, drafts)| (fleet, drafts.as_slice()));
            let each =
                all.clone().flat_map(|(fleet, drafts)| drafts.iter().map(move |d| (fleet, d)));
            check_drafts(state, all.clone(), admission)
                .and_then(|()| Provision::new(state).admit(each, admission))
                .map_err(|rejection| from_rejection(&rejection))?;
            let shown = |(fleet, drafts)| {
                let one = |draft: &AgentDraft| rehearsed(state, fleet, draft);
                <[AgentDraft]>::iter(drafts).map(one).collect::<Vec<_>>()
            };
            Ok(all.flat_map(shown).collect())
        })
    }

    /// The agents of a fleet, without nodes yet.
    fn planned(&self, planned: PlannedFleet) -> Result<(FleetName, Vec<AgentDraft>), Status> {
        let id = &planned.fleet_id;
        let name: FleetName =
            id.parse().map_err(|e| invalid_field("INVALID_NAME", "fleet_id", id, e))?;
        let gives = match self.raft.read(|state| Gives::of(state, &name)) {
            Some(gives) => gives,
            None => Gives::parse(planned.fleet.unwrap_or_default())?.0,
        };
        let wanted = self.parse_all(&planned.requests, &gives)?;
        let draft = |Wanted { name, spec, desired }| AgentDraft { name, spec, desired, node: None };
        Ok((name, wanted.into_iter().map(draft).collect()))
    }
}
