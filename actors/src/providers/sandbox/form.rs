//! The provider's request encoding: `a[b][0]=c` in form bodies and query strings, read into a tree, and typed access to
//! it with the provider's own complaints. Called by every handler of the sandbox. Refuses parameters that a handler does not
//! name, so that nothing is silently ignored.

use serde_json::{Map, Value as Json};

use super::failure::{Api, Failure};

/// Brackets in one key, and pairs in one request: beyond this it is an attack or a mistake.
const DEPTH: usize = 6;
const PAIRS: usize = 1000;

/// Reads a form into a tree of objects, arrays and strings.
pub(super) fn decode(text: &[u8]) -> Api<Json> {
    let mut root = Map::new();
    for (count, (key, value)) in form_urlencoded::parse(text).enumerate() {
        let path = split(&key).filter(|p| p.len() <= DEPTH && count < PAIRS);
        let Some(path) = path else { return Err(unreadable(&key)) };
        insert(&mut root, &path, &value).ok_or_else(|| unreadable(&key))?;
    }
    Ok(Json::Object(root.into_iter().map(|(name, value)| if name == "metadata" { (name, value) } else { (name, arrays(value)) }).collect()))
}

fn unreadable(key: &str) -> Box<Failure> {
    Failure::parameter("parameter_invalid", key, format!("Invalid parameter name or structure: {key}"))
}

/// "a[b][]" into "a", "b", "".
fn split(key: &str) -> Option<Vec<&str>> {
    let (first, mut rest) = key.split_at(key.find('[').unwrap_or(key.len()));
    if first.is_empty() {
        return None;
    }
    let mut path = vec![first];
    while !rest.is_empty() {
        let (name, after) = rest.strip_prefix('[')?.split_once(']')?;
        path.push(name);
        rest = after;
    }
    Some(path)
}

fn insert(node: &mut Map<String, Json>, path: &[&str], value: &str) -> Option<()> {
    let (name, rest) = path.split_first()?;
    let name = if name.is_empty() { node.len().to_string() } else { (*name).to_owned() };
    if rest.is_empty() {
        return node.insert(name, value.into()).is_none().then_some(());
    }
    insert(node.entry(name).or_insert_with(|| Json::Object(Map::new())).as_object_mut()?, rest, value)
}

/// Objects whose names are all numbers were arrays.
fn arrays(value: Json) -> Json {
    let Json::Object(map) = value else { return value };
    let indexes: Option<Vec<usize>> = map.keys().map(|k| k.parse().ok()).collect();
    let entries = map.into_iter().map(|(k, v)| (k, arrays(v)));
    match indexes {
        Some(indexes) if !indexes.is_empty() => {
            let mut items: Vec<_> = indexes.into_iter().zip(entries.map(|(_, v)| v)).collect();
            items.sort_by_key(|(index, _)| *index);
            Json::Array(items.into_iter().map(|(_, v)| v).collect())
        }
        _ => Json::Object(entries.collect()),
    }
}

/// A bound on a time field: `created=5`, `created[gte]=5`, ...; both ends are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) min: i64,
    pub(super) max: i64,
}

impl Range {
    pub(super) const ALL: Self = Self { min: i64::MIN, max: i64::MAX };
}

/// The parameters of a request, or of one of their objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Params<'a> {
    tree: &'a Json,
}

impl<'a> Params<'a> {
    pub(super) fn new(tree: &'a Json) -> Self {
        Self { tree }
    }

    /// Refuses every parameter that is not in `names`; `expand` is always allowed.
    pub(super) fn only(self, names: &[&str]) -> Api<()> {
        let unknown = self.tree.as_object().and_then(|map| map.keys().find(|k| !names.contains(&k.as_str()) && *k != "expand"));
        match unknown {
            Some(name) => Err(Failure::parameter("parameter_unknown", name, format!("Received unknown parameter: {name}"))),
            None => Ok(()),
        }
    }

    pub(super) fn has(self, name: &str) -> bool {
        self.tree.get(name).is_some()
    }

