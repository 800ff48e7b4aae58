//! The stock of a shop: N = 3, W = 3, R = 1. A sale counts only once all copies have it, so the cheapest
//! read, of any one copy, shows every sale. The price: with one node down nothing is sold.
//!
//! `cargo run --example inventory`

mod support;

use std::collections::BTreeSet;

use dynakv::Node;
use dynakv::embedded::{Context, Error};
use support::{Cluster, Outcome, claim, texts};

const STOCK: &str = "stock:teapot";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    println!("== An inventory that every copy agrees on ==");
    let mut cluster = Cluster::start(3, 3, 1).await?;

    println!("\n-- Strong writes, cheap reads --");
    let (_, seen) = read(cluster.node(1)).await?;
    write(cluster.node(1), &Stock::delivered(3), seen).await?;
    println!("3 teapots are delivered; all three disks have it.");
    shows_everywhere(&cluster, &[1, 2, 3], 3).await?;
    sell(cluster.node(1), "order-1").await?;
    shows_everywhere(&cluster, &[1, 2, 3], 2).await?;
    sell(cluster.node(3), "order-2").await?;
    shows_everywhere(&cluster, &[1, 2, 3], 1).await?;

    println!("\n-- Two tills sell the last teapot at once --");
    let (at_till_a, seen_by_a) = read(cluster.node(1)).await?;
    let (at_till_b, seen_by_b) = read(cluster.node(2)).await?;
    write(cluster.node(1), &at_till_a.and_sold("order-3"), seen_by_a).await?;
    write(cluster.node(2), &at_till_b.and_sold("order-4"), seen_by_b).await?;
    let fetched = cluster.node(3).get(STOCK).await?;
    claim(
        fetched.siblings.len() == 2,
        "both sales are kept, as siblings",
    )?;
    println!(
        "Both writes succeeded: W = 3 is no lock and no compare-and-swap. But neither replaced the"
    );
    println!(
        "other, and the next reader gets both. That is why the stock is a list of orders and not"
    );
    println!("a number: two writes of \"0 left\" would look like one.");
    let (mut stock, seen) = read(cluster.node(3)).await?;
    claim(
        stock.left() == -1,
        "the union of both shows that one too many was sold",
    )?;
    println!("The union has {} teapots left.", stock.left());
    println!("The union has {} teapots left.", stock.left());
    let last = stock.sold.pop_last().unwrap_or_default();
    write(cluster.node(3), &stock, seen).await?;
    println!("So {last} is cancelled before it is shipped.");
    shows_everywhere(&cluster, &[1, 2, 3], 0).await?;
    println!("(Who cannot cancel lets one writer at a time sell.)");

    println!("\n-- A node is down --");
    let (mut stock, seen) = read(cluster.node(1)).await?;
    stock.delivered += 2;
    write(cluster.node(1), &stock, seen).await?;
    println!("2 more are delivered.");
    cluster.stop(3).await;
    match sell(cluster.node(1), "order-5").await {
        Err(Error::QuorumUnavailable {
            needed,
            got,
            maybe_applied,
            ..
        }) => {
            claim((needed, got) == (3, 2), "3 owners are needed, 2 are there")?;
            claim(!maybe_applied, "nothing was written")?;
            println!("order-5 is refused: {needed} owners are needed, {got} can be reached.");
        }
        Err(other) => return Err(other.into()),
        Ok(()) => claim(false, "a write without all three owners is refused")?,
    }
    shows_everywhere(&cluster, &[1, 2], 2).await?;
    println!("Reads go on, and nothing was sold.");

    println!("\n-- The node comes back --");
    cluster.restart(3).await?;
    sell(cluster.node(3), "order-5").await?;
    shows_everywhere(&cluster, &[1, 2, 3], 1).await?;
    cluster.end().await;
    println!("\nEvery sale that was acknowledged is in every copy.");
    Ok(())
}

/// What was delivered, and which orders took one. Merging two of them loses no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stock {
    delivered: i64,
    sold: BTreeSet<String>,
}

impl Stock {
    fn delivered(count: i64) -> Self {
        let delivered = count;
        let sold = BTreeSet::new();
        Self { delivered, sold }
    }

    fn left(&self) -> i64 {
        self.delivered - self.sold.len() as i64
    }

    fn and_sold(&self, order: &str) -> Self {
        let mut stock = self.clone();
        stock.sold.insert(order.to_owned());
        stock
    }

    fn merge(&mut self, other: Self) {
        // Deliveries are booked one after the other by the warehouse, so the larger count is the later.
        self.delivered = self.delivered.max(other.delivered);
        self.sold.extend(other.sold);
    }

    fn to_text(&self) -> String {
        let orders = self.sold.iter().map(|order| format!("\n{order}"));
        format!("{}{}", self.delivered, orders.collect::<String>())
    }

    fn from_text(text: &str) -> Self {
        let mut lines = text.lines();
        let delivered = lines.next().and_then(|line| line.parse().ok());
        Self {
            delivered: delivered.unwrap_or(0),
            sold: lines.map(str::to_owned).collect(),
        }
    }
}

/// The stock with all siblings merged, and the context of what was read.
async fn read(node: &Node) -> Result<(Stock, Context), Error> {
    let fetched = node.get(STOCK).await?;
    let mut stock = Stock::default();
    for text in texts(&fetched) {
        stock.merge(Stock::from_text(&text));
    }
    Ok((stock, fetched.context))
}

/// Writes the stock in answer to a read: it replaces what that read saw, and nothing else.
async fn write(node: &Node, stock: &Stock, seen: Context) -> Result<(), Error> {
    node.put(STOCK, stock.to_text()).context(seen).await?;
    Ok(())
}

async fn sell(node: &Node, order: &str) -> Result<(), Error> {
    let (stock, seen) = read(node).await?;
    write(node, &stock.and_sold(order), seen).await?;
    println!("{order} takes one.");
    Ok(())
}

/// Reads one copy at each of these nodes. There is no waiting here: what W = 3 acknowledged is everywhere.
async fn shows_everywhere(cluster: &Cluster, nodes: &[usize], left: i64) -> Outcome {
    for &number in nodes {
        let (stock, _) = read(cluster.node(number)).await?;
        let what = format!("node-{number} shows {left} left, and not {}", stock.left());
        claim(stock.left() == left, &what)?;
    }
    println!(
        "{left} left, at each of the {} nodes, read with R = 1.",
        nodes.len()
    );
    Ok(())
}
