//! What a refused request says: a stable code and one sentence in English and in Chinese.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::directory::DirectoryError;

/// A refused request.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    sentence: String,
    sentence_zh: String,
    retry_after_s: Option<u32>,
}

impl ApiError {
    /// Any refusal.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        sentence: impl Into<String>,
        sentence_zh: impl Into<String>,
    ) -> Self {
        Self { status, code, sentence: sentence.into(), sentence_zh: sentence_zh.into(), retry_after_s: None }
    }

    /// 400: a field is wrong.
    pub fn invalid(sentence: impl Into<String>, sentence_zh: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID", sentence, sentence_zh)
    }

    /// 408: the body did not come, or the directory did not answer, in time.
    pub fn too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "TIMEOUT",
            "The request did not come to its end in time.",
            "请求未能及时完成。",
        )
    }

    /// 404: no such page or endpoint.
    pub fn no_endpoint() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "There is nothing at this address.", "此地址没有内容。")
    }

    /// 404: no such site.
    pub fn no_site(site: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NOT_FOUND",
            format!("There is no site `{site}`."),
            format!("没有名为 `{site}` 的站点。"),
        )
    }

    /// 401: the admin token is missing or wrong.
    pub fn not_admin() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "ADMIN_TOKEN",
            "This needs the admin token of the data folder as a Bearer token.",
            "此操作需要数据目录中的管理令牌（Bearer）。",
        )
    }

    /// 401: one answer for an unknown agent and a wrong password.
    pub fn login_refused() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "LOGIN_REFUSED",
            "Site, login or password is wrong.",
            "站点、账号或密码不正确。",
        )
    }

    /// 429 or 503: try again.
    pub fn busy(status: StatusCode, retry_after_s: u32) -> Self {
        let mut error = Self::new(
            status,
            "BUSY",
            "Too many requests; try again after a moment.",
            "请求过多，请稍后再试。",
        );
        error.retry_after_s = Some(retry_after_s);
        error
    }

    /// 503: not serving yet, or not any more.
    pub fn not_serving() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "NOT_READY",
            "The server is starting or stopping.",
            "服务器正在启动或停止。",
        )
    }

    /// 403: the Host or Origin header is none of ours.
    pub fn foreign_host() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "BAD_ORIGIN",
            "The control plane is not served under this host name; add it to `web.hosts`.",
            "控制面不接受此主机名，请将其加入 `web.hosts`。",
        )
    }

    /// 500: the server's own fault.
    pub fn internal(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", sentence, "服务器内部故障。")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.code, "sentence": self.sentence, "sentence_zh": self.sentence_zh });
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<DirectoryError> for ApiError {
    fn from(error: DirectoryError) -> Self {
        let sentence = error.to_string();
        match error {
            DirectoryError::BadName { .. } => Self::invalid(sentence, "名称不合规则。"),
            DirectoryError::Exists { .. } => {
                Self::new(StatusCode::CONFLICT, "EXISTS", sentence, "名称已存在。")
            }
            DirectoryError::Unknown { .. } => {
                Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", sentence, "没有这个对象。")
            }
            DirectoryError::Full { .. } => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "FULL", sentence, "数量已达上限。")
            }
            DirectoryError::Store(_) => Self::internal(sentence),
        }
    }
}

/// A JSON body. Refuses other content types, so that a page of another origin cannot send one without a preflight,
/// which is never answered.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = kind.unwrap_or("").split(';').next().unwrap_or("").trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "BAD_JSON",
                "The content type must be application/json.",
                "内容类型必须是 application/json。",
            ));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let sentence = "The body is too large or was cut off.";
            ApiError::new(rejection.status(), "TOO_LARGE", sentence, "请求体过大或不完整。")
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "BAD_JSON",
                format!("The body is not the JSON expected here: {error}."),
                "请求体不是所需的 JSON。",
            )
        })
    }
}
