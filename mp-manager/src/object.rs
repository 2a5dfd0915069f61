//! Values whose type is known when the program runs, and printing as Python prints.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

/// A value that may be of any of Python's simple types: for dicts and lists that hold some of each.
///
/// Compares, hashes and prints as in Python: 1, 1.0 and `True` are the same key. (Of NaN one equals another, so that
/// it can be found.) Integers are those of 128 bits. A dict keeps the order of its rows, and compares without it.
///
/// # Example
///
/// ```
/// use mp_manager::Object;
///
/// let row = Object::Dict(vec![(0.into(), "1".into()), ("2".into(), 2.into())]);
/// assert_eq!(row.to_string(), "{0: '1', '2': 2}");
/// let list = Object::from(vec![Object::from(1.0), Object::None, true.into(), "it's".into()]);
/// assert_eq!(list.to_string(), r#"[1.0, None, True, "it's"]"#);
/// assert_eq!(Object::from(1), Object::from(1.0));
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Object {
    /// Nothing.
    #[default]
    None,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number.
    Float(f64),
    /// A text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Several.
    List(Vec<Object>),
    /// Several, by their keys.
    Dict(Vec<(Object, Object)>),
}

impl Object {
    /// The whole number that this is, also as `Bool` or `Float`, as Python compares them.
    #[must_use]
    pub fn as_int(&self) -> Option<i128> {
        match *self {
            Self::Bool(truth) => Some(i128::from(truth)),
            Self::Int(number) => Some(number),
            // 2^127 as a float is exact, and the first that is too large; -2^127 is not too small.
            Self::Float(number)
                if number.trunc() == number
                    && (-2_f64.powi(127)..2_f64.powi(127)).contains(&number) =>
            {
                Some(number as i128)
            }
            _ => None,
        }
    }

    /// The number that this is.
    #[must_use]
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Self::Float(number) => Some(number),
            Self::Int(number) => Some(number as f64),
            Self::Bool(truth) => Some(f64::from(u8::from(truth))),
            _ => None,
        }
    }

    /// The text that this is.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// Whether it is `None`.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Str(one), Self::Str(two)) => one == two,
            (Self::Bytes(one), Self::Bytes(two)) => one == two,
            (Self::List(one), Self::List(two)) => one == two,
            (Self::Dict(one), Self::Dict(two)) => {
                // Both ways: a key may be there twice, where it was not made of rows.
                let all = |one: &[(Self, Self)], two: &[(Self, Self)]| {
                    one.iter().all(|row| two.iter().any(|other| row == other))
                };
                one.len() == two.len() && all(one, two) && all(two, one)
            }
            (
                Self::Bool(_) | Self::Int(_) | Self::Float(_),
                Self::Bool(_) | Self::Int(_) | Self::Float(_),
            ) => match (self.as_int(), other.as_int()) {
                (Some(one), Some(two)) => one == two,
                (None, None) => {
                    let (one, two) = (self.as_float(), other.as_float());
                    one == two || (one.is_some_and(f64::is_nan) && two.is_some_and(f64::is_nan))
                }
                _ => false,
            },
            _ => false,
        }
    }
}

impl Eq for Object {}

impl Hash for Object {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::None => 0_u8.hash(state),
            Self::Bool(_) | Self::Int(_) | Self::Float(_) => match (self.as_int(), self.as_float())
            {
                (Some(number), _) => number.hash(state),
                (None, Some(number)) if !number.is_nan() => number.to_bits().hash(state),
                _ => 1_u8.hash(state),
            },
            Self::Str(text) => text.hash(state),
            Self::Bytes(bytes) => bytes.hash(state),
            Self::List(items) => items.hash(state),
            // Its order does not count.
            Self::Dict(rows) => rows.len().hash(state),
        }
    }
}

