//! What one start of one agent is known by at init, so that a later daemon can tell whether what
//! runs is what it was told to run.

use std::{fmt, str::FromStr};

use fleet_proto::{convert::host::parse_agent, host::Assignment};
use fleet_types::AgentId;

/// One start of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartKey {
    pub(crate) agent: AgentId,
    pub(crate) generation: u64,
    /// Restarts that had been asked for.
    pub(crate) restarts: u64,
    /// 1 for the first of its generation.
    pub(crate) start: u32,
    /// Keeps keys of one start apart that a daemon forgot to have used.
    pub(crate) salt: u32,
}

impl StartKey {
    /// Whether it is what `assignment` asks for.
    pub(crate) fn is_of(&self, assignment: &Assignment) -> bool {
        self.generation == assignment.generation
            && self.agent.fleet.as_str() == assignment.fleet
            && self.agent.agent.as_str() == assignment.agent
    }
}

impl fmt::Display for StartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agent, generation, restarts, start, salt } = self;
        write!(f, "{}/{}:{generation}:{restarts}:{start}:{salt}", agent.fleet, agent.agent)
    }
}

impl FromStr for StartKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split([':', '/']).collect();
        let [fleet, agent, generation, restarts, start, salt] = parts.as_slice() else {
            return Err(());
        };
        Ok(Self {
            agent: parse_agent(fleet, agent).map_err(drop)?,
            generation: generation.parse().map_err(drop)?,
            restarts: restarts.parse().map_err(drop)?,
            start: start.parse().map_err(drop)?,
            salt: salt.parse().map_err(drop)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back() {
        let agent = parse_agent("demo", "a-1").unwrap();
        let key = StartKey { agent, generation: 3, restarts: 1, start: 2, salt: 77 };
        assert_eq!(key.to_string().parse(), Ok(key));
        for text in ["", "demo/a", "demo/a:1:2:3", "demo/a:x:2:3:4", "demo:a:1:2:3:4:5"] {
            assert_eq!(text.parse::<StartKey>(), Err(()), "{text}");
        }
    }
}
