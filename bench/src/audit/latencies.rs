//! How long requests take, in one spell of an audit after the other.

use std::time::Duration;

use tokio::time::Instant;

/// One spell.
#[derive(Debug)]
pub(super) struct Spell {
    name: String,
    began: Instant,
    took: Duration,
    /// In microseconds, of requests that succeeded.
    micros: Vec<u32>,
    last_end: Instant,
    /// The longest time in which no request ended.
    longest_pause: Duration,
}

/// What came of a spell.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summary {
    pub(super) name: String,
    pub(super) took: Duration,
    pub(super) requests: u64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) longest_pause: Duration,
}

/// All spells; requests count for the last one.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    spells: Vec<Spell>,
}

impl Latencies {
    /// From now on another spell goes on.
    pub(super) fn begin(&mut self, name: String) {
        self.end();
        let now = Instant::now();
        self.spells.push(Spell {
            name,
            began: now,
            took: Duration::ZERO,
            micros: Vec::new(),
            last_end: now,
            longest_pause: Duration::ZERO,
        });
    }

    /// The last spell is over.
    pub(super) fn end(&mut self) {
        if let Some(last) = self.spells.last_mut().filter(|last| last.took.is_zero()) {
            last.took = last.began.elapsed();
            last.longest_pause = last.longest_pause.max(last.last_end.elapsed());
        }
    }

    /// A request has succeeded, after so long. Nothing is noted before the first spell, nor after the last one.
    pub(super) fn note(&mut self, took: Duration) {
        if let Some(spell) = self.spells.last_mut().filter(|last| last.took.is_zero()) {
            let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
            spell.micros.push(micros);
            spell.longest_pause = spell.longest_pause.max(spell.last_end.elapsed());
            spell.last_end = Instant::now();
        }
    }

    /// What came of each.
    pub(super) fn summaries(&mut self) -> Vec<Summary> {
        let spells = self.spells.iter_mut();
        spells
            .map(|spell| {
                spell.micros.sort_unstable();
                Summary {
                    name: spell.name.clone(),
                    took: spell.took,
                    requests: spell.micros.len() as u64,
                    p50: percentile(&spell.micros, 50),
                    p99: percentile(&spell.micros, 99),
                    longest_pause: spell.longest_pause,
                }
            })
            .collect()
    }
}

/// Of sorted times.
fn percentile(micros: &[u32], percent: usize) -> Duration {
    let at = (micros.len() * percent).div_ceil(100).saturating_sub(1);
    let micros = micros.get(at).copied().unwrap_or(0);
    Duration::from_micros(micros.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spell_has_its_own_requests() {
        let mut latencies = Latencies::default();
        latencies.note(Duration::from_secs(9));
        latencies.begin("calm".to_owned());
        for millis in 1..=100 {
            latencies.note(Duration::from_millis(millis));
        }
        latencies.begin("change".to_owned());
        latencies.note(Duration::from_millis(500));
        latencies.end();
        latencies.note(Duration::from_secs(9));
        let [calm, change] = &latencies.summaries()[..] else {
            panic!("two spells");
        };
        assert_eq!((calm.name.as_str(), calm.requests), ("calm", 100));
        let ms = Duration::from_millis;
        assert_eq!((calm.p50, calm.p99), (ms(50), ms(99)));
        assert_eq!((change.requests, change.p99), (1, ms(500)));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
