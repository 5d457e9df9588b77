//! stub (not committed)
use crate::error::Result;
use std::sync::Arc;
#[derive(Clone)]
pub struct Sandbox;
pub struct Settings;
impl Settings {
    pub fn new(_p: std::path::PathBuf) -> Self {
        Self
    }
}
#[allow(unused_variables, clippy::unused_async)]
impl Sandbox {
    pub async fn open(settings: Settings, clock: Arc<dyn Fn() -> chrono::DateTime<chrono::Utc> + Send + Sync>) -> Result<Self> {
        todo!()
    }
    pub async fn serve(&self, listener: Arc<tokio::net::TcpListener>, stop: impl Future<Output = ()> + Send) -> Result<()> {
        todo!()
    }
    pub async fn set_daemon_endpoint(&self, url: &str, secret: &str) -> Result<()> {
        todo!()
    }
    pub async fn start_in_past(&self, seconds: i64) -> Result<bool> {
        todo!()
    }
}
