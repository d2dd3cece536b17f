//! Random histories: whatever is asked in whatever order, the state stays sound, replicas agree,
//! and a snapshot loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use fleet_types::{
    AgentClass, AgentId, AgentName, Epoch, FleetName, Generation, Labels, LeaseProfile, NodeId,
    PortRange, RequestId, ResourceLimits, Resources, Revision, RuntimeName, Timestamp, TokenId,
};
use proptest::prelude::*;

use crate::{
    explain::{Loss, Verdict, explain, loss},
    offer::Needs,
    placement_tests::naive,
    plan::Planner,
    *,
};

fn address(node: u64) -> NodeAddress {
    let at = |port: u16| format!("10.0.0.{node}:{port}");
    NodeAddress { api: at(1), peer: at(2), lease: at(3) }
}

fn exec() -> RuntimeName {
    "exec".parse().unwrap()
}

fn init() -> Operation {
    Operation::InitCluster(InitCluster {
        cluster: "0123456789abcdef".parse().unwrap(),
        profile: LeaseProfile::Default,
        node: NodeId(1),
        name: "n1".parse().unwrap(),
        address: address(1),
        storage: "s1".into(),
    })
}

/// Labels that some nodes have and some agents ask for.
fn labels(rack: bool, disk: bool) -> Vec<(String, String)> {
    let label = |(has, key, value): (bool, &str, &str)| has.then(|| (key.into(), value.into()));
    let all = [(rack, "rack", "r1"), (disk, "disk", "d1")];
    all.into_iter().filter_map(label).collect()
}

pub(crate) fn report(ports: u16) -> NodeReport {
    let mut labels = labels(ports % 2 == 1, ports.is_multiple_of(3));
    labels.push(("host".into(), format!("h{ports}")));
    NodeReport {
        port_range: PortRange::new(10_240, 10_240 + ports).unwrap(),
        runtimes: BTreeMap::from([(exec(), format!("{}.0", ports % 4))]),
        capacity: Resources { memory_bytes: u64::from(ports % 3) << 30, cpu_millis: 0 },
        disk_bytes: 0,
        labels: Labels::new(labels).unwrap(),
        version: "0".into(),
        boot: "b".into(),
        degraded: Vec::new(),
        rules: RULES,
        unfit: if ports % 5 == 4 { vec!["its clock".into()] } else { Vec::new() },
    }
}

const NOW: Timestamp = Timestamp(1_000);

pub(crate) fn command(operation: Operation) -> Command {
    Command { at: NOW, request: None, operation }
}

