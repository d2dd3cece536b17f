//! Nodes that agents leave, and the ports they leave behind.

use fleet_types::{AgentClass, AgentId, Timestamp, limits::EVICTIONS_MAX};

use crate::{
    placement_tests::{Ask, PLAIN, Size, asking, cluster, create, lose, register, sized},
    plan::Planner,
    property_tests::{command, fleet},
    *,
};

#[test]
fn a_drain_past_its_deadline_takes_no_more_than_one_entry_may() {
    let size = |ports| Size { ports, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size(99), size(2_000)]);
    for n in 0..EVICTIONS_MAX as u64 + 10 {
        let (index, name, to) = (2_000 + n, format!("a{n}"), Some(nodes[1]));
        let spec = asking(PLAIN);
        create(&mut state, index, fleet(0), &name, to, spec, Admission::Unchecked).unwrap();
    }
    let drain = Some(Drain { moves_max: 3, deadline: Some(Timestamp(1)) });
    let set = SetSchedulable { node: nodes[1], schedulable: Schedulable::Draining, drain };
    apply(&mut state, 9_000, &command(Operation::SetSchedulable(set))).unwrap();
    for left in [10, 0] {
        let evict =
            rebalance::drains(&state, Timestamp(2), &rebalance::Arriving::new()).pop().unwrap();
        assert!(evict.agents.len() == EVICTIONS_MAX || left == 0);
        apply(&mut state, 9_001, &command(Operation::EvictAgents(evict))).unwrap();
        let agents = state.placed_on(nodes[1]).filter_map(|id| state.agent(id));
        let stay = agents.filter(|a| a.placement.as_ref().is_some_and(|p| !p.evicting)).count();
        assert_eq!(stay, left);
    }
}

#[test]
fn a_cordon_keeps_no_strict_agent_where_it_must_not_be() {
    let size = Size { ports: 399, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size, size]);
    create(&mut state, 2_000, fleet(0), "a", Some(nodes[1]), asking(PLAIN), Admission::Unchecked)
        .unwrap();
    let id: AgentId = format!("{}/a", fleet(0)).parse().unwrap();
    let leaves = |state: &State| state.agents()[&id].placement.as_ref().unwrap().evicting;
    let set = |state: &mut State, schedulable| {
        let set = SetSchedulable { node: nodes[1], schedulable, drain: None };
        apply(state, 2_001, &command(Operation::SetSchedulable(set))).unwrap();
    };
    set(&mut state, Schedulable::Draining);
    set(&mut state, Schedulable::Open);
    assert!(!leaves(&state), "the end of a drain lets it stay");
    let eviction =
        Eviction { agent: id.clone(), generation: state.agents()[&id].generation, to: None };
    let evict = EvictAgents { agents: vec![eviction], cause: Cause::Operator };
    apply(&mut state, 2_002, &command(Operation::EvictAgents(evict))).unwrap();
    set(&mut state, Schedulable::Cordoned);
    assert!(leaves(&state), "nothing else ends its move");
    set(&mut state, Schedulable::Draining);
    set(&mut state, Schedulable::Open);
    assert!(!leaves(&state));
    let mut report = sized(size);
    report.unfit.push("its clock".into());
    register(&mut state, nodes[1], report);
    for schedulable in [Schedulable::Cordoned, Schedulable::Draining, Schedulable::Open] {
        assert!(leaves(&state));
        set(&mut state, schedulable);
    }
    assert!(leaves(&state));
}

#[test]
fn agents_a_lost_node_was_to_give_up_hold_up_no_other_moves() {
    let size = |rack| Size { ports: 399, memory_gib: 64, rack, version: 1 };
    let (mut state, nodes) = cluster(&[size(0), size(1), size(2)]);
    let pinned = AgentSpec { class: AgentClass::Pinned, ..asking(PLAIN) };
    for n in 0..40 {
        let on = if n < 2 { nodes[2] } else { nodes[0] };
        let spec = if n < 2 { pinned.clone() } else { asking(PLAIN) };
        let (index, name) = (2_000 + n, format!("a{n}"));
        create(&mut state, index, fleet(0), &name, Some(on), spec, Admission::Unchecked).unwrap();
    }
    let node = nodes[2];
    let set = SetSchedulable { node, schedulable: Schedulable::Draining, drain: None };
    apply(&mut state, 3_000, &command(Operation::SetSchedulable(set))).unwrap();
    let moves = |state: &State| rebalance::automatic(state, &rebalance::Arriving::new());
    assert_eq!(moves(&state), None, "as many move as may");
    lose(&mut state, node);
    assert!(moves(&state).is_some());
}

