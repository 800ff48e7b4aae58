//! A small cluster beside a reference model that keeps what clocks only summarise: for each replica
//! the set of all writes it has seen, and for each write the set of all writes its author had seen.
//!
//! By that definition of causality (Lamport 1978; Schwarz and Mattern 1994) the siblings of a replica
//! are the writes it has seen that no other write it has seen had seen: the maximal ones. Random
//! interleavings of reads, writes, merges, restarts and wiped disks must give exactly those.
//!
//! A test that cannot fail proves nothing: the same model is run with a rule left out, and must notice.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions, context};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, ClusterId, WriteId};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseError, TestRunner};

use crate::ten_thousand;

const CLUSTER: ClusterId = ClusterId(7);
const KEY: &[u8] = b"k";
const CLIENTS: usize = 3;

/// The rules that a node keeps; a test leaves one out to see whether the model notices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// A node that lost its disk mints under a new actor.
    pub(crate) new_actor_after_loss: bool,
    /// A state leaves its replica with its clock (without, the receiver would take the siblings only).
    pub(crate) clock_travels: bool,
    /// A write drops what its context covers, and only that.
    pub(crate) context_decides: bool,
}

impl Rules {
    /// All rules are kept.
    pub(crate) const KEPT: Self = Self {
        new_actor_after_loss: true,
        clock_travels: true,
        context_decides: true,
    };
}

/// What can happen. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// A client reads from one replica, or from two (their states merged), and keeps the context.
    Read {
        client: Index,
        replicas: (Index, Index),
    },
    /// A client writes with the context of its last read, which may be long ago.
    Write {
        client: Index,
        replica: Index,
        delete: bool,
    },
    /// A client reads and writes at once at one replica: it has seen all there is.
    ReadAndWrite { client: Index, replica: Index },
    /// A client writes without a context: the replica's own clock takes its place.
    BlindWrite { replica: Index, delete: bool },
    /// One replica sends its state to another.
    Merge { from: Index, to: Index },
    /// A message that was sent long ago arrives (again).
    MergeStale { message: Index, to: Index },
    /// A node restarts uncleanly: its state is there, its actor is new.
    Restart { replica: Index },
    /// A node comes back with an empty disk.
    Wipe { replica: Index },
}

/// A random operation; those that move data come most often.
pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    use Operation::{BlindWrite, Merge, MergeStale, Read, ReadAndWrite, Restart, Wipe, Write};
    prop_oneof![
        4 => any::<(Index, (Index, Index))>().prop_map(|(client, replicas)| Read { client, replicas }),
        6 => any::<(Index, Index, bool)>()
            .prop_map(|(client, replica, delete)| Write { client, replica, delete }),
        2 => any::<(Index, Index)>().prop_map(|(client, replica)| ReadAndWrite { client, replica }),
        3 => any::<(Index, bool)>().prop_map(|(replica, delete)| BlindWrite { replica, delete }),
        6 => any::<(Index, Index)>().prop_map(|(from, to)| Merge { from, to }),
        2 => any::<(Index, Index)>().prop_map(|(message, to)| MergeStale { message, to }),
        1 => any::<Index>().prop_map(|replica| Restart { replica }),
        1 => any::<Index>().prop_map(|replica| Wipe { replica }),
    ]
}

/// All writes that someone has seen. Closed: whoever has seen a write has seen what its author had.
type History = BTreeSet<Dot>;

#[derive(Debug, Clone)]
struct Replica {
    actor: Actor,
    counter: u64,
    versions: Versions,
    seen: History,
}

#[derive(Debug, Clone, Default)]
struct Client {
    context: Option<Bytes>,
    seen: History,
}

/// Replicas of one key, their clients, and what the model knows of them.
#[derive(Debug)]
pub(crate) struct Cluster {
    rules: Rules,
    replicas: Vec<Replica>,
    clients: Vec<Client>,
    /// Every write, with what its author had seen.
    pasts: BTreeMap<Dot, History>,
    sent: Vec<(Versions, History)>,
    actors: u64,
    writes: u128,
    broken: Vec<String>,
}

