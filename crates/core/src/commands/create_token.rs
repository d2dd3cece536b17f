//! Makes a join token.

use fleet_types::{
    Revision, Timestamp,
    limits::{TOKEN_TTL_MS_MAX, TOKEN_USES_MAX, TOKENS_MAX},
};

use crate::{Outcome, Rejection, State, command::CreateToken, record::JoinToken};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &CreateToken,
) -> Result<Outcome, Rejection> {
    let ttl_fits = (1_000..=TOKEN_TTL_MS_MAX).contains(&op.ttl_ms);
    if !ttl_fits || !(1..=TOKEN_USES_MAX).contains(&op.uses) {
        return Err(Rejection::TokenTerms);
    }
    if state.tokens().contains_key(&op.token) {
        return Err(Rejection::TokenExists(op.token.clone()));
    }
    let spent: alloc::vec::Vec<_> = state
        .tokens()
        .values()
        .filter(|token| token.expires < at)
        .map(|token| token.id.clone())
        .collect();
    if state.tokens().len() - spent.len() >= TOKENS_MAX {
        return Err(Rejection::LimitReached { what: "join tokens", limit: TOKENS_MAX });
    }
    for token in spent {
        state.remove_token(&token);
    }
    state.put_token(JoinToken {
        id: op.token.clone(),
        secret_sha256: op.secret_sha256,
        role: op.role,
        expires: at.plus_ms(op.ttl_ms),
        uses_left: op.uses,
        created: at,
        revision,
    });
    Ok(Outcome::Done(revision))
}
