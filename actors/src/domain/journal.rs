//! The hash chain of the journal: what is hashed, and what a verifier can tell from a broken chain. Called by the store's
//! engine when it appends and by `journal verify` and the weekly audit when they check. Pure.
//!
//! hash(n) = SHA-256(hash(n-1) ‖ writer ‖ seq ‖ at ‖ kind ‖ subject ‖ data), each text preceded by its length as a big-endian u64,
//! numbers as big-endian i64; hash(0) is 32 zero bytes. One chain per writer.

use ring::digest;

/// The hash before the first entry of a chain.
pub const GENESIS: [u8; 32] = [0; 32];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub writer: String,
    pub seq: i64,
    /// Microseconds since the Unix epoch.
    pub at: i64,
    pub kind: String,
    pub subject: String,
    /// JSON text, byte for byte as stored.
    pub data: String,
    pub prev: Vec<u8>,
    pub hash: Vec<u8>,
}

pub fn hash(prev: &[u8], writer: &str, seq: i64, at: i64, kind: &str, subject: &str, data: &str) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(prev);
    let mut text = |t: &str| {
        context.update(&(t.len() as u64).to_be_bytes());
        context.update(t.as_bytes());
    };
    text(writer);
    text(kind);
    text(subject);
    text(data);
    context.update(&seq.to_be_bytes());
    context.update(&at.to_be_bytes());
    context.finish().as_ref().try_into().expect("SHA-256 is 32 bytes")
}

/// What is wrong with a chain, and at which entry.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Break {
    pub writer: String,
    pub seq: i64,
    /// `changed`, `removed` or `reordered`.
    pub kind: &'static str,
    pub explanation: String,
}

/// Checks one writer's chain entry by entry, in the order of `seq`; memory does not grow with the chain.
#[derive(Debug)]
pub struct Verifier {
    writer: String,
    next: i64,
    prev: Vec<u8>,
    pub breaks: Vec<Break>,
}

impl Verifier {
    pub fn new(writer: impl Into<String>) -> Self {
        Self { writer: writer.into(), next: 1, prev: GENESIS.to_vec(), breaks: Vec::new() }
    }

    /// Goes on after entry `seq`, which was seen to be in its place and had this hash.
    pub fn after(writer: impl Into<String>, seq: i64, hash: Vec<u8>) -> Self {
        Self { writer: writer.into(), next: seq + 1, prev: hash, breaks: Vec::new() }
    }

    pub fn entries(&self) -> i64 {
        self.next - 1
    }

    /// The hash of the last entry seen: the root that the weekly audit writes down.
    pub fn root(&self) -> &[u8] {
        &self.prev
    }

    fn report(&mut self, seq: i64, kind: &'static str, explanation: String) {
        self.breaks.push(Break { writer: self.writer.clone(), seq, kind, explanation });
    }

    pub fn push(&mut self, entry: &Entry) {
        let real = hash(&entry.prev, &entry.writer, entry.seq, entry.at, &entry.kind, &entry.subject, &entry.data);
        let intact = real[..] == entry.hash[..];
        if entry.seq > self.next {
            let (from, to) = (self.next, entry.seq - 1);
            self.report(from, "removed", format!("entries {from} to {to} are missing"));
        } else if !intact {
            self.report(
                entry.seq,
                "changed",
                format!("entry {} ({} {}) does not match its own hash", entry.seq, entry.kind, entry.subject),
            );
        } else if entry.prev != self.prev {
            self.report(entry.seq, "reordered", format!("entry {} is intact but does not follow entry {}", entry.seq, entry.seq - 1));
        }
        self.next = entry.seq + 1;
        self.prev.clone_from(&entry.hash);
    }

