//! Following a change of the ring to its end, whichever member can tell of it.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use dynakv_client::{Client, Error};
use dynakv_protocol::RingVersion;

use super::course::{Begun, Seen, Stage, segments_done};
use crate::cli::following::Bar;
use crate::cli::node_info::Change;

/// How often a member is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(500);

/// How many rounds in a row nobody may answer, or only such as lag behind, before it is left alone.
const SILENT_ROUNDS_MAX: u32 = 60;

/// How often a line says how far it is where there is no terminal and nothing new.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How it ended.
#[derive(Debug)]
pub(super) enum End {
    /// The ring has come to rest so.
    At(Stage, Box<Seen>),
    /// The user had enough of looking.
    Left,
    /// Nobody answers any more.
    Silent(Option<Error>),
}

/// What was seen on the way.
pub(super) struct Watched {
    pub(super) end: End,
    /// While it was under way.
    pub(super) last: Option<Seen>,
}

/// Asks one member after the other until one answers, and goes on with that one.
pub(super) struct Members<'a> {
    client: &'a Client,
    addresses: Vec<String>,
    at: usize,
}

impl<'a> Members<'a> {
    /// In this order.
    pub(super) fn new(client: &'a Client, addresses: Vec<String>) -> Self {
        Self {
            client,
            addresses,
            at: 0,
        }
    }

    /// What the first says that answers, and knows this ring or a later one.
    ///
    /// # Errors
    /// The error of the last that did not answer; nothing where all answered, and lag behind.
    pub(super) async fn look(&mut self, known: RingVersion) -> Result<Seen, Option<Error>> {
        let mut last_error = None;
        for _ in 0..self.addresses.len() {
            let address = &self.addresses[self.at];
            match self.ask(address).await {
                Ok(seen) if seen.ring.document.version >= known => return Ok(seen),
                Ok(_) => {}
                Err(error) => last_error = Some(error),
            }
            self.at = (self.at + 1) % self.addresses.len();
        }
        Err(last_error)
    }

    async fn ask(&self, address: &str) -> Result<Seen, Error> {
        let node = self.client.node(address)?;
        let ring = node.ring().await?;
        let status = node.status().await?;
        let address = address.to_owned();
        Ok(Seen {
            ring,
            status,
            address,
        })
    }
}

/// Follows a change to its end, and shows each answer.
pub(super) async fn watch(
    begun: &Begun,
    mut look: impl AsyncFnMut(RingVersion) -> Result<Seen, Option<Error>>,
    mut show: impl FnMut(&Seen),
    interval: Duration,
) -> Watched {
    let mut last: Option<Seen> = None;
    let mut known = begun.begun_at();
    let mut silent_rounds = 0;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let end = loop {
        let answer = tokio::select! {
            biased;
            _ = &mut interrupt => break End::Left,
            answer = look(known) => answer,
        };
        match answer {
            Ok(seen) => {
                known = known.max(seen.ring.document.version);
                match begun.stage(&seen.ring.document) {
                    Stage::UnderWay => {
                        silent_rounds = 0;
                        show(&seen);
                        last = Some(seen);
                    }
                    stage => break End::At(stage, Box::new(seen)),
                }
            }
            Err(error) => {
                silent_rounds += 1;
                if silent_rounds >= SILENT_ROUNDS_MAX {
                    break End::Silent(error);
                }
            }
        }
        tokio::select! {
            biased;
            _ = &mut interrupt => break End::Left,
            () = tokio::time::sleep(interval) => {}
        }
    };
    Watched { end, last }
}

/// The same over the network, with what is shown on standard error.
pub(super) async fn follow(begun: &Begun, members: &mut Members<'_>, moved: u64) -> Watched {
    let mut teller = Teller {
        bar: Bar::start(),
        moved,
        told: None,
    };
    let look = async |known| members.look(known).await;
    watch(begun, look, |seen| teller.tell(seen), INTERVAL).await
}

/// On a terminal a bar, otherwise a line on standard error when another is waited for, and now and then.
struct Teller {
    bar: Bar,
    /// How many copies of segments move.
    moved: u64,
    /// What was said last, of whom, and when.
    told: Option<(String, String, Instant)>,
}

impl Teller {
    fn tell(&mut self, seen: &Seen) {
        let Some(change) = Change::of(&seen.status, &seen.ring) else {
            return;
        };
        let done = segments_done(seen, self.moved);
        if self.bar.show(done, || change.progress()) {
            return;
        }
        let (text, whom) = (change.progress(), change.whom());
        let is_due = match &self.told {
            None => true,
            Some((said, of, when)) => {
                *of != whom || *said != text && when.elapsed() >= LINE_INTERVAL
            }
        };
        if is_due {
            let _nowhere_to_say_so = writeln!(io::stderr(), "dynakv: {text}");
            self.told = Some((text, whom, Instant::now()));
        }
    }
}
