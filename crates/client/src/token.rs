//! Join tokens as text: `FC1.{sha256 of the CA}.{id}.{secret}`.
//!
//! The hash comes first in use, too: the joiner checks it against the CA the server shows before
//! the secret leaves the machine.

use std::{fmt, str::FromStr};

use fleet_types::TokenId;

/// A join token. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the CA certificate, DER.
    pub ca_sha256: [u8; 32],
    /// Public id.
    pub id: TokenId,
    /// 256 random bits.
    pub secret: [u8; 32],
}

/// A text that is not a join token. Carries no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join token: expected FC1.<64 hex digits>.<12 hex digits>.<64 hex digits>, as \
     `fleet-cluster token create` prints it"
)]
pub struct InvalidToken;

impl FromStr for Token {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let mut parts = text.trim().split('.');
        let (Some("FC1"), Some(ca), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidToken);
        };
        Ok(Self {
            ca_sha256: const_hex::decode_to_array(ca).map_err(|_| InvalidToken)?,
            id: id.parse().map_err(|_| InvalidToken)?,
            secret: const_hex::decode_to_array(secret).map_err(|_| InvalidToken)?,
        })
    }
}

impl Token {
    /// The token as text, secret and all.
    pub fn reveal(&self) -> String {
        let (ca, secret) = (const_hex::encode(self.ca_sha256), const_hex::encode(self.secret));
        format!("FC1.{ca}.{}.{secret}", self.id)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_hide() {
        let token =
            Token { ca_sha256: [1; 32], id: "0123456789ab".parse().unwrap(), secret: [0xab; 32] };
        assert_eq!(token.reveal().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("abab"));
    }

    #[test]
    fn garbled_tokens_are_refused_without_being_repeated() {
        let good =
            Token { ca_sha256: [1; 32], id: "0123456789ab".parse().unwrap(), secret: [2; 32] };
        let good = good.reveal();
        for bad in
            ["", "FC1", "FC2.a.b.c", &good[1..], &good[..good.len() - 1], &format!("{good}.x")]
        {
            assert_eq!(bad.parse::<Token>(), Err(InvalidToken), "{bad}");
        }
    }
}
