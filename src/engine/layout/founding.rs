//! Whether a node without a ring founds a cluster, by what its seeds say.
//!
//! Two clusters where one was meant cannot be put together again, so silence decides nothing: a seed that does
//! not answer may be in a cluster, or about to found one. Of several nodes that may all found, the one with the
//! smallest id does; each of them sees the others, if they are among each other's seeds.

use dynakv_protocol::NodeId;

/// The number of copies of a new cluster that was told none: the balanced preset.
pub(crate) const N_DEFAULT: u8 = 3;
/// Its write quorum.
pub(crate) const W_DEFAULT: u8 = 2;
/// Its read quorum.
pub(crate) const R_DEFAULT: u8 = 2;

/// What is known of one address of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// This node itself answers there.
    Myself,
    /// A node that is in a cluster, of the right name.
    InCluster,
    /// A node that is in none.
    InNone {
        /// Its name.
        id: NodeId,
        /// Whether it founds one unless somebody else does.
        may_found: bool,
    },
    /// A node that wants a cluster of another name, and does not say whether it is in one.
    Elsewhere,
    /// Nobody takes connections there.
    Refused,
    /// Nothing that means anything: no answer, or no time for one.
    Nothing,
}

/// One address of a seed, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which seed it belongs to.
    pub seed: usize,
    /// Whether the address is one of IPv6.
    pub is_v6: bool,
    /// What is known.
    pub said: Said,
}

/// What a node that may found a cluster does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It asks to be let in, where this one of the addresses is.
    Join(usize),
    /// It founds a cluster.
    Found,
    /// It asks again: these seeds have not said whether they are in a cluster.
    Unclear(Vec<usize>),
    /// It asks again: this node founds the cluster.
    Founder(NodeId),
}

/// What a node does that may found a cluster, after all addresses of its seeds were asked. Give it one entry at
/// least for each seed.
pub fn decide(me: &NodeId, asked: &[Asked]) -> Verdict {
    if let Some(at) = asked.iter().position(|it| it.said == Said::InCluster) {
        return Verdict::Join(at);
    }
    let mut unclear: Vec<usize> = asked
        .iter()
        .filter(|it| is_unclear(it, asked))
        .map(|it| it.seed)
        .collect();
    unclear.dedup();
    if !unclear.is_empty() {
        return Verdict::Unclear(unclear);
    }
    let founders = asked.iter().filter_map(|it| match &it.said {
        Said::InNone {
            id,
            may_found: true,
        } => Some(id),
        _ => None,
    });
    match founders.min() {
        Some(smallest) if smallest < me => Verdict::Founder(smallest.clone()),
        Some(_) | None => Verdict::Found,
    }
}

