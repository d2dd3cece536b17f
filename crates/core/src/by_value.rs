//! Nodes by the value of a label: those with a value by load, and the values themselves, each at
//! the place of its least full node and with the most that its nodes offer.

use alloc::{collections::BTreeMap, string::String, sync::Arc};

use fleet_types::NodeId;

use crate::{
    by_load::{ByLoad, Place},
    crowd::Crowd,
    demands::Fewest,
    offer::Offer,
};

/// The agents under a value, of the fleets that are spread by the label: of all, and of what is
/// known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AgentsUnder {
    pub(crate) crowd: Crowd,
    pub(crate) known: Fewest,
}

/// The nodes with a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Posting {
    pub(crate) nodes: ByLoad,
    /// Whether they have a mark for it.
    pub(crate) marked: bool,
    /// The agents under it that it is listed with.
    under: AgentsUnder,
}

/// The nodes with any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByValue {
    postings: BTreeMap<String, Posting>,
    values: ByLoad,
}

impl Posting {
    /// Where its value is listed, and with what offer.
    fn listing(&self) -> Option<(Place, Arc<Offer>)> {
        let AgentsUnder { crowd, known } = &self.under;
        let (first, most) = (self.nodes.first()?, self.nodes.most()?.clone());
        Some((first, Arc::new(most.with_spread(crowd.clone(), known))))
    }
}

impl ByValue {
    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.postings.len()
    }

    /// The values, in their order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.postings.keys()
    }

    /// The values by load.
    pub(crate) fn values(&self) -> &ByLoad {
        &self.values
    }

    /// The nodes with a value, if there are any.
    pub(crate) fn get(&self, value: &str) -> Option<&Posting> {
        self.postings.get(value)
    }

    pub(crate) fn get_mut(&mut self, value: &str) -> Option<&mut Posting> {
        self.postings.get_mut(value)
    }

    /// Takes a node with a value from one place to another, with what it offers. `under` are the
    /// agents under the value.
    pub(crate) fn put(
        &mut self,
        value: &str,
        from: Option<Place>,
        to: Option<(Place, Arc<Offer>)>,
        under: AgentsUnder,
    ) {
        let first = self.get(value).and_then(|posting| posting.nodes.first());
        if !self.postings.contains_key(value) {
            self.postings.insert(value.into(), Posting::default());
        }
        if let Some(posting) = self.postings.get_mut(value) {
            posting.nodes.put(from, to);
            if posting.nodes.len() == 0 {
                self.postings.remove(value);
            }
        }
        self.list(value, first, under);
    }

    /// Takes in that other agents are under a value.
    pub(crate) fn relist(&mut self, value: &str, under: AgentsUnder) {
        let Some(posting) = self.get(value) else { return };
        if posting.under != under {
            self.list(value, posting.nodes.first(), under);
        }
    }

    /// As [`ByLoad::offer`], and which agents are under each value.
    pub(crate) fn offer(
        &mut self,
        now: &impl Fn(NodeId) -> Arc<Offer>,
        under: BTreeMap<String, AgentsUnder>,
    ) {
        let mut values = BTreeMap::new();
        for (value, under) in under {
            let Some(posting) = self.get_mut(&value) else { continue };
            posting.nodes.offer(now);
            posting.under = under;
            values.extend(posting.listing().map(|((_, first), offer)| (first, offer)));
        }
        self.values.offer(&|first| values.get(&first).cloned().unwrap_or_default());
    }

    /// Lists a value, which was at a place if it was listed, anew or no more.
    fn list(&mut self, value: &str, from: Option<Place>, under: AgentsUnder) {
        let to = self.get_mut(value).and_then(|posting| {
            posting.under = under;
            posting.listing()
        });
        self.values.put(from, to);
    }
}
