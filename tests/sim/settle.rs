//! Once all is healed: the ring becomes what it is to be; whatever is kept for others is handed over and all copies become the same, by
//! themselves; then every key is read at all its owners, and the last word of each is held against the
//! history.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dynakv_protocol::client::Fetched;
use tokio::time::{sleep, sleep_until};

use crate::client::{Client, get};
use crate::clock;
use crate::history::{History, Promise};
use crate::invariants::{Heard, change_ends, convergence, hints_drain, owners_only};

/// How long after the last fault a read may still fail: silent links are given up and dialled again.
const HEALED_WITHIN: Duration = Duration::from_secs(20);

/// How long after the last fault a change of the ring may still take, and whoever it takes out.
pub(crate) const CHANGED_WITHIN: Duration = Duration::from_secs(90);

/// How long after the last fault hints may wait: links first, then the pauses after refusals.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(60);

/// How long after that machines may hold what they do not own.
const DROPPED_WITHIN: Duration = Duration::from_secs(60);

/// How long after that copies may differ: links first, then a pass or two of anti-entropy.
const MENDED_WITHIN: Duration = Duration::from_secs(60);

/// How long one read may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Waits for a moment, then reads everything at every owner.
pub(crate) async fn settle(
    mut client: Client,
    history: Rc<RefCell<History>>,
    after: Duration,
) -> turmoil::Result {
    let begin = tokio::time::Instant::now() + after.saturating_sub(clock::now());
    sleep_until(begin).await;
    let keys = history.borrow().keys();
    let deadline = clock::now() + CHANGED_WITHIN;
    while let Some(what) = client.unsettled() {
        if clock::now() >= deadline {
            history.borrow_mut().violate(change_ends::NAME, what);
            // Nothing else can be right.
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    let deadline = clock::now() + HANDED_OVER_WITHIN;
    while let Some(what) = client.kept_for_others() {
        if clock::now() >= deadline {
            history.borrow_mut().violate(hints_drain::NAME, what);
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let deadline = clock::now() + DROPPED_WITHIN;
    while let Some(what) = client.left_over() {
        if clock::now() >= deadline {
            history.borrow_mut().violate(owners_only::NAME, what);
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    // Without a single read: copies mend themselves.
    let deadline = clock::now() + MENDED_WITHIN;
    while let Some(what) = client.difference(&keys, true) {
        if clock::now() >= deadline {
            let what = format!("{what} still, and nobody has read it");
            history.borrow_mut().violate(convergence::NAME, what);
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let deadline = clock::now() + HEALED_WITHIN;
    let member = client.staying()[0];
    for key in &keys {
        // With the default quorum, before reads have mended anything.
        let began = clock::now();
        if let Some(fetched) = read(&mut client, member, key, None, deadline, &history).await {
            let when = (began, clock::now());
            let mut history = history.borrow_mut();
            let heard = heard(&history, key);
            history.on_read(key, &fetched, when, heard);
        }
        let owners = client.owners(key);
        let all = Some(owners.len());
        let another = *owners.get(1).unwrap_or(&owners[0]);
        read(&mut client, another, key, all, deadline, &history).await;
    }
    for key in &keys {
        let mut last = None;
        for node in client.owners(key) {
            let began = clock::now();
            // What this node itself has, and nobody else.
            let Some(fetched) = read(&mut client, node, key, Some(1), deadline, &history).await
            else {
                continue;
            };
            let when = (began, clock::now());
            let mut history = history.borrow_mut();
            let heard = heard(&history, key);
            let shown = history.on_read(key, &fetched, when, heard);
            history.expect_no_resurrection(key, &shown);
            client.line(&format!("finally {key} at {}: {shown:x?}", node + 1));
            if last.is_some_and(|last| last != shown) {
                let what = format!("{key} differs at node {}", node + 1);
                history.violate(convergence::NAME, what);
            }
            last = Some(shown);
        }
    }
    Ok(())
}

/// All copies are the same by now; of some keys there may be none.
fn heard(history: &History, key: &str) -> Heard {
    match history.promise_of(key) {
        Promise::Nothing => Heard::Few,
        _ => Heard::All,
    }
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
                history.borrow_mut().violate(convergence::NAME, what);
                return None;
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
