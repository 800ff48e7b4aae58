//! What can go wrong, what the client has done about it already, and what is left to do.
//!
//! `cargo run -p dynakv-client --example errors_and_retries -- 127.0.0.1:8080`

use std::process::ExitCode;
use std::time::Duration;

use dynakv_client::{Client, Error, ErrorCode};

const KEY: &str = "example:errors";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    match run(&address).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("errors_and_retries: {error}");
            eprintln!("is a node running at {address}? Start a cluster with `dynakv dev`");
            ExitCode::FAILURE
        }
    }
}

async fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    // The first seed does not exist. The client passes it over by itself.
    let client = Client::builder().seeds(["127.0.0.1:1", address]);
    let client = client.build().await?;
    println!("connected, although the first seed is dead");

    // Refused by the client: nothing was sent.
    expect("an empty key", client.put("", "v").await)?;
    // Refused by a node: no other node would say otherwise, so none is asked.
    let refused = expect("w = 200", client.put(KEY, "v").w(200).await)?;
    if refused.code() != Some(ErrorCode::BadRequest) {
        return Err(format!("not refused as a bad request: {refused}").into());
    }
    // A context belongs to its key.
    let other = client.get("example:another key").await?;
    let wrong = client.put(KEY, "v").context(other.context);
    expect("the context of another key", wrong.await)?;
    // A single node that is not there: nobody else answers in its place.
    expect("a dead node", client.node("127.0.0.1:1")?.health().await)?;
    // A deadline that nothing can meet.
    let hurried = client.put(KEY, "v").timeout(Duration::from_nanos(1));
    expect("a deadline of 1 ns", hurried.await)?;

    put_for_sure(&client, KEY, "v").await?;
    println!("stored for sure");
    client.delete(KEY).await?;
    Ok(())
}

/// Shows an error as a program would look at it.
fn expect<T>(what: &str, result: Result<T, Error>) -> Result<Error, String> {
    let Err(error) = result else {
        return Err(format!("{what} should have failed"));
    };
    println!("{what}: {error}");
    println!(
        "  worth trying again: {}, may have been applied: {}",
        error.is_retryable(),
        error.maybe_applied()
    );
    Ok(error)
}

/// Goes on for longer than one request may take.
///
/// Within a request the client retries by itself and keeps the write's id, so that its attempts are one
/// write. This loop makes new requests, so what it does has to bear being done twice. A put of the same
/// value does: equal values of one key are shown once.
async fn put_for_sure(client: &Client, key: &str, value: &'static str) -> Result<(), Error> {
    for attempt in 1_u64.. {
        match client.put(key, value).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_retryable() && attempt < 10 => {
                println!("attempt {attempt}: {error}");
                tokio::time::sleep(Duration::from_millis(100 * attempt)).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
