//! `shard::ticket`: JSON Web Tokens, each kind of key bound to its algorithm.
//!
//! Input: mode (1), role (1), then bytes. Mode 0: the bytes are the token. Else they are JOSE header and claims as
//! JSON with a line break between, which are signed here, so that what lies behind the signature is reached too: in
//! odd modes with the server's key, in even ones with a site's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use ringdesk_shard::message::{Identity, Principal};
use ringdesk_shard::ticket::{self, Claims, ISSUER, Keys, SKEW_S, SiteKey, SiteKeys, TicketError};
use sha2::Sha256;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER_KEY: &[u8] = b"0123456789abcdef0123456789abcdeg";
/// Name of the site's key in JOSE headers, and the site.
const KID: &str = "shop:1";
const SITE: u32 = 4;
const NOW_S: u64 = 1_500;

/// Only a token that the server signed with HMAC-SHA256, or a known site with Ed25519, says anything, and then within
/// the bounds of its claims; a site speaks for its own visitors only; no other key and no changed byte passes; what
/// the server's token says can be issued and read again.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let &[mode, role, ref rest @ ..] = input else { return };
    let token = if mode == 0 {
        let Ok(token) = std::str::from_utf8(rest) else { return };
        token.to_owned()
    } else {
        let mut parts = rest.splitn(2, |byte| *byte == b'\n');
        let (header, claims) = (parts.next().unwrap_or(b""), parts.next().unwrap_or(b""));
        sign(header, claims, mode % 2 == 0)
    };
    let sites = sites(1);
    let verified = ticket::verify(Keys { server: KEY, sites: &sites }, &token, role, NOW_S);
    let elsewhere = ticket::verify(Keys { server: OTHER_KEY, sites: &self::sites(2) }, &token, role, NOW_S);
    assert_eq!(elsewhere, Err(TicketError::Invalid), "under other keys");
    let decoded = ticket::decode(KEY, &token);
    if let Ok(claims) = &decoded {
        genuine(&token, claims);
    }
    let Ok(principal) = verified else { return };
    assert!((1..=3).contains(&role), "a role of the wire");
    assert!(principal.expires_s > NOW_S && principal.issued_s <= NOW_S + SKEW_S);
    assert!(principal.site.0 > 0);
    if head(&token)["kid"].is_null() {
        assert!(decoded.is_ok(), "verify takes what decode refuses");
    } else {
        of_site(&token, &principal);
    }
}

fn signer(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn sites(seed: u8) -> SiteKeys {
    let key = signer(seed).verifying_key().to_bytes();
    SiteKeys::from([(KID.to_owned(), SiteKey { site: SITE, site_name: "shop".into(), key })])
}

fn sign(header: &[u8], claims: &[u8], by_site: bool) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = if by_site {
        URL_SAFE_NO_PAD.encode(signer(1).sign(signed.as_bytes()).to_bytes())
    } else {
        URL_SAFE_NO_PAD.encode(tag_of(&signed))
    };
    format!("{signed}.{tag}")
}

fn tag_of(signed: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    mac.finalize().into_bytes().into()
}

/// The JOSE header of a token that was believed.
fn head(token: &str) -> serde_json::Value {
    let (header, _) = token.split_once('.').expect("three parts");
    let header = URL_SAFE_NO_PAD.decode(header).expect("a header in Base64");
    serde_json::from_slice(&header).expect("a header in JSON")
}

/// A token that a site signed and that was believed.
fn of_site(token: &str, principal: &Principal) {
    let (signed, tag) = token.rsplit_once('.').expect("three parts");
    let tag = URL_SAFE_NO_PAD.decode(tag).expect("a signature in Base64");
    let tag = Signature::from_slice(&tag).expect("64 bytes");
    assert!(signer(1).verifying_key().verify_strict(signed.as_bytes(), &tag).is_ok(), "a forged signature");
    let header = head(token);
    assert_eq!((&header["alg"], &header["kid"]), (&"EdDSA".into(), &KID.into()));
    assert_eq!(principal.site.0, SITE, "another site's visitor");
    assert!(matches!(principal.identity, Identity::Visitor { .. }), "{principal:?}");
    assert!(principal.expires_s - principal.issued_s <= ticket::SITE_TICKET_LIFETIME_S_MAX);
}

/// A token of the server's that was believed.
fn genuine(token: &str, claims: &Claims) {
    let (signed, tag) = token.rsplit_once('.').expect("three parts");
    assert_eq!(URL_SAFE_NO_PAD.decode(tag).expect("a tag in Base64"), tag_of(signed), "a forged tag");
    let header = head(token);
    assert_eq!(header["alg"], "HS256", "another algorithm");
    assert_eq!(claims.iss, ISSUER);
    assert!(claims.sid > 0 && (1..=32).contains(&claims.site.len()) && (1..=64).contains(&claims.sub.len()));
    let again = ticket::issue(KEY, claims).expect("claims can be issued");
    assert_eq!(ticket::decode(KEY, &again).as_ref(), Ok(claims));
    // One other character anywhere in the signed part is another token.
    let place = token.len() % signed.len();
    let mut changed = token.as_bytes().to_vec();
    changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("Base64 is ASCII");
    assert_eq!(ticket::decode(KEY, &changed), Err(TicketError::Invalid), "a changed token");
}
