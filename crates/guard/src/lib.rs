//! What the guard says of its lease. See the binary for what it does.
#![forbid(unsafe_code)]

use std::{fmt, str::FromStr};

/// A lease that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node's epoch.
    pub epoch: u64,
    /// When it ends, in milliseconds of `CLOCK_BOOTTIME`.
    pub deadline_ms: u64,
}

/// What the guard says of itself, over its socket and in its status file: `held EPOCH DEADLINE_MS`
/// or `empty`, then ` degraded WHY` and ` unfit WHY` when it lacks something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The lease it holds.
    pub held: Option<Lease>,
    /// What it lacks to end agents in time always.
    pub degraded: Option<String>,
    /// What it lacks to end strict agents in time.
    pub unfit: Option<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.held {
            Some(Lease { epoch, deadline_ms }) => write!(f, "held {epoch} {deadline_ms}")?,
            None => f.write_str("empty")?,
        }
        self.degraded.as_ref().map_or(Ok(()), |why| write!(f, " degraded {why}"))?;
        self.unfit.as_ref().map_or(Ok(()), |why| write!(f, " unfit {why}"))
    }
}

/// A text without what follows `mark`, and that.
fn cut<'a>(text: &'a str, mark: &str) -> (&'a str, Option<String>) {
    text.split_once(mark).map_or((text, None), |(before, why)| (before, Some(why.to_owned())))
}

impl FromStr for Status {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (text, unfit) = cut(text, " unfit ");
        let (held, degraded) = cut(text, " degraded ");
        let number = |text: &str| text.parse().map_err(|_| Malformed);
        let held = match held.split(' ').collect::<Vec<_>>().as_slice() {
            ["held", epoch, deadline_ms] => {
                Some(Lease { epoch: number(epoch)?, deadline_ms: number(deadline_ms)? })
            }
            ["empty"] => None,
            _ => return Err(Malformed),
        };
        Ok(Self { held, degraded, unfit })
    }
}

/// A text that is not a status.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_back_whole() {
        let held = Some(Lease { epoch: 3, deadline_ms: 99 });
        let lacks = [None, Some("no real-time priority, a clock".to_owned())];
        for (degraded, unfit) in
            lacks.iter().flat_map(|one| lacks.iter().map(move |two| (one, two)))
        {
            for held in [held, None] {
                let (degraded, unfit) = (degraded.clone(), unfit.clone());
                let status = Status { held, degraded, unfit };
                assert_eq!(status.to_string().parse(), Ok(status));
            }
        }
        for text in ["refused a lease too long", "held 3", "held 3 x", "held 3 99 100", ""] {
            assert_eq!(text.parse::<Status>(), Err(Malformed), "{text}");
        }
    }
}
