//! A shopping cart: N = 3, W = 1, R = 1. An addition is never refused; carts that were changed on two
//! sides at once are merged by whoever reads them next.
//!
//! `cargo run --example shopping_cart`

mod support;

use std::collections::BTreeSet;

use dynakv::Node;
use dynakv::embedded::{Context, Error};
use support::{Cluster, Outcome, claim, eventually, texts};

const CART: &str = "cart:alice";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    println!("== A shopping cart that always takes an item ==");
    let mut cluster = Cluster::start(3, 1, 1).await?;

    println!("\n-- Two sides change the cart at once --");
    add(cluster.node(1), "milk").await?;
    // With R = 1 a read may reach a copy that lacks the newest write. Both sides wait until they see it.
    for number in [1, 2] {
        sees(cluster.node(number), &["milk"]).await?;
    }
    // The phone and the laptop read the same cart, each at its own node ...
    let (on_phone, seen_by_phone) = read(cluster.node(1)).await?;
    let (on_laptop, seen_by_laptop) = read(cluster.node(2)).await?;
    // ... and each writes what it made of it, in answer to what it has seen.
    write(cluster.node(1), with(&on_phone, "bread"), seen_by_phone).await?;
    println!("The phone saw {on_phone:?} and added bread.");
    write(cluster.node(2), with(&on_laptop, "eggs"), seen_by_laptop).await?;
    println!("The laptop saw {on_laptop:?} and added eggs.");

    let node = cluster.node(3);
    eventually("node-3 has both carts", async || {
        let fetched = node.get(CART).await;
        fetched.is_ok_and(|fetched| fetched.siblings.len() == 2)
    })
    .await?;
    let fetched = node.get(CART).await?;
    println!("node-3 has two siblings: {:?}", texts(&fetched));
    claim(fetched.value().is_err(), "neither cart replaced the other")?;

    let (merged, seen) = read(node).await?;
    println!("Their union is {merged:?}; node-3 writes it in answer to both.");
    write(node, merged, seen).await?;
    let whole = ["bread", "eggs", "milk"];
    for number in 1..=3 {
        sees(cluster.node(number), &whole).await?;
    }
    println!("All nodes show one cart again.");

    println!("\n-- A node is down --");
    cluster.stop(3).await;
    add(cluster.node(1), "tea").await?;
    println!("W = 1: node-1 took the tea all the same.");
    sees(cluster.node(2), &["bread", "eggs", "milk", "tea"]).await?;
    println!("R = 1: node-2 shows it.");
    cluster.stop(2).await;
    add(cluster.node(1), "jam").await?;
    sees(cluster.node(1), &["bread", "eggs", "jam", "milk", "tea"]).await?;
    println!("Even the last node alone takes an item and shows the cart.");

    println!("\n-- The price --");
    println!(
        "W + R = 2 is not more than N = 3: a read may miss the newest write for a moment, and a"
    );
    println!(
        "write that only one disk has is lost with that disk. The union brings an item back that"
    );
    println!(
        "one side removed while the other one changed the cart: keep removals in the cart, too,"
    );
    println!("if that matters.");
    cluster.end().await;
    println!("\nNo addition was refused and none was lost.");
    Ok(())
}

/// The cart with everything that any sibling holds, and the context of what was read.
async fn read(node: &Node) -> Result<(BTreeSet<String>, Context), Error> {
    let fetched = node.get(CART).await?;
    let carts = texts(&fetched);
    let items = carts
        .iter()
        .flat_map(|cart| cart.lines().map(str::to_owned));
    Ok((items.collect(), fetched.context))
}

/// Writes a cart in answer to a read: it replaces what that read saw, and nothing else.
async fn write(node: &Node, cart: BTreeSet<String>, seen: Context) -> Result<(), Error> {
    let text = cart.into_iter().collect::<Vec<_>>().join("\n");
    node.put(CART, text).context(seen).await?;
    Ok(())
}

/// What the shop does for each click on "add": read, merge, add, write.
async fn add(node: &Node, item: &str) -> Result<(), Error> {
    let (cart, seen) = read(node).await?;
    write(node, with(&cart, item), seen).await?;
    println!("{item} goes into the cart.");
    Ok(())
}

fn with(cart: &BTreeSet<String>, item: &str) -> BTreeSet<String> {
    let mut cart = cart.clone();
    cart.insert(item.to_owned());
    cart
}

/// Waits until a node shows exactly this cart, as one value.
async fn sees(node: &Node, items: &[&str]) -> Outcome {
    let wanted = items.join("\n");
    let what = format!("{node:?} shows {items:?}");
    eventually(&what, async || {
        let fetched = node.get(CART).await;
        fetched.is_ok_and(|fetched| texts(&fetched).into_iter().eq([wanted.clone()]))
    })
    .await
}
