//! The archive format: being written.