#[test]
fn who_cannot_have_other_ports_where_it_is_leaves_as_others_do() {
    let size = Size { ports: 399, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size, size]);
    let id: AgentId = format!("{}/a", fleet(0)).parse().unwrap();
    // More than half of what the node has.
    let spec = asking(Ask { memory: 36 * 4, ..PLAIN });
    create(&mut state, 2_000, fleet(0), "a", Some(nodes[1]), spec, Admission::Unchecked).unwrap();
    let (node, agent, by) = (nodes[1], id.clone(), "pid 7".to_owned());
    let (epoch, generation) = (state.nodes()[&node].epoch, state.agents()[&id].generation);
    let taken = Operation::QuarantinePorts(QuarantinePorts { agent, generation, node, epoch, by });
    let mut open = state.clone();
    apply(&mut open, 2_001, &command(taken.clone())).unwrap();
    let placement = open.agents()[&id].placement.clone().unwrap();
    assert!(placement.node == node && !placement.evicting);
    assert_ne!(placement.block, state.agents()[&id].placement.as_ref().unwrap().block);
    let set = SetSchedulable { node, schedulable: Schedulable::Cordoned, drain: None };
    apply(&mut state, 2_001, &command(Operation::SetSchedulable(set))).unwrap();
    apply(&mut state, 2_002, &command(taken)).unwrap();
    let placement = state.agents()[&id].placement.clone().unwrap();
    assert!(placement.node == node && placement.evicting, "it may run by now");
    let stopped = ConfirmStopped { agent: id, generation, node, epoch, next: Some(nodes[0]) };
    apply(&mut state, 2_003, &command(Operation::ConfirmStopped(stopped))).unwrap();
    let causes: Vec<_> = state.quarantined(node).map(|kept| kept.cause.clone()).collect();
    assert_eq!(causes, [QuarantineCause::Foreign("pid 7".into())], "who listens is not forgotten");
}

#[test]
fn a_pinned_agent_whose_ports_are_taken_stays_where_it_is() {
    let size = Size { ports: 399, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size, size]);
    let node = nodes[1];
    let spec = AgentSpec { class: AgentClass::Pinned, ..asking(PLAIN) };
    create(&mut state, 2_000, fleet(0), "a", Some(node), spec, Admission::Unchecked).unwrap();
    let agent: AgentId = format!("{}/a", fleet(0)).parse().unwrap();
    assert!(is_helped_by_other_ports(&state, &state.agents()[&agent]), "it gets others there");
    let set = SetSchedulable { node, schedulable: Schedulable::Cordoned, drain: None };
    apply(&mut state, 2_001, &command(Operation::SetSchedulable(set))).unwrap();
    assert!(!is_helped_by_other_ports(&state, &state.agents()[&agent]));
    let (epoch, generation) = (state.nodes()[&node].epoch, state.agents()[&agent].generation);
    let (before, by) = (state.agents()[&agent].clone(), "pid 7".to_owned());
    let taken = QuarantinePorts { agent: agent.clone(), generation, node, epoch, by };
    apply(&mut state, 2_002, &command(Operation::QuarantinePorts(taken))).unwrap();
    assert_eq!(state.agents()[&agent], before);
}

#[test]
fn what_is_down_is_not_drained() {
    let size = Size { ports: 399, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size, size]);
    let node = nodes[1];
    let spec = AgentSpec { class: AgentClass::Pinned, ..asking(PLAIN) };
    create(&mut state, 2_000, fleet(0), "a", Some(node), spec, Admission::Unchecked).unwrap();
    lose(&mut state, node);
    let set = |node| SetSchedulable { node, schedulable: Schedulable::Draining, drain: None };
    let refused = apply(&mut state, 2_001, &command(Operation::SetSchedulable(set(node))));
    assert_eq!(refused, Err(Rejection::NodeNotActive(node)));
    let empty = apply(&mut state, 2_001, &command(Operation::SetSchedulable(set(nodes[0]))));
    assert!(empty.is_ok());
}

