//! How planning and the state grow: the pure crates alone, on one core, without log or network.

use std::{collections::BTreeMap, fs, time::Instant};

use anyhow::{Result, ensure};
use fleet_core::{
    Admission, AdmitNode, AgentDraft, AgentSpec, Command, CreateAgents, CreateFleet, CreateToken,
    Desired, Evidence, InitCluster, NodeAddress, NodeReport, Operation, PendingReason,
    RegisterNode, Role, State, Wants, apply,
    plan::{self, Planner},
    provision::Provision,
    rebalance,
};
use fleet_types::{
    AgentClass, FleetName, Labels, LeaseProfile, NodeId, PortRange, ResourceLimits, Resources,
    Timestamp, TokenId,
    limits::{AGENTS_PER_CALL_MAX, PORT_BLOCK_MAX},
};

/// (agents, nodes) of the runs.
const SIZES: [(usize, u64); 4] =
    [(2_000, 10), (10_000, 100), (100_000, 1_000), (1_000_000, 10_000)];
/// Where a node with a thousand agents is lost: on average a hundred are on one.
const LOST_AGENTS: usize = 1_000;

/// Agents that ask for the same, so that it is known of each node whether it has it.
const OF_A_KIND: usize = 16;

/// Agents of a fleet that is spread by a label of which each node has a value of its own.
const SPREAD_AGENTS: usize = 100;

fn address() -> NodeAddress {
    NodeAddress { api: "a:1".into(), peer: "a:2".into(), lease: "a:3".into() }
}

/// A state and the log index it is at.
pub(crate) struct Grown {
    pub(crate) state: State,
    index: u64,
}

impl Grown {
    pub(crate) fn apply(&mut self, operation: Operation) -> Result<()> {
        self.index += 1;
        let command = Command { at: Timestamp(self.index), request: None, operation };
        apply(&mut self.state, self.index, &command)?;
        self.state.take_changed();
        Ok(())
    }

    /// Nodes in ten racks, all alike.
    pub(crate) fn with_nodes(nodes: u64) -> Result<Self> {
        Self::with_reports(nodes, report)
    }

    fn with_reports(nodes: u64, report: impl Fn(usize) -> Result<NodeReport>) -> Result<Self> {
        let mut grown = Self { state: State::default(), index: 0 };
        grown.apply(Operation::InitCluster(InitCluster {
            cluster: "0123456789abcdef".parse()?,
            profile: LeaseProfile::Default,
            node: NodeId(1),
            name: "n1".parse()?,
            address: address(),
            storage: "s1".into(),
        }))?;
        for n in 2..=nodes {
            grown.admit(n)?;
        }
        let known: Vec<(NodeId, String)> =
            grown.state.nodes().values().map(|node| (node.id, node.storage.clone())).collect();
        for (n, (node, storage)) in known.into_iter().enumerate() {
            let (held, report) = (None, report(n)?);
            grown.apply(Operation::RegisterNode(RegisterNode { node, storage, held, report }))?;
        }
        let (config, labels, wants) = (String::new(), Labels::default(), Wants::default());
        for fleet in [fleet(), other_fleet()] {
            let (config, labels, wants) = (config.clone(), labels.clone(), wants.clone());
            let (ports, priority) = (0, 0);
            let made = CreateFleet { fleet, config, labels, wants, ports, priority };
            grown.apply(Operation::CreateFleet(made))?;
        }
        Ok(grown)
    }

    /// Lets the node with a number of its own in.
    pub(crate) fn admit(&mut self, n: u64) -> Result<()> {
        let (token, secret_sha256): (TokenId, _) = (format!("{n:012x}").parse()?, [1; 32]);
        let (role, ttl_ms, uses) = (Role::Worker, 1_000, 1);
        let made = CreateToken { token: token.clone(), secret_sha256, role, ttl_ms, uses };
        self.apply(Operation::CreateToken(made))?;
        let (name, storage) = (format!("n{n}").parse()?, format!("s{n}"));
        let address = address();
        self.apply(Operation::AdmitNode(AdmitNode { token, secret_sha256, name, address, storage }))
    }

    pub(crate) fn create(&mut self, first: usize, nodes: Vec<Option<NodeId>>) -> Result<()> {
        let draft = |(n, node): (usize, Option<NodeId>)| {
            let (name, desired) = (format!("a{}", first + n).parse()?, Desired::Running);
            Ok(AgentDraft { name, spec: spec(), desired, node })
        };
        let agents = nodes.into_iter().enumerate().map(draft).collect::<Result<_>>()?;
        let (fleet, admission) = (fleet(), Admission::SurviveLoss);
        self.apply(Operation::CreateAgents(CreateAgents { fleet, agents, admission }))
    }
}

