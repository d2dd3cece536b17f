//! Which nodes should vote. Runs on the leader, on a view of the state and on what the leader saw
//! of the nodes; [`crate::SetRole`] carries it out, one change at a time.
//!
//! A cluster has as many voters as its policy says, or the largest odd number of nodes it has: an
//! even number stands no more losses than the odd one below. A voter that is lost for good is
//! replaced: first another node gets a vote, then the lost one loses its own, so that the votes
//! that count never get fewer than they are. Where no other node can have its vote it keeps it,
//! unless three or more, and an odd number, are left. A vote that Raft does not come to count is
//! taken back, so that another node gets it. While a majority of the voters is not up
//! nothing is changed, and could not be.
//!
//! Of nodes that may vote, the one is chosen under whose value of the policy's label the fewest
//! vote, of those the one with the smallest number. Where enough vote, but at least two more under
//! one value than could be under another, one of the other gets a vote, and one of the first loses
//! its own.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use fleet_types::NodeId;

use crate::{
    command::SetRole,
    commands::set_role,
    event::RoleCause,
    record::{Node, NodeStatus, Role},
    rejection::Rejection,
    state::State,
};

/// What the leader saw of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It has been up for long.
    pub steady: bool,
    /// It has been gone for long.
    pub gone: bool,
    /// Raft counts its vote.
    pub votes: bool,
    /// It has been up with a vote for very long, and Raft does not count it.
    pub stuck: bool,
}

fn up(node: &Node) -> bool {
    node.status == NodeStatus::Active
}

/// Whether it has a vote that counts: Raft has none of a node that was never up.
pub(crate) fn votes(node: &Node) -> bool {
    node.role == Role::Voter && node.status != NodeStatus::Joining
}

/// The value of a node's label, if it has one.
fn place(node: &Node, key: Option<&str>) -> Option<String> {
    let report = node.report.as_ref()?;
    report.labels.get(key?).map(Into::into)
}

/// How many nodes should vote.
fn wanted(state: &State, seen: &BTreeMap<NodeId, Seen>) -> usize {
    let rules = state.rules();
    let may = |node: &&Node| {
        let gone = seen.get(&node.id).is_some_and(|seen| seen.gone);
        let may_vote = node.may_vote && knows(node, rules);
        up(node) && !gone && (may_vote || node.role == Role::Voter)
    };
    let able = state.nodes().values().filter(may).count();
    let odd = if able.is_multiple_of(2) { able.saturating_sub(1) } else { able };
    odd.clamp(1, state.placement_policy().voters.into())
}

/// Whether as many nodes that are up vote as the policy says: of one more the leader would take a
/// vote again.
pub(crate) fn are_enough(state: &State) -> bool {
    count(state) >= usize::from(state.placement_policy().voters)
}

fn count(state: &State) -> usize {
    state.nodes().values().filter(|node| node.role == Role::Voter && up(node)).count()
}

/// Whether a node can apply commands by some rules.
fn knows(node: &Node, rules: u32) -> bool {
    node.report.as_ref().is_some_and(|report| report.rules >= rules)
}

/// Refuses to give one more node a vote where enough that are up have one, or one of an older build
/// than voters need. One that may not vote may from then on, where its token or an operator did not
/// let it.
pub fn check_promotion(state: &State, node: NodeId) -> Result<(), Rejection> {
    let wanted = state.require_node(node)?;
    if !knows(wanted, state.rules()) {
        return Err(Rejection::TooOld(node));
    }
    let is_new = wanted.role != Role::Voter && wanted.may_vote;
    let (voters, limit) = (count(state), state.placement_policy().voters);
    if is_new && are_enough(state) {
        return Err(Rejection::EnoughVoters { node, voters, limit });
    }
    Ok(())
}

/// Refuses to take the vote of a node where those that are left would be no quorum without those that
/// may be `lost`. What is recorded of these is older than what the leader heard.
pub fn check_demotion(state: &State, node: NodeId, lost: &[NodeId]) -> Result<(), Rejection> {
    let is_voter = votes(state.require_node(node)?);
    if is_voter { set_role::check_quorum(state, node, lost) } else { Ok(()) }
}

