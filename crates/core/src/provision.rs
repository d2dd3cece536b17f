//! Whether agents can be admitted, as far as sums cannot say. Runs on the leader, outside `apply`,
//! while an entry is put together.
//!
//! The question: if the largest node were lost once these agents are there, or any of those that
//! are as large, would all that it has be placed again? The answer is a plan of that loss, which is
//! what the fence would carry out. Of those it leaves out count the ones that lack only room: an
//! agent that no other node suits, or that has no node left to itself, waits whatever is admitted.
//! And those left out anyway do not count: a call is refused for what it makes worse.
//!
//! A plan costs as much as the lost node has agents, so it is made only when in doubt. There is no
//! doubt while any agent suits any node and the others have a slot for each agent of any one node,
//! see [`Slots`]: comparisons of numbers that are kept as they change.
//!
//! While a node is missing its agents are placed elsewhere, or wait: the loss that was provided for
//! has happened, and the sums of [`crate::admission`] are all that is asked.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::cmp::Reverse;

use fleet_types::{AgentClass, AgentId, FleetName, NodeId};

use crate::{
    admission::{self, Amounts},
    command::{Admission, AgentDraft},
    plan::Planner,
    record::{AgentSpec, Lifecycle},
    rejection::Rejection,
    state::State,
};

/// Agents of lost nodes that are planned for one call, not counting those of the last node: some
/// milliseconds. Where many nodes are the largest, the loss of the others is not planned.
const PLANNED_MAX: usize = 1_000;

/// How many agents, each as large as the largest in everything, the nodes that take agents surely
/// have room for. An agent takes one slot of its node at most, so where the others have as many
/// slots as a node has agents, all of these find a place, whatever they ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    /// The most any agent asks for of each.
    pub(crate) largest: Amounts,
    /// The slots of each node, and these with its agents: what its loss takes and asks for.
    of: BTreeMap<NodeId, (u64, u64)>,
    all: u64,
    lost: BTreeSet<(u64, NodeId)>,
}

impl Slots {
    /// Counts a node with so many slots and agents; none when it takes no agents.
    pub(crate) fn put(&mut self, id: NodeId, counts: Option<(u64, usize)>) {
        if let Some((slots, lost)) = self.of.remove(&id) {
            self.all -= slots;
            self.lost.remove(&(lost, id));
        }
        if let Some((slots, agents)) = counts {
            let lost = slots + u64::try_from(agents).unwrap_or(u64::MAX >> 1);
            self.all += slots;
            self.of.insert(id, (slots, lost));
            self.lost.insert((lost, id));
        }
    }

    /// Whether so many agents more, none larger than the largest, would leave every node's agents a
    /// slot elsewhere. Each takes a slot, and is one that asks for one.
    fn suffice(&self, more: u64) -> bool {
        self.lost.last().is_none_or(|(most, _)| most + 2 * more <= self.all)
    }
}

/// Whether the choice for an agent depends on more than room.
pub(crate) fn is_choosy(spec: &AgentSpec) -> bool {
    let wants = &spec.wants;
    wants.node_labels.iter().next().is_some() || wants.runtime_version.is_some() || wants.apart
}

/// An agent that is to be made.
#[derive(Clone)]
struct Drafted {
    id: AgentId,
    spec: AgentSpec,
    node: Option<NodeId>,
}

/// What is admitted while an entry is put together.
pub struct Provision<'a> {
    state: &'a State,
    drafted: Vec<Drafted>,
}

impl<'a> Provision<'a> {
    /// Nothing is made yet.
    pub fn new(state: &'a State) -> Self {
        Self { state, drafted: Vec::new() }
    }