impl Cluster {
    pub(crate) fn new(replicas: usize, rules: Rules) -> Self {
        let mut cluster = Self {
            rules,
            replicas: Vec::new(),
            clients: vec![Client::default(); CLIENTS],
            pasts: BTreeMap::new(),
            sent: Vec::new(),
            actors: 0,
            writes: 0,
            broken: Vec::new(),
        };
        for _ in 0..replicas {
            let actor = cluster.new_actor();
            cluster.replicas.push(Replica {
                actor,
                counter: 0,
                versions: Versions::new(),
                seen: History::new(),
            });
        }
        cluster
    }

    /// The states of all replicas.
    pub(crate) fn states(&self) -> impl Iterator<Item = &Versions> {
        self.replicas.iter().map(|replica| &replica.versions)
    }

    /// Actors are random in a store; here they only have to differ, and not to rise with time.
    fn new_actor(&mut self) -> Actor {
        self.actors += 1;
        Actor(self.actors.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn step(&mut self, operation: &Operation) {
        let replicas = self.replicas.len();
        match operation {
            Operation::Read {
                client,
                replicas: (first, second),
            } => {
                let first = &self.replicas[first.index(replicas)];
                let second = &self.replicas[second.index(replicas)];
                let mut versions = first.versions.clone();
                versions.merge(&second.versions);
                self.clients[client.index(CLIENTS)] = Client {
                    context: Some(context::seal(CLUSTER, KEY, versions.clock())),
                    seen: &first.seen | &second.seen,
                };
            }
            Operation::Write {
                client,
                replica,
                delete,
            } => {
                let Client { context, seen } = self.clients[client.index(CLIENTS)].clone();
                match context {
                    Some(context) => {
                        let clock = context::open(CLUSTER, KEY, &context).expect("sealed here");
                        self.write(replica.index(replicas), &clock, seen, *delete);
                    }
                    None => self.blind_write(replica.index(replicas), *delete),
                }
            }
            Operation::ReadAndWrite { client, replica } => {
                let at = replica.index(replicas);
                let (clock, seen) = self.all_of(at);
                self.clients[client.index(CLIENTS)] = Client {
                    context: Some(context::seal(CLUSTER, KEY, &clock)),
                    seen: seen.clone(),
                };
                self.write(at, &clock, seen, false);
                self.expect_one_sibling(at);
            }
            Operation::BlindWrite { replica, delete } => {
                self.blind_write(replica.index(replicas), *delete);
            }
            Operation::Merge { from, to } => {
                let from = &self.replicas[from.index(replicas)];
                let message = (from.versions.clone(), from.seen.clone());
                self.sent.push(message.clone());
                self.receive(to.index(replicas), message);
            }
            Operation::MergeStale { message, to } => {
                if !self.sent.is_empty() {
                    let message = message.get(&self.sent).clone();
                    self.receive(to.index(replicas), message);
                }
            }
            Operation::Restart { replica } => {
                let actor = self.new_actor();
                let replica = &mut self.replicas[replica.index(replicas)];
                (replica.actor, replica.counter) = (actor, 0);
            }
            Operation::Wipe { replica } => {
                let actor = self.new_actor();
                let new_actor_after_loss = self.rules.new_actor_after_loss;
                let replica = &mut self.replicas[replica.index(replicas)];
                replica.versions = Versions::new();
                replica.seen.clear();
                replica.counter = 0;
                if new_actor_after_loss {
                    replica.actor = actor;
                }
            }
        }
    }

    fn all_of(&self, replica: usize) -> (Clock, History) {
        let replica = &self.replicas[replica];
        (replica.versions.clock().clone(), replica.seen.clone())
    }

    fn blind_write(&mut self, at: usize, delete: bool) {
        let (clock, seen) = self.all_of(at);
        self.write(at, &clock, seen, delete);
        self.expect_one_sibling(at);
    }

    fn expect_one_sibling(&mut self, at: usize) {
        let count = self.replicas[at].versions.siblings().len();
        if count != 1 {
            self.broken.push(format!(
                "{count} siblings after a write that had seen everything"
            ));
        }
    }

    fn write(&mut self, at: usize, context: &Clock, past: History, delete: bool) {
        self.writes += 1;
        let incoming = Incoming {
            write_id: WriteId(self.writes),
            timestamp: 0,
            expires_at_ms: None,
            value: match delete {
                true => Value::Tombstone,
                false => Value::Bytes(Bytes::from(self.writes.to_string())),
            },
        };
        let replica = &mut self.replicas[at];
        // The counter is node-wide: writes to other keys leave gaps in this one's.
        replica.counter += 1 + self.writes as u64 % 3;
        let dot = Dot {
            actor: replica.actor,
            counter: replica.counter,
        };
        if self.rules.context_decides {
            replica.versions.write(context, dot, incoming);
        } else {
            let everything = replica.versions.clock().clone();
            replica.versions.write(&everything, dot, incoming);
        }
        replica.seen.extend(&past);
        replica.seen.insert(dot);
        self.pasts.insert(dot, past);
    }

    fn receive(&mut self, to: usize, (versions, seen): (Versions, History)) {
        let to = &mut self.replicas[to];
        // What travels is bytes.
        let mut arrived = Versions::from_bytes(&versions.to_bytes()).expect("a state of a replica");
        if !self.rules.clock_travels {
            let siblings = arrived.siblings().to_vec();
            let clock = siblings.iter().map(|sibling| sibling.dot).collect();
            arrived = crate::generators::assemble(&clock, siblings);
        }
        to.versions.merge(&arrived);
        to.seen.extend(seen);
    }

    /// The writes of a history that no other write of it had seen.
    fn maximal(&self, seen: &History) -> History {
        let replaced: History = seen
            .iter()
            .flat_map(|dot| &self.pasts[dot])
            .copied()
            .collect();
        seen - &replaced
    }

    /// Holds one state against the history it stands for.
    fn check(&self, versions: &Versions, seen: &History) -> Result<(), String> {
        let siblings: History = versions.siblings().iter().map(|s| s.dot).collect();
        let expected = self.maximal(seen);
        if let Some(lost) = expected.difference(&siblings).next() {
            return Err(format!("write {lost} is gone and nothing has replaced it"));
        }
        if let Some(extra) = siblings.difference(&expected).next() {
            return Err(format!("write {extra} was replaced and is still there"));
        }
        for (a, b) in siblings
            .iter()
            .flat_map(|a| siblings.iter().map(move |b| (a, b)))
        {
            if self.pasts[a].contains(b) {
                return Err(format!("siblings {a} and {b} are not concurrent"));
            }
        }
        // The clock says of every write whether it has been seen, of no write the wrong thing.
        for dot in self.pasts.keys() {
            if versions.clock().covers(*dot) != seen.contains(dot) {
                return Err(format!("the clock is wrong about {dot}"));
            }
        }
        Ok(())
    }

    fn check_all(&self) -> Result<(), String> {
        if let Some(broken) = self.broken.first() {
            return Err(broken.clone());
        }
        for replica in &self.replicas {
            self.check(&replica.versions, &replica.seen)?;
        }
        Ok(())
    }

    /// Everybody talks to everybody, in the order given: all must end with the same bytes, and with
    /// every write that survived anywhere or something that replaced it.
    fn heal(&mut self, order: &[Index]) -> Result<(), String> {
        let everything: History = self.replicas.iter().flat_map(|r| r.seen.clone()).collect();
        let replicas = self.replicas.len();
        let first = order.first().map_or(0, |pick| pick.index(replicas));
        for round in 0..2 {
            for step in 0..replicas {
                let other = (first + step + round) % replicas;
                for (from, to) in [(other, first), (first, other)] {
                    let message = (
                        self.replicas[from].versions.clone(),
                        self.replicas[from].seen.clone(),
                    );
                    self.receive(to, message);
                }
            }
        }
        let healed = self.replicas[0].versions.to_bytes();
        for replica in &self.replicas {
            self.check(&replica.versions, &everything)?;
            if replica.versions.to_bytes() != healed {
                return Err("replicas that have seen the same differ".to_owned());
            }
        }
        Ok(())
    }
}

fn run(
    replicas: usize,
    operations: &[Operation],
    order: &[Index],
    rules: Rules,
) -> Result<(), String> {
    let mut cluster = Cluster::new(replicas, rules);
    for operation in operations {
        cluster.step(operation);
        cluster.check_all()?;
    }
    cluster.heal(order)
}

proptest! {
    #![proptest_config(ten_thousand())]

    #[test]
    fn siblings_are_exactly_the_writes_that_nobody_replaced(
        replicas in 3..=5_usize,
        operations in vec(operation(), 1..40),
        order in vec(any::<Index>(), 1),
    ) {
        run(replicas, &operations, &order, Rules::KEPT).map_err(TestCaseError::fail)?;
    }
}

/// What the model says of random runs under these rules: the first complaint among a thousand.
fn first_complaint(rules: Rules) -> Option<String> {
    let mut runner = TestRunner::deterministic();
    let operations = vec(operation(), 40);
    (0..1000).find_map(|_| {
        let operations = operations
            .new_tree(&mut runner)
            .expect("nothing is filtered");
        run(3, &operations.current(), &[], rules).err()
    })
}

#[test]
fn the_model_notices_every_rule_that_is_left_out() {
    assert_eq!(first_complaint(Rules::KEPT), None);
    let broken = [
        Rules {
            new_actor_after_loss: false,
            ..Rules::KEPT
        },
        Rules {
            clock_travels: false,
            ..Rules::KEPT
        },
        Rules {
            context_decides: false,
            ..Rules::KEPT
        },
    ];
    for rules in broken {
        assert!(first_complaint(rules).is_some(), "not noticed: {rules:?}");
    }
}

/// Two runs in which the rules of this room are not enough: what the node must see to besides.
mod runs_that_lose_a_write {
    use super::*;

    fn write(versions: &mut Versions, counter: u64, value: &'static str) {
        let dot = Dot {
            actor: Actor(1),
            counter,
        };
        let incoming = Incoming {
            write_id: WriteId(u128::from(counter)),
            timestamp: 0,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::from_static(value.as_bytes())),
        };
        let context = versions.clock().clone();
        versions.write(&context, dot, incoming);
    }

    fn values(versions: &Versions) -> Vec<&Value> {
        versions.siblings().iter().map(|s| &s.value).collect()
    }

    /// An actor that forgot its past: a higher counter alone does not help, the write it has
    /// forgotten looks as if it had been replaced.
    #[test]
    fn an_actor_that_outlives_its_memory() {
        let mut replica = Versions::new();
        write(&mut replica, 5, "acknowledged");
        let mut forgetful = Versions::new();
        write(&mut forgetful, 1000, "later");
        replica.merge(&forgetful);
        assert_eq!(values(&replica), [&Value::Bytes("later".into())]);
    }

    /// Dots of one actor that arrive out of their order: the earlier one looks replaced.
    #[test]
    fn dots_sent_out_of_order() {
        let (mut five, mut seven) = (Versions::new(), Versions::new());
        write(&mut five, 5, "five");
        write(&mut seven, 7, "seven");
        let mut replica = Versions::new();
        replica.merge(&seven);
        replica.merge(&five);
        assert_eq!(values(&replica), [&Value::Bytes("seven".into())]);
    }
}
