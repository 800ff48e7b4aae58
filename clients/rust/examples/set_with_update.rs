//! Ten tasks add to one set at the same time, with `update`: nobody's member is lost.
//!
//! `cargo run -p dynakv-client --example set_with_update -- 127.0.0.1:8080`

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use dynakv_client::{Client, Error, Fetched, Update};

const KEY: &str = "example:set";
const TASKS: usize = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    match run(&address).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("set_with_update: {error}");
            eprintln!("is a node running at {address}? Start a cluster with `dynakv dev`");
            ExitCode::FAILURE
        }
    }
}

async fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::builder().seeds([address]).build().await?;
    client.delete(KEY).await?;

    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..TASKS {
        tasks.spawn(add(client.clone(), format!("member-{number}")));
    }
    while let Some(rounds) = tasks.join_next().await {
        println!("added after {} rounds", rounds??);
    }

    let fetched = client.get(KEY).await?;
    let members = union(&fetched);
    println!("the set has {} members: {members:?}", members.len());
    client.delete(KEY).context(fetched.context).await?;
    if members.len() != TASKS {
        return Err(format!("{} of {TASKS} members are there", members.len()).into());
    }
    Ok(())
}

async fn add(client: Client, member: String) -> Result<u32, Error> {
    let update = client.update(KEY, |found| {
        // The closure is asked again when others have written meanwhile. The union of sets gives the
        // same, however often and in whatever order it is taken: that is what makes it safe.
        let mut members = union(found);
        let is_new = members.insert(member.clone());
        if !is_new && found.siblings.len() == 1 {
            return Update::Keep;
        }
        Update::put(members.into_iter().collect::<Vec<_>>().join("\n"))
    });
    // Ten at once on one key take turns; each turn that meets another writer is one round.
    let updated = update.rounds(100).timeout(Duration::from_secs(30)).await?;
    Ok(updated.rounds)
}

fn union(fetched: &Fetched) -> BTreeSet<String> {
    let texts = fetched.siblings.iter();
    let texts = texts.map(|sibling| String::from_utf8_lossy(&sibling.value));
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}