macro_rules! from {
    ($($variant:ident: $($type:ty)*;)*) => {$($(
        impl From<$type> for Object {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
    )*)*};
}

from! {
    Bool: bool;
    Int: i8 i16 i32 i64 i128 u8 u16 u32 u64;
    Float: f32 f64;
    Str: String &str char;
    Bytes: Vec<u8> &[u8];
    List: Vec<Object>;
}

macro_rules! from_lists {
    ($($type:ty)*) => {$(
        impl From<Vec<$type>> for Object {
            fn from(items: Vec<$type>) -> Self {
                items.into_iter().collect()
            }
        }

        impl<const N: usize> From<[$type; N]> for Object {
            fn from(items: [$type; N]) -> Self {
                items.into_iter().collect()
            }
        }
    )*};
}

// Not of `u8`, which are bytes. That there are several makes numbers without a type `i32`.
from_lists! { bool i8 i16 i32 i64 i128 isize u16 u32 u64 usize f32 f64 char String &str }

macro_rules! from_sizes {
    ($($type:ty)*) => {$(
        impl From<$type> for Object {
            fn from(value: $type) -> Self {
                // Of 64 bits at most.
                Self::Int(value as i128)
            }
        }
    )*};
}

from_sizes! { usize isize }

impl From<()> for Object {
    fn from((): ()) -> Self {
        Self::None
    }
}

impl<T: Into<Object>> From<Option<T>> for Object {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

impl<K: Into<Object>, V: Into<Object>> From<BTreeMap<K, V>> for Object {
    fn from(rows: BTreeMap<K, V>) -> Self {
        rows.into_iter().collect()
    }
}

impl<K: Into<Object>, V: Into<Object>> From<HashMap<K, V>> for Object {
    fn from(rows: HashMap<K, V>) -> Self {
        rows.into_iter().collect()
    }
}

impl<T: Into<Object>> FromIterator<T> for Object {
    /// A list.
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl<K: Into<Object>, V: Into<Object>> FromIterator<(K, V)> for Object {
    /// A dict. Of a key that comes again, the last value counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(items: I) -> Self {
        let (mut rows, mut places) = (Vec::<(Self, Self)>::new(), HashMap::new());
        for (key, value) in items {
            let (key, value) = (key.into(), value.into());
            let place = *places.entry(key.clone()).or_insert(rows.len());
            match rows.get_mut(place) {
                Some((_, old)) => *old = value,
                None => rows.push((key, value)),
            }
        }
        Self::Dict(rows)
    }
}

/// As Python prints it: a text as it is, and with quotes where it stands in something else.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Str(text) = self { f.write_str(text) } else { self.repr(f) }
    }
}

/// Prints as Python's `repr` does.
///
/// What the proxies of dicts, lists and the like need of their values to be printed. For types of your own:
/// implement it.
///
/// # Example
///
/// ```
/// use std::fmt;
/// use mp_manager::Repr;
///
/// struct Point(f64, f64);
///
/// impl Repr for Point {
///     fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         f.write_str("Point(")?;
///         self.0.repr(f)?;
///         f.write_str(", ")?;
///         self.1.repr(f)?;
///         f.write_str(")")
///     }
/// }
/// ```
pub trait Repr {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// Where the formatter does.
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Writes items with a comma between them.
pub(crate) fn separated<I: IntoIterator>(
    f: &mut fmt::Formatter<'_>,
    items: I,
    mut write: impl FnMut(&mut fmt::Formatter<'_>, I::Item) -> fmt::Result,
) -> fmt::Result {
    for (number, item) in items.into_iter().enumerate() {
        if number > 0 {
            f.write_str(", ")?;
        }
        write(f, item)?;
    }
    Ok(())
}

/// Writes rows as a dict.
pub(crate) fn repr_rows<'a, K: Repr + 'a, V: Repr + 'a>(
    f: &mut fmt::Formatter<'_>,
    rows: impl IntoIterator<Item = (&'a K, &'a V)>,
) -> fmt::Result {
    f.write_char('{')?;
    separated(f, rows, |f, (key, value)| {
        key.repr(f)?;
        f.write_str(": ")?;
        value.repr(f)
    })?;
    f.write_char('}')
}

/// Writes items as a set.
pub(crate) fn repr_set<'a, T: Repr + 'a>(
    f: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = &'a T>,
) -> fmt::Result {
    let mut items = items.into_iter().peekable();
    if items.peek().is_none() {
        return f.write_str("set()");
    }
    f.write_char('{')?;
    separated(f, items, |f, item| item.repr(f))?;
    f.write_char('}')
}

impl Repr for Object {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(truth) => truth.repr(f),
            Self::Int(number) => number.repr(f),
            Self::Float(number) => number.repr(f),
            Self::Str(text) => text.repr(f),
            Self::Bytes(bytes) => repr_bytes(bytes, f),
            Self::List(items) => items.repr(f),
            Self::Dict(rows) => repr_rows(f, rows.iter().map(|(key, value)| (key, value))),
        }
    }
}

macro_rules! as_displayed {
    ($($type:ty)*) => {$(
        impl Repr for $type {
            fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    )*};
}

as_displayed! { i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize }

impl Repr for () {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("None")
    }
}

impl Repr for bool {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self { "True" } else { "False" })
    }
}

impl Repr for f32 {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        repr_float(self.is_nan(), self.is_infinite(), &format!("{self:e}"), f)
    }
}

impl Repr for f64 {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        repr_float(self.is_nan(), self.is_infinite(), &format!("{self:e}"), f)
    }
}

