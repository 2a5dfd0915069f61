//! Elements of dicts, lists and the like on their way to the server and back.
//!
//! Within one program an element travels as it is: the server knows its type. For another program it travels as a
//! [`Parcel`], its encoding with a length, because the server may have no such type and keeps parcels then. Which of
//! the two it is, the call says; it holds for all elements of the call, and so is noted for the thread meanwhile.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::hash::{Hash, Hasher};

use mp_core::{Decoder, Encoder, Fd, Message};
use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Result;
use crate::dict::Element;

/// A value as it travels, with its descriptors: the server keeps it without knowing what it is.
///
/// Two are equal whose bytes are, which is how keys of types that the server does not know are compared.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Parcel(Bytes, Vec<Fd>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a value")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(Whole)
    }
}

impl Parcel {
    pub(crate) fn new<T: Serialize + ?Sized>(value: &T) -> mp_core::Result<Self> {
        let (bytes, fds) = mp_core::encode(value)?.into_parts();
        Ok(Self(Bytes(bytes), fds.into_iter().map(Fd::from).collect()))
    }

    pub(crate) fn open<T: DeserializeOwned>(self) -> mp_core::Result<T> {
        let fds = self.1.into_iter().map(Fd::into_owned).collect();
        mp_core::decode(Message::new(self.0.0, fds))
    }
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Parcel {}

impl Hash for Parcel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

thread_local! {
    /// Whether the elements of the call under way are parcels.
    static WRAPPED: Cell<bool> = const { Cell::new(false) };
}

/// Puts back what was there before, also after a panic.
struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        WRAPPED.set(self.0);
    }
}

/// Runs `work`, which reads or writes elements as parcels or as they are.
pub(crate) fn wrapped<R>(yes: bool, work: impl FnOnce() -> R) -> R {
    let _restore = Restore(WRAPPED.replace(yes));
    work()
}

pub(crate) fn is_wrapped() -> bool {
    WRAPPED.get()
}

/// Whether `T` travels as a parcel in a call by another program: all but parcels do.
fn wraps<T: 'static>() -> bool {
    TypeId::of::<T>() != TypeId::of::<Parcel>() && is_wrapped()
}

/// An element that is written.
pub(crate) struct Put<'a, T>(pub(crate) &'a T);

impl<T: Element> Serialize for Put<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if wraps::<T>() {
            Parcel::new(self.0).map_err(S::Error::custom)?.serialize(serializer)
        } else {
            self.0.serialize(serializer)
        }
    }
}

/// An element that is read.
pub(crate) struct Got<T>(pub(crate) T);

impl<'de, T: Element> Deserialize<'de> for Got<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if wraps::<T>() {
            let parcel = Parcel::deserialize(deserializer)?;
            parcel.open().map(Self).map_err(D::Error::custom)
        } else {
            T::deserialize(deserializer).map(Self)
        }
    }
}

/// The bytes that tell an element from others where its type is not known.
pub(crate) fn encoding<T: Element>(element: &T) -> mp_core::Result<Cow<'_, [u8]>> {
    match (element as &dyn Any).downcast_ref::<Parcel>() {
        Some(parcel) => Ok(Cow::Borrowed(&parcel.0.0)),
        None => Ok(Cow::Owned(mp_core::encode(element)?.into_parts().0)),
    }
}

/// Writes one element.
pub(crate) fn put<'a, T: Element>(
    to: &'a mut Encoder,
    element: &T,
) -> mp_core::Result<&'a mut Encoder> {
    if wraps::<T>() { to.put(&Put(element)) } else { to.put(element) }
}

/// Reads one element.
pub(crate) fn get<T: Element>(from: &mut Decoder<'_>) -> mp_core::Result<T> {
    if wraps::<T>() { from.get::<Got<T>>().map(|got| got.0) } else { from.get() }
}

/// Writes an element, or that there is none, as an [`Option`] of it is written: numbers by one copy.
pub(crate) fn put_option<T: Element>(to: &mut Encoder, element: Option<&T>) -> mp_core::Result<()> {
    match element {
        None => to.put(&0_u8).map(drop),
        Some(element) => put(to.put(&1_u8)?, element).map(drop),
    }
}

/// Reads what [`put_option`] wrote.
pub(crate) fn get_option<T: Element>(from: &mut Decoder<'_>) -> mp_core::Result<Option<T>> {
    match from.get::<u8>()? {
        0 => Ok(None),
        1 => get(from).map(Some),
        other => Err(mp_core::Error::Decode(format!("{other} is neither a value nor none"))),
    }
}

/// Writes many elements: numbers by one copy.
pub(crate) fn put_all<T: Element>(to: &mut Encoder, elements: &[T]) -> mp_core::Result<()> {
    if wraps::<T>() {
        to.put(&elements.iter().map(Put).collect::<Vec<_>>()).map(drop)
    } else {
        to.put(elements).map(drop)
    }
}

/// Reads many elements and appends them.
pub(crate) fn append_all<T: Element>(
    from: &mut Decoder<'_>,
    elements: &mut Vec<T>,
) -> mp_core::Result<()> {
    if wraps::<T>() {
        elements.extend(from.get::<Vec<Got<T>>>()?.into_iter().map(|got| got.0));
        Ok(())
    } else {
        from.append_to(elements)
    }
}

/// Reads many elements.
pub(crate) fn get_all<T: Element>(from: &mut Decoder<'_>) -> mp_core::Result<Vec<T>> {
    let mut elements = Vec::new();
    append_all(from, &mut elements)?;
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trip(yes: bool, rows: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
        let message = wrapped(yes, || {
            let mut to = Encoder::new();
            for (key, value) in rows {
                put(&mut to, key).unwrap();
                put_all(&mut to, value).unwrap();
            }
            to.finish()
        });
        let (bytes, fds) = message.into_parts();
        wrapped(yes, || {
            let mut from = Decoder::new(&bytes, fds);
            let back = rows.iter().map(|_| (get(&mut from).unwrap(), get_all(&mut from).unwrap()));
            let back = back.collect();
            from.finish().unwrap();
            back
        })
    }

    proptest! {
        #[test]
        fn elements_come_back_wrapped_or_not(rows: Vec<(String, Vec<u8>)>) {
            prop_assert_eq!(&trip(true, &rows), &rows);
            prop_assert_eq!(&trip(false, &rows), &rows);
        }
    }

    #[test]
    fn who_does_not_know_the_type_reads_the_same_as_a_parcel() {
        let message = wrapped(true, || {
            let mut to = Encoder::new();
            put(&mut to, &"key".to_string()).unwrap();
            to.finish()
        });
        let parcel: Parcel = mp_core::decode(message).unwrap();
        assert_eq!(parcel, Parcel::new("key").unwrap());
        assert_ne!(parcel, Parcel::new("another").unwrap());
        // And gives it back as it came.
        let again = wrapped(true, || mp_core::encode(&Put(&parcel)).unwrap());
        let key: Got<String> = wrapped(true, || mp_core::decode(again).unwrap());
        assert_eq!(key.0, "key");
    }

    #[test]
    fn a_panic_ends_it_too() {
        let _ = std::panic::catch_unwind(|| wrapped(true, || panic!("on purpose")));
        assert!(!is_wrapped());
    }
}
