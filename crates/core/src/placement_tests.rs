//! The planner against a naive one, and what placements and rebalances promise, on random clusters.

use std::{collections::BTreeMap, slice};

use fleet_types::{AgentClass, AgentId, FleetName, Labels, NodeId, PortRange, Resources, Version};
use proptest::prelude::*;

use crate::{
    index,
    plan::{self, Planner},
    property_tests::{command, fleet, report, spec, with_nodes},
    provision::Provision,
    search_tests::{is_found_if_known, is_searched_by_fleet},
    *,
};

/// A node that may differ from others in all that placement looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) ports: u16,
    pub(crate) memory_gib: u64,
    pub(crate) rack: u8,
    pub(crate) version: u32,
}

fn size() -> impl Strategy<Value = Size> {
    (100_u16..400, 1_u64..8, 0_u8..3, 1_u32..3)
        .prop_map(|(ports, memory_gib, rack, version)| Size { ports, memory_gib, rack, version })
}

pub(crate) fn sized(size: Size) -> NodeReport {
    let rack = ("rack".to_owned(), format!("r{}", size.rack));
    let host = ("host".to_owned(), format!("h{}", size.ports));
    let disk = size.memory_gib.is_multiple_of(2).then(|| ("disk".to_owned(), "ssd".to_owned()));
    NodeReport {
        port_range: PortRange::new(10_240, 10_240 + size.ports).unwrap(),
        runtimes: BTreeMap::from([("exec".parse().unwrap(), format!("{}.0", size.version))]),
        capacity: Resources {
            memory_bytes: size.memory_gib << 30,
            cpu_millis: u64::from(size.ports) * 1_000,
        },
        labels: Labels::new([rack, host].into_iter().chain(disk)).unwrap(),
        unfit: Vec::new(),
        rules: RULES,
        ..report(0)
    }
}

pub(crate) fn register(state: &mut State, node: NodeId, report: NodeReport) {
    let storage = state.nodes()[&node].storage.clone();
    let register = RegisterNode { node, storage, held: None, report };
    apply(state, 1_100, &command(Operation::RegisterNode(register))).unwrap();
}

/// A cluster of nodes of these sizes, with two fleets.
pub(crate) fn cluster(sizes: &[Size]) -> (State, Vec<NodeId>) {
    let (mut state, nodes) = with_nodes(sizes.len() as u64);
    for (node, size) in nodes.iter().zip(sizes) {
        register(&mut state, *node, sized(*size));
    }
    for name in 0..2 {
        let (config, labels, wants) = (String::new(), Labels::default(), Wants::default());
        let make = CreateFleet { fleet: fleet(name), config, labels, wants, ports: 0, priority: 0 };
        apply(&mut state, 1_200, &command(Operation::CreateFleet(make))).unwrap();
    }
    (state, nodes)
}

/// Asks for a port.
pub(crate) const PLAIN: Ask = Ask {
    fleet: 0,
    order: 0,
    memory: 0,
    rack: None,
    disk: false,
    version: 0,
    apart: false,
    spread: None,
};

/// What an agent asks for, by numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) fleet: u8,
    pub(crate) order: u32,
    pub(crate) memory: u64,
    pub(crate) rack: Option<u8>,
    /// Whether it has to be of a kind.
    pub(crate) disk: bool,
    pub(crate) version: u32,
    pub(crate) apart: bool,
    /// The key of the label.
    pub(crate) spread: Option<&'static str>,
}

fn ask() -> impl Strategy<Value = Ask> {
    let rack = proptest::option::weighted(0.2, 0_u8..3);
    let wants = (0_u64..4, rack, proptest::bool::weighted(0.3), 0_u32..3);
    let spread = proptest::option::weighted(0.3, prop_oneof![Just("rack"), Just("host")]);
    (0_u8..2, 0_u32..6, wants, proptest::bool::weighted(0.1), spread, any::<bool>()).prop_map(
        |(fleet, order, (memory, rack, disk, version), apart, spread, alike)| {
            let spread = spread.filter(|key| rack.is_none() || *key == "host");
            if alike {
                return Ask { fleet, memory: memory / 3 * 8, disk, apart, spread, ..PLAIN };
            }
            Ask { fleet, order, memory, rack, disk, version, apart, spread }
        },
    )
}

