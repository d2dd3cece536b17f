//! What many agents ask for alike, and which nodes have all of it. The most that nodes offer of
//! each thing leads past those that have every part of what is asked for, and not the whole; of
//! what is counted here it is known of each node whether it has the whole.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use core::iter;

use fleet_types::FleetName;

use crate::{
    admission::Amounts,
    crowd::Counts,
    offer::{Demand, Needs},
    plan::matches,
    record::{AgentSpec, Node},
};

/// Of more than this the last, in their order, are not known: a change of a node looks at each that
/// is, and each is a bit.
const KNOWN_MAX: usize = if cfg!(test) { 6 } else { 128 };
/// What fewer agents ask for is not known: to know it takes a look at every node, as a search may
/// that has no better way.
const AGENTS_MIN: usize = if cfg!(test) { 2 } else { 16 };

/// A bit for each of what is known.
pub(crate) type Bits = u128;

/// How an agent goes by where others of its fleet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Beside<'a> {
    pub(crate) fleet: &'a FleetName,
    /// Whether it stands apart.
    pub(crate) apart: bool,
    /// The key of the label that it is spread by.
    pub(crate) spread_by: Option<&'a str>,
}

/// What agents ask for; of a fleet, if they go by where others of it are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    beside: Option<(FleetName, bool, Option<String>)>,
    demand: Demand,
}

/// Which of what is known a node is one for, or one of several nodes is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Suits {
    /// If there were room. No agent of the fleet is there that stands apart, where it matters.
    is_one_for: Bits,
    has_room_for: Bits,
}

/// How many agents of its fleet are under a value of a label, for what is known by its number.
pub(crate) type Fewest = Vec<(usize, usize)>;

/// By number, the number before if there was one.
pub(crate) type Numbers = Vec<Option<usize>>;

/// What agents ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demands {
    /// How many agents ask for each.
    agents: BTreeMap<Asked, usize>,
    /// What many ask for.
    of_many: BTreeSet<Asked>,
    /// The first of these, each with a bit by its number, since they were settled last.
    known: Vec<Asked>,
}

impl Asked {
    /// What an agent asks for, in each way that it is searched for.
    fn all_of<'a>(fleet: &'a FleetName, spec: &'a AgentSpec) -> impl Iterator<Item = Self> + 'a {
        let (apart, spread_by) = (spec.wants.apart, &spec.wants.spread_by);
        let beside = move |spread_by| Some((fleet.clone(), apart, spread_by));
        let alone = apart.then(|| beside(None));
        let spread = spread_by.clone().map(|key| beside(Some(key)));
        let all = iter::once(None).chain(alone).chain(spread);
        all.map(|beside| Self { beside, demand: spec.into() })
    }

    fn beside(&self) -> Option<Beside<'_>> {
        let (fleet, apart, spread_by) = self.beside.as_ref()?;
        Some(Beside { fleet, apart: *apart, spread_by: spread_by.as_deref() })
    }
}

impl Suits {
    /// Adds what another node suits.
    pub(crate) fn join(&mut self, other: Self) {
        self.is_one_for |= other.is_one_for;
        self.has_room_for |= other.has_room_for;
    }

    /// Whether these are among them.
    pub(crate) fn include(self, asked: Self) -> bool {
        self.is_one_for & asked.is_one_for == asked.is_one_for
            && self.has_room_for & asked.has_room_for == asked.has_room_for
    }

    /// That there is room for the one with a number.
    pub(crate) fn room_for(number: usize) -> Self {
        Self { has_room_for: 1 << number, ..Self::default() }
    }

    /// That a node is one for the one with a number.
    pub(crate) fn one_for(number: usize) -> Self {
        Self { is_one_for: 1 << number, ..Self::default() }
    }
}

impl Demands {
    /// Takes in a new agent.
    pub(crate) fn add(&mut self, fleet: &FleetName, spec: &AgentSpec) {
        for asked in Asked::all_of(fleet, spec) {
            let agents = self.agents.get(&asked).map_or(1, |agents| agents + 1);
            if agents == AGENTS_MIN {
                self.of_many.insert(asked.clone());
            }
            self.agents.insert(asked, agents);
        }
    }

