//! Counting the store anew, after something took the place of damaged values.

use dynakv_storage::StoreError;
use tokio::time::Instant;

use super::count::Count;
use super::{AntiEntropy, REST_PER_COMPARING, State};

/// How many parts are counted before other work has its turn.
const PARTS_PER_TURN: usize = 64;

impl AntiEntropy {
    /// Counts on, if there is reason to. Only once all is rebuilt that can be: each value that comes back
    /// would be one more reason.
    pub(super) async fn go_on_counting(&self, state: &mut State) {
        let (rebuilding, recounter) = (&self.0.rebuilding, &self.0.recounter);
        if state.count.is_none() {
            let is_tried = rebuilding.left() == 0 || state.rebuild_due.is_some();
            let Some(replaced) = rebuilding.recount_due().filter(|_| is_tried) else {
                return;
            };
            state.count = Some(Count {
                after_key: None,
                replaced,
                corrected_segments: 0,
            });
        }
        for _ in 0..PARTS_PER_TURN {
            let began = Instant::now();
            // It is put back when there is more.
            let Some(mut count) = state.count.take() else {
                return;
            };
            let recounted = match recounter.recount(count.after_key.take()).await {
                Some(Ok(recounted)) => recounted,
                Some(Err(error)) => return told(&error),
                None => return,
            };
            count.corrected_segments += recounted.corrected_segments;
            count.after_key = recounted.next;
            if count.after_key.is_some() {
                state.count = Some(count);
                self.rest(began, REST_PER_COMPARING).await;
                continue;
            }
            match rebuilding.end_recount(count.replaced) {
                Ok(true) => tracing::info!(
                    segments = count.corrected_segments,
                    "the store is counted anew: its totals and hashes are those of what it holds"
                ),
                // Another one was replaced meanwhile: once more.
                Ok(false) => {}
                Err(error) => told(&error),
            }
        }
    }
}

fn told(error: &StoreError) {
    tracing::warn!(%error, "the store could not be counted anew; it is tried again");
}
