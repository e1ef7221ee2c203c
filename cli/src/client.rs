//! The API of the node that runs on this home.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use futures::StreamExt;
use mhc_node::home;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    failure::{Exit, Failure},
    output::plain,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest problem that is read.
const MAX_PROBLEM_BYTES: usize = 64 << 10;
/// Longest JSON document that is read.
const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// A client of that API, with the operator's rights.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// What the API says went wrong (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    code: String,
}

/// `http://` and where a node that listens on `addr` is reached from this machine.
pub(crate) fn base_url(addr: SocketAddr) -> String {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, addr.port()))
}

impl Client {
    /// Finds the node that runs on the home `dir`.
    pub(crate) fn find(dir: &Path) -> Result<Self, Failure> {
        let Some(running) = home::running(dir)? else {
            let message = format!("no node is running on this home ({}); start it with `mhc up`", dir.display());
            return Err(Failure::new(Exit::Unavailable, message));
        };
        let Some(token) = home::read_token(dir)? else {
            let message =
                format!("{} is missing; stop and start the node to make a new one", dir.join("api.token").display());
            return Err(Failure::new(Exit::Refused, message));
        };
        Self::new(running.http, token)
    }

    /// A client of the gateway at `addr`.
    pub(crate) fn new(addr: SocketAddr, token: String) -> Result<Self, Failure> {
        // Libraries of the tree turn off each other's default, and reqwest panics without one, TLS or not. Fails when
        // one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT);
        let http = http.no_proxy().redirect(reqwest::redirect::Policy::none()).build();
        let http = http.map_err(|error| Failure::failed(format!("can't make an HTTP client: {}", causes(&error))))?;
        Ok(Self { http, base: base_url(addr), token })
    }

    /// The gateway's address with `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A request to `path`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).bearer_auth(&self.token)
    }

    /// Sends it; what isn't a success becomes a failure with the API's own words.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(problem(response).await) }
    }

    /// Sends it and reads the JSON of the answer; `null` when there is none.
    pub(crate) async fn document(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let response = self.send(request).await?;
        let bytes = read(response, MAX_DOCUMENT_BYTES).await.map_err(|error| self.unreachable(&error))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        let document = serde_json::from_slice(&bytes);
        document.map_err(|error| Failure::new(Exit::BadData, format!("the node's answer isn't JSON: {error}")))
    }

    /// What `GET path` answers.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.document(self.request(Method::GET, path)).await
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let message = match error.is_connect() {
            true => format!("the node doesn't answer at {}; is it starting or stopping? See its log", self.base),
            false => format!("the connection to the node broke: {}", causes(error)),
        };
        Failure::new(Exit::Unavailable, message)
    }
}

/// The error and what it comes from, without the address that reqwest puts first.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        texts.push(error.to_string());
        source = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

/// The failure that an answer of the API stands for.
async fn problem(response: Response) -> Failure {
    let status = response.status();
    let bytes = read(response, MAX_PROBLEM_BYTES).await.unwrap_or_default();
    failure_of(status, &bytes)
}

fn failure_of(status: StatusCode, body: &[u8]) -> Failure {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let exit = match (problem.code.as_str(), status) {
        ("", StatusCode::NOT_FOUND) => Exit::NotFound,
        ("", StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Exit::Refused,
        ("", StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) => Exit::Unavailable,
        (code, _) => Exit::from_problem(code),
    };
    let (title, detail) = (plain(&problem.title), plain(&problem.detail));
    let message = match (title.is_empty(), detail.is_empty()) {
        (true, true) => format!("the node answers {status}"),
        (false, true) => title,
        (true, false) => detail,
        (false, false) => format!("{title}: {detail}"),
    };
    Failure::new(exit, message)
}

/// The body, at most `limit_bytes` of it.
async fn read(response: Response, limit_bytes: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes?;
        let room = limit_bytes.saturating_sub(body.len());
        body.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            break;
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_on_all_addresses_is_reached_on_loopback() {
        let cases = [
            ("127.0.0.1:8480", "http://127.0.0.1:8480"),
            ("0.0.0.0:1", "http://127.0.0.1:1"),
            ("[::]:1", "http://[::1]:1"),
            ("192.0.2.1:1", "http://192.0.2.1:1"),
        ];
        for (addr, url) in cases {
            assert_eq!(base_url(addr.parse().unwrap()), url);
        }
    }

    #[test]
    fn answers_become_failures_with_the_words_of_the_api() {
        let cases: &[(u16, &str, Exit, &str)] = &[
            (
                404,
                r#"{"code":"not_found","title":"Not found","detail":"no such content"}"#,
                Exit::NotFound,
                "Not found: no such content",
            ),
            (504, r#"{"code":"no_source","title":"No source"}"#, Exit::Unavailable, "No source"),
            (409, r#"{"code":"conflict","detail":"our own ticket"}"#, Exit::Conflict, "our own ticket"),
            (507, r#"{"code":"storage_full","detail":"a\u001b[2Jb"}"#, Exit::Failed, "a [2Jb"),
            (404, "<html>", Exit::NotFound, "the node answers 404 Not Found"),
            (401, "", Exit::Refused, "the node answers 401 Unauthorized"),
            (503, "[]", Exit::Unavailable, "the node answers 503 Service Unavailable"),
            (500, "{}", Exit::Failed, "the node answers 500 Internal Server Error"),
        ];
        for (status, body, exit, message) in cases {
            let failure = failure_of(StatusCode::from_u16(*status).unwrap(), body.as_bytes());
            assert_eq!((failure.exit, failure.message.as_str()), (*exit, *message));
        }
    }
}
