//! The ring as a picture: who owns the first copy of which keys, how much each member holds, and while the ring changes
//! who comes to hold what. One SVG file that fetches nothing, light or dark as the reader's screen is.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::fmt::Write;

use dynakv_protocol::hash::{SEGMENTS, Segment};
use dynakv_protocol::placement::{MemberIndex, Placement};
use dynakv_protocol::ring_document::{Member, RingDocument};

const WIDTH: f64 = 880.0;
/// The least height: what the ring takes.
const HEIGHT_MIN: f64 = 520.0;
/// The middle of the ring.
const CENTRE: (f64, f64) = (240.0, 300.0);
/// Of the middle of each band, and how wide they are.
const BAND: f64 = 180.0;
const BAND_WIDTH: f64 = 36.0;
/// Of what moves, inside.
const MOVES: f64 = 142.0;
const MOVES_WIDTH: f64 = 22.0;
/// Where the members are listed, and how much room one takes.
const LIST: f64 = 480.0;
const LIST_TOP: f64 = 104.0;
const ROW: f64 = 46.0;
const BAR_WIDTH: f64 = 380.0;
/// The longest name that is shown whole, in characters.
const NAME_CHARS_MAX: usize = 36;
/// Neighbours differ by this on the circle of colours: the golden angle, so that no two of many are alike.
const HUE_STEP: f64 = 137.507_764;
const HUE_FIRST: f64 = 212.0;
/// Readable on white and on black, of 1; and how far the channels go from there.
const LIGHTNESS: f64 = 0.54;
const CHROMA: f64 = 0.27;
/// Arcs reach so many segments into the next one, or what is behind would be seen between them.
const OVERLAP: f64 = 6.0;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:17px;font-weight:600}.small{font-size:12px;fill:#57606a}\
.paper{fill:#ffffff}.empty{fill:#eaeef2}.quiet{stroke:#eaeef2}path,circle{fill:none}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#8d96a0}.paper{fill:#0d1117}.empty{fill:#21262d}\
.quiet{stroke:#21262d}}";

/// A stretch of the circle, in segments, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    from: u32,
    to: u32,
    member: usize,
}

/// The picture.
pub(super) fn picture(ring: &RingDocument) -> String {
    let read = Placement::new(ring);
    let change = Placement::before_and_after(ring);
    let rows = ring.members.len() as f64;
    let height = (LIST_TOP + rows * ROW + 40.0).max(HEIGHT_MIN);
    let mut out = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\
         <title>{title}</title><style>{STYLE}</style>\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\
         <text class=\"title\" x=\"20\" y=\"32\">{title}</text>\
         <text class=\"small\" x=\"20\" y=\"54\">{under}</text>",
        title = escape(&title(ring)),
        under = escape(&under(ring)),
    );
    let first = |segment: Segment| read.owners(segment).first().map(|owner| owner.slot());
    band(&mut out, (BAND, BAND_WIDTH), &stretches(first), ring);
    if let Some((before, after)) = &change {
        let gains = |segment: Segment| {
            let had = before.owners(segment);
            let mut new = after.owners(segment).iter();
            new.find(|owner| !had.contains(owner))
                .map(|owner| owner.slot())
        };
        let (x, y) = CENTRE;
        let _ = write!(
            out,
            "<circle class=\"quiet\" cx=\"{x}\" cy=\"{y}\" r=\"{MOVES}\" stroke-width=\"{MOVES_WIDTH}\"/>"
        );
        band(&mut out, (MOVES, MOVES_WIDTH), &stretches(gains), ring);
    }
    legend(&mut out, change.is_some());
    for (row, member) in ring.members.iter().enumerate() {
        let held = |placement: &Placement| held(placement, MemberIndex(row as u16));
        let shares = match &change {
            Some((before, after)) => (held(before), Some(held(after))),
            None => (held(&read), None),
        };
        list(&mut out, row, member, shares);
    }
    out + "</svg>\n"
}

fn title(ring: &RingDocument) -> String {
    let (nodes, s) = match ring.members.len() {
        1 => (1, ""),
        many => (many, "s"),
    };
    let (name, version) = (&ring.cluster_name, ring.version);
    format!("ring {version} of cluster {name}: {nodes} node{s}")
}

fn under(ring: &RingDocument) -> String {
    let (n, w, r) = (ring.n, ring.w, ring.r);
    let step = match ring.change() {
        None => ring.step.name().to_owned(),
        Some(change) => format!(
            "{}, in a change that began with ring {}",
            ring.step.name(),
            change.begun_at
        ),
    };
    format!("n = {n}, w = {w}, r = {r}; {step}")
}

/// What the bands show.
fn legend(out: &mut String, is_changing: bool) {
    let mut lines = vec!["around: who owns the first copy"];
    if is_changing {
        lines.push("inside: who comes to hold");
        lines.push("a copy that it has not");
    }
    let (x, middle) = CENTRE;
    let top = middle - 8.0 * (lines.len() as f64 - 1.0);
    for (number, line) in lines.into_iter().enumerate() {
        let y = top + 16.0 * number as f64 + 4.0;
        let _ = write!(
            out,
            "<text class=\"small\" x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{line}</text>"
        );
    }
}

/// A member, with what it holds, and what it is to hold.
fn list(out: &mut String, row: usize, member: &Member, (now, then): (u32, Option<u32>)) {
    let y = LIST_TOP + ROW * row as f64;
    let name = shortened(member.id.as_str(), NAME_CHARS_MAX);
    let mut place = Vec::new();
    if !member.zone.is_empty() {
        let zone = shortened(&member.zone, NAME_CHARS_MAX / 2);
        place.push(format!("zone {zone}"));
    }
    if member.weight > 1 {
        place.push(format!("weight {}", member.weight));
    }
    let share = match then {
        Some(then) if then != now => format!("{} → {}", percent(now), percent(then)),
        _ => percent(now),
    };
    let end = LIST + BAR_WIDTH;
    let _ = write!(
        out,
        "<text x=\"{LIST}\" y=\"{text}\">{name}<tspan class=\"small\" dx=\"10\">{place}</tspan></text>\
         <text class=\"small\" x=\"{end}\" y=\"{text}\" text-anchor=\"end\">{share}</text>\
         <rect class=\"empty\" x=\"{LIST}\" y=\"{bar}\" width=\"{BAR_WIDTH}\" height=\"10\" rx=\"5\"/>",
        text = y,
        bar = y + 8.0,
        name = escape(&name),
        place = escape(&place.join(", ")),
    );
    let width = |segments: u32| BAR_WIDTH * f64::from(segments) / SEGMENTS as f64;
    // What it is to hold is drawn paler, over or under what it holds.
    let mut bars = vec![(now, 1.0)];
    if let Some(then) = then {
        bars.push((then, 0.45));
        bars.sort_by_key(|(segments, _)| std::cmp::Reverse(*segments));
    }
    for (segments, opacity) in bars {
        let _ = write!(
            out,
            "<rect x=\"{LIST}\" y=\"{:.1}\" width=\"{:.1}\" height=\"10\" rx=\"5\" fill=\"{}\" opacity=\"{opacity}\"/>",
            y + 8.0,
            width(segments),
            colour(row)
        );
    }
}

fn shortened(name: &str, most: usize) -> String {
    match name.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// Of how many segments a member holds a copy.
fn held(placement: &Placement, member: MemberIndex) -> u32 {
    let segments = (0..=u16::MAX).map(Segment);
    let held = segments.filter(|it| placement.owners(*it).contains(&member));
    held.count() as u32
}

fn percent(segments: u32) -> String {
    let percent = f64::from(segments) * 100.0 / SEGMENTS as f64;
    format!("{percent:.1} %")
}

/// As red, green and blue, which every program that draws SVG knows.
fn colour(member: usize) -> String {
    let hue = (HUE_FIRST + HUE_STEP * member as f64) % 360.0;
    let channel = |shift: f64| {
        let k = (shift + hue / 30.0) % 12.0;
        let light = LIGHTNESS - CHROMA * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
        (light * 255.0).round() as u8
    };
    let [red, green, blue] = [0.0, 8.0, 4.0].map(channel);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// The circle as stretches of one member each, in its order. What is nobody's is left out.
fn stretches(of: impl Fn(Segment) -> Option<usize>) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for at in 0..=u16::MAX {
        let Some(member) = of(Segment(at)) else {
            continue;
        };
        let from = u32::from(at);
        match stretches.last_mut() {
            Some(last) if (last.member, last.to) == (member, from) => last.to += 1,
            _ => stretches.push(Stretch {
                from,
                to: from + 1,
                member,
            }),
        }
    }
    stretches
}

/// Draws a band of the circle: a path for each member, with all its stretches.
fn band(out: &mut String, (radius, width): (f64, f64), stretches: &[Stretch], ring: &RingDocument) {
    let mut paths: BTreeMap<usize, String> = BTreeMap::new();
    for stretch in stretches {
        arc(paths.entry(stretch.member).or_default(), radius, *stretch);
    }
    for (member, path) in paths {
        let _ = write!(
            out,
            "<path d=\"{path}\" stroke=\"{}\" stroke-width=\"{width}\"><title>{}</title></path>",
            colour(member),
            escape(ring.members[member].id.as_str())
        );
    }
}

/// An arc has an end: a whole circle is drawn in parts.
fn arc(path: &mut String, radius: f64, stretch: Stretch) {
    // With what it overlaps it is no more than a half.
    const HALF: u32 = SEGMENTS as u32 / 2 - OVERLAP as u32;
    let mut from = stretch.from;
    while from < stretch.to {
        let to = stretch.to.min(from + HALF);
        let point = |segment: f64| {
            // From the top, clockwise.
            let angle = TAU * segment / SEGMENTS as f64;
            let (x, y) = CENTRE;
            (x + radius * angle.sin(), y - radius * angle.cos())
        };
        let ((x, y), (to_x, to_y)) = (point(from.into()), point(f64::from(to) + OVERLAP));
        let _ = write!(
            path,
            "M{x:.2} {y:.2}A{radius} {radius} 0 0 1 {to_x:.2} {to_y:.2}"
        );
        from = to;
    }
}

/// Names come from whoever configures a node.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ring_document::Step;

    use super::*;
    use crate::cli::node_info::tests::ring;
    use crate::engine::layout::change::{Reads, begin};

    fn numbers(picture: &str, behind: &str) -> Vec<f64> {
        let found = picture.split(behind).skip(1);
        let found = found.filter_map(|it| it.split(['"', ' ']).next()?.parse().ok());
        found.collect()
    }

    #[test]
    fn the_circle_is_whole_and_each_stretch_is_one_members() {
        let document = ring(3, 4).document;
        let placement = Placement::new(&document);
        let first = |segment| placement.owners(segment).first().map(|it| it.slot());
        let all = stretches(first);
        assert_eq!((all[0].from, all[all.len() - 1].to), (0, SEGMENTS as u32));
        for two in all.windows(2) {
            assert_eq!(two[0].to, two[1].from);
            assert_ne!(two[0].member, two[1].member);
        }
        let picture = picture(&document);
        assert_eq!(picture.matches("<path").count(), 4, "one for each member");
        assert_eq!(picture.matches('M').count(), all.len());
        assert_eq!(picture, super::picture(&document), "always the same");
    }

    #[test]
    fn what_is_shown_adds_up_to_all_copies() {
        let document = ring(3, 4).document;
        let picture = picture(&document);
        let shares = numbers(&picture, "text-anchor=\"end\">");
        assert_eq!(shares.len(), 4);
        let sum: f64 = shares.iter().sum();
        assert!((sum - 300.0).abs() < 0.5, "{sum}");
    }

    #[test]
    fn a_change_shows_who_comes_to_hold_what() {
        let four = ring(3, 4).document;
        let mut three = four.clone();
        let mut comes = three.members.pop().unwrap();
        comes.address = "127.0.0.1:2".to_owned();
        three.step = Step::Final;
        let target: Vec<_> = [&three.members[..], &[comes]].concat();
        let changing = begin(&three, &target, &[], |_| Reads::Changes).unwrap();
        let picture = picture(&changing);
        assert!(picture.contains("write-both, in a change that began with ring 4"));
        assert!(picture.contains("100.0 % → "), "{picture}");
        // Inside there is nobody else than who comes.
        let inside = format!("stroke-width=\"{MOVES_WIDTH}\"><title>");
        let named: Vec<_> = picture.split(&inside).skip(1).collect();
        assert_eq!(named.len(), 1);
        assert!(named[0].starts_with(four.members[3].id.as_str()));
    }

    #[test]
    fn one_node_has_a_whole_circle_and_names_do_no_harm() {
        let mut document = ring(3, 1).document;
        document.cluster_name = "<a> & \"b\"".to_owned();
        document.members[0].zone = "<z>".to_owned();
        let picture = picture(&document);
        assert_eq!(picture.matches("A180 180").count(), 3, "two halves, nearly");
        assert!(picture.contains("stroke=\"#4585cf\""), "{picture}");
        assert!(picture.contains("cluster &lt;a&gt; &amp; &quot;b&quot;: 1 node<"));
        assert!(!picture.contains("<z>") && !picture.contains("<a>"));
    }
}
