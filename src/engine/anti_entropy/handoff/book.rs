//! The book of what is owed to whom, and of what the owners have said.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::ids::{NodeId, RingVersion};

use super::following::{Followed, have_same_owners, owed_under};
use super::hint::Hint;
use crate::engine::placement::ring::Ring;
use crate::engine::quorum::{Place, Places, Quorum, Sides, bit};

/// Tells a hint from the same key's hint at another time. Never used twice while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(u64);

/// What an owner says of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It has been handed it, and has it durably.
    Has {
        /// The nonce of the process that says so: after a loss of its disk it is another one.
        run: u64,
    },
    /// It was asked again, and has lost nothing since that process began.
    Still {
        /// That process.
        run: u64,
    },
    /// It was asked again, and does not have it.
    Lost,
}

/// What an owner's word changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmed {
    /// The hint has changed since it was sent, or is gone: nothing.
    Stale,
    /// Something, and the hint counts as before.
    Noted,
    /// Enough have it: it counts for nothing any more, and goes on being owed to these.
    Settled {
        /// Who has not said that it has it.
        owed: BTreeSet<NodeId>,
    },
    /// All have it: the hint is of no use any more.
    Done,
}

/// Where a node stands in the book's own list of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name(u16);

#[derive(Debug)]
struct Entry {
    /// Who is to be handed it, or to be asked again.
    owed: Vec<Name>,
    needed: u8,
    /// Who has said that it has it, while it counts.
    said: Vec<Said>,
    kept_at_ms: u64,
    revision: Revision,
}

/// An owner has said that it has a hint.
#[derive(Debug, Clone, Copy)]
struct Said {
    owner: Name,
    /// Which process of it.
    run: u64,
    /// It has said so again since the last of the others first did.
    is_sure: bool,
}

impl Entry {
    fn counts(&self) -> bool {
        self.needed > 0
    }

    fn has_said(&self, owner: Name) -> bool {
        self.said.iter().any(|said| said.owner == owner)
    }

    /// The places of those among the owners whose word is like this.
    fn places(&self, owners: &[Name], is_like: impl Fn(&Said) -> bool) -> Places {
        let said = self.said.iter().filter(|said| is_like(said));
        let places = said.filter_map(|said| owners.iter().position(|&it| it == said.owner));
        places.fold(0, |places, place| places | bit(place as Place))
    }

    /// Whether so many as are needed had it at one moment.
    fn is_settled(&self, owners: &[Name], sides: Sides) -> bool {
        let quorum = Quorum::of_writers(self.needed, sides);
        let sure = self.places(owners, |said| said.is_sure);
        // One that has it has it at one moment.
        let is_enough =
            |said: &Said| quorum.is_met_by(self.places(owners, |it| it.owner == said.owner));
        quorum.is_met_by(sure) || self.said.iter().any(is_enough)
    }

    /// Who is to be asked again, once enough have said that they have it.
    fn unsure(&self, owners: &[Name], sides: Sides) -> Vec<Name> {
        let quorum = Quorum::of_writers(self.needed, sides);
        match quorum.is_met_by(self.places(owners, |_| true)) || self.owed.is_empty() {
            true => {
                let unsure = self.said.iter().filter(|said| !said.is_sure);
                unsure.map(|said| said.owner).collect()
            }
            false => Vec::new(),
        }
    }

    /// Takes note of what an owner has said.
    fn hear(&mut self, name: Name, word: Word) {
        let is_known = |said: &Said, run| said.owner == name && said.run == run;
        match word {
            Word::Has { run } => {
                self.owed.retain(|&it| it != name);
                self.said.retain(|said| said.owner != name);
                // The others may have lost it meanwhile.
                self.said.iter_mut().for_each(|said| said.is_sure = false);
                if self.counts() {
                    self.said.push(Said {
                        owner: name,
                        run,
                        is_sure: false,
                    });
                }
            }
            Word::Still { run } if self.said.iter().any(|said| is_known(said, run)) => {
                self.owed.retain(|&it| it != name);
                let known = self.said.iter_mut().filter(|said| is_known(said, run));
                known.for_each(|said| said.is_sure = true);
            }
            // It is handed the hint again.
            Word::Still { .. } | Word::Lost => self.said.retain(|said| said.owner != name),
        }
    }

    /// Draws the conclusion from what these owners have said.
    fn conclude(&mut self, owners: &[Name], sides: Sides) {
        if self.is_settled(owners, sides) {
            // Who has said so is asked no more.
            let said = std::mem::take(&mut self.said);
            self.owed
                .retain(|owner| said.iter().all(|said| said.owner != *owner));
            self.needed = 0;
            return;
        }
        for owner in self.unsure(owners, sides) {
            if !self.owed.contains(&owner) {
                self.owed.push(owner);
            }
        }
    }

    /// All that it is owed to, be it that they have said that they have it.
    fn owed_at_first(&self) -> Vec<Name> {
        let said = self.said.iter().map(|said| said.owner);
        let said = said.filter(|owner| !self.owed.contains(owner));
        self.owed.iter().copied().chain(said).collect()
    }
}

