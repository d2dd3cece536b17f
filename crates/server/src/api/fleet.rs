//! `fleet.v1.FleetService`.

use std::ops::Bound;

use fleet_core::{CreateFleet, DeleteFleet, Operation, Rejection, State, Wants, check_wants};
use fleet_proto::{
    convert::{
        api as convert,
        placement::{self, Stated},
    },
    error::{from_rejection, invalid_field},
    resource,
    v1::{
        CreateFleetRequest, CreateFleetResponse, DeleteFleetRequest, DeleteFleetResponse, Fleet,
        GetFleetRequest, GetFleetResponse, ListFleetsRequest, ListFleetsResponse,
        fleet_service_server::FleetService,
    },
};
use fleet_types::{FleetName, Labels};
use tonic::{Request, Response, Status};

use super::{Api, page};

/// What a fleet gives its agents where they state nothing else.
#[derive(Clone, Default)]
pub(super) struct Gives {
    pub(super) config: String,
    pub(super) wants: Wants,
    pub(super) ports: u16,
    pub(super) priority: i32,
}

impl Gives {
    /// What a fleet would give that is to be made.
    pub(super) fn parse(fleet: Fleet) -> Result<(Self, Labels), Status> {
        let labels = convert::parse_labels("fleet.labels", fleet.labels.clone())?;
        convert::check_priority("fleet.priority", fleet.priority)?;
        let wants = placement::parse_wants("fleet", &Stated::from(&fleet))?;
        check_wants(&wants).map_err(|rejection| from_rejection(&rejection))?;
        let gives = Self {
            wants,
            ports: convert::parse_ports("fleet.ports", fleet.ports)?,
            priority: fleet.priority,
            config: convert::parse_config("fleet.config_json", fleet.config_json)?,
        };
        Ok((gives, labels))
    }

    /// What a fleet gives; none when there is no such fleet.
    pub(super) fn of(state: &State, name: &FleetName) -> Option<Self> {
        let fleet = state.fleets().get(name)?;
        let (config, wants) = (fleet.config.clone(), fleet.wants.clone());
        Some(Self { config, wants, ports: fleet.ports, priority: fleet.priority })
    }
}

impl Api {
    async fn fleet(&self, name: FleetName) -> Result<Fleet, Status> {
        let found = self
            .read(|state| state.fleets().get(&name).map(|fleet| convert::fleet(state, fleet)))
            .await?;
        found.ok_or_else(|| from_rejection(&Rejection::FleetUnknown(name)))
    }
}

#[tonic::async_trait]
impl FleetService for Api {
    async fn create_fleet(
        &self,
        request: Request<CreateFleetRequest>,
    ) -> Result<Response<CreateFleetResponse>, Status> {
        let request = request.into_inner();
        let id = &request.fleet_id;
        let name: FleetName =
            id.parse().map_err(|e| invalid_field("INVALID_NAME", "fleet_id", id, e))?;
        let fleet = request.fleet.clone().unwrap_or_default();
        let (Gives { config, wants, ports, priority }, labels) = Gives::parse(fleet)?;
        let fleet = name.clone();
        let create = CreateFleet { fleet, config, labels, wants, ports, priority };
        let operation = Operation::CreateFleet(create);
        self.change(&request.request_id, &request, operation).await?;
        Ok(Response::new(CreateFleetResponse { fleet: Some(self.fleet(name).await?) }))
    }

    async fn get_fleet(
        &self,
        request: Request<GetFleetRequest>,
    ) -> Result<Response<GetFleetResponse>, Status> {
        let name = resource::parse_fleet("name", &request.into_inner().name)?;
        Ok(Response::new(GetFleetResponse { fleet: Some(self.fleet(name).await?) }))
    }

    async fn list_fleets(
        &self,
        request: Request<ListFleetsRequest>,
    ) -> Result<Response<ListFleetsResponse>, Status> {
        let request = request.into_inner();
        let (size, after) = convert::parse_page(request.page_size, &request.page_token)?;
        let after = after.map(|token| resource::parse_fleet("page_token", token)).transpose()?;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (fleets, more) = self
            .read(|state| {
                let all = state.fleets().range((start, Bound::Unbounded));
                page(all.map(|(_, fleet)| convert::fleet(state, fleet)), size)
            })
            .await?;
        let next_page_token =
            fleets.last().filter(|_| more).map(|f| f.name.clone()).unwrap_or_default();
        Ok(Response::new(ListFleetsResponse { fleets, next_page_token }))
    }

    async fn delete_fleet(
        &self,
        request: Request<DeleteFleetRequest>,
    ) -> Result<Response<DeleteFleetResponse>, Status> {
        let request = request.into_inner();
        let fleet = resource::parse_fleet("name", &request.name)?;
        let operation = Operation::DeleteFleet(DeleteFleet { fleet });
        self.change(&request.request_id, &request, operation).await?;
        Ok(Response::new(DeleteFleetResponse {}))
    }
}
