//! Both kinds of second target keep the same promises: one suite, run for a directory and for a bucket on a real S3-compatible server.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use echopilot_actors::{
    config::{BucketKeys, Config},
    env::Pending,
    replica::{Source, Target, Upload, Watch},
};
use integration_tests::{Bucket, sha256};

/// Remembers what it is told.
#[derive(Default)]
struct Notes {
    kept: Mutex<Vec<Upload>>,
    progress: Mutex<Vec<u64>>,
}

impl Watch for Notes {
    fn progress(&self, done: u64, _: u64) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).push(done);
    }

    fn keep<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(upload.clone());
        Box::pin(async { Ok(()) })
    }
}

fn target(root: &Path, settings: &[(&str, String)], append_only: bool) -> Target {
    let path = |name: &str| root.join(name).to_string_lossy().into_owned();
    let mut environment: BTreeMap<String, String> = settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    environment.insert("ECHOPILOT__PATHS__CONFIGS".into(), path("configs"));
    environment.insert("ECHOPILOT__PATHS__BACKUPS".into(), path("backups"));
    environment.insert("ECHOPILOT__REPLICA__APPEND_ONLY".into(), append_only.to_string());
    let config = Config::load(None, &environment).expect("a configuration");
    let keys = BucketKeys::load(&config, &environment).expect("keys");
    Target::open(&config, keys.as_ref()).expect("a target").expect("it is configured")
}

async fn source(root: &Path, content: &[u8]) -> Source {
    let path = root.join("source");
    std::fs::write(&path, content).expect("a file");
    Source::open(&path).await.expect("it opens")
}

/// Bytes that no two places have in common.
fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// The suite. Small parts are 5 MB, so that the large file takes three.
async fn keeps_its_promises(root: &Path, settings: &[(&str, String)]) {
    let open = target(root, settings, false);
    let notes = Notes::default();
    assert_eq!(open.list("").await.expect("a list"), []);
    // Empty, small and large files come back as they were, whole and in ranges.
    for (name, len) in [("daily/empty", 0), ("daily/small", 100_000), ("audit/large", 12_000_000)] {
        let bytes = content(len, 7);
        let file = source(root, &bytes).await;
        assert_eq!(file.sha256, sha256(&bytes));
        assert_eq!(open.put(name, &file, None, &notes).await.expect(name), len as u64);
        assert_eq!(open.digest(name, len as u64).await.expect(name), file.sha256, "{name}");
        assert_eq!(open.read(name, len as u64).await.expect(name), bytes, "{name}");
    }
    assert_eq!(notes.progress.lock().expect("no panic").last(), Some(&12_000_000));
    let bytes = content(12_000_000, 7);
    for (offset, len) in [(0_usize, 10_usize), (5_242_870, 20), (11_999_990, 10)] {
        let range = open.read_range("audit/large", offset as u64, len as u64).await.expect("a range");
        assert_eq!(range[..], bytes[offset..offset + len]);
    }
    let names = |objects: Vec<echopilot_actors::replica::Object>| objects.into_iter().map(|o| (o.name, o.size)).collect::<Vec<_>>();
    let owned = |list: &[(&str, u64)]| list.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect::<Vec<_>>();
    assert_eq!(
        names(open.list("").await.expect("a list")),
        owned(&[("audit/large", 12_000_000), ("daily/empty", 0), ("daily/small", 100_000)])
    );
    assert_eq!(names(open.list("daily/s").await.expect("a list")), owned(&[("daily/small", 100_000)]));
    assert_eq!(names(open.list("nothing/").await.expect("a list")), []);
    // An object that is cut short is an error, not a short answer.
    assert!(open.digest("daily/small", 100_001).await.is_err());
    assert_eq!(open.read_range("daily/none", 0, 1).await.expect_err("it is not there").code.as_str(), "not_found");
    // Another content takes the place of the first.
    let other = source(root, b"another").await;
    open.put("daily/small", &other, None, &notes).await.expect("replaced");
    assert_eq!(open.read("daily/small", 7).await.expect("read"), b"another");
    // Where nothing may be replaced or removed, nothing is.
    let closed = target(root, settings, true);
    for (name, len) in [("daily/small", 20), ("audit/large", 12_000_000)] {
        let file = source(root, &content(len, 99)).await;
        assert_eq!(closed.put(name, &file, None, &notes).await.expect_err(name).reason, "exists", "{name}");
    }
    assert_eq!(closed.delete("daily/small").await.expect_err("refused").reason, "append_only");
    let new = source(root, b"new").await;
    closed.put("daily/new", &new, None, &notes).await.expect("what is not there may be put");
    assert_eq!(closed.read("daily/small", 7).await.expect("read"), b"another");
    // What is removed is gone; what is not there need not be removed.
    open.delete("daily/small").await.expect("removed");
    open.delete("daily/small").await.expect("nothing to remove");
    assert_eq!(names(open.list("daily/").await.expect("a list")), owned(&[("daily/empty", 0), ("daily/new", 3)]));
}

/// The bucket's proxy is told what to do between two of these, not within one.
fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

