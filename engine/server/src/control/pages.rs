//! The demo pages, embedded at build time.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::plane::Plane;

/// One embedded file.
pub struct Asset {
    /// Path below `tools/web/dist`, with `/`.
    pub path: &'static str,
    /// Content-Type.
    pub content_type: &'static str,
    /// Quoted hash of the content.
    pub etag: &'static str,
    /// The content.
    pub bytes: &'static [u8],
}

mod embedded {
    use super::Asset;
    include!(concat!(env!("OUT_DIR"), "/assets.rs"));
}

const NOT_BUILT: &str = "<!doctype html><meta charset=\"utf-8\"><title>Ringdesk</title>\
<p>This ringdeskd was built without its pages: run <code>make web</code> and build it again.</p>\
<p lang=\"zh\">此 ringdeskd 构建时没有包含网页：请运行 <code>make web</code> 后重新构建。</p>";

fn find(path: &str) -> Option<&'static Asset> {
    let name = match path.trim_start_matches('/') {
        "" => "index.html",
        "visitor" => "visitor.html",
        "agent" => "agent.html",
        other => other,
    };
    embedded::ASSETS.iter().find(|asset| asset.path == name)
}

/// Nothing inline, nothing from elsewhere; sockets only to ourselves.
fn security_policy(websocket: &str) -> String {
    // The page may be served over TLS by a proxy: then its socket is wss on the same name.
    let secure =
        websocket.strip_prefix("ws://").map(|rest| format!(" wss://{}", origin_of(rest))).unwrap_or_default();
    let scheme_end = websocket.find("://").map_or(0, |at| at + 3);
    let plain = format!("{}{}", &websocket[..scheme_end], origin_of(&websocket[scheme_end..]));
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         font-src 'self'; connect-src 'self' {plain}{secure}; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'self'"
    )
}

fn origin_of(rest: &str) -> &str {
    rest.split('/').next().unwrap_or(rest)
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// GET of everything that is not an endpoint.
pub async fn page(State(plane): State<Arc<Plane>>, uri: Uri, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let mut response = match find(uri.path()) {
        Some(asset) => embedded_page(asset, &headers),
        None if embedded::ASSETS.is_empty() && ["/", "/visitor", "/agent"].contains(&uri.path()) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], NOT_BUILT).into_response()
        }
        None => return ApiError::no_endpoint().into_response(),
    };
    let policy = security_policy(&plane.websocket_url(host));
    set(&mut response, header::CONTENT_SECURITY_POLICY, &policy);
    set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut response, header::REFERRER_POLICY, "no-referrer");
    response
}

fn embedded_page(asset: &'static Asset, headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known.is_some_and(|known| known.contains(asset.etag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        (StatusCode::OK, [(header::CONTENT_TYPE, asset.content_type)], asset.bytes).into_response()
    };
    // Names below assets/ carry a hash of their content; the pages that name them must be asked for each time.
    let hashed = asset.path.starts_with("assets/");
    let cache = if hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
    set(&mut response, header::CACHE_CONTROL, cache);
    set(&mut response, header::ETAG, asset.etag);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_our_socket_and_nothing_inline_for_scripts() {
        let policy = security_policy("ws://localhost:7802/ws");
        assert!(policy.contains("connect-src 'self' ws://localhost:7802 wss://localhost:7802;"), "{policy}");
        assert!(policy.contains("script-src 'self';"), "{policy}");
        assert!(security_policy("wss://chat.example.org/ws").contains("'self' wss://chat.example.org;"));
    }

    #[test]
    fn embedded_files_have_a_type_and_a_hash() {
        for asset in embedded::ASSETS {
            assert!(!asset.bytes.is_empty() && asset.etag.len() == 34, "{}", asset.path);
            assert!(HeaderValue::from_str(asset.etag).is_ok() && !asset.content_type.is_empty());
        }
        assert!(find("/../Cargo.toml").is_none());
    }
}
