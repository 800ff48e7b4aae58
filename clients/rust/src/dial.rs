//! Getting a connection: the addresses of a name, the handshake, and what is made of failures.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::frame::FrameDecoder;
use dynakv_protocol::handshake::Welcome;
use dynakv_protocol::limits::HANDSHAKE_FRAME_BYTES_MAX;
use dynakv_protocol::message::Response;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::wrong_port;

/// A read asks for this much room.
const READ_BYTES: usize = 16 * 1024;

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(crate) enum DialError {
    /// The network's reason.
    Network(Arc<str>),
    /// The node refused the handshake.
    Refused(ErrorReply),
    /// It answers with HTTP, and names the port for requests if it is a node's.
    Http(Option<u16>),
}

impl DialError {
    /// Of all addresses of a name. What a node said tells more than that nobody answers.
    pub(crate) fn of_all(mut failed: Vec<(SocketAddr, Self)>) -> Self {
        let refused = failed
            .iter()
            .position(|it| matches!(it.1, Self::Refused(_)))
            .or_else(|| failed.iter().position(|it| matches!(it.1, Self::Http(_))));
        if refused.is_some() || failed.len() == 1 {
            return failed.swap_remove(refused.unwrap_or(0)).1;
        }
        let mut texts = Vec::new();
        for (address, error) in failed {
            if let Self::Network(reason) = error {
                texts.push(format!("{address}: {reason}"));
            }
        }
        Self::Network(texts.join("; ").into())
    }
}

pub(crate) fn network(error: std::io::Error) -> DialError {
    DialError::Network(error.to_string().into())
}

/// Reads the answer to a hello; what has come behind it stays in the buffer.
pub(crate) async fn read_welcome(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
) -> Result<Welcome, DialError> {
    let garbage = |what: String| {
        DialError::Network(format!("this is no dynakv node: {what} (is the port right?)").into())
    };
    // A refusal may carry a long message beside the rest.
    let decoder = FrameDecoder::new(2 * HANDSHAKE_FRAME_BYTES_MAX);
    let frame = loop {
        if wrong_port::is_http(buffer) {
            return Err(DialError::Http(wrong_port::data_port(stream, buffer).await));
        }
        match decoder.next(buffer) {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            Err(error) => return Err(garbage(error.to_string())),
        }
        buffer.reserve(READ_BYTES);
        match stream.read_buf(buffer).await {
            Ok(0) => {
                let reason = "the node closed the connection during the handshake";
                return Err(DialError::Network(reason.into()));
            }
            Ok(_) => {}
            Err(error) => return Err(DialError::Network(error.to_string().into())),
        }
    };
    match Response::decode(frame.header.kind, &frame.body) {
        Ok(Response::Welcome(welcome)) => Ok(welcome),
        Ok(Response::Error(reply)) => Err(DialError::Refused(reply)),
        Ok(_) => Err(garbage("unexpected answer to the handshake".to_owned())),
        Err(error) => Err(garbage(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;
    use dynakv_protocol::frame::{Header, put_frame};
    use dynakv_protocol::handshake::Hello;
    use dynakv_protocol::{ClusterId, DirectoryId, ErrorCode, Generation, NodeId, RingVersion};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::connection::dial_any;

    /// Answers every hello with this, or not at all.
    async fn server(answer: Option<Response>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if let Some(answer) = &answer {
                    let mut out = BytesMut::new();
                    put_frame(&mut out, Header::new(answer.kind(), 0), |out| {
                        answer.encode(out)
                    });
                    stream.write_all(&out).await.unwrap();
                }
                kept.push(stream);
            }
        });
        address
    }

    fn welcome() -> Response {
        Response::Welcome(Welcome {
            version: 1,
            node_id: NodeId::new("scripted").unwrap(),
            generation: Generation(1),
            nonce: 1,
            cluster_name: "dynakv".to_owned(),
            cluster_id: ClusterId(7),
            ring_version: RingVersion(1),
            directory_id: DirectoryId(1),
            limits: None,
            may_found: false,
        })
    }

    async fn nobody() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn one_address_that_shakes_hands_is_enough() {
        let (silent, nobody) = (server(None).await, nobody().await);
        let elsewhere = ErrorReply::new(ErrorCode::WrongCluster, "of another cluster");
        let elsewhere = server(Some(Response::Error(elsewhere))).await;
        let good = server(Some(welcome())).await;
        let hello = Hello::client("", None);
        for others in [
            vec![silent],
            vec![nobody],
            vec![elsewhere],
            vec![silent, nobody, elsewhere],
        ] {
            let addresses = [others, vec![good]].concat();
            let dialled = timeout(Duration::from_secs(30), dial_any(&addresses, &hello, 8)).await;
            let connection = dialled.expect("none takes the time of another").unwrap();
            assert_eq!(connection.welcome().cluster_id, ClusterId(7));
        }
        // What a node says tells more than that another address is not taken.
        match dial_any(&[nobody, elsewhere], &hello, 8).await {
            Err(DialError::Refused(reply)) => assert_eq!(reply.code, ErrorCode::WrongCluster),
            other => panic!("{other:?}"),
        }
        match dial_any(&[nobody, nobody], &hello, 8).await {
            Err(DialError::Network(reason)) => {
                assert!(reason.contains(&nobody.to_string()), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }
}
