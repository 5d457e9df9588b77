//! Files the rest of the program leaves behind: atomic replacement, whole-line appends with rotation, secrets. Called by tasks,
//! the timer and the configuration. A latest file is either the old one or the new one, a history survives a torn last line.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::{Mutex, PoisonError},
};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::error::{Context as _, Error, Result};

/// Bytes as lowercase hex.
pub use echopilot_archive::hex::encode as hex;

/// Reports and histories; readable by the group.
pub const MODE_REPORT: u32 = 0o640;
/// Secrets, payout archives.
pub const MODE_PRIVATE: u32 = 0o600;

/// Replaces `path` by `bytes`: temporary file in the same folder, fsync, rename, fsync of the folder.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let doing = || format!("cannot write {}", path.display());
    fs::create_dir_all(folder).context(doing())?;
    let mut file = tempfile::Builder::new()
        .prefix(".")
        .suffix(".tmp")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(folder)
        .context(doing())?;
    file.write_all(bytes).context(doing())?;
    file.as_file().sync_all().context(doing())?;
    file.persist(path).map_err(|e| Error::from(e.error)).context(doing())?;
    sync_folder(folder)
}

/// Replaces `path` by indented JSON with a final newline.
pub fn replace_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    replace(path, &text, MODE_REPORT)
}

/// Appends one line of JSON. If a crash left a line without its end, that line is closed first, so that it spoils no other.
/// Above `max_bytes` the file is renamed to `<name>.1`, older ones move up, `keep` of them stay.
pub fn append_line(path: &Path, value: &serde_json::Value, max_bytes: u64, keep: u32) -> Result<()> {
    append_text(path, &value.to_string(), max_bytes, keep).context(format!("cannot append to {}", path.display()))
}

fn append_text(path: &Path, line: &str, max_bytes: u64, keep: u32) -> Result<()> {
    // Two appends at the limit must not both rotate.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(path).is_ok_and(|m| m.len() >= max_bytes) {
        rotate(path, keep)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).read(true).mode(MODE_REPORT).open(path)?;
    let mut text = Vec::with_capacity(line.len() + 2);
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            text.push(b'\n');
        }
    }
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
    file.write_all(&text)?; // one write: O_APPEND makes the line whole
    file.sync_data()?;
    Ok(())
}

/// Moves `path` to `path.1`, `path.1` to `path.2` and so on; the oldest beyond `keep` goes.
pub fn rotate(path: &Path, keep: u32) -> Result<()> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        std::path::PathBuf::from(name)
    };
    for n in (1..keep).rev() {
        if numbered(n).exists() {
            fs::rename(numbered(n), numbered(n + 1))?;
        }
    }
    fs::rename(path, numbered(1))?;
    Ok(())
}

/// Makes a rename durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).context(format!("cannot sync {}", folder.display()))
}

/// Reads the secret in `path`, or makes one of 32 random bytes in hex after `prefix` and keeps it there, 0600.
pub fn secret(path: &Path, prefix: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().len() >= 32 => Ok(text.trim().to_owned()),
        Ok(_) => {
            Err(Error::invalid("configuration", format!("{} holds no usable secret: delete it and a new one is made", path.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret = format!("{prefix}{}", random_hex(32));
            replace(path, format!("{secret}\n").as_bytes(), MODE_PRIVATE)?;
            Ok(secret)
        }
        Err(error) => Err(Error::from(error).context(format!("cannot read {}", path.display()))),
    }
}

/// The bytes of a text in hex; `None` if it is none.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// `n` random bytes as lowercase hex.
pub fn random_hex(n: usize) -> String {
    let mut bytes = vec![0; n];
    SystemRandom::new().fill(&mut bytes).expect("the system's random generator answers");
    hex(&bytes)
}

/// A random number from 0 to 1, to spread what would otherwise happen together.
pub fn random_unit() -> f64 {
    let mut byte = [0];
    SystemRandom::new().fill(&mut byte).expect("the system's random generator answers");
    f64::from(byte[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.ndjson");
        append_line(&path, &serde_json::json!({"n": 1}), 1000, 3).unwrap();
        fs::write(&path, b"{\"n\":1}\n{\"n\":2,\"to").unwrap();
        append_line(&path, &serde_json::json!({"n": 3}), 1000, 3).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"n\":1}\n{\"n\":2,\"to\n{\"n\":3}\n");
    }

    #[test]
    fn a_history_is_rotated_and_no_line_is_lost_before_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.ndjson");
        for n in 0..5 {
            append_line(&path, &serde_json::json!({ "n": n }), 10, 2).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("h.ndjson"), "{\"n\":4}\n");
        assert_eq!(read("h.ndjson.1"), "{\"n\":2}\n{\"n\":3}\n");
        assert_eq!(read("h.ndjson.2"), "{\"n\":0}\n{\"n\":1}\n");
    }

    #[test]
    fn a_secret_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = secret(&path, "ep_").unwrap();
        assert_eq!(secret(&path, "ep_").unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "short").unwrap();
        assert!(secret(&path, "ep_").is_err());
    }
}
