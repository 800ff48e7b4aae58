//! Decisions under a hostile network: whole rings deciding version after version, from a seed.
//!
//! Members propose joins and the seal against each other while messages are dropped, duplicated and
//! reordered, and while nodes crash at any moment, come back with what was durable, and in one case with
//! nothing, and while somebody who is no member asks for promises in rounds that nobody has come to. Two properties are checked, the first after every single event:
//!
//! - **one document per version**, judged by what proposers report *and*, independently, by counting
//!   durable acceptances: a document that a majority accepted under one ballot is chosen, whether or not
//!   anybody has noticed;
//! - **progress**: once the network is quiet, every wish is carried out or refused for good, no change is
//!   left half way, and all nodes hold the same ring.
//!
//! Each way to break an acceptor ([`Break`]) must be caught by the same run, or the checks prove nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::gossip::{Accept, Ballot, Join, Prepare, Vote};
use dynakv_protocol::ids::{ClusterId, DirectoryId, RingVersion};
use dynakv_protocol::ring_document::{Member, RingDocument, Step};

use super::{Acceptor, Effect, Phase, Proposer};
use crate::engine::counters::{ROUND_JUMP_MAX, ROUND_MAX};
use crate::engine::layout::change::{self, ChangeRefusal};
use crate::engine::layout::document::{JoinRefusal, admit, found, seal};
use crate::engine::layout::made_up::{id, join, member};

const RUNS: u64 = 60_000;
const FOUNDERS_MAX: usize = 7;
const JOINERS_MAX: usize = 2;
/// In a quiet network one attempt per wish and version is enough; this is far more.
const QUIET_ATTEMPTS_MAX: usize = 100;

pub(super) fn ballot(round: u64, name: &str) -> Ballot {
    Ballot {
        round,
        node: id(name),
    }
}

fn name(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

/// An open ring of version 1 with the members a, b, c, …
pub(super) fn ring(members: usize) -> RingDocument {
    let mut ring = found(ClusterId(7), "test", member("a"), 3, 2, 2);
    ring.members = (0..members).map(|i| member(&name(i))).collect();
    ring
}

/// What is wrong with the nodes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    Nothing,
    /// After a restart an acceptor knows what it accepted, but not what it promised.
    PromiseNotDurable,
    /// After a restart an acceptor knows what it promised, but not what it accepted.
    AcceptedNotDurable,
    /// A vote leaves before the acceptor is durable.
    VoteBeforeDurable,
    /// Promises do not tell what was accepted before.
    AcceptedNotTold,
    /// A node that lost its directory votes at once, as if it were new.
    LossUnnoticed,
}

#[derive(Debug, Clone)]
enum Body {
    Prepare(Prepare),
    Accept(Accept),
    Vote(Phase, Vote),
}

#[derive(Debug, Clone)]
struct Packet {
    from: usize,
    to: usize,
    /// Which attempt of the proposer it belongs to, as a connection would know.
    attempt: u64,
    body: Body,
}

#[derive(Debug, Clone)]
enum Wish {
    Admit(Join),
    Seal,
    /// These members, and to bring whatever change is under way to its end.
    Members(Vec<usize>),
    /// To give the change up.
    Back,
    /// To bring it to its end.
    Onwards,
}

impl Wish {
    /// Members wish different things at once: the seal, a joiner (through whichever members it asked),
    /// another weight for one of the founders, other members, what they had before, or nothing.
    fn any(rng: &mut fastrand::Rng, founders: usize, joiners: usize) -> Option<Self> {
        match rng.usize(0..7) {
            0 => Some(Self::Seal),
            1 if joiners > 0 => {
                let joiner = founders + rng.usize(0..joiners);
                Some(Self::Admit(join(&name(joiner))))
            }
            2 => {
                let mut renewed = join(&name(rng.usize(0..founders)));
                renewed.member.weight = rng.u16(1..=2);
                Some(Self::Admit(renewed))
            }
            3 | 4 => {
                let mut members: Vec<usize> = (0..founders + joiners).collect();
                rng.shuffle(&mut members);
                members.truncate(rng.usize(1..=founders + joiners));
                Some(Self::Members(members))
            }
            5 => Some(Self::Back),
            _ => None,
        }
    }