#[test]
fn a_directory_keeps_the_promises_of_a_second_target() {
    let root = tempfile::tempdir().expect("a directory");
    let second = root.path().join("second");
    std::fs::create_dir(&second).expect("a directory");
    run(keeps_its_promises(root.path(), &[("ECHOPILOT__REPLICA__URL", second.to_string_lossy().into_owned())]));
    let left: Vec<_> = integration_tests::names(&second).into_iter().filter(|p| p.to_string_lossy().contains(".part")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_bucket_keeps_the_promises_of_a_second_target() {
    let root = tempfile::tempdir().expect("a directory");
    let bucket = Bucket::start();
    run(keeps_its_promises(root.path(), &bucket.settings()));
}

#[test]
fn a_bucket_that_fails_in_every_way_that_passes_keeps_them_too() {
    let root = tempfile::tempdir().expect("a directory");
    let bucket = Bucket::start();
    bucket.faults(&serde_json::json!([
        {"method": "PUT", "fault": "status", "status": 500, "code": "InternalError", "times": 2},
        {"method": "PUT", "query": "partNumber=2", "fault": "cut_request", "times": 2},
        {"method": "POST", "query": "uploads", "fault": "status", "status": 503, "code": "SlowDown", "times": 2},
        {"method": "POST", "query": "uploadId", "fault": "lost_answer", "times": 1},
        {"method": "GET", "query": "list-type", "fault": "status", "status": 503, "code": "SlowDown", "times": 3},
        {"method": "GET", "path": "audit/large", "fault": "cut_answer", "times": 3},
        {"method": "GET", "path": "daily/small", "fault": "status", "status": 429, "code": "TooManyRequests", "times": 2},
        {"method": "GET", "path": "daily/", "fault": "slow", "seconds": 0.3, "times": 2},
        {"method": "DELETE", "fault": "lost_answer", "times": 1}
    ]));
    run(keeps_its_promises(root.path(), &bucket.settings()));
    let injected: std::collections::BTreeSet<String> = bucket.log().iter().filter_map(|e| e["fault"].as_str().map(str::to_owned)).collect();
    assert_eq!(injected.iter().map(String::as_str).collect::<Vec<_>>(), ["cut_answer", "cut_request", "lost_answer", "slow", "status"]);
}

#[test]
fn what_will_not_pass_is_not_asked_again_and_what_goes_on_failing_is_given_up() {
    let root = tempfile::tempdir().expect("a directory");
    let bucket = Bucket::start();
    let mut settings = bucket.settings().to_vec();
    settings.push(("ECHOPILOT__REPLICA__RETRIES", "3".into()));
    let list = || run(async { target(root.path(), &settings, false).list("").await.expect_err("it fails") });
    bucket.faults(&serde_json::json!([{"fault": "status", "status": 403, "code": "AccessDenied"}]));
    assert_eq!(list().code.as_str(), "forbidden");
    assert_eq!(bucket.log().len(), 1);
    bucket.faults(&serde_json::json!([{"fault": "status", "status": 503, "code": "SlowDown"}]));
    let error = list();
    assert_eq!((error.code.as_str(), bucket.log().len()), ("unavailable", 1 + 4));
    assert!(!error.message.contains(integration_tests::SECRET));
}

#[test]
fn an_upload_goes_on_after_its_last_whole_part() {
    let root = tempfile::tempdir().expect("a directory");
    let bucket = Bucket::start();
    let mut settings = bucket.settings().to_vec();
    settings.push(("ECHOPILOT__REPLICA__RETRIES", "0".into()));
    let (notes, file) = (Notes::default(), run(source(root.path(), &content(17_000_000, 3))));
    let put =
        |name: &str, resume: Option<Upload>| run(async { target(root.path(), &settings, false).put(name, &file, resume, &notes).await });
    let digest = |name: &str| run(async { target(root.path(), &settings, false).digest(name, file.size).await.expect("it is read") });
    bucket.faults(&serde_json::json!([{"method": "PUT", "query": "partNumber=3", "fault": "cut_request"}]));
    put("daily/a", None).expect_err("it is cut off");
    bucket.faults(&serde_json::json!([]));
    let upload = notes.kept.lock().expect("no panic").last().cloned().expect("it was written down");
    assert_eq!(upload.parts.len(), 2);
    assert_eq!(put("daily/a", Some(upload.clone())).expect("it goes on"), 17_000_000 - 2 * 5 * (1 << 20));
    for part in 1..=2 {
        assert_eq!(bucket.requests("PUT", "daily/a", &format!("partNumber={part}&")).len(), 1, "part {part} is sent once");
    }
    assert_eq!(digest("daily/a"), file.sha256);
    // An upload that the bucket has forgotten begins again.
    let forgotten = format!("uploadId={}", upload.id);
    bucket.faults(&serde_json::json!([{"method": "PUT", "query": forgotten, "fault": "status", "status": 404, "code": "NoSuchUpload"}]));
    assert_eq!(put("daily/b", Some(upload)).expect("from the beginning"), file.size);
    assert_eq!(digest("daily/b"), file.sha256);
}