#[test]
fn two_drains_share_the_room_there_is() {
    let size = |ports| Size { ports, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size(31), size(399), size(399)]);
    for (n, node) in (0..4).zip(nodes.iter().skip(1).cycle()) {
        let (index, name, to) = (2_000 + n, format!("a{n}"), Some(*node));
        let spec = asking(Ask { order: 5, ..PLAIN });
        create(&mut state, index, fleet(0), &name, to, spec, Admission::Unchecked).unwrap();
    }
    for node in [nodes[1], nodes[2]] {
        let drain = Some(Drain { moves_max: 0, deadline: None });
        let set = SetSchedulable { node, schedulable: Schedulable::Draining, drain };
        apply(&mut state, 2_100, &command(Operation::SetSchedulable(set))).unwrap();
    }
    // The third node has room for one block of 32.
    let leave: usize = rebalance::drains(&state, Timestamp(1), &rebalance::Arriving::new())
        .iter()
        .map(|evict| evict.agents.len())
        .sum();
    assert_eq!(leave, 1);
    let evict = rebalance::drains(&state, Timestamp(1), &rebalance::Arriving::new()).pop().unwrap();
    apply(&mut state, 2_101, &command(Operation::EvictAgents(evict))).unwrap();
    assert_eq!(
        rebalance::drains(&state, Timestamp(1), &rebalance::Arriving::new()),
        [],
        "its room is spoken for"
    );
}

#[test]
fn what_an_agent_was_asked_to_leave_for_is_kept_for_it() {
    let size = |ports| Size { ports, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size(31), size(63)]);
    let spec = asking(Ask { order: 5, ..PLAIN });
    let make = |state: &mut State, index, name: &str, to| {
        create(state, index, fleet(0), name, to, spec.clone(), Admission::Unchecked).unwrap();
    };
    make(&mut state, 2_000, "a", Some(nodes[1]));
    let drain = Some(Drain { moves_max: 0, deadline: None });
    let set = SetSchedulable { node: nodes[1], schedulable: Schedulable::Draining, drain };
    apply(&mut state, 2_100, &command(Operation::SetSchedulable(set))).unwrap();
    let evict = rebalance::drains(&state, Timestamp(1), &rebalance::Arriving::new()).pop().unwrap();
    apply(&mut state, 2_101, &command(Operation::EvictAgents(evict))).unwrap();
    // The other node has room for one. What comes now waits until that one is there, or has gone.
    let free = Planner::new(&state).choose(&fleet(0), &spec);
    assert_eq!(free, Some(nodes[0]));
    assert_eq!(Planner::beside_moves(&state).choose(&fleet(0), &spec), None);
    make(&mut state, 2_102, "b", None);
    let why = |state: &State, name: &str| {
        let id: AgentId = format!("{}/{name}", fleet(0)).parse().unwrap();
        plan::waits_for(state, &state.agents()[&id])
    };
    assert_eq!(why(&state, "b"), Some(PendingReason::RoomKept));
    assert_eq!(plan::placements(&state, 10, 0), []);
    let agent = &state.agents()[&format!("{}/a", fleet(0)).parse::<AgentId>().unwrap()];
    let next = Planner::beside_moves(&state).arrive(agent);
    assert_eq!(next, Some(nodes[0]));
    let (agent, generation) = (agent.id.clone(), agent.generation);
    let (node, epoch) = (nodes[1], state.nodes()[&nodes[1]].epoch);
    let stopped = ConfirmStopped { agent: agent.clone(), generation, node, epoch, next };
    apply(&mut state, 2_103, &command(Operation::ConfirmStopped(stopped))).unwrap();
    assert_eq!(state.agents()[&agent].placement.as_ref().map(|p| p.node), next);
    assert_eq!(why(&state, "b"), Some(PendingReason::NoPorts));
}

