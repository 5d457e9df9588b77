//! Where the tar is cut into members. The cuts follow from names and sizes alone, so that what did not change is cut as before and its
//! members are found again: small entries stand in groups whose ends hang on names, a large file begins a member of its own and is cut
//! at fixed places, its header stands in a member of its own.

/// A file of this size or more is cut into chunks.
pub const LARGE: u64 = 256 << 10;
/// Bytes of a large file in one member.
pub const CHUNK: usize = 512 << 10;
/// The same for SQLite databases, of which a change touches pages here and there.
pub const DATABASE_CHUNK: usize = 64 << 10;
/// What an SQLite database begins with.
pub const DATABASE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// A group ends after the first name below that says so once it has this many bytes, and at the latest with so many.
const GROUP_MIN: usize = 64 << 10;
const GROUP_MAX: usize = 256 << 10;
/// The first chunk of a file of so many chunks, and each so many further ones, begin at a multiple of [`ALIGN`] in the archive: a file
/// system shares whole blocks only.
pub const ALIGN_FROM: usize = 8;
pub const ALIGN_EVERY: usize = 128;
pub const ALIGN: u64 = 4096;

/// Whether a group of that many bytes ends after the entry of that name.
pub fn group_ends(bytes: usize, name: &[u8]) -> bool {
    bytes >= GROUP_MAX || bytes >= GROUP_MIN && blake3::hash(name).as_bytes()[0].is_multiple_of(8)
}

/// The size of chunks of a file that begins with these bytes.
pub fn chunk_of(beginning: &[u8]) -> usize {
    if beginning.starts_with(DATABASE_MAGIC) { DATABASE_CHUNK } else { CHUNK }
}

/// Whether the chunk with that number, of a file of `size` bytes, begins at a multiple of [`ALIGN`].
pub fn aligned(number: usize, size: u64, chunk: usize) -> bool {
    size > ((ALIGN_FROM - 1) * CHUNK) as u64 && (number * chunk).is_multiple_of(ALIGN_EVERY * CHUNK)
}
