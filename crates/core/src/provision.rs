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
    plan::{self, Planner},
    record::{AgentSpec, Lifecycle},
    rejection::Rejection,
    state::State,
};

/// Choices after which no further loss is planned for a call: some milliseconds. Where many nodes
/// are the largest, the loss of the others is not planned.
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
struct Drafted {
    id: AgentId,
    spec: AgentSpec,
    node: Option<NodeId>,
}

/// What is admitted while an entry is put together.
pub struct Provision<'a> {
    state: &'a State,
    drafted: Vec<Drafted>,
    names: BTreeSet<AgentId>,
    /// Whether each of them takes a slot at most, and any node suits it.
    simple: bool,
}

impl<'a> Provision<'a> {
    /// Nothing is made yet.
    pub fn new(state: &'a State) -> Self {
        Self { state, drafted: Vec::new(), names: BTreeSet::new(), simple: true }
    }

    /// Admits agents of some fleets beside those admitted before. One of a name that was admitted
    /// is no other: it is for the entry to tell a repeated call from a second agent of the name.
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
        for (fleet, draft) in drafts {
            let id = AgentId { fleet: fleet.clone(), agent: draft.name.clone() };
            if !self.names.contains(&id) {
                self.drafted.push(Drafted { id, spec: draft.spec.clone(), node: draft.node });
            }
        }
        let (simple, new) = (self.simple, self.drafted[known..].iter());
        self.simple = simple && new.map(|drafted| &drafted.spec).all(|spec| self.is_simple(spec));
        if let Err(rejection) = self.check(known, admission) {
            self.drafted.truncate(known);
            self.simple = simple;
            return Err(rejection);
        }
        self.names.extend(self.drafted[known..].iter().map(|drafted| drafted.id.clone()));
        Ok(())
    }

    /// Refuses what was drafted after the first `known`.
    fn check(&self, known: usize, admission: Admission) -> Result<(), Rejection> {
        for alike in self.drafted[known..].chunk_by(|one, other| alike(&one.spec, &other.spec)) {
            admission::check_suiting(self.state, &alike[0].id.agent, &alike[0].spec)?;
        }
        if known == self.drafted.len() || admission != Admission::SurviveLoss || !self.in_doubt() {
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
            planned += self.state.placed_on(*id).len() + self.drafted.len();
            more
        })
    }

    /// Whether it takes a plan to know.
    fn in_doubt(&self) -> bool {
        let index = self.state.index();
        let all_up = index.listed().len() == index.totals.nodes();
        let more = u64::try_from(self.drafted.len()).unwrap_or(u64::MAX >> 2);
        let surely = index.nodes_are_alike()
            && !index.totals.has_choosy()
            && self.simple
            && index.slots().suffice(more);
        all_up && index.totals.nodes() > 1 && !surely
    }

    /// Whether an agent takes a slot at most, and any node suits it if nodes are alike.
    fn is_simple(&self, spec: &AgentSpec) -> bool {
        let index = self.state.index();
        let mut sizes = admission::asked(spec).into_iter().zip(index.slots().largest);
        let known = index.has_runtime(&spec.runtime);
        known && !is_choosy(spec) && sizes.all(|(one, most)| one <= most)
    }

    /// Refuses what was drafted after the first `known` if the loss of a node would leave out more.
    fn survives(&self, lost: NodeId, known: usize) -> Result<(), Rejection> {
        let left_out = self.left_out(lost, self.drafted.len());
        if left_out.is_empty() {
            return Ok(());
        }
        let before = self.left_out(lost, known);
        let agent = left_out.difference(&before).next().filter(|_| left_out.len() > before.len());
        agent.map_or(Ok(()), |agent| {
            Err(Rejection::NoPlaceAfterLoss { agent: AgentId::clone(agent), lost })
        })
    }

    /// Whom the loss of a node leaves out for lack of room, once the first `count` drafts are there.
    fn left_out(&self, lost: NodeId, count: usize) -> BTreeSet<&AgentId> {
        let mut plan = Planner::without(self.state, lost);
        let mut to_place = Vec::new();
        for Drafted { id, spec, node } in &self.drafted[..count] {
            let stays = match *node {
                Some(node) if node == lost => spec.class == AgentClass::Pinned,
                Some(node) => plan.take_if_suits(node, &id.fleet, spec),
                // It waits for a node to be opened.
                None => !plan::could_hold(self.state, spec),
            };
            if !stays {
                to_place.push((id, spec, None));
            }
        }
        let agents = self.state.placed_on(lost).filter_map(|id| self.state.agent(id));
        let moved = agents.filter(|agent| {
            agent.lifecycle == Lifecycle::Live && agent.spec.class != AgentClass::Pinned
        });
        to_place.extend(moved.map(|agent| (&agent.id, &*agent.spec, Some(agent.uid))));
        // As a fence places them: what is older before what is being made.
        to_place.sort_by_key(|(_, spec, uid)| (Reverse(spec.priority), uid.is_none(), *uid));
        let mut last: Option<(&AgentSpec, bool)> = None;
        to_place.retain(|(id, spec, _)| {
            if plan.choose(&id.fleet, spec).is_some() {
                return false;
            }
            let like_last = last.filter(|(last, _)| !spec.wants.apart && alike(last, spec));
            let (_, lacks_only_room) =
                like_last.unwrap_or_else(|| (*spec, plan.lacks_only_room(&id.fleet, spec)));
            last = Some((*spec, lacks_only_room));
            lacks_only_room
        });
        to_place.into_iter().map(|(id, ..)| id).collect()
    }
}

/// Whether two agents suit the same nodes.
fn alike(one: &AgentSpec, other: &AgentSpec) -> bool {
    one.runtime == other.runtime && one.ports == other.ports && one.wants == other.wants
}
