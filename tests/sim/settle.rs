//! Once all is healed: all copies become the same by themselves, then every key is read everywhere, and the last word of each node is held
//! against the history.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dynakv_protocol::client::Fetched;
use tokio::time::{sleep, sleep_until};

use crate::client::{Client, get};
use crate::clock;
use crate::history::History;

/// How long after the last fault a read may still fail: silent links are given up and dialled again.
const HEALED_WITHIN: Duration = Duration::from_secs(20);

/// How long after the last fault copies may differ: links first, then a pass or two of anti-entropy.
const MENDED_WITHIN: Duration = Duration::from_secs(60);

/// How long one read may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Waits for a moment, then reads everything at every node.
pub(crate) async fn settle(
    mut client: Client,
    history: Rc<RefCell<History>>,
    after: Duration,
) -> turmoil::Result {
    let machines = client.machines();
    let begin = tokio::time::Instant::now() + after.saturating_sub(clock::now());
    sleep_until(begin).await;
    let keys = history.borrow().keys();
    // Without a single read: copies mend themselves.
    let deadline = clock::now() + MENDED_WITHIN;
    while let Some(key) = client.differing(&keys) {
        if clock::now() >= deadline {
            let what = format!("{key} still differs, and nobody has read it");
            history.borrow_mut().violate("convergence", what);
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let deadline = clock::now() + HEALED_WITHIN;
    for key in &keys {
        // With the default quorum, before anything was mended.
        let began = clock::now();
        if let Some(fetched) = read(&mut client, 0, key, None, deadline, &history).await {
            let now = clock::now();
            history.borrow_mut().on_read(key, &fetched, began, now);
        }
        read(
            &mut client,
            1 % machines,
            key,
            Some(machines),
            deadline,
            &history,
        )
        .await;
    }
    for key in &keys {
        let mut last = None;
        for node in 0..machines {
            let began = clock::now();
            // What this node itself has, and nobody else.
            let Some(fetched) = read(&mut client, node, key, Some(1), deadline, &history).await
            else {
                continue;
            };
            let now = clock::now();
            let mut history = history.borrow_mut();
            let shown = history.on_read(key, &fetched, began, now);
            history.expect_no_resurrection(key, &shown);
            client.line(&format!("finally {key} at {}: {shown:x?}", node + 1));
            if last.is_some_and(|last| last != shown) {
                let what = format!("{key} differs at node {}", node + 1);
                history.violate("convergence", what);
            }
            last = Some(shown);
        }
    }
    Ok(())
}

/// Reads until it succeeds; that it never does is a violation.
async fn read(
    client: &mut Client,
    node: usize,
    key: &str,
    r: Option<usize>,
    deadline: Duration,
    history: &RefCell<History>,
) -> Option<Fetched> {
    loop {
        let mut request = get(key, TIMEOUT);
        request.r = r.map(|r| r as u8);
        request.repair_first = true;
        match client.get(node, request).await {
            Ok(fetched) => return Some(fetched),
            Err(failure) if clock::now() >= deadline => {
                let what = format!("{key} can't be read at node {}: {failure}", node + 1);
                history.borrow_mut().violate("convergence", what);
                return None;
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
