//! The contexts that writers of the `siblings` workload use: those of reads that others have written
//! after, so that their puts stand beside each other until a reader merges them.

use std::collections::HashMap;

use dynakv_client::Context;

/// How many writers may use the context of one read. A node refuses writes at 100 siblings.
const WRITES_PER_READ_MAX: usize = 8;

/// What the siblings of one key may come to: a node allows four times its limit for a value, and that
/// is at least 1 MiB as a rule.
const SIBLING_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Which context a writer of a key uses.
#[derive(Debug)]
pub(super) struct StaleContexts {
    known: HashMap<u64, Known>,
    writes_max: usize,
}

#[derive(Debug)]
struct Known {
    context: Context,
    writes: usize,
}

impl StaleContexts {
    /// For values of at most this size.
    pub(super) fn new(value_bytes_max: usize) -> Self {
        let fitting = SIBLING_BYTES_MAX / value_bytes_max.max(1);
        Self {
            known: HashMap::new(),
            writes_max: fitting.clamp(1, WRITES_PER_READ_MAX),
        }
    }

    /// A context for a write of the key; `None` when it was used often enough, or there is none: then
    /// somebody has to read (and merge) first.
    pub(super) fn take(&mut self, key: u64) -> Option<Context> {
        let known = self.known.get_mut(&key)?;
        if known.writes == self.writes_max {
            return None;
        }
        known.writes += 1;
        Some(known.context.clone())
    }

    /// A read has shown the key, and what it showed is merged by now.
    pub(super) fn merged(&mut self, key: u64, read: Context) {
        let known = Known {
            context: read,
            writes: 0,
        };
        self.known.insert(key, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_makes_a_bounded_number_of_siblings() {
        let context = |byte: u8| Context::from(bytes::Bytes::from(vec![byte]));
        let mut contexts = StaleContexts::new(100);
        assert_eq!(contexts.take(1), None);
        contexts.merged(1, context(7));
        for _ in 0..WRITES_PER_READ_MAX {
            assert_eq!(contexts.take(1), Some(context(7)));
        }
        assert_eq!(contexts.take(1), None);
        contexts.merged(1, context(8));
        assert_eq!(contexts.take(1), Some(context(8)));
        let mut contexts = StaleContexts::new(16 * 1024 * 1024);
        contexts.merged(1, context(7));
        assert!(contexts.take(1).is_some());
        assert!(contexts.take(1).is_none());
    }
}
