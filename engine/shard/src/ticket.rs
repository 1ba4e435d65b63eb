//! Tickets: JSON Web Tokens (RFC 7519). The server's own are signed with HMAC-SHA256. A site whose own system knows its
//! customers may sign theirs with Ed25519, after the operator registered its public key; such a ticket names the key
//! and is good for visitors of that site only. Each kind of key is bound to its algorithm: a token that names another,
//! `none` included, is invalid. Issue and verify take the time as an argument.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ringdesk_desk::ids::{AgentId, SiteId};
use serde::{Deserialize, Serialize};

use crate::message::{Identity, Principal};

/// `iss` of every ticket.
pub const ISSUER: &str = "ringdesk";

/// Tolerance for a ticket issued by a clock ahead of ours, seconds.
pub const SKEW_S: u64 = 60;

/// What a ticket says. Field names are the JWT claim names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Always [`ISSUER`].
    pub iss: String,
    /// Site name, 1..=32 bytes of `[a-z0-9-]`.
    pub site: String,
    /// Site number in the directory, from 1.
    pub sid: u32,
    /// `visitor`, `agent` or `gateway`.
    pub role: String,
    /// External visitor id (1..=64 bytes), agent login, or gateway name.
    pub sub: String,
    /// Agent number in the directory; 0 for other roles.
    pub aid: u32,
    /// Issued at, seconds since 1970.
    pub iat: u64,
    /// Expires at, seconds since 1970.
    pub exp: u64,
}

/// The longest a ticket signed by a site may live, seconds: a stolen one ends within a day, and the site's backend can
/// make a new one at any time.
pub const SITE_TICKET_LIFETIME_S_MAX: u64 = 86_400;

/// A public key a site signs its visitors' tickets with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteKey {
    /// Site number.
    pub site: u32,
    /// Site name.
    pub site_name: Arc<str>,
    /// Ed25519 public key (RFC 8032 section 5.1.5).
    pub key: [u8; 32],
}

/// Site keys by `kid` (RFC 7515 section 4.1.4).
pub type SiteKeys = BTreeMap<String, SiteKey>;

/// Everything a ticket may be verified with.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// HMAC key of the server's own tickets.
    pub server: &'a [u8],
    /// Public keys of sites.
    pub sites: &'a SiteKeys,
}

/// What a ticket signed by a site says; other claims are ignored.
#[derive(Deserialize)]
struct SiteClaims {
    /// External visitor id.
    sub: String,
    iat: u64,
    exp: u64,
    /// Absent or `visitor`.
    role: Option<String>,
}

/// Why a ticket was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TicketError {
    /// Not a token, wrong signature, wrong algorithm, or claims that make no sense.
    Invalid,
    /// Good, but too old.
    Expired,
    /// The role it was made for is not the role that was claimed.
    WrongRole,
}

/// Signs claims. Fails only when the key is unusable, which start-up has excluded.
pub fn issue(key: &[u8], claims: &Claims) -> Result<String, TicketError> {
    crate::jwt::install();
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(key))
        .map_err(|_| TicketError::Invalid)
}

/// Checks signature and shape, not the time: for renewing an expired visitor ticket.
pub fn decode(key: &[u8], token: &str) -> Result<Claims, TicketError> {
    crate::jwt::install();
    let mut rules = Validation::new(Algorithm::HS256);
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules.required_spec_claims.clear();
    rules.set_issuer(&[ISSUER]);
    let claims = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(key), &rules)
        .map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => TicketError::Expired,
            _ => TicketError::Invalid,
        })?
        .claims;
    if claims.iss != ISSUER
        || claims.sid == 0
        || !(1..=32).contains(&claims.site.len())
        || !(1..=64).contains(&claims.sub.len())
    {
        return Err(TicketError::Invalid);
    }
    Ok(claims)
}

pub use crate::jwt::is_public_key;

/// Whether a name may be a visitor's id in a ticket: 1 to 64 bytes, nothing that cuts the hash tag.
fn is_visitor_id(id: &str) -> bool {
    let bad = |c: char| c.is_control() || c.is_whitespace() || c == '{' || c == '}';
    (1..=64).contains(&id.len()) && !id.chars().any(bad)
}

