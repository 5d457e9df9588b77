//! A bounded load: a fixed list of requests over a fixed number of keep-alive connections, each request after the answer to the
//! one before. Measures answers per second and the 99th percentile.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) p99_ms: f64,
    /// Answers other than 200.
    pub(crate) refused: usize,
}

impl Load {
    /// How long each answer took, in milliseconds and in no order.
    pub(crate) async fn times(address: SocketAddr, connections: usize, requests: &[Vec<u8>]) -> Vec<f64> {
        Self::answers(address, connections, requests).await.0
    }

    pub(crate) async fn run(address: SocketAddr, connections: usize, requests: &[Vec<u8>]) -> Self {
        let start = Instant::now();
        let (mut times, refused) = Self::answers(address, connections, requests).await;
        let seconds = start.elapsed().as_secs_f64();
        times.sort_by(f64::total_cmp);
        Self { per_second: times.len() as f64 / seconds, p99_ms: times[times.len() * 99 / 100], refused }
    }

    async fn answers(address: SocketAddr, connections: usize, requests: &[Vec<u8>]) -> (Vec<f64>, usize) {
        let requests: Arc<[Vec<u8>]> = requests.into();
        let next = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..connections).map(|_| tokio::spawn(worker(address, requests.clone(), next.clone()))).collect();
        let (mut times, mut refused) = (Vec::with_capacity(requests.len()), 0);
        for worker in workers {
            let (more, bad) = worker.await.expect("a worker ends");
            times.extend(more);
            refused += bad;
        }
        (times, refused)
    }
}

async fn worker(address: SocketAddr, requests: Arc<[Vec<u8>]>, next: Arc<AtomicUsize>) -> (Vec<f64>, usize) {
    let mut stream = TcpStream::connect(address).await.expect("the server accepts");
    stream.set_nodelay(true).expect("a TCP option");
    let (mut times, mut refused, mut buffer) = (Vec::new(), 0, vec![0; 1 << 16]);
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        let start = Instant::now();
        stream.write_all(request).await.expect("the request is taken");
        let answer = answer(&mut stream, &mut buffer).await;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        refused += usize::from(answer.status != 200);
    }
    (times, refused)
}

/// One connection that asks again at once after every answer until `end`: the answers by status and by whether they say when to come
/// again, and how long those with 200 took, in milliseconds.
pub(crate) async fn ask_until(
    address: SocketAddr,
    end: Instant,
    request: impl Fn(usize) -> Vec<u8>,
) -> (BTreeMap<Answer, usize>, Vec<f64>) {
    let mut stream = TcpStream::connect(address).await.expect("the server accepts");
    stream.set_nodelay(true).expect("a TCP option");
    let (mut answers, mut times, mut buffer) = (BTreeMap::new(), Vec::new(), vec![0; 1 << 14]);
    for i in 0.. {
        let start = Instant::now();
        if start >= end {
            break;
        }
        stream.write_all(&request(i)).await.expect("the request is taken");
        let answer = answer(&mut stream, &mut buffer).await;
        if answer.status == 200 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        *answers.entry(answer).or_default() += 1;
    }
    (answers, times)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Whether it carries Retry-After.
    pub(crate) says_when: bool,
}

/// Reads one answer with a Content-Length.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Answer {
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
        let n = stream.read(&mut buffer[filled..]).await.expect("an answer comes");
        assert!(n > 0, "the server closed the connection");
        filled += n;
        let Some(end) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end]).expect("a header is ASCII").to_ascii_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:").and_then(|v| v.trim().parse::<usize>().ok()));
        if filled >= end + 4 + length.expect("the answer has a length") {
            let status = head.get(9..12).and_then(|code| code.parse().ok()).expect("the answer has a status");
            return Answer { status, says_when: head.contains("\r\nretry-after:") };
        }
    }
}
