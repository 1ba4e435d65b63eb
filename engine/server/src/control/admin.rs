//! What an operator may do with the admin token.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use ringdesk_shard::io::Control;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{ApiError, Body};
use super::plane::{Plane, ReloadError, now_s};
use super::tickets::{Holder, issue, random_visitor};
use crate::config::TICKET_LIFETIME_S_MAX;
use crate::directory::{Revocation, check_login, check_visitor};
use crate::say;
use crate::secrets::{self, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN};

/// Status and body, or what is wrong.
pub type Answer = Result<(StatusCode, Json<Value>), ApiError>;

/// 200.
pub fn ok(value: Value) -> Answer {
    Ok((StatusCode::OK, Json(value)))
}

/// POST /v1/admin/reload.
pub async fn reload(State(plane): State<Arc<Plane>>) -> Answer {
    match plane.reload().await {
        Ok(done) => {
            let refused: Vec<Value> = done
                .refused
                .iter()
                .map(|(key, sentence)| json!({ "key": key, "sentence": sentence }))
                .collect();
            ok(json!({ "changed": done.changed, "refused": refused }))
        }
        Err(ReloadError::Config(error)) => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "CONFIG",
            error.to_string(),
            "配置有误，原配置继续生效。",
        )),
        Err(ReloadError::Push(error)) => Err(error),
    }
}

/// POST /v1/admin/drain: as SIGTERM.
pub async fn drain(State(plane): State<Arc<Plane>>) -> Answer {
    plane.ask_to_drain();
    Ok((StatusCode::ACCEPTED, Json(json!({ "draining": true }))))
}

/// POST /v1/admin/upgrade: as SIGUSR2, but tells which process was started.
pub async fn upgrade() -> Answer {
    let pid = crate::upgrade::spawn::spawn()
        .map_err(|error| ApiError::internal(format!("no process can be started to take over: {error}")))?;
    say!(Info, "process {pid} was started to take over");
    Ok((StatusCode::ACCEPTED, Json(json!({ "pid": pid }))))
}

/// POST /v1/admin/revoke: exactly one of `agent` (login) and `visitor` (external id).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    site: String,
    agent: Option<String>,
    visitor: Option<String>,
}

/// Closes the live sessions of an identity and refuses its tickets so far.
pub async fn revoke(State(plane): State<Arc<Plane>>, Body(request): Body<RevokeRequest>) -> Answer {
    let site = plane.site_id(&request.site)?;
    let revocation = match (request.agent, request.visitor) {
        (Some(login), None) => {
            let found = plane.directory(move |directory| directory.agent(site, &login)).await?;
            let agent = found.ok_or_else(|| {
                ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "There is no such agent.", "没有这个客服。")
            })?;
            Revocation { site, agent: agent.id, visitor: String::new(), before_s: now_s() + 1 }
        }
        (None, Some(visitor)) => {
            check_visitor(&visitor)?;
            Revocation { site, agent: 0, visitor, before_s: now_s() + 1 }
        }
        _ => {
            let sentence = "Name either an agent or a visitor.";
            return Err(ApiError::invalid(sentence, "请指定 agent 或 visitor 之一。"));
        }
    };
    let before_s = revocation.before_s;
    carry_out(&plane, revocation).await?;
    ok(json!({ "revoked_before": before_s }))
}

/// Records a revocation durably, then tells the shards: after a crash in between it holds from the next boot on.
async fn carry_out(plane: &Plane, revocation: Revocation) -> Result<(), ApiError> {
    let message = Control::Revoke {
        site: revocation.site,
        agent: revocation.agent,
        visitor: revocation.visitor.clone(),
        before_s: revocation.before_s,
    };
    plane.directory(move |directory| directory.revoke(&revocation)).await?;
    let Some(shards) = plane.shards() else { return Ok(()) };
    shards
        .post(&message)
        .await
        .map_err(|full| ApiError::internal(format!("shard {} does not take the revocation", full.shard)))
}

/// GET /v1/admin/agents?site=S.
#[derive(Deserialize)]
pub struct SiteQuery {
    /// Site name.
    pub site: String,
}

