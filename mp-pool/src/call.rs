//! How functions are called in a worker: what their arguments look like on the way, and their results.

use std::cell::Cell;
use std::marker::PhantomData;

use mp_core::{Decoder, Encoder, Result};
use mp_process::{Args, Convention, Function, Target};
use serde::Serialize;
use serde::de::DeserializeOwned;

thread_local! {
    /// How many items of its chunk the last call had done when it panicked.
    static REACHED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Which item of its chunk the last call panicked at, if it had a chunk.
pub(crate) fn take_reached() -> Option<usize> {
    REACHED.take()
}

/// The results of a chunk. Where the call of an item unwinds, their number tells which item it was.
struct Results<R>(Vec<R>);

impl<R> Drop for Results<R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            REACHED.set(Some(self.0.len()));
        }
    }
}

/// A tuple of arguments; one value.
pub(crate) struct Once<A>(PhantomData<A>);

impl<F, A> Convention<F> for Once<A>
where
    F: Target<A>,
    F::Output: Serialize,
    A: Args,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let arguments = A::decode(arguments)?;
        result.put(&function.call(arguments))?;
        Ok(())
    }
}

/// A tuple of arguments; nothing.
pub(crate) struct Begin<A>(PhantomData<A>);

impl<F, A> Convention<F> for Begin<A>
where
    F: Target<A>,
    A: Args,
{
    fn call(function: F, arguments: &mut Decoder<'_>, _: &mut Encoder) -> Result<()> {
        let arguments = A::decode(arguments)?;
        let _ = function.call(arguments);
        Ok(())
    }
}

/// What comes before an initializer. That follows the arguments, if there is one, and its own follow it.
pub(crate) struct Prepare<A>(PhantomData<A>);

impl<F, A> Convention<F> for Prepare<A>
where
    F: Target<A>,
    A: Args,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let own = A::decode(arguments)?;
        let next: Option<Function> = arguments.get()?;
        let _ = function.call(own);
        next.map_or(Ok(()), |next| next.call(arguments, result))
    }
}

/// A vector of arguments; a vector of values.
pub(crate) struct Each<A>(PhantomData<A>);

impl<F, A, R> Convention<F> for Each<A>
where
    F: Fn(A) -> R,
    A: DeserializeOwned,
    R: Serialize,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let items: Vec<A> = arguments.get()?;
        let mut results = Results(Vec::with_capacity(items.len()));
        results.0.extend(items.into_iter().map(function));
        result.put(&results.0)?;
        Ok(())
    }
}

/// So many tuples without bytes a chunk may have, as [`Each`] may have such arguments.
const EMPTY_ITEMS: usize = 1 << 20;

/// A number of tuples of arguments; a vector of values.
pub(crate) struct EachOf<A>(PhantomData<A>);

impl<F, A> Convention<F> for EachOf<A>
where
    F: Target<A> + Copy,
    F::Output: Serialize,
    A: Args,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let count: usize = arguments.get()?;
        // Of tuples without bytes there could be any number, and the time for that never ends.
        if count > arguments.remaining().max(EMPTY_ITEMS) {
            return Err(mp_core::Error::Decode(format!(
                "{count} items in a chunk that is shorter"
            )));
        }
        let mut results = Results(Vec::new());
        for _ in 0..count {
            let item = A::decode(arguments)?;
            results.0.push(function.call(item));
        }
        result.put(&results.0)?;
        Ok(())
    }
}

/// Encodes a chunk for [`EachOf`].
pub(crate) fn encode_each_of<A: Args>(items: &[A], encoder: &mut Encoder) -> Result<()> {
    encoder.put(&items.len())?;
    items.iter().try_for_each(|item| item.encode(encoder))
}