    /// The ring to propose after `ring`; `None` when it is fulfilled, or refused for good. `directories` are
    /// those that the nodes live in.
    fn next(&self, ring: &RingDocument, directories: &[DirectoryId]) -> Option<RingDocument> {
        match self {
            Self::Seal => seal(ring),
            Self::Admit(join) => match admit(ring, join) {
                Ok(next) => Some(next),
                Err(
                    JoinRefusal::AlreadyMember { .. }
                    | JoinRefusal::HoldsData
                    | JoinRefusal::ComingIn { .. }
                    | JoinRefusal::DirectoryLost { .. },
                ) => None,
                Err(refusal) => panic!("{refusal}"),
            },
            Self::Back => change::give_up(ring),
            Self::Onwards => {
                let is_other = |at: &usize| {
                    let entry = ring.member(&id(&name(*at)));
                    entry.is_some_and(|entry| entry.directory_id != directories[*at])
                };
                let Some(lost) = (0..directories.len()).find(is_other) else {
                    return change::read_new(ring).or_else(|| change::finish(ring));
                };
                // Who has lost its directory is listed with its new one, or does not come in.
                let mut renewed = join(&name(lost));
                renewed.member.directory_id = directories[lost];
                renewed.is_rebuilding = true;
                let next = admit(ring, &renewed).ok();
                next.or_else(|| change::give_up(ring))
            }
            Self::Members(members) => {
                let entry = |&at: &usize| {
                    let known = ring.member(&id(&name(at))).cloned();
                    known.unwrap_or_else(|| Member {
                        directory_id: directories[at],
                        ..member(&name(at))
                    })
                };
                let target: Vec<Member> = members.iter().map(entry).collect();
                match change::begin(ring, &target, &[], |_| change::Reads::Changes) {
                    Ok(next) => Some(next),
                    Err(ChangeRefusal::StillOpen) => seal(ring),
                    Err(ChangeRefusal::Running { .. }) => Self::Onwards.next(ring, directories),
                    Err(ChangeRefusal::NothingChanges) => None,
                    Err(refusal) => panic!("{refusal}"),
                }
            }
        }
    }
}

struct Node {
    /// Durable at once: the acceptor is what this test is about.
    ring: RingDocument,
    acceptor: Acceptor,
    disk: Bytes,
    directory: DirectoryId,
    proposer: Option<(u64, Proposer)>,
    round: u64,
    wish: Option<Wish>,
}

struct World {
    rng: fastrand::Rng,
    broken: Break,
    founders: usize,
    joiners: usize,
    nodes: Vec<Node>,
    network: Vec<Packet>,
    attempts: u64,
    quiet: bool,
    may_wipe: bool,
    /// What is decided, by version.
    decided: BTreeMap<u64, RingDocument>,
    /// Who has durably accepted what, by version and ballot.
    accepted: BTreeMap<(u64, Ballot), BTreeSet<usize>>,
}

