//! Numbers, byte strings and slices of numbers, copied as a whole.
//!
//! Through serde a `Vec<u8>` goes element by element, four to eleven times slower than a copy. Where the
//! type of a whole value is a vector, boxed slice or slice of numbers, its memory is copied instead. The
//! bytes are those the format would write: a length in 64 bits, then the elements, lowest byte first. Bytes within a
//! value are written so too; they are read one by one, as nobody knows what its type makes of them, unless the value is a
//! vector of vectors of numbers.
#![expect(unsafe_code, reason = "views of numbers as bytes, after a check of the type")]

use std::any::TypeId;
use std::marker::PhantomData;
use std::mem;
use std::slice;

use crate::{Error, Result};

const _: () = assert!(cfg!(target_endian = "little"), "numbers in memory look as in a message");
const _: () = assert!(size_of::<usize>() == 8, "usize travels as 64 bits");

/// `T`'s identity, with its lifetimes erased.
fn identity<T: ?Sized>() -> TypeId {
    trait Identity {
        fn identity(&self) -> TypeId
        where
            Self: 'static;
    }
    impl<T: ?Sized> Identity for PhantomData<T> {
        fn identity(&self) -> TypeId
        where
            Self: 'static,
        {
            TypeId::of::<T>()
        }
    }
    let phantom = PhantomData::<T>;
    let object: &dyn Identity = &phantom;
    // SAFETY: only the lifetime bound of the trait object changes. The method reads nothing through
    // `self`, and a TypeId does not depend on lifetimes.
    let object = unsafe { mem::transmute::<&dyn Identity, &(dyn Identity + 'static)>(object) };
    object.identity()
}

/// `value` as a `U`, if that is what it is.
fn as_type<T: ?Sized, U: 'static>(value: &T) -> Option<&U> {
    (identity::<T>() == TypeId::of::<U>()).then(|| {
        // SAFETY: T and U are the same type but for lifetimes, and U has none (the types asked for
        // below are 'static through and through). A Sized U makes T Sized, so the pointer is thin.
        unsafe { &*std::ptr::from_ref(value).cast::<U>() }
    })
}

/// `value` as a `[E]`, if that is what it is.
fn as_slice<T: ?Sized, E: 'static>(value: &T) -> Option<&[E]> {
    (identity::<T>() == TypeId::of::<[E]>()).then(|| {
        let len = mem::size_of_val(value) / size_of::<E>();
        let start = std::ptr::from_ref(value).cast::<E>();
        // SAFETY: T is [E], so its address is that of the first of as many elements.
        unsafe { slice::from_raw_parts(start, len) }
    })
}

/// The bytes that `elements` are, if they are a borrowed vector or slice of bytes.
#[inline]
pub(super) fn bytes<T>(elements: &T) -> Option<&[u8]> {
    let start = std::ptr::from_ref(elements);
    if identity::<T>() == TypeId::of::<&'static Vec<u8>>() {
        // SAFETY: T is a reference to such a vector; what is lent lives no longer than `elements`.
        let bytes: &Vec<u8> = unsafe { *start.cast::<&Vec<u8>>() };
        Some(bytes)
    } else if identity::<T>() == TypeId::of::<&'static [u8]>() {
        // SAFETY: as above, T is a reference to a slice.
        Some(unsafe { *start.cast::<&[u8]>() })
    } else {
        None
    }
}

fn append<E: 'static>(numbers: &[E], bytes: &mut Vec<u8>) {
    // SAFETY: called for numbers only, which have no padding: each byte is initialised.
    let raw =
        unsafe { slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), mem::size_of_val(numbers)) };
    bytes.reserve(8 + raw.len());
    bytes.extend_from_slice(&(numbers.len() as u64).to_le_bytes());
    bytes.extend_from_slice(raw);
}

fn encode_as<T: ?Sized, E: 'static>(value: &T, bytes: &mut Vec<u8>) -> bool {
    let numbers = as_type::<T, Vec<E>>(value)
        .map(Vec::as_slice)
        .or_else(|| as_type::<T, Box<[E]>>(value).map(|boxed| &**boxed))
        .or_else(|| as_slice::<T, E>(value));
    numbers.map(|numbers| append(numbers, bytes)).is_some()
}

