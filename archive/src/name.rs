//! Which member names and links of an archive are safe, and which members stand in each other's way. Names are bytes, as in a file
//! system. A path that passes stays under the root it is joined to, as long as restore never follows a symbolic link in a parent
//! directory; links that pass never point outside either. Called for every member before a single byte is written.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Bytes in one name and in a whole path: the limits of Linux.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4095;

/// A member name as text for JSON: unchanged if it is UTF-8 without control characters and `%`, else with every other byte as `%XX`.
pub fn path_to_text(raw: &[u8]) -> String {
    match std::str::from_utf8(raw) {
        Ok(text) if !text.contains(|c: char| c.is_control() || c == '%') => text.to_owned(),
        _ => percent_encoding::percent_encode(raw, &ESCAPED).to_string(),
    }
}

/// The inverse of [`path_to_text`].
pub fn text_to_path(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

const ESCAPED: percent_encoding::AsciiSet = percent_encoding::CONTROLS.add(b'%');

/// The relative path of a member name, or why it is refused: empty, absolute, with `..`, with a NUL byte or longer than a path can be.
/// `.` and doubled or trailing slashes disappear. Bytes that are not UTF-8, backslashes and newlines are ordinary.
pub fn safe_member_path(raw: &[u8]) -> Result<PathBuf, String> {
    let refuse = |why: &str| Err(format!("member \"{}\": {why}", path_to_text(raw)));
    if raw.contains(&0) {
        return refuse("a NUL byte in its name");
    }
    if raw.first() == Some(&b'/') {
        return refuse("an absolute path");
    }
    let mut path = PathBuf::new();
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("\"..\" leads out of the archive"),
            _ if part.len() > NAME_MAX => return refuse("a name of more than 255 bytes"),
            _ => path.push(OsStr::from_bytes(part)),
        }
    }
    match path.as_os_str().len() {
        0 => refuse("an empty name"),
        length if length > PATH_MAX => refuse("a path of more than 4095 bytes"),
        _ => Ok(path),
    }
}

/// Whether the symbolic link at `member` (a path that passed [`safe_member_path`]) may point to `target`: only to something in the archive.
/// `..` may only stand at the front: after a name it could leave through another link. The target of a hard link is a member
/// name: check it with [`safe_member_path`].
pub fn safe_link(member: &Path, target: &[u8]) -> Result<(), String> {
    let refuse = |why: &str| {
        let (member, target) = (path_to_text(member.as_os_str().as_bytes()), path_to_text(target));
        Err(format!("link \"{member}\" to \"{target}\": {why}"))
    };
    if target.is_empty() || target.contains(&0) || target.len() > PATH_MAX {
        return refuse("empty, too long or with a NUL byte");
    }
    if target.first() == Some(&b'/') {
        return refuse("an absolute path");
    }
    let mut depth = member.components().count().saturating_sub(1);
    let mut below = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if below => return refuse("\"..\" after a name"),
            b".." if depth == 0 => return refuse("it leads out of the archive"),
            b".." => depth -= 1,
            _ => below = true,
        }
    }
    Ok(())
}

/// What a member is, as far as another member could be in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// Anything else: a file or a link.
    File,
}

/// The members seen so far; finds those that would overwrite or pass through another one. It keeps a digest of each path and not
/// the path itself: a million members are some 30 MB.
#[derive(Debug, Default)]
pub struct Members {
    seen: HashMap<[u8; 16], Kind>,
}

impl Members {
    /// Names seen so far, with folders that were only part of a name.
    pub fn known(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Remembers a member, or says why it cannot be: the name was there before, a file (or a link!) stands where a directory is needed, or
    /// the other way round. A directory may come twice. `path` has passed [`safe_member_path`].
    pub fn add(&mut self, path: &Path, kind: Kind) -> Result<(), String> {
        let name = || path_to_text(path.as_os_str().as_bytes());
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            match self.seen.entry(digest(parent)) {
                // A known directory has had its own parents checked.
                Entry::Occupied(known) if *known.get() == Kind::Directory => break,
                Entry::Occupied(_) => {
                    let parent = path_to_text(parent.as_os_str().as_bytes());
                    return Err(format!("member \"{}\" is inside \"{parent}\", which is no directory", name()));
                }
                Entry::Vacant(place) => {
                    place.insert(Kind::Directory);
                }
            }
        }
        match (self.seen.entry(digest(path)), kind) {
            (Entry::Vacant(place), _) => {
                place.insert(kind);
                Ok(())
            }
            (Entry::Occupied(known), _) => match (*known.get(), kind) {
                (Kind::Directory, Kind::Directory) => Ok(()),
                (Kind::File, Kind::File) => Err(format!("member \"{}\" is there twice", name())),
                _ => Err(format!("member \"{}\" is both a directory and not one", name())),
            },
        }
    }
}

