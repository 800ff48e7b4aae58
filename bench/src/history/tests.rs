use super::*;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ids(ids: &[u32]) -> BTreeSet<u32> {
    ids.iter().copied().collect()
}

fn read(ids: &[u32]) -> Replaces<u32> {
    Replaces::Read(ids.to_vec())
}

const BLIND: Replaces<u32> = Replaces::WhatIsThere;

/// Writes that follow one another, one a second: acknowledged half a second after they began.
#[derive(Default)]
struct Story {
    history: History<u32>,
    second: u64,
}

impl Story {
    fn write(mut self, id: u32, replaces: Replaces<u32>) -> Self {
        self.one(id, false, replaces, Outcome::Acknowledged);
        self
    }

    fn delete(mut self, id: u32, replaces: Replaces<u32>) -> Self {
        self.one(id, true, replaces, Outcome::Acknowledged);
        self
    }

    fn unknown(mut self, id: u32, is_delete: bool, replaces: Replaces<u32>) -> Self {
        self.one(id, is_delete, replaces, Outcome::Unknown);
        self
    }

    fn one(&mut self, id: u32, is_delete: bool, replaces: Replaces<u32>, outcome: Outcome) {
        let begin = at(self.second);
        self.history.begin(id, is_delete, replaces, begin).unwrap();
        let end = begin + Duration::from_millis(500);
        self.history.end(id, outcome, end).unwrap();
        self.second += 1;
    }

    /// What a read of R owners at the end fails to show, before and after forgetting.
    fn missing(&self, shown: &[u32]) -> Vec<u32> {
        let missing = |history: &History<u32>| {
            history.missing(&ids(shown), at(self.second), at(self.second + 1))
        };
        let before = missing(&self.history);
        let mut forgetful = self.history.clone();
        forgetful.forget();
        let after = missing(&forgetful);
        assert_eq!(before.is_empty(), after.is_empty(), "{before:?}, {after:?}");
        assert!(after.iter().all(|id| before.contains(id)), "{after:?}");
        before
    }
}

const NONE: [u32; 0] = [];

#[test]
fn what_is_shown_is_not_missing() {
    let story = Story::default().write(1, read(&[])).write(2, read(&[]));
    assert_eq!(story.missing(&[1, 2]), NONE);
    assert_eq!(story.missing(&[1]), [2]);
    assert_eq!(story.missing(&[]), [1, 2]);
}

#[test]
fn a_read_excuses_what_it_showed_also_through_others() {
    let story = Story::default()
        .write(1, read(&[]))
        .write(2, read(&[1]))
        .write(3, read(&[2]));
    assert_eq!(story.missing(&[3]), NONE);
    // The middle one is there, the last one is not.
    assert_eq!(story.missing(&[2]), [3]);
}

#[test]
fn a_later_write_that_did_not_read_it_excuses_nothing() {
    let story = Story::default()
        .write(1, read(&[]))
        .write(2, read(&[]))
        .write(3, read(&[2]));
    assert_eq!(story.missing(&[3]), [1]);
}

#[test]
fn a_chain_may_lead_through_a_write_of_unknown_outcome() {
    let story = Story::default()
        .write(1, read(&[]))
        .unknown(2, false, read(&[1]))
        .write(3, read(&[2]));
    assert_eq!(story.missing(&[3]), NONE);
}

#[test]
fn an_unknown_write_excuses_when_it_is_shown_and_is_never_missing() {
    let story = Story::default()
        .write(1, read(&[]))
        .unknown(2, false, read(&[1]));
    assert_eq!(story.missing(&[2]), NONE);
    assert_eq!(story.missing(&[1]), NONE);
    assert_eq!(story.missing(&[]), [1]);
}

#[test]
fn a_blind_write_excuses_what_was_begun_before_it_ended() {
    let story = Story::default()
        .write(1, read(&[]))
        .write(2, BLIND)
        .write(3, read(&[]));
    assert_eq!(story.missing(&[2, 3]), NONE);
    assert_eq!(story.missing(&[2]), [3]);
    assert_eq!(story.missing(&[3]), [1, 2]);
}

