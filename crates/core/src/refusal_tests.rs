//! What is refused by rule, what an automatic move may not do, and that what changed is told.

use fleet_types::{
    AgentClass, AgentId, Generation, NodeId, PortRange, Timestamp,
    limits::{AGENTS_MAX, AGENTS_PER_CALL_MAX},
};

use crate::{
    command::RULES_OF_FIRST_PLACEMENTS,
    placement_tests::{Ask, PLAIN, Size, asking, cluster, create, lose, register, sized},
    property_tests::{command, fleet, with_nodes},
    rebalance::{self, Arriving},
    *,
};

const ROOMY: Size = Size { ports: 399, memory_gib: 64, rack: 0, version: 1 };

fn change(state: &mut State, operation: Operation) -> Result<Outcome, Rejection> {
    apply(state, 5_000, &command(operation))
}

fn schedule(state: &mut State, node: NodeId, schedulable: Schedulable, moves_max: u32) {
    let drain = Some(Drain { moves_max, deadline: None });
    let set = SetSchedulable { node, schedulable, drain };
    change(state, Operation::SetSchedulable(set)).unwrap();
}

fn add(state: &mut State, name: &str, to: NodeId, spec: AgentSpec) -> AgentId {
    create(state, 2_000, fleet(0), name, Some(to), spec, Admission::Unchecked).unwrap();
    format!("f0/{name}").parse().unwrap()
}

fn set_policy(state: &mut State, policy: PlacementPolicy) -> Result<Outcome, Rejection> {
    change(state, Operation::SetPlacementPolicy(SetPlacementPolicy { policy }))
}

fn told(state: &State) -> Vec<What> {
    state.events().values().map(|event| event.what.clone()).collect()
}

#[test]
fn no_vote_is_taken_that_a_majority_needs() {
    let (mut state, nodes) = with_nodes(3);
    lose(&mut state, nodes[2]);
    let demote = |node| SetRole { node, role: Role::Worker, cause: RoleCause::Operator };
    let refused = change(&mut state, Operation::SetRole(demote(nodes[0]))).unwrap_err();
    assert_eq!(refused, Rejection::QuorumAtRisk { node: nodes[0], up: 1, voters: 2 });
    change(&mut state, Operation::SetRole(demote(nodes[2]))).unwrap();
    let remove = RemoveNode { node: nodes[0] };
    let refused = change(&mut state, Operation::RemoveNode(remove)).unwrap_err();
    assert_eq!(refused, Rejection::NodeActive(nodes[0]));
}

#[test]
fn a_port_range_that_leaves_agents_out_is_refused_whole() {
    let (mut state, nodes) = cluster(&[ROOMY]);
    let before = add(&mut state, "a", nodes[0], asking(Ask { order: 5, ..PLAIN }));
    let storage = state.nodes()[&nodes[0]].storage.clone();
    let port_range = PortRange::new(20_000, 20_399).unwrap();
    let report = NodeReport { port_range, ..sized(ROOMY) };
    let register = RegisterNode { node: nodes[0], storage, held: None, report };
    let was = state.clone();
    let refused = change(&mut state, Operation::RegisterNode(register)).unwrap_err();
    assert_eq!(refused, Rejection::PortsInUse(nodes[0]));
    assert_eq!((state.agents()[&before].clone(), state), (was.agents()[&before].clone(), was));
}

#[test]
fn a_call_for_too_many_agents_is_refused_by_the_limits_name() {
    let (mut state, nodes) = cluster(&[ROOMY]);
    let draft = |n| AgentDraft {
        name: format!("a{n}").parse().unwrap(),
        spec: asking(PLAIN),
        desired: Desired::Running,
        node: Some(nodes[0]),
    };
    let agents = (0..=AGENTS_PER_CALL_MAX).map(draft).collect();
    let create = CreateAgents { fleet: fleet(0), agents, admission: Admission::Overcommit };
    let refused = change(&mut state, Operation::CreateAgents(create.clone())).unwrap_err();
    let limit = AGENTS_PER_CALL_MAX;
    assert_eq!(refused, Rejection::LimitReached { what: "agents a call", limit });
    let many = [(&create.fleet, create.agents.as_slice())];
    let plan = |times| many.iter().copied().cycle().take(times);
    let refused = check_drafts(&state, plan(1), Admission::SurviveLoss);
    assert!(refused.is_ok(), "one node provides for no loss, and plans are for more: {refused:?}");
    let refused = check_drafts(&state, plan(AGENTS_MAX / limit), Admission::Overcommit);
    assert_eq!(refused, Err(Rejection::LimitReached { what: "agents", limit: AGENTS_MAX }));
}