/// Writes a number of which `scientific` has the digits: the shortest ones that name it, as Python has them.
fn repr_float(
    nan: bool,
    infinite: bool,
    scientific: &str,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    if nan {
        return f.write_str("nan");
    }
    let (sign, scientific) = match scientific.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", scientific),
    };
    if infinite {
        return write!(f, "{sign}inf");
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    f.write_str(sign)?;
    if !(-4..16).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        return write!(f, "{first}{point}{rest}e{exponent_sign}{:02}", exponent.abs());
    }
    if exponent < 0 {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return write!(f, "0.{zeros}{digits}");
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        return write!(f, "{digits}{}.0", "0".repeat(whole - digits.len()));
    }
    let (whole, rest) = digits.split_at(whole);
    write!(f, "{whole}.{rest}")
}

/// The quote that needs no escape, if one does not.
fn quote(contains: impl Fn(char) -> bool) -> char {
    if contains('\'') && !contains('"') { '"' } else { '\'' }
}

impl Repr for str {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = quote(|quote| self.contains(quote));
        f.write_char(quote)?;
        for c in self.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c == quote => write!(f, "\\{c}")?,
                ' '..='~' => f.write_char(c)?,
                c if c.is_ascii() || ('\u{80}'..='\u{a0}').contains(&c) || c == '\u{ad}' => {
                    write!(f, "\\x{:02x}", u32::from(c))?;
                }
                c if is_printable(c) => f.write_char(c)?,
                c if u32::from(c) <= 0xffff => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "\\U{:08x}", u32::from(c))?,
            }
        }
        f.write_char(quote)
    }
}

/// Whether it shows, or modifies what is before it. std knows that for `escape_debug`, which escapes all others.
fn is_printable(c: char) -> bool {
    let mut text = String::from("a");
    text.push(c);
    !c.is_whitespace() && text.escape_debug().nth(1) == Some(c)
}

fn repr_bytes(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let quote = quote(|quote| bytes.contains(&(quote as u8)));
    write!(f, "b{quote}")?;
    for &byte in bytes {
        match byte {
            b'\\' => f.write_str("\\\\")?,
            b'\n' => f.write_str("\\n")?,
            b'\r' => f.write_str("\\r")?,
            b'\t' => f.write_str("\\t")?,
            byte if char::from(byte) == quote => write!(f, "\\{quote}")?,
            b' '..=b'~' => f.write_char(char::from(byte))?,
            byte => write!(f, "\\x{byte:02x}")?,
        }
    }
    f.write_char(quote)
}

impl Repr for String {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().repr(f)
    }
}

impl Repr for char {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encode_utf8(&mut [0; 4]).repr(f)
    }
}

impl<T: Repr + ?Sized> Repr for &T {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).repr(f)
    }
}

impl<T: Repr + ?Sized> Repr for Box<T> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).repr(f)
    }
}

impl<T: Repr> Repr for Option<T> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Some(value) => value.repr(f),
            None => f.write_str("None"),
        }
    }
}

impl<T: Repr> Repr for [T] {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        separated(f, self, |f, item| item.repr(f))?;
        f.write_char(']')
    }
}

impl<T: Repr> Repr for Vec<T> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().repr(f)
    }
}

impl<T: Repr, const N: usize> Repr for [T; N] {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().repr(f)
    }
}

impl<K: Repr, V: Repr, S> Repr for HashMap<K, V, S> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        repr_rows(f, self)
    }
}

impl<K: Repr, V: Repr> Repr for BTreeMap<K, V> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        repr_rows(f, self)
    }
}

impl<T: Repr, S> Repr for HashSet<T, S> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        repr_set(f, self)
    }
}

macro_rules! tuples {
    ($(($($item:ident)*))*) => {$(
        #[allow(non_snake_case, reason = "an item is named as its type is")]
        impl<$($item: Repr),*> Repr for ($($item,)*) {
            fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let ($($item,)*) = self;
                let items: &[&dyn Repr] = &[$($item),*];
                f.write_char('(')?;
                separated(f, items, |f, item| item.repr(f))?;
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
        }
    )*};
}

