//! Names with several addresses: each is tried, and none takes the time of the others.
//!
//! A name may stand for an address of each family while its node listens on one of them, or for several
//! nodes. So the next address is tried as soon as the one before has failed, and beside it when that has
//! said nothing for a moment (after RFC 8305, "Happy Eyeballs"). Whoever waits needs one limit for all.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::sleep;

/// For how long an address that says nothing is waited for alone.
pub const HEAD_START: Duration = Duration::from_millis(250);

/// The addresses that `host:port` stands for now, at least one, in the system's order of preference.
///
/// # Errors
/// The name has no address, or nobody can be asked.
pub async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for found in lookup_host(address).await? {
        if !addresses.contains(&found) {
            addresses.push(found);
        }
    }
    match addresses.is_empty() {
        false => Ok(addresses),
        true => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the name of {address} has no address"),
        )),
    }
}

/// The first attempt that succeeds, at whichever address, or why each of them failed. An attempt at every address
/// begins within [`HEAD_START`] of the one before; those that are not needed any more are dropped.
///
/// # Errors
/// What each attempt came to, in the order of their ends.
pub async fn first_of<T, E, F>(
    addresses: &[SocketAddr],
    mut attempt: impl FnMut(SocketAddr) -> F,
) -> Result<T, Vec<(SocketAddr, E)>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.iter().copied();
    let mut under_way: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::new();
    let mut failed = Vec::new();
    loop {
        match waiting.next() {
            Some(next) => under_way.push((next, Box::pin(attempt(next)))),
            None if under_way.is_empty() => return Err(failed),
            None => {}
        }
        let is_last = waiting.len() == 0;
        tokio::select! {
            biased;
            (address, ended) = first_end(&mut under_way) => match ended {
                Ok(done) => return Ok(done),
                Err(error) => failed.push((address, error)),
            },
            () = sleep(HEAD_START), if !is_last => {}
        }
    }
}

/// The attempt that ends first, taken out.
async fn first_end<T, E, F>(
    under_way: &mut Vec<(SocketAddr, Pin<Box<F>>)>,
) -> (SocketAddr, Result<T, E>)
where
    F: Future<Output = Result<T, E>>,
{
    poll_fn(|context| {
        for at in 0..under_way.len() {
            let (address, attempt) = &mut under_way[at];
            if let Poll::Ready(ended) = attempt.as_mut().poll(context) {
                let address = *address;
                drop(under_way.swap_remove(at));
                return Poll::Ready((address, ended));
            }
        }
        Poll::Pending
    })
    .await
}

/// One error for all addresses of a name, which names each. It is "refused" only if every one of them was.
pub fn io_error(failed: Vec<(SocketAddr, io::Error)>) -> io::Error {
    let mut failed = failed;
    if failed.len() == 1
        && let Some((_, error)) = failed.pop()
    {
        return error;
    }
    let kinds = failed.iter().map(|(_, error)| error.kind());
    let telling = kinds
        .clone()
        .find(|it| *it != io::ErrorKind::ConnectionRefused);
    let kind = telling.or_else(|| kinds.clone().next());
    let text: Vec<String> = failed
        .iter()
        .map(|(address, error)| format!("{address}: {error}"))
        .collect();
    io::Error::new(kind.unwrap_or(io::ErrorKind::NotFound), text.join("; "))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, timeout};

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count)
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .collect()
    }

    /// What happens at the address of a port: it is reached, refuses, or swallows what it is sent.
    async fn at(address: SocketAddr, good: u16, refusing: u16) -> Result<u16, io::Error> {
        match address.port() {
            port if port == good => Ok(port),
            port if port == refusing => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => pending().await,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_everything_does_not_take_the_time_of_the_others() {
        for good in 1..=4 {
            let started = Instant::now();
            let addresses = addresses(4);
            let reached = first_of(&addresses, |address| at(address, good, 0));
            let reached = timeout(Duration::from_secs(2), reached).await;
            assert_eq!(reached.unwrap().unwrap(), good);
            assert_eq!(started.elapsed(), HEAD_START * u32::from(good - 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_is_passed_over_at_once() {
        let started = Instant::now();
        let reached = first_of(&addresses(2), |address| at(address, 2, 1)).await;
        assert_eq!(reached.unwrap(), 2);
        assert_eq!(started.elapsed(), Duration::ZERO);
        // Beside one that is still waited for, too.
        let reached = first_of(&addresses(3), |address| at(address, 3, 2)).await;
        assert_eq!(reached.unwrap(), 3);
        assert_eq!(started.elapsed(), HEAD_START);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_goes_on_beside_the_next() {
        let slow = |address: SocketAddr| async move {
            match address.port() {
                1 => {
                    sleep(HEAD_START * 2).await;
                    Ok::<_, io::Error>(1)
                }
                _ => pending().await,
            }
        };
        let started = Instant::now();
        assert_eq!(first_of(&addresses(2), slow).await.unwrap(), 1);
        assert_eq!(started.elapsed(), HEAD_START * 2);
    }

    #[tokio::test]
    async fn when_all_fail_each_is_named() {
        let failed = first_of(&addresses(2), |address| at(address, 0, address.port())).await;
        let error = io_error(failed.unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        for part in ["127.0.0.1:1: ", "127.0.0.1:2: "] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let mixed = [
            (addresses(1)[0], io::ErrorKind::ConnectionRefused.into()),
            (addresses(2)[1], io::ErrorKind::HostUnreachable.into()),
        ];
        let error = io_error(mixed.into());
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
        let none = first_of(&[], |address| at(address, 1, 0)).await;
        assert!(none.unwrap_err().is_empty());
    }

    #[tokio::test]
    async fn names_and_numbers_have_addresses() {
        assert_eq!(resolve("127.0.0.1:7").await.unwrap(), addresses(7)[6..]);
        assert_eq!(resolve("[::1]:7").await.unwrap().len(), 1);
        assert!(!resolve("localhost:7").await.unwrap().is_empty());
        assert!(resolve("no port").await.is_err());
    }
}
