//! Intervals from the seconds of runs: other runs are drawn from them again and again, and what these come to shows
//! how much is chance.
//!
//! Seconds that follow each other are alike (a checkpoint lasts several), so blocks of them are drawn and not single
//! ones: as long as the cube root of their number, around the end of a run to its beginning.

use super::interval::LogInterval;
use super::measure::Subject;
use super::seconds::Seconds;

/// With fewer seconds on a side there is nothing to draw from.
pub(super) const SECONDS_MIN: usize = 8;

/// How many runs are drawn.
const DRAWS: usize = 2000;

/// What decides the draws: the same files come to the same intervals.
const SEED: u64 = 1;

/// What lies outside of the interval on each side.
const TAIL: f64 = 0.025;

/// The interval of each figure's ratio; `None` when there are too few seconds.
pub(super) fn intervals(
    subjects: &[Subject],
    a: &Seconds,
    b: &Seconds,
) -> Option<Vec<Option<LogInterval>>> {
    if a.len() < SECONDS_MIN || b.len() < SECONDS_MIN {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut ratios = vec![Vec::with_capacity(DRAWS); subjects.len()];
    for _ in 0..DRAWS {
        let drawn_a = a.figures(subjects, &draw(&a.run_lengths, &mut random));
        let drawn_b = b.figures(subjects, &draw(&b.run_lengths, &mut random));
        for (ratios, (a, b)) in ratios.iter_mut().zip(drawn_a.into_iter().zip(drawn_b)) {
            let ratio = a.zip(b).map(|(a, b)| (b / a).ln());
            ratios.extend(ratio.filter(|it| it.is_finite()));
        }
    }
    Some(ratios.into_iter().map(middle).collect())
}

/// How often each second is drawn: each run gives as many as it has.
fn draw(run_lengths: &[usize], random: &mut fastrand::Rng) -> Vec<u32> {
    let mut times = Vec::with_capacity(run_lengths.iter().sum());
    for length in run_lengths.iter().copied().filter(|it| *it > 0) {
        let first = times.len();
        times.resize(first + length, 0);
        let block = (length as f64).cbrt().ceil() as usize;
        let mut left = length;
        while left > 0 {
            let start = random.usize(..length);
            let taken = block.min(left);
            for offset in 0..taken {
                times[first + (start + offset) % length] += 1;
            }
            left -= taken;
        }
    }
    times
}

/// Where the middle 95 % lie; `None` when the figure was missing in some draws.
fn middle(mut ratios: Vec<f64>) -> Option<LogInterval> {
    if ratios.len() < DRAWS {
        return None;
    }
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios[(share * (DRAWS - 1) as f64).round() as usize];
    Some((at(TAIL), at(1.0 - TAIL)))
}

#[cfg(test)]
mod tests {
    use super::super::measure::subjects;
    use super::*;
    use crate::report::{Report, TimelinePoint};

    /// A run whose seconds differ, each like the one before it.
    fn run(seconds: usize, mean: f64, random: &mut fastrand::Rng) -> Report {
        let text = include_str!("../../tests/report.json");
        let mut run: Report = serde_json::from_str(text).expect("the sample is a report");
        let sample = run.timeline[0].clone();
        run.by_op.remove("read");
        let mut drift = 0.0;
        let second = |number: usize| {
            drift = 0.4 * drift + random.f64() - 0.5;
            let mut point = TimelinePoint {
                at_seconds: (number + 1) as f64,
                ..sample.clone()
            };
            point.by_op.remove("read");
            point.by_op.get_mut("write").unwrap().ops_per_second = mean * (1.0 + 0.3 * drift);
            point
        };
        run.timeline = (0..seconds).map(second).collect();
        run
    }

    fn interval_of_rates(a: Report, b: Report) -> Option<LogInterval> {
        let runs = [a, b];
        let subjects = &subjects(runs.iter())[..1];
        let [a, b] = runs.map(|run| Seconds::new(&[run]));
        intervals(subjects, &a, &b)?[0]
    }

    #[test]
    fn every_run_that_is_drawn_has_as_many_seconds_in_blocks() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..100 {
            let times = draw(&[27, 0, 8], &mut random);
            assert_eq!(times.len(), 35);
            assert_eq!(times[..27].iter().sum::<u32>(), 27);
            assert_eq!(times[27..].iter().sum::<u32>(), 8);
        }
        // Nine blocks of three cover less than 27 single ones do.
        let missed = |random: &mut fastrand::Rng| {
            let times = draw(&[27], random);
            let seconds = times.windows(2).filter(|it| (it[0] > 0) != (it[1] > 0));
            seconds.count()
        };
        let edges: usize = (0..1000).map(|_| missed(&mut random)).sum();
        // Single ones would have 26 * 2 * 0.64 * 0.36, 12 for each run.
        assert!(edges < 9 * 1000, "{edges}");
    }

    #[test]
    fn the_truth_lies_within_about_as_often_as_it_says() {
        let mut random = fastrand::Rng::with_seed(11);
        const TRIALS: usize = 60;
        let holds = (0..TRIALS).filter(|_| {
            let a = run(40, 1000.0, &mut random);
            let b = run(40, 1200.0, &mut random);
            let (low, high) = interval_of_rates(a, b).unwrap();
            let truth = 1.2_f64.ln();
            assert!(high - low < 0.3, "{low} to {high}");
            low <= truth && truth <= high
        });
        let holds = holds.count();
        // A little less than 95 %: blocks hold less than all that seconds have in common.
        assert!((TRIALS * 8 / 10..=TRIALS).contains(&holds), "{holds}");
    }

    #[test]
    fn the_same_files_come_to_the_same_interval_and_short_ones_to_none() {
        let pair = || {
            let mut random = fastrand::Rng::with_seed(2);
            [1.0, 1.1].map(|times| run(12, 1000.0 * times, &mut random))
        };
        let of = |[a, b]: [Report; 2]| interval_of_rates(a, b);
        assert_eq!(of(pair()), of(pair()));
        let [a, mut b] = pair();
        b.timeline.truncate(SECONDS_MIN - 1);
        assert_eq!(of([a, b]), None);
    }
}
