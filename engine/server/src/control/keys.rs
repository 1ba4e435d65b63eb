//! The public keys of sites: with such a key the site's own system signs its visitors' tickets.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ringdesk_shard::ticket::is_public_key;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{Answer, SiteQuery, ok};
use super::error::{ApiError, Body};
use super::plane::{Plane, key_name, now_s};
use crate::say;
use crate::secrets;

/// DER of a SubjectPublicKeyInfo for Ed25519 up to the key (RFC 8410 section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key as PEM (`openssl pkey -pubout`), or its 32 bytes as hex or base64.
fn parse(text: &str) -> Option<[u8; 32]> {
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let bytes = match body.len() {
        64 => (0..64).step_by(2).map(|at| u8::from_str_radix(body.get(at..at + 2)?, 16).ok()).collect(),
        _ => BASE64_STANDARD.decode(&body).ok(),
    }?;
    let key = bytes.strip_prefix(&SPKI).unwrap_or(&bytes).try_into().ok()?;
    is_public_key(&key).then_some(key)
}

/// GET /v1/admin/sites/keys?site=S.
pub async fn list(State(plane): State<Arc<Plane>>, Query(query): Query<SiteQuery>) -> Answer {
    let site = plane.site_id(&query.site)?;
    let keys = plane.directory(move |directory| directory.site_keys(site)).await?;
    let shown = |key: crate::directory::SiteKey| {
        json!({
            "kid": key_name(&query.site, key.number),
            "number": key.number,
            "key": secrets::hex(&key.key),
            "created_at": key.created_s,
        })
    };
    let keys: Vec<Value> = keys.into_iter().map(shown).collect();
    ok(json!({ "site": query.site, "keys": keys }))
}

/// POST /v1/admin/sites/keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    site: String,
    /// PEM, hex or base64.
    key: String,
}

/// Adds a public key; tickets signed with it are good from now on.
pub async fn add(State(plane): State<Arc<Plane>>, Body(request): Body<AddRequest>) -> Answer {
    let site = plane.site_id(&request.site)?;
    let key = parse(&request.key).ok_or_else(|| {
        ApiError::invalid(
            "This is no Ed25519 public key: give it as PEM, or its 32 bytes as hex or base64.",
            "这不是 Ed25519 公钥：请提供 PEM，或 32 字节的十六进制或 base64。",
        )
    })?;
    let added = plane.directory(move |directory| directory.add_site_key(site, &key, now_s())).await?;
    plane.push_settings().await?;
    let kid = key_name(&request.site, added.number);
    say!(Info, "key {kid} was added");
    Ok((StatusCode::CREATED, Json(json!({ "site": request.site, "kid": kid, "number": added.number }))))
}

/// POST /v1/admin/sites/keys/remove.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    site: String,
    number: u32,
}

/// Takes a public key out of force: no new connection with its tickets. Live ones stay; revoke who must go.
pub async fn remove(State(plane): State<Arc<Plane>>, Body(request): Body<RemoveRequest>) -> Answer {
    let site = plane.site_id(&request.site)?;
    let number = request.number;
    plane.directory(move |directory| directory.remove_site_key(site, number)).await?;
    plane.push_settings().await?;
    say!(Info, "key {} was removed", key_name(&request.site, number));
    ok(json!({ "removed": key_name(&request.site, number) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The public key of RFC 8032 section 7.1, test 1.
    const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn keys_are_read_in_each_form() {
        let bytes = parse(KEY).expect("hex");
        assert_eq!(secrets::hex(&bytes), KEY);
        assert_eq!(parse(&BASE64_STANDARD.encode(bytes)), Some(bytes));
        let der = BASE64_STANDARD.encode([&SPKI[..], &bytes].concat());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
        assert_eq!(parse(&pem), Some(bytes));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        // The second is a point of small order, with which anybody could sign.
        let zeros = "0".repeat(64);
        for text in ["", &zeros, &KEY[..62], "zz", &format!("{KEY}00")] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
