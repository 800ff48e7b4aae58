//! Two writers who do not know of each other: both values are kept, until somebody merges them.
//!
//! `cargo run -p dynakv-client --example conflict -- 127.0.0.1:8080`

use std::process::ExitCode;

use dynakv_client::Client;

const KEY: &str = "example:conflict";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    match run(&address).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conflict: {error}");
            eprintln!("is a node running at {address}? Start a cluster with `dynakv dev`");
            ExitCode::FAILURE
        }
    }
}

async fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::builder().seeds([address]).build().await?;
    // A blind put replaces whatever there is, so that the example begins at the same place each time.
    client.put(KEY, "bread").await?;

    // Ann and Ben read the same state …
    let ann = client.get(KEY).await?;
    let ben = client.get(KEY).await?;
    // … and each replaces what they have seen. Neither has seen the other's write.
    client.put(KEY, "bread, milk").context(ann.context).await?;
    client.put(KEY, "bread, eggs").context(ben.context).await?;

    let fetched = client.get(KEY).await?;
    println!("there are {} values now:", fetched.siblings.len());
    for sibling in &fetched.siblings {
        println!("  {}", String::from_utf8_lossy(&sibling.value));
    }
    if let Err(conflict) = fetched.value() {
        println!("asking for the one value says: {conflict}");
    }

    // Merging is the application's business, because only it knows what its values mean.
    let mut items: Vec<String> = fetched
        .siblings
        .iter()
        .flat_map(|sibling| {
            let text = String::from_utf8_lossy(&sibling.value).into_owned();
            text.split(", ").map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    items.sort();
    items.dedup();
    client
        .put(KEY, items.join(", "))
        .context(fetched.context)
        .await?;

    let merged = client.get(KEY).await?;
    let value = merged.value()?.cloned().unwrap_or_default();
    println!("merged: {}", String::from_utf8_lossy(&value));
    client.delete(KEY).context(merged.context).await?;
    Ok(())
}