    /// Admits agents of some fleets beside those admitted before.
    ///
    /// # Errors
    /// When no node that suits one is large enough for it, or when the loss of the largest node
    /// would leave out more than before, unless that is allowed.
    pub fn admit<'d>(
        &mut self,
        drafts: impl Iterator<Item = (&'d FleetName, &'d AgentDraft)>,
        admission: Admission,
    ) -> Result<(), Rejection> {
        let known = self.drafted.len();
        self.drafted.extend(drafts.map(|(fleet, draft)| {
            let id = AgentId { fleet: fleet.clone(), agent: draft.name.clone() };
            Drafted { id, spec: draft.spec.clone(), node: draft.node }
        }));
        let admitted = self.check(known, admission);
        if admitted.is_err() {
            self.drafted.truncate(known);
        }
        admitted
    }

    /// Refuses what was drafted after the first `known`.
    fn check(&self, known: usize, admission: Admission) -> Result<(), Rejection> {
        for alike in self.drafted[known..].chunk_by(|one, other| alike(&one.spec, &other.spec)) {
            admission::check_suiting(self.state, &alike[0].spec)?;
        }
        if admission != Admission::SurviveLoss || !self.in_doubt() {
            return Ok(());
        }
        self.losses().try_for_each(|lost| self.survives(lost, known))
    }

    /// The nodes of which none is larger, those whose loss is hardest to bear first.
    fn losses(&self) -> impl Iterator<Item = NodeId> {
        let index = self.state.index();
        let mut planned = 0;
        let hardest = index.slots().lost.iter().rev().map(|(_, id)| *id);
        hardest.filter(|id| index.totals.is_largest(*id)).take_while(move |id| {
            let more = planned < PLANNED_MAX;
            planned += self.state.placed_on(*id).len();
            more
        })
    }

    /// Whether it takes a plan to know.
    fn in_doubt(&self) -> bool {
        let index = self.state.index();
        let all_up = index.listed().len() == index.totals.nodes();
        let fits = |drafted: &Drafted| {
            let of_all = index.with_runtime(&drafted.spec.runtime).is_some();
            let sizes = admission::asked(&drafted.spec).into_iter().zip(index.slots().largest);
            of_all && !is_choosy(&drafted.spec) && sizes.into_iter().all(|(one, most)| one <= most)
        };
        let more = u64::try_from(self.drafted.len()).unwrap_or(u64::MAX >> 2);
        let surely = index.nodes_are_alike()
            && !index.totals.has_choosy()
            && self.drafted.iter().all(fits)
            && index.slots().suffice(more);
        all_up && index.totals.nodes() > 1 && !surely
    }

    /// Refuses what was drafted after the first `known` if the loss of a node would leave out more.
    fn survives(&self, lost: NodeId, known: usize) -> Result<(), Rejection> {
        let left_out = self.left_out(lost, self.drafted.len());
        if left_out.is_empty() {
            return Ok(());
        }
        let before = self.left_out(lost, known);
        let agent = left_out.difference(&before).next().filter(|_| left_out.len() > before.len());
        agent
            .map_or(Ok(()), |agent| Err(Rejection::NoPlaceAfterLoss { agent: agent.clone(), lost }))
    }

    /// Whom the loss of a node leaves out for lack of room, once the first `count` drafts are there.
    fn left_out(&self, lost: NodeId, count: usize) -> BTreeSet<AgentId> {
        let mut plan = Planner::without(self.state, lost);
        let drafted = self.drafted[..count].iter();
        let to_place = drafted.filter(|drafted| !goes_on(&mut plan, lost, drafted)).cloned();
        let mut to_place: Vec<(Drafted, Option<u32>)> = to_place.map(|one| (one, None)).collect();
        let agents = self.state.placed_on(lost).filter_map(|id| self.state.agents().get(id));
        let moved = agents.filter(|agent| {
            agent.lifecycle == Lifecycle::Live && agent.spec.class != AgentClass::Pinned
        });
        to_place.extend(moved.map(|agent| {
            let (id, spec) = (agent.id.clone(), AgentSpec::clone(&agent.spec));
            (Drafted { id, spec, node: None }, Some(agent.uid))
        }));
        // As a fence places them: what is older before what is being made.
        to_place.sort_by_key(|(one, uid)| (Reverse(one.spec.priority), uid.is_none(), *uid));
        let left_out = to_place.into_iter().filter(|(one, _)| !place(&mut plan, one));
        left_out.map(|(one, _)| one.id).collect()
    }
}

/// Whether two agents suit the same nodes.
fn alike(one: &AgentSpec, other: &AgentSpec) -> bool {
    one.runtime == other.runtime && one.ports == other.ports && one.wants == other.wants
}

/// Whether an agent that is to be made is on a node that is not lost; there it takes its room.
fn goes_on(plan: &mut Planner<'_>, lost: NodeId, drafted: &Drafted) -> bool {
    let node = drafted.node.filter(|node| *node != lost);
    let stays = drafted.spec.class == AgentClass::Pinned && drafted.node == Some(lost);
    stays || node.is_some_and(|node| plan.take_if_suits(node, &drafted.id.fleet, &drafted.spec))
}

/// Places an agent anew; false when all that it lacks is room.
fn place(plan: &mut Planner<'_>, drafted: &Drafted) -> bool {
    let (fleet, spec) = (&drafted.id.fleet, &drafted.spec);
    plan.choose(fleet, spec).is_some() || !plan.lacks_only_room(fleet, spec)
}
