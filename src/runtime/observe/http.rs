//! The HTTP port: `/metrics`, `/health`, `/ready`, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::limits::HTTP_DATA_PORT_HEADER;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::runtime::shared::environment::{Listener, ReadHalf, WriteHalf};
use crate::runtime::shared::places::{Places, Shortage, Taken};

/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// How long one request may take from its first byte to the last of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections it has at once. For one more the oldest is closed: a scrape takes milliseconds, so the
/// oldest is one that says nothing, or does not read.
pub const CONNECTIONS_MAX: usize = 64;

/// Where the answers come from.
pub trait Pages: Send + Sync + 'static {
    /// All metrics in Prometheus' text form.
    fn metrics(&self) -> String;

    /// Why this node can't coordinate requests, or nothing when it can.
    fn not_ready(&self) -> Option<String>;

    /// The port for requests, for those that send them here.
    fn data_port(&self) -> u16;
}

/// Serves until shutdown.
pub async fn run(
    mut listener: Box<dyn Listener>,
    pages: Arc<dyn Pages>,
    shutdown: CancellationToken,
) {
    let places = Places::new(CONNECTIONS_MAX);
    let mut shortage = Shortage::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (read, write) = match accepted {
            Ok((read, write, _from)) => (read, write),
            Err(error) => {
                shortage.wait(&error, &places).await;
                continue;
            }
        };
        shortage.is_over();
        // None is ever taken for a client, so there is always one to close.
        let Taken { place, .. } = match places.take(0) {
            Some(taken) => taken,
            None => continue,
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let served = timeout(REQUEST_TIMEOUT, serve(read, write, &*pages));
            tokio::select! {
                biased;
                () = place.is_wanted() => {}
                _ = served => {}
            }
        });
        // The one that made room lets go of its descriptor.
        tokio::task::yield_now().await;
    }
}

/// One request per connection: scrapers come every few seconds.
async fn serve(mut read: ReadHalf, mut write: WriteHalf, pages: &dyn Pages) -> std::io::Result<()> {
    let mut head = Vec::new();
    let answer = loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => {
                let method = request.method.unwrap_or_default();
                let path = request.path.unwrap_or_default();
                break answer(method, path, pages);
            }
            Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => {
                if read.read_buf(&mut head).await? == 0 {
                    return Ok(());
                }
            }
            Ok(httparse::Status::Partial) => break page(431, "the request is too large\n"),
            Err(_) if is_frame(&head) => break wrong_port(pages.data_port()),
            Err(error) => break page(400, &format!("{error}\n")),
        }
    };
    write.write_all(answer.as_bytes()).await?;
    write.shutdown().await
}

fn answer(method: &str, path: &str, pages: &dyn Pages) -> String {
    let is_head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return page(405, "only GET\n"),
    };
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let answer = match path {
        "/metrics" => page(200, &pages.metrics()),
        "/health" => page(200, "ok\n"),
        "/ready" => match pages.not_ready() {
            None => page(200, "ready\n"),
            Some(reason) => page(503, &format!("{reason}\n")),
        },
        _ => page(404, "there is /metrics, /health and /ready\n"),
    };
    if is_head {
        let end = answer.find("\r\n\r\n").map_or(answer.len(), |at| at + 4);
        return answer[..end].to_owned();
    }
    answer
}

/// Whether these are the first bytes of the protocol for requests: the length of a hello, which begins with a
/// zero. No HTTP request begins so.
fn is_frame(head: &[u8]) -> bool {
    head.first() == Some(&0)
}

/// What is said to a client that dialled this port instead of the other. It looks for the header.
fn wrong_port(data_port: u16) -> String {
    let body = format!(
        "this is the HTTP port of a dynakv node, for metrics and health; requests go to its port {data_port}\n"
    );
    let header = format!("{HTTP_DATA_PORT_HEADER}: {data_port}\r\n");
    page_with(400, &header, &body)
}

/// What the port for requests says to who sends HTTP there.
pub(crate) fn sent_to_data_port(http_port: u16) -> String {
    page(
        400,
        &format!(
            "this port takes requests of the dynakv protocol and no HTTP; metrics and health are on the node's HTTP \
             port {http_port}: /metrics, /health and /ready\n"
        ),
    )
}

fn page(status: u16, body: &str) -> String {
    page_with(status, "", body)
}

/// A page with more headers, each with the end of its line.
fn page_with(status: u16, headers: &str, body: &str) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "",
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n\
         content-length: {}\r\n{headers}connection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Option<String>);

    impl Pages for Fixed {
        fn metrics(&self) -> String {
            "a 1\n".to_owned()
        }

        fn not_ready(&self) -> Option<String> {
            self.0.clone()
        }

        fn data_port(&self) -> u16 {
            8080
        }
    }

    #[test]
    fn it_knows_three_pages() {
        let ready = Fixed(None);
        assert!(answer("GET", "/metrics", &ready).ends_with("\r\n\r\na 1\n"));
        assert!(answer("GET", "/health", &ready).starts_with("HTTP/1.1 200 "));
        assert!(answer("GET", "/ready", &ready).starts_with("HTTP/1.1 200 "));
        let joining = Fixed(Some("joining".to_owned()));
        let not_ready = answer("GET", "/ready?x", &joining);
        assert!(not_ready.starts_with("HTTP/1.1 503 ") && not_ready.ends_with("joining\n"));
        assert!(answer("GET", "/", &ready).starts_with("HTTP/1.1 404 "));
        assert!(answer("POST", "/metrics", &ready).starts_with("HTTP/1.1 405 "));
        assert!(answer("HEAD", "/health", &ready).ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_client_that_dialled_the_wrong_port_is_told_the_right_one() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (near, mut far) = tokio::io::duplex(1024);
            let (read, write) = tokio::io::split(near);
            far.write_all(&[0, 0, 0, 30, 0, 1]).await.unwrap();
            serve(Box::new(read), Box::new(write), &Fixed(None))
                .await
                .unwrap();
            let mut answer = String::new();
            far.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(
                answer.contains("\r\ndynakv-data-port: 8080\r\n"),
                "{answer}"
            );
        });
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(64);
            let (read, write) = tokio::io::split(near);
            let task =
                tokio::spawn(
                    async move { serve(Box::new(read), Box::new(write), &Fixed(None)).await },
                );
            let (mut read, mut write) = tokio::io::split(far);
            for piece in ["GET /hea", "lth HTTP/1.1\r\nhost: x\r\n", "\r\n"] {
                write.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut answer = String::new();
            read.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("ok\n"), "{answer}");
            task.await.unwrap().unwrap();
        });
    }
}