#[test]
fn what_is_promised_follows_the_overcommit_factor() {
    let (mut state, nodes) = cluster(&[Size { memory_gib: 1, ..ROOMY }]);
    // One GiB holds four of them.
    let ask = asking(Ask { memory: 1, ..PLAIN });
    for n in 0..5 {
        let _ = add(&mut state, &format!("a{n}"), nodes[0], ask.clone());
    }
    assert_eq!(state.placed_on(nodes[0]).len(), 4);
    let policy = PlacementPolicy { memory_percent: 150, ..PlacementPolicy::default() };
    set_policy(&mut state, policy).unwrap();
    let moves = plan::placements(&state, 10, 0);
    change(&mut state, Operation::PlaceAgents(PlaceAgents { moves })).unwrap();
    assert_eq!(state.placed_on(nodes[0]).len(), 5);
    for percent in [0, 1_001] {
        let policy = PlacementPolicy { memory_percent: percent, ..PlacementPolicy::default() };
        assert_eq!(set_policy(&mut state, policy), Err(Rejection::OvercommitPercent(percent)));
    }
}

/// Two nodes, the first of which has ten agents.
fn lopsided(class: AgentClass) -> (State, Vec<NodeId>) {
    let (mut state, nodes) = cluster(&[ROOMY, ROOMY]);
    for n in 0..10 {
        let spec = AgentSpec { class, ..asking(Ask { order: 3, ..PLAIN }) };
        let _ = add(&mut state, &format!("a{n}"), nodes[0], spec);
    }
    (state, nodes)
}

#[test]
fn a_rebalance_moves_no_pinned_agent_and_nothing_when_it_is_off() {
    let (state, _) = lopsided(AgentClass::Pinned);
    assert_eq!(rebalance::moves(&state, 100), []);
    let (mut state, _) = lopsided(AgentClass::Strict);
    let policy = PlacementPolicy { rebalance: false, ..PlacementPolicy::default() };
    set_policy(&mut state, policy).unwrap();
    assert_eq!(rebalance::automatic(&state, &Arriving::new()), None);
    assert_eq!(rebalance::moves(&state, 100).len(), 5, "it can still be asked for");
}

#[test]
fn agents_on_the_move_are_never_more_than_the_policy_says() {
    let (mut state, nodes) = lopsided(AgentClass::Strict);
    let policy = PlacementPolicy { moves_max: 3, ..PlacementPolicy::default() };
    set_policy(&mut state, policy).unwrap();
    let begun = |state: &State, arriving| {
        let arriving = Arriving::from([(nodes[0], arriving)]);
        rebalance::automatic(state, &arriving).map_or(0, |evict| evict.agents.len())
    };
    assert_eq!([begun(&state, 0), begun(&state, 2), begun(&state, 3)], [3, 1, 0]);
    let first = rebalance::automatic(&state, &Arriving::from([(nodes[0], 2)])).unwrap();
    change(&mut state, Operation::EvictAgents(first)).unwrap();
    assert_eq!([begun(&state, 0), begun(&state, 1), begun(&state, 2)], [2, 1, 0]);
}

#[test]
fn a_drain_counts_what_is_not_up_elsewhere_and_a_cordon_ends_it() {
    let (mut state, nodes) = lopsided(AgentClass::Strict);
    schedule(&mut state, nodes[0], Schedulable::Draining, 4);
    let arriving = |agents| Arriving::from([(nodes[0], agents)]);
    let leave = |state: &State, agents| {
        let drains = rebalance::drains(state, Timestamp(1), &arriving(agents));
        drains.iter().map(|evict| evict.agents.len()).sum::<usize>()
    };
    assert_eq!([leave(&state, 0), leave(&state, 3), leave(&state, 4)], [4, 1, 0]);
    let evict = rebalance::drains(&state, Timestamp(1), &arriving(0)).pop().unwrap();
    change(&mut state, Operation::EvictAgents(evict)).unwrap();
    schedule(&mut state, nodes[0], Schedulable::Cordoned, 0);
    assert_eq!(leave(&state, 0), 0, "nobody else is asked to leave");
    let leaving = |agent: &&Agent| agent.placement.as_ref().is_some_and(|p| p.evicting);
    assert_eq!(
        state.agents().values().map(Box::as_ref).filter(leaving).count(),
        0,
        "and those that were stay"
    );
}

