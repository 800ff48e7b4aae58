//! Whether a copy of a node's directory may take the place of the directory in the ring.
//!
//! What the copy does not know is what the node has promised and accepted since. A voter that forgot that may help to
//! decide a second ring under one number ([`decide`](super::decide)). So a copy is a directory that was lost: it gets an
//! id of its own, has no vote, and the members decide on a ring that lists it.
//!
//! A final ring with a single member is the exception: nobody else is there to let the copy in. If somebody has joined
//! since the copy was made, the copy is found out as older than what was seen, as soon as one of those speaks to it.

use dynakv_protocol::ring_document::{RingDocument, Step};

/// Whether a copy of the directory of a member of this ring may go on as that directory.
pub fn keeps_its_place(ring: &RingDocument) -> bool {
    ring.step == Step::Final && ring.members.len() == 1
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ClusterId;

    use super::*;
    use crate::engine::layout::made_up::{join, member};
    use crate::engine::layout::{JoinRefusal, admit, found, seal};

    #[test]
    fn only_the_lone_member_of_a_final_ring_keeps_its_place() {
        let open = found(ClusterId(1), "c", member("a"), 1, 1, 1);
        assert!(!keeps_its_place(&open), "somebody may join, by its vote");
        let alone = seal(&open).unwrap();
        assert!(keeps_its_place(&alone));
        let refused = admit(&alone, &join("b")).unwrap_err();
        assert!(!matches!(refused, JoinRefusal::DirectoryLost { .. }));
        let two = admit(&open, &join("b")).unwrap();
        assert!(!keeps_its_place(&two) && !keeps_its_place(&seal(&two).unwrap()));
    }
}