/// The call that makes one agent, whatever a loss would leave out.
fn one_agent(
    fleet: &FleetName,
    name: &str,
    spec: &AgentSpec,
    node: Option<NodeId>,
) -> Result<Operation> {
    let (name, spec, desired) = (name.parse()?, spec.clone(), Desired::Running);
    let agents = vec![AgentDraft { name, spec, desired, node }];
    let (fleet, admission) = (fleet.clone(), Admission::Overcommit);
    Ok(Operation::CreateAgents(CreateAgents { fleet, agents, admission }))
}

/// The version of the runtime on the first node.
const NEWER: &str = "2.0";

pub(crate) fn fleet() -> FleetName {
    "bench".parse().expect("a fleet name")
}

fn other_fleet() -> FleetName {
    "other".parse().expect("a fleet name")
}

pub(crate) fn report(n: usize) -> Result<NodeReport> {
    let labels = [("rack", format!("r{}", n % 10)), ("host", format!("h{n}"))];
    let labels = labels.map(|(key, value)| (key.to_owned(), value));
    Ok(NodeReport {
        port_range: PortRange::new(10_240, 32_767)?,
        runtimes: BTreeMap::from([(
            "exec".parse()?,
            if n == 0 { NEWER } else { "1.0" }.to_owned(),
        )]),
        capacity: Resources { memory_bytes: 1 << 40, cpu_millis: 1 << 20 },
        disk_bytes: 1 << 40,
        labels: Labels::new(labels)?,
        version: "bench".into(),
        boot: "boot".into(),
        degraded: Vec::new(),
        unfit: Vec::new(),
        rules: fleet_core::RULES,
    })
}

pub(crate) fn spec() -> AgentSpec {
    AgentSpec {
        runtime: "exec".parse().expect("a runtime name"),
        config: String::new(),
        command: vec!["/bin/sleep".into(), "infinity".into()],
        environment: BTreeMap::new(),
        ports: 16,
        labels: Labels::default(),
        limits: ResourceLimits::default(),
        class: AgentClass::Strict,
        priority: 0,
        wants: Wants {
            requests: Resources { memory_bytes: 1 << 29, cpu_millis: 100 },
            ..Wants::default()
        },
    }
}

/// This process's memory, in bytes.
fn resident() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).unwrap_or_default().parse()?;
    Ok(pages * 4096)
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1_000.0
}

/// One size: a row of the table. Answers the part of a row of the other table that is known here.
fn grow(agents: usize, nodes: u64) -> Result<String> {
    let mut grown = Grown::with_nodes(nodes)?;
    let before = resident()?;
    let (fleet, spec) = (fleet(), spec());

    let began = Instant::now();
    let mut planner = Planner::new(&grown.state);
    // The last thousand come when a node is to be lost.
    let first = agents - LOST_AGENTS;
    let chosen: Vec<_> = (0..first).map(|_| planner.choose(&fleet, &spec)).collect();
    let planned = began.elapsed().as_secs_f64();
    ensure!(chosen.iter().all(Option::is_some), "not all agents found a node");
    drop(planner);

    let began = Instant::now();
    for (n, part) in chosen.chunks(AGENTS_PER_CALL_MAX).enumerate() {
        grown.create(n * AGENTS_PER_CALL_MAX, part.to_vec())?;
    }
    let created = began.elapsed().as_secs_f64();
    ensure!(grown.state.unplaced().next().is_none(), "not all agents were placed");
    let bytes = (resident()? - before) / first as u64;

    let one_more = format!("{} | {:.1}", one_more(&grown.state)?, over_racks(&mut grown)?);

    let records: Vec<_> = grown.state.records().collect();
    let began = Instant::now();
    let restored = State::restore(records);
    let restore = began.elapsed().as_secs_f64() * 100_000.0 / first as f64;
    drop(restored);

    let (plan_ms, apply_ms) = lose(&mut grown, first)?;
    drop(grown);
    let spread = spread(&Grown::with_nodes(nodes)?.state, first)?;
    println!(
        "| {agents} | {nodes} | {:.0} | {spread:.0} | {:.0} | {bytes} | {restore:.2} | {plan_ms:.1} \
         | {apply_ms:.1} |",
        first as f64 / planned,
        first as f64 / created,
    );
    Ok(one_more)
}

