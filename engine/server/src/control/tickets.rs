//! Who gets a ticket: anonymous visitors by asking, agents by password. Tickets are made by `ringdesk_shard::ticket`,
//! the same module that the shards verify them with.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ringdesk_shard::ticket::{self, Claims, ISSUER};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Peer;
use super::error::{ApiError, Body};
use super::plane::{Plane, now_s};
use crate::directory::check_visitor;
use crate::secrets::{self, PASSWORD_BYTES_MAX};

/// How long after its end an anonymous visitor's ticket still names the same visitor, seconds.
pub const VISITOR_RETURNS_WITHIN_S: u64 = 365 * 86_400;

/// What a ticket is made for.
pub struct Holder<'a> {
    /// Site name.
    pub site: &'a str,
    /// Site number.
    pub site_id: u32,
    /// `visitor`, `agent` or `gateway`.
    pub role: &'static str,
    /// Visitor id, login or gateway name.
    pub subject: &'a str,
    /// Agent number, otherwise 0.
    pub agent: u32,
    /// Tickets issued before this second are revoked.
    pub revoked_before: u64,
    /// Lifetime, seconds.
    pub lifetime_s: u64,
}

/// A ticket and the second at which it ends.
pub fn issue(plane: &Plane, holder: &Holder<'_>) -> Result<(String, u64), ApiError> {
    // A ticket made in the second of a revocation must not be taken for one made before it.
    let issued_s = now_s().max(holder.revoked_before);
    let claims = Claims {
        iss: ISSUER.to_string(),
        site: holder.site.to_string(),
        sid: holder.site_id,
        role: holder.role.to_string(),
        sub: holder.subject.to_string(),
        aid: holder.agent,
        iat: issued_s,
        exp: issued_s + holder.lifetime_s,
    };
    let token = ticket::issue(plane.ticket_key(), &claims)
        .map_err(|error| ApiError::internal(format!("no ticket could be signed: {error:?}")))?;
    Ok((token, claims.exp))
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("")
}

/// POST /v1/tickets/visitor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisitorRequest {
    site: String,
    /// An earlier ticket, so that the visitor stays the same.
    #[serde(alias = "visitor", default)]
    ticket: Option<String>,
}

/// Letters of a new anonymous visitor's random id behind `v-`: 84 bits, of which a billion visitors share one with a chance
/// of one in ten million. The shard keeps the id of everybody who is connected or ever was: 16 bytes take half the memory
/// of the 34 that 128 bits in hex take.
const VISITOR_LETTERS: usize = 14;

/// A new anonymous visitor's random id. It is no secret: the ticket proves who somebody is.
pub fn random_visitor() -> String {
    let mut letters = BASE64_URL_SAFE_NO_PAD.encode(secrets::random_bytes::<11>());
    letters.truncate(VISITOR_LETTERS);
    format!("v-{letters}")
}

/// The visitor an earlier ticket names, if it is genuine, of this site, not too old and not revoked. An unusable one
/// is not an error: the browser kept it, its user cannot mend it, and a visitor is never refused.
async fn returning(
    plane: &Plane,
    site: &str,
    site_id: u32,
    earlier: &str,
) -> Result<Option<(String, u64)>, ApiError> {
    let Ok(claims) = ticket::decode(plane.ticket_key(), earlier) else { return Ok(None) };
    let fits = claims.role == "visitor" && claims.sid == site_id && claims.site == site;
    if !fits
        || claims.exp.saturating_add(VISITOR_RETURNS_WITHIN_S) < now_s()
        || check_visitor(&claims.sub).is_err()
    {
        return Ok(None);
    }
    let visitor = claims.sub.clone();
    let before = plane.directory(move |directory| directory.revoked_before(site_id, 0, &visitor)).await?;
    Ok((claims.iat >= before).then_some((claims.sub, before)))
}

/// A ticket for an anonymous visitor: the same one when it shows an earlier ticket.
pub async fn visitor(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
    Body(request): Body<VisitorRequest>,
) -> Result<Json<Value>, ApiError> {
    let site_id = plane.site_id(&request.site)?;
    let known = match request.ticket.as_deref() {
        Some(earlier) if !earlier.is_empty() => returning(&plane, &request.site, site_id, earlier).await?,
        _ => None,
    };
    let (visitor, revoked_before) = known.unwrap_or_else(|| (random_visitor(), 0));
    let holder = Holder {
        site: &request.site,
        site_id,
        role: "visitor",
        subject: &visitor,
        agent: 0,
        revoked_before,
        lifetime_s: plane.config().live.ticket_lifetime_s,
    };
    let (token, expires_at) = issue(&plane, &holder)?;
    Ok(Json(json!({
        "ticket": token,
        "visitor": visitor,
        "site": request.site,
        "ws": plane.websocket_url(host(&headers)),
        "binary": plane.binary_address(host(&headers)),
        "expires_at": expires_at,
    })))
}

/// POST /v1/login.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    site: String,
    login: String,
    password: String,
}

/// A ticket for an agent who knows the password. One answer, after the same work, for everything that is wrong.
pub async fn login(
    State(plane): State<Arc<Plane>>,
    peer: Peer,
    headers: HeaderMap,
    Body(request): Body<LoginRequest>,
) -> Result<Json<Value>, ApiError> {
    let LoginRequest { site, login, password } = request;
    if password.len() > PASSWORD_BYTES_MAX || site.len() + login.len() > 256 {
        return Err(ApiError::login_refused());
    }
    let account = format!("{site}/{login}");
    let now_ms = plane.now_ms();
    let taken = plane.logins.lock().take(peer.0.ip(), &account, now_ms);
    taken.map_err(|seconds| ApiError::busy(StatusCode::TOO_MANY_REQUESTS, seconds))?;
    let busy = |_| ApiError::busy(StatusCode::SERVICE_UNAVAILABLE, 1);
    let _place = plane.login_queue.try_acquire().map_err(busy)?;
    let _turn = plane.hashing.acquire().await.map_err(|_| ApiError::not_serving())?;

    let site_id = plane.site_id(&site).ok();
    let found = {
        let login = login.clone();
        plane.directory(move |directory| {
            let agent = site_id.map(|id| directory.agent(id, &login)).transpose()?.flatten();
            let hash = agent.as_ref().and_then(|agent| agent.password_hash.as_deref());
            if !secrets::verify_password(&password, hash) {
                return Ok(None);
            }
            let Some(agent) = agent else { return Ok(None) };
            let before = directory.revoked_before(agent.site, agent.id, "")?;
            Ok(Some((agent, before)))
        })
    };
    let (agent, revoked_before) = found.await?.ok_or_else(ApiError::login_refused)?;
    plane.logins.lock().clear(peer.0.ip(), &account);
    let holder = Holder {
        site: &site,
        site_id: agent.site,
        role: "agent",
        subject: &agent.login,
        agent: agent.id,
        revoked_before,
        lifetime_s: plane.config().live.ticket_lifetime_s,
    };
    let (token, expires_at) = issue(&plane, &holder)?;
    Ok(Json(json!({
        "ticket": token,
        "agent": agent.id,
        "login": agent.login,
        "name": agent.name,
        "site": site,
        "ws": plane.websocket_url(host(&headers)),
        "binary": plane.binary_address(host(&headers)),
        "expires_at": expires_at,
    })))
}