/// All agents of a site, without their hashes.
pub async fn agents(State(plane): State<Arc<Plane>>, Query(query): Query<SiteQuery>) -> Answer {
    let site = plane.site_id(&query.site)?;
    let agents = plane.directory(move |directory| directory.agents(site)).await?;
    let agents: Vec<Value> = agents
        .into_iter()
        .map(|agent| {
            json!({
                "agent": agent.id,
                "login": agent.login,
                "name": agent.name,
                "has_password": agent.password_hash.is_some(),
                "created_at": agent.created_s,
            })
        })
        .collect();
    ok(json!({ "site": query.site, "agents": agents }))
}

/// POST /v1/admin/agents and /v1/admin/agents/password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRequest {
    site: String,
    login: String,
    /// Display name; the login if absent. Not used when a password is set.
    name: Option<String>,
    /// Absent: a random one is made and told once.
    password: Option<String>,
}

/// The password to set, whether it was made here, and its hash.
async fn password(plane: &Plane, given: Option<String>) -> Result<(Option<String>, String), ApiError> {
    if let Some(given) = &given
        && !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&given.len())
    {
        return Err(ApiError::invalid("A password has 8 to 256 bytes.", "密码长度须为 8 到 256 字节。"));
    }
    let made = given.is_none().then(secrets::readable_password);
    let text = given.or_else(|| made.clone()).expect("one of them is there");
    let _turn = plane.hashing.acquire().await.map_err(|_| ApiError::not_serving())?;
    let hash = tokio::task::spawn_blocking(move || secrets::hash_password(&text))
        .await
        .map_err(|error| ApiError::internal(format!("hashing ended early: {error}")))?;
    Ok((made, hash))
}

/// Adds an agent.
pub async fn add_agent(State(plane): State<Arc<Plane>>, Body(request): Body<AgentRequest>) -> Answer {
    let site = plane.site_id(&request.site)?;
    check_login(&request.login)?;
    let (made, hash) = password(&plane, request.password).await?;
    let name = request.name.unwrap_or_else(|| request.login.clone());
    let login = request.login;
    let agent = plane
        .directory(move |directory| directory.add_agent(site, &login, &name, Some(&hash), now_s()))
        .await?;
    plane.push_settings().await?;
    say!(Info, "agent {} of site {} was added", agent.login, request.site);
    let body = json!({
        "site": request.site,
        "agent": agent.id,
        "login": agent.login,
        "name": agent.name,
        "password": made,
    });
    Ok((StatusCode::CREATED, Json(body)))
}

/// Sets an agent's password and ends the sessions that the old one opened.
pub async fn set_password(State(plane): State<Arc<Plane>>, Body(request): Body<AgentRequest>) -> Answer {
    let site = plane.site_id(&request.site)?;
    let (made, hash) = password(&plane, request.password).await?;
    let login = request.login.clone();
    let agent = plane
        .directory(move |directory| {
            directory.set_password(site, &login, &hash)?;
            directory.agent(site, &login)
        })
        .await?;
    let agent = agent.ok_or_else(|| ApiError::internal("the agent vanished"))?;
    carry_out(&plane, Revocation { site, agent: agent.id, visitor: String::new(), before_s: now_s() + 1 })
        .await?;
    say!(Info, "agent {} of site {} has a new password", agent.login, request.site);
    ok(json!({ "site": request.site, "login": agent.login, "password": made }))
}

/// GET /v1/admin/sites.
pub async fn sites(State(plane): State<Arc<Plane>>) -> Answer {
    let sites = plane.directory(|directory| directory.sites()).await?;
    let sites: Vec<Value> = sites
        .into_iter()
        .map(|site| json!({ "site": site.name, "id": site.id, "created_at": site.created_s }))
        .collect();
    ok(json!({ "sites": sites }))
}

/// POST /v1/admin/sites.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteRequest {
    site: String,
}

/// Adds a site.
pub async fn add_site(State(plane): State<Arc<Plane>>, Body(request): Body<SiteRequest>) -> Answer {
    let name = request.site.clone();
    let site = plane.directory(move |directory| directory.add_site(&name, now_s())).await?;
    plane.know_site(&site.name, site.id);
    say!(Info, "site {} was added", site.name);
    Ok((StatusCode::CREATED, Json(json!({ "site": site.name, "id": site.id }))))
}