/// What a lone create pays beside all the agents, in microseconds: a planner and a choice of its own,
/// where any node suits and where one does; and being admitted, where slots settle it and where
/// losses are planned.
fn one_more(state: &State) -> Result<String> {
    let fleet = fleet();
    let mut newer = spec();
    newer.wants.runtime_version = Some(NEWER.parse()?);
    let chosen = |spec: &AgentSpec| Planner::new(state).choose(&fleet, spec).is_some();
    let admitted = |spec: &AgentSpec| {
        let node = Planner::new(state).choose(&fleet, spec);
        let (name, desired) = ("one-more".parse().expect("a name"), Desired::Running);
        let draft = AgentDraft { name, spec: spec.clone(), desired, node };
        let drafts = std::iter::once((&fleet, &draft));
        Provision::new(state).admit(drafts, Admission::SurviveLoss).is_ok()
    };
    let (any, one) = (timed(1_000, &|| chosen(&spec()))?, timed(1_000, &|| chosen(&newer))?);
    let sure = timed(1_000, &|| admitted(&spec()))? - any;
    let in_doubt = timed(20, &|| admitted(&newer))? - one;
    Ok(format!("{any:.1} | {one:.1} | {sure:.1} | {in_doubt:.0}"))
}

/// What a choice costs that one node of all suits, in microseconds: of two labels that half of the
/// nodes have each one node has both, and one is large, and fuller than all that are too small. And
/// what it costs to say that no node has both labels.
fn constrained(nodes: u64) -> Result<String> {
    let last = usize::try_from(nodes)? - 1;
    let labels =
        |keys: &[&str]| Labels::new(keys.iter().map(|key| ((*key).to_owned(), "yes".to_owned())));
    let grown = |both: &[&str]| {
        Grown::with_reports(nodes, |n: usize| {
            let mut report = report(n)?;
            let has: &[&str] = match n {
                _ if n == last => both,
                _ if n.is_multiple_of(2) => &["even"],
                _ => &["odd"],
            };
            report.labels = labels(has)?;
            report.capacity.memory_bytes <<= u32::from(n == last) * 4;
            Ok(report)
        })
    };
    let mut with_both = grown(&["even", "odd"])?;
    let (mut labelled, mut large) = (spec(), spec());
    labelled.wants.node_labels = labels(&["even", "odd"])?;
    large.wants.requests.memory_bytes = 3 << 39;
    let node = Planner::new(&with_both.state).choose(&fleet(), &large);
    with_both.apply(one_agent(&fleet(), "a", &large, node)?)?;
    let mut columns = Vec::new();
    for spec in [&labelled, &large] {
        let chosen = || Planner::new(&with_both.state).choose(&fleet(), spec) == node;
        columns.push(format!("{:.1}", timed(1_000, &chosen)?));
    }
    let with_none = grown(&["odd"])?.state;
    let why = || {
        plan::why_pending(&with_none, &fleet(), &labelled) == PendingReason::NoLabels
            && Planner::new(&with_none).choose(&fleet(), &labelled).is_none()
    };
    columns.push(format!("{:.1}", timed(1_000, &why)?));
    Ok(columns.join(" | "))
}

