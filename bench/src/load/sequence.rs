//! Which step comes next, on which key: the same sequence for the same seed.

use std::collections::BTreeSet;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, Zipf};
use xxhash_rust::xxh3::xxh3_64;

use super::workload::{Step, Workload};

/// YCSB's exponent.
const ZIPF_EXPONENT: f64 = 0.99;

/// YCSB draws scrambled ranks from so many items, however many keys there are: so the share of the
/// hottest key is always the same, and every key can be drawn.
const ZIPF_SCRAMBLED_ITEMS: f64 = 1e10;

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Distribution {
    /// A few keys get most of it (YCSB's scrambled zipfian, exponent 0.99)
    Zipfian,
    /// All keys alike
    Uniform,
    /// The newest keys get most of it
    Latest,
}

impl Distribution {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zipfian => "zipfian",
            Self::Uniform => "uniform",
            Self::Latest => "latest",
        }
    }
}

/// What a caller is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// The request.
    pub(super) step: Step,
    /// The number of the key.
    pub(super) key: u64,
    /// The size of the value that is written, if one is.
    pub(super) value_bytes: usize,
}

/// What decides a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct SequenceConfig {
    /// The mix of steps.
    pub(super) workload: Workload,
    /// How keys are chosen.
    pub(super) distribution: Distribution,
    /// How many keys were loaded, 1 at least.
    pub(super) keys: u64,
    /// The smallest and the largest value, in bytes.
    pub(super) value_bytes: (usize, usize),
    /// What all is drawn from.
    pub(super) seed: u64,
}

/// Draws turns.
#[derive(Debug)]
pub(super) struct Sequence {
    config: SequenceConfig,
    random: Xoshiro256PlusPlus,
    chooser: Chooser,
    inserts: Inserts,
}

#[derive(Debug)]
enum Chooser {
    Uniform,
    Scrambled(Zipf<f64>),
    Latest(Zipf<f64>),
}

impl Sequence {
    /// Begins a sequence; `None` when no distribution fits so many keys.
    pub(super) fn new(config: SequenceConfig) -> Option<Self> {
        let zipf = |items: f64| Zipf::new(items, ZIPF_EXPONENT).ok();
        let chooser = match config.distribution {
            Distribution::Uniform => Chooser::Uniform,
            Distribution::Zipfian => Chooser::Scrambled(zipf(ZIPF_SCRAMBLED_ITEMS)?),
            Distribution::Latest => Chooser::Latest(zipf(config.keys as f64)?),
        };
        Some(Self {
            config,
            random: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            chooser,
            inserts: Inserts::after(config.keys),
        })
    }

    /// The next turn.
    pub(super) fn next(&mut self) -> Turn {
        let step = self.step();
        let key = match step {
            Step::Insert => self.inserts.begin(),
            _ => self.key(),
        };
        let (smallest, largest) = self.config.value_bytes;
        let value_bytes = if smallest == largest {
            smallest
        } else {
            self.random.random_range(smallest..=largest)
        };
        Turn {
            step,
            key,
            value_bytes,
        }
    }

    /// An insert has been answered: from now on its key may be read.
    pub(super) fn inserted(&mut self, key: u64) {
        self.inserts.end(key);
    }

    fn step(&mut self) -> Step {
        let mix = self.config.workload.mix();
        if let [(only, _)] = mix {
            return *only;
        }
        let mut dice = self.random.random_range(0..100);
        for (step, percent) in mix {
            if dice < *percent {
                return *step;
            }
            dice -= percent;
        }
        mix[0].0
    }

    fn key(&mut self) -> u64 {
        let keys = self.config.keys;
        match &self.chooser {
            Chooser::Uniform => self.random.random_range(0..self.inserts.readable),
            Chooser::Scrambled(zipf) => {
                let rank = zipf.sample(&mut self.random) as u64;
                xxh3_64(&rank.to_le_bytes()) % keys
            }
            // Ranks go from 1 to the number of loaded keys, so this never falls below 0.
            Chooser::Latest(zipf) => {
                let rank = zipf.sample(&mut self.random) as u64;
                self.inserts.readable.saturating_sub(rank.clamp(1, keys))
            }
        }
    }
}

/// The keys that came to those that were loaded. A reader must not be sent to one that is not there
/// yet, and inserts end in any order.
#[derive(Debug)]
struct Inserts {
    next: u64,
    in_flight: BTreeSet<u64>,
    /// All keys below this one have been written.
    readable: u64,
}

impl Inserts {
    fn after(keys: u64) -> Self {
        Self {
            next: keys,
            in_flight: BTreeSet::new(),
            readable: keys,
        }
    }

    fn begin(&mut self) -> u64 {
        let key = self.next;
        self.next += 1;
        self.in_flight.insert(key);
        key
    }

