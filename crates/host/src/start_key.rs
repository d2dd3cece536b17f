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
    /// Its uid, which one that had its name before did not have; 0 in keys of daemons of before.
    pub(crate) uid: u32,
}

impl StartKey {
    /// Whether it is what `assignment` asks for.
    pub(crate) fn is_of(&self, assignment: &Assignment) -> bool {
        self.generation == assignment.generation
            && (self.uid == 0 || self.uid == assignment.uid)
            && self.agent.fleet.as_str() == assignment.fleet
            && self.agent.agent.as_str() == assignment.agent
    }
}

impl fmt::Display for StartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agent: AgentId { fleet, agent }, generation, restarts, start, salt, uid } = self;
        write!(f, "{fleet}/{agent}:{generation}:{restarts}:{start}:{salt}:{uid}")
    }
}

impl FromStr for StartKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split([':', '/']).collect();
        let (fleet, agent, generation, restarts, start, salt, uid) = match parts.as_slice() {
            [fleet, agent, generation, restarts, start, salt] => {
                (fleet, agent, generation, restarts, start, salt, &"0")
            }
            [fleet, agent, generation, restarts, start, salt, uid] => {
                (fleet, agent, generation, restarts, start, salt, uid)
            }
            _ => return Err(()),
        };
        Ok(Self {
            agent: parse_agent(fleet, agent).map_err(drop)?,
            generation: generation.parse().map_err(drop)?,
            restarts: restarts.parse().map_err(drop)?,
            start: start.parse().map_err(drop)?,
            salt: salt.parse().map_err(drop)?,
            uid: uid.parse().map_err(drop)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back() {
        let agent = parse_agent("demo", "a-1").unwrap();
        let key = StartKey { agent, generation: 3, restarts: 1, start: 2, salt: 77, uid: 5 };
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        let of_before = StartKey { uid: 0, ..key.clone() };
        assert_eq!("demo/a-1:3:1:2:77".parse(), Ok(of_before.clone()));
        let told = Assignment {
            fleet: "demo".into(),
            agent: "a-1".into(),
            generation: 3,
            uid: 5,
            ..Assignment::default()
        };
        assert!(key.is_of(&told) && of_before.is_of(&told));
        assert!(!key.is_of(&Assignment { uid: 6, ..told.clone() }));
        assert!(!key.is_of(&Assignment { generation: 2, ..told }));
        for text in ["", "demo/a", "demo/a:1:2:3", "demo/a:x:2:3:4", "demo:a:1:2:3:4:5:6"] {
            assert_eq!(text.parse::<StartKey>(), Err(()), "{text}");
        }
    }
}