/// What a choice costs where many nodes have one thing, as many others another, as full as each
/// other, and one that is fuller has both, in microseconds: memory and processor time; memory and a
/// version; memory and a second label; memory and a label, spread over racks; and memory, processor
/// time and ports, of which others have two each. The last once more while no other agent asks for
/// that. Then what it took the last time to know of each node whether it has what a sixteenth agent
/// asks for, in milliseconds.
fn parted(nodes: u64) -> Result<String> {
    let last = usize::try_from(nodes)? - 1;
    let has = |n: usize, of: usize, parts: &[usize]| n == last || parts.contains(&(n % of));
    let sized = |n: usize, memory: bool, cores: bool| {
        let mut report = report(n)?;
        report.capacity.memory_bytes = if memory { 16 << 40 } else { 1 << 40 };
        report.capacity.cpu_millis = if cores { 16 << 16 } else { 1 << 16 };
        Ok(report)
    };
    let cores = |n: usize| sized(n, has(n, 2, &[0]), has(n, 2, &[1]));
    let version = |n: usize| {
        let mut report = sized(n, has(n, 2, &[0]), true)?;
        let version = if has(n, 2, &[1]) { NEWER } else { "1.0" };
        report.runtimes.values_mut().for_each(|it| version.clone_into(it));
        Ok(report)
    };
    let labelled = |n: usize, memory: bool, has: &[&str]| {
        let mut report = sized(n, memory, true)?;
        let had = report.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let more = has.iter().map(|key| ((*key).to_owned(), "yes".to_owned()));
        report.labels = Labels::new(had.chain(more))?;
        Ok(report)
    };
    let labels = |n: usize| {
        let some: [&[_]; 3] = [&["one"], &["one", "two"], &["two"]];
        let keys = if n == last { some[1] } else { some[n % 3] };
        labelled(n, has(n, 3, &[0, 2]), keys)
    };
    let racks = |n: usize| {
        let keys: &[_] = if has(n, 2, &[1]) { &["one"] } else { &[] };
        labelled(n, has(n, 2, &[0]), keys)
    };
    let ports = |n: usize| {
        let mut report = sized(n, has(n, 3, &[0, 1]), has(n, 3, &[1, 2]))?;
        let ports = if has(n, 3, &[0, 2]) { 2 * PORT_BLOCK_MAX } else { PORT_BLOCK_MAX / 2 };
        report.port_range = PortRange::new(10_240, 10_239 + ports)?;
        Ok(report)
    };
    let requests = Resources { memory_bytes: 3 << 39, cpu_millis: 3 << 15 };
    let plain = AgentSpec { wants: Wants { requests, ..Wants::default() }, ..spec() };
    let [mut newer, mut both, mut spread, mut all] = [(); 4].map(|()| plain.clone());
    newer.wants.runtime_version = Some(NEWER.parse()?);
    let yes = |key: &str| (key.to_owned(), "yes".to_owned());
    both.wants.node_labels = Labels::new(["one", "two"].map(yes))?;
    spread.wants.node_labels = Labels::new([yes("one")])?;
    spread.wants.spread_by = Some("rack".into());
    all.ports = PORT_BLOCK_MAX;
    let (mut columns, mut alone, mut known) = (Vec::new(), 0.0, 0.0);
    for (mut grown, spec) in [
        (Grown::with_reports(nodes, cores)?, plain),
        (Grown::with_reports(nodes, version)?, newer),
        (Grown::with_reports(nodes, labels)?, both),
        (Grown::with_reports(nodes, racks)?, spread),
        (Grown::with_reports(nodes, ports)?, all),
    ] {
        let chosen = |state: &State| Planner::new(state).choose(&fleet(), &spec);
        let node = chosen(&grown.state);
        grown.apply(one_agent(&fleet(), "a", &spec, node)?)?;
        ensure!(node.is_some(), "no node has both");
        alone = timed(100, &|| chosen(&grown.state) == node)?;
        for n in 1..OF_A_KIND {
            let began = Instant::now();
            grown.apply(one_agent(&fleet(), &format!("a{n}"), &spec, None)?)?;
            known = ms(began);
        }
        columns.push(format!("{:.1}", timed(1_000, &|| chosen(&grown.state) == node)?));
    }
    columns.push(format!("{alone:.1}"));
    columns.push(format!("{known:.2}"));
    Ok(columns.join(" | "))
}

/// What one more that is spread over the ten racks costs in a fleet of all the agents, in microseconds.
fn over_racks(grown: &mut Grown) -> Result<f64> {
    let mut spec = spec();
    spec.wants.spread_by = Some("rack".into());
    let chosen = |state: &State| Planner::new(state).choose(&fleet(), &spec);
    let node = chosen(&grown.state);
    grown.apply(one_agent(&fleet(), "over-racks", &spec, node)?)?;
    timed(1_000, &|| chosen(&grown.state).is_some())
}