pub(crate) fn asking(ask: Ask) -> AgentSpec {
    let rack = ask.rack.map(|rack| ("rack".to_owned(), format!("r{rack}")));
    let disk = ask.disk.then(|| ("disk".to_owned(), "ssd".to_owned()));
    AgentSpec {
        class: AgentClass::Strict,
        priority: 0,
        wants: Wants {
            requests: Resources { memory_bytes: ask.memory << 28, cpu_millis: 10 },
            node_labels: Labels::new(rack.into_iter().chain(disk)).unwrap(),
            runtime_version: (ask.version > 0)
                .then(|| ask.version.to_string().parse::<Version>().unwrap()),
            apart: ask.apart,
            spread_by: ask.spread.map(ToOwned::to_owned),
        },
        ..spec(ask.order, 0)
    }
}

pub(crate) fn value_of(state: &State, node: NodeId, key: &str) -> Option<String> {
    let report = state.nodes()[&node].report.as_ref()?;
    report.labels.get(key).map(ToOwned::to_owned)
}

pub(crate) fn rack_of(state: &State, node: NodeId) -> Option<String> {
    value_of(state, node, "rack")
}

/// The choice by its definition: look at every node.
pub(crate) fn naive(state: &State, fleet: &FleetName, spec: &AgentSpec) -> Option<NodeId> {
    naive_without(state, None, fleet, spec)
}

/// The choice where a node is lost with all it has.
fn naive_without(
    state: &State,
    lost: Option<NodeId>,
    fleet: &FleetName,
    spec: &AgentSpec,
) -> Option<NodeId> {
    let suiting: Vec<NodeId> = state
        .nodes()
        .values()
        .filter(|node| node.status == NodeStatus::Active && node.schedulable == Schedulable::Open)
        .filter(|node| plan::obstacle(state, node, fleet, spec).is_none())
        .map(|node| node.id)
        .filter(|node| Some(*node) != lost)
        .collect();
    let beside = |node: NodeId| {
        let value = |node| value_of(state, node, spec.wants.spread_by.as_ref()?);
        let (under, of_fleet) = (value(node)?, state.fleet_agents(fleet));
        let nodes = of_fleet.filter_map(|agent| Some(agent.placement.as_ref()?.node));
        let nodes = nodes.filter(|node| Some(*node) != lost);
        Some(nodes.filter(|node| value(*node).as_ref() == Some(&under)).count())
    };
    suiting.into_iter().min_by_key(|node| {
        let beside = beside(*node);
        // Under no value only when under none of them.
        (beside.is_none(), beside, state.room(*node).unwrap().load(), *node)
    })
}

/// Why an agent waits, by its definition, where some node is one for it.
fn naively_why(state: &State, fleet: &FleetName, spec: &AgentSpec) -> Option<PendingReason> {
    let nodes = state.nodes().values();
    let ones = nodes.filter(|node| index::open(node) && plan::matches(node, spec.into()));
    let apart = ones.clone().filter(|node| !plan::too_close(state, node.id, fleet, spec));
    let first = apart.min_by_key(|node| (state.room(node.id).unwrap().load(), node.id));
    let lack = first.map(|node| plan::obstacle(state, node, fleet, spec).unwrap());
    lack.or_else(|| ones.clone().next().map(|_| PendingReason::NotApart))
}

pub(crate) fn create(
    state: &mut State,
    index: u64,
    fleet: FleetName,
    name: &str,
    node: Option<NodeId>,
    spec: AgentSpec,
    admission: Admission,
) -> Result<Outcome, Rejection> {
    let name = name.parse().unwrap();
    let draft = AgentDraft { name, spec, desired: Desired::Running, node };
    let create = CreateAgents { fleet, agents: vec![draft], admission };
    apply(state, index, &command(Operation::CreateAgents(create)))
}

pub(crate) fn lose(state: &mut State, node: NodeId) {
    let epoch = state.nodes()[&node].epoch;
    let fence = plan::fence(state, node, epoch, Evidence::ConfirmedEmpty, AgentClass::Strict, 0);
    apply(state, 3_000, &command(Operation::FenceNode(fence))).unwrap();
}

/// An agent's host confirms that nothing of it runs; it goes to `next`, or where there is room.
fn stopped(state: &mut State, agent: &AgentId, next: Option<NodeId>) {
    let of = &state.agents()[agent];
    let (node, generation) = (of.placement.as_ref().unwrap().node, of.generation);
    let (agent, epoch) = (agent.clone(), state.nodes()[&node].epoch);
    let stopped = ConfirmStopped { agent, generation, node, epoch, next };
    apply(state, 3_002, &command(Operation::ConfirmStopped(stopped))).unwrap();
}

pub(crate) fn carry_out(state: &mut State, it: &rebalance::Move) {
    let evict = rebalance::carry_out(state, slice::from_ref(it), Cause::Rebalance);
    apply(state, 3_001, &command(Operation::EvictAgents(evict))).unwrap();
    stopped(state, &it.agent, Some(it.to));
}

