//! What agents ask of a node and what nodes offer, in a form whose maximum over many nodes is worth
//! having: where not even that is enough, none of them is, see [`crate::by_load`].

use core::fmt::Write;

use fleet_types::{AgentClass, FleetName, Labels, RuntimeName, Version};
use smallvec::SmallVec;

use crate::{
    admission::{self, Amounts},
    crowd::Crowd,
    demands::{self, Fewest, Suits},
    digest::Fnv,
    record::AgentSpec,
    together::{Shape, Together},
};

/// What a node must be for an agent, whatever else is there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Needs<'a> {
    pub(crate) runtime: &'a RuntimeName,
    pub(crate) version: Option<&'a Version>,
    pub(crate) labels: &'a Labels,
    pub(crate) strict: bool,
}

impl<'a> From<&'a AgentSpec> for Needs<'a> {
    fn from(spec: &'a AgentSpec) -> Self {
        Self {
            runtime: &spec.runtime,
            version: spec.wants.runtime_version.as_ref(),
            labels: &spec.wants.node_labels,
            strict: spec.class == AgentClass::Strict,
        }
    }
}

/// All that decides whether a node suits an agent, but for where others of its fleet are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Demand {
    runtime: RuntimeName,
    version: Option<Version>,
    labels: Labels,
    strict: bool,
    pub(crate) size: Amounts,
}

impl From<&AgentSpec> for Demand {
    fn from(spec: &AgentSpec) -> Self {
        let Needs { runtime, version, labels, strict } = spec.into();
        let (runtime, version, labels) = (runtime.clone(), version.cloned(), labels.clone());
        Self { runtime, version, labels, strict, size: admission::asked(spec) }
    }
}

impl Demand {
    /// What it needs a node to be.
    pub(crate) fn needs(&self) -> Needs<'_> {
        let Self { runtime, version, labels, strict, .. } = self;
        Needs { runtime, version: version.as_ref(), labels, strict: *strict }
    }

    /// Whether it is what an agent asks for.
    pub(crate) fn is_of(&self, spec: &AgentSpec) -> bool {
        self.size == admission::asked(spec) && self.needs() == spec.into()
    }
}

/// Facts about nodes, a bit each; two may share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Marks(u128);

impl Marks {
    /// It ends what runs there in time.
    pub(crate) const FIT: Self = Self(1);

    /// That a node has a runtime.
    pub(crate) fn runtime(name: &RuntimeName) -> Self {
        Self::of(&["runtime", name.as_str()])
    }

    /// That a node has a runtime in a version.
    pub(crate) fn version(name: &RuntimeName, version: &str) -> Self {
        Self::of(&["version", name.as_str(), version])
    }

    /// That a node has a runtime in a version that few have.
    pub(crate) fn rare_version(name: &RuntimeName) -> Self {
        Self::of(&["rare version", name.as_str()])
    }

    /// That a node has a label.
    pub(crate) fn label(key: &str, value: &str) -> Self {
        Self::of(&["label", key, value])
    }

    /// A bit other than the first, the same in every replica.
    fn of(words: &[&str]) -> Self {
        let mut hash = Fnv::default();
        for word in words {
            // Set apart; were they not, as in a version with this character, they only share a bit.
            write!(hash, "{word}\0").expect("hashing text cannot fail");
        }
        let Fnv(hash) = hash;
        Self(2 << ((hash ^ (hash >> 32)) % 127))
    }

    /// These and others.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What marks say of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marked {
    /// Which runtimes it has, in which versions, and whether it is fit.
    pub(crate) model: Marks,
    pub(crate) labels: Marks,
}

/// What a node offers; or the most that any of one model does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stock {
    marked: Marked,
    /// What is left, of ports in one block.
    room: Amounts,
    together: Together,
}

/// Of more models than this the last are taken for one, the same in whatever order offers are joined.
const MODELS_MAX: usize = if cfg!(test) { 2 } else { 8 };

/// What a node offers, or nodes under a value of a label; or the most that any of several does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// By model, in order: the room of a node with one version is not there for who asks for
    /// another.
    stocks: SmallVec<[Stock; 1]>,
    /// The agents there that stand apart.
    apart: Crowd,
    /// Under a value: its agents of the fleets that are spread by the label.
    spread: Crowd,
    /// What of the known demands any of the nodes suits.
    suits: Suits,
    /// Under a value: the agents of the fleets of those that there is room for, and that are spread by
    /// the label.
    fewest: Fewest,
}

impl Stock {
    fn join(&mut self, other: &Self) {
        self.marked.model = self.marked.model.and(other.marked.model);
        self.marked.labels = self.marked.labels.and(other.marked.labels);
        for (most, one) in self.room.iter_mut().zip(other.room) {
            *most = (*most).max(one);
        }
        self.together.join(&other.together);
    }

