//! Refuses on the way out what would be refused on the way in.
//!
//! Who reads counts levels and elements, see [`bounded`](super::bounded). A value with more of them must not be sent: the
//! sender would take it for delivered. So who writes counts the same: levels on the way; elements as each sequence begins,
//! to compare them with the bytes at the end.

use std::cell::Cell;
use std::fmt::Display;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::bounded::{MAX_DEPTH, TOO_DEEP};
use super::direct;

/// What is counted while a value is written.
pub(super) struct Count {
    /// How many levels there may be below.
    levels: Cell<u32>,
    /// How many elements there are, and ends of sequences.
    elements: Cell<u64>,
}

impl Count {
    pub(super) fn new() -> Self {
        Self { levels: Cell::new(MAX_DEPTH), elements: Cell::new(0) }
    }

    /// How many elements there are, as who reads them counts.
    pub(super) fn elements(&self) -> u64 {
        self.elements.get()
    }

    #[inline]
    fn sequence(&self, len: Option<usize>) {
        let more = len.unwrap_or(0) as u64 + 1;
        self.elements.set(self.elements.get().saturating_add(more));
    }
}

/// A value that is written with at most [`MAX_DEPTH`] levels.
pub(super) struct Limited<'v, T: ?Sized>(pub(super) &'v T, pub(super) &'v Count);

impl<T: Serialize + ?Sized> Serialize for Limited<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Level { inner: serializer, left: self.1 })
    }
}

/// `inner`, a serializer or what one has begun, with what is `left` below it.
struct Level<'l, I> {
    inner: I,
    left: &'l Count,
}

/// A part of a value.
struct Part<'l, 'v, T: ?Sized> {
    value: &'v T,
    left: &'l Count,
}

impl<T: Serialize + ?Sized> Serialize for Part<'_, '_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Level { inner: serializer, left: self.left })
    }
}

/// Goes one level down.
#[inline]
fn enter<E: Error>(left: &Count) -> Result<(), E> {
    let levels = &left.levels;
    levels.set(levels.get().checked_sub(1).ok_or_else(|| E::custom(TOO_DEEP))?);
    Ok(())
}

/// Goes up again.
#[inline]
fn leave(left: &Count) {
    left.levels.set(left.levels.get() + 1);
}

impl<'l, I> Level<'l, I> {
    /// Goes up again.
    #[inline]
    fn leave(self) -> I {
        leave(self.left);
        self.inner
    }

    #[inline]
    fn part<'v, T: ?Sized>(&self, value: &'v T) -> Part<'l, 'v, T> {
        Part { value, left: self.left }
    }

    #[inline]
    fn begin<J, E: Error>(self, begin: impl FnOnce(I) -> Result<J, E>) -> Result<Level<'l, J>, E> {
        enter(self.left)?;
        Ok(Level { inner: begin(self.inner)?, left: self.left })
    }

    #[inline]
    fn whole<R, E: Error>(self, write: impl FnOnce(I, &'l Count) -> Result<R, E>) -> Result<R, E> {
        let Self { inner, left } = self;
        enter(left)?;
        let result = write(inner, left)?;
        leave(left);
        Ok(result)
    }
}

macro_rules! pass {
    ($($name:ident: $type:ty;)*) => {$(
        #[inline]
        fn $name(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$name(value)
        }
    )*};
}