#[test]
fn a_drain_goes_at_its_pace_and_forces_nobody_out_before_its_deadline() {
    let size = |ports| Size { ports, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size(127), size(399)]);
    let plain = asking(Ask { order: 5, ..PLAIN });
    for n in 0..6 {
        let (index, name) = (2_000 + n, format!("a{n}"));
        create(
            &mut state,
            index,
            fleet(0),
            &name,
            Some(nodes[1]),
            plain.clone(),
            Admission::Unchecked,
        )
        .unwrap();
    }
    let drain = Some(Drain { moves_max: 3, deadline: Some(Timestamp(9_000)) });
    let (node, schedulable) = (nodes[1], Schedulable::Draining);
    let set = SetSchedulable { node, schedulable, drain };
    apply(&mut state, 2_100, &command(Operation::SetSchedulable(set))).unwrap();
    let mut moved = 0;
    while let Some(evict) =
        rebalance::drains(&state, Timestamp(1), &rebalance::Arriving::new()).pop()
    {
        assert!(evict.agents.len() <= 3, "at its pace");
        apply(&mut state, 2_101, &command(Operation::EvictAgents(evict.clone()))).unwrap();
        assert_eq!(rebalance::drains(&state, Timestamp(1), &rebalance::Arriving::new()), []);
        for Eviction { agent, generation, to: next } in evict.agents {
            let epoch = state.nodes()[&node].epoch;
            let stopped = ConfirmStopped { agent, generation, node, epoch, next };
            apply(&mut state, 2_102, &command(Operation::ConfirmStopped(stopped))).unwrap();
            moved += 1;
        }
    }
    // The other node has room for four blocks of 32.
    assert_eq!((moved, state.placed_on(node).len()), (4, 2));
    let late =
        rebalance::drains(&state, Timestamp(9_000), &rebalance::Arriving::new()).pop().unwrap();
    assert_eq!(late.agents.len(), 2, "at the deadline all leave");
    let set = SetSchedulable { node: nodes[0], schedulable, drain: None };
    let refused = apply(&mut state, 2_103, &command(Operation::SetSchedulable(set))).unwrap_err();
    assert_eq!(refused, Rejection::NowhereToGo(nodes[0]));
}

#[test]
fn freed_ports_are_nobodys_until_their_node_says_so() {
    let size = Size { ports: 31, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size]);
    let node = nodes[0];
    let whole = asking(Ask { order: 5, ..PLAIN });
    // The second has no room.
    for name in ["a", "b"] {
        create(&mut state, 2_000, fleet(0), name, Some(node), whole.clone(), Admission::Unchecked)
            .unwrap();
    }
    let id: AgentId = "f0/a".parse().unwrap();
    let delete = DeleteAgent { agent: id.clone() };
    apply(&mut state, 2_001, &command(Operation::DeleteAgent(delete))).unwrap();
    let epoch = state.nodes()[&node].epoch;
    let generation = fleet_types::Generation(1);
    let stopped = ConfirmStopped { agent: id, generation, node, epoch, next: None };
    apply(&mut state, 2_002, &command(Operation::ConfirmStopped(stopped))).unwrap();
    assert_eq!(Planner::new(&state).choose(&fleet(0), &whole), None);
    assert_eq!(state.room(node).unwrap().load(), 0, "nobody owns them");
    let blocks: Vec<_> = state.quarantined(node).map(|kept| kept.block).collect();
    let release = ReleasePorts { node, epoch, blocks };
    apply(&mut state, 2_003, &command(Operation::ReleasePorts(release))).unwrap();
    assert_eq!(Planner::new(&state).choose(&fleet(0), &whole), Some(node));
}

#[test]
fn an_agent_whose_ports_are_taken_gets_others() {
    let size = Size { ports: 63, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size]);
    let node = nodes[0];
    let half = asking(Ask { order: 5, ..PLAIN });
    create(&mut state, 2_000, fleet(0), "a", Some(node), half, Admission::Unchecked).unwrap();
    let id: AgentId = "f0/a".parse().unwrap();
    let epoch = state.nodes()[&node].epoch;
    let quarantine = |state: &mut State| {
        let (agent, generation) = (id.clone(), state.agents()[&id].generation);
        let by = "port 10240 is held by nginx, process 7".into();
        let op = QuarantinePorts { agent, generation, node, epoch, by };
        apply(state, 2_001, &command(Operation::QuarantinePorts(op))).unwrap();
    };
    quarantine(&mut state);
    let placement = state.agents()[&id].placement.clone().unwrap();
    assert_eq!((placement.block.base, placement.evicting), (10_272, false));
    quarantine(&mut state);
    let placement = state.agents()[&id].placement.clone().unwrap();
    assert_eq!((placement.block.base, placement.evicting), (10_272, true), "it must go elsewhere");
    assert_eq!(audit(&state), vec![]);
}