impl World {
    fn new(seed: u64, broken: Break) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let founders = rng.usize(1..=FOUNDERS_MAX);
        let joiners = rng.usize(0..=JOINERS_MAX);
        let first = ring(founders);
        let nodes = (0..founders + joiners).map(|at| {
            let acceptor = Acceptor::new(id(&name(at)), DirectoryId(1));
            Node {
                ring: first.clone(),
                disk: acceptor.to_bytes(),
                directory: DirectoryId(1),
                acceptor,
                proposer: None,
                round: 1,
                wish: Wish::any(&mut rng, founders, joiners),
            }
        });
        let nodes = nodes.collect();
        Self {
            rng,
            broken,
            founders,
            joiners,
            nodes,
            network: Vec::new(),
            attempts: 0,
            quiet: false,
            may_wipe: true,
            decided: BTreeMap::from([(1, first)]),
            accepted: BTreeMap::new(),
        }
    }

    /// The first property: one document per version.
    fn check_decided(&mut self, document: &RingDocument) -> Result<(), String> {
        let known = self
            .decided
            .entry(document.version.0)
            .or_insert_with(|| document.clone());
        if known == document {
            Ok(())
        } else {
            Err(format!(
                "version {} is both {known:?} and {document:?}",
                known.version
            ))
        }
    }

    /// The same, by the acceptors' disks and not by anybody's word.
    fn check_chosen(&mut self, by: usize, accept: &Accept) -> Result<(), String> {
        let ring = &self.nodes[by].ring;
        if !ring.is_voter(&id(&name(by))) {
            return Ok(());
        }
        let majority = ring.majority();
        let key = (accept.document.version.0, accept.ballot.clone());
        let acceptors = self.accepted.entry(key).or_default();
        acceptors.insert(by);
        if acceptors.len() >= majority {
            self.check_decided(&accept.document)?;
        }
        Ok(())
    }

    fn directories(&self) -> Vec<DirectoryId> {
        self.nodes.iter().map(|node| node.directory).collect()
    }

    fn adopt(&mut self, at: usize, document: RingDocument) {
        let node = &mut self.nodes[at];
        if document.version > node.ring.version {
            node.ring = document;
            // What it proposed is out of date; its wish is looked at again.
            node.proposer = None;
            node.round = 1;
        }
    }

    fn propose(&mut self, at: usize) -> Result<(), String> {
        let directories = self.directories();
        let node = &mut self.nodes[at];
        let me = id(&name(at));
        if node.ring.member(&me).is_none() {
            return Ok(());
        }
        let wish = node.wish.as_ref();
        let Some(wanted) = wish.and_then(|wish| wish.next(&node.ring, &directories)) else {
            return Ok(());
        };
        // A round that was used before, as after a restart, must be as safe as a fresh one.
        let round = if self.quiet || self.rng.bool() {
            node.round.max(node.acceptor.next_round(&node.ring))
        } else {
            1
        };
        let mut proposer = Proposer::new(me, node.ring.clone(), wanted, round).unwrap();
        let mut effects = Vec::new();
        proposer.start(&mut effects);
        self.attempts += 1;
        node.proposer = Some((self.attempts, proposer));
        self.carry_out(at, self.attempts, effects)
    }

    fn carry_out(&mut self, at: usize, attempt: u64, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            let (to, body) = match effect {
                Effect::SendPrepare { to, prepare } => (to, Body::Prepare(prepare)),
                Effect::SendAccept { to, accept } => (to, Body::Accept(accept)),
                Effect::Decided(document) => {
                    self.check_decided(&document)?;
                    self.adopt(at, document);
                    continue;
                }
                Effect::Retry { next_round } | Effect::NoMajority { next_round, .. } => {
                    self.nodes[at].round = next_round;
                    self.nodes[at].proposer = None;
                    continue;
                }
            };
            let to = usize::from(to.as_str().as_bytes()[0] - b'a');
            self.network.push(Packet {
                from: at,
                to,
                attempt,
                body,
            });
        }
        Ok(())
    }

    /// Delivers one packet, any of those under way.
    fn deliver(&mut self) -> Result<(), String> {
        if self.network.is_empty() {
            return Ok(());
        }
        let index = self.rng.usize(..self.network.len());
        let packet = match self.rng.usize(0..20) {
            0 | 1 if !self.quiet => {
                self.network.swap_remove(index);
                return Ok(());
            }
            2 | 3 if !self.quiet => self.network[index].clone(),
            _ => self.network.swap_remove(index),
        };
        let at = packet.to;
        let node = &mut self.nodes[at];
        let (phase, answer) = match packet.body {
            Body::Prepare(prepare) => {
                let mut answer = node.acceptor.on_prepare(&node.ring, &prepare);
                if self.broken == Break::AcceptedNotTold {
                    answer.vote.accepted = None;
                }
                (Phase::Prepare, answer)
            }
            Body::Accept(accept) => {
                let answer = node.acceptor.on_accept(&node.ring, &accept);
                if answer.vote.granted {
                    self.check_chosen(at, &accept)?;
                }
                (Phase::Accept, answer)
            }
            Body::Vote(phase, vote) => {
                let mut effects = Vec::new();
                if let Some((attempt, proposer)) = &mut node.proposer
                    && *attempt == packet.attempt
                {
                    proposer.on_vote(&id(&name(packet.from)), phase, vote, &mut effects);
                }
                return self.carry_out(at, packet.attempt, effects);
            }
        };
        let lost = self.broken == Break::VoteBeforeDurable && self.rng.bool();
        let node = &mut self.nodes[at];
        if answer.save && !lost {
            node.disk = node.acceptor.to_bytes();
        } else if !answer.save && self.broken == Break::Nothing && answer.vote.granted {
            assert_eq!(
                Acceptor::from_bytes(&node.disk).as_ref(),
                Ok(&node.acceptor),
                "a change was not announced"
            );
        }
        self.network.push(Packet {
            from: at,
            to: packet.from,
            attempt: packet.attempt,
            body: Body::Vote(phase, answer.vote),
        });
        Ok(())
    }

    fn restart(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.acceptor = Acceptor::from_bytes(&node.disk).unwrap();
        match self.broken {
            Break::PromiseNotDurable => node.acceptor.forget_promise(),
            Break::AcceptedNotDurable => node.acceptor.forget_accepted(),
            Break::Nothing
            | Break::VoteBeforeDurable
            | Break::AcceptedNotTold
            | Break::LossUnnoticed => {}
        }
        node.proposer = None;
        node.round = 1;
        if self.rng.bool() {
            // It has forgotten what it proposed, and may propose something else under the same ballot.
            node.wish = Wish::any(&mut self.rng, self.founders, self.joiners);
        }
    }

    /// The directory is gone. Any other node hands over the ring it has, however old, and somebody asks
    /// to have the new directory listed.
    fn wipe(&mut self, at: usize) {
        let others: Vec<_> = (0..self.nodes.len()).filter(|other| *other != at).collect();
        let rings = others.iter().map(|other| &self.nodes[*other].ring);
        // A sole voter that is wiped takes its cluster with it: nothing is left to contradict.
        let voters = rings
            .max_by_key(|r| r.version)
            .map_or(0, |r| r.voters().count());
        if !self.may_wipe || voters < 2 {
            return;
        }
        self.may_wipe = false;
        let teller = others[self.rng.usize(..others.len())];
        let asker = others[self.rng.usize(..others.len())];
        let ring = self.nodes[teller].ring.clone();
        let new_directory = match self.broken {
            Break::LossUnnoticed => DirectoryId(1),
            Break::Nothing
            | Break::PromiseNotDurable
            | Break::AcceptedNotDurable
            | Break::VoteBeforeDurable
            | Break::AcceptedNotTold => DirectoryId(2),
        };
        let mut renewed = join(&name(at));
        renewed.member.directory_id = new_directory;
        if ring.member(&renewed.member.id).is_some() {
            self.nodes[asker].wish = Some(Wish::Admit(renewed));
        }
        let node = &mut self.nodes[at];
        node.acceptor = Acceptor::new(id(&name(at)), new_directory);
        node.disk = node.acceptor.to_bytes();
        node.directory = new_directory;
        node.ring = ring;
        node.proposer = None;
        node.round = 1;
    }

    /// Somebody who is no member asks in the name of one, in a round that is far ahead or cannot be.
    fn lie(&mut self, to: usize) {
        let slot = RingVersion(self.nodes[to].ring.version.0 + 1);
        let rounds = [3, ROUND_JUMP_MAX, ROUND_JUMP_MAX + 3, ROUND_MAX, u64::MAX];
        let ballot = ballot(
            rounds[self.rng.usize(..rounds.len())],
            &name(self.rng.usize(..self.nodes.len())),
        );
        let body = match seal(&self.nodes[to].ring) {
            // In a round that is in reach it is a proposal like any other, and under the ballot of another: that is
            // for locks to prevent.
            Some(document) if self.rng.bool() && ballot.round >= ROUND_MAX => {
                Body::Accept(Accept { ballot, document })
            }
            _ => Body::Prepare(Prepare { slot, ballot }),
        };
        let (from, attempt) = (self.rng.usize(..self.nodes.len()), 0);
        self.network.push(Packet {
            from,
            to,
            attempt,
            body,
        });
    }

    fn chaos(&mut self) -> Result<(), String> {
        for _ in 0..self.rng.usize(40..240) {
            let at = self.rng.usize(..self.nodes.len());
            match self.rng.usize(0..100) {
                0..75 => self.deliver()?,
                75..85 if self.nodes[at].proposer.is_none() => self.propose(at)?,
                75..90 => {
                    if let Some((attempt, proposer)) = &mut self.nodes[at].proposer {
                        let (attempt, mut effects) = (*attempt, Vec::new());
                        proposer.on_timeout(&mut effects);
                        self.carry_out(at, attempt, effects)?;
                    }
                }
                90..96 => self.restart(at),
                96 if self.rng.usize(0..4) == 0 => self.wipe(at),
                97 => self.lie(at),
                _ => {
                    let news = self.nodes[self.rng.usize(..self.nodes.len())].ring.clone();
                    self.adopt(at, news);
                }
            }
        }
        Ok(())
    }

    /// The second property: without faults every wish comes to an end.
    fn settle(&mut self) -> Result<(), String> {
        self.quiet = true;
        for attempt in 0..QUIET_ATTEMPTS_MAX {
            while !self.network.is_empty() {
                self.deliver()?;
            }
            let newest = self.nodes.iter().map(|n| &n.ring).max_by_key(|r| r.version);
            let newest = newest.cloned().ok_or("no nodes")?;
            for at in 0..self.nodes.len() {
                self.adopt(at, newest.clone());
            }
            let directories = self.directories();
            let wishes = |node: &Node| {
                let wish = node.wish.as_ref();
                wish.is_some_and(|wish| wish.next(&newest, &directories).is_some())
            };
            let wishing: Vec<_> = (0..self.nodes.len())
                .filter(|at| newest.member(&id(&name(*at))).is_some())
                .filter(|at| wishes(&self.nodes[*at]))
                .collect();
            // Two that ask for different entries of one member could go on for ever: each once.
            let Some(at) = wishing.get(attempt % wishing.len().max(1)) else {
                match newest.change() {
                    Some(_) => {
                        // Any member ends what another one has begun.
                        let member = |at: &usize| newest.member(&id(&name(*at))).is_some();
                        let any = (0..self.nodes.len()).find(member).ok_or("no members")?;
                        self.nodes[any].wish = Some(Wish::Onwards);
                        continue;
                    }
                    None => return Ok(()),
                }
            };
            let before = newest.version;
            self.propose(*at)?;
            while !self.network.is_empty() {
                self.deliver()?;
            }
            let is_once = match &self.nodes[*at].wish {
                Some(Wish::Admit(join)) => newest.member(&join.member.id).is_some(),
                Some(Wish::Members(_)) => self.nodes[*at].ring.step == Step::Final,
                Some(Wish::Back) => true,
                Some(Wish::Seal | Wish::Onwards) | None => false,
            };
            if is_once && self.nodes[*at].ring.version > before {
                self.nodes[*at].wish = None;
            }
        }
        Err(format!(
            "no end after {QUIET_ATTEMPTS_MAX} attempts in a quiet network"
        ))
    }
}

