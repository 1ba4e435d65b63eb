//! Who may call at all: the Host header against DNS rebinding, the Origin header against foreign pages, and the admin
//! token.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::plane::Plane;

/// The host of `HOST[:PORT]`, brackets of IPv6 removed, lower case. `None`: not a host.
pub fn host_name(authority: &str) -> Option<String> {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    (!name.is_empty() && name.bytes().all(good)).then(|| name.to_ascii_lowercase())
}

/// Whether the control plane answers under this name. A page can only be rebound to us by a *name* that its author
/// controls: IP literals and `localhost` cannot be rebound, other names must be configured.
pub fn host_allowed(authority: &str, hosts: &[String]) -> bool {
    let Some(name) = host_name(authority) else { return false };
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok()
        || hosts.iter().any(|host| host.eq_ignore_ascii_case(&name))
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Middleware of every route: Host must be ours; an Origin, if sent, must be of the same authority.
pub async fn same_host(State(plane): State<Arc<Plane>>, request: Request, next: Next) -> Response {
    let Some(host) = header_text(request.headers(), header::HOST) else {
        return ApiError::foreign_host().into_response();
    };
    if !host_allowed(host, &plane.config().live.hosts) {
        return ApiError::foreign_host().into_response();
    }
    if let Some(origin) = request.headers().get(header::ORIGIN) {
        let authority =
            origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
        if authority.is_none_or(|authority| !authority.eq_ignore_ascii_case(host)) {
            return ApiError::foreign_origin().into_response();
        }
    }
    next.run(request).await
}

/// Middleware of the admin routes: `Authorization: Bearer TOKEN`, compared in constant time.
pub async fn admin_only(State(plane): State<Arc<Plane>>, request: Request, next: Next) -> Response {
    let given =
        header_text(request.headers(), header::AUTHORIZATION).and_then(|text| text.strip_prefix("Bearer "));
    let right = plane.admin_token().as_bytes();
    match given {
        Some(token) if bool::from(token.trim().as_bytes().ct_eq(right)) => next.run(request).await,
        _ => ApiError::not_admin().into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_allowed() {
        let hosts = vec!["desk.example.org".to_string()];
        for good in
            ["localhost:7800", "127.0.0.1:7800", "[::1]:7800", "[::1]", "10.0.0.5", "DESK.example.org:80"]
        {
            assert!(host_allowed(good, &hosts), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example:7800",
            "",
            ":7800",
            "[::1",
            "127.0.0.1.evil.example",
            "a b",
        ] {
            assert!(!host_allowed(bad, &hosts), "{bad}");
        }
    }
}
