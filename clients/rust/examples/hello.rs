//! Connect, store a value, read it, delete it.
//!
//! `cargo run -p dynakv-client --example hello -- 127.0.0.1:8080`

use std::process::ExitCode;

use dynakv_client::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    match run(&address).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: {error}");
            eprintln!("is a node running at {address}? Start a cluster with `dynakv dev`");
            ExitCode::FAILURE
        }
    }
}

async fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    // One address is enough: the client learns the other nodes from it.
    let client = Client::builder().seeds([address]).build().await?;
    println!("connected; the nodes are {:?}", client.node_addresses());

    let written = client.put("example:hello", "Hello, world").await?;
    println!("stored on {} replicas at least", written.effective_w);

    let fetched = client.get("example:hello").await?;
    match fetched.value()? {
        Some(value) => println!("read: {}", String::from_utf8_lossy(value)),
        None => println!("somebody has deleted it meanwhile"),
    }

    // With the context the delete removes exactly what was read.
    client
        .delete("example:hello")
        .context(fetched.context)
        .await?;
    let gone = client.get("example:hello").await?.is_absent();
    println!("deleted; absent now: {gone}");
    Ok(())
}
