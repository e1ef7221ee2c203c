//! The front over real sockets: the three versions of HTTP, refusals, renewal, and stopping.

// A test that can't go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use bytes::Buf;
use futures::future::poll_fn;
use mhc_api::{Gateway, GatewayOptions, OperatorToken, testing::MemorySource};
use mhc_storage::blob::{BlobOptions, BlobStore};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{CertificateFiles, Front, FrontError, FrontOptions};

const NAME: &str = "tube.example.org";

/// Writes a new certificate for [`NAME`] and its key.
fn certify(dir: &Path) {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

fn options(dir: &Path) -> FrontOptions {
    let certificate = CertificateFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
    FrontOptions { listen: "127.0.0.1:0".parse().unwrap(), certificate }
}

struct Running {
    dir: TempDir,
    address: SocketAddr,
    source: MemorySource,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        certify(dir.path());
        let store = BlobStore::open(&dir.path().join("blobs"), BlobOptions::default()).unwrap();
        let source = MemorySource::default();
        let gateway = GatewayOptions {
            public_hosts: vec![NAME.to_owned()],
            ..GatewayOptions::new(
                "127.0.0.1:0".parse().unwrap(),
                OperatorToken::new("token"),
                Arc::new(source.clone()),
                store,
            )
        };
        let site = Gateway::new(gateway, vec![]).site();
        let front = Front::bind(options(dir.path()), site).await.unwrap();
        let (address, stop) = (front.local_addr(), CancellationToken::new());
        let serving = tokio::spawn(front.serve(stop.clone()));
        Self { dir, address, source, stop, serving }
    }

    fn trusting(&self, protocols: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.dir.path().join("cert.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    /// A client that knows the front by its name.
    fn client(&self, protocols: &[&[u8]]) -> reqwest::Client {
        reqwest::Client::builder()
            .tls_backend_preconfigured(self.trusting(protocols))
            .resolve(NAME, self.address)
            .build()
            .unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.address.port())
    }
}

type Requests = h3::client::SendRequest<h3_quinn::OpenStreams, bytes::Bytes>;

/// An HTTP/3 client: the connection's driver ends when `Requests` is dropped.
async fn http3(running: &Running) -> (Requests, JoinHandle<h3::error::ConnectionError>) {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(running.trusting(&[b"h3"])).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connection = endpoint.connect(running.address, NAME).unwrap().await.unwrap();
    let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
    (requests, tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await }))
}

