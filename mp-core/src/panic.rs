//! Ending a panic where it can do no harm.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls what may panic; a panic ends here, and is given as what it said.
///
/// For the caller's functions, called by a thread that others rely on. Whatever `work` has left half done is for the
/// caller to see to ([`UnwindSafe`](std::panic::UnwindSafe)).
///
/// # Errors
///
/// The panic's message; of one that came with another value than text, that it did.
///
/// # Example
///
/// ```
/// assert_eq!(mp_core::catch_panic(|| 2 + 2), Ok(4));
/// assert_eq!(mp_core::catch_panic(|| panic!("no")), Err::<(), _>("no".to_string()));
/// ```
pub fn catch_panic<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = message(&*payload);
        // It may be anything, and panic again when it is dropped, and so may what comes of that.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            mem::forget(another);
        }
        message
    })
}

fn message(payload: &dyn Any) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("with a payload that is not text").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

    /// Panics each time it is dropped, with another of its kind.
    struct Stubborn;

    impl Drop for Stubborn {
        fn drop(&mut self) {
            panic_any(Stubborn);
        }
    }

    #[test]
    fn whatever_a_panic_comes_with_it_ends() {
        let said = |work: fn()| catch_panic(work).unwrap_err();
        assert_eq!(said(|| panic!("plain")), "plain");
        assert_eq!(said(|| panic!("number {}", std::process::id() / u32::MAX)), "number 0");
        assert_eq!(said(|| panic_any(5_u8)), "with a payload that is not text");
        assert_eq!(said(|| panic_any(Stubborn)), "with a payload that is not text");
        assert_eq!(catch_panic(|| 7), Ok(7));
    }
}
