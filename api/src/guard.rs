//! Keeps other web sites out of a gateway on loopback.
//!
//! A page on the internet can make its visitor's browser send requests to `127.0.0.1`. Two things stop it:
//! the **Host** must be one of ours (a rebound DNS name still carries its own name there), and a request that
//! changes something must come from our own **Origin** (or from a program that sends none, such as the CLI).
//! [`decide`] is pure; [`enforce`] applies it before routing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    body::HttpBody,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::error::ApiError;

/// How requests reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS, or behind somebody's proxy that ends it.
    Http,
    /// With TLS that ends here.
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Which names this gateway answers to.
#[derive(Debug, Clone)]
pub struct GuardPolicy {
    scheme: Scheme,
    bound: SocketAddr,
    public_hosts: Vec<HostPort>,
}

impl GuardPolicy {
    /// For a gateway that listens on `bound` and is known to others as `public_hosts` (each `name` or `name:port`).
    pub fn new(scheme: Scheme, bound: SocketAddr, public_hosts: &[String]) -> Self {
        Self { scheme, bound, public_hosts: public_hosts.iter().filter_map(|host| HostPort::parse(host)).collect() }
    }

    /// Loopback by name or address with our port; the bound address; any address when bound to all of them (an
    /// address can't be rebound); the public name with its port, or, given without one, with ours or none.
    fn answers_to(&self, host: &HostPort) -> bool {
        let is_public = |public: &HostPort| {
            public.host == host.host
                && (public.port == host.port || public.port.is_none() && host.port == Some(self.bound.port()))
        };
        if self.public_hosts.iter().any(is_public) {
            return true;
        }
        if host.port.unwrap_or(self.scheme.default_port()) != self.bound.port() {
            return false;
        }
        match host.address() {
            Some(address) => address.is_loopback() || self.bound.ip() == address || self.bound.ip().is_unspecified(),
            None => host.host == "localhost",
        }
    }
}

/// Says that the connection ends where a request is refused that has a body: what of the body wasn't read by then ends
/// it, and a client that keeps it for its next request would lose that one.
pub async fn announce_close(request: Request, next: Next) -> Response {
    let ends = request.version() <= Version::HTTP_11 && !request.body().is_end_stream();
    let mut response = next.run(request).await;
    if ends && response.status().is_client_error() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// `host[:port]`, lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostPort {
    host: String,
    port: Option<u16>,
}

impl HostPort {
    /// Nothing but a name, an IPv4 address or a bracketed IPv6 address, and a port.
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.rfind(']') {
            Some(end) => {
                (&text[..=end], text[end + 1..].strip_prefix(':').or(text[end + 1..].is_empty().then_some(""))?)
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let has_port = text.len() > host.len();
        let port = match has_port {
            true if port.bytes().all(|digit| digit.is_ascii_digit()) => Some(port.parse().ok()?),
            true => return None,
            false => None,
        };
        let name = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        (!name.is_empty() && name.bytes().all(allowed)).then(|| Self { host: host.to_ascii_lowercase(), port })
    }

    fn address(&self) -> Option<IpAddr> {
        let bare = self.host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        match bare {
            Some(inner) => inner.parse().ok().map(IpAddr::V6),
            None => self.host.parse().ok().map(IpAddr::V4),
        }
    }
}

/// What a browser (or a program) said about where a request comes from and goes to.
#[derive(Debug, Clone, Default)]
pub struct Provenance<'a> {
    /// All values of `Host`.
    pub hosts: Vec<&'a str>,
    /// The authority of an absolute request target.
    pub authority: Option<&'a str>,
    /// All values of `Origin`.
    pub origins: Vec<&'a str>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<&'a str>,
}

/// Why a request is refused; the text is for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No Host, several, or one that isn't ours.
    #[error("This gateway doesn't answer to that Host. Set gateway.public_host if it should.")]
    Host,
    /// It changes something and comes from another site.
    #[error("Requests that change something are taken from this gateway's own pages and from programs only.")]
    Origin,
}

/// Whether the request may go on. Total: any header value gets an answer.
pub fn decide(policy: &GuardPolicy, method: &Method, from: &Provenance<'_>) -> Result<(), Refusal> {
    let [host] = from.hosts[..] else { return Err(Refusal::Host) };
    let host = HostPort::parse(host).ok_or(Refusal::Host)?;
    if !policy.answers_to(&host) || from.authority.is_some_and(|other| HostPort::parse(other).as_ref() != Some(&host)) {
        return Err(Refusal::Host);
    }
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || own_origin(policy.scheme, &host, from) {
        Ok(())
    } else {
        Err(Refusal::Origin)
    }
}

