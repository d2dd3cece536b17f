//! `fleet.v1.EventService`.

use fleet_core::{Event, State};
use fleet_proto::{
    convert::{api as convert, placement},
    error::{invalid_field, status},
    resource,
    v1::{self, ListEventsRequest, ListEventsResponse, event_service_server::EventService},
};
use fleet_types::{AgentId, FleetName, NodeId};
use tonic::{Code, Request, Response, Status};

use super::{Api, node::find};

/// Which events are wanted; none for any.
struct Wanted {
    agent: Option<AgentId>,
    node: Option<NodeId>,
    fleet: Option<FleetName>,
}

impl Wanted {
    fn is(&self, event: &Event) -> bool {
        let fleet =
            |name: &FleetName| event.agent.as_ref().is_some_and(|agent| agent.fleet == *name);
        self.agent.as_ref().is_none_or(|agent| event.agent.as_ref() == Some(agent))
            && self.node.is_none_or(|node| event.node == Some(node))
            && self.fleet.as_ref().is_none_or(fleet)
    }

    /// Up to `size` of the events before `before`, the latest first.
    fn page(&self, state: &State, before: u64, size: usize) -> Vec<v1::Event> {
        let events = state.events().range(..before).rev().map(|(_, event)| event);
        let wanted = events.filter(|event| self.is(event));
        wanted.take(size).map(|event| placement::event(state, event)).collect()
    }
}

fn serial(name: &str) -> Result<u64, Status> {
    let text = resource::parse_simple("page_token", "events", name)?;
    text.parse().map_err(|e| invalid_field("INVALID_RESOURCE_NAME", "page_token", name, e))
}

/// The node of a text. One that was removed still has a number.
fn known(state: &State, text: &str) -> Option<NodeId> {
    find(state, text).or_else(|| text.parse().ok().map(NodeId))
}

/// Something, unless the text is empty.
fn given<'a, T>(
    text: &'a str,
    parse: impl FnOnce(&'a str) -> Result<T, Status>,
) -> Result<Option<T>, Status> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

#[tonic::async_trait]
impl EventService for Api {
    async fn list_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<ListEventsResponse>, Status> {
        let request = request.into_inner();
        let (size, after) = convert::parse_page(request.page_size, &request.page_token)?;
        let before = after.map(serial).transpose()?.unwrap_or(u64::MAX);
        let agent = given(&request.agent, |text| resource::parse_agent("agent", text))?;
        let fleet = given(&request.fleet, |text| resource::parse_fleet("fleet", text))?;
        let node = given(&request.node, |text| resource::parse_simple("node", "nodes", text))?;
        let found = self
            .read(|state| {
                let node = node.map(|text| known(state, text).ok_or(text)).transpose()?;
                Ok::<_, &str>(Wanted { agent, node, fleet }.page(state, before, size))
            })
            .await?;
        let events = found.map_err(|text| {
            let message = format!("no node {text}; `fleet-cluster node list` shows them");
            let field = [("field", "node"), ("value", text)];
            status(Code::NotFound, "NODE_NOT_FOUND", message, &field)
        })?;
        let last = events.last().filter(|_| events.len() == size);
        let next_page_token = last.map(|event| event.name.clone()).unwrap_or_default();
        Ok(Response::new(ListEventsResponse { events, next_page_token }))
    }
}
