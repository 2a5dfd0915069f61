//! Words and the data they guard, in one segment.
#![expect(unsafe_code, reason = "data in shared memory")]

use std::marker::PhantomData;
use std::ptr::NonNull;

use mp_core::Plain;
use serde::{Deserializer, Serialize, Serializer};

use crate::Result;
use crate::view::{Layout, START, View};

/// The words `W` and, behind them, a `T`.
pub(crate) struct Place<W, T> {
    view: View<W>,
    data: NonNull<T>,
    of: PhantomData<T>,
}

// SAFETY: what is reached through it is reached under the lock its words are; so it is as sendable as a
// mutex, which needs its T to be Send.
unsafe impl<W: Layout, T: Plain + Send> Send for Place<W, T> {}
// SAFETY: as above; a &T is given to several threads at a time by readers' guards only, and those ask for
// T: Sync themselves.
unsafe impl<W: Layout, T: Plain + Send> Sync for Place<W, T> {}

impl<W: Layout, T: Plain> Place<W, T> {
    /// Where the data begins: on a cache line of its own, and aligned.
    const OFFSET: usize = (START + size_of::<W>()).next_multiple_of(if align_of::<T>() > 64 {
        align_of::<T>()
    } else {
        64
    });

    /// Size and alignment are part of what is checked when it is received.
    fn kind(kind: u64) -> u64 {
        kind ^ (size_of::<T>() as u64) << 32 ^ (align_of::<T>() as u64) << 16
    }

    pub(crate) fn create(name: &str, kind: u64, value: T) -> Result<Self> {
        let more = Self::OFFSET - START + size_of::<T>();
        let place = Self::at(View::create(name, Self::kind(kind), more)?)?;
        const { assert!(align_of::<T>() <= 4096, "a segment is aligned to a page") };
        // SAFETY: at() checked that a T fits there; nobody else has the segment yet.
        unsafe { place.data.write(value) };
        Ok(place)
    }

    fn at(view: View<W>) -> Result<Self> {
        let data = view.segment().address(Self::OFFSET, size_of::<T>())?.cast::<T>();
        Ok(Self { view, data, of: PhantomData })
    }

    #[inline]
    pub(crate) fn words(&self) -> &W {
        &self.view
    }

    /// Where the data lies: a T, aligned, and mapped for as long as this lives. Any bits are a T.
    #[inline]
    pub(crate) fn data(&self) -> NonNull<T> {
        self.data
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
        kind: u64,
    ) -> Result<Self, D::Error> {
        let view = View::deserialize(deserializer, Self::kind(kind))?;
        Self::at(view).map_err(mp_core::fd::failed)
    }
}

impl<W: Layout, T: Plain> Serialize for Place<W, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.view.serialize(serializer)
    }
}

impl<W: Layout, T: Plain> Clone for Place<W, T> {
    fn clone(&self) -> Self {
        Self { view: self.view.clone(), data: self.data, of: PhantomData }
    }
}
