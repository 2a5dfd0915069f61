//! Values to messages and back.
//!
//! `format` is the only module that names the format's crate. `bounded` stands between it and the
//! receiving type and keeps hostile bytes from costing more than they are long. `direct` copies byte
//! strings and slices of numbers whole.

mod bounded;
mod direct;
mod format;
mod levels;

use std::io;
use std::os::fd::OwnedFd;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fd::{Slot, Table, again, note, with_table};
use crate::{Error, Result};

/// What travels between processes: bytes, and the descriptors they refer to.
#[derive(Debug, Default)]
pub struct Message {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Message {
    /// Puts together what was received.
    #[must_use]
    pub fn new(bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Self {
        Self { bytes, fds }
    }

    /// The bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The descriptors, in the order of their indexes.
    #[must_use]
    #[inline]
    pub fn fds(&self) -> &[OwnedFd] {
        &self.fds
    }

    /// Takes the message apart.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Vec<OwnedFd>) {
        (self.bytes, self.fds)
    }

    #[cfg(test)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    #[cfg(test)]
    pub(crate) fn fds_mut(&mut self) -> &mut Vec<OwnedFd> {
        &mut self.fds
    }
}

/// Encodes `value` into a message.
///
/// `Vec<u8>`, and vectors and slices of numbers, are copied as a whole.
///
/// # Errors
///
/// [`Error::Encode`] where the value's `Serialize` refuses, where it holds a sequence of unknown length, or where
/// [`decode`] would refuse: it is nested deeper than 256 levels (a list of boxes takes two for each: keep it in a `Vec`),
/// or more than 2^20 of its elements have no bytes;
/// [`Error::Io`] where a descriptor cannot be duplicated (`EMFILE`).
///
/// # Example
///
/// ```
/// # fn main() -> mp_core::Result<()> {
/// let message = mp_core::encode(&("yuan", 12, vec![1.5, 2.5]))?;
/// let back: (String, i32, Vec<f64>) = mp_core::decode(message)?;
/// assert_eq!(back, ("yuan".to_string(), 12, vec![1.5, 2.5]));
/// # Ok(())
/// # }
/// ```
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Message> {
    let mut encoder = Encoder::new();
    encoder.put(value)?;
    Ok(encoder.finish())
}

/// The bytes that a number is encoded as, and how many of the sixteen they are; `None` for any other value.
///
/// For those who send millions of numbers, each a message: it needs no storage, and no more than a few instructions.
///
/// # Example
///
/// ```
/// let (bytes, len) = mp_core::encode_number(&7_u32).expect("it is a number");
/// assert_eq!(bytes[..len], *mp_core::encode(&7_u32).unwrap().bytes());
/// assert!(mp_core::encode_number("seven").is_none());
/// ```
#[inline]
#[must_use]
pub fn encode_number<T: ?Sized>(value: &T) -> Option<([u8; 16], usize)> {
    direct::number(value)
}

/// Decodes a message that is one value of type `T`.
///
/// Costs no more memory than a small multiple of the message's length, whatever its bytes say. Elements that
/// have no bytes in it (units, structs whose fields are all skipped) come on top, 2^20 of them at most.
///
/// # Errors
///
/// [`Error::Decode`] where the bytes are no `T`, where bytes or descriptors are left over, where values
/// are nested deeper than 256 levels, or where a length promises more elements than the message can hold.
/// [`Error::Io`] where descriptors or memory are short for a handle.
pub fn decode<T: DeserializeOwned>(message: Message) -> Result<T> {
    let mut decoder = Decoder::new(&message.bytes, message.fds);
    let value = decoder.get()?;
    decoder.finish()?;
    Ok(value)
}

/// Encodes several values, one after the other, into one message.
///
/// [`Decoder`] reads them back in the same order. Each value alone can take the direct path of
/// [`encode`], which a tuple of them cannot.
///
/// # Example
///
/// ```
/// use mp_core::{Decoder, Encoder};
///
/// # fn main() -> mp_core::Result<()> {
/// let mut encoder = Encoder::new();
/// encoder.put(&7_u8)?.put(&vec![1.0_f32; 1000])?;
/// let (bytes, fds) = encoder.finish().into_parts();
///
/// let mut decoder = Decoder::new(&bytes, fds);
/// assert_eq!(decoder.get::<u8>()?, 7);
/// assert_eq!(decoder.get::<Vec<f32>>()?.len(), 1000);
/// decoder.finish()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Encoder {
    message: Message,
}