fn decode_as<T, E: Copy + Default + 'static>(bytes: &[u8]) -> Option<Result<(T, usize)>> {
    if identity::<T>() != TypeId::of::<Vec<E>>() {
        return None;
    }
    let read = || {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let size = len.checked_mul(size_of::<E>())?;
        let raw = rest.get(..size)?;
        let mut numbers = Vec::<E>::with_capacity(len);
        // SAFETY: the vector has room for len elements, which are size bytes; raw has as many; a new
        // allocation overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(raw.as_ptr(), numbers.as_mut_ptr().cast(), size) };
        // SAFETY: the first len elements were just written, and any bits are a number.
        unsafe { numbers.set_len(len) };
        Some((numbers, 8 + size))
    };
    Some(read().ok_or_else(ends_early).map(|(numbers, used)| {
        let numbers = mem::ManuallyDrop::new(numbers);
        // SAFETY: T is Vec<E>, checked above; the original is never dropped.
        (unsafe { mem::transmute_copy::<Vec<E>, T>(&numbers) }, used)
    }))
}

/// A vector of vectors of numbers, as the items of a chunk are.
fn decode_nested<T, E: Copy + Default + 'static>(bytes: &[u8]) -> Option<Result<(T, usize)>> {
    if identity::<T>() != TypeId::of::<Vec<Vec<E>>>() {
        return None;
    }
    let read = || {
        let (len, mut rest) = bytes.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        // Each has a length of its own: room is made for no more than there may be.
        let mut vectors = Vec::<Vec<E>>::with_capacity(len.min(rest.len() / 8));
        for _ in 0..len {
            let (vector, used) = decode_as::<Vec<E>, E>(rest)?.ok()?;
            vectors.push(vector);
            rest = &rest[used..];
        }
        Some((vectors, bytes.len() - rest.len()))
    };
    Some(read().ok_or_else(ends_early).map(|(vectors, used)| {
        let vectors = mem::ManuallyDrop::new(vectors);
        // SAFETY: T is Vec<Vec<E>>, checked above; the original is never dropped.
        (unsafe { mem::transmute_copy::<Vec<Vec<E>>, T>(&vectors) }, used)
    }))
}

fn ends_early() -> Error {
    Error::Decode("it ends before its last element".to_string())
}

/// Appends the elements of an encoded vector to `numbers`; gives its length in bytes.
fn append_as<T, E: Copy + 'static>(bytes: &[u8], numbers: &mut Vec<T>) -> Option<Result<usize>> {
    if identity::<T>() != TypeId::of::<E>() {
        return None;
    }
    let mut read = || {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let size = len.checked_mul(size_of::<E>())?;
        let raw = rest.get(..size)?;
        numbers.reserve(len);
        let old = numbers.len();
        let end = numbers.spare_capacity_mut().as_mut_ptr();
        // SAFETY: there is room for len more elements, which are size bytes, as T is E; raw has as many, and a
        // vector that is borrowed exclusively overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(raw.as_ptr(), end.cast(), size) };
        // SAFETY: len elements behind the old end were just written, and any bits are a number.
        unsafe { numbers.set_len(old + len) };
        Some(8 + size)
    };
    Some(read().ok_or_else(ends_early))
}

/// A number alone.
#[inline]
fn encode_one<T: ?Sized, E: Copy + 'static>(value: &T, bytes: &mut Vec<u8>) -> bool {
    let Some(number) = as_type::<T, E>(value) else { return false };
    let start = std::ptr::from_ref(number).cast::<u8>();
    // SAFETY: called for numbers only, which have no padding: each byte is initialised.
    bytes.extend_from_slice(unsafe { slice::from_raw_parts(start, size_of::<E>()) });
    true
}

#[inline]
fn decode_one<T, E: Copy + 'static>(bytes: &[u8]) -> Option<Result<(T, usize)>> {
    if identity::<T>() != TypeId::of::<E>() {
        return None;
    }
    let size = size_of::<E>();
    let Some(raw) = bytes.get(..size) else {
        let missing = size - bytes.len();
        return Some(Err(Error::Decode(format!("it ends {missing} bytes too early"))));
    };
    // SAFETY: T is E, checked above, a number, of which any bits are one; raw has as many bytes.
    Some(Ok((unsafe { raw.as_ptr().cast::<T>().read_unaligned() }, size)))
}

