//! A bare iroh stream between two processes, no hashing and no disk: the limit of the transport.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Subcommand;
use iroh::{
    Endpoint, EndpointAddr, EndpointId, TransportAddr,
    endpoint::{Connection, PortmapperConfig, RecvStream, SendStream, presets},
};
use tokio::task::JoinSet;

const ALPN: &[u8] = b"mhc-bench/bare/1";
const BLOCK_BYTES: usize = 256 << 10;

/// The two ends.
#[derive(Debug, Subcommand)]
pub(crate) enum Bare {
    /// Send to whoever connects; prints id and address
    Serve {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Receive and drop
    Fetch {
        /// Id of the server
        id: EndpointId,
        /// Its address
        addr: SocketAddr,
        /// How much
        #[arg(long, default_value_t = 1024)]
        size_mib: u64,
    },
}

pub(crate) fn run(command: Bare) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        match command {
            Bare::Serve { listen } => serve(listen).await,
            Bare::Fetch { id, addr, size_mib } => fetch(id, addr, size_mib << 20).await,
        }
    })
}

async fn bind(listen: SocketAddr) -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal)
        .alpns(vec![ALPN.to_vec()])
        .portmapper_config(PortmapperConfig::Disabled)
        .clear_ip_transports()
        .bind_addr(listen)?;
    Ok(builder.bind().await?)
}

async fn serve(listen: SocketAddr) -> Result<()> {
    let endpoint = bind(listen).await?;
    println!("serving {} {}", endpoint.id(), endpoint.bound_sockets().first().context("no socket")?);
    let mut answers = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        answers.spawn(async move { answer(incoming.accept()?.await?).await });
    }
    Ok(())
}

async fn answer(conn: Connection) -> Result<()> {
    let (send, mut recv) = conn.accept_bi().await?;
    let mut wanted = [0; 8];
    recv.read_exact(&mut wanted).await?;
    write(send, u64::from_le_bytes(wanted)).await?;
    conn.closed().await;
    Ok(())
}

async fn write(mut send: SendStream, mut left: u64) -> Result<()> {
    let block = Bytes::from(vec![0; BLOCK_BYTES]);
    while left > 0 {
        let len = left.min(BLOCK_BYTES as u64);
        send.write_chunk(block.slice(..usize::try_from(len)?)).await?;
        left -= len;
    }
    Ok(send.finish()?)
}

async fn fetch(id: EndpointId, addr: SocketAddr, bytes: u64) -> Result<()> {
    let endpoint = bind(SocketAddr::new(addr.ip(), 0)).await?;
    let conn = endpoint.connect(EndpointAddr::from_parts(id, [TransportAddr::Ip(addr)]), ALPN).await?;
    let (mut send, recv) = conn.open_bi().await?;
    send.write_all(&bytes.to_le_bytes()).await?;
    send.finish()?;
    let got = read(recv).await?;
    ensure!(got == bytes, "{got} bytes instead of {bytes}");
    conn.close(0u32.into(), b"done");
    endpoint.close().await;
    Ok(())
}

async fn read(mut recv: RecvStream) -> Result<u64> {
    let mut got = 0;
    while let Some(chunk) = recv.read_chunk(usize::MAX).await? {
        got += chunk.len() as u64;
    }
    Ok(got)
}
