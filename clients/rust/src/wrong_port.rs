//! What answers with HTTP is no data port: a node's HTTP port says where that is.

use bytes::BytesMut;
use dynakv_protocol::limits::{HTTP_DATA_PORT_HEADER, HTTP_HEAD_BYTES_MAX};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How every answer of an HTTP server begins. As the length of a frame it is beyond all bounds.
const HTTP: &[u8] = b"HTTP";

/// Whether these first bytes of an answer are HTTP.
pub(crate) fn is_http(buffer: &[u8]) -> bool {
    buffer.starts_with(HTTP)
}

/// Reads the head of an HTTP answer whose first bytes are in the buffer; the data port of the node that sent
/// it, if it names one.
pub(crate) async fn data_port(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Option<u16> {
    // The caller bounds the time.
    while !buffer.windows(4).any(|end| end == b"\r\n\r\n") && buffer.len() < HTTP_HEAD_BYTES_MAX {
        match stream.read_buf(buffer).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
    }
    named(buffer)
}

fn named(head: &[u8]) -> Option<u16> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n").take_while(|line| !line.is_empty());
    let value = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(HTTP_DATA_PORT_HEADER)
            .then_some(value)
    });
    value?.trim().parse().ok().filter(|port| *port > 0)
}

/// The same host with another port.
pub(crate) fn at_port(address: &str, port: u16) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    Some(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_head_alone() {
        let head =
            |line: &str| format!("HTTP/1.1 400 Bad Request\r\n{line}\r\n\r\nDynakv-Data-Port: 1");
        assert_eq!(named(head("Dynakv-Data-Port: 8080").as_bytes()), Some(8080));
        for other in [
            "content-length: 1",
            "dynakv-data-port: 0",
            "dynakv-data-port: 65536",
            "dynakv-data-port: -",
        ] {
            assert_eq!(named(head(other).as_bytes()), None, "{other}");
        }
        assert_eq!(at_port("[::1]:9080", 8080).as_deref(), Some("[::1]:8080"));
    }

    #[tokio::test]
    async fn a_server_that_never_ends_its_head_is_read_so_far_only() {
        let mut endless = tokio::io::repeat(b'x');
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\n");
        assert_eq!(data_port(&mut endless, &mut buffer).await, None);
        assert!(buffer.len() < 4 * HTTP_HEAD_BYTES_MAX);
    }
}