/// Sends a request with a body; returns the answer's status, headers and body.
async fn ask(
    requests: &mut Requests,
    request: axum::http::Request<()>,
    body: &'static [u8],
) -> (axum::http::StatusCode, axum::http::HeaderMap, Result<Vec<u8>, h3::error::StreamError>) {
    let mut stream = requests.send_request(request).await.unwrap();
    if !body.is_empty() {
        stream.send_data(bytes::Bytes::from_static(body)).await.unwrap();
    }
    stream.finish().await.unwrap();
    let head = stream.recv_response().await.unwrap();
    let mut bytes = vec![];
    let body = loop {
        match stream.recv_data().await {
            Ok(Some(mut piece)) => bytes.extend_from_slice(&piece.copy_to_bytes(piece.remaining())),
            Ok(None) => break Ok(bytes),
            Err(error) => break Err(error),
        }
    };
    (head.status(), head.headers().clone(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_over_each_version_of_http() {
    let running = Running::start().await;
    let data: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let path = format!("/blobs/{}", running.source.add(data.clone()));
    for (protocols, version) in
        [(&[b"h2" as &[u8]], axum::http::Version::HTTP_2), (&[b"http/1.1"], axum::http::Version::HTTP_11)]
    {
        let reply = running.client(protocols).get(running.url(&path)).header("range", "bytes=7-2000006").send();
        let reply = reply.await.unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (206, version));
        let advertised = format!("h3=\":{}\"; ma=86400", running.address.port());
        assert_eq!(reply.headers()["alt-svc"], advertised);
        assert!(reply.bytes().await.unwrap() == data[7..2_000_007], "{version:?}");
    }
    let (mut requests, _driver) = http3(&running).await;
    let request = axum::http::Request::get(running.url(&path)).header("range", "bytes=7-2000006").body(()).unwrap();
    let (status, headers, body) = ask(&mut requests, request, b"").await;
    assert_eq!((status.as_u16(), headers["content-range"].to_str().unwrap()), (206, "bytes 7-2000006/3000000"));
    assert!(body.unwrap() == data[7..2_000_007]);
}

#[tokio::test(flavor = "multi_thread")]
async fn http3_takes_bodies_and_refuses_what_the_gateway_refuses() {
    let running = Running::start().await;
    let (mut requests, _driver) = http3(&running).await;
    let made = |method: &str, uri: String| axum::http::Request::builder().method(method).uri(uri);

    let upload = made("POST", running.url("/blobs")).header("authorization", "Bearer token").body(()).unwrap();
    let (status, _, body) = ask(&mut requests, upload, b"some bytes").await;
    assert_eq!(status.as_u16(), 201, "{:?}", body.map(String::from_utf8));

    let table: [(axum::http::Request<()>, u16); 5] = [
        (made("POST", running.url("/blobs")).body(()).unwrap(), 401),
        (made("GET", "https://evil.example/healthz".into()).body(()).unwrap(), 403),
        (made("POST", running.url("/blobs")).header("origin", "https://evil.example").body(()).unwrap(), 403),
        (made("GET", running.url("/nothing")).body(()).unwrap(), 404),
        (made("HEAD", running.url("/healthz")).body(()).unwrap(), 200),
    ];
    for (request, expected) in table {
        let what = format!("{request:?}");
        let (status, _, body) = ask(&mut requests, request, b"").await;
        assert_eq!(status.as_u16(), expected, "{what}");
        // Refused or not, the stream ends as it should and the connection goes on.
        body.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_idle_connections_at_once() {
    let running = Running::start().await;
    let client = running.client(&[b"h2"]);
    assert_eq!(client.get(running.url("/healthz")).send().await.unwrap().status(), 200);
    let (mut requests, driver) = http3(&running).await;
    let request = axum::http::Request::get(running.url("/healthz")).body(()).unwrap();
    assert_eq!(ask(&mut requests, request, b"").await.0, 200);
    running.stop.cancel();
    running.serving.await.unwrap();
    let ended = driver.await.unwrap();
    assert!(ended.is_h3_no_error(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_to_the_protocol_harm_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = Running::start().await;
    let mut plain = tokio::net::TcpStream::connect(running.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![];
    let _reset_is_an_end_too = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for bytes in 0..100_u8 {
        udp.send_to(&vec![bytes.wrapping_mul(37); 20 + usize::from(bytes) * 12], running.address).await.unwrap();
    }
    let (mut requests, _driver) = http3(&running).await;
    let request = axum::http::Request::get(running.url("/healthz")).body(()).unwrap();
    assert_eq!(ask(&mut requests, request, b"").await.0, 200);
}

#[tokio::test]
async fn an_address_in_use_is_said() {
    let running = Running::start().await;
    let dir = TempDir::new().unwrap();
    certify(dir.path());
    let store = BlobStore::open(&dir.path().join("blobs"), BlobOptions::default()).unwrap();
    let gateway = GatewayOptions::new(
        "127.0.0.1:0".parse().unwrap(),
        OperatorToken::new("token"),
        Arc::new(MemorySource::default()),
        store,
    );
    let options = FrontOptions { listen: running.address, ..options(dir.path()) };
    let Err(error) = Front::bind(options, Gateway::new(gateway, vec![]).site()).await else {
        panic!("two on one port")
    };
    assert!(matches!(error, FrontError::Listen { .. }));
    assert!(error.to_string().ends_with("choose another address with gateway.https"), "{error}");
}