/// Signature and shape of a ticket that a site signed, as claims of ours.
fn decode_of_site(sites: &SiteKeys, kid: &str, token: &str) -> Result<Claims, TicketError> {
    let signer = sites.get(kid).ok_or(TicketError::Invalid)?;
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules.validate_aud = false;
    rules.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<SiteClaims>(token, &DecodingKey::from_ed_der(&signer.key), &rules)
        .map_err(|_| TicketError::Invalid)?
        .claims;
    let role = claims.role.as_deref().unwrap_or("visitor");
    let lives_s = claims.exp.checked_sub(claims.iat).ok_or(TicketError::Invalid)?;
    if role != "visitor" || !is_visitor_id(&claims.sub) || lives_s > SITE_TICKET_LIFETIME_S_MAX {
        return Err(TicketError::Invalid);
    }
    Ok(Claims {
        iss: ISSUER.to_owned(),
        site: signer.site_name.to_string(),
        sid: signer.site,
        role: role.to_owned(),
        sub: claims.sub,
        aid: 0,
        iat: claims.iat,
        exp: claims.exp,
    })
}

/// Verifies a ticket at wall time `now_s` for the wire role (1 visitor, 2 agent, 3 gateway).
pub fn verify(keys: Keys<'_>, token: &str, role: u8, now_s: u64) -> Result<Principal, TicketError> {
    crate::jwt::install();
    // Only the server's own tickets come without the name of a key.
    let kid = jsonwebtoken::decode_header(token).map_err(|_| TicketError::Invalid)?.kid;
    let claims = match kid {
        Some(kid) => decode_of_site(keys.sites, &kid, token)?,
        None => decode(keys.server, token)?,
    };
    let (named, identity) = match claims.role.as_str() {
        "visitor" if claims.aid == 0 => (1, Identity::Visitor { visitor: claims.sub.as_str().into() }),
        "agent" if claims.aid != 0 => {
            (2, Identity::Agent { agent: AgentId(claims.aid), login: claims.sub.as_str().into() })
        }
        "gateway" if claims.aid == 0 => (3, Identity::Gateway),
        _ => return Err(TicketError::Invalid),
    };
    if claims.exp <= now_s {
        return Err(TicketError::Expired);
    }
    if claims.iat > now_s + SKEW_S {
        return Err(TicketError::Invalid);
    }
    if named != role {
        return Err(TicketError::WrongRole);
    }
    Ok(Principal {
        site: SiteId(claims.sid),
        site_name: Arc::from(claims.site.as_str()),
        identity,
        expires_s: claims.exp,
        issued_s: claims.iat,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    static NO_SITES: SiteKeys = SiteKeys::new();

    fn own(server: &[u8]) -> Keys<'_> {
        Keys { server, sites: &NO_SITES }
    }

    fn claims() -> Claims {
        Claims {
            iss: ISSUER.into(),
            site: "demo".into(),
            sid: 1,
            role: "visitor".into(),
            sub: "v-1".into(),
            aid: 0,
            iat: 1_000,
            exp: 2_000,
        }
    }

    #[test]
    fn a_good_ticket_names_its_principal() {
        let token = issue(KEY, &claims()).unwrap();
        let principal = verify(own(KEY), &token, 1, 1_500).unwrap();
        assert_eq!(principal.site, SiteId(1));
        assert_eq!(principal.identity, Identity::Visitor { visitor: "v-1".into() });
    }

    #[test]
    fn expiry_role_and_forgery_are_told_apart() {
        let token = issue(KEY, &claims()).unwrap();
        assert_eq!(verify(own(KEY), &token, 1, 2_000), Err(TicketError::Expired));
        assert_eq!(verify(own(KEY), &token, 2, 1_500), Err(TicketError::WrongRole));
        assert_eq!(
            verify(own(b"another key of thirty-two bytes!"), &token, 1, 1_500),
            Err(TicketError::Invalid)
        );
        let mut forged = token.clone();
        let flipped = if forged.ends_with('A') { 'B' } else { 'A' };
        forged.replace_range(40..41, &flipped.to_string());
        assert_eq!(verify(own(KEY), &forged, 1, 1_500), Err(TicketError::Invalid));
        assert_eq!(verify(own(KEY), "", 1, 1_500), Err(TicketError::Invalid));
    }

    #[test]
    fn another_algorithm_is_invalid() {
        // {"alg":"HS384"} and {"alg":"RS256"} before the payload and signature of a good ticket.
        let good = issue(KEY, &claims()).unwrap();
        let (_, rest) = good.split_once('.').unwrap();
        for header in ["eyJhbGciOiJIUzM4NCJ9", "eyJhbGciOiJSUzI1NiJ9"] {
            assert_eq!(verify(own(KEY), &format!("{header}.{rest}"), 1, 1_500), Err(TicketError::Invalid));
        }
        // {"alg":"none"} with the payload of a good ticket and no signature.
        let payload = good.split('.').nth(1).unwrap();
        assert_eq!(
            verify(own(KEY), &format!("eyJhbGciOiJub25lIn0.{payload}."), 1, 1_500),
            Err(TicketError::Invalid)
        );
    }

    #[test]
    fn a_visitor_ticket_with_an_agent_number_is_invalid() {
        let mut odd = claims();
        odd.aid = 7;
        let token = issue(KEY, &odd).unwrap();
        assert_eq!(verify(own(KEY), &token, 1, 1_500), Err(TicketError::Invalid));
    }

    fn signer(seed: u8) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[seed; 32])
    }

    fn sites() -> SiteKeys {
        let key = signer(1).verifying_key().to_bytes();
        SiteKeys::from([("shop:1".to_owned(), SiteKey { site: 4, site_name: "shop".into(), key })])
    }

    /// A token as a site's backend makes it, by hand.
    fn signed(seed: u8, header: &str, claims: &str) -> String {
        use base64::Engine as _;
        use base64::prelude::BASE64_URL_SAFE_NO_PAD as URL;
        use ed25519_dalek::Signer as _;
        let message = format!("{}.{}", URL.encode(header), URL.encode(claims));
        let signature = signer(seed).sign(message.as_bytes()).to_bytes();
        format!("{message}.{}", URL.encode(signature))
    }

    const HEADER: &str = r#"{"alg":"EdDSA","kid":"shop:1"}"#;

    #[test]
    fn a_site_signs_for_its_own_visitors() {
        let sites = sites();
        let keys = Keys { server: KEY, sites: &sites };
        let token = signed(1, HEADER, r#"{"sub":"customer-42","iat":1000,"exp":2000,"plan":"gold"}"#);
        let principal = verify(keys, &token, 1, 1_500).unwrap();
        assert_eq!((principal.site, &*principal.site_name), (SiteId(4), "shop"));
        assert_eq!(principal.identity, Identity::Visitor { visitor: "customer-42".into() });
        assert_eq!(verify(keys, &token, 1, 2_000), Err(TicketError::Expired));
        assert_eq!(verify(keys, &token, 2, 1_500), Err(TicketError::WrongRole));
        assert_eq!(verify(own(KEY), &token, 1, 1_500), Err(TicketError::Invalid));
    }

    #[test]
    fn a_site_signs_for_nobody_else_and_not_for_long() {
        let sites = sites();
        let keys = Keys { server: KEY, sites: &sites };
        let bad = [
            signed(2, HEADER, r#"{"sub":"c","iat":1000,"exp":2000}"#),
            signed(1, r#"{"alg":"EdDSA"}"#, r#"{"sub":"c","iat":1000,"exp":2000}"#),
            signed(1, r#"{"alg":"EdDSA","kid":"shop:2"}"#, r#"{"sub":"c","iat":1000,"exp":2000}"#),
            signed(1, r#"{"alg":"HS256","kid":"shop:1"}"#, r#"{"sub":"c","iat":1000,"exp":2000}"#),
            signed(1, HEADER, r#"{"sub":"c","iat":1000,"exp":2000,"role":"agent","aid":1}"#),
            signed(1, HEADER, r#"{"sub":"c","iat":1000,"exp":90000}"#),
            signed(1, HEADER, r#"{"sub":"a}b","iat":1000,"exp":2000}"#),
            signed(1, HEADER, r#"{"sub":"","iat":1000,"exp":2000}"#),
            signed(1, HEADER, r#"{"sub":"c","iat":1700,"exp":2000}"#),
            signed(1, HEADER, r#"{"iat":1000,"exp":2000}"#),
        ];
        for token in bad {
            assert_eq!(verify(keys, &token, 1, 1_500), Err(TicketError::Invalid), "{token}");
        }
    }

    /// The classical confusion: a token that claims HMAC, signed with the public key as its secret.
    #[test]
    fn a_public_key_is_no_hmac_secret() {
        let sites = sites();
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("shop:1".into());
        let secret = EncodingKey::from_secret(&sites["shop:1"].key);
        crate::jwt::install();
        let token = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
        let keys = Keys { server: KEY, sites: &sites };
        assert_eq!(verify(keys, &token, 1, 1_500), Err(TicketError::Invalid));
    }
}
