//! The daemon's signature: an Ed25519 key in the data directory that is made at its first use, 0600, and never leaves it. What is
//! signed with it (manifests, checkpoints of the journal) can be verified by anybody who has `backups/signing_key.pub`, without
//! this program: docs/replica.md has the command. A key that replaces another leaves the other's public half beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde_json::{Map, Value as Json};

use crate::{
    error::{Error, Result},
    files,
};

/// The key's file in the data directory: PKCS#8 in hex.
pub const KEY_FILE: &str = "signing_key";
/// Its public half below `backups/`: PEM, as other tools read it.
pub const PUBLIC_FILE: &str = "signing_key.pub";
/// The member of a signed JSON object that holds the signature over all the others.
pub const MEMBER: &str = "signature";

/// What comes before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Who signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Signature {
    /// [`PublicKey::id`] of the key.
    pub key_id: String,
    /// 64 bytes, lower-case hex.
    pub hex: String,
}

/// The public half of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The first 16 hex digits of its SHA-256.
    pub fn id(&self) -> String {
        files::hex(&digest::digest(&digest::SHA256, &self.0).as_ref()[..8])
    }

    /// As `openssl pkey -pubin` reads it.
    pub fn to_pem(self) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode([&SPKI[..], &self.0].concat()))
    }

    /// Errors: `invalid` with reason `signature` for anything but an Ed25519 key.
    pub fn from_pem(text: &str) -> Result<Self> {
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let key = STANDARD_NO_PAD
            .decode(body.trim_end_matches('='))
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes.strip_prefix(&SPKI[..])?).ok());
        key.map(Self).ok_or_else(|| Error::invalid("signature", "this is not the public half of an Ed25519 key in PEM"))
    }
}

/// The key of this data directory.
pub struct Signer {
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.public_key().id()).finish()
    }
}

impl Signer {
    /// Reads the key in `data`, or makes it, and puts its public half below `backups`. Blocks for a file or two.
    pub fn open(data: &Path, backups: &Path) -> Result<Self> {
        static TURN: Mutex<()> = Mutex::new(()); // two first uses at once must not make two keys
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let path = data.join(KEY_FILE);
        let unusable =
            || Error::invalid("configuration", format!("{} holds no usable key: delete it and a new one is made", path.display()));
        let pkcs8 = match fs::read_to_string(&path) {
            Ok(text) => files::from_hex(text.trim()).ok_or_else(unusable)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let made =
                    Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| Error::internal("no random numbers for a key"))?;
                files::replace(&path, format!("{}\n", files::hex(made.as_ref())).as_bytes(), files::MODE_PRIVATE)?;
                made.as_ref().to_vec()
            }
            Err(error) => return Err(Error::from(error).context(format!("cannot read {}", path.display()))),
        };
        let signer = Self { pair: Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| unusable())? };
        export(&signer.public_key(), backups)?;
        Ok(signer)
    }

    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes"))
    }

    pub fn sign(&self, bytes: &[u8]) -> Signature {
        Signature { key_id: self.public_key().id(), hex: files::hex(self.pair.sign(bytes).as_ref()) }
    }

    /// Adds [`MEMBER`] to an object: the signature over its compact JSON text without that member.
    pub fn sign_object(&self, object: &mut Map<String, Json>) {
        object.shift_remove(MEMBER);
        let signature = self.sign(Json::Object(object.clone()).to_string().as_bytes());
        object.insert(MEMBER.into(), serde_json::json!(signature));
    }
}

/// Whether `signature` is `key`'s over these bytes. Errors: `invalid` with reason `signature`, saying whose it is or that it is none.
pub fn verify(key: &PublicKey, bytes: &[u8], signature: &Signature) -> Result<()> {
    if key.id() != signature.key_id {
        return Err(Error::invalid("signature", format!("it is signed by key {}, not by {}", signature.key_id, key.id())));
    }
    files::from_hex(&signature.hex)
        .and_then(|hex| UnparsedPublicKey::new(&ED25519, key.0).verify(bytes, &hex).ok())
        .ok_or_else(|| Error::invalid("signature", format!("the signature of key {} does not match: the content was changed", key.id())))
}

/// Verifies what [`Signer::sign_object`] made.
pub fn verify_object(key: &PublicKey, object: &Map<String, Json>) -> Result<()> {
    let mut rest = object.clone();
    let signature = rest.shift_remove(MEMBER).and_then(|s| serde_json::from_value::<Signature>(s).ok());
    let signature = signature.ok_or_else(|| Error::invalid("signature", "it is not signed"))?;
    verify(key, Json::Object(rest).to_string().as_bytes(), &signature)
}