/// What a history is made of; numbers are taken modulo what exists.
#[derive(Clone, Debug)]
enum Step {
    Token { uses: u32 },
    Admit { token: usize, name: u8 },
    Register { node: usize, ports: u16 },
    Fence { node: usize, stale: bool },
    Schedule { node: usize, schedulable: u8 },
    Moves { rule: u8, percent: u8 },
    Hold { node: usize, change: u8 },
    RemoveNode { node: usize },
    Fleet { name: u8 },
    DeleteFleet { name: u8 },
    Agents { fleet: u8, first: u8, count: u8, order: u32, key: Option<u8> },
    Desired { agent: usize, run: bool },
    Restart { agent: usize },
    Delete { agent: usize },
    Place,
    Confirm { agent: usize, stale: bool },
    Leave { agent: usize, to: usize },
    Drains,
    Rebalance,
    Quarantine { agent: usize },
    Release { node: usize },
    Park { agent: usize },
    Policy { memory: u16, voters: u8 },
    SetRole { node: usize, voter: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (1_u32..4).prop_map(|uses| Step::Token { uses }),
        2 => (any::<usize>(), 0_u8..8).prop_map(|(token, name)| Step::Admit { token, name }),
        4 => (any::<usize>(), prop_oneof![Just(63_u16), Just(255), 0_u16..300])
            .prop_map(|(node, ports)| Step::Register { node, ports }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(node, stale)| Step::Fence { node, stale }),
        2 => (any::<usize>(), 0_u8..3)
            .prop_map(|(node, schedulable)| Step::Schedule { node, schedulable }),
        1 => (0_u8..3, 0_u8..=101).prop_map(|(rule, percent)| Step::Moves { rule, percent }),
        1 => (any::<usize>(), 0_u8..3).prop_map(|(node, change)| Step::Hold { node, change }),
        1 => any::<usize>().prop_map(|node| Step::RemoveNode { node }),
        1 => (0_u8..3).prop_map(|name| Step::Fleet { name }),
        1 => (0_u8..3).prop_map(|name| Step::DeleteFleet { name }),
        6 => (0_u8..3, 0_u8..30, 0_u8..6, 0_u32..8, proptest::option::of(0_u8..4)).prop_map(
            |(fleet, first, count, order, key)| Step::Agents { fleet, first, count, order, key }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(agent, run)| Step::Desired { agent, run }),
        1 => any::<usize>().prop_map(|agent| Step::Restart { agent }),
        3 => any::<usize>().prop_map(|agent| Step::Delete { agent }),
        2 => Just(Step::Place),
        4 => (any::<usize>(), any::<bool>())
            .prop_map(|(agent, stale)| Step::Confirm { agent, stale }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(agent, to)| Step::Leave { agent, to }),
        2 => Just(Step::Drains),
        2 => Just(Step::Rebalance),
        2 => any::<usize>().prop_map(|agent| Step::Quarantine { agent }),
        4 => any::<usize>().prop_map(|node| Step::Release { node }),
        2 => any::<usize>().prop_map(|agent| Step::Park { agent }),
        1 => (0_u16..300, 2_u8..5).prop_map(|(memory, voters)| Step::Policy { memory, voters }),
        1 => (any::<usize>(), any::<bool>())
            .prop_map(|(node, voter)| Step::SetRole { node, voter }),
    ]
}

fn pick<T: Clone>(items: impl Iterator<Item = T>, number: usize) -> Option<T> {
    let items: Vec<T> = items.collect();
    items.get(number.checked_rem(items.len())?).cloned()
}

pub(crate) fn fleet(name: u8) -> FleetName {
    format!("f{name}").parse().unwrap()
}

/// An agent with 2 to the `order` ports.
pub(crate) fn spec(order: u32, number: u8) -> AgentSpec {
    AgentSpec {
        runtime: exec(),
        config: String::new(),
        command: Vec::new(),
        environment: BTreeMap::new(),
        ports: 1 << order,
        labels: Labels::default(),
        limits: ResourceLimits::default(),
        class: AgentClass::ALL[usize::from(number) % 3],
        priority: i32::from(number) % 5,
        wants: Wants {
            requests: Resources { memory_bytes: u64::from(number % 4) << 28, cpu_millis: 0 },
            node_labels: Labels::new(labels(number % 7 == 5, number % 14 > 9)).unwrap(),
            runtime_version: None,
            apart: number % 11 == 4,
            spread_by: match number % 9 {
                1 => Some("rack".to_owned()),
                2 => Some("host".to_owned()),
                _ => None,
            },
        },
    }
}

