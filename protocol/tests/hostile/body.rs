//! Bodies put together by hand, and what may come of them.

use bytes::{BufMut, Bytes, BytesMut};
use dynakv_protocol::DecodeError;
use dynakv_protocol::codec::{Wire, put_bytes, put_tag_bytes, put_varint};
use dynakv_protocol::message::{Request, Response};

/// A body under construction.
#[derive(Default)]
pub(crate) struct Body(BytesMut);

impl Body {
    pub(crate) fn new() -> Self {
        Self::default()
    }
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    pub(crate) fn varint(mut self, value: u64) -> Self {
        put_varint(&mut self.0, value);
        self
    }
    pub(crate) fn text(mut self, text: &str) -> Self {
        put_bytes(&mut self.0, text.as_bytes());
        self
    }
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        put_bytes(&mut self.0, bytes);
        self
    }
    pub(crate) fn tag(mut self, tag: u8, field: &[u8]) -> Self {
        put_tag_bytes(&mut self.0, tag, field);
        self
    }
    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.0.put_u16(value);
        self
    }
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.put_u32(value);
        self
    }
    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.put_u64(value);
        self
    }
    pub(crate) fn u128(mut self, value: u128) -> Self {
        self.0.put_u128(value);
        self
    }
    pub(crate) fn dot(self, actor: u64, counter: u64) -> Self {
        self.u64(actor).varint(counter)
    }
    pub(crate) fn done(self) -> Bytes {
        self.0.freeze()
    }
    pub(crate) fn request(self, kind: u8) -> Result<Request, DecodeError> {
        Request::decode(kind, &self.done())
    }
    pub(crate) fn response(self, kind: u8) -> Result<Response, DecodeError> {
        Response::decode(kind, &self.done())
    }
    pub(crate) fn decode<T: Wire>(self) -> Result<T, DecodeError> {
        T::from_bytes(&self.done())
    }
}

pub(crate) fn too_long<T>(decoded: &Result<T, DecodeError>) -> bool {
    matches!(decoded, Err(DecodeError::TooLong { .. }))
}

pub(crate) fn truncated<T>(decoded: &Result<T, DecodeError>) -> bool {
    matches!(decoded, Err(DecodeError::Truncated { .. }))
}

pub(crate) fn invalid<T>(decoded: Result<T, DecodeError>) -> Option<&'static str> {
    match decoded {
        Err(DecodeError::Invalid { what }) => Some(what),
        _ => None,
    }
}
