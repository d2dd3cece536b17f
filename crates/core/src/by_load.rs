//! Nodes by load, with what they offer: the least full one that offers enough is found without
//! looking at those that do not. Or the values of a label, each at the place of its least full node
//! and with the most that its nodes offer.
//!
//! A treap: a search tree by load and number that is a heap by a rank drawn from the number. It is
//! expected to be as deep as a small multiple of the logarithm of its nodes, and of one shape
//! whatever was put in and taken out before. Each branch knows which of the demands that many
//! agents have any of its nodes meets, and the most that its nodes offer, by the runtimes they have
//! and of two things at once: a search leaves out those that cannot have what is asked. It looks
//! into one in vain only for a demand that few have, where nodes have parts of it and none has all.

use alloc::{boxed::Box, sync::Arc};

use fleet_types::NodeId;

use crate::{
    offer::{Ask, Offer},
    room::Load,
};

/// A node's place: the least full first, of equal ones the smallest number.
pub(crate) type Place = (Load, NodeId);

/// The set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByLoad {
    top: Link,
    len: usize,
}

type Link = Option<Box<Branch>>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Branch {
    place: Place,
    offer: Arc<Offer>,
    /// Of this node and all below.
    most: Offer,
    before: Link,
    after: Link,
}

impl Branch {
    /// Which of two is nearer to the top. The finalizer of `SplitMix64` (Steele, Lea and Flood,
    /// 2014): one number for each node, in no order.
    fn rank(&self) -> u64 {
        let number = self.place.1.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    fn side(&mut self, place: Place) -> &mut Link {
        if place < self.place { &mut self.before } else { &mut self.after }
    }

    fn sum(&mut self) {
        self.most.reset(&self.offer);
        for below in [&self.before, &self.after].into_iter().flatten() {
            self.most.join(&below.most);
        }
    }
}

impl ByLoad {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes a node from one place to another, with what it offers.
    pub(crate) fn put(&mut self, from: Option<Place>, to: Option<(Place, Arc<Offer>)>) {
        let to = match (from, to) {
            (Some(from), Some((to, offer))) if from == to => {
                return set(&mut self.top, to, offer);
            }
            (_, to) => to,
        };
        let taken = from.and_then(|from| remove(&mut self.top, from));
        self.len -= usize::from(taken.is_some());
        if let Some((place, offer)) = to {
            let most = Offer::clone(&offer);
            let new = Branch { place, offer, most, before: None, after: None };
            insert(&mut self.top, Box::new(new));
            self.len += 1;
        }
    }

    /// Takes in what all nodes offer now.
    pub(crate) fn offer(&mut self, now: &impl Fn(NodeId) -> Arc<Offer>) {
        offer(&mut self.top, now);
    }

    /// The place of the first node.
    pub(crate) fn first(&self) -> Option<Place> {
        let top = self.top.as_deref();
        let before = core::iter::successors(top, |branch| branch.before.as_deref());
        before.last().map(|first| first.place)
    }

    /// The most that any node offers.
    pub(crate) fn most(&self) -> Option<&Offer> {
        self.top.as_deref().map(|top| &top.most)
    }

    /// The first node after a place, or of all, that offers what is asked.
    pub(crate) fn first_after(&self, place: Option<Place>, ask: &Ask) -> Option<Place> {
        first_after(&self.top, place, ask)
    }

