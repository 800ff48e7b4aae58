//! What a machine keeps for others, read off its disk beside the node that runs there.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dynakv::engine::anti_entropy::handoff::Hint;
use dynakv_protocol::codec::Wire;
use dynakv_storage::{AppendFile, HintLog, StoreError};

/// What is kept, by key.
pub(crate) type Kept = Rc<[(String, Hint)]>;

/// All hints in the bytes of a file, by key. Opening may cut and write anew, so it is done to a copy.
pub(crate) fn hints_in(bytes: &Bytes) -> Kept {
    let file = Arc::new(Copied(Mutex::new(bytes.to_vec())));
    let (log, _) = HintLog::open(file).expect("a copy can be opened");
    let mut hints = Vec::new();
    let read = log.for_each(|key, document| {
        let hint = Hint::from_bytes(&document?).expect("what a node kept can be decoded");
        hints.push((String::from_utf8_lossy(key).into_owned(), hint));
        Ok(())
    });
    read.expect("nothing damages hints here");
    hints.into()
}

/// The bytes of a file, to do with as one likes.
struct Copied(Mutex<Vec<u8>>);

impl Copied {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppendFile for Copied {
    fn path(&self) -> PathBuf {
        PathBuf::from("copied hints")
    }

    fn len(&self) -> Result<u64, StoreError> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, at: u64, length: usize) -> Result<Bytes, StoreError> {
        let bytes = self.bytes();
        let from = (at as usize).min(bytes.len());
        let to = from.saturating_add(length).min(bytes.len());
        Ok(Bytes::copy_from_slice(&bytes[from..to]))
    }

    fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn truncate(&self, length: u64) -> Result<(), StoreError> {
        self.bytes().truncate(length as usize);
        Ok(())
    }

    fn replace(
        &self,
        pieces: &mut dyn FnMut() -> Result<Option<Bytes>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut content = Vec::new();
        while let Some(piece) = pieces()? {
            content.extend_from_slice(&piece);
        }
        *self.bytes() = content;
        Ok(())
    }
}