/// A hint that is owed to others since the ring has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The key.
    pub key: Bytes,
    /// Who is owed it now. Where nobody is left the hint is of no use any more.
    pub owed: BTreeSet<NodeId>,
    /// How many of them must have it.
    pub needed: u8,
}

/// What is owed to whom. Holds no versions: those lie on disk.
///
/// A book follows a ring. Before it does nothing is handed out, and nobody's word counts.
#[derive(Debug, Default)]
pub struct HintBook {
    entries: BTreeMap<Bytes, Entry>,
    names: Vec<NodeId>,
    /// By name: the keys owed to it.
    by_node: Vec<BTreeSet<Bytes>>,
    last_revision: u64,
    counted: usize,
    followed: Option<Followed<Name>>,
    /// From here on, in the order of the keys, hints are owed as they were under an earlier ring.
    behind: Option<Bound<Bytes>>,
}

impl HintBook {
    /// An empty book that follows the same ring and gives no revision which this one gave.
    pub fn successor(&self) -> Self {
        let mut next = Self {
            last_revision: self.last_revision,
            ..Self::default()
        };
        if let Some(followed) = &self.followed {
            next.follow(followed.ring.clone());
        }
        next
    }

    /// From now on hints are owed to the owners under this ring: [`follow_on`](Self::follow_on) looks at those that
    /// are there already, unless all owners are the same.
    pub fn follow(&mut self, ring: Arc<Ring>) {
        let former = self.followed.take();
        let is_same = |it: &Followed<Name>| have_same_owners(it.ring.document(), ring.document());
        if !former.as_ref().is_some_and(is_same) {
            self.behind = Some(Bound::Unbounded);
        }
        self.followed = Some(Followed::new(ring, |id| self.name_of(id)));
    }

    /// The ring that is followed.
    pub fn ring(&self) -> Option<&Arc<Ring>> {
        self.followed.as_ref().map(|followed| &followed.ring)
    }

    /// Its version, 0 for none.
    pub fn ring_version(&self) -> RingVersion {
        self.ring().map_or(RingVersion(0), |ring| ring.version())
    }

    /// Whether hints are left that are owed as under an earlier ring. They are not handed out.
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    fn is_up_to_date(&self, key: &[u8]) -> bool {
        self.followed.is_some()
            && match &self.behind {
                None => true,
                Some(Bound::Excluded(last)) => key <= &last[..],
                Some(_) => false,
            }
    }

    /// Looks at the next hints that are owed as under an earlier ring, at most so many, and changes at most so many.
    /// What owners have said under that ring is forgotten: they are asked anew. Gives back those hints that are owed to
    /// others now, or need another number of them.
    pub fn follow_on(&mut self, looked_max: usize, changed_max: usize) -> Vec<Rewritten> {
        let (Some(begin), Some(followed)) = (self.behind.clone(), &self.followed) else {
            return Vec::new();
        };
        let keys = self.entries.range((begin, Bound::Unbounded));
        let keys: Vec<Bytes> = keys.take(looked_max).map(|(key, _)| key.clone()).collect();
        let w = followed.ring.document().w;
        let mut rewritten = Vec::new();
        let mut last = None;
        let mut is_done = keys.len() < looked_max;
        for key in keys {
            if rewritten.len() >= changed_max {
                is_done = false;
                break;
            }
            rewritten.extend(self.follow_key(&key, w));
            last = Some(key);
        }
        self.behind = match last {
            _ if is_done => None,
            Some(last) => Some(Bound::Excluded(last)),
            None => self.behind.clone(),
        };
        rewritten
    }

    fn follow_key(&mut self, key: &Bytes, w: u8) -> Option<Rewritten> {
        let owners = self.followed.as_ref()?.owners(key);
        let entry = self.entries.get_mut(key)?;
        let before = entry.owed.clone();
        let at_first = entry.owed_at_first();
        let new = owed_under((&at_first, entry.needed), &owners, w);
        entry.said.clear();
        let is_other = new.is_some();
        (entry.owed, entry.needed) = new.unwrap_or((at_first, entry.needed));
        let (owed, needed) = (entry.owed.clone(), entry.needed);
        self.note_owed(key, &before, &owed);
        is_other.then(|| Rewritten {
            key: key.clone(),
            owed: self.ids(&owed),
            needed,
        })
    }

    /// The keys owed to each, after those that are owed one have changed.
    fn note_owed(&mut self, key: &Bytes, before: &[Name], after: &[Name]) {
        for gone in before.iter().filter(|&it| !after.contains(it)) {
            self.by_node[usize::from(gone.0)].remove(key);
        }
        for again in after.iter().filter(|&it| !before.contains(it)) {
            self.by_node[usize::from(again.0)].insert(key.clone());
        }
    }

    fn ids(&self, names: &[Name]) -> BTreeSet<NodeId> {
        let ids = names.iter().map(|it| self.names[usize::from(it.0)].clone());
        ids.collect()
    }

    /// How many keys are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many of them count towards the W of a write.
    pub fn counted(&self) -> usize {
        self.counted
    }

