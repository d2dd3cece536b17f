//! What the index finds for an agent, against a look at each node.

use std::collections::{BTreeMap, BTreeSet};

use fleet_types::{FleetName, NodeId};
use proptest::prelude::*;

use crate::{
    admission, index,
    placement_tests::{PLAIN, asking, value_of},
    plan, *,
};

/// What is searched by the agents of a fleet that are there is what a look at each finds.
pub(crate) fn is_searched_by_fleet(state: &State, fleet: &FleetName) -> Result<(), TestCaseError> {
    let spec = asking(PLAIN);
    let index = state.index();
    let placed = |node: NodeId| {
        let agents = state.placed_on(node).filter(|id| id.fleet == *fleet);
        agents.map(|id| &*state.agents()[id].spec)
    };
    let all: BTreeSet<NodeId> = index.search((&spec).into(), None, None, None).nodes().collect();
    let apart = index.search((&spec).into(), None, None, Some(fleet)).nodes();
    let free = all.iter().copied().filter(|node| !placed(*node).any(|spec| spec.wants.apart));
    prop_assert_eq!(apart.collect::<BTreeSet<_>>(), free.collect());
    for (key, most) in [("rack", 0), ("rack", 2), ("host", 0), ("host", 2)] {
        let by_it = |agent: &Agent| agent.spec.wants.spread_by.as_deref() == Some(key);
        if index.has_few_values(key) || !state.fleet_agents(fleet).any(by_it) {
            continue;
        }
        let values =
            index.search_values((&spec).into(), [0; 3], key, Some((fleet, false))).at_most(most);
        let found: BTreeSet<_> = values.nodes().map(|node| value_of(state, node, key)).collect();
        let mut counts = BTreeMap::<_, usize>::new();
        for node in state.nodes().keys() {
            *counts.entry(value_of(state, *node, key)).or_default() += placed(*node).count();
        }
        counts.retain(|_, agents| *agents <= most);
        prop_assert_eq!(found, counts.into_keys().collect());
    }
    Ok(())
}

/// What is known is searched for by what a look at each finds, and straight.
pub(crate) fn is_found_if_known(
    state: &State,
    fleet: &FleetName,
    spec: &AgentSpec,
) -> Result<(), TestCaseError> {
    let (index, needs) = (state.index(), spec.into());
    let (size, apart) = (admission::asked(spec), spec.wants.apart.then_some(fleet));
    let nodes = || state.nodes().values().filter(|node| index::open(node));
    let close = |node: &Node| plan::too_close(state, node.id, fleet, spec);
    let ones = || nodes().filter(|node| plan::matches(node, needs) && !close(node));
    let fits = |node: &&Node| state.room(node.id).unwrap().lacks(spec).is_none();
    let labels = nodes().flat_map(|node| node.report.as_ref().unwrap().labels.iter()).map(Some);
    let searches = labels.chain([None]).map(|label| (Some(size), label)).chain([(None, None)]);
    for (size, label) in searches {
        let search = || index.search(needs, size, label, apart);
        if search().is_of_known() {
            prop_assert!(search().leads());
            let found: BTreeSet<NodeId> = search().nodes().collect();
            let under =
                |node: &&Node| label.is_none_or(|(key, value)| node.label(key) == Some(value));
            let ones = ones().filter(under).filter(|node| size.is_none() || fits(node));
            prop_assert_eq!(found, ones.map(|node| node.id).collect());
        }
    }
    let of_fleet: Vec<_> =
        state.fleet_agents(fleet).filter_map(|it| it.placement.as_ref()).collect();
    for most in 0..3 {
        let Some(key) = spec.wants.spread_by.as_deref() else { continue };
        let of = Some((fleet, spec.wants.apart));
        let search = || index.search_values(needs, size, key, of).at_most(most);
        if search().is_of_known() {
            prop_assert!(search().leads());
            let value = |node: NodeId| value_of(state, node, key);
            let under = |it: &String| {
                of_fleet.iter().filter(|of| value(of.node).as_ref() == Some(it)).count()
            };
            let values = ones().filter(fits).filter_map(|node| value(node.id));
            let found: BTreeSet<_> = search().nodes().filter_map(value).collect();
            prop_assert_eq!(found, values.filter(|it| under(it) <= most).collect());
        }
    }
    Ok(())
}

/// Whether each search for an agent leads straight to the first that is one for it.
pub(crate) fn leads(state: &State, fleet: &FleetName, spec: &AgentSpec) -> bool {
    let (index, needs, wants) = (state.index(), spec.into(), &spec.wants);
    let (size, apart) = (admission::asked(spec), wants.apart.then_some(fleet));
    let by_value = |key| {
        let (key, values) = index.with_label(key)?;
        let mut labels = values.names().map(|value| (key.as_str(), value.as_str()));
        let leads_under =
            labels.all(|label| index.search(needs, size.into(), Some(label), apart).leads());
        let of = [None, Some((fleet, wants.apart))];
        let values = of.map(|of| index.search_values(needs, size, key, of));
        let levels = (0..3).map(|most| {
            index.search_values(needs, size, key, Some((fleet, wants.apart))).at_most(most)
        });
        Some(leads_under && values.into_iter().chain(levels).all(|search| search.leads()))
    };
    [Some(size), None].into_iter().all(|size| index.search(needs, size, None, apart).leads())
        && wants.spread_by.as_deref().and_then(by_value).unwrap_or(true)
}