tuples! { (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E G) }

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::hash_map::DefaultHasher;

    fn text(value: impl Into<Object>) -> String {
        value.into().to_string()
    }

    #[test]
    fn numbers_print_as_python_prints_them() {
        for (number, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (123.456, "123.456"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e16, "1.5e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.25e-7, "-1.25e-07"),
            (1e100, "1e+100"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(text(number), expected);
        }
        assert_eq!(text(-7), "-7");
        assert_eq!(text(u64::MAX), "18446744073709551615");
    }

    #[test]
    fn what_is_equal_in_python_is_equal() {
        assert_eq!(Object::from(-2_f64.powi(127)), Object::from(i128::MIN));
        assert_ne!(Object::from(2_f64.powi(127)), Object::from(i128::MAX));
        let dict = |rows: &[(i32, i32)]| rows.iter().copied().collect::<Object>();
        assert_eq!(text(dict(&[(1, 2), (3, 4), (1, 5)])), "{1: 5, 3: 4}");
        assert_eq!(dict(&[(1, 2), (3, 4)]), dict(&[(3, 4), (1, 2)]));
        let rows = |rows: &[(i32, i32)]| {
            Object::Dict(rows.iter().map(|&(key, value)| (key.into(), value.into())).collect())
        };
        let (one, two) = (rows(&[(1, 1), (1, 1)]), rows(&[(1, 1), (2, 2)]));
        assert_ne!(one, two);
        assert_ne!(two, one);
    }

    #[test]
    fn texts_print_as_python_prints_them() {
        for (string, expected) in [
            ("", "''"),
            ("1", "'1'"),
            ("it's", "\"it's\""),
            ("\"it's\"", "'\"it\\'s\"'"),
            ("a\\b\n\t\r", r"'a\\b\n\t\r'"),
            ("\0\x7f\u{85}\u{a0}\u{ad}", r"'\x00\x7f\x85\xa0\xad'"),
            ("界 ü é e\u{301}", "'界 ü é e\u{301}'"),
            ("\u{200b}\u{2028}\u{e000}", r"'\u200b\u2028\ue000'"),
            ("\u{10ffff}🙂", r"'\U0010ffff🙂'"),
        ] {
            assert_eq!(Shown(&string).to_string(), expected);
            assert_eq!(text(vec![string]), format!("[{expected}]"));
            // As Python's print does.
            assert_eq!(text(string), string);
        }
        assert_eq!(text(&b"a'\x00\xff\n"[..]), r#"b"a'\x00\xff\n""#);
        assert_eq!(text(&b"a'\""[..]), r#"b'a\'"'"#);
    }

    #[test]
    fn lists_of_numbers_are_lists_and_bytes_are_bytes() {
        assert_eq!(text(vec![1, 2, 3]), "[1, 2, 3]");
        assert_eq!(text([1.5, 2.0]), "[1.5, 2.0]");
        assert_eq!(text(["a", "b"]), "['a', 'b']");
        assert_eq!(text(b"ab".to_vec()), "b'ab'");
    }

    #[test]
    fn what_is_nested_prints_nested() {
        let inner: Object = [(1, Object::None), (2, Object::List(vec![]))].into_iter().collect();
        let object = Object::from(vec![inner, Object::from(true), Object::Dict(vec![])]);
        assert_eq!(object.to_string(), "[{1: None, 2: []}, True, {}]");
        let tuple = (1_u8, "a", (2.5,), Some(false), None::<u8>);
        assert_eq!(Shown(&tuple).to_string(), "(1, 'a', (2.5,), False, None)");
    }

    struct Shown<'a>(&'a dyn Repr);

    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.repr(f)
        }
    }

    #[test]
    fn equal_values_have_equal_hashes() {
        fn hash(object: &Object) -> u64 {
            let mut hasher = DefaultHasher::new();
            object.hash(&mut hasher);
            hasher.finish()
        }
        let rows = |rows: [(u8, u8); 2]| rows.into_iter().collect::<Object>();
        let same: [&[Object]; 5] = [
            &[1.into(), 1.0.into(), true.into()],
            &[0.into(), 0.0.into(), (-0.0).into(), false.into()],
            &[f64::NAN.into(), (-f64::NAN).into()],
            &[(2_f64.powi(60)).into(), (1_i64 << 60).into()],
            &[rows([(1, 2), (3, 4)]), rows([(3, 4), (1, 2)])],
        ];
        for (number, group) in same.iter().enumerate() {
            for one in *group {
                for (other_number, other_group) in same.iter().enumerate() {
                    for other in *other_group {
                        assert_eq!(one == other, number == other_number, "{one} {other}");
                        assert!(one != other || hash(one) == hash(other), "{one} {other}");
                    }
                }
            }
        }
        assert_ne!(Object::from("1"), Object::from(1));
        assert_ne!(Object::from(1e300), Object::from(i128::MAX));
    }

    #[test]
    fn values_of_each_kind_travel() {
        let object = Object::Dict(vec![
            (Object::None, vec![0_u8, 255].into()),
            (1.5.into(), vec![Object::from("界"), i128::MIN.into()].into()),
        ]);
        let message = mp_core::encode(&object).unwrap();
        assert_eq!(mp_core::decode::<Object>(message).unwrap(), object);
    }
}
