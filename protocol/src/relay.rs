//! Relays as nodes name them to each other: who runs one, and where.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::{NetworkId, NodeId, ParseIdError, wire::MAX_NETWORKS};

/// Most relays that a node says it can be reached through.
pub const MAX_RELAYS: usize = 4;
/// Longest address of a relay, in bytes.
pub const MAX_RELAY_URL_BYTES: usize = 128;

/// Where a relay is: `http` or `https`, a host, and a port unless it is the scheme's own. Nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayUrl(Url);

/// Why a text isn't the address of a relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayUrlError {
    /// Not a URL.
    #[error("not a URL: {0}")]
    Malformed(#[from] url::ParseError),
    /// Another scheme.
    #[error("the scheme of a relay is http or https")]
    Scheme,
    /// A user, a path, a query or a fragment.
    #[error("a relay's URL has a host and a port and nothing else, as in \"https://relay.example.org\"")]
    More,
    /// Port 0.
    #[error("port 0 is no port")]
    Port,
    /// Too long.
    #[error("over {MAX_RELAY_URL_BYTES} bytes")]
    TooLong,
    /// Not written as it would be written again.
    #[error("not in its canonical form")]
    NotCanonical,
}

impl RelayUrl {
    /// As it travels: `https://relay.example.org/`.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// A name, or an IP address without brackets.
    pub fn host(&self) -> String {
        match self.0.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => String::new(),
        }
    }

    /// Its port. The relay listens there on TCP and, to tell nodes how they are seen, on UDP.
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or_default()
    }

    /// As a URL.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Reads what [`as_str`](Self::as_str) gave and nothing else.
    fn from_wire(text: &str) -> Result<Self, RelayUrlError> {
        let url: Self = text.parse()?;
        match url.as_str() == text {
            true => Ok(url),
            false => Err(RelayUrlError::NotCanonical),
        }
    }
}

impl FromStr for RelayUrl {
    type Err = RelayUrlError;

    fn from_str(text: &str) -> Result<Self, RelayUrlError> {
        if text.len() > MAX_RELAY_URL_BYTES {
            return Err(RelayUrlError::TooLong);
        }
        let url = Url::parse(text)?;
        let has_user = !url.username().is_empty() || url.password().is_some();
        match () {
            () if !matches!(url.scheme(), "http" | "https") => Err(RelayUrlError::Scheme),
            () if has_user || url.path() != "/" || url.query().is_some() || url.fragment().is_some() => {
                Err(RelayUrlError::More)
            }
            () if url.port() == Some(0) => Err(RelayUrlError::Port),
            () if url.as_str().len() > MAX_RELAY_URL_BYTES => Err(RelayUrlError::TooLong),
            () => Ok(Self(url)),
        }
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A relay: the node that runs it, and where it is. Travels as a list of the two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "(NodeId, String)", try_from = "(NodeId, String)")]
pub struct Relay {
    /// Where it is.
    pub url: RelayUrl,
    /// Who runs it. By this key it proves itself where it has no certificate.
    pub node: NodeId,
}

impl From<Relay> for (NodeId, String) {
    fn from(relay: Relay) -> Self {
        (relay.node, relay.url.to_string())
    }
}

impl TryFrom<(NodeId, String)> for Relay {
    type Error = RelayUrlError;

    fn try_from((node, url): (NodeId, String)) -> Result<Self, RelayUrlError> {
        Ok(Self { node, url: RelayUrl::from_wire(&url)? })
    }
}

/// What a node shows a relay (as a bearer token, when it connects): the networks that it belongs to, as it says, in
/// hexadecimal digits and separated by commas.
pub fn write_token(networks: impl IntoIterator<Item = NetworkId>) -> String {
    let networks = networks.into_iter().take(MAX_NETWORKS).map(|network| network.to_string());
    networks.collect::<Vec<_>>().join(",")
}