impl<'l, S: Serializer> Serializer for Level<'l, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Level<'l, S::SerializeSeq>;
    type SerializeTuple = Level<'l, S::SerializeTuple>;
    type SerializeTupleStruct = Level<'l, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Level<'l, S::SerializeTupleVariant>;
    type SerializeMap = Level<'l, S::SerializeMap>;
    type SerializeStruct = Level<'l, S::SerializeStruct>;
    type SerializeStructVariant = Level<'l, S::SerializeStructVariant>;

    // Values without parts.
    pass! {
        serialize_bool: bool; serialize_i8: i8; serialize_i16: i16; serialize_i32: i32; serialize_i64: i64;
        serialize_i128: i128; serialize_u8: u8; serialize_u16: u16; serialize_u32: u32; serialize_u64: u64;
        serialize_u128: u128; serialize_f32: f32; serialize_f64: f64; serialize_char: char; serialize_str: &str;
        serialize_bytes: &[u8]; serialize_unit_struct: &'static str;
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    // Whoever reads these goes down a level, too.
    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.whole(|inner, _| inner.serialize_none())
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.whole(|inner, _| inner.serialize_unit_variant(name, index, variant))
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.whole(|inner, left| inner.serialize_some(&Part { value, left }))
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.whole(|inner, left| inner.serialize_newtype_struct(name, &Part { value, left }))
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.whole(|inner, left| {
            inner.serialize_newtype_variant(name, index, variant, &Part { value, left })
        })
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.left.sequence(len);
        self.begin(|inner| inner.serialize_seq(len))
    }

    // What vectors and slices call. Bytes among them look in the message as their elements would, one by one.
    #[inline]
    fn collect_seq<E>(self, elements: E) -> Result<S::Ok, S::Error>
    where
        E: IntoIterator<Item: Serialize>,
    {
        if let Some(bytes) = direct::bytes(&elements) {
            self.left.sequence(Some(bytes.len()));
            return self.whole(|inner, _| inner.serialize_bytes(bytes));
        }
        let mut elements = elements.into_iter();
        let len = match elements.size_hint() {
            (least, Some(most)) if least == most => Some(most),
            _ => None,
        };
        let mut sequence = self.serialize_seq(len)?;
        elements.try_for_each(|element| sequence.serialize_element(&element))?;
        sequence.end()
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.begin(|inner| inner.serialize_tuple(len))
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.begin(|inner| inner.serialize_tuple_struct(name, len))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.begin(|inner| inner.serialize_tuple_variant(name, index, variant, len))
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.left.sequence(len);
        self.begin(|inner| inner.serialize_map(len))
    }

    #[inline]
    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        self.begin(|inner| inner.serialize_struct(name, len))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.begin(|inner| inner.serialize_struct_variant(name, index, variant, len))
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! parts {
    ($($begun:ident: $($method:ident)+;)*) => {$(
        impl<I: $begun> $begun for Level<'_, I> {
            type Ok = I::Ok;
            type Error = I::Error;

            $(
                #[inline]
                fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), I::Error> {
                    let part = self.part(value);
                    self.inner.$method(&part)
                }
            )+

            #[inline]
            fn end(self) -> Result<I::Ok, I::Error> {
                self.leave().end()
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
    SerializeMap: serialize_key serialize_value;
}

macro_rules! fields {
    ($($begun:ident)*) => {$(
        impl<I: $begun> $begun for Level<'_, I> {
            type Ok = I::Ok;
            type Error = I::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), I::Error> {
                let part = self.part(value);
                self.inner.serialize_field(name, &part)
            }

            #[inline]
            fn skip_field(&mut self, name: &'static str) -> Result<(), I::Error> {
                // The receiver would take what comes next for it.
                Err(I::Error::custom(format_args!(
                    "its field `{name}` would be left out, and a message has all fields: do without \
                     #[serde(skip_serializing_if)]",
                )))
            }

            #[inline]
            fn end(self) -> Result<I::Ok, I::Error> {
                self.leave().end()
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::super::bounded::{TOO_MANY, may_have};
    use super::*;
    use crate::{decode, encode};

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    enum Tree {
        #[default]
        Leaf,
        Boxed(Box<Tree>),
        Named {
            below: Box<Tree>,
        },
        Many(u8, Vec<Tree>),
        Maybe(Option<Box<Tree>>),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Node(Option<Box<Node>>);

    /// So many times one in the other.
    fn trees(count: usize) -> [Tree; 4] {
        let grow = |grow: fn(Tree) -> Tree| (0..count).fold(Tree::Leaf, |tree, _| grow(tree));
        [
            grow(|tree| Tree::Boxed(Box::new(tree))),
            grow(|tree| Tree::Named { below: Box::new(tree) }),
            grow(|tree| Tree::Many(1, vec![tree])),
            grow(|tree| Tree::Maybe(Some(Box::new(tree)))),
        ]
    }

    fn nodes(count: usize) -> Node {
        (0..count).fold(Node(None), |node, _| Node(Some(Box::new(node))))
    }

    #[test]
    fn what_is_written_can_be_read() {
        let (mut written, mut refused) = (0, 0);
        for count in 0..MAX_DEPTH as usize + 5 {
            for tree in trees(count) {
                match encode(&tree) {
                    Ok(message) => {
                        assert_eq!(decode::<Tree>(message).unwrap(), tree);
                        written += 1;
                    }
                    Err(error) => {
                        assert!(error.to_string().contains(TOO_DEEP), "{error}");
                        refused += 1;
                    }
                }
            }
            match encode(&nodes(count)) {
                Ok(message) => assert_eq!(decode::<Node>(message).unwrap(), nodes(count)),
                Err(error) => assert!(error.to_string().contains(TOO_DEEP), "{error}"),
            }
        }
        assert!(written > MAX_DEPTH && refused > MAX_DEPTH / 2, "{written}, {refused}");
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Nothing {
        unit: (),
        none: [u8; 0],
    }

    /// What is written can be read, and what is not could not be; says whether it is.
    fn is_written<T: Serialize + serde::de::DeserializeOwned>(value: &T, bytes: &[u8]) -> bool {
        let read = decode::<T>(crate::Message::new(bytes.to_vec(), Vec::new()));
        match encode(value) {
            Ok(message) => {
                assert!(message.bytes() == bytes);
                assert!(read.is_ok(), "{:?}", read.err());
                true
            }
            Err(error) => {
                assert!(error.to_string().contains(TOO_MANY), "{error}");
                assert!(read.is_err());
                false
            }
        }
    }

    #[test]
    fn elements_without_bytes_are_refused_by_who_writes_where_who_reads_would() {
        let most = may_have(0) as usize;
        let bytes = |lens: &[usize]| -> Vec<u8> {
            lens.iter().flat_map(|len| (*len as u64).to_le_bytes()).collect()
        };
        for more in [0, 7, 8, 14, 15] {
            let (len, fits) = (most + more, more < 8);
            assert_eq!(is_written(&vec![(); len], &bytes(&[len])), fits);
            assert_eq!(
                is_written(&vec![Some(vec![(); len])], &{
                    let mut all = bytes(&[1]);
                    all.push(1);
                    all.extend(bytes(&[len]));
                    all
                }),
                more < 15
            );
        }
        let nothing = || Nothing { unit: (), none: [] };
        for len in [most - 1, 2 * most] {
            let many: Vec<Nothing> = (0..len).map(|_| nothing()).collect();
            assert_eq!(is_written(&many, &bytes(&[len])), len < most);
        }
        // All together, also in maps; and those that have bytes may be any number.
        let rows = |count: usize| vec![vec![(); most / 4]; count];
        assert!(is_written(&rows(4), &bytes(&[4, most / 4, most / 4, most / 4, most / 4])));
        assert!(encode(&rows(5)).is_err());
        let maps = |count: u8| -> std::collections::BTreeMap<u8, Vec<()>> {
            (0..count).map(|n| (n, vec![(); most / 4])).collect()
        };
        assert_eq!(
            decode::<std::collections::BTreeMap<u8, Vec<()>>>(encode(&maps(4)).unwrap()).unwrap(),
            maps(4)
        );
        assert!(encode(&maps(5)).is_err());
        let many = vec![false; 2 * most];
        assert_eq!(decode::<Vec<bool>>(encode(&many).unwrap()).unwrap(), many);
        let many = vec![(Vec::<bool>::new(), ()); most];
        assert_eq!(decode::<Vec<(Vec<bool>, ())>>(encode(&many).unwrap()).unwrap(), many);
        // What was put before stays, and what is put behind it is another value.
        let mut encoder = crate::Encoder::new();
        encoder.put("before").unwrap();
        assert!(encoder.put(&vec![(); 2 * most]).is_err());
        assert_eq!(encoder.message().bytes(), encode("before").unwrap().bytes());
    }

    #[test]
    fn nothing_is_refused_that_could_be_read() {
        let deepest = MAX_DEPTH as usize - 1;
        assert!(encode(&trees(deepest)[0]).is_ok() && encode(&trees(deepest + 1)[0]).is_err());
        // An element for each level, and many beside each other.
        let wide: Vec<Vec<Option<(u8, Tree)>>> =
            (0..1000).map(|n| (0..n % 7).map(|_| Some((1, Tree::Leaf))).collect()).collect();
        assert_eq!(decode::<Vec<Vec<Option<(u8, Tree)>>>>(encode(&wide).unwrap()).unwrap(), wide);
    }
}
