//! What a member asks of a node that owns no copy under the ring that both follow: it is refused, and nothing comes of it.

use bytes::Bytes;
use dynakv_protocol::ErrorCode;
use dynakv_protocol::handshake::{Lane, PeerIdentity};
use dynakv_protocol::hash::Segment;
use dynakv_protocol::mend::{Compare, List};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::peer::{KeepHint, MergeVersions, ReadVersions};
use dynakv_protocol::placement::Placement;
use dynakv_protocol::unlock::Replace;

use crate::harness::Cluster;
use crate::strangers::{connect, disguised_as, hello, id, one_value, ring_of};

/// Four nodes, three copies: one of them owns no copy of the key.
#[test]
fn who_owns_no_copy_takes_none_and_gives_none() {
    let mut cluster = Cluster::start(4);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let placement = Placement::new(&ring);
    let owners = placement.owners_of_key(b"key");
    let owners: Vec<_> = owners.iter().map(|it| usize::from(it.0)).collect();
    let outsider = (0..4).find(|it| !owners.contains(it)).unwrap();
    let versions = one_value(b"astray");
    let (ring_version, timeout_ms, key) = (ring.version, 5_000, Bytes::from_static(b"key"));
    let merge = Request::Merge(MergeVersions {
        ring_version,
        timeout_ms,
        key: key.clone(),
        versions: versions.clone(),
        tell_beside: false,
    });
    let read = Request::Read(ReadVersions {
        ring_version,
        timeout_ms,
        key: key.clone(),
        tell_actor: false,
        digest_above: None,
    });
    let replace = Request::Replace(Replace {
        ring_version,
        timeout_ms,
        key: key.clone(),
        expected: None,
        versions: versions.clone(),
    });
    let list = Request::List(List {
        ring_version,
        segment: Segment::of_key(b"key"),
        bytes_max: 1 << 20,
        with_versions: true,
        after_key: None,
    });
    let asked_by = |member: usize, asked: usize| {
        let member = PeerIdentity {
            lane: Lane::Data,
            ..disguised_as(&cluster[member], &ring)
        };
        connect(&cluster[asked], hello(&member)).expect("it is a member")
    };
    let mut of_outsider = asked_by(owners[0], outsider);
    for request in [&merge, &read, &replace, &list] {
        let answer = of_outsider.ask(request.clone());
        let Response::Error(error) = answer else {
            panic!("{request:?} is answered: {answer:?}");
        };
        assert_eq!(error.code, ErrorCode::NotOwner, "{request:?}: {error}");
        assert_eq!(error.ring_version, Some(ring_version));
    }
    let stored = cluster[outsider].metric("dynakv_store_versions", "");
    assert_eq!(stored, Ok(0), "it has taken something");
    // Who owns no copy stands in for those who do, and compares what it owns.
    let hint = Request::Hint(KeepHint {
        ring_version,
        timeout_ms,
        key,
        versions,
        owed: owners.iter().map(|&it| id(&cluster[it].id)).collect(),
        needed: 0,
    });
    assert_eq!(of_outsider.ask(hint), Response::HintKept);
    let compare = Request::Compare(Compare {
        ring_version,
        node_id: id(&cluster[owners[0]].id),
        page: None,
    });
    assert!(matches!(of_outsider.ask(compare), Response::Compared(_)));
    let mut of_owner = asked_by(outsider, owners[0]);
    assert!(matches!(of_owner.ask(read), Response::Versions(_)));
    assert!(matches!(of_owner.ask(list), Response::Listed(_)));
    assert!(matches!(of_owner.ask(merge), Response::Merged(_)));
    cluster.wait_healthy();
}
