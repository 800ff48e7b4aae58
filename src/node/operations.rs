//! The operations of [`LocalClient`](crate::embedded::LocalClient), on the node itself.

use bytes::Bytes;

use super::Node;
use crate::embedded::{
    DeleteRequest, Fetched, GetManyRequest, GetRequest, PutManyRequest, PutRequest, Update,
    UpdateRequest,
};

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

    /// Reads, merges and writes a key: see [`LocalClient::update`](crate::embedded::LocalClient::update).
    pub fn update<'f>(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(&Fetched) -> Update + Send + 'f,
    ) -> UpdateRequest<'f> {
        self.client().update(key, change)
    }

    /// Reads many keys: see [`LocalClient::get_many`](crate::embedded::LocalClient::get_many).
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> GetManyRequest {
        self.client().get_many(keys)
    }

    /// Stores many values: see [`LocalClient::put_many`](crate::embedded::LocalClient::put_many).
    pub fn put_many<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> PutManyRequest {
        self.client().put_many(pairs)
    }
}
