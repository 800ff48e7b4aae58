//! Welch's t interval for the difference of two means, where neither the numbers of runs nor how much they differ
//! need to be alike.

use super::interval::LogInterval;

/// The 97.5 % quantiles of Student's t distribution with 1, 2, ... 30 degrees of freedom.
const T_QUANTILES: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// The 95 % interval of the mean of `b` less that of `a`; `None` with fewer than two on a side.
pub(super) fn interval(a: &[f64], b: &[f64]) -> Option<LogInterval> {
    let ((mean_a, error_a), (mean_b, error_b)) = (mean_and_error(a)?, mean_and_error(b)?);
    let (difference, error) = (mean_b - mean_a, error_a + error_b);
    let share = |error: f64, count: usize| error * error / (count - 1) as f64;
    let freedom = error * error / (share(error_a, a.len()) + share(error_b, b.len()));
    let half = t_quantile(freedom) * error.sqrt();
    Some((difference - half, difference + half))
}

/// The mean, and the square of its standard error.
fn mean_and_error(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|it| (it - mean) * (it - mean)).sum();
    Some((mean, squares / (count - 1.0) / count))
}

/// Rounded down to whole degrees of freedom, and to 30 at most: that is wider, and never too narrow. Values that are
/// all the same have no degrees of freedom, and an interval without width whatever it is multiplied by.
fn t_quantile(freedom: f64) -> f64 {
    let whole = (freedom.max(1.0) as usize).min(T_QUANTILES.len());
    T_QUANTILES[whole - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of Student's distribution lies within this many standard errors.
    fn share_within(t: f64, freedom: f64) -> f64 {
        const STEPS: u32 = 20_000;
        let density = |x: f64| (1.0 + x * x / freedom).powf(-(freedom + 1.0) / 2.0);
        // With x = tan(angle) all of it has a finite length.
        let area = |end: f64| {
            let step = end.atan() / f64::from(STEPS);
            let at = |number: u32| ((f64::from(number) + 0.5) * step).tan();
            let parts = (0..STEPS).map(|number| density(at(number)) * (1.0 + at(number).powi(2)));
            parts.sum::<f64>() * step
        };
        area(t) / area(f64::MAX)
    }

    #[test]
    fn the_quantiles_are_those_of_students_distribution() {
        for (index, quantile) in T_QUANTILES.into_iter().enumerate() {
            let share = share_within(quantile, (index + 1) as f64);
            assert!((share - 0.95).abs() < 2e-4, "{}: {share}", index + 1);
        }
    }

    #[test]
    fn the_interval_is_that_of_the_books() {
        // Means 2 and 5, squared errors 1/3 and 4/3, so 2.94 degrees of freedom, taken for 2.
        let (low, high) = interval(&[1.0, 2.0, 3.0], &[3.0, 5.0, 7.0]).unwrap();
        let half = 4.303 * (5.0_f64 / 3.0).sqrt();
        assert!((low - (3.0 - half)).abs() < 1e-9 && (high - (3.0 + half)).abs() < 1e-9);
        assert_eq!(interval(&[1.0, 1.0], &[3.0, 3.0]), Some((2.0, 2.0)));
        assert_eq!(interval(&[1.0], &[3.0, 4.0]), None);
    }

    #[test]
    fn it_holds_the_truth_as_often_as_it_says() {
        let mut random = fastrand::Rng::with_seed(5);
        // The sum of twelve is close to a normal distribution of variance 1.
        let mut normal = || (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        const TRIALS: u32 = 4000;
        let mut holds = 0;
        for _ in 0..TRIALS {
            let a: Vec<_> = (0..3).map(|_| normal()).collect();
            let b: Vec<_> = (0..5).map(|_| 10.0 + 3.0 * normal()).collect();
            let (low, high) = interval(&a, &b).unwrap();
            holds += u32::from(low <= 10.0 && 10.0 <= high);
        }
        let share = f64::from(holds) / f64::from(TRIALS);
        assert!((0.94..0.985).contains(&share), "{share}");
    }
}
