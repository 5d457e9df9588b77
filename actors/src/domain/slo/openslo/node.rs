//! A YAML document whose every value knows its line, and a reader of its fields that remembers which were asked for: what nobody asked for
//! is named. Used by `import.rs` only.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Any value of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<At>),
    Map(Vec<(String, At)>),
}

/// A value and its line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct At {
    pub(super) line: u64,
    pub(super) node: Node,
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), node: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Number(value as f64))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Number(value as f64))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Number(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut fields = Vec::new();
                while let Some((key, value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(Node::Map(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The fields of one map, each to be asked for once.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// Where it is, for messages: `document 2 (SLO shop): spec`.
    pub(super) place: String,
    line: u64,
    entries: &'a [(String, At)],
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The error says that it is no map.
    pub(super) fn of(at: &'a At, place: impl Into<String>) -> Result<Self, String> {
        let place = place.into();
        match &at.node {
            Node::Map(entries) => Ok(Self { place, line: at.line, entries, asked: Vec::new() }),
            _ => Err(format!("line {}: {place}: must be a mapping", at.line)),
        }
    }

    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a At> {
        self.asked.push(key);
        self.entries.iter().find(|(name, _)| name == key).map(|(_, at)| at).filter(|at| at.node != Node::Null)
    }

    pub(super) fn path(&self, key: &str) -> String {
        if self.place.ends_with(')') { format!("{}: {key}", self.place) } else { format!("{}.{key}", self.place) }
    }

    /// A field that says nothing to us and is no loss.
    pub(super) fn ignore(&mut self, key: &'static str) {
        self.asked.push(key);
    }

    fn wrong(&self, key: &str, at: &At, expected: &str) -> String {
        format!("line {}: {}: must be {expected}", at.line, self.path(key))
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<&'a str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(At { node: Node::Text(text), .. }) => Ok(Some(text)),
            Some(at) => Err(self.wrong(key, at, "a text")),
        }
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<(f64, u64)>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(At { node: Node::Number(number), line }) => Ok(Some((*number, *line))),
            Some(at) => Err(self.wrong(key, at, "a number")),
        }
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(At { node: Node::Bool(flag), .. }) => Ok(Some(*flag)),
            Some(at) => Err(self.wrong(key, at, "true or false")),
        }
    }

    pub(super) fn list(&mut self, key: &'static str) -> Result<&'a [At], String> {
        match self.get(key) {
            None => Ok(&[]),
            Some(At { node: Node::List(list), .. }) => Ok(list),
            Some(at) => Err(self.wrong(key, at, "a list")),
        }
    }

    pub(super) fn map(&mut self, key: &'static str) -> Result<Option<Fields<'a>>, String> {
        let path = self.path(key);
        self.get(key).map(|at| Fields::of(at, path)).transpose()
    }

    /// An error about one of the fields, with its line.
    pub(super) fn error(&mut self, key: &'static str, what: &str) -> String {
        let line = self.get(key).map_or(self.line, |at| at.line);
        format!("line {line}: {}: {what}", self.path(key))
    }

    /// The fields that nobody asked for.
    pub(super) fn rest(&self, notes: &mut Vec<String>) {
        let unknown = self.entries.iter().filter(|(name, _)| !self.asked.contains(&name.as_str()));
        notes.extend(unknown.map(|(name, at)| format!("line {}: {}: not supported, left out", at.line, self.path(name))));
    }
}