/// What a run decided, or how it went wrong.
fn run(seed: u64, broken: Break) -> Result<BTreeMap<u64, RingDocument>, String> {
    let mut world = World::new(seed, broken);
    world.chaos()?;
    world.settle()?;
    Ok(world.decided)
}

#[test]
fn one_document_is_decided_per_version_and_wishes_come_to_an_end() {
    let (mut versions, mut sealed, mut joined) = (0, 0, 0);
    let (mut begun, mut finished, mut given_up) = (0, 0, 0);
    for seed in 0..RUNS {
        let decided = run(seed, Break::Nothing).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let (first, last) = (&decided[&1], decided.values().next_back().unwrap());
        versions += decided.len() - 1;
        sealed += usize::from(last.step == Step::Final);
        joined += last.members.len().saturating_sub(first.members.len());
        let documents: Vec<&RingDocument> = decided.values().collect();
        for two in documents.windows(2) {
            let ends = two[1].step == Step::Final;
            begun += usize::from(two[0].change().is_none() && two[1].change().is_some());
            finished += usize::from(ends && change::finish(two[0]).is_some());
            given_up += usize::from(ends && change::give_up(two[0]).is_some());
        }
    }
    // The runs are worth something only if much is decided in them.
    let runs = RUNS as usize;
    assert!(versions > runs, "{versions} versions in {runs} runs");
    assert!(sealed > runs / 4, "{sealed} rings sealed");
    assert!(joined > runs / 10, "{joined} nodes joined");
    println!("{versions} versions, {begun} changes, {finished} finished, {given_up} given up");
    assert!(
        begun > runs / 2 && finished > runs / 3,
        "{begun} changes, {finished} finished"
    );
    assert!(given_up > runs / 50, "{given_up} given up");
}

#[test]
fn every_broken_acceptor_is_caught() {
    for broken in [
        Break::PromiseNotDurable,
        Break::AcceptedNotDurable,
        Break::VoteBeforeDurable,
        Break::AcceptedNotTold,
        Break::LossUnnoticed,
    ] {
        let caught = (0..RUNS).find_map(|seed| run(seed, broken).err());
        let caught = caught.unwrap_or_else(|| panic!("{broken:?} went unnoticed"));
        assert!(caught.contains("is both"), "{broken:?}: {caught}");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..50 {
        assert_eq!(run(seed, Break::Nothing), run(seed, Break::Nothing));
    }
}