    /// When the oldest was kept, in milliseconds since 1970. Looks at all of them.
    pub fn oldest_kept_at_ms(&self) -> Option<u64> {
        self.entries.values().map(|entry| entry.kept_at_ms).min()
    }

    /// To whom anything is owed, and how many keys.
    pub fn owed(&self) -> impl Iterator<Item = (&NodeId, usize)> {
        let all = self.names.iter().zip(&self.by_node);
        all.map(|(node, keys)| (node, keys.len()))
            .filter(|(_, keys)| *keys > 0)
    }

    /// Takes note of what is kept of a key from now on: it has to go to all who are owed it.
    pub fn put(&mut self, key: Bytes, hint: &Hint) -> Revision {
        self.last_revision += 1;
        let revision = Revision(self.last_revision);
        self.enter(key, hint, revision);
        revision
    }

    /// Takes note of what an owner has said, under this ring, of what was this hint when it was sent. What is on its
    /// way to the others stays good. Under another ring it is nobody's word: it may own the key no more.
    pub fn confirm(
        &mut self,
        key: &Bytes,
        (revision, under): (Revision, RingVersion),
        by: &NodeId,
        word: Word,
    ) -> Confirmed {
        let name = self.names.iter().position(|name| name == by);
        let (Some(name), Some(followed)) = (name, &self.followed) else {
            return Confirmed::Stale;
        };
        if under != followed.ring.version() || !self.is_up_to_date(key) {
            return Confirmed::Stale;
        }
        // Members of rings, of which there are at most 1,024 at a time.
        let name = Name(name as u16);
        let owners = followed.owners(key);
        let sides = followed.ring.sides(Segment::of_key(key));
        let Some(entry) = self.entries.get_mut(key) else {
            return Confirmed::Stale;
        };
        if entry.revision != revision || !entry.owed.contains(&name) {
            return Confirmed::Stale;
        }
        let before = entry.owed.clone();
        entry.hear(name, word);
        if entry.counts() {
            entry.conclude(&owners, sides);
            self.counted -= usize::from(!entry.counts());
        }
        let (owed, counts) = (entry.owed.clone(), entry.counts());
        self.note_owed(key, &before, &owed);
        match (counts, owed.is_empty()) {
            (true, _) => Confirmed::Noted,
            (false, true) => Confirmed::Done,
            (false, false) => Confirmed::Settled {
                owed: self.ids(&owed),
            },
        }
    }

    fn enter(&mut self, key: Bytes, hint: &Hint, revision: Revision) {
        self.remove(&key);
        let owed: Vec<_> = hint.owed.iter().map(|node| self.name_of(node)).collect();
        for name in &owed {
            self.by_node[usize::from(name.0)].insert(key.clone());
        }
        self.counted += usize::from(hint.counts());
        let entry = Entry {
            owed,
            needed: hint.needed,
            said: Vec::new(),
            kept_at_ms: hint.kept_at_ms,
            revision,
        };
        self.entries.insert(key, entry);
    }

    /// Forgets a key. False when nothing was kept of it.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let Some(entry) = self.entries.remove(key) else {
            return false;
        };
        self.counted -= usize::from(entry.counts());
        for name in entry.owed {
            self.by_node[usize::from(name.0)].remove(key);
        }
        true
    }

    /// The next keys that are owed to a node, behind `after` in the order of the keys, and of each whether
    /// the node has said that it has it, and is to be asked again. Those that are owed as under an earlier ring wait.
    pub fn next(
        &self,
        node: &NodeId,
        after: Option<&Bytes>,
        keys_max: usize,
    ) -> Vec<(Bytes, Revision, bool)> {
        let Some(at) = self.names.iter().position(|name| name == node) else {
            return Vec::new();
        };
        let begin = match after {
            Some(key) => Bound::Excluded(key),
            None => Bound::Unbounded,
        };
        let keys = self.by_node[at].range::<Bytes, _>((begin, Bound::Unbounded));
        let keys = keys.take_while(|key| self.is_up_to_date(key));
        let known = keys.filter_map(|key| {
            let entry = self.entries.get(key)?;
            Some((key.clone(), entry.revision, entry.has_said(Name(at as u16))))
        });
        known.take(keys_max).collect()
    }

    /// Whether what is kept of the key is still what it was.
    pub fn is_current(&self, key: &[u8], revision: Revision) -> bool {
        self.entries
            .get(key)
            .is_some_and(|entry| entry.revision == revision)
    }

    /// The keys whose hints count for nothing and were kept before this moment.
    pub fn kept_before(&self, unix_ms: u64) -> Vec<Bytes> {
        let old = |(_, entry): &(&Bytes, &Entry)| !entry.counts() && entry.kept_at_ms < unix_ms;
        let old = self.entries.iter().filter(old);
        old.map(|(key, _)| key.clone()).collect()
    }

    fn name_of(&mut self, node: &NodeId) -> Name {
        let known = self.names.iter().position(|name| name == node);
        let at = known.unwrap_or_else(|| {
            self.names.push(node.clone());
            self.by_node.push(BTreeSet::new());
            self.names.len() - 1
        });
        // Members of rings, of which there are at most 1,024 at a time.
        Name(at as u16)
    }
}
