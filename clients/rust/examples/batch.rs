//! Thousands of keys in one call, each with a result of its own.
//!
//! `cargo run -p dynakv-client --example batch -- 127.0.0.1:8080`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use dynakv_client::Client;

const COUNT: usize = 5_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    match run(&address).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("batch: {error}");
            eprintln!("is a node running at {address}? Start a cluster with `dynakv dev`");
            ExitCode::FAILURE
        }
    }
}

async fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::builder().seeds([address]).build().await?;
    let limit = Duration::from_secs(60);
    let key = |number: usize| format!("example:batch:{number}");

    let started = Instant::now();
    let pairs = (0..COUNT).map(|number| (key(number), format!("value {number}")));
    // The values go by themselves after ten minutes, so the example leaves nothing behind.
    let expire = Duration::from_secs(600);
    let puts = client.put_many(pairs).ttl(expire).timeout(limit).await?;
    println!("{COUNT} values stored in {:.2?}", started.elapsed());

    // A batch does not fail as a whole: what failed is in its own place and can be sent again.
    let failed: Vec<usize> = (0..COUNT).filter(|&number| puts[number].is_err()).collect();
    println!("{} of them failed", failed.len());
    if let Some(error) = puts.into_iter().find_map(Result::err) {
        return Err(error.into());
    }

    let started = Instant::now();
    let gets = client.get_many((0..COUNT).map(key)).timeout(limit).await?;
    println!("{COUNT} values read in {:.2?}", started.elapsed());
    for (number, result) in gets.into_iter().enumerate() {
        let fetched = result?;
        let value = fetched.value()?.cloned().unwrap_or_default();
        if value != format!("value {number}") {
            return Err(format!("{} holds {value:?}", key(number)).into());
        }
    }
    println!("all of them are what was stored");
    Ok(())
}
