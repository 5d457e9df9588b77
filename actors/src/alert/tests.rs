//! The alert actor over a real store.
