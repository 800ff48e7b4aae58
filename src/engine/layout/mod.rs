//! The numbered ring document: how the next one is made and decided.
