//! Functions for a process that runs already.
#![expect(unsafe_code, reason = "a function by its address, and a value of a zero-sized type")]

use std::fmt;
use std::mem;
use std::ptr::NonNull;

use mp_core::fields::{Reader, Writer};
use mp_core::{Decoder, Encoder, catch_panic};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;
use crate::entry::Address;

/// How a function of type `F` is called from a message: which values it takes its arguments from, and what of
/// its result it leaves.
///
/// For what sends calls to processes that run already; see [`Function`].
pub trait Convention<F> {
    /// Reads the arguments, calls `function`, and appends the result.
    ///
    /// # Errors
    ///
    /// Where the arguments cannot be read or the result cannot be written.
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> mp_core::Result<()>;
}

/// The code that a [`Function`] stands for.
type Call = fn(&mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()>;

/// A function of this program that can be sent to another process of it, and called there.
///
/// What pools and managers are made of: a worker receives functions, by their address as
/// [`Process::new`](crate::Process::new) sends its target, and then messages with the arguments. Whether both
/// processes are of one build is checked where it is received.
///
/// Receive it only from this program's own processes, over pipes that they were given: as a target does, it says
/// which of this program's code is to run.
///
/// # Example
///
/// ```
/// use mp_core::{Decoder, Encoder};
/// use mp_process::{Convention, Function};
///
/// /// One number in, one out.
/// struct OfNumber;
///
/// impl<F: Fn(u64) -> u64> Convention<F> for OfNumber {
///     fn call(f: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> mp_core::Result<()> {
///         let number = arguments.get()?;
///         result.put(&f(number))?;
///         Ok(())
///     }
/// }
///
/// # fn main() -> mp_core::Result<()> {
/// let function = Function::new::<_, OfNumber>(|x| x * x);
/// let sent = mp_core::encode(&function)?; // to another process, which does this:
///
/// let received: Function = mp_core::decode(sent)?;
/// let (arguments, mut result) = (mp_core::encode(&12_u64)?, Encoder::new());
/// received.call(&mut Decoder::new(arguments.bytes(), Vec::new()), &mut result)?;
/// assert_eq!(mp_core::decode::<u64>(result.finish())?, 144);
/// # Ok(())
/// # }
/// ```
///
/// # Example: what is no function
///
/// ```compile_fail,E0080
/// # use mp_core::{Decoder, Encoder};
/// # use mp_process::{Convention, Function};
/// # struct Nothing;
/// # impl<F> Convention<F> for Nothing {
/// #     fn call(_: F, _: &mut Decoder<'_>, _: &mut Encoder) -> mp_core::Result<()> { Ok(()) }
/// # }
/// let factor = 3;
/// let function = Function::new::<_, Nothing>(move |x: u64| x * factor);
/// ```
#[derive(Clone, Copy)]
pub struct Function {
    call: Call,
}

impl Function {
    /// `function`, a function by its name or a closure that captures nothing, as `C` calls it.
    pub fn new<F, C>(function: F) -> Self
    where
        F: Copy + 'static,
        C: Convention<F>,
    {
        const {
            assert!(
                size_of::<F>() == 0,
                "what is sent to another process must be a function by its name or a closure that captures \
                 nothing: pass what it needs as arguments"
            );
        }
        let _ = function;
        Self {
            call: |arguments, result| {
                // SAFETY: F is zero-sized, so there is nothing to read; it is inhabited and may be copied, as
                // whoever made this had one and F is Copy.
                let function = unsafe { NonNull::<F>::dangling().read() };
                C::call(function, arguments, result)
            },
        }
    }

    /// Calls it.
    ///
    /// # Errors
    ///
    /// As its [`Convention`].
    ///
    /// # Panics
    ///
    /// Where the function does.
    pub fn call(&self, arguments: &mut Decoder<'_>, result: &mut Encoder) -> mp_core::Result<()> {
        (self.call)(arguments, result)
    }

    /// Calls it; gives the message of its panic if that is how it ends.
    ///
    /// # Errors
    ///
    /// The message; within the `Ok`, as [`call`](Self::call).
    pub fn try_call(
        &self,
        arguments: &mut Decoder<'_>,
        result: &mut Encoder,
    ) -> Result<mp_core::Result<()>, String> {
        catch_panic(|| (self.call)(arguments, result))
    }

    /// A number that is this function's within this process, to find it by.
    #[must_use]
    pub fn key(&self) -> usize {
        self.call as usize
    }
}

impl Serialize for Function {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let address =
            Address::of_code(self.key()).map_err(|why| S::Error::custom(Error::from(why)))?;
        let mut writer = Writer::new();
        address.write(&mut writer);
        writer.into_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Function {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        let mut reader = Reader::new(&bytes);
        let address = Address::read(&mut reader).map_err(D::Error::custom)?;
        reader.finish().map_err(D::Error::custom)?;
        let code = address.resolve_code().map_err(|why| D::Error::custom(Error::from(why)))?;
        // SAFETY: the address lies in the code of the object, and the object is of the same build as that in the
        // sender, which made the offset from a Call. It comes from a process of this program, as documented.
        let call = unsafe { mem::transmute::<usize, Call>(code) };
        Ok(Self { call })
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Function").field(&format_args!("{:#x}", self.key())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Text;

    impl<F: Fn(String) -> usize> Convention<F> for Text {
        fn call(f: F, from: &mut Decoder<'_>, to: &mut Encoder) -> mp_core::Result<()> {
            let text = from.get()?;
            to.put(&f(text))?;
            Ok(())
        }
    }

    #[test]
    fn panics_and_bad_arguments_are_told_apart() {
        let function = Function::new::<_, Text>(|text: String| {
            assert!(!text.is_empty(), "no text");
            text.len()
        });
        let call = |bytes: &[u8]| {
            let mut result = Encoder::new();
            let ended = function.try_call(&mut Decoder::new(bytes, Vec::new()), &mut result);
            ended.map(|ended| ended.map(|()| result.finish()))
        };
        let full = call(mp_core::encode("ab").unwrap().bytes()).unwrap().unwrap();
        assert_eq!(mp_core::decode::<usize>(full).unwrap(), 2);
        assert_eq!(call(mp_core::encode("").unwrap().bytes()).unwrap_err(), "no text");
        assert!(matches!(call(&[1]), Ok(Err(mp_core::Error::Decode(_)))));
    }

    #[test]
    fn what_is_no_address_is_an_error() {
        for bytes in [vec![], vec![0; 40], vec![255; 40]] {
            assert!(mp_core::decode::<Function>(mp_core::encode(&bytes).unwrap()).is_err());
        }
    }
}
