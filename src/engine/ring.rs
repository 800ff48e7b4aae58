//! Who owns a segment.
