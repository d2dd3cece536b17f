//! Nodes by the value of a label: those with a value by load, and the values themselves, each at
//! the place of its least full node and with the most that its nodes offer.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};

use crate::{
    by_load::{ByLoad, Place},
    crowd::Crowd,
    offer::Offer,
};

/// The nodes with a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Posting {
    pub(crate) nodes: ByLoad,
    /// Whether they have a mark for it.
    pub(crate) marked: bool,
    /// The agents under it that it is listed with.
    crowd: Crowd,
}

/// The nodes with any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByValue {
    postings: BTreeMap<String, Posting>,
    values: ByLoad,
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

    /// Takes a node with a value from one place to another, with what it offers. `crowd` are the
    /// agents under the value.
    pub(crate) fn put(
        &mut self,
        value: &str,
        from: Option<Place>,
        to: Option<(Place, Arc<Offer>)>,
        crowd: Crowd,
    ) {
        let first = self.get(value).and_then(|posting| posting.nodes.first());
        self.put_node(value, from, to);
        self.list(value, first, crowd);
    }

    /// Takes in that other agents are under a value.
    pub(crate) fn relist(&mut self, value: &str, crowd: Crowd) {
        let Some(posting) = self.get(value) else { return };
        if posting.crowd != crowd {
            self.list(value, posting.nodes.first(), crowd);
        }
    }

    /// Of nodes with a value each. `crowd` says which agents are under a value.
    pub(crate) fn of<'a>(
        nodes: impl Iterator<Item = (&'a str, Place, Arc<Offer>)>,
        crowd: impl Fn(&str) -> Crowd,
    ) -> Self {
        let mut all = Self::default();
        for (value, place, offer) in nodes {
            all.put_node(value, None, Some((place, offer)));
        }
        let values: Vec<String> = all.names().cloned().collect();
        for value in values {
            all.list(&value, None, crowd(&value));
        }
        all
    }

    fn put_node(&mut self, value: &str, from: Option<Place>, to: Option<(Place, Arc<Offer>)>) {
        if !self.postings.contains_key(value) {
            self.postings.insert(value.into(), Posting::default());
        }
        if let Some(posting) = self.postings.get_mut(value) {
            posting.nodes.put(from, to);
            if posting.nodes.len() == 0 {
                self.postings.remove(value);
            }
        }
    }

    /// Lists a value, which was at a place if it was listed, anew or no more.
    fn list(&mut self, value: &str, from: Option<Place>, crowd: Crowd) {
        let posting = self.get_mut(value).map(|posting| {
            posting.crowd.clone_from(&crowd);
            &posting.nodes
        });
        let listed = posting.and_then(|nodes| nodes.first().zip(nodes.most()));
        let to = listed.map(|(first, most)| (first, Arc::new(most.clone().with_spread(crowd))));
        self.values.put(from, to);
    }
}
