//! Tickets: JSON Web Tokens (RFC 7519) signed with HMAC-SHA256. The algorithm is pinned: a token that names any
//! other, `none` included, is invalid. Issue and verify take the time as an argument.

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
    crate::hs256::install();
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(key))
        .map_err(|_| TicketError::Invalid)
}

/// Checks signature and shape, not the time: for renewing an expired visitor ticket.
pub fn decode(key: &[u8], token: &str) -> Result<Claims, TicketError> {
    crate::hs256::install();
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

/// Verifies a ticket at wall time `now_s` for the wire role (1 visitor, 2 agent, 3 gateway).
pub fn verify(key: &[u8], token: &str, role: u8, now_s: u64) -> Result<Principal, TicketError> {
    let claims = decode(key, token)?;
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
        let principal = verify(KEY, &token, 1, 1_500).unwrap();
        assert_eq!(principal.site, SiteId(1));
        assert_eq!(principal.identity, Identity::Visitor { visitor: "v-1".into() });
    }

    #[test]
    fn expiry_role_and_forgery_are_told_apart() {
        let token = issue(KEY, &claims()).unwrap();
        assert_eq!(verify(KEY, &token, 1, 2_000), Err(TicketError::Expired));
        assert_eq!(verify(KEY, &token, 2, 1_500), Err(TicketError::WrongRole));
        assert_eq!(verify(b"another key of thirty-two bytes!", &token, 1, 1_500), Err(TicketError::Invalid));
        let mut forged = token.clone();
        let flipped = if forged.ends_with('A') { 'B' } else { 'A' };
        forged.replace_range(40..41, &flipped.to_string());
        assert_eq!(verify(KEY, &forged, 1, 1_500), Err(TicketError::Invalid));
        assert_eq!(verify(KEY, "", 1, 1_500), Err(TicketError::Invalid));
    }

    #[test]
    fn another_algorithm_is_invalid() {
        // {"alg":"HS384"} and {"alg":"RS256"} before the payload and signature of a good ticket.
        let good = issue(KEY, &claims()).unwrap();
        let (_, rest) = good.split_once('.').unwrap();
        for header in ["eyJhbGciOiJIUzM4NCJ9", "eyJhbGciOiJSUzI1NiJ9"] {
            assert_eq!(verify(KEY, &format!("{header}.{rest}"), 1, 1_500), Err(TicketError::Invalid));
        }
        // {"alg":"none"} with the payload of a good ticket and no signature.
        let payload = good.split('.').nth(1).unwrap();
        assert_eq!(
            verify(KEY, &format!("eyJhbGciOiJub25lIn0.{payload}."), 1, 1_500),
            Err(TicketError::Invalid)
        );
    }

    #[test]
    fn a_visitor_ticket_with_an_agent_number_is_invalid() {
        let mut odd = claims();
        odd.aid = 7;
        let token = issue(KEY, &odd).unwrap();
        assert_eq!(verify(KEY, &token, 1, 1_500), Err(TicketError::Invalid));
    }
}
