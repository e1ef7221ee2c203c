//! nginx and curl.

use std::{ffi::OsStr, fs, net::IpAddr, path::Path, process::Command};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    bench::{Bench, READY, command_in},
    proc::{Proc, sh},
};

/// How nginx is to serve.
pub(crate) struct Site<'a> {
    /// The folder with the files.
    pub(crate) root: &'a Path,
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    /// TLS 1.3 and HTTP/2, or plain HTTP/1.1.
    pub(crate) tls: bool,
    /// Processes that share the port.
    pub(crate) workers: usize,
    pub(crate) netns: Option<&'a str>,
}

/// A running server.
pub(crate) struct Nginx {
    workers: Vec<Proc>,
    origin: String,
    _dirs: Vec<TempDir>,
}

impl Nginx {
    pub(crate) fn start(bench: &Bench, site: &Site<'_>) -> Result<Self> {
        let origin = format!("http{}://{}:{}", if site.tls { "s" } else { "" }, site.ip, site.port);
        let mut nginx = Self { workers: vec![], origin, _dirs: vec![] };
        for _ in 0..site.workers {
            let dir = bench.fresh_dir("nginx")?;
            nginx.workers.push(worker(dir.path(), site)?);
            nginx._dirs.push(dir);
        }
        Ok(nginx)
    }

    /// Its first process, which is all of it where one worker was asked for.
    pub(crate) fn first(&self) -> Result<&Proc> {
        self.workers.first().context("no worker")
    }

    /// All of its processes.
    pub(crate) fn workers(&self) -> &[Proc] {
        &self.workers
    }

    /// Where it serves the file of this name.
    pub(crate) fn url(&self, name: &OsStr) -> String {
        format!("{}/{}", self.origin, name.display())
    }
}

/// One process without a master, so that killing it leaves nothing behind; several share the port.
fn worker(dir: &Path, site: &Site<'_>) -> Result<Proc> {
    let mut listen = format!("{}:{} reuseport", site.ip, site.port);
    let mut tls = String::new();
    if site.tls {
        certificate(dir)?;
        listen += " ssl http2";
        tls = format!(
            "ssl_certificate {0}/cert.pem; ssl_certificate_key {0}/key.pem; ssl_protocols TLSv1.3;",
            dir.display()
        );
    }
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{ listen {listen}; root {root}; {tls} }}
}}
",
        dir = dir.display(),
        root = site.root.display(),
    );
    let path = dir.join("nginx.conf");
    fs::write(&path, config)?;
    let mut command = command_in(site.netns, "nginx");
    command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(&path);
    let mut proc = Proc::spawn(dir, "nginx", &command)?;
    wait_until_open(&mut proc, site)?;
    Ok(proc)
}

fn wait_until_open(proc: &mut Proc, site: &Site<'_>) -> Result<()> {
    let address = format!("http://{}:{}/", site.ip, site.port);
    mhc_testnet::eventually("nginx listens", READY, || {
        // Any answer will do, and so will a complaint about the lack of TLS.
        let status = command_in(site.netns, "curl").args(["-s", "-o", "/dev/null", &address]).status()?;
        anyhow::ensure!(status.success(), "curl: {status}; it printed: {}", proc.printed());
        Ok(())
    })
}

fn certificate(dir: &Path) -> Result<()> {
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    let (key, cert) = (key.to_string_lossy(), cert.to_string_lossy());
    let curve = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    sh("openssl", &[&curve[..], &["-subj", "/CN=localhost", "-keyout", &key, "-out", &cert]].concat())?;
    Ok(())
}

/// `curl -o to url`, which must get all of it.
pub(crate) fn curl(netns: Option<&str>, url: &str, to: &Path) -> Command {
    let mut command = command_in(netns, "curl");
    command.args(["-sS", "--fail", "--insecure", "-o"]).arg(to).arg(url);
    command
}
