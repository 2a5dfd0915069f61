//! The message format: bincode with fixed-width, little-endian integers.
//!
//! The only module that names bincode. Fixed width, because a message crosses no network: what counts is
//! the time to write it, and a slice of numbers looks in the message as it does in memory.

use ::serde::Serialize;
use ::serde::de::DeserializeOwned;
use bincode::config::{Configuration, Fixint, LittleEndian, NoLimit};
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::serde;

use super::bounded::{Budget, Seed, TOO_MANY, may_have};
use super::levels::{Count, Limited};

/// The limit on what is decoded is [`Budget`]'s and the slice's own length.
const CONFIG: Configuration<LittleEndian, Fixint, NoLimit> = bincode::config::legacy();

/// What types do that cannot be read from a message.
const NAMES: &str = "to be read, its type asks what comes next, and messages do not say: send what has \
                     #[serde(flatten)], #[serde(untagged)] or #[serde(tag)], or is a serde_json::Value, as a text";

struct Append<'a>(&'a mut Vec<u8>);

impl Writer for Append<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends `value` to `bytes`; after an error, `bytes` holds a part of it.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) -> Result<(), String> {
    let (start, count) = (bytes.len(), Count::new());
    serde::encode_into_writer(Limited(value, &count), Append(bytes), CONFIG).map_err(|error| {
        match error {
            EncodeError::OtherString(why) => why,
            // A `flatten` makes a map of a struct, whose length is not known.
            EncodeError::Serde(serde::EncodeError::SequenceMustHaveLength) => NAMES.to_owned(),
            other => other.to_string(),
        }
    })?;
    if count.elements() <= may_have(bytes.len() - start) {
        Ok(())
    } else {
        Err(TOO_MANY.to_string())
    }
}

/// Reads a value from the start of `bytes`; gives it and how many bytes it took.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), String> {
    let budget = Budget::for_message(bytes.len());
    serde::seed_decode_from_slice(Seed::<T>::new(&budget), bytes, CONFIG).map_err(|error| {
        match error {
            DecodeError::OtherString(why) => why,
            DecodeError::UnexpectedEnd { additional } => {
                format!("it ends {additional} bytes too early")
            }
            DecodeError::Serde(
                serde::DecodeError::AnyNotSupported
                | serde::DecodeError::IdentifierNotSupported
                | serde::DecodeError::IgnoredAnyNotSupported,
            ) => NAMES.to_owned(),
            other => format!("it is none of this type's: {other}"),
        }
    })
}
