//! A handle's side of things: the segment, and where in it the object lies.
#![expect(unsafe_code, reason = "a pointer into a mapping that is kept")]

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mp_core::{Atomic, Plain, Segment};
use serde::{Deserializer, Serialize, Serializer};
use static_assertions::const_assert_eq;

use crate::{Error, Result};

/// What each type's segments are of; part of the check when one is received.
pub(crate) mod kind {
    pub(crate) const LOCK: u64 = 0x4D50_5301;
    pub(crate) const RLOCK: u64 = 0x4D50_5302;
    pub(crate) const SEMAPHORE: u64 = 0x4D50_5303;
    pub(crate) const BOUNDED_SEMAPHORE: u64 = 0x4D50_5304;
    pub(crate) const CONDITION: u64 = 0x4D50_5305;
    pub(crate) const EVENT: u64 = 0x4D50_5306;
    pub(crate) const BARRIER: u64 = 0x4D50_5307;
    pub(crate) const MUTEX: u64 = 0x4D50_5308;
    pub(crate) const RWLOCK: u64 = 0x4D50_5309;
}

/// What all segments of this crate have behind the segment's own header.
#[repr(C)]
struct Prefix {
    /// Which pid and time namespace the numbers and start times in owners' names belong to; 0 where it
    /// is not known. Written once, by the creator, before anybody else has the segment.
    namespaces: AtomicU64,
    reserved: [AtomicU64; 7],
}

const_assert_eq!(size_of::<Prefix>(), 64);
// SAFETY: repr(C) atomics without padding.
unsafe impl Plain for Prefix {}
// SAFETY: atomics only.
unsafe impl Atomic for Prefix {}

/// Where a type's own words begin: on a cache line of their own.
pub(crate) const START: usize = Segment::HEADER + size_of::<Prefix>();

/// A type whose words lie at [`START`] of a segment.
///
/// # Safety
///
/// As for [`Atomic`]: `repr(C)`, and every byte belongs to an atomic integer.
pub(crate) unsafe trait Layout: Sized + Send + Sync + 'static {}

/// The words `L` in a shared segment. A clone is the same object.
pub(crate) struct View<L> {
    words: NonNull<L>,
    segment: Arc<Segment>,
}

/// As an [`Atomic`] for [`Segment::at`].
#[repr(transparent)]
struct Words<L>(L);
// SAFETY: by the promise of Layout.
unsafe impl<L: Layout> Plain for Words<L> {}
// SAFETY: by the promise of Layout.
unsafe impl<L: Layout> Atomic for Words<L> {}

impl<L: Layout> View<L> {
    /// Makes a segment for `L` and `more` bytes behind it; all zero.
    pub(crate) fn create(name: &str, kind: u64, more: usize) -> Result<Self> {
        let size = (START + size_of::<L>())
            .checked_add(more)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let segment = Segment::create(name, kind, size)?;
        // Relaxed: how it gets to others, a message or a fork, orders it.
        segment.at::<Prefix>(Segment::HEADER)?.namespaces.store(namespaces(), Ordering::Relaxed);
        Self::at(Arc::new(segment), START)
    }

    fn open(segment: Segment) -> Result<Self> {
        let theirs = segment.at::<Prefix>(Segment::HEADER)?.namespaces.load(Ordering::Relaxed);
        let ours = namespaces();
        if theirs != 0 && ours != 0 && theirs != ours {
            return Err(Error::OtherNamespace);
        }
        Self::at(Arc::new(segment), START)
    }

    /// The words `L` at `offset` of a segment.
    pub(crate) fn at(segment: Arc<Segment>, offset: usize) -> Result<Self> {
        let words = NonNull::from(segment.at::<Words<L>>(offset)?).cast::<L>();
        Ok(Self { words, segment })
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Opens what [`serialize`](Self::serialize) wrote.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
        kind: u64,
    ) -> Result<Self, D::Error> {
        let fd = mp_core::fd::deserialize(deserializer)?;
        Segment::open(fd, kind)
            .map_err(Error::from)
            .and_then(Self::open)
            .map_err(mp_core::fd::failed)
    }
}

impl<L> Serialize for View<L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        mp_core::fd::serialize(self.segment.as_fd(), serializer)
    }
}

impl<L> Clone for View<L> {
    fn clone(&self) -> Self {
        Self { words: self.words, segment: Arc::clone(&self.segment) }
    }
}

impl<L> Deref for View<L> {
    type Target = L;

    #[inline]
    fn deref(&self) -> &L {
        // SAFETY: the words were checked to lie within the segment, aligned, when the view was made;
        // the segment is mapped for as long as self.segment; an L is atomics throughout.
        unsafe { self.words.as_ref() }
    }
}

impl<L> fmt::Debug for View<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("size", &self.segment.size()).finish()
    }
}

// SAFETY: a shared reference to atomics, and an Arc of a Sync segment.
unsafe impl<L: Layout> Send for View<L> {}
// SAFETY: as above.
unsafe impl<L: Layout> Sync for View<L> {}

/// This process's pid and time namespaces as one number; 0 where they cannot be read.
pub(crate) fn namespaces() -> u64 {
    let inode =
        |name| std::fs::metadata(format!("/proc/self/ns/{name}")).map_or(0, |data| data.ino());
    inode("pid") | inode("time") << 32
}

/// Implements what every handle has: Clone (the same object), serde by descriptor.
macro_rules! passable {
    ($type:ident, $kind:expr) => {
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::std::result::Result<S::Ok, S::Error> {
                self.view.serialize(serializer)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::std::result::Result<Self, D::Error> {
                crate::view::View::deserialize(deserializer, $kind).map(|view| Self { view })
            }
        }
    };
}
pub(crate) use passable;