/// The command a step stands for in `state`, as a leader that sees `state` would propose it.
#[expect(clippy::too_many_lines, reason = "one arm a kind of step")]
fn propose(state: &State, number: usize, step: &Step) -> Option<Command> {
    let node = |n: usize| pick(state.nodes().values().cloned(), n);
    let agent = |n: usize| pick(state.agents().keys().cloned(), n);
    let operation = match *step {
        Step::Token { uses } => Operation::CreateToken(CreateToken {
            token: format!("{number:012x}").parse().unwrap(),
            secret_sha256: [7; 32],
            role: if uses == 1 { Role::Worker } else { Role::Voter },
            ttl_ms: 10_000,
            uses,
        }),
        Step::Admit { token, name } => Operation::AdmitNode(AdmitNode {
            token: pick(state.tokens().keys().cloned(), token)
                .unwrap_or_else(|| "ffffffffffff".parse::<TokenId>().unwrap()),
            secret_sha256: [7; 32],
            name: format!("node-{name}").parse().unwrap(),
            address: address(u64::from(name)),
            storage: format!("storage-{name}"),
        }),
        Step::Register { node: n, ports } => {
            let node = node(n)?;
            // One in three says that agents still run under its epoch.
            let held = (ports % 3 == 0).then_some(node.epoch);
            let (report, storage) = (report(ports), node.storage);
            Operation::RegisterNode(RegisterNode { node: node.id, storage, held, report })
        }
        Step::Fence { node: n, stale } => {
            let node = node(n)?;
            let epoch = if stale { Epoch(0) } else { node.epoch };
            let evidence = Evidence::LeaseExpired { waited_ms: 6_700 };
            let reach = AgentClass::ALL[number % 3];
            Operation::FenceNode(plan::fence(state, node.id, epoch, evidence, reach, number % 3))
        }
        Step::Schedule { node: n, schedulable } => Operation::SetSchedulable(SetSchedulable {
            node: node(n)?.id,
            schedulable: match schedulable {
                0 => Schedulable::Open,
                1 => Schedulable::Cordoned,
                _ => Schedulable::Draining,
            },
            drain: number.is_multiple_of(2).then_some(Drain { moves_max: 1, deadline: None }),
        }),
        Step::Moves { rule, percent } => Operation::SetMovePolicy(SetMovePolicy {
            policy: MovePolicy {
                rule: match rule {
                    0 => MoveRule::Automatic,
                    1 => MoveRule::Always,
                    _ => MoveRule::Never,
                },
                lost_percent_max: percent,
            },
        }),
        Step::Hold { node: n, change } => {
            let node = node(n)?;
            let change = match change {
                0 => HoldChange::Set { lease_ms: 60_000 },
                1 => HoldChange::Release,
                _ => HoldChange::End { since: node.hold.map_or(Revision(1), |hold| hold.since) },
            };
            Operation::HoldNode(HoldNode { node: node.id, change })
        }
        Step::RemoveNode { node: n } => Operation::RemoveNode(RemoveNode { node: node(n)?.id }),
        Step::Fleet { name } => Operation::CreateFleet(CreateFleet {
            fleet: fleet(name),
            config: String::new(),
            labels: Labels::default(),
            wants: Wants::default(),
            ports: 0,
            priority: 0,
        }),
        Step::DeleteFleet { name } => Operation::DeleteFleet(DeleteFleet { fleet: fleet(name) }),
        Step::Agents { fleet: name, first, count, order, .. } => {
            let mut planner = Planner::beside_moves(state);
            let draft = |n: u8| AgentDraft {
                name: format!("a{n}").parse::<AgentName>().unwrap(),
                spec: spec(order, n),
                desired: Desired::Running,
                node: planner.choose(&fleet(name), &spec(order, n)),
            };
            let agents = (first..first + count).map(draft).collect();
            let admission =
                if count % 2 == 0 { Admission::Overcommit } else { Admission::SurviveLoss };
            Operation::CreateAgents(CreateAgents { fleet: fleet(name), agents, admission })
        }
        Step::Desired { agent: n, run } => Operation::SetAgentDesired(SetAgentDesired {
            agent: agent(n)?,
            desired: if run { Desired::Running } else { Desired::Stopped },
        }),
        Step::Restart { agent: n } => Operation::RestartAgent(RestartAgent { agent: agent(n)? }),
        Step::Delete { agent: n } => Operation::DeleteAgent(DeleteAgent { agent: agent(n)? }),
        Step::Place => Operation::PlaceAgents(PlaceAgents {
            moves: plan::placements(state, 1_000, number % 3),
        }),
        Step::Confirm { agent: n, stale } => {
            let id = agent(n)?;
            let agent = &state.agents()[&id];
            let node = agent.placement.as_ref()?.node;
            let generation = if stale { Generation(0) } else { agent.generation };
            let next = Planner::beside_moves(state).arrive(agent);
            let epoch = state.nodes()[&node].epoch;
            Operation::ConfirmStopped(ConfirmStopped { agent: id, generation, node, epoch, next })
        }
        Step::Leave { agent: n, to } => {
            let agent = agent(n)?;
            let generation = state.agents()[&agent].generation;
            let to = node(to).map(|node| node.id);
            let agents = vec![Eviction { agent, generation, to }];
            Operation::EvictAgents(EvictAgents { agents, cause: Cause::Operator })
        }
        Step::Drains => Operation::EvictAgents(
            rebalance::drains(state, NOW, &rebalance::Arriving::new()).pop()?,
        ),
        Step::Rebalance => {
            Operation::EvictAgents(rebalance::automatic(state, &rebalance::Arriving::new())?)
        }
        Step::Quarantine { agent: n } => {
            let agent = agent(n)?;
            let (generation, placement) =
                (state.agents()[&agent].generation, state.agents()[&agent].placement.clone()?);
            let (node, by) = (placement.node, "pid 7 (nginx) on port 10240".into());
            let epoch = state.nodes()[&node].epoch;
            Operation::QuarantinePorts(QuarantinePorts { agent, generation, node, epoch, by })
        }
        Step::Release { node: n } => {
            let Node { id: node, epoch, .. } = node(n)?;
            let blocks = state.quarantined(node).map(|kept| kept.block).collect();
            Operation::ReleasePorts(ReleasePorts { node, epoch, blocks })
        }
        Step::Park { agent: n } => {
            let id = agent(n)?;
            let agent = &state.agents()[&id];
            let (node, revision) = (agent.placement.as_ref()?.node, agent.revision);
            let epoch = state.nodes()[&node].epoch;
            let agents = vec![Parked { agent: id, revision, start: 1, why: "it ends".into() }];
            Operation::ReportParked(ReportParked { node, epoch, agents })
        }
        Step::Policy { memory: memory_percent, voters } => {
            let policy = PlacementPolicy { memory_percent, voters, ..PlacementPolicy::default() };
            Operation::SetPlacementPolicy(SetPlacementPolicy { policy })
        }
        Step::SetRole { node: n, voter } => {
            let (node, cause) = (node(n)?.id, RoleCause::Operator);
            let role = if voter { Role::Voter } else { Role::Worker };
            Operation::SetRole(SetRole { node, role, cause })
        }
    };
    let mut command = command(operation);
    if let Step::Agents { key: Some(key), .. } = step {
        let id: RequestId = format!("key-{key}").parse().unwrap();
        command.request = Some(Request { id, fingerprint: u64::from(*key) });
    }
    Some(command)
}