#[test]
fn a_loss_gives_what_room_there_is_to_the_highest_priority() {
    let two = Size { ports: 64, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[ROOMY, two]);
    for (n, priority) in [0, 5, -3, 9].into_iter().enumerate() {
        let spec = AgentSpec { priority, ..asking(Ask { order: 5, ..PLAIN }) };
        let _ = add(&mut state, &format!("a{n}"), nodes[0], spec);
    }
    lose(&mut state, nodes[0]);
    let moved: Vec<String> = state.placed_on(nodes[1]).map(ToString::to_string).collect();
    assert_eq!(moved, ["f0/a1", "f0/a3"]);
    let waiting: Vec<_> = state.unplaced().map(|id| state.agents()[id].pending).collect();
    assert_eq!(waiting, [Some(PendingReason::NoPorts); 2]);
}

#[test]
fn holds_roles_and_ports_given_back_are_told_with_their_cause() {
    let (mut state, nodes) = cluster(&[ROOMY, ROOMY, ROOMY]);
    let node = nodes[0];
    let hold = |change| Operation::HoldNode(HoldNode { node, change });
    change(&mut state, hold(HoldChange::Set { lease_ms: 30_000 })).unwrap();
    let since = state.nodes()[&node].hold.unwrap().since;
    change(&mut state, hold(HoldChange::Release)).unwrap();
    change(&mut state, hold(HoldChange::End { since })).unwrap();
    assert!(told(&state).ends_with(&[What::NodeHeld { lease_ms: 30_000 }, What::HoldEnded]));

    let (role, cause) = (Role::Worker, RoleCause::TooMany);
    change(&mut state, Operation::SetRole(SetRole { node: nodes[2], role, cause })).unwrap();
    assert!(told(&state).ends_with(&[What::RoleChanged { role, cause }]));

    let agent = add(&mut state, "a", node, asking(Ask { order: 5, ..PLAIN }));
    let (epoch, generation) = (state.nodes()[&node].epoch, state.agents()[&agent].generation);
    let by = "port 10240 is held by nginx, process 7".to_owned();
    let taken = QuarantinePorts { agent, generation, node, epoch, by };
    change(&mut state, Operation::QuarantinePorts(taken)).unwrap();
    let block = state.quarantined(node).next().unwrap().block;
    let release = ReleasePorts { node, epoch, blocks: vec![block] };
    change(&mut state, Operation::ReleasePorts(release)).unwrap();
    assert!(told(&state).ends_with(&[What::PortsReleased { block }]));
    register(&mut state, node, sized(ROOMY));
    assert_eq!(audit(&state), vec![]);
}

#[test]
fn the_placement_a_create_ends_in_is_told_by_rules_that_have_it() {
    let (before, nodes) = cluster(&[ROOMY]);
    let named = |name: &str, node| AgentDraft {
        name: name.parse().unwrap(),
        spec: asking(PLAIN),
        desired: Desired::Running,
        node,
    };
    let agents = vec![named("a", Some(nodes[0])), named("b", None)];
    let create = CreateAgents { fleet: fleet(0), agents, admission: Admission::Unchecked };
    let create = command(Operation::CreateAgents(create));
    let placed = What::AgentPlaced { generation: Generation(1), evidence: Evidence::First };
    for (rules, told_of) in [(RULES_OF_FIRST_PLACEMENTS - 1, 1), (RULES_OF_FIRST_PLACEMENTS, 2)] {
        let mut state = before.clone();
        apply_by(rules, &mut state, 5_000, &create).unwrap();
        let events = state.events().values().skip(before.events().len());
        let events: Vec<_> = events.map(|it| (it.node, it.what.clone())).collect();
        assert_eq!(events.len(), told_of, "{events:?}");
        assert_eq!(events.contains(&(Some(nodes[0]), placed.clone())), told_of == 2);
        assert!(matches!(events.last(), Some((None, What::AgentPending { .. }))));
    }
}
