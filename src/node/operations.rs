//! The operations of [`LocalClient`](crate::embedded::LocalClient), on the node itself.

use bytes::Bytes;

use super::Node;
use crate::embedded::{DeleteRequest, GetRequest, PutRequest};

impl Node {
    /// Reads a key: see [`LocalClient::get`](crate::embedded::LocalClient::get).
    pub fn get(&self, key: impl AsRef<[u8]>) -> GetRequest {
        self.client().get(key)
    }

    /// Stores a value: see [`LocalClient::put`](crate::embedded::LocalClient::put).
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> PutRequest {
        self.client().put(key, value)
    }

    /// The same as [`put`](Self::put), by the name that it has in other embedded stores.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> PutRequest {
        self.client().put(key, value)
    }

    /// Deletes a key: see [`LocalClient::delete`](crate::embedded::LocalClient::delete).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> DeleteRequest {
        self.client().delete(key)
    }
}
