//! The peer: the bare framework on its own, answering 200 to any body and static JSON to a read. What the daemon does on top of
//! this is what the ratio shows.

use std::{future::Future, net::SocketAddr};

use bytes::Bytes;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use warp::Filter as _;

/// Serves on a loopback port of its own runtime thread until the process ends.
pub(crate) async fn start() -> SocketAddr {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be built");
        runtime.block_on(async {
            let (address, serving) = serve().await;
            let _ = sender.send(address);
            serving.await;
        });
    });
    receiver.await.expect("the peer starts")
}

/// Serves in the runtime of the caller until the process ends.
pub(crate) async fn start_here() -> SocketAddr {
    let (address, serving) = serve().await;
    tokio::spawn(serving);
    address
}

async fn serve() -> (SocketAddr, impl Future<Output = ()> + Send) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port is free");
    let address = listener.local_addr().expect("a bound listener has an address");
    let post = warp::post().and(warp::body::bytes()).map(|_: Bytes| "{\"ok\":true}");
    let get = warp::get().map(|| {
        warp::http::Response::builder()
            .header("content-type", "application/json")
            .body("{\"ok\":true,\"status\":\"PASS\",\"breach\":false}")
    });
    let filter = post.or(get);
    let serving = async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true); // as the daemon does
            let service = TowerToHyperService::new(warp::service(filter));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    };
    (address, serving)
}

/// A request for a path without a body.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").into_bytes()
}
