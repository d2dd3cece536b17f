//! How many agents of which fleets are at a place.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use fleet_types::FleetName;

/// How many agents of each fleet are at a place, where there are any.
pub(crate) type Counts = BTreeMap<FleetName, usize>;

/// Of more fleets at a place than this nothing is said, so that a crowd is met in bounded time.
const FLEETS_MAX: usize = if cfg!(test) { 3 } else { 128 };

/// How many agents there are at least of some fleets: at a place, or at each of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crowd(Option<Arc<[(FleetName, usize)]>>);

impl From<&Counts> for Crowd {
    fn from(counts: &Counts) -> Self {
        let first = counts.iter().take(FLEETS_MAX);
        Self::of_fleets(first.map(|(fleet, agents)| (fleet.clone(), *agents)).collect())
    }
}

impl Crowd {
    fn of_fleets(fleets: Vec<(FleetName, usize)>) -> Self {
        Self((!fleets.is_empty()).then(|| fleets.into()))
    }

    /// How many there are of a fleet at least.
    pub(crate) fn of(&self, fleet: &FleetName) -> usize {
        let fleets = self.0.as_deref().unwrap_or_default();
        let found = fleets.binary_search_by(|(known, _)| known.cmp(fleet));
        found.map_or(0, |at| fleets[at].1)
    }

    /// Makes it the fewest of both.
    pub(crate) fn meet(&mut self, other: &Self) {
        let (Some(one), Some(two)) = (&self.0, &other.0) else {
            self.0 = None;
            return;
        };
        if Arc::ptr_eq(one, two) {
            return;
        }
        let mut others = two.iter().peekable();
        let fewest = one.iter().filter_map(|(fleet, agents)| {
            while others.next_if(|(other, _)| other < fleet).is_some() {}
            let (_, more) = others.next_if(|(other, _)| other == fleet)?;
            Some((fleet.clone(), *agents.min(more)))
        });
        let fewest: Vec<_> = fewest.collect();
        if **one != *fewest {
            *self = Self::of_fleets(fewest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fleet(n: u8) -> FleetName {
        format!("f{n}").parse().unwrap()
    }

    fn counts(agents: &[(u8, usize)]) -> Counts {
        agents.iter().map(|(n, agents)| (fleet(*n), *agents)).collect()
    }

    proptest! {
        #[test]
        fn says_of_some_fleets_what_the_fewest_are(
            one in proptest::collection::vec((0_u8..4, 1_usize..3), 0..12),
            two in proptest::collection::vec((0_u8..4, 1_usize..3), 0..12),
        ) {
            let (one, two) = (counts(&one), counts(&two));
            let mut crowd = Crowd::from(&one);
            crowd.meet(&Crowd::from(&two));
            let known = |counts: &Counts, fleet: &FleetName| {
                counts.iter().take(FLEETS_MAX).find(|(it, _)| *it == fleet).map_or(0, |(_, n)| *n)
            };
            for fleet in (0..4).map(fleet) {
                prop_assert_eq!(crowd.of(&fleet), known(&one, &fleet).min(known(&two, &fleet)));
            }
            let empty = (0..4).map(fleet).all(|fleet| crowd.of(&fleet) == 0);
            prop_assert_eq!(crowd == Crowd::default(), empty);
        }
    }
}
