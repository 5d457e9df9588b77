//! Archives encrypted to age recipients (age-encryption.org/v1), so that `age -d` opens them too. Only the public halves are needed to
//! write; whoever reads needs an identity, which is never part of an archive.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use age::{Decryptor, Encryptor, Identity, IdentityFile, Recipient, stream::StreamReader, x25519};
use ring::digest::{Context as Digest, SHA256};

use crate::{
    error::{Context as _, Error, Result},
    files,
};

const MAGIC: &[u8] = b"age-encryption.org/";

/// A file that is decrypted as it is read.
pub(super) type Clear = StreamReader<File>;

/// Whom archives are encrypted to.
pub struct Recipients(Vec<x25519::Recipient>);

impl Recipients {
    /// Errors: `invalid`, naming the recipient that is none.
    pub fn parse(texts: &[String]) -> Result<Self> {
        let parse = |text: &String| {
            let what = || Error::invalid("configuration", format!("backup.recipients: \"{text}\" is not an age recipient (age1...)"));
            text.parse::<x25519::Recipient>().map_err(|_| what())
        };
        Ok(Self(texts.iter().map(parse).collect::<Result<_>>()?))
    }
}

/// Encrypts a file to a new one, private and synced. Answers bytes and SHA-256 of the new file.
pub fn encrypt(from: &Path, to: &Path, recipients: &Recipients) -> Result<(u64, String)> {
    let doing = || format!("cannot encrypt {}", from.display());
    let mut source = File::open(from).context(doing())?;
    let target = File::options().write(true).create_new(true).mode(files::MODE_PRIVATE).open(to).context(doing())?;
    let all = recipients.0.iter().map(|r| r as &dyn Recipient);
    let encryptor = Encryptor::with_recipients(all).map_err(|e| Error::invalid("configuration", format!("backup.recipients: {e}")))?;
    let mut writer = encryptor.wrap_output(Digested { file: target, digest: Digest::new(&SHA256), bytes: 0 }).context(doing())?;
    io::copy(&mut source, &mut writer).context(doing())?;
    let Digested { file, digest, bytes } = writer.finish().context(doing())?;
    file.sync_all().context(doing())?;
    Ok((bytes, files::hex(digest.finish().as_ref())))
}

struct Digested {
    file: File,
    digest: Digest,
    bytes: u64,
}

impl io::Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.digest.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

pub(super) fn is_encrypted(file: &mut File) -> Result<bool> {
    let mut beginning = Vec::new();
    io::Read::by_ref(file).take(MAGIC.len() as u64).read_to_end(&mut beginning)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(beginning == MAGIC)
}

/// The identities in a file as `age-keygen` writes it. Errors: `invalid` with reason `encrypted`.
pub fn read_identities(path: &Path) -> Result<Vec<Box<dyn Identity + Send + Sync>>> {
    let file = File::open(path).context(format!("cannot open {}", path.display()))?;
    let bad = |why: String| Error::invalid("encrypted", format!("{} holds no identity: {why}", path.display()));
    let identities = IdentityFile::from_buffer(BufReader::new(file)).map_err(|e| bad(e.to_string()))?;
    identities.into_identities().map_err(|e| bad(e.to_string()))
}

/// Opens for reading at any place; answers the bytes of the content too.
pub(super) fn open(file: File, path: &Path, identity_file: &Path) -> Result<(Clear, u64)> {
    let refuse = |why: &str| Error::invalid("encrypted", format!("{} is encrypted{why}", path.display()));
    if identity_file.as_os_str().is_empty() {
        return Err(refuse(": name the file with the identity that opens it (--identity FILE, or backup.identity_file)"));
    }
    let identities = read_identities(identity_file)?;
    let decryptor = Decryptor::new(file).map_err(|e| refuse(&format!(" and damaged: {e}")))?;
    let reader = decryptor.decrypt(identities.iter().map(|identity| &**identity as &dyn Identity));
    let mut clear = reader.map_err(|e| refuse(&format!(", and {} does not open it: {e}", identity_file.display())))?;
    let size = clear.seek(SeekFrom::End(0)).map_err(|e| refuse(&format!(" and damaged: {e}")))?;
    Ok((clear, size))
}

pub(super) fn read_exact_at(clear: &Mutex<Clear>, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut clear = clear.lock().unwrap_or_else(PoisonError::into_inner);
    clear.seek(SeekFrom::Start(offset))?;
    clear.read_exact(buffer)
}
