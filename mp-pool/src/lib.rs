//! A pool of worker processes, as Python's `multiprocessing.Pool`: tasks go in, results come out, and whatever
//! becomes of a worker, every task ends.
#![forbid(unsafe_code)]

mod body;
mod builder;
mod call;
mod callbacks;
mod chunk;
mod engine;
mod error;
mod iter;
mod pool;
mod result;
mod worker;

pub use builder::Builder;
pub use error::{Error, Panic, Result, Task, TaskError};
pub use iter::{Imap, ImapUnordered};
pub use pool::Pool;
pub use result::AsyncResult;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_traits() {
        fn is_send_and_sync<T: Send + Sync>() {}
        is_send_and_sync::<Pool>();
        is_send_and_sync::<Error>();
        is_send_and_sync::<TaskError>();
        // Whatever the result is: it is decoded by whoever gets it.
        is_send_and_sync::<AsyncResult<std::rc::Rc<()>>>();
        fn is_send<T: Send>() {}
        is_send::<Builder>();
        is_send::<Imap<std::vec::IntoIter<u8>, fn(u8), ()>>();
        is_send::<ImapUnordered<std::vec::IntoIter<u8>, fn(u8), ()>>();
    }
}