macro_rules! numbers {
    ($($type:ty)*) => {
        /// Appends `value` whole, if it is bytes or numbers; says whether it was.
        #[inline]
        pub(super) fn encode<T: ?Sized>(value: &T, bytes: &mut Vec<u8>) -> bool {
            false $(|| encode_one::<T, $type>(value, bytes) || encode_as::<T, $type>(value, bytes))*
        }

        /// A number as its bytes would be, and how many of them, if it is one.
        #[inline]
        pub(super) fn number<T: ?Sized>(value: &T) -> Option<([u8; 16], usize)> {
            $(if let Some(number) = as_type::<T, $type>(value) {
                let (raw, mut bytes) = (number.to_le_bytes(), [0; 16]);
                bytes[..raw.len()].copy_from_slice(&raw);
                return Some((bytes, raw.len()));
            })*
            None
        }

        /// Reads a `T` whole, if it is a vector of bytes or numbers, or of such vectors: the value and its length in bytes.
        #[inline]
        pub(super) fn decode<T>(bytes: &[u8]) -> Result<Option<(T, usize)>> {
            $(if let Some(result) = decode_one::<T, $type>(bytes) {
                return result.map(Some);
            }
            if let Some(result) = decode_as::<T, $type>(bytes) {
                return result.map(Some);
            }
            if let Some(result) = decode_nested::<T, $type>(bytes) {
                return result.map(Some);
            })*
            Ok(None)
        }

        /// Appends the elements of an encoded vector, if they are numbers; gives its length in bytes.
        #[inline]
        pub(super) fn append_to<T>(bytes: &[u8], numbers: &mut Vec<T>) -> Result<Option<usize>> {
            $(if let Some(result) = append_as::<T, $type>(bytes, numbers) {
                return result.map(Some);
            })*
            Ok(None)
        }
    };
}

numbers! { u8 i8 u16 i16 u32 i32 u64 i64 u128 i128 usize isize f32 f64 }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_and_whole_vectors_of_them_are_direct() {
        let mut bytes = Vec::new();
        assert!(encode(&7_u8, &mut bytes));
        assert!(encode(&7.5_f64, &mut bytes));
        assert!(encode(&vec![1_u8], &mut bytes));
        assert!(encode(&[1_i32, 2][..], &mut bytes));
        assert!(encode(&vec![1.0_f64].into_boxed_slice(), &mut bytes));
        assert!(!encode(&vec![true], &mut bytes));
        assert!(!encode(&vec!['c'], &mut bytes));
        assert!(!encode(&Some(vec![1_u8]), &mut bytes));
        assert!(!encode("text", &mut bytes));
        assert!(!encode(&Some(7_u8), &mut bytes));
        assert!(!encode(&(7_u8,), &mut bytes));
    }

    #[test]
    fn vectors_of_vectors_of_numbers_come_back_or_are_told_to_end_early() {
        let all = vec![vec![1.5_f64, 2.0], vec![], vec![3.0]];
        let mut message = crate::encode(&(all.clone(),)).unwrap().bytes().to_vec();
        message.push(7);
        let (read, used) = decode::<Vec<Vec<f64>>>(&message).unwrap().unwrap();
        assert_eq!((read, used), (all, message.len() - 1));
        for end in 0..used {
            assert!(decode::<Vec<Vec<f64>>>(&message[..end]).is_err(), "{end}");
        }
        // It says that it is longer than anything could be.
        message[..8].fill(0xFF);
        assert!(decode::<Vec<Vec<f64>>>(&message).is_err());
        assert!(decode::<Vec<Vec<bool>>>(&message).unwrap().is_none());
    }

    #[test]
    fn bytes_within_a_value_look_as_their_elements_would() {
        let message = crate::encode(&("text", vec![1_u8, 2, 3], Some(&[4_u8, 5][..]))).unwrap();
        let mut expected = Vec::new();
        for part in ["text".as_bytes(), &[1, 2, 3], &[4, 5]] {
            if part == [4, 5] {
                expected.push(1);
            }
            expected.extend_from_slice(&(part.len() as u64).to_le_bytes());
            expected.extend_from_slice(part);
        }
        assert_eq!(message.bytes(), expected);
        let (_, bytes, more): (String, Vec<u8>, Option<Vec<u8>>) = crate::decode(message).unwrap();
        assert_eq!((bytes, more), (vec![1, 2, 3], Some(vec![4, 5])));

        let none = 7_u8;
        assert!(super::bytes(&&none).is_none() && super::bytes(&&vec![1_i8]).is_none());
        assert!(super::bytes(&vec![1_u8]).is_none());
    }

    #[test]
    fn a_type_with_lifetimes_is_never_taken_for_another() {
        fn check(text: &str) {
            let mut bytes = Vec::new();
            assert!(!encode(&vec![text], &mut bytes));
            assert!(!encode(&text, &mut bytes));
        }
        check(&String::from("local"));
    }
}
