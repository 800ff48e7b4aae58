//! As much of HTTP as reading a metrics page needs.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a page may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer, head and body together.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Headers beyond this are no answer of a node.
const HEADERS_MAX: usize = 32;

/// Fetches a page as text.
pub(crate) async fn get(address: &str, path: &str) -> io::Result<String> {
    match timeout(TIMEOUT, fetch(address, path)).await {
        Ok(page) => page,
        Err(_) => Err(io::Error::other(format!("no answer within {TIMEOUT:?}"))),
    }
}

async fn fetch(address: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while stream.read_buf(&mut answer).await? > 0 {
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other(format!(
                "an answer over {ANSWER_BYTES_MAX} bytes"
            )));
        }
    }
    body(&answer)
}

/// The body of an answer that ends with its connection.
fn body(answer: &[u8]) -> io::Result<String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(answer).map_err(io::Error::other)? {
        httparse::Status::Complete(bytes) => bytes,
        httparse::Status::Partial => {
            return Err(io::Error::other("the answer ends in its head"));
        }
    };
    let status = response.code.unwrap_or_default();
    if status != 200 {
        return Err(io::Error::other(format!("status {status}")));
    }
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| {
            std::str::from_utf8(header.value)
                .ok()?
                .parse::<usize>()
                .ok()
        });
    let body = &answer[head_bytes..];
    if length.is_some_and(|length| body.len() < length) {
        return Err(io::Error::other("the answer ends early"));
    }
    String::from_utf8(body.to_vec()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_what_follows_the_head() {
        let page = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\na 1\n\n";
        assert_eq!(body(page).unwrap(), "a 1\n\n");
    }

    #[test]
    fn what_is_no_page_is_an_error() {
        for (answer, reason) in [
            (&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], "404"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na", "early"),
            (b"HTTP/1.1 200 OK\r\n", "head"),
            (b"", "head"),
            (b"\x00\x01garbage", ""),
        ] {
            let error = body(answer).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
