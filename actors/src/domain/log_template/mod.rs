//! Kinds of log lines, found while they are read: a tree of fixed depth after Drain (He, Zhu, Zheng and Lyu, ICWS 2017). A line is masked,
//! goes down the tree by its number of words and its first word, and joins the template there that it is most like, or begins a new one.
//! Called by the incident scanner. The same lines in the same order give the same templates; their number is bounded.

mod mask;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ring::digest;

pub use mask::mask;

/// What stands for any word.
const ANY: &str = "<*>";
/// Longer lines are cut: what tells two kinds apart comes early.
const LONGEST_WORDS: usize = 64;

/// How the tree is built. The defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Levels of the tree: the root, the number of words, the first `depth - 3` words, the leaves.
    pub depth: usize,
    /// Share of equal words from which a line belongs to a template, in percent.
    pub similar_percent: usize,
    /// Branches of one node; what finds no place goes the way of "any word".
    pub max_children: usize,
    /// Templates kept for one source; beyond, the one not seen for longest goes.
    pub max_templates: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { depth: 4, similar_percent: 40, max_children: 100, max_templates: 500 }
    }
}

/// One kind of line.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Template {
    /// 16 hex digits of the source and the first line that was like this: it stays when the text becomes more general.
    pub id: String,
    /// Which log it is of; templates of different sources never mix.
    pub source: String,
    /// The words, `<*>` for any.
    pub text: String,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    pub count: u64,
    /// How often it comes, see [`Rate`].
    #[serde(default)]
    pub rate: Rate,
}

/// How often something comes: a count that fades, so that it needs no timer. One number and a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rate {
    /// Sightings, each fading with a time constant of [`Rate::FADE_S`].
    weight: f64,
    /// When `weight` was true, and when counting began: Unix seconds.
    at: i64,
    since: i64,
}

impl Rate {
    /// Seconds in which a sighting fades to a third.
    const FADE_S: f64 = 86_400.0;

    /// Sightings to expect in `seconds` before `now`; `None` while it has been counted for less than an hour.
    pub fn expected(&self, now: DateTime<Utc>, seconds: f64) -> Option<f64> {
        let age = (now.timestamp() - self.since) as f64;
        (self.since > 0 && age >= 3600.0).then(|| self.faded(now) * seconds / (Self::FADE_S * (1.0 - (-age / Self::FADE_S).exp())))
    }

    /// Counts `n` more.
    pub fn add(&mut self, n: u64, now: DateTime<Utc>) {
        if self.since == 0 {
            self.since = now.timestamp();
        }
        (self.weight, self.at) = (self.faded(now) + n as f64, now.timestamp());
    }

    fn faded(&self, now: DateTime<Utc>) -> f64 {
        self.weight * (-((now.timestamp() - self.at).max(0) as f64) / Self::FADE_S).exp()
    }
}

/// What one line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Index of its template.
    pub template: usize,
    pub is_new: bool,
}

/// The templates of one source.
#[derive(Clone, Debug)]
pub struct Miner {
    source: String,
    settings: Settings,
    templates: Vec<Known>,
    root: Node,
}

#[derive(Clone, Debug)]
struct Known {
    words: Vec<String>,
    template: Template,
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: BTreeMap<String, Node>,
    /// At the leaves: indexes of templates.
    leaf: Vec<usize>,
}

impl Miner {
    /// A miner that knows what an earlier one had learned, in any order.
    pub fn new(source: &str, settings: Settings, mut known: Vec<Template>) -> Self {
        known.sort_by(|a, b| (a.first_seen, &a.id).cmp(&(b.first_seen, &b.id)));
        let mut miner = Self { source: source.to_owned(), settings, templates: Vec::new(), root: Node::default() };
        for template in known {
            miner.place(template.text.split_whitespace().map(str::to_owned).collect(), template);
        }
        miner
    }