/// Stands for a path where many are remembered.
pub(crate) fn digest(path: &Path) -> [u8; 16] {
    *blake3::hash(path.as_os_str().as_bytes()).as_bytes().first_chunk().expect("a digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    #[test]
    fn member_names_that_are_safe_are_normalised() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"logs/slo_status.json", b"logs/slo_status.json"),
            (b"./logs//a.json", b"logs/a.json"),
            (b"logs/", b"logs"),
            (b"a\\b", b"a\\b"),
            (b"..a/b..", b"..a/b.."),
            (b"C:/x", b"C:/x"),
            (b"line\nbreak", b"line\nbreak"),
            (b"\xff\xfe/x", b"\xff\xfe/x"),
        ];
        for (raw, expected) in cases {
            assert_eq!(safe_member_path(raw).unwrap().as_os_str().as_bytes(), expected, "{}", path_to_text(raw));
        }
    }

    #[test]
    fn member_names_that_could_leave_the_root_are_refused() {
        let long = vec![b'a'; 256];
        let deep = b"aa/".repeat(1400);
        let cases: [&[u8]; 12] = [b"", b".", b"./", b"/", b"/etc/passwd", b"//etc", b"..", b"../x", b"a/../b", b"a/..", b"a\0b", b"./../x"];
        for raw in cases.into_iter().chain([&long[..], &deep[..]]) {
            let error = safe_member_path(raw).unwrap_err();
            assert!(error.starts_with("member \""), "{error}");
        }
    }

    #[test]
    fn links_stay_inside_the_archive() {
        let cases: [(&str, &[u8], bool); 13] = [
            ("a/link", b"file", true),
            ("a/link", b"../b/file", true),
            ("a/b/link", b"../../c", true),
            ("a/link", b"./x//y", true),
            ("link", b"..", false),
            ("link", b"../x", false),
            ("a/link", b"../../etc/passwd", false),
            ("a/link", b"/etc/passwd", false),
            ("a/link", b"b/../../c", false),
            ("a/b/c/link", b"other/../..", false),
            ("a/link", b"", false),
            ("a/link", b"x\0y", false),
            ("a/link", b"..", true),
        ];
        for (member, target, safe) in cases {
            let result = safe_link(Path::new(member), target);
            assert_eq!(result.is_ok(), safe, "{member} -> {}: {result:?}", path_to_text(target));
        }
    }

    #[test]
    fn members_in_each_others_way_are_found() {
        use Kind::{Directory, File};
        let cases: [(&[(&str, Kind)], bool); 8] = [
            (&[("logs", Directory), ("logs/a", File), ("logs", Directory), ("logs/b", File)], true),
            (&[("logs/a", File), ("logs", Directory)], true),
            (&[("a", File), ("a", File)], false),
            (&[("a", File), ("a/b", File)], false),
            (&[("a", File), ("a/b/c", File)], false),
            (&[("a/b", File), ("a", File)], false),
            (&[("a", Directory), ("a", File)], false),
            (&[("a", File), ("a", Directory)], false),
        ];
        for (members, fine) in cases {
            let mut seen = Members::default();
            let results: Vec<_> = members.iter().map(|(path, kind)| seen.add(Path::new(path), *kind)).collect();
            let (last, before) = results.split_last().unwrap();
            assert!(before.iter().all(Result::is_ok));
            assert_eq!(last.is_ok(), fine, "{members:?}: {last:?}");
        }
    }

    fn any_name() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just(b"..".to_vec()),
            Just(b".".to_vec()),
            Just(Vec::new()),
            Just(b"a".to_vec()),
            Just(b"...".to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(part, 0..6).prop_map(|parts| parts.join(&b'/'))
    }

    /// Where a path leads from the root by its components, or `None` if it ever leaves it.
    fn depth(path: &Path) -> Option<usize> {
        path.components().try_fold(0usize, |depth, component| match component {
            Component::Normal(_) => Some(depth + 1),
            Component::CurDir => Some(depth),
            Component::ParentDir => depth.checked_sub(1),
            Component::RootDir | Component::Prefix(_) => None,
        })
    }

    proptest! {
        #[test]
        fn no_accepted_path_escapes_its_root(raw in any_name()) {
            if let Ok(path) = safe_member_path(&raw) {
                prop_assert!(path.components().all(|component| matches!(component, Component::Normal(_))));
                let joined = Path::new("/root/of/restore").join(&path);
                prop_assert!(joined.starts_with("/root/of/restore") && joined != Path::new("/root/of/restore"));
                prop_assert_eq!(safe_member_path(path.as_os_str().as_bytes()), Ok(path));
            }
        }

        #[test]
        fn no_accepted_link_escapes_its_root(member in any_name(), target in any_name()) {
            if let Ok(member) = safe_member_path(&member) && safe_link(&member, &target).is_ok() {
                let from = member.parent().unwrap();
                prop_assert!(depth(&from.join(OsStr::from_bytes(&target))).is_some());
            }
        }

        #[test]
        fn every_name_survives_as_text(raw in any_name()) {
            let text = path_to_text(&raw);
            prop_assert!(!text.contains(char::is_control));
            prop_assert_eq!(text_to_path(&text), raw);
        }
    }
}
