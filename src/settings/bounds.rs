//! What a setting may be: the least, the most, and why.
//!
//! A value outside would be taken for something else further down: a cache that sled does not start with
//! for a damaged store, an interval of nothing for a loop without rest. So it is refused here, before
//! anything is touched.

use std::fmt;
use std::time::Duration;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a setting may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From where to where.
    pub range: Range,
    /// Why not beyond.
    pub why: &'static str,
}

/// From where to where, both permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// A number.
    Number(u64, u64),
    /// A number of bytes.
    Bytes(u64, u64),
    /// A time.
    Span(Duration, Duration),
    /// `sync`, or `interval:` and a time.
    Syncs(Duration, Duration),
    /// A text of so many bytes.
    Text(usize, usize),
    /// So many entries.
    Count(usize, usize),
    /// All values of this form.
    Form(&'static str),
}

/// What of a setting has bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    Number(u64),
    Span(Duration),
    Length(usize),
    Count(usize),
    /// Any value of its form is permitted.
    Whole,
}

impl Bounds {
    pub(super) const fn number(least: u64, most: u64, why: &'static str) -> Self {
        let range = Range::Number(least, most);
        Self { range, why }
    }

    pub(super) const fn bytes(least: u64, most: u64, why: &'static str) -> Self {
        let range = Range::Bytes(least, most);
        Self { range, why }
    }

    pub(super) const fn span(least: Duration, most: Duration, why: &'static str) -> Self {
        let range = Range::Span(least, most);
        Self { range, why }
    }

    pub(super) const fn syncs(least: Duration, most: Duration, why: &'static str) -> Self {
        let range = Range::Syncs(least, most);
        Self { range, why }
    }

    pub(super) const fn text(least: usize, most: usize, why: &'static str) -> Self {
        let range = Range::Text(least, most);
        Self { range, why }
    }

    pub(super) const fn count(least: usize, most: usize, why: &'static str) -> Self {
        let range = Range::Count(least, most);
        Self { range, why }
    }

    pub(super) const fn form(form: &'static str) -> Self {
        Self {
            range: Range::Form(form),
            why: "",
        }
    }

    /// Holds a setting against them; the error says what is permitted, and why.
    pub(super) fn check(&self, measure: &Measure) -> Result<(), String> {
        let (is_within, given) = match (self.range, *measure) {
            (Range::Number(least, most), Measure::Number(number)) => {
                ((least..=most).contains(&number), number.to_string())
            }
            (Range::Bytes(least, most), Measure::Number(bytes)) => {
                ((least..=most).contains(&bytes), Size(bytes).to_string())
            }
            (Range::Span(least, most) | Range::Syncs(least, most), Measure::Span(span)) => {
                ((least..=most).contains(&span), shown(span))
            }
            (Range::Text(least, most), Measure::Length(bytes)) => {
                ((least..=most).contains(&bytes), format!("{bytes} bytes"))
            }
            (Range::Count(least, most), Measure::Count(count)) => {
                ((least..=most).contains(&count), count.to_string())
            }
            (Range::Syncs(..) | Range::Form(_), Measure::Whole) => return Ok(()),
            // A row of the table whose kind and bounds do not go together; a test looks at each.
            (range, measure) => return Err(format!("{measure:?} has no bounds in {range:?}")),
        };
        if is_within {
            Ok(())
        } else {
            Err(format!(
                "{given} is outside of what is permitted, {self}: {}",
                self.why
            ))
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.range {
            Range::Number(least, most) => write!(f, "{least} to {most}"),
            Range::Bytes(least, most) => write!(f, "{} to {}", Size(least), Size(most)),
            Range::Span(least, most) => write!(f, "{} to {}", shown(least), shown(most)),
            Range::Syncs(least, most) => {
                let (least, most) = (shown(least), shown(most));
                write!(f, "sync, or interval:{least} to interval:{most}")
            }
            Range::Text(least, most) => write!(f, "{least} to {most} bytes"),
            Range::Count(least, most) => write!(f, "{least} to {most} of them"),
            Range::Form(form) => f.write_str(form),
        }
    }
}

fn shown(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

/// A number of bytes, in the largest unit that shows it exactly.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
        let exact = units
            .iter()
            .find(|(unit, _)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match exact {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_within_and_what_is_beyond_them_is_not() {
        let bytes = Bounds::bytes(MIB, TIB, "so it is");
        for (number, good) in [(MIB, true), (TIB, true), (MIB - 1, false), (TIB + 1, false)] {
            let checked = bytes.check(&Measure::Number(number));
            assert_eq!(checked.is_ok(), good, "{number}");
        }
        assert_eq!(
            bytes.check(&Measure::Number(0)).unwrap_err(),
            "0 bytes is outside of what is permitted, 1 MiB to 1 TiB: so it is"
        );
        let second = Duration::from_secs(1);
        let span = Bounds::span(second, DAY, "");
        assert!(span.check(&Measure::Span(DAY)).is_ok());
        assert!(span.check(&Measure::Span(second / 2)).is_err());
        assert!(span.check(&Measure::Whole).is_err());
        assert_eq!(span.to_string(), "1s to 1day");
    }
}
