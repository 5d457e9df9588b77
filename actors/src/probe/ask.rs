//! Asks one thing once: HTTP with status, body and certificate, a TCP connection, a TLS handshake, our own database. It judges nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::{net::TcpStream, time::timeout};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{
    config::{ProbeSettings, host_and_port},
    domain::probe::{Kind, Seen},
    env::Env,
};

/// So much of a body is looked at.
const MAX_BODY: usize = 1 << 20;

/// Never fails: what went wrong is what was seen.
pub(super) async fn ask(env: &Env, settings: &ProbeSettings, kind: Kind) -> Seen {
    let (began, limit) = (Instant::now(), Duration::from_secs(settings.timeout_s));
    let asked = async {
        match kind {
            Kind::Http => http(settings, limit).await,
            Kind::Tcp => connect(&settings.target).await.map(|_| Seen::default()),
            Kind::Tls => tls(&settings.target).await,
            Kind::Database => env.store().ping().await.map(|()| Seen::default()).map_err(|e| e.message),
        }
    };
    let seen = timeout(limit, asked).await.unwrap_or_else(|_| Err(format!("no answer within {} s", settings.timeout_s)));
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match seen {
        Ok(seen) => Seen { took_ms, ..seen },
        Err(failed) => Seen { failed: Some(failed), took_ms, ..Seen::default() },
    }
}

async fn http(settings: &ProbeSettings, limit: Duration) -> Result<Seen, String> {
    // A client of its own for each time: a probe is to make a connection, not to find one that is open.
    let client =
        reqwest::Client::builder().timeout(limit).tls_info(true).redirect(reqwest::redirect::Policy::none()).pool_max_idle_per_host(0);
    let client = client.user_agent("EchoPilot-probe").build().map_err(|e| format!("the HTTP client cannot be built: {e}"))?;
    let mut response = client.get(&settings.target).send().await.map_err(|e| cause(&e))?;
    let certificate = response.extensions().get::<reqwest::tls::TlsInfo>().and_then(|info| info.peer_certificate().and_then(ends));
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| cause(&e))? {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_BODY - body.len())]);
        if body.len() >= MAX_BODY {
            break;
        }
    }
    let body = Some(String::from_utf8_lossy(&body).into_owned());
    Ok(Seen { status: Some(status), body, cert_ends: certificate, ..Seen::default() })
}

async fn connect(target: &str) -> Result<TcpStream, String> {
    let (host, port) = host_and_port(target).ok_or("the target is not host:port")?;
    TcpStream::connect((host, port)).await.map_err(|e| e.to_string())
}

/// A handshake with the roots that this machine trusts.
async fn tls(target: &str) -> Result<Seen, String> {
    let stream = connect(target).await?.into_std().map_err(|e| e.to_string())?;
    let (host, _) = host_and_port(target).ok_or("the target is not host:port")?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let ends = tokio::task::spawn_blocking(move || handshake(stream, name)).await.map_err(|e| e.to_string())??;
    Ok(Seen { cert_ends: ends, ..Seen::default() })
}

fn handshake(mut stream: std::net::TcpStream, name: ServerName<'static>) -> Result<Option<i64>, String> {
    let patience = Some(Duration::from_mins(5)); // the caller's own limit is shorter; this only ends the thread
    stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(patience)).map_err(|e| e.to_string())?;
    let config = ClientConfig::builder().with_platform_verifier().map_err(|e| e.to_string())?.with_no_client_auth();
    let mut session = ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
    while session.is_handshaking() {
        session.complete_io(&mut stream).map_err(|e| e.to_string())?;
    }
    Ok(session.peer_certificates().and_then(|chain| chain.first()).and_then(|certificate| ends(certificate)))
}

/// When a certificate (DER) ends, Unix seconds.
fn ends(der: &[u8]) -> Option<i64> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

/// The innermost cause: the outer ones say only that a request failed.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() }
}