fn own_origin(scheme: Scheme, host: &HostPort, from: &Provenance<'_>) -> bool {
    let same_site = |site| matches!(site, "same-origin" | "none");
    match from.origins[..] {
        [] => from.fetch_site.is_none_or(same_site),
        [origin] => {
            origin_host(scheme, origin).is_some_and(|origin| origin == *host) && from.fetch_site.is_none_or(same_site)
        }
        _ => false,
    }
}

/// `http(s)://host[:port]`; a default port counts as none. `null` and all else is nobody. Where TLS ends here, a page
/// that came without it isn't ours: anybody on its way could have written it.
fn origin_host(scheme: Scheme, origin: &str) -> Option<HostPort> {
    let plain = || origin.strip_prefix("http://").filter(|_| scheme == Scheme::Http);
    HostPort::parse(origin.strip_prefix("https://").or_else(plain)?)
}

/// Middleware that answers 403 before routing when [`decide`] refuses.
pub async fn enforce(State(policy): State<Arc<GuardPolicy>>, request: Request, next: Next) -> Response {
    let from = provenance(request.version(), request.headers(), request.uri());
    let verdict = decide(&policy, request.method(), &from);
    match verdict {
        Ok(()) => next.run(request).await,
        Err(refusal) => ApiError::forbidden(refusal.to_string()).into_response(),
    }
}

