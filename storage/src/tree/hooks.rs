//! Where tests take a hand in what a tree does.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// All of them. By default nothing happens.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) fuse: Fuse,
    pub(super) pause: Pause,
    /// How often all blocks of a segment were looked at.
    pub(super) looks: AtomicUsize,
}

/// Lets the process "die" after so many changes.
pub(super) struct Fuse(pub(super) AtomicUsize);

impl Default for Fuse {
    fn default() -> Self {
        Self(usize::MAX.into())
    }
}

impl Fuse {
    pub(super) fn burn(&self) -> sled::Result<()> {
        let one_less = |left: usize| match left {
            usize::MAX => Some(left),
            _ => left.checked_sub(1),
        };
        match self.0.fetch_update(Relaxed, Relaxed, one_less) {
            Ok(_) => Ok(()),
            Err(_) => Err(sled::Error::ReportableBug("the fuse has burnt".to_owned())),
        }
    }
}

/// Lets something happen between two steps of a reader.
#[derive(Default)]
pub(super) struct Pause(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Pause {
    pub(super) fn once(&self, happens: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(happens));
    }

    pub(super) fn come_by(&self) {
        let happens = self.0.lock().unwrap().take();
        if let Some(happens) = happens {
            happens();
        }
    }
}
