//! The sandbox on its own: `cargo run --example sandbox -- DATABASE [ADDRESS]` prints the address it serves on and stays until it
//! is stopped. For driving it with the provider's official clients without a daemon.

use std::sync::Arc;

use echopilot_actors::providers::{Sandbox, Settings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let database = arguments.next().ok_or("usage: sandbox DATABASE [ADDRESS]")?;
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = Arc::new(tokio::net::TcpListener::bind(address).await?);
    if !listener.local_addr()?.ip().is_loopback() {
        return Err("the sandbox has no password for its controls and serves loopback addresses only".into());
    }
    let sandbox = Sandbox::open(Settings::new(database), Arc::new(now)).await?;
    println!("http://{}", listener.local_addr()?);
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    sandbox.serve(listener, stop).await?;
    sandbox.close().await?;
    Ok(())
}

/// Real time, for a program without an `Env` to ask.
fn now() -> chrono::DateTime<chrono::Utc> {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    chrono::DateTime::UNIX_EPOCH + since
}