/// POST /v1/admin/tickets/{role}.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketRequest {
    site: String,
    /// Gateway name, agent login, or external visitor id (absent: a random visitor).
    name: Option<String>,
    /// Seconds; absent: `tickets.lifetime_s`.
    lifetime_s: Option<u64>,
    /// Tickets of this many new random visitors at once, at most [`TICKETS_MAX`], instead of one: for load tests.
    count: Option<u32>,
}

/// Most tickets of one request: 300 bytes each.
pub const TICKETS_MAX: u32 = 10_000;

/// Makes tickets for new random visitors: none of them can have been revoked.
fn visitors(plane: &Plane, request: &TicketRequest, count: u32, lifetime_s: u64) -> Answer {
    if request.name.is_some() || !(1..=TICKETS_MAX).contains(&count) {
        return Err(ApiError::invalid(
            "A `count` is 1 to 10,000, for visitors without a name.",
            "count 须为 1 到 10,000，且只用于不指定 name 的访客。",
        ));
    }
    let (site, site_id) = (request.site.as_str(), plane.site_id(&request.site)?);
    let mut tickets = Vec::with_capacity(count as usize);
    let mut expires_at = 0;
    for _ in 0..count {
        let subject = random_visitor();
        let holder = Holder {
            site,
            site_id,
            role: "visitor",
            subject: &subject,
            agent: 0,
            revoked_before: 0,
            lifetime_s,
        };
        let ticket;
        (ticket, expires_at) = issue(plane, &holder)?;
        tickets.push(ticket);
    }
    ok(json!({ "tickets": tickets, "role": "visitor", "site": site, "expires_at": expires_at }))
}

/// Makes a ticket for a gateway, an agent or a visitor.
pub async fn ticket(
    State(plane): State<Arc<Plane>>,
    Path(role): Path<String>,
    Body(request): Body<TicketRequest>,
) -> Answer {
    let site_id = plane.site_id(&request.site)?;
    let lifetime_s = request.lifetime_s.unwrap_or(plane.config().live.ticket_lifetime_s);
    if !(1..=TICKET_LIFETIME_S_MAX).contains(&lifetime_s) {
        return Err(ApiError::invalid(
            "A ticket lives 1 second to 366 days.",
            "凭证有效期须为 1 秒到 366 天。",
        ));
    }
    if let Some(count) = request.count.filter(|_| role == "visitor") {
        return visitors(&plane, &request, count, lifetime_s);
    }
    let named = |name: Option<String>| {
        name.ok_or_else(|| ApiError::invalid("The field `name` is missing.", "缺少 name 字段。"))
    };
    let (role, subject, agent) = match role.as_str() {
        "visitor" => {
            let visitor = request.name.unwrap_or_else(random_visitor);
            check_visitor(&visitor)?;
            ("visitor", visitor, 0)
        }
        "gateway" => {
            let name = named(request.name)?;
            check_login(&name)?;
            ("gateway", name, 0)
        }
        "agent" => {
            let login = named(request.name)?;
            let found = plane.directory(move |directory| directory.agent(site_id, &login)).await?;
            let agent = found.ok_or_else(|| {
                ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "There is no such agent.", "没有这个客服。")
            })?;
            ("agent", agent.login, agent.id)
        }
        _ => return Err(ApiError::no_endpoint()),
    };
    let revoked_before = if role == "gateway" {
        0
    } else {
        let visitor = if role == "visitor" { subject.clone() } else { String::new() };
        plane.directory(move |directory| directory.revoked_before(site_id, agent, &visitor)).await?
    };
    let site = request.site.as_str();
    let holder = Holder { site, site_id, role, subject: &subject, agent, revoked_before, lifetime_s };
    let (token, expires_at) = issue(&plane, &holder)?;
    ok(json!({
        "ticket": token, "role": role, "site": site, "name": subject, "agent": agent, "expires_at": expires_at,
    }))
}