fn proposed(state: &mut State, index: u64, step: &Step) {
    let command = propose(state, 0, step).unwrap();
    apply(state, index, &command).unwrap();
}

fn fencing_tokens(
    state: &State,
) -> (BTreeMap<NodeId, Epoch>, BTreeMap<AgentId, (u32, Generation)>) {
    let epochs = state.nodes().values().map(|node| (node.id, node.epoch)).collect();
    let agents = state.agents().values();
    (epochs, agents.map(|a| (a.id.clone(), (a.uid, a.generation))).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_history_keeps_the_state_sound(steps in proptest::collection::vec(step(), 1..120)) {
        let (mut state, mut replica) = (State::default(), State::default());
        let first = command(init());
        apply(&mut state, 1, &first).unwrap();
        apply(&mut replica, 1, &first).unwrap();
        for (number, step) in steps.iter().enumerate() {
            let index = 2 + number as u64;
            let Some(command) = propose(&state, number, step) else { continue };
            let (digest, before) = (state.digest(), fencing_tokens(&state));
            let outcome = apply(&mut state, index, &command);
            prop_assert_eq!(&outcome, &apply(&mut replica, index, &command));
            if outcome.is_err() {
                prop_assert_eq!(state.digest(), digest, "a refused command changed something");
            }
            prop_assert_eq!(audit(&state), vec![]);
            prop_assert_eq!(state.digest(), replica.digest(), "replicas differ");
            let after = fencing_tokens(&state);
            for (node, epoch) in &before.0 {
                prop_assert!(after.0.get(node).is_none_or(|e| e >= epoch), "an epoch went back");
            }
            for (agent, (uid, generation)) in &before.1 {
                let kept = after.1.get(agent).filter(|(now, _)| now == uid);
                prop_assert!(kept.is_none_or(|(_, g)| g >= generation), "a generation went back");
            }
            for (agent, (_, generation)) in &after.1 {
                let before = before.1.get(agent).map_or(Generation(0), |(_, before)| *before);
                let placed = |event: &Event| {
                    let what = &event.what;
                    matches!(what, What::AgentPlaced { generation: to, .. } if to == generation)
                        && event.agent.as_ref() == Some(agent)
                };
                let mut told = state.events().values().rev().map(Box::as_ref);
                prop_assert!(before >= *generation || told.any(placed), "a placement is not told");
            }
            for agent in state.agents().values().filter(|agent| agent.placement.is_none()) {
                let suits = |(_, verdict)| matches!(verdict, Verdict::Suits { .. });
                let explained = explain(&state, agent).into_iter().any(suits);
                let chosen = Planner::new(&state).choose(&agent.id.fleet, &agent.spec).is_some();
                prop_assert_eq!(chosen, explained, "what is said is not what is done");
            }
            // One more of a kind there is.
            if let Some(agent) = pick(state.agents().values(), number) {
                let (fleet, spec) = (&agent.id.fleet, &agent.spec);
                let needs = Needs { strict: false, ..(&**spec).into() };
                let suiting = plan::suiting(&state, spec).map(|node| node.id);
                let suiting: BTreeSet<_> = suiting.collect();
                let all = state.nodes().values().filter(|node| plan::matches(node, needs));
                prop_assert_eq!(suiting, all.map(|node| node.id).collect());
                let chosen = Planner::new(&state).choose(fleet, spec);
                prop_assert_eq!(chosen, naive(&state, fleet, spec));
            }
            // Apply from a snapshot goes on exactly as from the original.
            replica = State::restore(replica.records());
            state.take_changed();
            prop_assert_eq!(&replica, &state);
        }
    }

    #[test]
    fn changed_records_are_all_that_changed(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut state = State::default();
        let mut mirror: BTreeMap<Key, Record> = BTreeMap::new();
        apply(&mut state, 1, &command(init())).unwrap();
        for (number, step) in steps.iter().enumerate() {
            if let Some(command) = propose(&state, number, step) {
                let _ = apply(&mut state, 2 + number as u64, &command);
            }
            for key in state.take_changed() {
                match state.record(&key) {
                    Some(record) => mirror.insert(key, record),
                    None => mirror.remove(&key),
                };
            }
            let whole: BTreeMap<Key, Record> = state.records().map(|r| (r.key(), r)).collect();
            prop_assert_eq!(&mirror, &whole);
        }
    }
}

/// A command repeated under its key is answered, not repeated; another one under it is refused.
#[test]
fn a_retry_is_carried_out_once() {
    let mut state = State::default();
    apply(&mut state, 1, &command(init())).unwrap();
    let mut create = propose(&state, 0, &Step::Fleet { name: 0 }).unwrap();
    create.request = Some(Request { id: "k".parse().unwrap(), fingerprint: 1 });
    let first = apply(&mut state, 2, &create).unwrap();
    assert_eq!(first, Outcome::Done(fleet_types::Revision(2)));
    let again = apply(&mut state, 3, &create).unwrap();
    assert_eq!(again, Outcome::Repeated(fleet_types::Revision(2)));
    create.request = Some(Request { id: "k".parse().unwrap(), fingerprint: 2 });
    assert_eq!(apply(&mut state, 4, &create), Err(Rejection::RequestIdReused));
}

/// A node's number is its entry's index, and an entry may hold several commands.
#[test]
fn two_nodes_of_one_entry_do_not_share_a_number() {
    let (mut state, _) = with_nodes(1);
    let admit = |n: u64| {
        let (token, secret_sha256) = ("0123456789ab".parse().unwrap(), [7; 32]);
        let (name, address) = (format!("m{n}").parse().unwrap(), address(n));
        let storage = format!("m{n}");
        command(Operation::AdmitNode(AdmitNode { token, secret_sha256, name, address, storage }))
    };
    apply(&mut state, 50, &admit(1)).unwrap();
    let second = apply(&mut state, 50, &admit(2));
    assert_eq!(second, Err(Rejection::NodeNumberTaken(NodeId(50))));
    apply(&mut state, 51, &admit(2)).unwrap();
    assert_eq!(state.nodes()[&NodeId(50)].name.as_str(), "m1");
}

#[test]
fn the_audit_sees_overlapping_blocks() {
    let mut state = State::default();
    apply(&mut state, 1, &command(init())).unwrap();
    let register =
        RegisterNode { node: NodeId(1), storage: "s1".into(), held: None, report: report(255) };
    apply(&mut state, 2, &command(Operation::RegisterNode(register))).unwrap();
    proposed(&mut state, 3, &Step::Fleet { name: 0 });
    let create = Step::Agents { fleet: 0, first: 0, count: 2, order: 4, key: None };
    proposed(&mut state, 4, &create);
    let broken = state.records().map(|record| match record {
        Record::Agent(mut agent) => {
            agent.placement.as_mut().unwrap().block.base = 10_240;
            Record::Agent(agent)
        }
        other => other,
    });
    let found = audit(&State::restore(broken));
    assert!(found.iter().any(|violation| violation.rule == "blocks overlap"), "{found:?}");
}

/// Registered nodes, numbered by their order.
pub(crate) fn with_nodes(count: u64) -> (State, Vec<NodeId>) {
    let mut state = State::default();
    let mut run = |operation| {
        let index = 1 + state.nodes().len() as u64 * 10 + state.tokens().len() as u64;
        apply(&mut state, index, &command(operation)).unwrap();
    };
    run(init());
    let token: TokenId = "0123456789ab".parse().unwrap();
    let secret_sha256 = [7; 32];
    let (role, ttl_ms, uses) = (Role::Voter, 10_000, 100);
    run(Operation::CreateToken(CreateToken {
        token: token.clone(),
        secret_sha256,
        role,
        ttl_ms,
        uses,
    }));
    for n in 2..=count {
        let (name, storage) = (format!("n{n}").parse().unwrap(), format!("s{n}"));
        let (token, address) = (token.clone(), address(n));
        run(Operation::AdmitNode(AdmitNode { token, secret_sha256, name, address, storage }));
    }
    let nodes: Vec<Node> = state.nodes().values().cloned().collect();
    for Node { id: node, storage, .. } in nodes.clone() {
        let register = RegisterNode { node, storage, held: None, report: report(255) };
        apply(&mut state, 1_000, &command(Operation::RegisterNode(register))).unwrap();
    }
    (state, nodes.iter().map(|node| node.id).collect())
}

/// A fleet with one agent for each spec, placed as given.
fn with_agents(state: &mut State, agents: &[(AgentSpec, Option<NodeId>)]) -> Vec<AgentId> {
    let fleet: FleetName = fleet(0);
    let (config, labels, wants) = (String::new(), Labels::default(), Wants::default());
    let make = CreateFleet { fleet: fleet.clone(), config, labels, wants, ports: 0, priority: 0 };
    apply(state, 1_001, &command(Operation::CreateFleet(make))).unwrap();
    let drafts = agents.iter().enumerate().map(|(n, (spec, node))| AgentDraft {
        name: format!("a{n}").parse().unwrap(),
        spec: spec.clone(),
        desired: Desired::Running,
        node: *node,
    });
    let admission = Admission::Unchecked;
    let make = CreateAgents { fleet, agents: drafts.collect(), admission };
    apply(state, 1_002, &command(Operation::CreateAgents(make))).unwrap();
    state.agents().keys().cloned().collect()
}

fn fence(state: &mut State, node: NodeId, silent: usize) -> bool {
    let epoch = state.nodes()[&node].epoch;
    let evidence = Evidence::LeaseExpired { waited_ms: 6_700 };
    let fence = plan::fence(state, node, epoch, evidence, AgentClass::Strict, silent);
    let paused = fence.paused;
    apply(state, 2_000, &command(Operation::FenceNode(fence))).unwrap();
    paused
}

#[test]
fn agents_of_too_many_lost_nodes_wait_and_go_back_to_their_own() {
    let (mut state, nodes) = with_nodes(4);
    let drafts: Vec<_> = nodes.iter().map(|node| (spec(0, 0), Some(*node))).collect();
    with_agents(&mut state, &drafts);

    assert!(!fence(&mut state, nodes[3], 1), "one of four is lost");
    assert_eq!(state.unplaced().count(), 0);
    assert!(fence(&mut state, nodes[2], 2), "with one more silent it is three of four");
    let waiting: Vec<_> = state.unplaced().cloned().collect();
    assert!(!waiting.is_empty());
    let reasons = waiting.iter().map(|id| state.agents()[id].pending);
    assert!(reasons.into_iter().all(|reason| reason == Some(PendingReason::MovesPaused)));
    assert_eq!(plan::placements(&state, 10, 1), [], "still three of four");
    let remove = |rules, rule| {
        let mut state = state.clone();
        let policy = MovePolicy { rule, lost_percent_max: 50 };
        let set = Operation::SetMovePolicy(SetMovePolicy { policy });
        apply(&mut state, 2_001, &command(set)).unwrap();
        let remove = command(Operation::RemoveNode(RemoveNode { node: nodes[2] }));
        apply_by(rules, &mut state, 2_002, &remove).map(|_| state)
    };
    let refused = Rejection::NodeAwaited { node: nodes[2], agents: waiting.len() };
    assert_eq!(remove(RULES, MoveRule::Never).err(), Some(refused));
    let removed = remove(2, MoveRule::Never).expect("as it was before");
    let placed = plan::placements(&removed, 10, 0).len();
    assert_eq!(placed, waiting.len(), "nobody waits for a node that is no more");
    assert!(remove(RULES, MoveRule::Always).is_ok(), "they wait for room");
    assert_eq!(
        plan::placements(&state, 10, 0).len(),
        waiting.len(),
        "half of them is not too many"
    );

    let mut dead = state.clone();
    let (node, epoch) = (nodes[2], state.nodes()[&nodes[2]].epoch);
    let (evidence, reach) = (Evidence::Asserted { by: "o".into() }, AgentClass::Pinned);
    let moves = plan::replacements(&state, node, reach);
    let fence = FenceNode { node, epoch, evidence, moves, paused: false, reach };
    apply(&mut dead, 2_001, &command(Operation::FenceNode(fence))).unwrap();
    assert_eq!(dead.unplaced().count(), 0, "an operator's word moves them");

    let (node, storage) = (nodes[2], state.nodes()[&nodes[2]].storage.clone());
    let register = RegisterNode { node, storage, held: None, report: report(255) };
    apply(&mut state, 2_001, &command(Operation::RegisterNode(register))).unwrap();
    let back = plan::placements(&state, 10, 3);
    assert_eq!(back.len(), waiting.len());
    assert!(back.iter().all(|(_, to)| *to == node), "its own are no move");
}

#[test]
fn a_fence_reaches_the_classes_it_names() {
    let (mut state, nodes) = with_nodes(2);
    let classes: Vec<_> = (0..3).map(|number| (spec(0, number), Some(nodes[1]))).collect();
    let ids = with_agents(&mut state, &classes);
    let on = |state: &State, n: usize| state.agents()[&ids[n]].placement.as_ref().map(|p| p.node);
    let fence = |state: &mut State, epoch: Epoch, reach| {
        let evidence = Evidence::LeaseExpired { waited_ms: 6_700 };
        let fence = plan::fence(state, nodes[1], epoch, evidence, reach, 0);
        apply(state, 2_000, &command(Operation::FenceNode(fence)))
    };
    let epoch = state.nodes()[&nodes[1]].epoch;
    fence(&mut state, epoch, AgentClass::Strict).unwrap();
    assert_eq!([0, 1, 2].map(|n| on(&state, n)), [nodes[0], nodes[1], nodes[1]].map(Some));
    let fenced = state.nodes()[&nodes[1]].epoch;
    assert!(fence(&mut state, epoch, AgentClass::Sticky).is_err(), "that epoch is over");
    assert!(fence(&mut state, fenced, AgentClass::Strict).is_err(), "it is fenced already");

    // The node comes back first: what would have been fenced goes on there.
    let mut back = state.clone();
    let storage = state.nodes()[&nodes[1]].storage.clone();
    let register = RegisterNode { node: nodes[1], storage, held: None, report: report(255) };
    apply(&mut back, 2_001, &command(Operation::RegisterNode(register))).unwrap();
    assert!(fence(&mut back, fenced, AgentClass::Sticky).is_err());
    assert_eq!(on(&back, 1), Some(nodes[1]));

    fence(&mut state, fenced, AgentClass::Sticky).unwrap();
    assert_eq!([1, 2].map(|n| on(&state, n)), [nodes[0], nodes[1]].map(Some));
    fence(&mut state, fenced, AgentClass::Pinned).unwrap();
    assert_eq!(on(&state, 2), Some(nodes[0]));
    assert_eq!(audit(&state), []);
}

#[test]
fn room_goes_to_the_highest_priority_then_to_the_oldest() {
    let (mut state, nodes) = with_nodes(1);
    let wanted = |priority| (AgentSpec { priority, ..spec(7, 0) }, None);
    let ids = with_agents(&mut state, &[wanted(0), wanted(-1), wanted(3), wanted(0)]);
    // Two blocks of 128 in 256 ports.
    let placed = plan::placements(&state, 10, 0);
    assert_eq!(placed, [(ids[2].clone(), nodes[0]), (ids[0].clone(), nodes[0])]);
}

#[test]
fn a_hold_ends_only_as_what_it_is() {
    let (mut state, nodes) = with_nodes(1);
    let hold = |state: &mut State, index, change| {
        let hold = HoldNode { node: nodes[0], change };
        apply(state, index, &command(Operation::HoldNode(hold)))
    };
    let set = |lease_ms| HoldChange::Set { lease_ms };
    assert_eq!(hold(&mut state, 1, set(1)), Err(Rejection::HoldLength(1)));
    assert_eq!(hold(&mut state, 1, HoldChange::Release), Err(Rejection::NotHeld(nodes[0])));
    hold(&mut state, 5, set(600_000)).unwrap();
    let first = HoldChange::End { since: Revision(5) };
    assert!(hold(&mut state, 6, first).is_err(), "it was not released");
    hold(&mut state, 7, HoldChange::Release).unwrap();
    // Held again meanwhile: longer leases of before may be under way, so it counts as long.
    hold(&mut state, 8, set(60_000)).unwrap();
    hold(&mut state, 9, HoldChange::Release).unwrap();
    assert!(hold(&mut state, 10, first).is_err(), "a late leader means the first");
    let now = state.nodes()[&nodes[0]].hold.unwrap();
    assert_eq!((now.lease_ms, now.since), (600_000, Revision(8)));
    hold(&mut state, 11, HoldChange::End { since: Revision(8) }).unwrap();
    assert_eq!(state.nodes()[&nodes[0]].hold, None);
}

#[test]
fn what_a_loss_would_do_is_what_the_fence_does() {
    let (mut state, nodes) = with_nodes(2);
    let agents = [(6, 0), (7, 1), (6, 2)];
    with_agents(&mut state, &agents.map(|(order, n)| (spec(order, n), Some(nodes[1]))));
    let said = loss(&state, nodes[1]);
    let classes: Vec<_> =
        said.iter().map(|Loss { class, to, .. }| (*class, to.is_some())).collect();
    let [strict, sticky, pinned] = AgentClass::ALL;
    // As their times are over, though by priority the third comes first.
    assert_eq!(classes, [(strict, true), (sticky, true), (pinned, false)]);
    for reach in [strict, sticky] {
        let epoch = state.nodes()[&nodes[1]].epoch;
        let fence = plan::fence(&state, nodes[1], epoch, Evidence::ConfirmedEmpty, reach, 0);
        apply(&mut state, 2_000, &command(Operation::FenceNode(fence))).unwrap();
    }
    for Loss { agent, to, .. } in said {
        let node = state.agents()[&agent].placement.as_ref().map(|p| p.node);
        assert_eq!(node, Some(to.unwrap_or(nodes[1])), "{agent}");
    }
}