/// The next change of a vote, if one is due.
pub fn next(state: &State, seen: &BTreeMap<NodeId, Seen>, leader: NodeId) -> Option<SetRole> {
    let policy = state.placement_policy();
    let key = policy.voters_spread_by.as_deref();
    let of = |id: NodeId| seen.get(&id).copied().unwrap_or_default();
    let voters: Vec<&Node> = state.nodes().values().filter(|node| votes(node)).collect();
    let alive = voters.iter().filter(|node| up(node)).count();
    if alive * 2 <= voters.len() {
        return None;
    }
    // A vote is taken only where a majority of the rest is up.
    let rest_is_safe = |node: &Node| {
        let rest_alive = alive - usize::from(up(node));
        rest_alive * 2 > voters.len() - 1
    };
    let stuck = |node: &Node| up(node) && of(node.id).stuck;
    // One at a time: a vote that was given must count before the next change.
    let settled = voters.iter().all(|node| !up(node) || of(node.id).votes || stuck(node));
    if !settled {
        return None;
    }
    let mut beside: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for node in voters.iter().filter(|node| up(node)) {
        *beside.entry(place(node, key)).or_default() += 1;
    }
    let crowd = |node: &Node| beside.get(&place(node, key)).copied().unwrap_or(0);
    let wanted = wanted(state, seen);
    let change = |node: &Node, role, cause| Some(SetRole { node: node.id, role, cause });
    let rules = state.rules();
    let least_crowded = || {
        let able = state.nodes().values().filter(|node| {
            let able = node.may_vote && up(node) && of(node.id).steady;
            node.role == Role::Worker && able && knows(node, rules)
        });
        able.min_by_key(|node| (crowd(node), node.id))
    };

    // Where no other can have its vote it may take its time.
    if let Some(node) = voters.iter().find(|node| stuck(node) && rest_is_safe(node))
        && least_crowded().is_some()
    {
        return change(node, Role::Worker, RoleCause::Gone);
    }
    let lasting = voters.iter().filter(|node| !of(node.id).gone && !stuck(node)).count();
    if lasting < wanted {
        let replaces = lasting < voters.len();
        let cause = if replaces { RoleCause::VoterGone } else { RoleCause::TooFew };
        return change(least_crowded()?, Role::Voter, cause);
    }
    let lost = voters.iter().find(|node| of(node.id).gone && rest_is_safe(node));
    // Where too few are left, or an even number, the lost are no worse than no vote.
    let enough = lasting >= 3 && !lasting.is_multiple_of(2);
    if let Some(lost) = lost.filter(|_| enough) {
        return change(lost, Role::Worker, RoleCause::Gone);
    }
    let surplus = voters.iter().filter(|node| node.id != leader && rest_is_safe(node));
    if let Some(surplus) = surplus.max_by_key(|node| (!up(node), crowd(node), node.id))
        && voters.len() > wanted.max(usize::from(policy.voters))
    {
        return change(surplus, Role::Worker, RoleCause::TooMany);
    }
    let most = beside.values().max().copied().unwrap_or(0);
    let better = least_crowded().filter(|node| key.is_some() && crowd(node) + 2 <= most);
    // Not while one is down: the vote that is too much then would be its.
    let full = voters.len() == usize::from(policy.voters) && alive == voters.len();
    change(better.filter(|_| full)?, Role::Voter, RoleCause::Spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        placement_tests::register,
        property_tests::{command, report, with_nodes},
        *,
    };
    use fleet_types::Labels;

    /// So many nodes, all able to vote, the first three of which do.
    fn cluster(count: u64) -> (State, Vec<NodeId>) {
        with_nodes(count)
    }

    fn steady(state: &State) -> BTreeMap<NodeId, Seen> {
        let seen = |node: &Node| Seen {
            steady: up(node),
            gone: !up(node),
            votes: node.role == Role::Voter,
            stuck: false,
        };
        state.nodes().values().map(|node| (node.id, seen(node))).collect()
    }

    fn fence(state: &mut State, node: NodeId) {
        let epoch = state.nodes()[&node].epoch;
        let reach = fleet_types::AgentClass::Strict;
        let fence = plan::fence(state, node, epoch, Evidence::ConfirmedEmpty, reach, 0);
        apply(state, 3_000, &command(Operation::FenceNode(fence))).unwrap();
    }

    fn set_policy(state: &mut State, policy: PlacementPolicy) {
        let set = Operation::SetPlacementPolicy(SetPlacementPolicy { policy });
        apply(state, 2_001, &command(set)).unwrap();
    }

    fn in_rack(state: &mut State, node: NodeId, rack: &str) {
        let storage = state.nodes()[&node].storage.clone();
        let labels = Labels::new([("rack".to_owned(), rack.to_owned())]).unwrap();
        let report = NodeReport { labels, ..report(255) };
        let register = RegisterNode { node, storage, held: None, report };
        apply(state, 2_000, &command(Operation::RegisterNode(register))).unwrap();
    }

    /// Carries changes out until none is due.
    fn settle(state: &mut State) -> Vec<(NodeId, Role)> {
        let mut made = Vec::new();
        while let Some(change) = next(state, &steady(state), NodeId(1)) {
            apply(state, 3_001, &command(Operation::SetRole(change))).unwrap();
            made.push((change.node, change.role));
            assert!(made.len() < 20, "it never settles: {made:?}");
        }
        made
    }

    #[test]
    fn a_lost_voter_is_replaced_before_its_vote_is_taken() {
        let (mut state, nodes) = cluster(5);
        assert_eq!(settle(&mut state), [], "three vote, as the policy says");
        fence(&mut state, nodes[2]);
        assert_eq!(settle(&mut state), [(nodes[3], Role::Voter), (nodes[2], Role::Worker)]);
        fence(&mut state, nodes[1]);
        assert_eq!(settle(&mut state), [(nodes[4], Role::Voter), (nodes[1], Role::Worker)]);
    }

    #[test]
    fn one_that_cannot_vote_keeps_no_other_from_it() {
        let (mut state, nodes) = cluster(5);
        fence(&mut state, nodes[2]);
        let change = next(&state, &steady(&state), NodeId(1)).unwrap();
        assert_eq!((change.node, change.role), (nodes[3], Role::Voter));
        apply(&mut state, 3_001, &command(Operation::SetRole(change))).unwrap();
        let mut seen = steady(&state);
        seen.get_mut(&nodes[3]).unwrap().votes = false;
        assert_eq!(next(&state, &seen, NodeId(1)), None, "it may take its time");
        seen.get_mut(&nodes[3]).unwrap().stuck = true;
        let mut alone = seen.clone();
        alone.get_mut(&nodes[4]).unwrap().steady = false;
        assert_eq!(next(&state, &alone, NodeId(1)), None, "no other could have it");
        let change = next(&state, &seen, NodeId(1)).unwrap();
        assert_eq!((change.node, change.role), (nodes[3], Role::Worker));
        apply(&mut state, 3_002, &command(Operation::SetRole(change))).unwrap();
        let mut seen = steady(&state);
        seen.get_mut(&nodes[3]).unwrap().steady = false;
        let change = next(&state, &seen, NodeId(1)).unwrap();
        assert_eq!((change.node, change.role), (nodes[4], Role::Voter), "the next in turn");
    }

    #[test]
    fn commands_are_applied_by_rules_that_every_voter_knows() {
        let (mut state, nodes) = cluster(4);
        let old = NodeReport { rules: 0, ..report(255) };
        register(&mut state, nodes[3], old.clone());
        assert_eq!(state.rules(), RULES, "a worker applies nothing");
        assert_eq!(check_promotion(&state, nodes[3]), Err(Rejection::TooOld(nodes[3])));
        fence(&mut state, nodes[2]);
        assert_eq!(settle(&mut state), [], "nor is it given a vote");
        register(&mut state, nodes[2], report(255));
        register(&mut state, nodes[1], old);
        assert_eq!(state.rules(), 0);
        register(&mut state, nodes[1], NodeReport { rules: RULES + 1, ..report(255) });
        assert_eq!(state.rules(), RULES);
    }

    #[test]
    fn no_vote_is_taken_while_one_may_be_lost_that_is_needed_then() {
        let (state, nodes) = cluster(4);
        let refused = |node, up| Err(Rejection::QuorumAtRisk { node, up, voters: 2 });
        assert_eq!(check_demotion(&state, nodes[1], &[]), Ok(()));
        assert_eq!(check_demotion(&state, nodes[1], &[nodes[2]]), refused(nodes[1], 1));
        assert_eq!(check_demotion(&state, nodes[2], &[nodes[2]]), Ok(()));
        assert_eq!(check_demotion(&state, nodes[3], &[nodes[2]]), Ok(()), "it has none");
    }

    #[test]
    fn no_more_are_given_a_vote_than_may_have_one() {
        let (mut state, nodes) = cluster(4);
        let node = nodes[3];
        let set = |state: &mut State, node, role| {
            let set = SetRole { node, role, cause: RoleCause::Operator };
            apply(state, 3_000, &command(Operation::SetRole(set))).unwrap();
        };
        let refused = Rejection::EnoughVoters { node, voters: 3, limit: 3 };
        assert_eq!(check_promotion(&state, node), Err(refused.clone()));
        set(&mut state, node, Role::Worker);
        fence(&mut state, nodes[1]);
        assert_eq!(settle(&mut state), [], "none else may vote");
        register(&mut state, nodes[1], report(255));
        // It may take the place of one from now on.
        assert_eq!(check_promotion(&state, node), Ok(()));
        set(&mut state, node, Role::Voter);
        assert_eq!(
            (state.nodes()[&node].role, state.nodes()[&node].may_vote),
            (Role::Worker, true)
        );
        assert_eq!(check_promotion(&state, node), Err(refused));
        fence(&mut state, nodes[1]);
        assert_eq!(settle(&mut state), [(node, Role::Voter), (nodes[1], Role::Worker)]);
    }

    #[test]
    fn a_node_that_was_never_up_has_no_vote_to_lose() {
        let (mut state, nodes) = cluster(1);
        let mut admit = |n: u64| {
            let (token, secret_sha256) = ("0123456789ab".parse().unwrap(), [7; 32]);
            let (name, storage) = (format!("n{n}").parse().unwrap(), format!("s{n}"));
            let address = state.nodes()[&nodes[0]].address.clone();
            let admit = AdmitNode { token, secret_sha256, name, address, storage };
            apply(&mut state, 1_000 + n, &command(Operation::AdmitNode(admit))).unwrap();
            *state.nodes().keys().next_back().unwrap()
        };
        let [never, neither, third, fourth] = [2, 3, 4, 5].map(&mut admit);
        for node in [third, fourth] {
            in_rack(&mut state, node, "a");
            let set = SetRole { node, role: Role::Worker, cause: RoleCause::TooMany };
            let _ = apply(&mut state, 2_000, &command(Operation::SetRole(set)));
        }
        settle(&mut state);
        let votes = [third, fourth].map(|node| state.nodes()[&node].role);
        assert_eq!(votes, [Role::Voter; 2], "they have the votes that count");
        for node in [never, neither] {
            let remove = Operation::RemoveNode(RemoveNode { node });
            apply(&mut state, 4_000, &command(remove)).unwrap();
        }
    }

    #[test]
    fn without_a_spare_the_lost_keep_their_votes() {
        let (mut state, nodes) = cluster(3);
        fence(&mut state, nodes[2]);
        assert_eq!(settle(&mut state), []);
    }

    #[test]
    fn of_five_that_lose_two_three_go_on_as_three() {
        let (mut state, nodes) = cluster(5);
        set_policy(&mut state, PlacementPolicy { voters: 5, ..PlacementPolicy::default() });
        assert_eq!(settle(&mut state).len(), 2, "five vote");
        fence(&mut state, nodes[1]);
        assert_eq!(
            settle(&mut state),
            [],
            "four votes stand no more losses than five with one lost"
        );
        fence(&mut state, nodes[2]);
        assert_eq!(settle(&mut state), [(nodes[1], Role::Worker), (nodes[2], Role::Worker)]);
    }

    #[test]
    fn nothing_is_changed_without_a_majority() {
        let (mut state, nodes) = cluster(5);
        fence(&mut state, nodes[1]);
        fence(&mut state, nodes[2]);
        assert_eq!(settle(&mut state), []);
    }

    #[test]
    fn voters_are_spread_once_other_racks_are_there() {
        let (mut state, nodes) = cluster(5);
        for (node, rack) in nodes.iter().zip(["a", "a", "a", "b", "c"]) {
            in_rack(&mut state, *node, rack);
        }
        assert_eq!(settle(&mut state), [], "no label to spread them by");
        let voters_spread_by = Some("rack".to_owned());
        set_policy(&mut state, PlacementPolicy { voters_spread_by, ..Default::default() });
        let made = settle(&mut state);
        let swapped = [(nodes[3], Role::Voter), (nodes[2], Role::Worker)];
        let again = [(nodes[4], Role::Voter), (nodes[1], Role::Worker)];
        assert_eq!(made, [swapped, again].concat());
        assert_eq!(check_promotion(&state, nodes[0]), Ok(()), "it votes");
        let full = Rejection::EnoughVoters { node: nodes[2], voters: 3, limit: 3 };
        assert_eq!(check_promotion(&state, nodes[2]), Err(full));
        let mut down = steady(&state);
        for (node, seen) in &mut down {
            seen.gone &= *node != nodes[3];
        }
        fence(&mut state, nodes[3]);
        assert_eq!(next(&state, &down, NodeId(1)), None, "it may be back at once");
        assert_eq!(check_promotion(&state, nodes[2]), Ok(()), "one of three is lost");
    }

    #[test]
    fn five_vote_when_told_so_spread_over_racks() {
        let (mut state, nodes) = cluster(8);
        for (n, node) in nodes.iter().enumerate() {
            in_rack(&mut state, *node, if n < 5 { "a" } else { "b" });
        }
        let voters_spread_by = Some("rack".to_owned());
        let policy = PlacementPolicy { voters: 5, voters_spread_by, ..PlacementPolicy::default() };
        set_policy(&mut state, policy);
        assert_eq!(settle(&mut state), [(nodes[5], Role::Voter), (nodes[6], Role::Voter)]);
        set_policy(&mut state, PlacementPolicy::default());
        assert_eq!(settle(&mut state).len(), 2, "and three again");
    }
}
