//! A user's profile: N = 3, W = 2, R = 2. Any two copies overlap with any other two, so a read sees every
//! acknowledged write, and any one node may be down.
//!
//! `cargo run --example user_profile`

mod support;

use dynakv::Node;
use dynakv::embedded::Error;
use support::{Cluster, Outcome, claim, eventually, texts};

const PROFILE: &str = "user:alice";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    println!("== A profile that any one node may miss ==");
    let mut cluster = Cluster::start(3, 2, 2).await?;

    println!("\n-- Written here, read there --");
    save(cluster.node(1), "Alice, Paris").await?;
    println!("Saved at node-1 as soon as two disks had it.");
    for number in [2, 3] {
        shows(cluster.node(number), "Alice, Paris").await?;
    }
    println!("Read at node-2 and node-3 at once: W + R = 4 is more than N = 3.");
    // A moment later the third copy has it as well.
    has_own_copy(cluster.node(3), "Alice, Paris").await?;

    println!("\n-- A node is down --");
    cluster.stop(3).await;
    save(cluster.node(2), "Alice, Oslo").await?;
    shows(cluster.node(1), "Alice, Oslo").await?;
    println!("Alice moves to Oslo: saved at node-2, read at node-1, as if nothing had happened.");

    println!("\n-- The node comes back --");
    cluster.restart(3).await?;
    let own = cluster.node(3).get(PROFILE).r(1).await?;
    println!(
        "node-3's own copy, read with R = 1, says {:?}.",
        texts(&own)
    );
    shows(cluster.node(3), "Alice, Oslo").await?;
    println!(
        "Read with R = 2 at the same node it is Oslo: a second copy was asked, and it is newer."
    );
    has_own_copy(cluster.node(3), "Alice, Oslo").await?;
    println!("That read has mended node-3: its own copy says Oslo now, too.");

    println!("\n-- The price --");
    println!(
        "A request waits for the second fastest of three nodes. With two nodes down, reads and"
    );
    println!("writes are refused rather than guessed:");
    cluster.stop(2).await;
    cluster.stop(3).await;
    let node = cluster.node(1);
    refused(node.get(PROFILE).await.err())?;
    refused(node.put(PROFILE, "Alice, Rome").await.err())?;
    let own = texts(&node.get(PROFILE).r(1).await?);
    println!("  With R = 1 the one copy that is left can be read, old or not: {own:?}.");
    cluster.end().await;
    println!("\nNo read missed an acknowledged write.");
    Ok(())
}

/// Reads the profile and replaces what was read: a profile that somebody else saves meanwhile is kept
/// beside this one instead of being lost.
async fn save(node: &Node, profile: &str) -> Result<(), Error> {
    // The context of a read is worth having even if the value is replaced as a whole.
    let seen = node.get(PROFILE).await?.context;
    node.put(PROFILE, profile.to_owned()).context(seen).await?;
    Ok(())
}

/// A read with the cluster's R shows exactly this, without any waiting.
async fn shows(node: &Node, profile: &str) -> Outcome {
    let shown = texts(&node.get(PROFILE).await?);
    let what = format!("{node:?} shows {profile:?}, and not {shown:?}");
    claim(shown.into_iter().eq([profile.to_owned()]), &what)
}

/// The request failed for want of owners, and changed nothing.
fn refused(error: Option<Error>) -> Outcome {
    let Some(error) = error else {
        return claim(false, "one node of three is no quorum");
    };
    println!("  {error}");
    let is_quorum = matches!(error, Error::QuorumUnavailable { .. });
    claim(
        is_quorum && !error.maybe_applied(),
        "refused, and nothing was written",
    )
}

/// Waits until the node's own copy is this one: with R = 1 a node that has a copy reads just that.
async fn has_own_copy(node: &Node, profile: &str) -> Outcome {
    let what = format!("the own copy of {node:?} becomes {profile:?}");
    eventually(&what, async || {
        let own = node.get(PROFILE).r(1).await;
        own.is_ok_and(|own| texts(&own).into_iter().eq([profile.to_owned()]))
    })
    .await
}