    /// Forgets an agent.
    pub(crate) fn remove(&mut self, fleet: &FleetName, spec: &AgentSpec) {
        for asked in Asked::all_of(fleet, spec) {
            let Some(agents) = self.agents.get_mut(&asked) else { continue };
            if *agents == AGENTS_MIN {
                self.of_many.remove(&asked);
            }
            *agents -= 1;
            if *agents == 0 {
                self.agents.remove(&asked);
            }
        }
    }

    /// Settles what is known now. If that is other than before: the number that each had then.
    pub(crate) fn settle(&mut self) -> Option<Numbers> {
        let now = || self.of_many.iter().take(KNOWN_MAX);
        if now().eq(&self.known) {
            return None;
        }
        let known: Vec<Asked> = now().cloned().collect();
        let numbers = known.iter().map(|asked| self.known.binary_search(asked).ok()).collect();
        self.known = known;
        Some(numbers)
    }

    /// The number of what is asked for, if it is known; of any size if none is given.
    pub(crate) fn number(
        &self,
        beside: Option<Beside<'_>>,
        needs: Needs<'_>,
        size: Option<Amounts>,
    ) -> Option<usize> {
        let key = (beside, needs, size.unwrap_or_default());
        let is_before = |it: &Asked| (it.beside(), it.demand.needs(), it.demand.size) < key;
        let at = self.known.partition_point(is_before);
        let found = self.known.get(at)?;
        let is_it = found.beside() == beside
            && found.demand.needs() == needs
            && size.is_none_or(|size| size == found.demand.size);
        is_it.then_some(at)
    }

    /// What a node is one for, whatever runs there.
    pub(crate) fn is_one_for(&self, node: &Node) -> Bits {
        let is_one = self.known.iter().map(|asked| matches(node, asked.demand.needs()));
        bits(is_one)
    }

    /// The same of what it was one for before.
    pub(crate) fn is_one_for_now(&self, node: &Node, numbers: &Numbers, before: Bits) -> Bits {
        let all = self.known.iter().zip(numbers);
        bits(all.map(|(asked, number)| match number {
            Some(number) => before & 1 << number != 0,
            None => matches(node, asked.demand.needs()),
        }))
    }

    /// Which of these a node with so much room suits. `apart` are its agents that stand apart.
    pub(crate) fn suiting(&self, mut of: Bits, left: Amounts, apart: &Counts) -> Suits {
        let mut suits = Suits::default();
        while of != 0 {
            let number = of.trailing_zeros();
            of &= of - 1;
            let Some(asked) = self.known.get(number as usize) else { continue };
            if asked.beside().is_some_and(|it| it.apart && apart.contains_key(it.fleet)) {
                continue;
            }
            let mut amounts = asked.demand.size.into_iter().zip(left);
            suits.is_one_for |= 1 << number;
            suits.has_room_for |= Bits::from(amounts.all(|(asked, left)| asked <= left)) << number;
        }
        suits
    }

    /// How many of these agents under a value of a label are of the fleets of what is known and spread
    /// by it.
    pub(crate) fn count(&self, key: &str, agents: &Counts) -> Fewest {
        let spread = self.known.iter().enumerate().filter_map(|(number, asked)| {
            let beside = asked.beside().filter(|it| it.spread_by == Some(key))?;
            Some((number, agents.get(beside.fleet).copied().unwrap_or(0)))
        });
        spread.collect()
    }
}

fn bits(all: impl Iterator<Item = bool>) -> Bits {
    all.enumerate().fold(0, |bits, (number, is)| bits | Bits::from(is) << number)
}

/// Keeps what there is room for.
pub(crate) fn with_room(fewest: &Fewest, suits: Suits) -> Fewest {
    let fits = |it: &&(usize, usize)| suits.include(Suits::room_for(it.0));
    fewest.iter().filter(fits).copied().collect()
}

/// Makes one the fewest of both, where any of them has it.
pub(crate) fn join(fewest: &mut Fewest, other: &Fewest) {
    let mut at = 0;
    for (number, agents) in other {
        while fewest.get(at).is_some_and(|it| it.0 < *number) {
            at += 1;
        }
        match fewest.get_mut(at).filter(|it| it.0 == *number) {
            Some((_, fewest)) => *fewest = *agents.min(fewest),
            None => fewest.insert(at, (*number, *agents)),
        }
    }
}
