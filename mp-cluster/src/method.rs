//! Functions that change a value in place.

/// A function of a value to change, and of up to four arguments as a tuple.
///
/// Implemented for all that are; what they capture stays here, as they run here.
pub trait Method<V, A> {
    /// What it returns.
    type Output;

    /// Calls it.
    fn call(&self, value: &mut V, args: A) -> Self::Output;
}

macro_rules! methods {
    ($(($($arg:ident)*))*) => {$(
        impl<F, V, R, $($arg),*> Method<V, ($($arg,)*)> for F
        where
            F: Fn(&mut V, $($arg),*) -> R,
        {
            type Output = R;

            #[allow(non_snake_case, reason = "named after its type")]
            #[allow(clippy::unused_unit, reason = "for no arguments")]
            fn call(&self, value: &mut V, ($($arg,)*): ($($arg,)*)) -> R {
                self(value, $($arg),*)
            }
        }
    )*};
}
methods! { () (A) (A B) (A B C) (A B C D) }