/// The public key of that id below `backups`: the present one, or one that it replaced. `None` if there is no such.
pub fn known_key(backups: &Path, key_id: &str) -> Result<Option<PublicKey>> {
    for path in [backups.join(PUBLIC_FILE), earlier(backups, key_id)] {
        if let Some(key) = read_public(&path)?.filter(|key| key.id() == key_id) {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

fn export(key: &PublicKey, backups: &Path) -> Result<()> {
    let path = backups.join(PUBLIC_FILE);
    match read_public(&path)? {
        Some(there) if there == *key => return Ok(()),
        // What it signed can still be verified.
        Some(there) => files::replace(&earlier(backups, &there.id()), there.to_pem().as_bytes(), files::MODE_REPORT)?,
        None => {}
    }
    files::replace(&path, key.to_pem().as_bytes(), files::MODE_REPORT)
}

fn earlier(backups: &Path, key_id: &str) -> PathBuf {
    let id: String = key_id.chars().filter(char::is_ascii_hexdigit).collect(); // it may come from a file we do not trust
    backups.join(format!("signing_key.{id}.pub"))
}

fn read_public(path: &Path) -> Result<Option<PublicKey>> {
    match fs::read_to_string(path) {
        Ok(text) => PublicKey::from_pem(&text).map(Some).map_err(|e| e.context(path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(format!("cannot read {}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    fn signer(folder: &Path) -> Signer {
        Signer::open(&folder.join("data"), &folder.join("backups")).unwrap()
    }

    #[test]
    fn the_key_is_made_once_private_and_its_public_half_verifies_what_it_signed() {
        let folder = tempfile::tempdir().unwrap();
        let first = signer(folder.path());
        assert_eq!(signer(folder.path()).public_key(), first.public_key());
        assert_eq!(fs::metadata(folder.path().join("data").join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        let key = PublicKey::from_pem(&fs::read_to_string(folder.path().join("backups").join(PUBLIC_FILE)).unwrap()).unwrap();
        let signature = first.sign(b"a manifest");
        verify(&key, b"a manifest", &signature).unwrap();
        assert!(verify(&key, b"another manifest", &signature).unwrap_err().message.contains("was changed"));
        let other = tempfile::tempdir().unwrap();
        assert!(verify(&signer(other.path()).public_key(), b"a manifest", &signature).unwrap_err().message.contains("signed by key"));
        assert!(!format!("{first:?}").contains(fs::read_to_string(folder.path().join("data").join(KEY_FILE)).unwrap().trim()));
    }

    #[test]
    fn a_signed_object_is_verified_after_it_was_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let signer = signer(folder.path());
        let Json::Object(mut object) = json!({"ts": "2026-03-01T00:00:00Z", "chains": [{"writer": "w", "entries": 3}]}) else { return };
        assert!(verify_object(&signer.public_key(), &object).unwrap_err().message.contains("not signed"));
        signer.sign_object(&mut object);
        signer.sign_object(&mut object);
        let text = serde_json::to_string_pretty(&object).unwrap();
        verify_object(&signer.public_key(), &serde_json::from_str(&text).unwrap()).unwrap();
        let changed: Map<String, Json> = serde_json::from_str(&text.replace("\"entries\": 3", "\"entries\": 2")).unwrap();
        assert!(verify_object(&signer.public_key(), &changed).is_err());
    }

    #[test]
    fn a_key_that_was_replaced_still_verifies_and_a_broken_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (data, backups) = (folder.path().join("data"), folder.path().join("backups"));
        let old = signer(folder.path());
        fs::remove_file(data.join(KEY_FILE)).unwrap();
        let new = signer(folder.path());
        assert_ne!(old.public_key(), new.public_key());
        for signer in [&old, &new] {
            assert_eq!(known_key(&backups, &signer.public_key().id()).unwrap(), Some(signer.public_key()));
        }
        assert_eq!(known_key(&backups, "../../etc/passwd").unwrap(), None);
        fs::write(data.join(KEY_FILE), "abc").unwrap();
        assert!(Signer::open(&data, &backups).unwrap_err().message.contains("signing_key"));
    }

    #[test]
    fn pem_is_what_other_tools_write() {
        // RFC 8410, section 10.1.
        let text = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        assert_eq!(PublicKey::from_pem(text).unwrap().to_pem(), text);
        for bad in ["", "MCowBQYDK2VwAyEA", "-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----"] {
            assert!(PublicKey::from_pem(bad).is_err(), "{bad}");
        }
    }
}
