//! An attempt that comes late. A node that owns nothing of a key hands a sloppy blind write on to the first
//! owner, over a link that stalls, and gives it to the next one after a second: it is done. Its client reads it, and
//! replaces it through the first owner, which no copy of it has reached, with another node standing in. Then the link
//! goes on, and the first attempt arrives where only what has replaced it is known.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::ids::WriteId;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{Client, get, write};
use crate::clock;
use crate::history::{History, Promise, Replaces, Writes, value_of};
use crate::invariants::Heard;
use crate::machine::{Flaw, machine_name};
use crate::plan::Plan;
use crate::seeds::for_each_seed;
use crate::settle::settle;
use crate::verdict::Verdict;
use crate::world::World;

const MACHINES: usize = 5;
const ROUNDS: usize = 5;

/// When the first round begins.
const BEGIN: Duration = Duration::from_secs(4);

/// Enough for two owners, one after the other, and for one to be found silent.
const TIMEOUT: Duration = Duration::from_millis(4500);

#[test]
fn an_attempt_that_comes_late_replaces_nothing() {
    let test = "an_attempt_that_comes_late_replaces_nothing";
    for_each_seed(2, test, |seed| late(seed, Flaw::None).into_result());
}

/// Runs one seed.
pub(crate) fn late(seed: u64, flaw: Flaw) -> Verdict {
    let mut world = World::new(seed, MACHINES, flaw);
    let random = world.fork();
    let history = Rc::new(RefCell::new(History::default()));
    world.add_client("script", |client| {
        let script = Script {
            client,
            random,
            history: history.clone(),
            writes: 0,
        };
        script.run()
    });
    Verdict::of(world, &Plan::default(), &history)
}

struct Script {
    client: Client,
    random: fastrand::Rng,
    history: Rc<RefCell<History>>,
    writes: u128,
}

impl Script {
    async fn run(mut self) -> turmoil::Result {
        self.client.wait_for_cluster().await;
        self.write(0, "first", None).await;
        sleep_until(Instant::now() + BEGIN.saturating_sub(clock::now())).await;
        for number in 0..ROUNDS {
            self.round(&format!("key-{number}")).await;
        }
        let now = clock::now();
        settle(self.client, self.history, now).await
    }

    async fn round(&mut self, key: &str) {
        let hold = |a, b| turmoil::hold(machine_name(a), machine_name(b));
        let release = |a, b| turmoil::release(machine_name(a), machine_name(b));
        let owners = self.client.owners(key);
        let (first, second, third) = (owners[0], owners[1], owners[2]);
        let forwarder = (0..MACHINES).find(|node| !owners.contains(node));
        let forwarder = forwarder.expect("five nodes, three owners");
        for other in [forwarder, second, third] {
            hold(first, other);
        }
        let earlier = self.write(forwarder, key, None).await;
        let earlier = earlier.expect("the next owner takes it");
        let seen = self.read(second, key).await;
        let (shown, context) = seen.expect("two owners have it");
        assert!(shown.contains(&earlier), "{shown:?}");
        let later = self.write(first, key, Some((shown, context))).await;
        later.expect("another node stands in");
        release(first, forwarder);
        sleep(Duration::from_millis(self.random.u64(100..400))).await;
        release(first, second);
        release(first, third);
        sleep(Duration::from_millis(500)).await;
    }

    /// A sloppy write; its id if it is acknowledged.
    async fn write(
        &mut self,
        node: usize,
        key: &str,
        seen: Option<(Writes, Bytes)>,
    ) -> Option<WriteId> {
        self.writes += 1;
        let id = WriteId((1 << 64) + self.writes);
        let mut request = write(key, id, Some(value_of(id)), TIMEOUT);
        request.sloppy = true;
        let replaces = match seen {
            Some((writes, context)) => {
                request.context = Some(context);
                Replaces::Read(writes.into_iter().collect())
            }
            None => Replaces::WhatIsThere,
        };
        {
            let mut history = self.history.borrow_mut();
            history.promise(key, Promise::Sloppy);
            history.begin(id, key, false, replaces, clock::now());
            history.hand_on(id);
        }
        self.client
            .line(&format!("put {id:x?} of {key} to {}", node + 1));
        let answer = self.client.write(node, request).await;
        let mut history = self.history.borrow_mut();
        history.end(id, &answer, clock::now());
        let written = answer.inspect_err(|failure| self.client.line(&failure.to_string()));
        if written.as_ref().is_ok_and(|written| written.sloppy) {
            history.stood_in_for(id);
        }
        written.is_ok().then_some(id)
    }

    async fn read(&mut self, node: usize, key: &str) -> Option<(Writes, Bytes)> {
        let began = clock::now();
        let answer = self.client.get(node, get(key, TIMEOUT)).await;
        let mut history = self.history.borrow_mut();
        history.expect_an_end(&answer, clock::now());
        let fetched = answer.ok()?;
        let shown = history.on_read(key, &fetched, (began, clock::now()), Heard::Quorum);
        Some((shown, fetched.context))
    }
}
