//! Requests to a node's gateway, well-formed and not.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use ureq::{Agent, BodyReader, SendBody, http::Request};

const TIMEOUT: Duration = Duration::from_secs(60);
const BOUNDARY: &str = "----mhc-testnet-boundary";

/// A client of one gateway.
#[derive(Clone)]
pub struct Http {
    base: String,
    token: Option<String>,
    agent: Agent,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header names in lower case, and values, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body's bytes, as many as came.
    pub body: Vec<u8>,
    /// Whether the connection ended before the body did.
    pub cut: bool,
}

/// An answer whose body is still to be read.
pub struct Opened {
    /// Status code.
    pub status: u16,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body. An error from it means that the connection was cut.
    pub body: BodyReader<'static>,
}

/// A part of a multipart body.
pub enum Part<'a> {
    /// A form field: name and value.
    Field(&'a str, &'a str),
    /// A file: field name, file name, media type, bytes.
    File(&'a str, &'a str, &'a str, &'a [u8]),
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

impl Reply {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text; what isn't UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: not JSON: {}", self.status, self.text()))
    }

    /// The stable code of a problem document, or nothing when the body isn't one.
    pub fn problem(&self) -> Option<String> {
        let is_problem = self.header("content-type")?.starts_with("application/problem+json");
        let code = self.json().ok()?.get("code")?.as_str()?.to_owned();
        is_problem.then_some(code)
    }
}

impl Opened {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Reads the rest; a cut connection ends it, and the reply says so.
    pub fn finish(mut self) -> Reply {
        let mut body = Vec::new();
        let cut = self.body.read_to_end(&mut body).is_err();
        Reply { status: self.status, headers: self.headers, body, cut }
    }
}

impl Http {
    /// A client of the gateway at `base` (`http://127.0.0.1:8480`), with the operator's token where it is given.
    pub fn new(base: &str, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(TIMEOUT))
            .timeout_recv_response(Some(TIMEOUT))
            .build();
        Self { base: base.trim_end_matches('/').to_owned(), token, agent: Agent::new_with_config(config) }
    }

    /// The same client without a token.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// The same client with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// `host:port` of the gateway.
    pub fn authority(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// The gateway's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The token it sends.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Sends a request and returns once the answer's head is there.
    pub fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Opened> {
        self.send(method, path, headers, SendBody::from_owned_reader(std::io::Cursor::new(body.to_vec())), body.len())
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: SendBody<'_>,
        len: usize,
    ) -> Result<Opened> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = match len {
            0 => self.agent.run(request.body(())?),
            len => self.agent.run(request.header("content-length", len).body(body)?),
        };
        let answer = answer.with_context(|| format!("{method} {path}"))?;
        let headers = answer
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let status = answer.status().as_u16();
        let body = answer.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Opened { status, headers, body })
    }

    /// Sends a request and reads the whole answer.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply> {
        Ok(self.open(method, path, headers, body)?.finish())
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Reply> {
        self.request("GET", path, &[], &[])
    }

    /// GET of one range, as `bytes=0-99`.
    pub fn get_range(&self, path: &str, range: &str) -> Result<Reply> {
        self.request("GET", path, &[("range", range)], &[])
    }

    /// POST of a form with files.
    pub fn post_parts(&self, path: &str, parts: &[Part<'_>]) -> Result<Reply> {
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        self.request("POST", path, &[("content-type", &kind)], &multipart(parts))
    }

    /// Sends `bytes` as they are over a connection of their own and reads until the node closes it or `timeout`
    /// passes without a byte. `{host}` and `{token}` in the text are filled in.
    pub fn raw(&self, request: &str, timeout: Duration) -> Result<Reply> {
        let text = request.replace("{host}", self.authority()).replace("{token}", self.token.as_deref().unwrap_or(""));
        self.raw_bytes(text.as_bytes(), timeout)
    }

    /// The same with bytes that needn't be text.
    pub fn raw_bytes(&self, request: &[u8], timeout: Duration) -> Result<Reply> {
        let mut stream = self.connect(timeout)?;
        // A node may refuse and close before it has read everything: what it answered still counts.
        let sent = stream.write_all(request);
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let _ = stream.shutdown(Shutdown::Both);
        parse(&bytes).with_context(|| format!("no answer: sent {sent:?}, read {read:?}"))
    }

    /// A bare connection to the gateway.
    pub fn connect(&self, timeout: Duration) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.authority())?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(stream)
    }
}

/// A multipart/form-data body of `parts`, with the boundary that [`Http::post_parts`] declares.
pub fn multipart(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        body.extend(format!("--{BOUNDARY}\r\ncontent-disposition: form-data; ").into_bytes());
        match part {
            Part::Field(name, value) => body.extend(format!("name=\"{name}\"\r\n\r\n{value}").into_bytes()),
            Part::File(name, file, kind, bytes) => {
                let head = format!("name=\"{name}\"; filename=\"{file}\"\r\ncontent-type: {kind}\r\n\r\n");
                body.extend(head.into_bytes());
                body.extend_from_slice(bytes);
            }
        }
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    body
}

/// Reads an HTTP/1.1 answer that ends with its connection or its content-length.
fn parse(bytes: &[u8]) -> Result<Reply> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| anyhow!("no end of the head"))?;
    let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    ensure!(first.starts_with("HTTP/1."), "not HTTP: {first}");
    let status = first.split(' ').nth(1).unwrap_or_default().parse().with_context(|| first.to_owned())?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let body = bytes.get(end + 4..).unwrap_or_default().to_vec();
    let len = find(&headers, "content-length").and_then(|len| len.parse::<usize>().ok());
    let cut = len.is_some_and(|len| body.len() < len);
    Ok(Reply { status, headers, body, cut })
}
