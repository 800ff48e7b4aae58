//! The operations of a program on its own node, as it begins them.

use bytes::Bytes;
use dynakv_client::{Fetched, Update};

use super::{
    DeleteRequest, GetManyRequest, GetRequest, LocalClient, PutManyRequest, PutRequest,
    UpdateRequest,
};

impl LocalClient {
    /// Reads a key. Await the request, or set its options first: `client.get("k").r(1).await?`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> GetRequest {
        GetRequest::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Stores a value. Await the request, or set its options first:
    /// `client.put("k", "v").context(fetched.context).w(3).await?`.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> PutRequest {
        let key = Bytes::copy_from_slice(key.as_ref());
        PutRequest::new(self.clone(), key, value.into())
    }

    /// Deletes a key; deleting an absent one succeeds. Takes the same options as a put, but for a time
    /// to live.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> DeleteRequest {
        DeleteRequest::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Reads a key, has `change` make one value of what is there, and writes it with the read's
    /// context; again, a bounded number of times, while other writers leave siblings beside it. See
    /// [`UpdateRequest`](dynakv_client::UpdateRequest) for what `change` has to hold to.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use dynakv::{Config, Node, NodeId};
    /// # let directory = tempfile::tempdir()?;
    /// # let config = Config::embedded(NodeId::new("inside")?, directory.path());
    /// # let node = Node::start(config).await?;
    /// # let client = node.client();
    /// use std::collections::BTreeSet;
    /// use dynakv::embedded::Update;
    ///
    /// // A set of letters. The union of all siblings loses nobody's letter.
    /// for letter in [b'a', b'b', b'a'] {
    ///     client
    ///         .update("letters", |found| {
    ///             let siblings = found.siblings.iter();
    ///             let mut letters: BTreeSet<u8> =
    ///                 siblings.flat_map(|sibling| sibling.value.to_vec()).collect();
    ///             letters.insert(letter);
    ///             Update::put(letters.into_iter().collect::<Vec<_>>())
    ///         })
    ///         .await?;
    /// }
    /// let fetched = client.get("letters").await?;
    /// assert_eq!(fetched.value()?.map(|value| &value[..]), Some(&b"ab"[..]));
    /// # node.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub fn update<'f>(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(&Fetched) -> Update + Send + 'f,
    ) -> UpdateRequest<'f> {
        UpdateRequest::new(self.clone(), Bytes::copy_from_slice(key.as_ref()), change)
    }

    /// Reads many keys; each has a result of its own, in the order of the keys. They count as so many
    /// requests of the program, of which the node takes half of its `requests_in_flight_max` in hand.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> GetManyRequest {
        let keys = keys.into_iter();
        let keys = keys.map(|key| Bytes::copy_from_slice(key.as_ref()));
        GetManyRequest::new(self.clone(), keys.collect())
    }

    /// Stores many values, each with a result of its own, in the order of the pairs. The writes are
    /// blind, and two for the same key may take effect in either order. They count as
    /// [`get_many`](Self::get_many) does.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use dynakv::{Config, Node, NodeId};
    /// # let directory = tempfile::tempdir()?;
    /// # let config = Config::embedded(NodeId::new("inside")?, directory.path());
    /// # let node = Node::start(config).await?;
    /// # let client = node.client();
    /// let keys = (0..100).map(|number| format!("key-{number}"));
    /// let puts = client.put_many(keys.clone().map(|key| (key, "value"))).await?;
    /// assert!(puts.iter().all(|put| put.is_ok()));
    ///
    /// for (key, fetched) in keys.clone().zip(client.get_many(keys).await?) {
    ///     assert!(fetched?.value()?.is_some(), "{key} is there");
    /// }
    /// # node.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub fn put_many<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> PutManyRequest {
        let pairs = pairs.into_iter();
        let pairs = pairs.map(|(key, value)| (Bytes::copy_from_slice(key.as_ref()), value.into()));
        PutManyRequest::new(self.clone(), pairs.collect())
    }
}