    /// Compares the end of the chain with the head that the store keeps apart: a removed tail shows only here.
    pub fn finish(&mut self, head_seq: i64, head_hash: &[u8]) {
        if self.entries() < head_seq {
            let (from, to) = (self.next, head_seq);
            self.report(from, "removed", format!("entries {from} to {to} at the end are missing"));
        } else if self.entries() > head_seq {
            let seq = head_seq + 1;
            self.report(seq, "removed", format!("the chain once had {} entries and now ends with {head_seq}", self.entries()));
        } else if self.breaks.is_empty() && self.prev != head_hash {
            let seq = self.entries();
            self.report(seq, "changed", format!("the last entry {seq} is not the one the store recorded as its head"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(n: i64) -> Vec<Entry> {
        let mut prev = GENESIS.to_vec();
        (1..=n)
            .map(|seq| {
                let (kind, subject, data) = ("test".to_owned(), format!("s{seq}"), format!("{{\"n\":{seq}}}"));
                let hash = hash(&prev, "w", seq, seq * 10, &kind, &subject, &data).to_vec();
                let entry = Entry { writer: "w".into(), seq, at: seq * 10, kind, subject, data, prev: prev.clone(), hash: hash.clone() };
                prev = hash;
                entry
            })
            .collect()
    }

    fn check(entries: &[Entry], head: (i64, &[u8])) -> Vec<(i64, &'static str)> {
        let mut verifier = Verifier::new("w");
        for e in entries {
            verifier.push(e);
        }
        verifier.finish(head.0, head.1);
        verifier.breaks.iter().map(|b| (b.seq, b.kind)).collect()
    }

    #[test]
    fn a_look_goes_on_where_the_last_one_ended() {
        let c = chain(6);
        let breaks = |from: usize, entries: &[Entry], head: (i64, &[u8])| {
            let mut verifier = Verifier::after("w", c[from].seq, c[from].hash.clone());
            for e in entries {
                verifier.push(e);
            }
            verifier.finish(head.0, head.1);
            verifier.breaks.iter().map(|b| (b.seq, b.kind)).collect::<Vec<_>>()
        };
        assert_eq!(breaks(2, &c[3..], (6, &c[5].hash)), []);
        assert_eq!(breaks(5, &[], (6, &c[5].hash)), []);
        assert_eq!(breaks(5, &[], (4, &c[3].hash)), [(5, "removed")], "what was seen before is not there any more");
        assert_eq!(breaks(1, &c[3..], (6, &c[5].hash)), [(3, "removed"), (4, "reordered")][..1].to_vec());
    }

    #[test]
    fn an_untouched_chain_has_no_break() {
        let c = chain(5);
        assert_eq!(check(&c, (5, &c[4].hash)), []);
        assert_eq!(check(&[], (0, &GENESIS)), []);
    }

    #[test]
    fn a_changed_removed_or_reordered_entry_is_named() {
        let good = chain(6);
        let head = good[5].hash.clone();
        let mut changed = good.clone();
        changed[2].data = "{\"n\":999}".into();
        assert_eq!(check(&changed, (6, &head)), [(3, "changed")]);

        let mut removed = good.clone();
        removed.remove(3);
        assert_eq!(check(&removed, (6, &head)), [(4, "removed")]);
        assert_eq!(check(&good[..4], (6, &head)), [(5, "removed")]);

        // Two entries swapped, each with its sequence number rewritten: the content no longer matches its hash.
        let mut swapped = good.clone();
        swapped.swap(1, 2);
        (swapped[1].seq, swapped[2].seq) = (2, 3);
        assert_eq!(check(&swapped, (6, &head)).first(), Some(&(2, "changed")));

        // An entry replaced by a forged one with a right hash of its own: the next one does not follow it.
        let mut forged = good.clone();
        forged[2].data = "{\"n\":999}".into();
        let e = forged[2].clone();
        forged[2].hash = hash(&e.prev, "w", 3, e.at, &e.kind, &e.subject, &e.data).to_vec();
        assert_eq!(check(&forged, (6, &head)), [(4, "reordered")]);
    }
}
