//! What can be chosen for each request: replicas, deadline, time to live.
//!
//! `cargo run -p dynakv-client --example quorum_options -- 127.0.0.1:8080`

use std::process::ExitCode;
use std::time::Duration;

use dynakv_client::Client;

const KEY: &str = "example:options";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    match run(&address).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorum_options: {error}");
            eprintln!("is a node running at {address}? Start a cluster with `dynakv dev`");
            ExitCode::FAILURE
        }
    }
}

async fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    // What holds for every request is set on the client.
    let client = Client::builder()
        .seeds([address])
        .timeout(Duration::from_secs(10))
        .window(256)
        .build()
        .await?;
    let stats = client.stats().await?;
    let (n, w, r) = (stats.n, stats.w, stats.r);
    println!("{n} replicas of each key; by default {w} confirm a write and {r} answer a read");

    // On every owner before it is acknowledged: then any single replica can answer for it.
    let owners = u8::try_from(stats.total_nodes).map_or(n, |nodes| n.min(nodes));
    let written = client.put(KEY, "on all of them").w(owners).await?;
    println!("w = {owners}: {} replicas have it", written.effective_w);
    let fetched = client.get(KEY).r(1).await?;
    let value = fetched.value()?.cloned().unwrap_or_default();
    println!("r = 1: {}", String::from_utf8_lossy(&value));

    // R + W > N: reads meet writes, and one replica may be down for either.
    client.put(KEY, "on a majority").w(owners / 2 + 1).await?;
    let fetched = client.get(KEY).r(owners / 2 + 1).await?;
    println!("a majority answers: {} value", fetched.siblings.len());

    // While owners are down, others may stand in for them; they hand over what they kept afterwards.
    let written = client.put(KEY, "on a majority, or nearly").sloppy().await?;
    println!("stand-ins counted: {}", written.sloppy);

    // A deadline of its own, with all attempts in it.
    let quick = client.get(KEY).timeout(Duration::from_secs(2)).await?;
    println!("within 2 s: {} value", quick.siblings.len());

    // A value that goes by itself.
    client
        .put(KEY, "for a moment")
        .context(quick.context)
        .ttl(Duration::from_millis(300))
        .await?;
    let mut reads = 0;
    while !client.get(KEY).await?.is_absent() {
        reads += 1;
        if reads > 300 {
            return Err("the value has not expired".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("expired");
    Ok(())
}