impl Encoder {
    /// Starts an empty message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a message in the storage of an old one, whose content is dropped.
    #[must_use]
    #[inline]
    pub fn reuse(mut message: Message) -> Self {
        message.bytes.clear();
        message.fds.clear();
        Self { message }
    }

    /// Appends a value.
    ///
    /// # Errors
    ///
    /// As [`encode`]. After an error the message holds what was put before.
    #[inline]
    pub fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<&mut Self> {
        if direct::encode(value, &mut self.message.bytes) {
            return Ok(self);
        }
        let (len, count) = (self.message.bytes.len(), self.message.fds.len());
        let Message { bytes, fds } = &mut self.message;
        let (result, short) = with_table(Table::encoding(fds), || format::encode(value, bytes));
        match result {
            Ok(()) => Ok(self),
            Err(why) => {
                self.message.bytes.truncate(len);
                self.message.fds.truncate(count);
                Err(short.map_or(Error::Encode(why), is_short))
            }
        }
    }

    /// Drops what was put, to start anew in the same storage.
    #[inline]
    pub fn clear(&mut self) {
        self.message.bytes.clear();
        self.message.fds.clear();
    }

    /// What was put so far.
    #[must_use]
    #[inline]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The finished message.
    #[must_use]
    #[inline]
    pub fn finish(self) -> Message {
        self.message
    }
}

/// It is also why the message is not whole that this one was to be part of.
#[cold]
fn is_short(error: io::Error) -> Error {
    note(again(&error));
    Error::Io(error)
}

/// Decodes several values from one message, in the order they were [put](Encoder::put).
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    fds: Vec<Slot>,
}

impl<'a> Decoder<'a> {
    /// Starts at the first value of `bytes`.
    ///
    /// The bytes must not change meanwhile: copy them out of shared memory first.
    #[must_use]
    #[inline]
    pub fn new(bytes: &'a [u8], fds: Vec<OwnedFd>) -> Self {
        // Seldom are there any.
        let fds =
            if fds.is_empty() { Vec::new() } else { fds.into_iter().map(Slot::Here).collect() };
        Self { rest: bytes, fds }
    }

    /// Reads the next value.
    ///
    /// # Errors
    ///
    /// As [`decode`], but that bytes and descriptors may be left over for the next value.
    #[inline]
    pub fn get<T: DeserializeOwned>(&mut self) -> Result<T> {
        if let Some((value, used)) = direct::decode(self.rest)? {
            self.rest = &self.rest[used..];
            return Ok(value);
        }
        let Self { rest, fds } = self;
        let (result, short) = with_table(Table::decoding(fds), || format::decode(rest));
        let (value, used) = result.map_err(|why| short.map_or(Error::Decode(why), is_short))?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    /// Reads a vector and appends its elements to `elements`: numbers by one copy.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); then `elements` is as before.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_core::{Decoder, encode};
    ///
    /// # fn main() -> mp_core::Result<()> {
    /// let mut squares = vec![1, 4];
    /// let message = encode(&vec![9, 16])?;
    /// Decoder::new(message.bytes(), Vec::new()).append_to(&mut squares)?;
    /// assert_eq!(squares, [1, 4, 9, 16]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn append_to<T: DeserializeOwned>(&mut self, elements: &mut Vec<T>) -> Result<()> {
        match direct::append_to(self.rest, elements)? {
            Some(used) => self.rest = &self.rest[used..],
            None => elements.append(&mut self.get::<Vec<T>>()?),
        }
        Ok(())
    }

    /// How many bytes are left to read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the message.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] where bytes or descriptors are left over.
    #[inline]
    pub fn finish(self) -> Result<()> {
        if !self.rest.is_empty() {
            return Err(Error::Decode(format!("{} bytes are left over", self.rest.len())));
        }
        if self.fds.iter().any(|slot| matches!(slot, Slot::Here(_))) {
            return Err(Error::Decode("descriptors are left over".to_string()));
        }
        Ok(())
    }
}

