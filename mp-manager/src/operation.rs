//! What can be called by its number, by other programs: in those, functions of this one have no address.
//!
//! The built-in objects have tables of their functions, made for the types of keys and values that the object has. An
//! object that another program has made has parcels, whatever the types are there; the proxy's name with its types
//! is kept with it, and who calls says whose proxy it has: see [`Kind`].

use std::any::type_name;
use std::fmt;

use mp_process::Function;

/// What a proxy is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    proxy: &'static str,
    of: [&'static str; 2],
}

impl Kind {
    pub(crate) fn plain(proxy: &'static str) -> Self {
        Self { proxy, of: [""; 2] }
    }

    pub(crate) fn of<T>(proxy: &'static str) -> Self {
        Self { proxy, of: [type_name::<T>(), ""] }
    }

    pub(crate) fn of_both<K, V>(proxy: &'static str) -> Self {
        Self { proxy, of: [type_name::<K>(), type_name::<V>()] }
    }

    /// The same for the same types, in every program that the same compiler made.
    pub(crate) fn fingerprint(self) -> u64 {
        fingerprint(&self.to_string())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.proxy)?;
        match self.of {
            ["", ""] => Ok(()),
            [of, ""] => write!(f, "<{of}>"),
            [key, value] => write!(f, "<{key}, {value}>"),
        }
    }
}

/// FNV-1a.
pub(crate) fn fingerprint(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A function of this crate that runs in the server, and how other programs call it.
#[derive(Clone, Copy)]
pub(crate) struct Operation<F> {
    /// Its place among the operations of its object.
    pub(crate) number: u32,
    pub(crate) function: F,
    /// What the proxy is of; asked for only where the function is called by its number.
    pub(crate) kind: fn() -> Kind,
}

/// The operations of an object, by their numbers.
pub(crate) type Operations = fn(u32) -> Option<Function>;

/// Those of what has none.
pub(crate) fn none(_: u32) -> Option<Function> {
    None
}

/// Numbers functions of the module, as `Op`, and makes a table of them, `operation`.
///
/// The numbers are what other programs say: a function that is new goes to the end.
macro_rules! operations {
    ([$($generics:tt)*] $($convention:ty: $($name:ident)+;)+) => {
        #[allow(non_camel_case_types, reason = "named as the functions are")]
        #[derive(Clone, Copy)]
        enum Op { $($($name,)+)+ }

        pub(crate) fn operation<$($generics)*>(number: u32) -> Option<mp_process::Function> {
            let functions = [$($((
                Op::$name,
                mp_process::Function::new::<_, $convention>($name),
            ),)+)+];
            let (op, function) = functions.get(number as usize)?;
            debug_assert_eq!(*op as u32, number);
            Some(*function)
        }
    };
}

pub(crate) use operations;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_types_are() {
        let kind = Kind::of_both::<u8, Vec<i32>>("Dict");
        assert_eq!(kind.to_string(), "Dict<u8, alloc::vec::Vec<i32>>");
        assert_eq!(Kind::of::<u8>("List").to_string(), "List<u8>");
        assert_eq!(Kind::plain("Lock").to_string(), "Lock");
        assert_ne!(kind.fingerprint(), Kind::of_both::<u8, Vec<u32>>("Dict").fingerprint());
    }
}
