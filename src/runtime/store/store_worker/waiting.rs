//! Jobs that wait for a thread of the store.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

/// Lists of jobs that wait for a thread. It has the lock while it waits for the next list, and not while it
/// works: so of a thread that hangs in the disk the lists can be taken away.
pub(super) type Waiting<T> = Arc<Mutex<mpsc::UnboundedReceiver<Vec<T>>>>;

/// The next list, when one waits.
pub(super) fn next_waiting<T>(waiting: &Waiting<T>) -> Option<Vec<T>> {
    waiting.try_lock().ok()?.try_recv().ok()
}

/// All lists that wait, in order.
pub(super) fn take_back<T>(waiting: &Waiting<T>) -> Vec<T> {
    let lists = std::iter::from_fn(|| next_waiting(waiting));
    lists.flatten().collect()
}
