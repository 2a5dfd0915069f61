//! Control messages, written field by field.
//!
//! Start requests and hand-shakes do not go through the codec: their format is fixed, has no recursion,
//! and reading it allocates no more than the message is long. Integers are little-endian; a string or
//! byte string is its length in 32 bits, then its bytes.
//!
//! # Example
//!
//! ```
//! use mp_core::fields::{Reader, Writer};
//!
//! # fn main() -> mp_core::Result<()> {
//! let mut writer = Writer::new();
//! writer.u32(7).bytes(b"worker");
//! let message = writer.into_bytes();
//!
//! let mut reader = Reader::new(&message);
//! assert_eq!(reader.u32()?, 7);
//! assert_eq!(reader.str()?, "worker");
//! reader.finish()?;
//! # Ok(())
//! # }
//! ```

use crate::{Error, Result};

/// Writes fields one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts an empty message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    /// Appends four bytes, the lowest first.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends eight bytes, the lowest first.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends a length and as many bytes.
    ///
    /// # Panics
    ///
    /// Where `value` is longer than 4 GiB: no control message is.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        let len = u32::try_from(value.len()).expect("a field of a control message is below 4 GiB");
        self.u32(len);
        self.bytes.extend_from_slice(value);
        self
    }

    /// The finished message.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads fields in the order they were written.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first field of `message`.
    #[must_use]
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (field, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Error::Protocol("a control message ends inside a field"))?;
        self.rest = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// Reads one byte.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] where the message ends before.
    pub fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    /// Reads four bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] where the message ends before.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Reads eight bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] where the message ends before.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a length and as many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] where the message ends before.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    /// Reads a length and as many bytes of UTF-8.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] where the message ends before, or the bytes are no UTF-8.
    pub fn str(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::Protocol("a name is not UTF-8"))
    }

    /// Takes what follows the last field.
    #[must_use]
    pub fn into_rest(self) -> &'a [u8] {
        self.rest
    }

    /// Ends the message.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] where bytes are left over.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Error::Protocol("a control message has bytes after its last field"))
        }
    }
}

/// Reads `bytes` as fields: the first byte says how many, each before the message chooses one. What was read
/// has to give the same message again.
#[cfg(any(test, fuzzing))]
pub(crate) fn run_on(bytes: &[u8]) {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let (plan, message) = rest.split_at(rest.len().min(usize::from(count % 64)));
    let mut reader = Reader::new(message);
    let mut writer = Writer::new();
    for field in plan {
        let result = match field % 5 {
            0 => reader.u8().map(|value| writer.u8(value)),
            1 => reader.u32().map(|value| writer.u32(value)),
            2 => reader.u64().map(|value| writer.u64(value)),
            3 => reader.bytes().map(|value| writer.bytes(value)),
            _ => reader.str().map(|value| writer.bytes(value.as_bytes())),
        };
        if result.is_err() {
            return;
        }
    }
    let rest = reader.clone().into_rest();
    assert_eq!(reader.finish().is_ok(), rest.is_empty());
    assert_eq!([&writer.into_bytes(), rest].concat(), message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_come_back_as_written(a: u8, b: u32, c: u64, d: Vec<u8>, e: String) {
            let mut writer = Writer::new();
            writer.u8(a).u32(b).u64(c).bytes(&d).bytes(e.as_bytes());
            let message = writer.into_bytes();
            let mut reader = Reader::new(&message);
            prop_assert_eq!(reader.u8().unwrap(), a);
            prop_assert_eq!(reader.u32().unwrap(), b);
            prop_assert_eq!(reader.u64().unwrap(), c);
            prop_assert_eq!(reader.bytes().unwrap(), d);
            prop_assert_eq!(reader.str().unwrap(), e);
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            let _ = reader.u32().and_then(|_| reader.str().map(str::len));
            let _ = reader.finish();
        }
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        let mut reader = Reader::new(&[255, 255, 255, 255, 1]);
        assert!(matches!(reader.bytes(), Err(Error::Protocol(_))));
    }
}
