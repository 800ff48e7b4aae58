//! What pictures of results are made of: a paper with its heading, and panels with a scale each. One SVG file that
//! fetches nothing.

use std::fmt::Write;

use crate::grouped::grouped;

/// How wide a picture is.
pub(crate) const WIDTH: f64 = 880.0;
/// Where the panels begin.
pub(crate) const LEFT: f64 = 76.0;
/// Where they end.
pub(crate) const RIGHT: f64 = WIDTH - 20.0;
/// No scale ends higher: what lies above is drawn at its top.
const SCALE_MAX: f64 = 1e12;
/// Lines across a panel, besides its foot.
const LINES: u32 = 2;

/// A part of the picture with a scale of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel {
    /// Where its scale ends.
    pub(crate) top: f64,
    /// Where its scale begins, at 0.
    pub(crate) bottom: f64,
}

impl Panel {
    /// Where a value lies on a scale that ends here.
    pub(crate) fn y(self, value: f64, most: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * (value / most).clamp(0.0, 1.0)
    }

    /// Draws its frame, with its scale.
    pub(crate) fn frame(self, out: &mut String, what: &str, most: f64) {
        // Writing to a string cannot fail, here and below.
        let _ = write!(
            out,
            "<text class=\"small\" x=\"{LEFT}\" y=\"{}\">{what}</text>",
            self.top - 8.0
        );
        for line in 0..=LINES {
            let value = most * f64::from(line) / f64::from(LINES);
            let y = self.y(value, most);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"small\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                scale(value)
            );
        }
    }
}

/// Says which line has the colour of this number.
pub(crate) fn name_line(out: &mut String, number: usize, name: &str, left: f64, y: f64) {
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<circle class=\"d{number}\" cx=\"{left:.1}\" cy=\"{:.1}\" r=\"4\"/>\
         <text class=\"small\" x=\"{:.1}\" y=\"{y}\">{name}</text>",
        y - 4.0,
        left + 8.0,
    );
}

/// The numbers of all attributes of this name.
#[cfg(test)]
pub(crate) fn numbers(picture: &str, name: &str) -> Vec<f64> {
    let attribute = format!(" {name}=\"");
    let values = picture.split(&attribute).skip(1);
    let values = values.filter_map(|rest| rest.split('"').next());
    values.map(|value| value.parse().unwrap()).collect()
}

/// The beginning of a picture, up to its heading. `</svg>` ends it.
pub(crate) fn begin(height: f64, style: &str, title: &str, under: &str) -> String {
    let (title, under) = (crate::html::escape(title), crate::html::escape(under));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\
         <title>{title}</title><style>{style}</style>\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\
         <text class=\"title\" x=\"20\" y=\"32\">{title}</text>\
         <text class=\"small\" x=\"20\" y=\"54\">{under}</text>"
    )
}

/// The upper end of a scale: 1, 2 or 5 times a power of ten that is no less than the largest value, and 1 at least.
pub(crate) fn scale_end(largest: f64) -> f64 {
    let largest = largest.min(SCALE_MAX);
    let power = 10_f64.powf(largest.max(1.0).log10().floor());
    let fits = [1.0, 2.0, 5.0].map(|times| times * power);
    let fits = fits.into_iter().find(|most| *most >= largest);
    fits.unwrap_or(10.0 * power)
}

/// A number of a scale.
pub(crate) fn scale(value: f64) -> String {
    match value < 10.0 && value.fract() > 0.0 {
        true => format!("{value:.1}"),
        false => grouped(value as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_above_what_they_show() {
        for (largest, expected) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (37.0, 50.0),
            (60.0, 100.0),
        ] {
            assert_eq!(scale_end(largest), expected, "{largest}");
        }
        assert!(scale_end(f64::MAX).is_finite());
    }
}
