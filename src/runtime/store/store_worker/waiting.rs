//! Jobs that wait for a thread of the store.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

/// What waits for a thread, most often lists of jobs. It has the lock while it waits for the next of them, and not
/// while it works: so of a thread that hangs in the disk they can be taken away.
pub(super) type Waiting<T> = Arc<Mutex<mpsc::UnboundedReceiver<T>>>;

/// The next one, when one waits.
pub(super) fn next_waiting<T>(waiting: &Waiting<T>) -> Option<T> {
    waiting.try_lock().ok()?.try_recv().ok()
}

/// All that wait, in order.
pub(super) fn take_back<T>(waiting: &Waiting<T>) -> impl Iterator<Item = T> {
    std::iter::from_fn(|| next_waiting(waiting))
}
