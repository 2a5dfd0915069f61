//! Keeps a message from costing more than it is long.
//!
//! The format reads lengths from the message and would follow them: 2^40 elements of no size for ever, a
//! string of 8 TiB into an abort, 64 KiB of nesting off the end of the stack. This layer stands between
//! the format and the type's own `Deserialize`. It counts elements against a budget made from the length
//! of the message, counts the depth, and lets strings and byte strings be read only as views of the
//! message, so that nothing is allocated before its bytes are known to be there. A collection makes room for
//! its elements before they are read; all together are told of no more than the message has bytes.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// How many levels of structs, options, sequences and so on a value may have.
pub(super) const MAX_DEPTH: u32 = 256;

pub(super) const TOO_MANY: &str = "it has too many elements without bytes (2^20 at most)";

pub(super) const TOO_DEEP: &str = "values are nested too deep (256 levels at most)";

/// How many elements without bytes (units, structs whose fields are all skipped) one message may have.
///
/// Fuzzing would spend its time on these.
const EMPTY_ELEMENTS: u64 = if cfg!(fuzzing) { 1 << 10 } else { 1 << 20 };

/// How many elements a message of `len` bytes may have, each sequence's end counted as one.
///
/// Each element has a first byte that is no other element's, unless it has no bytes; and each end has one in the length
/// of the sequence.
pub(super) const fn may_have(len: usize) -> u64 {
    len as u64 + EMPTY_ELEMENTS
}

/// What the value may still use up.
pub(super) struct Budget {
    /// See [`may_have`].
    elements: Cell<u64>,
    /// For how many elements room may be made before they are read. As each has a byte of its own, those of an
    /// honest message always fit.
    room: Cell<usize>,
    depth: Cell<u32>,
}

impl Budget {
    pub(super) fn for_message(len: usize) -> Self {
        Self {
            elements: Cell::new(may_have(len)),
            room: Cell::new(len),
            depth: Cell::new(MAX_DEPTH),
        }
    }

    /// Of so many elements that a length promises, how many to make room for.
    #[inline]
    fn room(&self, promised: usize) -> usize {
        let left = self.room.get();
        let granted = promised.min(left);
        self.room.set(left - granted);
        granted
    }

    #[inline]
    fn element<E: serde::de::Error>(&self) -> Result<(), E> {
        match self.elements.get().checked_sub(1) {
            Some(left) => {
                self.elements.set(left);
                Ok(())
            }
            None => Err(E::custom("a length promises more elements than the message can hold")),
        }
    }

    #[inline]
    fn nested<R, E: serde::de::Error>(&self, read: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        let depth = self.depth.get();
        let Some(below) = depth.checked_sub(1) else {
            return Err(E::custom(TOO_DEEP));
        };
        self.depth.set(below);
        let result = read();
        self.depth.set(depth);
        result
    }
}

/// Reads a `T` within a budget: where the format is told what to read.
pub(super) struct Seed<'b, T> {
    budget: &'b Budget,
    value: PhantomData<T>,
}

impl<'b, T> Seed<'b, T> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self { budget, value: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Seed<'_, T> {
    type Value = T;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(Bounded { inner: deserializer, budget: self.budget })
    }
}

/// `inner` within a budget: a deserializer, a visitor, a seed or an access.
struct Bounded<'b, I> {
    inner: I,
    budget: &'b Budget,
}

/// A sequence or map within a budget; `COUNT` where its length came from the message.
struct Elements<'b, I, const COUNT: bool> {
    inner: I,
    budget: &'b Budget,
}

impl<I, const COUNT: bool> Elements<'_, I, COUNT> {
    #[inline]
    fn count<E: serde::de::Error>(&self) -> Result<(), E> {
        if COUNT { self.budget.element() } else { Ok(()) }
    }

    #[inline]
    fn granted(&self, promised: Option<usize>) -> Option<usize> {
        if COUNT { promised.map(|promised| self.budget.room(promised)) } else { promised }
    }
}

macro_rules! pass {
    ($($name:ident)*) => {$(
        #[inline]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            self.inner.$name(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Bounded<'_, D> {
    type Error = D::Error;

    // Values without parts: nothing to bound.
    pass! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_bytes deserialize_unit deserialize_identifier deserialize_ignored_any
        deserialize_any
    }

    // A view of the message first; whoever wants to own it copies it then.
    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(visitor)
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_bytes(visitor)
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, budget } = self;
        budget.nested(|| inner.deserialize_option(Bounded { inner: visitor, budget }))
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let Self { inner, budget } = self;
        budget.nested(|| inner.deserialize_newtype_struct(name, Bounded { inner: visitor, budget }))
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, budget } = self;
        budget.nested(|| inner.deserialize_seq(Elements::<_, true> { inner: visitor, budget }))
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, budget } = self;
        budget.nested(|| inner.deserialize_map(Elements::<_, true> { inner: visitor, budget }))
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let Self { inner, budget } = self;
        budget.nested(|| {
            inner.deserialize_tuple(len, Elements::<_, false> { inner: visitor, budget })
        })
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let Self { inner, budget } = self;
        budget.nested(|| {
            inner.deserialize_tuple_struct(
                name,
                len,
                Elements::<_, false> { inner: visitor, budget },
            )
        })
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let Self { inner, budget } = self;
        budget.nested(|| {
            inner.deserialize_struct(name, fields, Elements::<_, false> { inner: visitor, budget })
        })
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let Self { inner, budget } = self;
        budget.nested(|| inner.deserialize_enum(name, variants, Bounded { inner: visitor, budget }))
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Visits of an option, a newtype struct or an enum.
impl<'de, V: Visitor<'de>> Visitor<'de> for Bounded<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    #[inline]
    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Bounded { inner: deserializer, budget: self.budget })
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Bounded { inner: deserializer, budget: self.budget })
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Bounded { inner: access, budget: self.budget })
    }
}

/// Visits of sequences and maps.
impl<'de, V: Visitor<'de>, const COUNT: bool> Visitor<'de> for Elements<'_, V, COUNT> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Elements::<_, COUNT> { inner: access, budget: self.budget })
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Elements::<_, COUNT> { inner: access, budget: self.budget })
    }
}

impl<'de, A: SeqAccess<'de>, const COUNT: bool> SeqAccess<'de> for Elements<'_, A, COUNT> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        self.count()?;
        self.inner.next_element_seed(Bounded { inner: seed, budget: self.budget })
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.granted(self.inner.size_hint())
    }
}

impl<'de, A: MapAccess<'de>, const COUNT: bool> MapAccess<'de> for Elements<'_, A, COUNT> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        self.count()?;
        self.inner.next_key_seed(Bounded { inner: seed, budget: self.budget })
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.next_value_seed(Bounded { inner: seed, budget: self.budget })
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.granted(self.inner.size_hint())
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Bounded<'_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Bounded { inner: deserializer, budget: self.budget })
    }
}

impl<'de, 'b, A: EnumAccess<'de>> EnumAccess<'de> for Bounded<'b, A> {
    type Error = A::Error;
    type Variant = Bounded<'b, A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let Self { inner, budget } = self;
        let (value, variant) = inner.variant_seed(seed)?;
        Ok((value, Bounded { inner: variant, budget }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.newtype_variant_seed(Bounded { inner: seed, budget: self.budget })
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, Elements::<_, false> { inner: visitor, budget: self.budget })
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner
            .struct_variant(fields, Elements::<_, false> { inner: visitor, budget: self.budget })
    }
}
