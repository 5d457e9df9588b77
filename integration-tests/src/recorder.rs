//! Whoever takes our messages: an HTTP server on loopback that keeps every request and answers as the test says.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value as Json;

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 200.
    Take,
    /// A status line's code and words, and further header lines, each with its line end.
    Status(&'static str, &'static str),
    /// The connection is closed without a word.
    HangUp,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Came {
    pub path: String,
    pub head: String,
    pub body: Vec<u8>,
    /// It was answered, with a success.
    pub taken: bool,
}

impl Came {
    /// The body; null if it is no JSON.
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or(Json::Null)
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let mut values = self.head.lines().filter_map(|line| line.split_once(": ")).filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.next().map_or_else(|| panic!("{name} in {}", self.head), |(_, value)| value.trim())
    }
}

#[derive(Clone, Debug)]
pub struct Recorder {
    address: String,
    came: Arc<Mutex<Vec<Came>>>,
}

impl Recorder {
    /// Takes everything.
    pub fn start() -> Self {
        Self::answering(|_, _| Reply::Take)
    }

    /// `answer` gets the path and how many requests to it came before. While it waits, so does whoever asked.
    pub fn answering(answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (came, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let kept = came.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (kept.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &kept, &*answer));
            }
        });
        Self { address, came }
    }

    /// Takes everything while `open`, and else fails.
    pub fn while_open(open: &Arc<AtomicBool>) -> Self {
        let open = open.clone();
        Self::answering(move |_, _| if open.load(Ordering::SeqCst) { Reply::Take } else { Reply::Status("500 Internal Server Error", "") })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn came(&self) -> Vec<Came> {
        self.came.lock().expect("unlocked").clone()
    }

    /// The ids of the messages, each once.
    pub fn ids(&self) -> BTreeSet<String> {
        self.came().iter().map(|came| came.header("webhook-id").to_owned()).collect()
    }

    /// How many were taken.
    pub fn taken(&self) -> usize {
        self.came().iter().filter(|came| came.taken).count()
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Came>>, answer: &dyn Fn(&str, usize) -> Reply) {
    let (mut bytes, mut buffer) = (Vec::new(), [0_u8; 8192]);
    let (head, body) = loop {
        let Ok(n @ 1..) = stream.read(&mut buffer) else { return };
        bytes.extend_from_slice(&buffer[..n]);
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        if bytes.len() >= end + 4 + length.unwrap_or(0) {
            break (head, bytes[end + 4..].to_vec());
        }
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (index, before) = {
        let mut kept = kept.lock().expect("unlocked");
        let before = kept.iter().filter(|came| came.path == path).count();
        kept.push(Came { path: path.clone(), head, body, taken: false });
        (kept.len() - 1, before)
    };
    let (status, more) = match answer(&path, before) {
        Reply::Take => ("200 OK", ""),
        Reply::Status(status, more) => (status, more),
        Reply::HangUp => return,
    };
    let taken = status.starts_with('2');
    kept.lock().expect("unlocked")[index].taken = taken;
    let text = if taken { "{\"ok\":true}" } else { "{\"ok\":false}" };
    let _ = write!(stream, "HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
}
