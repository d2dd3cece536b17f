//! Agents' gateway tokens.
//!
//! A token is HMAC-SHA-256 of the agent's name and uid under a key that only voters hold. So every
//! agent has 256 bits of its own, the same on every node and after every restart, an agent made
//! anew under an old name has another (uids are never reused), and no secret is in the log.

use fleet_types::AgentId;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The gateway token of an agent, as 64 hexadecimal digits.
pub fn agent_token(key: &[u8; 32], id: &AgentId, uid: u32) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(format!("gateway token\0{id}\0{uid}").as_bytes());
    const_hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_stable_and_differ() {
        let (a, b): (AgentId, AgentId) = ("f/a".parse().unwrap(), "f/b".parse().unwrap());
        assert_eq!(agent_token(&[1; 32], &a, 5), agent_token(&[1; 32], &a, 5));
        assert_ne!(agent_token(&[1; 32], &a, 5), agent_token(&[1; 32], &a, 6));
        assert_ne!(agent_token(&[1; 32], &a, 5), agent_token(&[1; 32], &b, 5));
        assert_ne!(agent_token(&[1; 32], &a, 5), agent_token(&[2; 32], &a, 5));
    }
}