/// Decodes `bytes` as the type that the first one chooses. A value that comes out has to give the same again.
#[cfg(any(test, fuzzing))]
pub(crate) fn run_on(bytes: &[u8]) {
    use std::collections::{BTreeMap, HashMap, HashSet};

    use serde::Deserialize;

    #[derive(Serialize, Deserialize)]
    enum Shape {
        Unit,
        New(u8),
        Tuple(i16, String),
        Struct { a: Option<Box<Shape>>, b: Vec<(char, bool)> },
    }

    #[derive(Serialize, Deserialize)]
    struct Tree(Vec<Tree>);

    #[derive(Serialize, Deserialize)]
    struct Node(Option<Box<Node>>);

    #[derive(Serialize, Deserialize)]
    struct Skipped {
        #[serde(skip)]
        _cache: u64,
    }

    fn any<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        decode(Message::new(bytes.to_vec(), Vec::new())).ok()
    }

    fn check<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        if let Some(value) = any::<T>(bytes) {
            let message = encode(&value).expect("it came out of a message");
            let again = any::<T>(message.bytes()).expect("it was encoded");
            assert_eq!(encode(&again).expect("as before").bytes(), message.bytes());
        }
    }

    fn append<T: DeserializeOwned + Default + Clone>(bytes: &[u8]) {
        let mut elements = vec![T::default(); 3];
        let mut decoder = Decoder::new(bytes, Vec::new());
        while !decoder.rest.is_empty() {
            let len = elements.len();
            if decoder.append_to(&mut elements).is_err() {
                assert_eq!(elements.len(), len, "all or nothing");
                return;
            }
        }
    }

    let Some((&kind, bytes)) = bytes.split_first() else { return };
    match kind % 20 {
        0 => check::<Shape>(bytes),
        1 => check::<Vec<String>>(bytes),
        2 => check::<BTreeMap<String, Vec<Shape>>>(bytes),
        // In another order when it comes again.
        3 => drop(any::<HashMap<u16, Vec<Option<u8>>>>(bytes)),
        4 => check::<Tree>(bytes),
        5 => check::<Node>(bytes),
        6 => check::<Vec<u64>>(bytes),
        7 => check::<Vec<u8>>(bytes),
        8 => check::<(Vec<f64>, String, Option<(i32, char)>)>(bytes),
        9 => check::<u128>(bytes),
        10 => check::<Box<[Box<str>]>>(bytes),
        11 => check::<Result<(bool, [u16; 3]), std::time::Duration>>(bytes),
        12 => check::<(std::ffi::CString, std::net::SocketAddr, std::path::PathBuf)>(bytes),
        13 => append::<u32>(bytes),
        14 => append::<String>(bytes),
        15 => {
            let (null, files) = (crate::sys::fd::null(), bytes.len() % 3);
            let fds = (0..files).map(|_| null.as_ref().expect("opens").try_clone().expect("room"));
            let message = Message::new(bytes.to_vec(), fds.collect());
            let _ = decode::<(Option<crate::Fd>, Vec<crate::Fd>)>(message);
        }
        16 => check::<Vec<()>>(bytes),
        17 => check::<Vec<Vec<Skipped>>>(bytes),
        18 => drop(any::<HashSet<()>>(bytes)),
        // Of several with one key one is left, which may be too long without the bytes of the others.
        _ => drop(any::<BTreeMap<(), Vec<()>>>(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;
    use std::time::Instant;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        New(u8),
        Tuple(i16, String),
        Struct { a: Option<Box<Shape>>, b: Vec<(char, bool)> },
    }

    fn round_trip<T: Serialize + DeserializeOwned>(value: &T) -> T {
        decode(encode(value).unwrap()).unwrap()
    }

    #[test]
    fn values_of_every_kind_come_back() {
        let value = Shape::Struct {
            a: Some(Box::new(Shape::Tuple(-3, "ü".to_string()))),
            b: vec![('x', true), ('界', false)],
        };
        assert_eq!(round_trip(&value), value);
        assert_eq!(round_trip(&Shape::Unit), Shape::Unit);
        assert_eq!(round_trip(&Shape::New(9)), Shape::New(9));
        let map = BTreeMap::from([("a".to_string(), u128::MAX), (String::new(), 0)]);
        assert_eq!(round_trip(&map), map);
        assert_eq!(round_trip(&(i64::MIN, f32::MAX, ())), (i64::MIN, f32::MAX, ()));
        assert_eq!(round_trip(&Vec::<u8>::new()), Vec::<u8>::new());
        assert_eq!(round_trip(&vec![(); 1000]).len(), 1000);
    }

    #[test]
    fn what_messages_cannot_carry_is_told_with_the_reason() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Skips {
            #[serde(skip_serializing_if = "Option::is_none")]
            limit: Option<u8>,
            kind: u8,
        }
        #[derive(Debug, Serialize, Deserialize)]
        enum Variant {
            Skips {
                #[serde(skip_serializing_if = "Option::is_none")]
                limit: Option<u8>,
            },
        }
        #[derive(Serialize, Deserialize)]
        struct Flat {
            #[serde(flatten)]
            rest: BTreeMap<String, u8>,
        }
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(tag = "type")]
        enum Tagged {
            One { number: u8 },
        }
        let some = round_trip(&Skips { limit: Some(3), kind: 1 });
        assert_eq!((some.limit, some.kind), (Some(3), 1));
        for error in [
            encode(&Skips { limit: None, kind: 1 }).unwrap_err(),
            encode(&Variant::Skips { limit: None }).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains("`limit`") && text.contains("skip_serializing_if"), "{text}");
        }
        let text = encode(&Flat { rest: BTreeMap::new() }).unwrap_err().to_string();
        assert!(text.contains("flatten"), "{text}");
        let tagged = encode(&Tagged::One { number: 1 }).unwrap();
        let text = decode::<Tagged>(tagged).unwrap_err().to_string();
        assert!(text.contains("tag"), "{text}");
        let text = decode::<bool>(encode(&7_u8).unwrap()).unwrap_err().to_string();
        assert!(text.contains("none of this type's"), "{text}");
    }

    #[test]
    fn direct_and_serial_paths_write_the_same_bytes() {
        // A tuple of one has no direct path and no bytes of its own.
        let numbers = vec![1_u64, u64::MAX, 3];
        assert_eq!(encode(&numbers).unwrap().bytes(), encode(&(&numbers,)).unwrap().bytes());
        let floats = vec![1.5_f32, f32::NAN];
        assert_eq!(encode(&floats).unwrap().bytes(), encode(&(&floats,)).unwrap().bytes());
        let bytes = b"bytes".to_vec();
        assert_eq!(encode(&bytes).unwrap().bytes(), encode(&(&bytes,)).unwrap().bytes());
        assert_eq!(encode(&bytes[..]).unwrap().bytes(), encode(&(&bytes,)).unwrap().bytes());
        assert_eq!(decode::<(Vec<u64>,)>(encode(&numbers).unwrap()).unwrap().0, numbers);
        assert_eq!(decode::<Vec<u64>>(encode(&(&numbers,)).unwrap()).unwrap(), numbers);
    }

    #[test]
    fn elements_are_appended_or_nothing_is() {
        let mut numbers = vec![1_u64];
        let message = encode(&vec![2_u64, 3]).unwrap();
        Decoder::new(message.bytes(), Vec::new()).append_to(&mut numbers).unwrap();
        assert_eq!(numbers, [1, 2, 3]);
        for cut in 0..message.bytes().len() {
            let mut decoder = Decoder::new(&message.bytes()[..cut], Vec::new());
            assert!(decoder.append_to(&mut numbers).is_err());
            assert_eq!(numbers, [1, 2, 3]);
        }
        let mut words = vec!["a".to_string()];
        let message = encode(&vec!["b".to_string()]).unwrap();
        Decoder::new(message.bytes(), Vec::new()).append_to(&mut words).unwrap();
        assert_eq!(words, ["a", "b"]);
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let (mut bytes, _) = encode(&1_u32).unwrap().into_parts();
        bytes.push(0);
        let error = decode::<u32>(Message::new(bytes, Vec::new())).unwrap_err();
        assert_eq!(error.to_string(), "cannot decode the message: 1 bytes are left over");
        let (mut bytes, _) = encode(&vec![1_u8]).unwrap().into_parts();
        bytes.push(0);
        assert!(decode::<Vec<u8>>(Message::new(bytes, Vec::new())).is_err());
    }

    fn hostile<T: DeserializeOwned>(bytes: &[u8]) {
        let start = Instant::now();
        assert!(decode::<T>(Message::new(bytes.to_vec(), Vec::new())).is_err());
        // A hang limit, not a measurement: each of these would otherwise run for hours or abort.
        assert!(start.elapsed().as_secs() < 60);
    }

    #[derive(Debug, Deserialize)]
    struct Skipped {
        #[serde(skip)]
        _cache: u64,
    }

    #[test]
    fn a_huge_length_costs_nothing() {
        let huge = (1_u64 << 40).to_le_bytes();
        hostile::<Vec<()>>(&huge);
        hostile::<Vec<Skipped>>(&huge);
        hostile::<std::collections::HashSet<()>>(&huge);
        hostile::<BTreeMap<(), ()>>(&huge);
        hostile::<Vec<u64>>(&huge);
        hostile::<Vec<u8>>(&huge);
        hostile::<Vec<String>>(&huge);
        hostile::<String>(&huge);
        hostile::<(String,)>(&u64::MAX.to_le_bytes());
        hostile::<Vec<Vec<()>>>(&[1_u64.to_le_bytes(), huge].concat());
    }

    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Tree(Vec<Tree>);

    #[test]
    fn room_is_made_for_no_more_elements_than_the_message_has_bytes() {
        // One vector in the other, of which each promises more than the message can hold. Serde alone would
        // make room for 1 MiB in each.
        #[derive(Debug)]
        struct Told;
        thread_local!(static ROOM: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });
        impl<'de> Deserialize<'de> for Told {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = Told;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a sequence")
                    }
                    fn visit_seq<A: serde::de::SeqAccess<'de>>(
                        self,
                        mut elements: A,
                    ) -> Result<Told, A::Error> {
                        let told = elements.size_hint().unwrap_or(0);
                        ROOM.set(ROOM.get() + told);
                        while elements.next_element::<Told>()?.is_some() {}
                        Ok(Told)
                    }
                }
                deserializer.deserialize_seq(Visitor)
            }
        }
        let bytes = (1_u64 << 40).to_le_bytes().repeat(100);
        hostile::<Told>(&bytes);
        assert_eq!(ROOM.take(), bytes.len());
        hostile::<Tree>(&bytes);
        // And an honest message gets all the room that it wants.
        let message = encode(&vec![vec![Tree(Vec::new()); 7]; 5]).unwrap();
        let _: Told = decode(message).unwrap();
        assert_eq!(ROOM.take(), 5 + 5 * 7);
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Node(Option<Box<Node>>);

    #[test]
    fn nesting_without_end_is_refused_on_a_small_stack() {
        std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(|| hostile::<Node>(&vec![1; 64 << 10]))
            .unwrap()
            .join()
            .unwrap();
        let node = (0..80).fold(Node(None), |node, _| Node(Some(Box::new(node))));
        let _: Node = round_trip(&node);
    }

    type Mixed = (Vec<u8>, String, Option<(i32, char)>, Vec<Vec<f64>>);

    proptest! {
        #[test]
        fn any_value_comes_back(value: Mixed) {
            let back: Mixed = round_trip(&value);
            prop_assert_eq!(format!("{back:?}"), format!("{value:?}"));
        }

        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes: Vec<u8>) {
            let message = || Message::new(bytes.clone(), Vec::new());
            let _ = decode::<Shape>(message());
            let _ = decode::<Vec<String>>(message());
            let _ = decode::<BTreeMap<String, Vec<Shape>>>(message());
            let _ = decode::<Vec<f64>>(message());
            let _ = decode::<(bool, char, crate::Fd)>(message());
        }
    }
}