/// Reads [`write_token`]'s text.
pub fn read_token(text: &str) -> Result<Vec<NetworkId>, TokenError> {
    let networks = text.splitn(MAX_NETWORKS + 1, ',').map(str::parse).collect::<Result<Vec<_>, _>>()?;
    match networks.len() > MAX_NETWORKS {
        true => Err(TokenError::TooMany),
        false => Ok(networks),
    }
}

/// Why a text isn't a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else than ids of networks.
    #[error(transparent)]
    Id(#[from] ParseIdError),
    /// More networks than a node follows.
    #[error("more than {MAX_NETWORKS} networks")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SecretKey, cbor};

    #[test]
    fn tokens_name_networks() {
        let network = |seed| SecretKey::from_seed(&[seed; 32]).network();
        let all = |count| (1..=count).map(network).collect::<Vec<_>>();
        for count in [1, 2, 16] {
            assert_eq!(read_token(&write_token(all(count))), Ok(all(count)));
        }
        assert_eq!(write_token(all(17)), write_token(all(16)));
        let many = vec![network(1).to_string(); 17].join(",");
        assert_eq!(read_token(&many), Err(TokenError::TooMany));
        for junk in ["", ",", "abc", &format!("{},", network(1)), &format!("{} ", network(1)), &"f".repeat(1 << 20)] {
            assert!(matches!(read_token(junk), Err(TokenError::Id(_))), "{:.80}", junk);
        }
    }

    type Read<'a> = Result<(&'a str, &'a str, u16), RelayUrlError>;

    #[test]
    fn addresses_of_relays_are_told_from_other_texts() {
        let long = format!("https://{}.example.org", "a".repeat(60).repeat(2));
        let cases: [(&str, Read<'_>); 14] = [
            ("https://relay.example.org", Ok(("https://relay.example.org/", "relay.example.org", 443))),
            ("https://relay.example.org:443/", Ok(("https://relay.example.org/", "relay.example.org", 443))),
            ("HTTP://Relay.Example.Org:4443", Ok(("http://relay.example.org:4443/", "relay.example.org", 4443))),
            ("http://203.0.113.1:4443", Ok(("http://203.0.113.1:4443/", "203.0.113.1", 4443))),
            ("http://[2001:DB8::1]:4443", Ok(("http://[2001:db8::1]:4443/", "2001:db8::1", 4443))),
            ("relay.example.org", Err(RelayUrlError::Malformed(url::ParseError::RelativeUrlWithoutBase))),
            ("", Err(RelayUrlError::Malformed(url::ParseError::RelativeUrlWithoutBase))),
            ("https://", Err(RelayUrlError::Malformed(url::ParseError::EmptyHost))),
            ("ftp://relay.example.org", Err(RelayUrlError::Scheme)),
            ("https://me@relay.example.org", Err(RelayUrlError::More)),
            ("https://relay.example.org/relay", Err(RelayUrlError::More)),
            ("https://relay.example.org/?token=1", Err(RelayUrlError::More)),
            ("http://relay.example.org:0", Err(RelayUrlError::Port)),
            (&long, Err(RelayUrlError::TooLong)),
        ];
        for (text, expected) in cases {
            let read = text.parse::<RelayUrl>();
            let read = read.as_ref().map(|url| (url.as_str(), url.host(), url.port()));
            let expected = expected.map(|(text, host, port)| (text, host.to_owned(), port));
            assert_eq!(read, expected.as_ref().map(|(t, h, p)| (*t, h.clone(), *p)), "{text}");
        }
    }

    #[test]
    fn what_travels_is_canonical() {
        let node = NodeId::from_bytes([7; 32]);
        let relay = Relay { node, url: "https://relay.example.org".parse().unwrap() };
        let bytes = cbor::encode(&relay).unwrap();
        assert_eq!(cbor::decode::<Relay>(&bytes, 512), Ok(relay));
        for text in ["https://relay.example.org", "https://relay.example.org:443/", "HTTPS://relay.example.org/", "x"] {
            let bytes = cbor::encode(&(node, text)).unwrap();
            assert!(cbor::decode::<Relay>(&bytes, 512).is_err(), "{text}");
        }
    }
}