fn release(state: &mut State, node: NodeId) {
    let blocks = state.quarantined(node).map(|kept| kept.block).collect();
    let epoch = state.nodes()[&node].epoch;
    let release = ReleasePorts { node, epoch, blocks };
    apply(state, 3_003, &command(Operation::ReleasePorts(release))).unwrap();
}

/// Deletes one of the agents, all the way.
pub(crate) fn delete(state: &mut State, pick: usize) {
    let Some(agent) = state.agents().keys().nth(pick % state.agents().len().max(1)).cloned() else {
        return;
    };
    let placed = state.agents()[&agent].placement.is_some();
    let delete = DeleteAgent { agent: agent.clone() };
    apply(state, 3_004, &command(Operation::DeleteAgent(delete))).unwrap();
    if placed {
        stopped(state, &agent, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One by one, or in one plan from some time on: the choice is the naive one, and apply agrees.
    #[test]
    fn the_planner_chooses_as_its_definition_does(
        sizes in proptest::collection::vec(size(), 1..16),
        asks in proptest::collection::vec(ask(), 1..60),
        alone in 0_usize..40,
    ) {
        let (mut state, nodes) = cluster(&sizes);
        let mut before = state.clone();
        for (n, ask) in asks.iter().enumerate().take(alone) {
            let (fleet, spec) = (fleet(ask.fleet), asking(*ask));
            let wanted = naive(&before, &fleet, &spec);
            let (name, index) = (format!("a{n}"), 2_000 + n as u64);
            let overcommit = Admission::Overcommit;
            let _ = create(&mut before, index, fleet, &name, wanted, spec, overcommit);
        }
        let mut whole = Planner::new(&before);
        for (n, ask) in asks.iter().enumerate() {
            let (fleet, spec) = (fleet(ask.fleet), asking(*ask));
            let wanted = naive(&state, &fleet, &spec);
            prop_assert_eq!(Planner::new(&state).choose(&fleet, &spec), wanted);
            let lost = nodes[n % nodes.len()];
            let elsewhere = Planner::without(&state, lost).choose(&fleet, &spec);
            prop_assert_eq!(elsewhere, naive_without(&state, Some(lost), &fleet, &spec));
            if n >= alone {
                prop_assert_eq!(whole.choose(&fleet, &spec), wanted, "in one plan");
            }
            if wanted.is_none() {
                let why = plan::why_pending(&state, &fleet, &spec);
                prop_assert!(naively_why(&state, &fleet, &spec).is_none_or(|it| it == why));
            }
            is_searched_by_fleet(&state, &fleet)?;
            is_found_if_known(&state, &fleet, &spec)?;
            let (name, index) = (format!("a{n}"), 2_000 + n as u64);
            let overcommit = Admission::Overcommit;
            let id = AgentId { fleet: fleet.clone(), agent: name.parse().unwrap() };
            if create(&mut state, index, fleet, &name, wanted, spec, overcommit).is_ok() {
                let placed = state.agents()[&id].placement.as_ref().map(|p| p.node);
                prop_assert_eq!(placed, wanted);
            } else {
                prop_assert_eq!(wanted, None, "what was refused could have been placed");
            }
            prop_assert_eq!(audit(&state), vec![]);
        }
        for pick in 0..asks.len() / 2 {
            delete(&mut state, pick * 7);
        }
        state.take_changed();
        prop_assert_eq!(State::restore(state.records()), state);
    }

    /// Agents that all nodes suit end up everywhere alike, and stay so after a node was away.
    #[test]
    fn loads_differ_by_one_agent_and_after_a_rebalance_by_its_price(
        count in 2_usize..8,
        agents in 1_usize..100,
        lost in any::<usize>(),
    ) {
        let same = Size { ports: 399, memory_gib: 100, rack: 0, version: 1 };
        let (mut state, nodes) = cluster(&vec![same; count]);
        let plain = asking(Ask { order: 1, memory: 1, ..PLAIN });
        for n in 0..agents {
            let node = Planner::new(&state).choose(&fleet(0), &plain);
            let (index, name) = (2_000 + n as u64, format!("a{n}"));
            create(&mut state, index, fleet(0), &name, node, plain.clone(), Admission::Overcommit)
                .unwrap();
        }
        let share = {
            let mut room = state.room(nodes[0]).unwrap().clone();
            let before = room.load();
            room.take(&plain).unwrap();
            room.load() - before
        };
        prop_assert!(rebalance::imbalance(&state) <= share + 1);

        let node = nodes[lost % nodes.len()];
        lose(&mut state, node);
        register(&mut state, node, sized(same));
        let loads: Vec<Load> = nodes.iter().map(|n| state.room(*n).unwrap().load()).collect();
        let price = loads.iter().sum::<Load>() / count as Load * rebalance::COST_PERCENT / 100;
        for it in rebalance::moves(&state, 1_000) {
            prop_assert_eq!(state.agents()[&it.agent].placement.as_ref().unwrap().node, it.from);
            carry_out(&mut state, &it);
            prop_assert_eq!(state.agents()[&it.agent].placement.as_ref().unwrap().node, it.to);
        }
        let imbalance = rebalance::imbalance(&state);
        let bound = (2 * share).max(price) + 2;
        prop_assert!(imbalance <= bound, "{imbalance} > {bound}");
        prop_assert_eq!(rebalance::moves(&state, 10), vec![], "it is not done");
    }

    /// What was admitted runs on after the loss of the largest node.
    #[test]
    fn what_is_admitted_survives_the_loss_of_any_node(
        ports in proptest::collection::vec(2_u16..9, 2..6),
        agents in 1_usize..200,
    ) {
        let size =
            |n: &u16| Size { ports: n * 32 - 1, memory_gib: 64, rack: 0, version: 1 };
        let (mut state, nodes) = cluster(&ports.iter().map(size).collect::<Vec<_>>());
        let small = asking(Ask { order: 3, ..PLAIN });
        let (mut admitted, mut refused) = (0, false);
        for n in 0..agents {
            let node = Planner::new(&state).choose(&fleet(0), &small);
            let (index, name) = (2_000 + n as u64, format!("a{n}"));
            match create(&mut state, index, fleet(0), &name, node, small.clone(),
                Admission::SurviveLoss) {
                Ok(_) => admitted += 1,
                Err(Rejection::NoRoomAfterLoss { .. }) => refused = true,
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
        let (all, most) = (ports.iter().sum::<u16>(), ports.iter().max().unwrap());
        prop_assert!(admitted * 8 <= usize::from(all - most) * 32);
        prop_assert!(!refused || (admitted + 1) * 8 > usize::from(all - most) * 32);
        for node in nodes {
            let mut lost = state.clone();
            lose(&mut lost, node);
            prop_assert_eq!(lost.unplaced().count(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    /// Agents of one size on nodes of one kind, though the size does not divide what nodes have:
    /// as many are admitted as survive a loss, and not one more.
    #[test]
    fn pieces_too_small_for_an_agent_are_not_counted(
        count in 2_usize..6,
        gib in 1_u64..8,
        memory in 1_u64..16,
    ) {
        prop_assume!(memory <= gib * 4);
        let size = Size { ports: 399, memory_gib: gib, rack: 0, version: 1 };
        let (mut state, nodes) = cluster(&vec![size; count]);
        let one = asking(Ask { memory, ..PLAIN });
        let mut admitted = 0;
        for n in 0..200 {
            let node = Planner::new(&state).choose(&fleet(0), &one);
            let (index, name) = (2_000 + n, format!("a{n}"));
            admitted += usize::from(create(&mut state, index, fleet(0), &name, node, one.clone(),
                Admission::SurviveLoss).is_ok());
        }
        // Quarters of a GiB.
        let a_node = usize::try_from(gib * 4 / memory).unwrap();
        prop_assert_eq!(admitted, (count - 1) * a_node);
        for node in nodes {
            let mut lost = state.clone();
            lose(&mut lost, node);
            prop_assert_eq!(lost.unplaced().count(), 0);
        }
    }
}

/// Whom the loss of a node leaves out though nodes that suit them are up.
fn left_out(state: &State, node: NodeId) -> Vec<AgentId> {
    let mut lost = state.clone();
    lose(&mut lost, node);
    let lacks_room = |id: &&AgentId| {
        let agent = &lost.agents()[*id];
        let mut up = lost.nodes().values().filter(|node| open(node));
        up.any(|node| {
            plan::matches(node, (&*agent.spec).into())
                && !plan::too_close(&lost, node.id, &id.fleet, &agent.spec)
        })
    };
    lost.unplaced().filter(lacks_room).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Agents of any size, the later ones with any constraint, on nodes of any kind: the loss of the
    /// largest node leaves out nobody more for lack of room, and who is refused would be left out or
    /// leave another out.
    #[test]
    fn nobody_is_admitted_for_whom_a_loss_leaves_no_room(
        mut sizes in proptest::collection::vec(size(), 2..5),
        equal in any::<bool>(),
        asks in proptest::collection::vec((ask(), proptest::bool::weighted(0.1)), 1..60),
        an_entry in 1_usize..4,
        plain in 0_usize..60,
        overcommits in any::<bool>(),
    ) {
        if equal {
            let first = sizes[0];
            sizes.fill(first);
        }
        let (mut state, nodes) = cluster(&sizes);
        let plainly = |(n, (ask, over)): (usize, (Ask, bool))| {
            let Ask { fleet, order, memory, .. } = ask;
            let simple = Ask { fleet, order, memory, ..PLAIN };
            (if n < plain { simple } else { ask }, over && overcommits)
        };
        let asks: Vec<_> = asks.into_iter().enumerate().map(plainly).collect();
        for (n, entry) in asks.chunks(an_entry).enumerate() {
            let before = state.clone();
            let (mut planner, mut provision) = (Planner::new(&before), Provision::new(&before));
            for (m, (ask, over)) in entry.iter().enumerate() {
                let (spec, to) = (asking(*ask), fleet(ask.fleet));
                let rule = if *over { Admission::Overcommit } else { Admission::SurviveLoss };
                let (index, name) = (2_000 + n as u64, format!("a{n}-{m}"));
                let node = planner.choose(&to, &spec);
                let (desired, name) = (Desired::Stopped, name.parse().unwrap());
                let draft = AgentDraft { name, spec, desired, node };
                let admitted = provision.admit(core::iter::once((&to, &draft)), rule);
                let refused = admitted.is_err();
                let (spec, name) = (draft.spec, draft.name.to_string());
                if admitted.is_ok() {
                    create(&mut state, index, to, &name, node, spec, Admission::Unchecked).unwrap();
                } else if let Err(Rejection::NoPlaceAfterLoss { lost, .. }) = admitted {
                    let mut with = state.clone();
                    create(&mut with, index, to, &name, node, spec, Admission::Unchecked).unwrap();
                    // One that waits already counts no more if no node is left to itself.
                    let before = left_out(&state, lost);
                    prop_assert!(left_out(&with, lost).iter().any(|id| !before.contains(id)));
                }
                if refused {
                    // What is left comes in another entry: the planner gave it room.
                    break;
                }
            }
            if entry.iter().all(|(_, over)| !over) {
                for largest in nodes.iter().filter(|node| state.totals().is_largest(**node)) {
                    let (after, before) = (left_out(&state, *largest), left_out(&before, *largest));
                    prop_assert!(after.len() <= before.len(), "{after:?} after {before:?}");
                }
            }
        }
        state.take_changed();
        prop_assert_eq!(State::restore(state.records()), state);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever comes and goes: once a rebalance is done, nodes differ by two agents or its price.
    #[test]
    fn a_thousand_changes_leave_no_imbalance_past_the_bound(
        count in 3_usize..7,
        steps in proptest::collection::vec((0_u8..10, any::<usize>()), 1_000),
    ) {
        let same = Size { ports: 399, memory_gib: 100, rack: 0, version: 1 };
        let (mut state, nodes) = cluster(&vec![same; count]);
        let plain = asking(Ask { order: 1, memory: 1, ..PLAIN });
        for (n, (kind, pick)) in steps.iter().enumerate() {
            let (index, node) = (2_000 + n as u64, nodes[pick % nodes.len()]);
            let up = state.nodes()[&node].status == NodeStatus::Active;
            match kind {
                0 if up => lose(&mut state, node),
                0 | 1 => register(&mut state, node, sized(same)),
                2..=6 => {
                    let to = Planner::new(&state).choose(&fleet(0), &plain);
                    let name = format!("a{n}");
                    create(&mut state, index, fleet(0), &name, to, plain.clone(),
                        Admission::Overcommit).unwrap();
                }
                _ => delete(&mut state, *pick),
            }
            let moves = plan::placements(&state, 1_000, 0);
            let place = command(Operation::PlaceAgents(PlaceAgents { moves }));
            apply(&mut state, index, &place).unwrap();
        }
        for node in &nodes {
            release(&mut state, *node);
        }
        while let Some(it) = rebalance::moves(&state, 1).pop() {
            carry_out(&mut state, &it);
        }
        let open = nodes.iter().filter(|n| state.nodes()[n].status == NodeStatus::Active);
        let loads: Vec<Load> = open.map(|n| state.room(*n).unwrap().load()).collect();
        let mean = loads.iter().sum::<Load>() / loads.len().max(1) as Load;
        // Two of 400 ports, in millionths.
        let share = 2 * FULL / 400;
        let bound = (2 * share).max(mean * rebalance::COST_PERCENT / 100) + 2;
        let imbalance = rebalance::imbalance(&state);
        prop_assert!(imbalance <= bound, "{imbalance} > {bound}: {loads:?}");
        prop_assert_eq!(audit(&state), vec![]);
    }
}

#[test]
fn what_no_node_could_ever_run_is_refused_with_the_limit() {
    let size = Size { ports: 199, memory_gib: 4, rack: 0, version: 1 };
    let (mut state, _) = cluster(&[size, size]);
    let plain = Ask { memory: 1, ..PLAIN };
    let mut refuse = |spec| {
        create(&mut state, 2_000, fleet(0), "a", None, spec, Admission::Overcommit).unwrap_err()
    };
    let large = refuse(asking(Ask { memory: 17, ..plain }));
    let most = 4 << 30;
    let (agent, what) = ("a".parse().unwrap(), "bytes of memory");
    assert_eq!(large, Rejection::NoNodeEver { agent, what, asked: 17 << 28, most });
    let wide = refuse(asking(Ask { order: 8, ..plain }));
    let (agent, what) = ("a".parse().unwrap(), "ports in one block");
    assert_eq!(wide, Rejection::NoNodeEver { agent, what, asked: 256, most: 128 });
    let mut torn = asking(Ask { rack: Some(1), ..plain });
    torn.wants.spread_by = Some("rack".into());
    assert_eq!(refuse(torn).reason(), "CONSTRAINTS_CONTRADICT");
    let mut more = asking(plain);
    more.limits.memory_bytes = 4 << 20;
    assert_eq!(refuse(more).reason(), "CONSTRAINTS_CONTRADICT");
    let mut more = asking(plain);
    (more.wants.requests.cpu_millis, more.limits.cpu_millis) = (100, 50);
    assert_eq!(refuse(more).reason(), "CONSTRAINTS_CONTRADICT");
    let one = create(
        &mut state,
        2_001,
        fleet(0),
        "b",
        None,
        asking(Ask { memory: 16, ..plain }),
        Admission::SurviveLoss,
    );
    one.unwrap();
    let two = create(&mut state, 2_002, fleet(0), "c", None, asking(plain), Admission::SurviveLoss);
    assert_eq!(two.unwrap_err().reason(), "N_MINUS_ONE_VIOLATION");
}

#[test]
fn what_a_node_could_run_that_takes_no_agents_now_waits_for_it() {
    let size = |ports, memory_gib| Size { ports, memory_gib, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size(199, 4), size(399, 64)]);
    let set = SetSchedulable { node: nodes[1], schedulable: Schedulable::Cordoned, drain: None };
    apply(&mut state, 2_000, &command(Operation::SetSchedulable(set))).unwrap();
    for (index, ask) in (2_001..).zip([Ask { order: 8, ..PLAIN }, Ask { memory: 17, ..PLAIN }]) {
        let (name, spec) = (format!("a{index}"), asking(ask));
        create(&mut state, index, fleet(0), &name, None, spec, Admission::Overcommit).unwrap();
    }
    assert_eq!(state.unplaced().count(), 2);
}

#[test]
fn why_an_agent_waits_is_said_as_things_are_now() {
    let size = |memory_gib| Size { ports: 199, memory_gib, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size(8), size(4)]);
    let set = |state: &mut State, index, node: usize, schedulable| {
        let set = SetSchedulable { node: nodes[node], schedulable, drain: None };
        apply(state, index, &command(Operation::SetSchedulable(set))).unwrap();
    };
    set(&mut state, 2_000, 0, Schedulable::Cordoned);
    set(&mut state, 2_001, 1, Schedulable::Cordoned);
    let spec = asking(Ask { memory: 6 * 4, ..PLAIN });
    create(&mut state, 2_002, fleet(0), "a", None, spec, Admission::Overcommit).unwrap();
    let why = |state: &State| {
        let agent = state.unplaced().next().map(|id| &state.agents()[id]).unwrap();
        (agent.pending, plan::waits_for(state, agent))
    };
    let (first, now) = (Some(PendingReason::NoNode), Some(PendingReason::NoMemory));
    assert_eq!(why(&state), (first, first));
    set(&mut state, 2_003, 1, Schedulable::Open);
    assert_eq!(why(&state), (first, now));
    set(&mut state, 2_004, 0, Schedulable::Open);
    let kept = Some(PendingReason::RoomKept);
    assert_eq!(why(&state), (first, kept), "it is placed in a moment");
}

#[test]
fn what_no_node_that_suits_could_run_is_refused_and_what_no_node_suits_waits() {
    let size = |rack, memory_gib| Size { ports: 199, memory_gib, rack, version: 1 };
    let (state, _) = cluster(&[size(0, 8), size(1, 2), size(1, 4)]);
    let to = fleet(0);
    let admit = |rack, memory| {
        let spec = asking(Ask { memory, rack: Some(rack), ..PLAIN });
        let (name, desired, node) = ("a".parse().unwrap(), Desired::Stopped, None);
        let draft = AgentDraft { name, spec, desired, node };
        let drafts = core::iter::once((&to, &draft));
        Provision::new(&state).admit(drafts, Admission::Overcommit)
    };
    let most = 4 << 30;
    let (agent, what) = ("a".parse().unwrap(), "bytes of memory");
    let refused = Rejection::NoNodeEver { agent, what, asked: 17 << 28, most };
    assert_eq!(admit(1, 17), Err(refused), "quarters of a GiB");
    assert_eq!((admit(1, 16), admit(0, 17)), (Ok(()), Ok(())));
    assert_eq!(admit(2, 17), Ok(()), "such a node may come");
}

#[test]
fn an_agent_named_twice_in_an_entry_is_counted_once() {
    let size = Size { ports: 255, memory_gib: 1, rack: 0, version: 1 };
    let (state, _) = cluster(&[size, size]);
    let (to, spec) = (fleet(0), asking(Ask { memory: 4, ..PLAIN }));
    let draft = |name: &str| {
        let (name, spec, desired) = (name.parse().unwrap(), spec.clone(), Desired::Stopped);
        let node = Planner::new(&state).choose(&to, &spec);
        AgentDraft { name, spec, desired, node }
    };
    let mut provision = Provision::new(&state);
    let mut admit = |draft: &AgentDraft| {
        provision.admit(core::iter::once((&to, draft)), Admission::SurviveLoss)
    };
    assert_eq!((admit(&draft("a")), admit(&draft("a"))), (Ok(()), Ok(())));
    let refused = admit(&draft("b")).unwrap_err();
    assert_eq!(refused.reason(), "N_MINUS_ONE_VIOLATION");
}

#[test]
fn what_only_a_closed_node_could_run_waits_for_it() {
    let sized = |memory_gib| Size { ports: 199, memory_gib, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[sized(4), sized(8)]);
    let set = SetSchedulable { node: nodes[1], schedulable: Schedulable::Cordoned, drain: None };
    apply(&mut state, 2_000, &command(Operation::SetSchedulable(set))).unwrap();
    let mut add = |name, memory| {
        let spec = asking(Ask { memory, ..PLAIN });
        create(&mut state, 2_001, fleet(0), name, None, spec, Admission::Overcommit)
    };
    add("a", 32).unwrap();
    assert_eq!(add("b", 33).unwrap_err().reason(), "REQUEST_TOO_LARGE");
}

#[test]
fn a_loss_is_not_planned_for_what_is_being_deleted() {
    let size = Size { ports: 199, memory_gib: 4, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size, size]);
    for (index, name) in [(2_000, "a"), (2_001, "b")] {
        let (to, spec) = (Some(nodes[0]), asking(PLAIN));
        create(&mut state, index, fleet(0), name, to, spec, Admission::Unchecked).unwrap();
    }
    let agent: AgentId = "f0/a".parse().unwrap();
    apply(&mut state, 2_002, &command(Operation::DeleteAgent(DeleteAgent { agent }))).unwrap();
    let moved = plan::replacements(&state, nodes[0], AgentClass::Strict);
    assert_eq!(moved, [("f0/b".parse().unwrap(), nodes[1])]);
}

#[test]
fn a_fleet_is_spread_as_if_the_lost_node_had_none_of_it() {
    let size = |rack| Size { ports: 199, memory_gib: 4, rack, version: 1 };
    let spread = asking(Ask { spread: Some("rack"), ..PLAIN });
    for racks in [&[0, 0, 1][..], &[0, 0, 1, 2, 3]] {
        let (mut state, nodes) = cluster(&racks.iter().copied().map(size).collect::<Vec<_>>());
        let others = &nodes[2..];
        for (index, on) in (2_000..).zip([nodes[0]; 2].iter().chain(others)) {
            let (name, to) = (format!("a{index}"), Some(*on));
            create(&mut state, index, fleet(0), &name, to, spread.clone(), Admission::Unchecked)
                .unwrap();
        }
        let moved = plan::replacements(&state, nodes[0], AgentClass::Strict);
        let to: Vec<NodeId> = moved.into_iter().map(|(_, to)| to).collect();
        assert_eq!(to, [nodes[1]; 2], "a rack without any comes first, then the emptier node");
    }
}

/// Also where others of the rack take agents and this node does not, where it goes to another rack,
/// where the fleet is spread no more, and where racks become few.
#[test]
fn agents_are_counted_under_the_labels_their_node_has_now() {
    let size = |rack| Size { ports: 199, memory_gib: 4, rack, version: 1 };
    let (mut state, nodes) = cluster(&[0, 0, 0, 1, 2, 3].map(size));
    let mut spread = asking(Ask { spread: Some("rack"), ..PLAIN });
    // Of a node that it leaves nothing changes: its ports are not free yet.
    spread.wants.requests = Resources::default();
    let agents = [(0, &spread), (0, &spread), (1, &asking(PLAIN)), (1, &spread)];
    let placed = |state: &mut State, first: u64, on: &[(usize, &AgentSpec)]| {
        for (index, (on, spec)) in (first..).zip(on) {
            let (name, to, spec) = (format!("a{index}"), Some(nodes[*on]), (*spec).clone());
            create(state, index, fleet(0), &name, to, spec, Admission::Unchecked).unwrap();
        }
    };
    let same = |state: &mut State| {
        state.take_changed();
        State::restore(state.records()) == *state
    };
    let schedule = |state: &mut State, node, schedulable| {
        let set = SetSchedulable { node, schedulable, drain: None };
        apply(state, 2_010, &command(Operation::SetSchedulable(set))).unwrap();
    };
    placed(&mut state, 2_000, &agents);
    for (schedulable, racks) in [(Schedulable::Cordoned, 3), (Schedulable::Open, 4)] {
        schedule(&mut state, nodes[5], schedulable);
        assert!(same(&mut state), "{racks} racks");
    }
    schedule(&mut state, nodes[0], Schedulable::Cordoned);
    delete(&mut state, 0);
    assert!(same(&mut state), "an agent left a node that takes none");
    for (node, rack) in [(nodes[0], 1), (nodes[1], 1), (nodes[1], 0)] {
        register(&mut state, node, sized(size(rack)));
        assert!(same(&mut state), "{node} is in rack {rack}");
    }
    for agent in [0, 1] {
        delete(&mut state, agent);
        assert!(same(&mut state), "the other that is spread, and the last");
    }
    placed(&mut state, 2_020, &agents[..1]);
    assert!(same(&mut state), "one is spread beside another");
}

#[test]
fn a_fleet_that_needs_a_label_is_spread_by_another() {
    let size = |rack| Size { ports: 199, memory_gib: 4, rack, version: 1 };
    let (mut state, nodes) = cluster(&[size(0), size(1), size(0), size(1), size(0), size(1)]);
    for n in [0, 1] {
        let mut report = sized(size(u8::try_from(n).unwrap()));
        let labels = report.labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
        let disk = ("disk".to_owned(), "d".to_owned());
        report.labels = Labels::new(labels.chain([disk])).unwrap();
        register(&mut state, nodes[n], report);
    }
    let mut spread = asking(Ask { spread: Some("rack"), ..PLAIN });
    spread.wants.node_labels = Labels::new([("disk".to_owned(), "d".to_owned())]).unwrap();
    for (index, name, on) in [(2_000, 0, 2), (2_001, 1, 1)] {
        let (to, plain) = (Some(nodes[on]), asking(PLAIN));
        create(&mut state, index, fleet(name), "a", to, plain, Admission::Unchecked).unwrap();
    }
    let to = Planner::new(&state).choose(&fleet(0), &spread);
    assert_eq!(to, Some(nodes[1]), "one of the fleet is in the rack of the emptier");
}

#[test]
fn a_node_with_many_fleets_that_stand_apart_is_still_too_close_for_each() {
    let size = |memory_gib| Size { ports: 199, memory_gib, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[size(8), size(2)]);
    for name in 2..6 {
        let (config, labels, wants) = (String::new(), Labels::default(), Wants::default());
        let make = CreateFleet { fleet: fleet(name), config, labels, wants, ports: 0, priority: 0 };
        apply(&mut state, 1_200, &command(Operation::CreateFleet(make))).unwrap();
    }
    let large = asking(Ask { memory: 3 << 2, apart: true, ..PLAIN });
    let (fuller, half) = (Some(nodes[1]), asking(Ask { memory: 1 << 2, ..PLAIN }));
    create(&mut state, 2_000, fleet(0), "b", fuller, half, Admission::Unchecked).unwrap();
    for name in 0..6 {
        let (to, small) = (Some(nodes[0]), asking(Ask { apart: true, ..PLAIN }));
        create(&mut state, 2_000, fleet(name), "a", to, small, Admission::Unchecked).unwrap();
    }
    for name in 0..6 {
        let why = plan::why_pending(&state, &fleet(name), &large);
        assert_eq!(why, PendingReason::NoMemory, "of the other node, to fleet {name}");
    }
}