#[test]
fn of_two_blind_writes_at_once_one_must_be_there() {
    let mut story = Story::default();
    let history = &mut story.history;
    history.begin(1, false, BLIND, at(0)).unwrap();
    history.begin(2, false, BLIND, at(1)).unwrap();
    history.end(1, Outcome::Acknowledged, at(2)).unwrap();
    history.end(2, Outcome::Acknowledged, at(3)).unwrap();
    story.second = 4;
    assert_eq!(story.missing(&[1]), NONE);
    assert_eq!(story.missing(&[2]), NONE);
    assert_eq!(story.missing(&[]), [1, 2]);
}

#[test]
fn a_blind_write_of_unknown_outcome_may_still_replace_what_is_begun_later() {
    let story = Story::default()
        .unknown(1, false, BLIND)
        .write(2, read(&[]));
    assert_eq!(story.missing(&[1]), NONE);
    assert_eq!(story.missing(&[]), [2]);
}

#[test]
fn a_delete_excuses_what_it_read_though_nobody_can_see_it() {
    let story = Story::default()
        .write(1, read(&[]))
        .write(2, read(&[]))
        .delete(3, read(&[1]));
    assert_eq!(story.missing(&[2]), NONE);
    assert_eq!(story.missing(&[]), [2]);
}

#[test]
fn a_delete_of_unknown_outcome_may_be_the_survivor() {
    let story = Story::default()
        .write(1, read(&[]))
        .unknown(2, true, read(&[1]));
    assert_eq!(story.missing(&[]), NONE);
    let refused = |outcome| {
        let mut story = Story::default().write(1, read(&[]));
        story.one(2, true, read(&[1]), outcome);
        story.missing(&[])
    };
    assert_eq!(refused(Outcome::NotApplied), [1]);
}

#[test]
fn a_blind_delete_excuses_like_a_blind_put() {
    let story = Story::default().write(1, read(&[])).delete(2, BLIND);
    assert_eq!(story.missing(&[]), NONE);
    let story = story.write(3, read(&[]));
    assert_eq!(story.missing(&[]), [3]);
}

#[test]
fn only_what_was_acknowledged_before_the_read_began_is_due() {
    let story = Story::default().write(1, read(&[]));
    let nothing = BTreeSet::new();
    let missing = |began| story.history.missing(&nothing, began, at(9));
    assert_eq!(missing(Duration::from_millis(500)), NONE);
    assert_eq!(missing(Duration::from_millis(501)), [1]);
}

#[test]
fn a_refusal_after_a_doubtful_attempt_leaves_the_outcome_open() {
    let mut history = History::default();
    history.begin(1, false, read(&[]), at(0)).unwrap();
    history.end(1, Outcome::Unknown, at(1)).unwrap();
    history.retry(1).unwrap();
    history.end(1, Outcome::NotApplied, at(2)).unwrap();
    assert_eq!(history.outcome(1), Some(Outcome::Unknown));
    assert!(history.may_come_twice(1));
}

#[test]
fn what_an_acknowledged_write_replaced_must_not_come_back() {
    let story = Story::default()
        .write(1, read(&[]))
        .delete(2, read(&[1]))
        .write(3, read(&[]))
        .unknown(4, true, read(&[3]));
    let returned = |shown: &[u32]| story.history.returned(&ids(shown));
    assert_eq!(returned(&[1, 3]), [(1, 2)]);
    // Nobody promised that the second delete happened.
    assert_eq!(returned(&[3]), []);
}

#[test]
fn books_that_contradict_themselves_are_refused() {
    let mut history = History::default();
    history.begin(1, false, BLIND, at(0)).unwrap();
    let again = history.begin(1, false, BLIND, at(0));
    assert_eq!(again, Err(BooksError::BegunTwice));
    let other = history.end(2, Outcome::Acknowledged, at(1));
    assert_eq!(other, Err(BooksError::NotUnderWay));
    history.end(1, Outcome::Acknowledged, at(1)).unwrap();
    let again = history.end(1, Outcome::NotApplied, at(2));
    assert_eq!(again, Err(BooksError::NotUnderWay));
}