    fn end(&mut self, key: u64) {
        self.in_flight.remove(&key);
        self.readable = self.in_flight.first().copied().unwrap_or(self.next);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn sequence(workload: Workload, distribution: Distribution, keys: u64, seed: u64) -> Sequence {
        Sequence::new(SequenceConfig {
            workload,
            distribution,
            keys,
            value_bytes: workload.defaults().value_bytes,
            seed,
        })
        .unwrap()
    }

    #[test]
    fn the_seed_decides_the_sequence() {
        for workload in Workload::ALL {
            for distribution in [
                Distribution::Zipfian,
                Distribution::Uniform,
                Distribution::Latest,
            ] {
                let draw = |seed| {
                    let mut sequence = sequence(workload, distribution, 1000, seed);
                    (0..1000).map(|_| sequence.next()).collect::<Vec<_>>()
                };
                assert_eq!(draw(1), draw(1), "{workload} {distribution:?}");
                assert_ne!(draw(1), draw(2), "{workload} {distribution:?}");
            }
        }
    }

    #[test]
    fn mixes_come_out_as_told() {
        const DRAWS: u32 = 100_000;
        for workload in Workload::ALL {
            let mut sequence = sequence(workload, Distribution::Uniform, 1000, 3);
            let mut counts: HashMap<String, u32> = HashMap::new();
            for _ in 0..DRAWS {
                let step = sequence.next().step;
                *counts.entry(format!("{step:?}")).or_default() += 1;
            }
            assert_eq!(counts.len(), workload.mix().len());
            for (step, percent) in workload.mix() {
                let share = f64::from(counts[&format!("{step:?}")]) / f64::from(DRAWS);
                let off = (share - f64::from(*percent) / 100.0).abs();
                assert!(off < 0.01, "{workload} {step:?}: {share}");
            }
        }
    }

    fn counts(distribution: Distribution, keys: u64, draws: u32) -> HashMap<u64, u32> {
        let mut sequence = sequence(Workload::Read, distribution, keys, 5);
        let mut counts = HashMap::new();
        for _ in 0..draws {
            let key = sequence.next().key;
            assert!(key < keys);
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    #[test]
    fn zipfian_is_as_skewed_as_ycsb_and_scattered() {
        let draws = 400_000;
        let counts = counts(Distribution::Zipfian, 10_000, draws);
        let mut ranked: Vec<_> = counts.into_iter().collect();
        ranked.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let share = |rank: usize| f64::from(ranked[rank].1) / f64::from(draws);
        // 1 / zeta(10^10, 0.99) = 3.8 %, and half of that (2^-0.99) for the second.
        assert!((0.034..0.042).contains(&share(0)), "{}", share(0));
        let ratio = share(0) / share(1);
        assert!((1.8..2.2).contains(&ratio), "{ratio}");
        let hottest: Vec<_> = ranked.iter().take(20).map(|(key, _)| *key).collect();
        let upper = hottest.iter().filter(|key| **key >= 5000).count();
        assert!((4..=16).contains(&upper), "{hottest:?}");
        // The tail is drawn, too.
        assert!(ranked.len() > 9000, "{}", ranked.len());
    }

    #[test]
    fn uniform_is_flat() {
        let counts = counts(Distribution::Uniform, 100, 100_000);
        assert_eq!(counts.len(), 100);
        assert!(counts.values().all(|count| (800..1200).contains(count)));
    }

    #[test]
    fn latest_follows_the_inserts_that_have_ended() {
        let mut sequence = sequence(Workload::D, Distribution::Latest, 1000, 9);
        let mut begun = Vec::new();
        let mut newest_read = 0;
        let mut reads_of_newest = 0;
        for _ in 0..20_000 {
            let turn = sequence.next();
            match turn.step {
                Step::Insert => begun.push(turn.key),
                _ => {
                    assert!(turn.key < 1000, "{} is not written yet", turn.key);
                    newest_read = newest_read.max(turn.key);
                    reads_of_newest += u32::from(turn.key == 999);
                }
            }
        }
        assert_eq!(newest_read, 999);
        // 1 / zeta(1000, 0.99) = 13 %
        assert!((2000..3000).contains(&reads_of_newest), "{reads_of_newest}");
        // The second ends before the first: neither may be read before the first has.
        sequence.inserted(begun[1]);
        assert_eq!(sequence.inserts.readable, 1000);
        sequence.inserted(begun[0]);
        assert_eq!(sequence.inserts.readable, 1002);
    }

    #[test]
    fn large_values_fill_their_range() {
        let mut sequence = sequence(Workload::Large, Distribution::Uniform, 10, 1);
        let sizes: Vec<_> = (0..1000).map(|_| sequence.next().value_bytes).collect();
        assert!(sizes.iter().all(|size| (65_536..=1_048_576).contains(size)));
        assert!(sizes.iter().any(|size| *size < 150_000));
        assert!(sizes.iter().any(|size| *size > 950_000));
    }
}