fn provenance<'a>(version: Version, headers: &'a HeaderMap, uri: &'a Uri) -> Provenance<'a> {
    // What isn't text can't be ours: an empty value matches nothing.
    let all = |name: HeaderName| headers.get_all(name).iter().map(|v| v.to_str().unwrap_or("")).collect();
    let authority = uri.authority().map(|authority| authority.as_str());
    let mut hosts: Vec<_> = all(header::HOST);
    // From HTTP/2 on, the authority takes the place of Host (RFC 9113, 8.3.1).
    if hosts.is_empty() && version >= Version::HTTP_2 {
        hosts.extend(authority);
    }
    Provenance {
        hosts,
        authority,
        origins: all(header::ORIGIN),
        fetch_site: headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(bound: &str, public: Option<&str>, method: &str, from: Provenance<'_>) -> Result<(), Refusal> {
        decide(
            &GuardPolicy::new(
                Scheme::Http,
                bound.parse().unwrap(),
                &public.map(str::to_owned).into_iter().collect::<Vec<_>>(),
            ),
            &method.parse().unwrap(),
            &from,
        )
    }

    #[test]
    fn only_our_names_are_answered() {
        const LOOP: &str = "127.0.0.1:8480";
        let table: &[(&str, Option<&str>, &str, bool)] = &[
            (LOOP, None, "127.0.0.1:8480", true),
            (LOOP, None, "127.8.9.1:8480", true),
            (LOOP, None, "localhost:8480", true),
            (LOOP, None, "LocalHost:8480", true),
            (LOOP, None, "[::1]:8480", true),
            (LOOP, None, "[0:0:0:0:0:0:0:1]:8480", true),
            (LOOP, None, "localhost", false),
            (LOOP, None, "localhost:80", false),
            (LOOP, None, "localhost:08480", true),
            (LOOP, None, "evil.example", false),
            (LOOP, None, "evil.example:8480", false),
            (LOOP, None, "localhost.evil.example:8480", false),
            (LOOP, None, "127.0.0.1.evil.example:8480", false),
            (LOOP, None, "localhost:8480@evil.example", false),
            (LOOP, None, "127.0.0.1:8480:1", false),
            (LOOP, None, "127.0.0.1:", false),
            (LOOP, None, "127.0.0.1:99999", false),
            (LOOP, None, "127.0.0.1:+8480", false),
            (LOOP, None, "192.168.1.5:8480", false),
            (LOOP, None, "[::1]8480", false),
            (LOOP, None, "]:8480", false),
            (LOOP, None, "é:8480", false),
            (LOOP, None, "", false),
            ("127.0.0.1:80", None, "localhost", true),
            ("192.168.1.5:8480", None, "192.168.1.5:8480", true),
            ("192.168.1.5:8480", None, "192.168.1.6:8480", false),
            ("0.0.0.0:8480", None, "192.168.1.6:8480", true),
            ("[::]:8480", None, "[fd00::1]:8480", true),
            ("[::]:8480", None, "evil.example:8480", false),
            (LOOP, Some("mhc.example"), "mhc.example", true),
            (LOOP, Some("mhc.example"), "mhc.example:8480", true),
            (LOOP, Some("mhc.example"), "mhc.example:81", false),
            (LOOP, Some("mhc.example:9000"), "mhc.example:9000", true),
            (LOOP, Some("mhc.example:9000"), "mhc.example", false),
            (LOOP, Some("mhc.example"), "www.mhc.example", false),
        ];
        for (bound, public, host, allowed) in table {
            let from = Provenance { hosts: vec![host], ..Provenance::default() };
            assert_eq!(verdict(bound, *public, "GET", from).is_ok(), *allowed, "{bound} {public:?} {host}");
        }
    }

    #[test]
    fn one_host_that_agrees_with_the_target() {
        let ours = "localhost:8480";
        let table: &[(&[&str], Option<&str>, bool)] = &[
            (&[], None, false),
            (&[ours, ours], None, false),
            (&[ours], Some(ours), true),
            (&[ours], Some("evil.example"), false),
            (&["evil.example"], Some(ours), false),
        ];
        for (hosts, authority, allowed) in table {
            let from = Provenance { hosts: hosts.to_vec(), authority: *authority, ..Provenance::default() };
            assert_eq!(verdict("127.0.0.1:8480", None, "GET", from).is_ok(), *allowed, "{hosts:?} {authority:?}");
        }
    }

    #[test]
    fn changes_come_from_our_own_pages_or_from_programs() {
        let table: &[(&str, &[&str], Option<&str>, bool)] = &[
            ("POST", &[], None, true),
            ("POST", &["http://localhost:8480"], None, true),
            ("POST", &["http://localhost:8480"], Some("same-origin"), true),
            ("DELETE", &["https://localhost:8480"], None, true),
            ("POST", &["http://127.0.0.1:8480"], None, false),
            ("POST", &["http://localhost"], None, false),
            ("POST", &["http://localhost:3000"], Some("same-site"), false),
            ("POST", &["null"], None, false),
            ("POST", &[""], None, false),
            ("POST", &["file://"], None, false),
            ("POST", &["http://evil.example"], Some("cross-site"), false),
            ("PUT", &["http://evil.example"], None, false),
            ("PATCH", &["http://localhost:8480.evil.example"], None, false),
            ("POST", &["http://localhost:8480", "http://evil.example"], None, false),
            ("POST", &[], Some("cross-site"), false),
            ("POST", &[], Some("same-site"), false),
            ("POST", &[], Some("none"), true),
            ("PROPFIND", &["http://evil.example"], None, false),
            ("GET", &["http://evil.example"], Some("cross-site"), true),
            ("HEAD", &["null"], None, true),
            ("OPTIONS", &["http://evil.example"], None, true),
        ];
        for (method, origins, fetch_site, allowed) in table {
            let hosts = vec!["localhost:8480"];
            let from = Provenance { hosts, origins: origins.to_vec(), fetch_site: *fetch_site, authority: None };
            let made = verdict("127.0.0.1:8480", None, method, from);
            assert_eq!(made.is_ok(), *allowed, "{method} {origins:?} {fetch_site:?}");
        }
    }

    #[test]
    fn with_tls_the_default_port_and_the_origin_are_others() {
        let hosts = ["tube.example".to_owned()];
        let table: &[(&str, &str, &str, Option<&str>, bool)] = &[
            ("[::]:443", "192.0.2.7", "GET", None, true),
            ("[::]:443", "192.0.2.7:80", "GET", None, false),
            ("[::]:8443", "192.0.2.7", "GET", None, false),
            ("[::]:8443", "tube.example", "GET", None, true),
            ("[::]:8443", "tube.example:8443", "GET", None, true),
            ("[::]:443", "tube.example", "POST", Some("https://tube.example"), true),
            ("[::]:443", "tube.example", "POST", Some("http://tube.example"), false),
        ];
        for (bound, host, method, origin, allowed) in table {
            let policy = GuardPolicy::new(Scheme::Https, bound.parse().unwrap(), &hosts);
            let origins = origin.iter().copied().collect();
            let from = Provenance { hosts: vec![host], origins, ..Provenance::default() };
            let verdict = decide(&policy, &method.parse().unwrap(), &from);
            assert_eq!(verdict.is_ok(), *allowed, "{bound} {host} {method} {origin:?}");
        }
    }

    #[test]
    fn the_authority_stands_for_host_from_http_2_on() {
        let uri: Uri = "https://tube.example/".parse().unwrap();
        let mut headers = HeaderMap::new();
        let hosts = |version, headers: &HeaderMap| {
            provenance(version, headers, &uri).hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(hosts(Version::HTTP_11, &headers), [""; 0]);
        assert_eq!(hosts(Version::HTTP_2, &headers), ["tube.example"]);
        assert_eq!(hosts(Version::HTTP_3, &headers), ["tube.example"]);
        headers.insert(header::HOST, HeaderValue::from_static("other.example"));
        assert_eq!(hosts(Version::HTTP_2, &headers), ["other.example"], "and `decide` finds that they disagree");
    }
}