    /// Learns a line.
    pub fn learn(&mut self, line: &str, now: DateTime<Utc>) -> Seen {
        let masked = mask(line);
        let words: Vec<&str> = masked.split_whitespace().take(LONGEST_WORDS).collect();
        if let Some(at) = self.best(&words) {
            let known = &mut self.templates[at];
            generalize(&mut known.words, &words);
            known.template.text = known.words.join(" ");
            known.template.last_seen = now;
            known.template.count += 1;
            return Seen { template: at, is_new: false };
        }
        self.make_room();
        let text = words.join(" ");
        let id = id_of(&self.source, &text);
        let template = Template { id, source: self.source.clone(), text, first_seen: now, last_seen: now, count: 1, rate: Rate::default() };
        let at = self.place(words.into_iter().map(str::to_owned).collect(), template);
        Seen { template: at, is_new: true }
    }

    pub fn template(&self, at: usize) -> &Template {
        &self.templates[at].template
    }

    pub fn rate_mut(&mut self, at: usize) -> &mut Rate {
        &mut self.templates[at].template.rate
    }

    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.templates.iter().map(|known| &known.template)
    }

    /// The template most like these words, if one is like enough; of equals, the more particular, then the older.
    fn best(&self, words: &[&str]) -> Option<usize> {
        let leaf = self.leaf(words)?;
        let score = |at: &usize| {
            let known = &self.templates[*at].words;
            let equal = known.iter().zip(words).filter(|(a, b)| a == *b && *a != ANY).count();
            (equal, known.iter().filter(|word| *word == ANY).count())
        };
        let (at, (equal, any)) = leaf
            .iter()
            .map(|at| (*at, score(at)))
            .max_by(|(a, (ea, na)), (b, (eb, nb))| ea.cmp(eb).then_with(|| nb.cmp(na)).then_with(|| b.cmp(a)))?;
        // Words that are any word already are no reason against it, and none for it.
        let fixed = words.len() - any;
        let enough = equal * 100 >= words.len() * self.settings.similar_percent || (fixed > 0 && equal == fixed);
        (enough || words.is_empty()).then_some(at)
    }

    fn leaf(&self, words: &[&str]) -> Option<&[usize]> {
        let mut node = self.root.children.get(&words.len().to_string())?;
        for word in words.iter().take(self.settings.depth.saturating_sub(3)) {
            node = node.children.get(*word).or_else(|| node.children.get(ANY))?;
        }
        Some(&node.leaf)
    }

    fn place(&mut self, words: Vec<String>, template: Template) -> usize {
        let at = self.templates.len();
        hang(&mut self.root, &words, at, &self.settings);
        self.templates.push(Known { words, template });
        at
    }

    /// Lets go of the template that was not seen for longest, and builds the tree again without it: rare, and never during a burst of
    /// one kind.
    fn make_room(&mut self) {
        if self.templates.len() < self.settings.max_templates.max(1) {
            return;
        }
        let oldest =
            (0..self.templates.len()).min_by_key(|at| (self.templates[*at].template.last_seen, self.templates[*at].template.id.clone()));
        if let Some(at) = oldest {
            self.templates.remove(at);
        }
        self.root = Node::default();
        for (at, known) in self.templates.iter().enumerate() {
            hang(&mut self.root, &known.words, at, &self.settings);
        }
    }
}

/// Puts a template into the tree.
fn hang(root: &mut Node, words: &[String], at: usize, settings: &Settings) {
    let mut node = root.children.entry(words.len().to_string()).or_default();
    for word in words.iter().take(settings.depth.saturating_sub(3)) {
        // A word with a digit or a mask varies: it must not make a branch of its own.
        let varies = word.contains('<') || word.bytes().any(|b| b.is_ascii_digit());
        let full = node.children.len() + 1 >= settings.max_children && !node.children.contains_key(word);
        let branch = if varies || full { ANY } else { word };
        node = node.children.entry(branch.to_owned()).or_default();
    }
    node.leaf.push(at);
}

fn generalize(known: &mut [String], words: &[&str]) {
    for (known, word) in known.iter_mut().zip(words) {
        if known != word && known != ANY {
            ANY.clone_into(known);
        }
    }
}

fn id_of(source: &str, text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("{source}\n{text}").as_bytes());
    digest.as_ref()[..8].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests;
