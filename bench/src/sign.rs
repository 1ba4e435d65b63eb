//! A site of the run that signs its visitors' tickets itself, with Ed25519 (docs/WIRE.md, *Tickets signed by a site*).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};

use crate::swarm::tickets::Tickets;

/// How long such a ticket lives, seconds: as long as it may.
const LIFETIME_S: u64 = 86_400;

/// The site's key pair. It lives as long as the run, so it need not be a secret: it is made from the run's number.
pub struct SiteSigner(SigningKey);

impl SiteSigner {
    /// A key pair of this run.
    pub fn new(run: u64) -> Self {
        let mut seed = [0x5a; 32];
        seed[..8].copy_from_slice(&run.to_le_bytes());
        Self(SigningKey::from_bytes(&seed))
    }

    /// The public half, in hex.
    pub fn public_hex(&self) -> String {
        self.0.verifying_key().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Tickets of `count` visitors, issued at `now_s` (seconds since 1970), under the name `kid` of the key.
    pub fn tickets(&self, kid: &str, count: u32, now_s: u64) -> Tickets {
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let header = encode(&serde_json::json!({ "alg": "EdDSA", "kid": kid }).to_string());
        let mut tickets = Tickets::default();
        for number in 0..count {
            let claims =
                serde_json::json!({ "sub": format!("v-{number}"), "iat": now_s, "exp": now_s + LIFETIME_S });
            let message = format!("{header}.{}", encode(&claims.to_string()));
            let signature = self.0.sign(message.as_bytes()).to_bytes();
            tickets.push(&format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)));
        }
        tickets
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::Signature;

    use super::*;

    #[test]
    fn the_public_half_verifies_what_each_ticket_claims() {
        let signer = SiteSigner::new(7);
        assert_eq!(signer.public_hex().len(), 64);
        assert_ne!(signer.public_hex(), SiteSigner::new(8).public_hex());
        let tickets = signer.tickets("shop:1", 3, 1_000);
        let parts: Vec<&str> = tickets.get(2).split('.').collect();
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
        let json = |part: &str| serde_json::from_slice::<serde_json::Value>(&decode(part)).unwrap();
        assert_eq!(json(parts[0]), serde_json::json!({ "alg": "EdDSA", "kid": "shop:1" }));
        assert_eq!(json(parts[1]), serde_json::json!({ "sub": "v-2", "iat": 1_000, "exp": 87_400 }));
        let message = format!("{}.{}", parts[0], parts[1]);
        let signature = Signature::from_slice(&decode(parts[2])).unwrap();
        signer.0.verifying_key().verify_strict(message.as_bytes(), &signature).unwrap();
    }
}