    /// Whether every branch that has enough has a node that does: a search goes straight to the first.
    #[cfg(test)]
    pub(crate) fn leads(&self, ask: &Ask) -> bool {
        fn leads(tree: &Link, ask: &Ask) -> bool {
            let Some(top) = tree else { return true };
            let has_one = first_after(tree, None, ask).is_some();
            top.most.covers(ask) == has_one && leads(&top.before, ask) && leads(&top.after, ask)
        }
        leads(&self.top, ask)
    }
}

fn set(tree: &mut Link, place: Place, offer: Arc<Offer>) {
    let Some(top) = tree else { return };
    if top.place == place {
        top.offer = offer;
    } else {
        set(top.side(place), place, offer);
    }
    top.sum();
}

fn offer(tree: &mut Link, now: &impl Fn(NodeId) -> Arc<Offer>) {
    let Some(top) = tree else { return };
    offer(&mut top.before, now);
    offer(&mut top.after, now);
    top.offer = now(top.place.1);
    top.sum();
}

fn insert(tree: &mut Link, mut new: Box<Branch>) {
    match tree {
        Some(top) if top.rank() > new.rank() => {
            top.most.join(&new.offer);
            insert(top.side(new.place), new);
        }
        _ => {
            (new.before, new.after) = split(tree.take(), new.place);
            new.sum();
            *tree = Some(new);
        }
    }
}

fn remove(tree: &mut Link, place: Place) -> Link {
    let top = tree.as_mut()?;
    if top.place == place {
        let mut taken = tree.take()?;
        *tree = merge(taken.before.take(), taken.after.take());
        return Some(taken);
    }
    let taken = remove(top.side(place), place);
    top.sum();
    taken
}

/// Those before a place and those after it.
fn split(tree: Link, place: Place) -> (Link, Link) {
    let Some(mut top) = tree else { return (None, None) };
    if top.place < place {
        let (before, after) = split(top.after.take(), place);
        top.after = before;
        top.sum();
        (Some(top), after)
    } else {
        let (before, after) = split(top.before.take(), place);
        top.before = after;
        top.sum();
        (before, Some(top))
    }
}

/// Two of which all of the first come before all of the second.
fn merge(first: Link, second: Link) -> Link {
    match (first, second) {
        (Some(mut top), Some(below)) if top.rank() > below.rank() => {
            top.after = merge(top.after.take(), Some(below));
            top.sum();
            Some(top)
        }
        (Some(below), Some(mut top)) => {
            top.before = merge(Some(below), top.before.take());
            top.sum();
            Some(top)
        }
        (first, second) => first.or(second),
    }
}

fn first_after(tree: &Link, place: Option<Place>, ask: &Ask) -> Option<Place> {
    let top = tree.as_deref().filter(|top| top.most.covers(ask))?;
    if place.is_some_and(|place| top.place <= place) {
        return first_after(&top.after, place, ask);
    }
    first_after(&top.before, place, ask)
        .or_else(|| top.offer.covers(ask).then_some(top.place))
        .or_else(|| first_after(&top.after, None, ask))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        crowd::Counts,
        demands::Suits,
        offer::{Counted, Marked, Marks},
    };
    use fleet_types::FleetName;
    use proptest::prelude::*;

    fn marks(bits: u8) -> Marks {
        let named = |n: u8| Marks::label("n", &n.to_string());
        (0..3).filter(|n| bits & (1 << n) != 0).map(named).fold(Marks::default(), Marks::and)
    }

    proptest! {
        #[test]
        fn finds_what_a_look_at_each_finds(
            steps in proptest::collection::vec(
                (0_u64..20, any::<bool>(), 0_u64..5, 0_u64..4, 0_u8..8, 0_usize..3), 1..80),
            asked in (0_u64..4, 0_u8..8, 0_u8..8, any::<bool>(), 0_usize..4, any::<bool>()),
        ) {
            let mut nodes = ByLoad::default();
            let mut each: BTreeMap<NodeId, (Place, Arc<Offer>)> = BTreeMap::new();
            let fleet: FleetName = "f".parse().unwrap();
            for (id, stays, load, room, bits, agents) in steps {
                let id = NodeId(id);
                let crowd = |n| (&Counts::from_iter((n > 0).then(|| (fleet.clone(), n)))).into();
                let marked = Marked { model: marks(bits & 3), labels: marks(bits & 4) };
                let apart = crowd(agents / 2);
                let suits = if bits & 4 == 0 { Suits::default() } else { Suits::room_for(1) };
                let offer = Offer::of_node(marked, [room, 3 - room, 1], apart, suits);
                let offer = Arc::new(offer.with_spread(crowd(agents), &vec![(1, agents)]));
                let (before, now) = (each.remove(&id), stays.then_some(((load, id), offer)));
                nodes.put(before.map(|(place, _)| place), now.clone());
                each.extend(now.map(|now| (id, now)));
                prop_assert_eq!(nodes.len(), each.len());
            }
            let (room, all, any, apart, most, listed) = asked;
            let room = [room, room / 2, 1];
            let spread = if listed { Counted::Known(1) } else { Counted::Fleet(fleet.clone()) };
            let ask = Ask {
                room,
                shape: (&room).into(),
                all: marks(all),
                any: marks(any),
                suits: if listed { Suits::room_for(1) } else { Suits::default() },
                apart_from: apart.then(|| fleet.clone()),
                at_most: (most < 3).then_some((spread, most)),
            };
            prop_assert!(!listed || apart || nodes.leads(&ask));
            let mut sorted: Vec<(Place, Arc<Offer>)> = each.values().cloned().collect();
            sorted.sort_by_key(|(place, _)| *place);
            prop_assert_eq!(nodes.first(), sorted.first().map(|(place, _)| *place));
            let suiting: Vec<Place> =
                sorted.iter().filter(|(_, o)| o.covers(&ask)).map(|(place, _)| *place).collect();
            let mut found = Vec::new();
            while let Some(next) = nodes.first_after(found.last().copied(), &ask) {
                found.push(next);
            }
            prop_assert_eq!(found, suiting);
            let mut again = ByLoad::default();
            for now in sorted.into_iter().rev() {
                again.put(None, Some(now));
            }
            prop_assert_eq!(again, nodes, "of one shape whatever the history");
        }
    }
}
