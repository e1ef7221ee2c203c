//! The public front: what the gateway serves, over TLS for anybody on the internet.
//!
//! One port, twice: TCP carries HTTP/1.1 and HTTP/2 ([`tcp`]), UDP carries HTTP/3 ([`quic`]), which answers over TCP
//! advertise (`Alt-Svc`). The certificate is read from files and read again when they change. Routes,
//! the check of Host and Origin and the figures are the gateway's own ([`mhc_api::Site`]).

mod quic;
mod tcp;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, header},
    middleware,
    response::Response,
};
use mhc_api::{Limits, Scheme, Site};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::certificate::{Certificate, CertificateError, CertificateFiles};

/// Most connections at a time, over TCP and QUIC together.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take over a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many requests of one connection are answered at a time.
const MAX_CONCURRENT_REQUESTS: u32 = 128;
/// Longest head of a request over HTTP/2 and HTTP/3, in bytes.
const MAX_HEAD_BYTES: u32 = 64 << 10;
/// How long a browser may remember that HTTP/3 is to be had here, in seconds.
const ALT_SVC_S: u32 = 86_400;
/// How often a free port is looked for that is free for TCP and UDP.
const PORT_TRIES: usize = 16;

/// Where a front listens, and as whom.
#[derive(Debug, Clone)]
pub struct FrontOptions {
    /// Address and port, for TCP and UDP; port 0 is any that is free for both.
    pub listen: SocketAddr,
    /// The certificate and those of its issuers, in this order, and its key.
    pub certificate: CertificateFiles,
}

/// Why a front can't serve.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The files of the certificate.
    #[error("gateway.tls_certificate and gateway.tls_key: {0}")]
    Certificate(#[from] CertificateError),
    /// No listening there: in use, no such address, no permission.
    #[error("can't listen on {listen} ({transport}): {source}; choose another address with gateway.https")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// TCP or UDP.
        transport: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// A front that listens; connections wait until [`Front::serve`].
pub struct Front {
    tcp: TcpListener,
    quic: quinn::Endpoint,
    address: SocketAddr,
    certificate: Arc<Certificate>,
    site: Site,
}

impl Front {
    /// Reads the certificate and starts to listen. Must be called in a tokio runtime.
    pub async fn bind(options: FrontOptions, site: Site) -> Result<Self, FrontError> {
        let certificate = Certificate::load(options.certificate)?;
        let mut tries = if options.listen.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match listen(options.listen, &certificate).await {
                Ok((tcp, quic, address)) => return Ok(Self { tcp, quic, address, certificate, site }),
                Err(FrontError::Listen { .. }) if tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The address, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`: then stops accepting, lets answers under way end within the gateway's drain time-out,
    /// and closes the rest.
    pub async fn serve(self, shutdown: CancellationToken) {
        let limits = Limits { max_connections: MAX_CONNECTIONS, ..self.site.limits() };
        let connections = self.site.connections(limits);
        let router = self.site.router(Scheme::Https, self.address);
        tokio::join!(
            tcp::serve(self.tcp, &self.certificate, advertising(&router, self.address), connections.clone(), &shutdown),
            quic::serve(self.quic, router, connections, &shutdown),
            shutdown.run_until_cancelled(self.certificate.watch()),
        );
    }
}

async fn listen(
    listen: SocketAddr,
    certificate: &Arc<Certificate>,
) -> Result<(TcpListener, quinn::Endpoint, SocketAddr), FrontError> {
    let failed = |transport| move |source| FrontError::Listen { listen, transport, source };
    let tcp = TcpListener::bind(listen).await.map_err(failed("TCP"))?;
    let address = tcp.local_addr().map_err(failed("TCP"))?;
    let quic = quic::listen(address, certificate).map_err(failed("UDP"))?;
    Ok((tcp, quic, address))
}

/// Answers say that the same is to be had over HTTP/3.
fn advertising(router: &Router, address: SocketAddr) -> Router {
    let service = HeaderValue::try_from(format!("h3=\":{}\"; ma={ALT_SVC_S}", address.port())).ok();
    router.clone().layer(middleware::map_response(move |mut response: Response| {
        if let Some(service) = &service {
            response.headers_mut().insert(header::ALT_SVC, service.clone());
        }
        std::future::ready(response)
    }))
}
