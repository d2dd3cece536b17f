//! Ends a join token at once.

use fleet_types::Revision;

use crate::{Outcome, Rejection, State, command::RevokeToken};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &RevokeToken,
) -> Result<Outcome, Rejection> {
    if !state.tokens().contains_key(&op.token) {
        return Err(Rejection::TokenUnknown);
    }
    state.remove_token(&op.token);
    Ok(Outcome::Done(revision))
}
