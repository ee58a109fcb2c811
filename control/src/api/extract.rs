//! Bodies and query strings, refused in one clear line when they are wrong.

use std::error::Error as _;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{App, MAX_BODY, PATIENCE};
use crate::Error;

/// A body of JSON, not yet looked at. The content type does not matter.
pub(super) struct Json(pub(super) Value);

impl FromRequest<App> for Json {
    type Rejection = Response;

    async fn from_request(request: Request, _: &App) -> Result<Json, Response> {
        let bytes = read(request.into_body()).await?;
        if bytes.is_empty() {
            return Err(Error::invalid("the request has no body").hint("send JSON").into_response());
        }
        let value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::invalid(format!("the body is not JSON: {e}")).into_response())?;
        Ok(Json(value))
    }
}

async fn read(body: Body) -> Result<axum::body::Bytes, Response> {
    match tokio::time::timeout(PATIENCE, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if e.source().is_some_and(|s| s.is::<http_body_util::LengthLimitError>()) => {
            let error =
                Error::invalid("the body is too large").hint(format!("send at most {MAX_BODY} bytes"));
            Err((StatusCode::PAYLOAD_TOO_LARGE, axum::Json(error)).into_response())
        }
        Ok(Err(e)) => Err(Error::invalid(format!("the body broke off: {e}")).into_response()),
        Err(_) => {
            let error = Error::invalid(format!("the body did not arrive within {} s", PATIENCE.as_secs()));
            Err((StatusCode::REQUEST_TIMEOUT, axum::Json(error)).into_response())
        }
    }
}

/// The query string; unknown parameters are refused by types with `deny_unknown_fields`.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Params<T>, Error> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Params(params)),
            Err(e) => {
                let why = e.source().map_or_else(|| e.to_string(), ToString::to_string);
                Err(Error::invalid(format!(
                    "the query '?{}' is wrong: {why}",
                    parts.uri.query().unwrap_or_default()
                )))
            }
        }
    }
}
