//! The book of what is owed to whom, and of what the owners have said.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dynakv_protocol::ids::NodeId;

use super::hint::Hint;

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

    /// Whether so many as are needed had it at one moment.
    fn is_settled(&self) -> bool {
        // Fewer owners than that is all there are.
        let lacking = self.owed.iter().filter(|&&it| !self.has_said(it)).count();
        let enough = usize::from(self.needed).min(self.said.len() + lacking);
        let sure = self.said.iter().filter(|said| said.is_sure).count();
        // One that has it has it at one moment.
        sure >= enough || enough == 1 && !self.said.is_empty()
    }

    /// Who is to be asked again, once enough have said that they have it.
    fn unsure(&self) -> Vec<Name> {
        match self.said.len() >= usize::from(self.needed) || self.owed.is_empty() {
            true => {
                let unsure = self.said.iter().filter(|said| !said.is_sure);
                unsure.map(|said| said.owner).collect()
            }
            false => Vec::new(),
        }
    }
}

/// What is owed to whom. Holds no versions: those lie on disk.
#[derive(Debug, Default)]
pub struct HintBook {
    entries: BTreeMap<Bytes, Entry>,
    names: Vec<NodeId>,
    /// By name: the keys owed to it.
    by_node: Vec<BTreeSet<Bytes>>,
    last_revision: u64,
    counted: usize,
}

impl HintBook {
    /// An empty book that gives no revision which this one gave.
    pub fn successor(&self) -> Self {
        Self {
            last_revision: self.last_revision,
            ..Self::default()
        }
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

    /// Takes note of what an owner has said of what was this hint when it was sent. What is on its way to
    /// the others stays good.
    pub fn confirm(
        &mut self,
        key: &Bytes,
        revision: Revision,
        by: &NodeId,
        word: Word,
    ) -> Confirmed {
        let Some(name) = self.names.iter().position(|name| name == by) else {
            return Confirmed::Stale;
        };
        // Members of rings, of which there are at most 1,024 at a time.
        let name = Name(name as u16);
        let Some(entry) = self.entries.get_mut(key) else {
            return Confirmed::Stale;
        };
        if entry.revision != revision || !entry.owed.contains(&name) {
            return Confirmed::Stale;
        }
        let is_known = |said: &Said, run| said.owner == name && said.run == run;
        let before = entry.owed.clone();
        match word {
            Word::Has { run } => {
                entry.owed.retain(|&it| it != name);
                entry.said.retain(|said| said.owner != name);
                // The others may have lost it meanwhile.
                entry.said.iter_mut().for_each(|said| said.is_sure = false);
                if entry.counts() {
                    entry.said.push(Said {
                        owner: name,
                        run,
                        is_sure: false,
                    });
                }
            }
            Word::Still { run } if entry.said.iter().any(|said| is_known(said, run)) => {
                entry.owed.retain(|&it| it != name);
                let known = entry.said.iter_mut().filter(|said| is_known(said, run));
                known.for_each(|said| said.is_sure = true);
            }
            // It is handed the hint again.
            Word::Still { .. } | Word::Lost => entry.said.retain(|said| said.owner != name),
        }
        let was_counted = entry.counts();
        if was_counted && entry.is_settled() {
            // Who has said so is asked no more.
            let said = std::mem::take(&mut entry.said);
            entry
                .owed
                .retain(|owner| said.iter().all(|said| said.owner != *owner));
            entry.needed = 0;
            self.counted -= 1;
        } else if was_counted {
            for owner in entry.unsure() {
                if !entry.owed.contains(&owner) {
                    entry.owed.push(owner);
                }
            }
        }
        for gone in before.iter().filter(|&it| !entry.owed.contains(it)) {
            self.by_node[usize::from(gone.0)].remove(key);
        }
        for again in entry.owed.iter().filter(|&it| !before.contains(it)) {
            self.by_node[usize::from(again.0)].insert(key.clone());
        }
        if entry.counts() {
            return Confirmed::Noted;
        }
        let owed = entry.owed.iter();
        let owed: BTreeSet<_> = owed
            .map(|it| self.names[usize::from(it.0)].clone())
            .collect();
        match owed.is_empty() {
            true => Confirmed::Done,
            false => Confirmed::Settled { owed },
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
    /// the node has said that it has it, and is to be asked again.
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
            Some(key) => std::ops::Bound::Excluded(key),
            None => std::ops::Bound::Unbounded,
        };
        let keys = self.by_node[at].range::<Bytes, _>((begin, std::ops::Bound::Unbounded));
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
