//! Ranges over a connection that stays open, whose bodies are counted and dropped unseen: the kernel doesn't even copy
//! them (`MSG_TRUNC`), so that many players cost the machine little.

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
};

const HEAD_BYTES: usize = 4096;
const MOST_AT_ONCE: usize = 1 << 20;

/// A connection to the server of one file.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Everything of a request before its range.
    request: String,
    /// As long as what may be dropped at once; never written to.
    scratch: Vec<u8>,
    /// Bytes of the body that are still to come.
    left: usize,
}

impl Connection {
    /// `host` as `address:port`.
    pub(crate) async fn open(host: &str, path: &str) -> Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes=");
        Ok(Self { stream, request, scratch: vec![0; MOST_AT_ONCE], left: 0 })
    }

    /// Asks for the next range. Returns how many bytes of the body came with the head.
    pub(crate) async fn get(&mut self, from: u64, len: u64) -> Result<usize> {
        let request = format!("{}{from}-{}\r\n\r\n", self.request, from + len - 1);
        self.stream.write_all(request.as_bytes()).await?;
        let mut read = Vec::with_capacity(HEAD_BYTES);
        let body_at = loop {
            ensure!(read.len() < HEAD_BYTES, "a long head");
            ensure!(self.stream.read_buf(&mut read).await? > 0, "the connection ended before the answer");
            if let Some(head) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break head + 4;
            }
        };
        let head = String::from_utf8_lossy(read.get(..body_at).unwrap_or_default());
        let length = content_length(&head)?;
        ensure!(length == len, "{length} bytes instead of {len}");
        let came = read.len() - body_at;
        self.left = usize::try_from(length)?.checked_sub(came).context("more than was asked for")?;
        Ok(came)
    }

    /// Drops what arrived of the body, or waits for it. Returns its length; 0 when the body is over.
    pub(crate) async fn drop_some(&mut self) -> Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let scratch = self.scratch.get_mut(..self.left.min(MOST_AT_ONCE)).unwrap_or_default();
        let stream = &self.stream;
        let dropped =
            stream.async_io(Interest::READABLE, || Ok(recv(stream, &mut *scratch, RecvFlags::TRUNC)?.1)).await?;
        if dropped == 0 {
            bail!("the connection ended, {} bytes too early", self.left);
        }
        self.left -= dropped;
        Ok(dropped)
    }
}

/// The length of the body, if this is the head of a range.
fn content_length(head: &str) -> Result<u64> {
    ensure!(head.starts_with("HTTP/1.1 206 "), "not a range: {head}");
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, length) =
        fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length")).context("no Content-Length")?;
    Ok(length.trim().parse()?)
}
