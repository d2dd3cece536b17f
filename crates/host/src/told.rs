//! What a host was told, and what of it changes with what it is told next.

use std::collections::{BTreeMap, BTreeSet};

use fleet_proto::{
    convert::host::{agent_key, parse_agent},
    host::{AgentKey, AssignRequest, Assignment},
};
use fleet_types::{AgentId, InvalidName};

/// What a host was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    /// By a leader of this term.
    pub(crate) term: u64,
    /// Under this epoch.
    pub(crate) epoch: u64,
    /// In its message of this number, or a later one.
    pub(crate) number: u64,
    /// The agents that are told of.
    pub(crate) agents: BTreeMap<AgentId, Assignment>,
    /// Of agents that are not told of any more and may not have stopped yet, what was told last, not
    /// to run.
    pub(crate) leaving: BTreeMap<AgentId, Assignment>,
}

impl Told {
    /// What changes with a message, as a message that [`Told::fold`] takes in: agents that are told
    /// otherwise are put. Those that are told of no more are removed; and put as well, not to run,
    /// while they may not have stopped yet, which `may_run` tells.
    pub(crate) fn change(
        &self,
        new: &AssignRequest,
        may_run: impl Fn(&AgentId) -> bool,
    ) -> Result<AssignRequest, InvalidName> {
        let put = new.put.iter().map(|it| Ok((parse_agent(&it.fleet, &it.agent)?, it)));
        let put = put.collect::<Result<BTreeMap<AgentId, &Assignment>, InvalidName>>()?;
        let removed = agents(&new.remove)?;
        let dropped: Vec<(&AgentId, &Assignment)> = if new.complete {
            self.agents.iter().filter(|(id, _)| !put.contains_key(id)).collect()
        } else {
            let removed = removed.iter().filter(|id| !put.contains_key(id));
            removed.filter_map(|id| self.agents.get_key_value(id)).collect()
        };
        let (left, mut gone): (Vec<_>, Vec<_>) = dropped.into_iter().partition(|it| may_run(it.0));
        gone.extend(self.leaving.iter().filter(|(id, _)| !put.contains_key(id) && !may_run(id)));
        let stopped = left.iter().map(|(_, told)| Assignment { run: false, ..(*told).clone() });
        let changed = put.iter().filter(|(id, told)| self.agents.get(id) != Some(*told));
        Ok(AssignRequest {
            term: new.term,
            epoch: new.epoch,
            number: new.number,
            put: changed.map(|(_, told)| (*told).clone()).chain(stopped).collect(),
            remove: left.iter().chain(&gone).map(|(id, _)| agent_key(id)).collect(),
            ..AssignRequest::default()
        })
    }

    /// Whether a change is to be written down: what counts messages is not.
    pub(crate) fn is_changed_by(&self, change: &AssignRequest) -> bool {
        (self.term, self.epoch) != (change.term, change.epoch)
            || !change.put.is_empty()
            || !change.remove.is_empty()
    }

    /// Takes in a change, or all there is.
    pub(crate) fn fold(&mut self, change: AssignRequest) -> Result<(), InvalidName> {
        (self.term, self.epoch, self.number) = (change.term, change.epoch, change.number);
        if change.complete {
            self.agents.clear();
            self.leaving.clear();
        }
        let removed = agents(&change.remove)?;
        for id in &removed {
            self.agents.remove(id);
            self.leaving.remove(id);
        }
        for told in change.put {
            let id = parse_agent(&told.fleet, &told.agent)?;
            if removed.contains(&id) {
                self.leaving.insert(id, told);
            } else {
                self.leaving.remove(&id);
                self.agents.insert(id, told);
            }
        }
        Ok(())
    }

    /// All there is, as a message that [`Told::fold`] takes in.
    pub(crate) fn whole(&self) -> AssignRequest {
        AssignRequest {
            term: self.term,
            epoch: self.epoch,
            number: self.number,
            complete: true,
            put: self.agents.values().chain(self.leaving.values()).cloned().collect(),
            remove: self.leaving.keys().map(agent_key).collect(),
            ..AssignRequest::default()
        }
    }
}

fn agents(keys: &[AgentKey]) -> Result<BTreeSet<AgentId>, InvalidName> {
    keys.iter().map(|key| parse_agent(&key.fleet, &key.agent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, revision: u64) -> Assignment {
        let (fleet, agent) = ("f".into(), name.into());
        Assignment { fleet, agent, revision, run: true, ..Assignment::default() }
    }

    fn id(name: &str) -> AgentId {
        parse_agent("f", name).unwrap()
    }

    fn said(put: &[Assignment], remove: &[&str]) -> AssignRequest {
        let remove = remove.iter().map(|name| agent_key(&id(name))).collect();
        AssignRequest { term: 1, epoch: 1, put: put.to_vec(), remove, ..AssignRequest::default() }
    }

    fn names(agents: &BTreeMap<AgentId, Assignment>) -> String {
        agents.keys().map(|id| id.agent.as_str()).collect()
    }

    #[test]
    fn a_change_is_what_is_other_than_before() {
        let mut told = Told::default();
        let mut say = |said: AssignRequest, running: &str| {
            let change = told.change(&said, |id| running.contains(id.agent.as_str())).unwrap();
            let put: String = change.put.iter().map(|it| it.agent.as_str()).collect();
            let changes = told.is_changed_by(&change);
            told.fold(change).unwrap();
            (put, changes, names(&told.agents), names(&told.leaving))
        };
        let is = |put: &str, changes, agents: &str, leaving: &str| {
            (put.to_owned(), changes, agents.to_owned(), leaving.to_owned())
        };
        let all = [agent("a", 1), agent("b", 1), agent("c", 1)];
        let complete = |put: &[Assignment]| AssignRequest { complete: true, ..said(put, &[]) };
        assert_eq!(say(complete(&all), ""), is("abc", true, "abc", ""));
        assert_eq!(say(complete(&all), "abc"), is("", false, "abc", ""));
        assert_eq!(say(said(&[agent("b", 2)], &[]), "abc"), is("b", true, "abc", ""));
        assert_eq!(say(said(&[], &["a"]), "abc"), is("a", true, "bc", "a"), "it runs still");
        assert_eq!(say(said(&[], &["b"]), "ac"), is("", true, "c", "a"), "it does not");
        assert_eq!(say(said(&[], &[]), "ac"), is("", false, "c", "a"));
        assert_eq!(say(said(&[agent("a", 3)], &[]), "ac"), is("a", true, "ac", ""), "it is back");
        assert_eq!(say(complete(&[]), "a"), is("a", true, "", "a"));
        assert_eq!(say(complete(&[]), ""), is("", true, "", ""), "it has gone");
        assert_eq!(say(AssignRequest { term: 2, ..said(&[], &[]) }, ""), is("", true, "", ""));
    }

    #[test]
    fn all_there_is_says_who_is_leaving_and_is_not_to_run() {
        let mut told = Told::default();
        told.fold(said(&[agent("a", 1), agent("b", 1)], &[])).unwrap();
        let change = told.change(&said(&[], &["b"]), |_| true).unwrap();
        told.fold(change).unwrap();
        let mut read = Told { agents: [(id("x"), agent("x", 1))].into(), ..Told::default() };
        read.fold(told.whole()).unwrap();
        assert_eq!(read, told);
        assert!(read.agents[&id("a")].run && !read.leaving[&id("b")].run);
        let mut malformed = agent("a", 1);
        malformed.agent = "A b".into();
        assert!(told.change(&said(&[malformed], &[]), |_| true).is_err());
    }
}