    /// A text that is present and not empty.
    pub(super) fn text(self, name: &str) -> Option<&'a str> {
        self.tree.get(name).and_then(Json::as_str).filter(|t| !t.is_empty())
    }

    /// Text or null, for a member of an object.
    pub(super) fn text_or_null(self, name: &str) -> Json {
        self.text(name).into()
    }

    pub(super) fn required(self, name: &str) -> Api<&'a str> {
        self.text(name).ok_or_else(|| Failure::missing_parameter(name))
    }

    pub(super) fn int(self, name: &str) -> Api<Option<i64>> {
        match self.tree.get(name) {
            None => Ok(None),
            Some(Json::String(text)) if text.is_empty() => Ok(None),
            Some(Json::String(text)) => text.parse().map(Some).map_err(|_| invalid_integer(name, text)),
            Some(other) => Err(invalid_integer(name, &other.to_string())),
        }
    }

    pub(super) fn boolean(self, name: &str) -> Api<Option<bool>> {
        match self.text(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Failure::parameter("parameter_invalid_boolean", name, format!("Invalid boolean: {other}"))),
        }
    }

    /// One of a few words.
    pub(super) fn choice(self, name: &str, words: &[&'static str]) -> Api<Option<&'static str>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match words.iter().find(|w| **w == text) {
            Some(word) => Ok(Some(word)),
            None => {
                Err(Failure::parameter("parameter_invalid_string", name, format!("Invalid {name}: must be one of {}", words.join(", "))))
            }
        }
    }

    pub(super) fn sub(self, name: &str) -> Option<Params<'a>> {
        self.tree.get(name).filter(|v| v.is_object()).map(Params::new)
    }

    /// The one element of a list of objects.
    pub(super) fn only_element(self, name: &str) -> Api<Option<Params<'a>>> {
        match self.tree.get(name) {
            None => Ok(None),
            Some(Json::Array(items)) if items.len() == 1 && items[0].is_object() => Ok(Some(Params::new(&items[0]))),
            Some(_) => Err(Failure::parameter("parameter_invalid", name, format!("Exactly one of {name} is possible here."))),
        }
    }

    /// The texts of `name[]`, or the one of `name`.
    pub(super) fn list(self, name: &str) -> Vec<&'a str> {
        match self.tree.get(name) {
            Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).collect(),
            Some(Json::String(text)) if !text.is_empty() => vec![text],
            _ => Vec::new(),
        }
    }

    /// The objects of `name[0][...]`, `name[1][...]`, ...
    pub(super) fn items(self, name: &str) -> Vec<Params<'a>> {
        self.tree.get(name).and_then(Json::as_array).into_iter().flatten().filter(|v| v.is_object()).map(Params::new).collect()
    }

    pub(super) fn range(self, name: &str) -> Api<Option<Range>> {
        if let Some(exact) = self.tree.get(name).filter(|v| v.is_string()) {
            return Ok(exact
                .as_str()
                .filter(|t| !t.is_empty())
                .map(|_| self.int(name))
                .transpose()?
                .flatten()
                .map(|v| Range { min: v, max: v }));
        }
        let Some(bounds) = self.sub(name) else { return Ok(None) };
        bounds.only(&["gt", "gte", "lt", "lte"])?;
        let mut range = Range::ALL;
        for (bound, is_lower, step) in [("gt", true, 1), ("gte", true, 0), ("lt", false, -1), ("lte", false, 0)] {
            match bounds.int(bound)?.map(|v| v.saturating_add(step)) {
                Some(v) if is_lower => range.min = range.min.max(v),
                Some(v) => range.max = range.max.min(v),
                None => {}
            }
        }
        Ok(Some(range))
    }

    /// A flat object of texts such as an address, with the named members; null if it is not given.
    pub(super) fn record(self, name: &str, members: &[&str]) -> Api<Json> {
        let Some(sub) = self.sub(name) else { return Ok(Json::Null) };
        sub.only(members)?;
        Ok(Json::Object(members.iter().map(|m| ((*m).to_owned(), sub.text_or_null(m))).collect()))
    }

    /// Merges `metadata[...]` into what is there; an empty value removes its key, an empty `metadata` removes all.
    pub(super) fn merge_metadata(self, body: &mut Json) {
        let mut metadata = match body.get("metadata") {
            Some(Json::Object(map)) => map.clone(),
            _ => Map::new(),
        };
        match self.tree.get("metadata") {
            Some(Json::Object(changes)) => {
                for (key, value) in changes {
                    match value.as_str() {
                        Some("") | None => drop(metadata.shift_remove(key)),
                        Some(text) => drop(metadata.insert(key.clone(), text.into())),
                    }
                }
            }
            Some(Json::String(_)) => metadata.clear(),
            _ => {}
        }
        body["metadata"] = Json::Object(metadata);
    }

    /// Copies the given texts into an object; an empty text becomes null.
    pub(super) fn copy_texts(self, body: &mut Json, names: &[&str]) {
        for name in names.iter().filter(|n| self.has(n)) {
            body[*name] = self.text_or_null(name);
        }
    }
}