#[test]
fn what_is_under_way_is_not_forgotten() {
    let mut history = History::default();
    history.begin(1, false, read(&[]), at(0)).unwrap();
    history.begin(2, false, read(&[1]), at(1)).unwrap();
    history.end(2, Outcome::Acknowledged, at(2)).unwrap();
    history.forget();
    assert_eq!(history.len(), 2);
    history.end(1, Outcome::Acknowledged, at(3)).unwrap();
    history.forget();
    assert_eq!(history.len(), 1);
    assert_eq!(history.missing(&ids(&[]), at(9), at(9)), [2]);
}

#[test]
fn a_long_history_stays_small() {
    let mut story = Story::default();
    for id in (0..3000).step_by(3) {
        // A value that is replaced, one that is deleted, and a sibling of both.
        story = story
            .write(id, read(&[id.saturating_sub(1)]))
            .write(id + 1, read(&[id]));
        story = story.delete(id + 2, read(&[id + 1]));
        story.history.forget_if_crowded();
    }
    assert!(story.history.len() <= 2 * CROWD, "{}", story.history.len());
    let mut blind = Story::default();
    for id in 0..1000 {
        blind = blind.write(id, BLIND);
        blind.history.forget_if_crowded();
    }
    assert!(blind.history.len() <= 2 * CROWD, "{}", blind.history.len());
    assert_eq!(blind.missing(&[999]), NONE);
    assert_eq!(blind.missing(&[998]), [999]);
}

/// Random histories of writes that overlap: with and without forgetting on the way, each read at the end
/// comes to the same verdict.
#[test]
fn forgetting_never_changes_a_verdict() {
    let mut lossy = 0;
    for seed in 0..3000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut whole: History<u32> = History::default();
        let mut forgetful: History<u32> = History::default();
        let (mut under_way, mut begun) = (Vec::new(), 0);
        for second in 0..random.u64(5..40) {
            if random.u8(..3) > 0 || under_way.is_empty() {
                let some = (0..begun).filter(|_| random.u8(..8) == 0).collect();
                let replaces = match random.u8(..4) {
                    0 => BLIND,
                    _ => Replaces::Read(some),
                };
                let is_delete = random.u8(..6) == 0;
                for history in [&mut whole, &mut forgetful] {
                    let replaces = replaces.clone();
                    history
                        .begin(begun, is_delete, replaces, at(second))
                        .unwrap();
                }
                under_way.push(begun);
                begun += 1;
            } else {
                let id = under_way.swap_remove(random.usize(..under_way.len()));
                let outcome = match random.u8(..12) {
                    0 => Outcome::Unknown,
                    1 => Outcome::NotApplied,
                    _ => Outcome::Acknowledged,
                };
                for history in [&mut whole, &mut forgetful] {
                    history.end(id, outcome, at(second)).unwrap();
                }
                forgetful.forget();
            }
            // A read that began before the last acknowledgements raises no false alarm.
            let shown = (0..begun).filter(|_| random.u8(..4) == 0).collect();
            let read_began = at(random.u64(..=second));
            let missing = |history: &History<u32>| history.missing(&shown, read_began, at(second));
            let alarm = !missing(&forgetful).is_empty();
            assert!(
                !alarm || !missing(&whole).is_empty(),
                "seed {seed}: false alarm"
            );
        }
        for _ in 0..10 {
            let shown = (0..begun).filter(|_| random.u8(..6) == 0).collect();
            let before = whole.missing(&shown, at(50), at(50));
            let after = forgetful.missing(&shown, at(50), at(50));
            assert_eq!(
                before.is_empty(),
                after.is_empty(),
                "seed {seed}, {shown:?}: {before:?}, {after:?}"
            );
            lossy += usize::from(!before.is_empty());
        }
    }
    assert!((1000..29_000).contains(&lossy), "one-sided: {lossy}");
}