/// What one more of a fleet costs that has an agent on each node but the fullest, in microseconds:
/// where they stand apart, and where they are spread over hosts. Then what it costs to say that none
/// is left for one that stands apart, and one more where each host has one.
fn of_a_fleet(nodes: u64) -> Result<String> {
    let (mut apart, mut hosts, mut large) = (spec(), spec(), spec());
    apart.wants.apart = true;
    hosts.wants.spread_by = Some("host".into());
    large.wants.requests.memory_bytes = 3 << 38;
    let chosen = |state: &State, spec: &AgentSpec| Planner::new(state).choose(&fleet(), spec);
    let (mut with_one_left, mut with_none) = (Vec::new(), Vec::new());
    for spec in [apart, hosts] {
        let mut grown = Grown::with_nodes(nodes)?;
        let fullest = *grown.state.nodes().keys().next_back().expect("there are nodes");
        grown.apply(one_agent(&other_fleet(), "large", &large, Some(fullest))?)?;
        for n in 1..nodes {
            let node = chosen(&grown.state, &spec);
            ensure!(node.is_some_and(|node| node != fullest), "the fullest is not the last");
            grown.apply(one_agent(&fleet(), &format!("a{n}"), &spec, node)?)?;
        }
        let last = || chosen(&grown.state, &spec) == Some(fullest);
        with_one_left.push(format!("{:.1}", timed(1_000, &last)?));
        grown.apply(one_agent(&fleet(), "last", &spec, Some(fullest))?)?;
        let one_more = || match chosen(&grown.state, &spec) {
            Some(_) => !spec.wants.apart,
            None => plan::why_pending(&grown.state, &fleet(), &spec) == PendingReason::NotApart,
        };
        with_none.push(format!("{:.1}", timed(1_000, &one_more)?));
    }
    Ok([with_one_left, with_none].concat().join(" | "))
}

/// How long something takes that succeeds each time, in microseconds.
fn timed(times: u32, one: &dyn Fn() -> bool) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..times {
        ensure!(one(), "one more is refused");
    }
    Ok(ms(began) * 1_000.0 / f64::from(times))
}

/// How many agents a second are planned that are spread over all nodes, in fleets of a hundred.
fn spread(state: &State, agents: usize) -> Result<f64> {
    let mut spec = spec();
    spec.wants.spread_by = Some("host".into());
    let mut planner = Planner::new(state);
    let began = Instant::now();
    for n in 0..agents {
        let fleet = format!("f{}", n / SPREAD_AGENTS).parse()?;
        ensure!(planner.choose(&fleet, &spec).is_some(), "not all agents found a node");
    }
    Ok(agents as f64 / began.elapsed().as_secs_f64())
}

/// Puts agents on one node until it has a thousand, `agents` being there, and loses it: times to plan
/// and to apply.
fn lose(grown: &mut Grown, agents: usize) -> Result<(f64, f64)> {
    let node = *grown.state.nodes().keys().next_back().expect("there are nodes");
    let more = LOST_AGENTS.saturating_sub(grown.state.placed_on(node).len());
    grown.create(agents, vec![Some(node); more])?;
    ensure!(grown.state.placed_on(node).len() >= LOST_AGENTS, "they are elsewhere");
    let epoch = grown.state.nodes()[&node].epoch;
    let evidence = Evidence::LeaseExpired { waited_ms: 6_700 };
    let began = Instant::now();
    let fence = plan::fence(&grown.state, node, epoch, evidence, AgentClass::Strict, 0);
    let plan_ms = ms(began);
    ensure!(fence.moves.len() >= LOST_AGENTS, "not all agents found another node");
    let began = Instant::now();
    grown.apply(Operation::FenceNode(fence))?;
    let apply_ms = ms(began);
    ensure!(grown.state.unplaced().next().is_none(), "not all agents were placed elsewhere");
    ensure!(rebalance::imbalance(&grown.state) < 1_000_000, "a node is full");
    Ok((plan_ms, apply_ms))
}

/// Prints the table.
pub(crate) fn run() -> Result<()> {
    println!(
        "\nplanning and state, pure, one core; nodes in ten racks, 16 ports and 512 MiB an agent\n"
    );
    println!(
        "| agents | nodes | planned /s | spread over hosts /s | applied /s | bytes an agent \
         | restore s per 100,000 | loss of 1,000: plan ms | apply ms |"
    );
    println!("{}|", "|---".repeat(9));
    let grown = SIZES.map(|(agents, nodes)| grow(agents, nodes));
    println!("\na lone create, in microseconds\n");
    println!(
        "| agents | nodes | any node | one by version | admitted | in doubt | over racks \
         | one by two labels | a large one | none | apart | over hosts | none left apart \
         | one more over hosts | memory and cores | and version | and two labels | and a label \
         over racks | and cores and ports | alone | known ms |"
    );
    println!("{}|", "|---".repeat(21));
    for ((agents, nodes), one_more) in SIZES.into_iter().zip(grown) {
        let (one_more, constrained, of_a_fleet) =
            (one_more?, constrained(nodes)?, of_a_fleet(nodes)?);
        let parted = parted(nodes)?;
        println!("| {agents} | {nodes} | {one_more} | {constrained} | {of_a_fleet} | {parted} |");
    }
    Ok(())
}