    fn covers(&self, ask: &Ask) -> bool {
        let marks = self.marked.model.and(self.marked.labels);
        let mut amounts = self.room.iter().zip(ask.room);
        marks.and(ask.all) == marks
            && (ask.any == Marks::default() || marks.0 & ask.any.0 != 0)
            && amounts.all(|(has, asked)| *has >= asked)
            && self.together.covers(&ask.shape)
    }
}

impl Offer {
    /// What a node offers.
    pub(crate) fn of_node(marked: Marked, room: Amounts, apart: Crowd, suits: Suits) -> Self {
        let stock = Stock { marked, room, together: (&room).into() };
        Self { stocks: [stock].into(), apart, suits, ..Self::default() }
    }

    /// The same, with these agents of the fleets that are spread, of all and of what is known.
    pub(crate) fn with_spread(self, spread: Crowd, known: &Fewest) -> Self {
        let fewest = demands::with_room(known, self.suits);
        Self { spread, fewest, ..self }
    }

    /// Makes it another, in its own memory.
    pub(crate) fn reset(&mut self, to: &Self) {
        self.stocks.clone_from(&to.stocks);
        self.apart.clone_from(&to.apart);
        self.spread.clone_from(&to.spread);
        self.suits = to.suits;
        self.fewest.clone_from(&to.fewest);
    }

    /// Makes it the most of both.
    pub(crate) fn join(&mut self, other: &Self) {
        for stock in &other.stocks {
            let model = |known: &Stock| known.marked.model.cmp(&stock.marked.model);
            match self.stocks.binary_search_by(model) {
                Ok(at) => self.stocks[at].join(stock),
                Err(at) => self.stocks.insert(at, stock.clone()),
            }
            if self.stocks.len() > MODELS_MAX
                && let Some(last) = self.stocks.pop()
            {
                self.stocks[MODELS_MAX - 1].join(&last);
            }
        }
        self.apart.meet(&other.apart);
        self.spread.meet(&other.spread);
        self.suits.join(other.suits);
        demands::join(&mut self.fewest, &other.fewest);
    }

    /// Whether it is enough; a node of which it is may still lack what no mark stands for.
    pub(crate) fn covers(&self, ask: &Ask) -> bool {
        let suits = if ask.suits == Suits::default() {
            self.stocks.iter().any(|stock| stock.covers(ask))
        } else {
            self.suits.include(ask.suits)
        };
        suits
            && ask.apart_from.as_ref().is_none_or(|fleet| self.apart.of(fleet) == 0)
            && ask.at_most.as_ref().is_none_or(|(spread, most)| self.agents_of(spread) <= *most)
    }

    /// How few agents of what is spread are under a value with all else; more than there can be
    /// where there is none.
    fn agents_of(&self, spread: &Counted) -> usize {
        match spread {
            Counted::Fleet(fleet) => self.spread.of(fleet),
            Counted::Known(number) => {
                let at = self.fewest.binary_search_by_key(number, |it| it.0);
                at.map_or(usize::MAX, |at| self.fewest[at].1)
            }
        }
    }
}

/// What is spread.
#[derive(Clone, Debug)]
pub(crate) enum Counted {
    /// A fleet.
    Fleet(FleetName),
    /// What is known of one, by its number.
    Known(usize),
}

/// What is asked of an offer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) room: Amounts,
    pub(crate) shape: Shape,
    /// The marks it must have.
    pub(crate) all: Marks,
    /// Of these it must have one, if there are any.
    pub(crate) any: Marks,
    /// What is known that it must suit, instead of all above.
    pub(crate) suits: Suits,
    /// The fleet of which no agent that stands apart may be there.
    pub(crate) apart_from: Option<FleetName>,
    /// How many agents of what is spread may be there.
    pub(crate) at_most: Option<(Counted, usize)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_and_room_elsewhere_are_not_both() {
        let runtime = "exec".parse().unwrap();
        let node = |version, memory| {
            let model = Marks::version(&runtime, version);
            let (marked, nobody) = (Marked { model, ..Marked::default() }, Crowd::default());
            Offer::of_node(marked, [memory, 1, 1], nobody, Suits::default())
        };
        let mut most = node("1.0", 8);
        most.join(&node("2.0", 2));
        let covers = |version, memory| {
            let any = Marks::version(&runtime, version);
            most.covers(&Ask { room: [memory, 1, 1], any, ..Ask::default() })
        };
        assert!(covers("1.0", 8) && covers("2.0", 2));
        assert!(!covers("2.0", 8), "what has the room has another version");
    }
}
