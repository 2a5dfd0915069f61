//! Refuses on the way out what would be refused on the way in.
//!
//! Who reads counts levels, see [`bounded`](super::bounded). A value with more of them must not be sent: the sender would
//! take it for delivered. So who writes counts the same.

use std::cell::Cell;
use std::fmt::Display;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::bounded::{MAX_DEPTH, TOO_DEEP};

/// A value that is written with at most [`MAX_DEPTH`] levels.
pub(super) struct Limited<'v, T: ?Sized>(pub(super) &'v T);

impl<T: Serialize + ?Sized> Serialize for Limited<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let left = Cell::new(MAX_DEPTH);
        self.0.serialize(Level { inner: serializer, left: &left })
    }
}

/// `inner`, a serializer or what one has begun, with as many levels `left` below it.
struct Level<'l, I> {
    inner: I,
    left: &'l Cell<u32>,
}

/// A part of a value.
struct Part<'l, 'v, T: ?Sized> {
    value: &'v T,
    left: &'l Cell<u32>,
}

impl<T: Serialize + ?Sized> Serialize for Part<'_, '_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Level { inner: serializer, left: self.left })
    }
}

/// Goes one level down.
#[inline]
fn enter<E: Error>(left: &Cell<u32>) -> Result<(), E> {
    left.set(left.get().checked_sub(1).ok_or_else(|| E::custom(TOO_DEEP))?);
    Ok(())
}

impl<'l, I> Level<'l, I> {
    /// Goes up again.
    #[inline]
    fn leave(self) -> I {
        self.left.set(self.left.get() + 1);
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
    fn whole<R, E: Error>(
        self,
        write: impl FnOnce(I, &'l Cell<u32>) -> Result<R, E>,
    ) -> Result<R, E> {
        let Self { inner, left } = self;
        enter(left)?;
        let result = write(inner, left)?;
        left.set(left.get() + 1);
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
        self.begin(|inner| inner.serialize_seq(len))
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
                self.inner.skip_field(name)
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
