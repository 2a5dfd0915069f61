//! What a process can run: functions and closures without captures, and tasks.

use mp_core::{Decoder, Encoder};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Something that can be called with the arguments `A`, a tuple.
///
/// Implemented for functions and closures of up to eight parameters. What a process runs must also be
/// zero-sized: a function by its name, or a closure that captures nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called with the arguments `{A}`",
    note = "a target is a function or closure of up to eight parameters; its arguments are a tuple, `(x,)` for one"
)]
pub trait Target<A> {
    /// What it returns.
    type Output;

    /// Calls it.
    fn call(self, args: A) -> Self::Output;
}

/// A tuple of up to eight values that can be sent to another process.
///
/// Each value is encoded for itself, so that a `Vec<u8>` or a vector of numbers among the arguments is
/// copied as a whole.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no tuple of arguments that can be sent to another process",
    note = "up to eight values, `(x,)` for one, which serde can serialize and deserialize; more go in a struct"
)]
pub trait Args: Sized {
    /// Appends the values.
    ///
    /// # Errors
    ///
    /// Where one cannot be encoded.
    fn encode(&self, encoder: &mut Encoder) -> mp_core::Result<()>;

    /// Reads the values back.
    ///
    /// # Errors
    ///
    /// Where the bytes are no such values.
    fn decode(decoder: &mut Decoder<'_>) -> mp_core::Result<Self>;
}

macro_rules! tuples {
    ($(($($arg:ident)*))*) => {$(
        #[allow(non_snake_case, reason = "a parameter is named as its type is")]
        impl<F, R, $($arg),*> Target<($($arg,)*)> for F
        where
            F: FnOnce($($arg),*) -> R,
        {
            type Output = R;

            fn call(self, ($($arg,)*): ($($arg,)*)) -> R {
                self($($arg),*)
            }
        }

        #[allow(non_snake_case, unused_variables, reason = "as above; the first tuple is empty")]
        impl<$($arg: Serialize + DeserializeOwned),*> Args for ($($arg,)*) {
            fn encode(&self, encoder: &mut Encoder) -> mp_core::Result<()> {
                let ($($arg,)*) = self;
                $(encoder.put($arg)?;)*
                Ok(())
            }

            fn decode(decoder: &mut Decoder<'_>) -> mp_core::Result<Self> {
                Ok(($(decoder.get::<$arg>()?,)*))
            }
        }
    )*};
}

tuples! {
    () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E G) (A B C D E G H) (A B C D E G H I)
}

/// A task as a value: Python's subclass of `Process` with a `run` method.
///
/// The value is sent to the new process, which runs it. [`Process::of`](crate::Process::of) starts one.
///
/// # Example
///
/// ```standalone_crate
/// use mp_process::{Process, Run, current_process};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Countdown {
///     from: u32,
/// }
///
/// impl Run for Countdown {
///     type Output = String;
///
///     fn run(self) -> String {
///         let name = current_process().name();
///         (1..=self.from).rev().map(|n| format!("{name}: {n}\n")).collect()
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let text = Process::of(Countdown { from: 2 }).name("launch").start()?.result()?;
///     assert_eq!(text, "launch: 2\nlaunch: 1\n");
///     Ok(())
/// }
/// ```
pub trait Run {
    /// What the task returns.
    type Output;

    /// Does the work, in the new process.
    fn run(self) -> Self::Output;
}
