//! Asks one thing once: HTTP with status, body and certificate, a TCP connection, a TLS handshake, our own database. It judges nothing.

use std::{
    error::Error as StdError,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{CertificateError, ClientConfig, ClientConnection, pki_types::ServerName};
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

/// Why there was no answer; if a certificate that has ended is the reason, when it ended.
struct Failed {
    why: String,
    cert_ended: Option<i64>,
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self { why, cert_ended: None }
    }
}

impl From<&str> for Failed {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        let mut why: &dyn StdError = &error; // the innermost: the outer ones say only that a request failed
        while let Some(inner) = why.source() {
            why = inner;
        }
        let why = if error.is_timeout() { "no answer in time".to_owned() } else { why.to_string() };
        Self { cert_ended: cert_ended(&error), why }
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self { cert_ended: cert_ended(&error), why: error.to_string() }
    }
}

/// Never fails: what went wrong is what was seen.
pub(super) async fn ask(env: &Env, settings: &ProbeSettings, kind: Kind) -> Seen {
    let (began, limit) = (Instant::now(), Duration::from_secs(settings.timeout_s));
    let asked = async {
        match kind {
            Kind::Http => http(settings, limit).await,
            Kind::Tcp => connect(&settings.target).await.map(|_| Seen::default()),
            Kind::Tls => tls(&settings.target).await,
            Kind::Database => env.store().ping().await.map(|()| Seen::default()).map_err(|e| e.message.into()),
        }
    };
    let seen = timeout(limit, asked).await.unwrap_or_else(|_| Err(format!("no answer within {} s", settings.timeout_s).into()));
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match seen {
        Ok(seen) => Seen { took_ms, ..seen },
        Err(Failed { why, cert_ended }) => Seen { failed: Some(why), cert_ends: cert_ended, took_ms, ..Seen::default() },
    }
}

async fn http(settings: &ProbeSettings, limit: Duration) -> Result<Seen, Failed> {
    // A client of its own for each time: a probe is to make a connection, not to find one that is open.
    let client =
        reqwest::Client::builder().timeout(limit).tls_info(true).redirect(reqwest::redirect::Policy::none()).pool_max_idle_per_host(0);
    let client = client.user_agent("EchoPilot-probe").build().map_err(|e| format!("the HTTP client cannot be built: {e}"))?;
    let mut response = client.get(&settings.target).send().await?;
    let certificate = response.extensions().get::<reqwest::tls::TlsInfo>().and_then(|info| info.peer_certificate().and_then(ends));
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_BODY - body.len())]);
        if body.len() >= MAX_BODY {
            break;
        }
    }
    let body = Some(String::from_utf8_lossy(&body).into_owned());
    Ok(Seen { status: Some(status), body, cert_ends: certificate, ..Seen::default() })
}

async fn connect(target: &str) -> Result<TcpStream, Failed> {
    let (host, port) = host_and_port(target).ok_or("the target is not host:port")?;
    Ok(TcpStream::connect((host, port)).await?)
}

/// A handshake with the roots that this machine trusts.
async fn tls(target: &str) -> Result<Seen, Failed> {
    let stream = connect(target).await?.into_std()?;
    let (host, _) = host_and_port(target).ok_or("the target is not host:port")?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let ends = tokio::task::spawn_blocking(move || handshake(stream, name)).await.map_err(|e| e.to_string())??;
    Ok(Seen { cert_ends: ends, ..Seen::default() })
}

fn handshake(mut stream: std::net::TcpStream, name: ServerName<'static>) -> Result<Option<i64>, Failed> {
    let patience = Some(Duration::from_mins(5)); // the caller's own limit is shorter; this only ends the thread
    stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(patience))?;
    let config = ClientConfig::builder().with_platform_verifier().map_err(|e| e.to_string())?.with_no_client_auth();
    let mut session = ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    Ok(session.peer_certificates().and_then(|chain| chain.first()).and_then(|certificate| ends(certificate)))
}

/// When a certificate (DER) ends, Unix seconds.
fn ends(der: &[u8]) -> Option<i64> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

/// When the certificate ended that a handshake was refused for, Unix seconds.
fn cert_ended(error: &(dyn StdError + 'static)) -> Option<i64> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) = error.downcast_ref() {
            return i64::try_from(not_after.as_secs()).ok();
        }
        // What an I/O error wraps is not its source, which is the source of that.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|inner| -> &(dyn StdError + 'static) { inner }).or_else(|| error.source());
    }
    None
}
