//! As much of HTTP as a scraper needs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its status code.
    pub(crate) status: u16,
    /// All that follows the headers.
    pub(crate) body: String,
}

/// Fetches a page from this machine.
pub(crate) fn http_get(port: u16, path: &str) -> Result<Page, String> {
    fetch(port, path).map_err(|error| format!("port {port}, {path}: {error}"))
}

fn fetch(port: u16, path: &str) -> std::io::Result<Page> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let malformed = || std::io::Error::other(format!("no HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok(Page {
        status: status.ok_or_else(malformed)?,
        body: body.to_owned(),
    })
}