/// Whether there may be a cluster behind this address that nobody has told of.
fn is_unclear(one: &Asked, asked: &[Asked]) -> bool {
    match one.said {
        Said::Elsewhere | Said::Nothing => true,
        Said::Myself | Said::InCluster | Said::InNone { .. } => false,
        // A node that listens on one family only is refused on the other, and behind each of its addresses of that
        // one somebody has answered.
        Said::Refused => {
            let other_family = || {
                let of_seed = asked.iter().filter(|it| it.seed == one.seed);
                of_seed.filter(|it| it.is_v6 != one.is_v6)
            };
            let is_answer = |it: &Asked| matches!(it.said, Said::Myself | Said::InNone { .. });
            other_family().next().is_none() || !other_family().all(is_answer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn asked(said: &[Said]) -> Vec<Asked> {
        let each = said.iter().enumerate();
        each.map(|(seed, said)| Asked {
            seed,
            is_v6: false,
            said: said.clone(),
        })
        .collect()
    }

    fn none(name: &str, may_found: bool) -> Said {
        let id = id(name);
        Said::InNone { id, may_found }
    }

    fn every_answer() -> Vec<Said> {
        let mut all = vec![
            Said::Myself,
            Said::InCluster,
            Said::Elsewhere,
            Said::Refused,
            Said::Nothing,
        ];
        for name in ["a", "c"] {
            all.extend([none(name, true), none(name, false)]);
        }
        all
    }

    /// All answers of three seeds.
    fn every_three() -> Vec<Vec<Said>> {
        let all = every_answer();
        let mut cases = vec![Vec::new()];
        for _ in 0..3 {
            let longer = cases.iter().flat_map(|case: &Vec<Said>| {
                all.iter()
                    .map(|said| [&case[..], std::slice::from_ref(said)].concat())
            });
            cases = longer.collect();
        }
        cases
    }

    #[test]
    fn a_cluster_is_founded_only_when_everybody_says_that_there_is_none() {
        for case in every_three() {
            let verdict = decide(&id("b"), &asked(&case));
            let joins = case.contains(&Said::InCluster);
            let is_silent =
                |it: &Said| matches!(it, Said::Elsewhere | Said::Refused | Said::Nothing);
            let expected = if joins {
                let at = case.iter().position(|it| *it == Said::InCluster);
                Verdict::Join(at.unwrap())
            } else if case.iter().any(is_silent) {
                let silent = (0..case.len()).filter(|at| is_silent(&case[*at]));
                Verdict::Unclear(silent.collect())
            } else if case.contains(&none("a", true)) {
                Verdict::Founder(id("a"))
            } else {
                Verdict::Found
            };
            assert_eq!(verdict, expected, "{case:?}");
        }
    }

    #[test]
    fn without_seeds_or_with_itself_alone_it_founds() {
        assert_eq!(decide(&id("b"), &[]), Verdict::Found);
        assert_eq!(decide(&id("b"), &asked(&[Said::Myself])), Verdict::Found);
    }

    /// Of any number of nodes that may found and ask each other, in any order, one does.
    #[test]
    fn exactly_one_of_those_that_may_found_does() {
        let names = ["a", "b", "c", "d"];
        for founders in 1_u8..16 {
            let may_found = |at: usize| founders & 1 << at != 0;
            let decisions = (0..names.len()).filter(|me| may_found(*me)).map(|me| {
                let said = (0..names.len()).map(|at| match at == me {
                    true => Said::Myself,
                    false => none(names[at], may_found(at)),
                });
                decide(&id(names[me]), &asked(&said.collect::<Vec<_>>()))
            });
            let found = decisions.filter(|it| *it == Verdict::Found).count();
            assert_eq!(found, 1, "{founders:04b}");
        }
    }

    #[test]
    fn a_family_on_which_a_node_does_not_listen_is_no_seed_that_is_silent() {
        let dual = |v6: Said, v4: &[Said]| {
            let v4 = v4.iter().map(|said| (false, said.clone()));
            let of_one = [(true, v6)].into_iter().chain(v4);
            let asked = of_one.map(|(is_v6, said)| Asked {
                seed: 0,
                is_v6,
                said,
            });
            decide(&id("b"), &asked.collect::<Vec<_>>())
        };
        let unclear = Verdict::Unclear(vec![0]);
        let answer = none("c", false);
        assert_eq!(
            dual(Said::Refused, std::slice::from_ref(&answer)),
            Verdict::Found
        );
        assert_eq!(dual(Said::Refused, &[Said::Myself]), Verdict::Found);
        // What swallows packets may be another node.
        assert_eq!(dual(Said::Nothing, std::slice::from_ref(&answer)), unclear);
        // One of several nodes of that name is down.
        assert_eq!(
            dual(Said::Refused, &[answer.clone(), Said::Refused]),
            unclear
        );
        assert_eq!(dual(answer, &[Said::Refused]), Verdict::Found);
        assert_eq!(dual(Said::Refused, &[Said::Refused]), unclear);
        assert_eq!(dual(Said::Refused, &[]), unclear);
        let joined = dual(Said::Refused, &[Said::Refused, Said::InCluster]);
        assert_eq!(joined, Verdict::Join(2));
    }
}
