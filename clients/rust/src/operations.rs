//! The operations of a client, as its user begins them.

use bytes::Bytes;

use crate::answer::Fetched;
use crate::builder::Builder;
use crate::client::Client;
use crate::many::{GetManyRequest, PutManyRequest};
use crate::request::{DeleteRequest, GetRequest, PutRequest};
use crate::update::{Update, UpdateRequest};

impl Client {
    /// Begins a client; give it at least one seed.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Reads a key. Await the request, or set its options first:
    /// `client.get("k").r(1).await?`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> GetRequest {
        GetRequest::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Stores a value. Await the request, or set its options first:
    /// `client.put("k", "v").context(fetched.context).w(3).await?`.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> PutRequest {
        let key = Bytes::copy_from_slice(key.as_ref());
        PutRequest::new(self.clone(), key, value.into())
    }

    /// Deletes a key; deleting an absent one succeeds. Takes the same options as a put, but for a
    /// time to live.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> DeleteRequest {
        DeleteRequest::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Reads a key, has `change` make one value of what is there, and writes it with the read's
    /// context; again, a bounded number of times, while other writers leave siblings beside it. See
    /// [`UpdateRequest`] for what `change` has to hold to.
    ///
    /// ```no_run
    /// # async fn example(client: dynakv_client::Client) -> Result<(), dynakv_client::Error> {
    /// use std::collections::BTreeSet;
    /// use dynakv_client::Update;
    ///
    /// // A set of words, one a line. The union of all siblings loses nobody's word.
    /// let updated = client
    ///     .update("words", |found| {
    ///         let mut words: BTreeSet<String> = found
    ///             .siblings
    ///             .iter()
    ///             .flat_map(|sibling| String::from_utf8_lossy(&sibling.value).into_owned()
    ///                 .lines().map(str::to_owned).collect::<Vec<_>>())
    ///             .collect();
    ///         words.insert("dynamo".to_owned());
    ///         Update::put(words.into_iter().collect::<Vec<_>>().join("\n"))
    ///     })
    ///     .await?;
    /// println!("stored after {} rounds", updated.rounds);
    /// # Ok(()) }
    /// ```
    pub fn update<'f>(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(&Fetched) -> Update + Send + 'f,
    ) -> UpdateRequest<'f> {
        UpdateRequest::new(self.clone(), Bytes::copy_from_slice(key.as_ref()), change)
    }

    /// Reads many keys; each has a result of its own, in the order of the keys.
    ///
    /// ```no_run
    /// # async fn example(client: dynakv_client::Client) -> Result<(), dynakv_client::Error> {
    /// let results = client.get_many(["a", "b", "c"]).await?;
    /// for (key, result) in ["a", "b", "c"].iter().zip(results) {
    ///     match result {
    ///         Ok(fetched) => println!("{key}: {} values", fetched.siblings.len()),
    ///         Err(error) => println!("{key}: {error}"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> GetManyRequest {
        let keys = keys.into_iter();
        let keys = keys.map(|key| Bytes::copy_from_slice(key.as_ref()));
        GetManyRequest::new(self.clone(), keys.collect())
    }

    /// Stores many values, each with a result of its own, in the order of the pairs. The writes are
    /// blind, and two for the same key may take effect in either order.
    ///
    /// ```no_run
    /// # async fn example(client: dynakv_client::Client) -> Result<(), dynakv_client::Error> {
    /// let pairs = (0..100_000).map(|number| (format!("key-{number}"), "value"));
    /// let results = client.put_many(pairs).timeout(std::time::Duration::from_secs(30)).await?;
    /// let failed = results.iter().filter(|result| result.is_err()).count();
    /// println!("{failed} of {} failed", results.len());
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