fn invalid_integer(name: &str, text: &str) -> Box<Failure> {
    Failure::parameter("parameter_invalid_integer", name, format!("Invalid integer: {text}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_keys_become_a_tree() {
        for (form, tree) in [
            ("", json!({})),
            ("a=1&b=", json!({"a": "1", "b": ""})),
            ("a[b]=c&a[d]=e", json!({"a": {"b": "c", "d": "e"}})),
            ("a[b][0]=c&a[b][1]=d", json!({"a": {"b": ["c", "d"]}})),
            ("expand[]=x&expand[]=y", json!({"expand": ["x", "y"]})),
            ("a[1][b]=second&a[0][b]=first", json!({"a": [{"b": "first"}, {"b": "second"}]})),
            ("metadata[0]=zero", json!({"metadata": {"0": "zero"}})),
            ("a%5Bb%5D=x+y%26z", json!({"a": {"b": "x y&z"}})),
        ] {
            assert_eq!(decode(form.as_bytes()).unwrap(), tree, "{form}");
        }
    }

    #[test]
    fn contradictory_or_absurd_keys_are_refused() {
        for form in ["a=1&a[b]=2", "a[b]=1&a=2", "a=1&a=2", "[b]=1", "a[b=1", "a[b]c=1", "a[1][2][3][4][5][6]=x", "=x"] {
            assert!(decode(form.as_bytes()).is_err(), "{form}");
        }
    }

    #[test]
    fn values_are_typed_or_refused_with_the_parameters_name() {
        let tree = decode(b"amount=12&bad=1.5&flag=true&created[gt]=5&created[lte]=9&at=7&word=x").unwrap();
        let params = Params::new(&tree);
        assert_eq!(params.int("amount").unwrap(), Some(12));
        assert_eq!(params.int("absent").unwrap(), None);
        assert_eq!(params.int("bad").unwrap_err().body()["error"]["param"], "bad");
        assert_eq!(params.boolean("flag").unwrap(), Some(true));
        assert!(params.boolean("word").is_err());
        assert_eq!(params.range("created").unwrap(), Some(Range { min: 6, max: 9 }));
        assert_eq!(params.range("at").unwrap(), Some(Range { min: 7, max: 7 }));
        assert_eq!(params.only(&["amount"]).unwrap_err().body()["error"]["code"], "parameter_unknown");
    }

    #[test]
    fn metadata_is_merged_and_an_empty_value_removes_a_key() {
        let mut body = json!({"metadata": {"a": "1", "b": "2"}});
        Params::new(&decode(b"metadata[a]=&metadata[c]=3").unwrap()).merge_metadata(&mut body);
        assert_eq!(body["metadata"], json!({"b": "2", "c": "3"}));
        Params::new(&decode(b"metadata=").unwrap()).merge_metadata(&mut body);
        assert_eq!(body["metadata"], json!({}));
    }

    proptest::proptest! {
        #[test]
        fn no_form_makes_it_panic(form in ".{0,60}") {
            let _ = decode(form.as_bytes());
        }
    }
}
