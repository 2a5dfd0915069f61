//! What the last party at a barrier runs, and how it gets into another process.
#![expect(unsafe_code, reason = "a function by its offset, a value of no size")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A closure. One without captures, or a function, is nothing but its code: that is in every process of
/// this program, at the same distance from [`anchor`], and so can be sent as that distance.
#[derive(Clone)]
pub(crate) enum Action {
    None,
    Code(fn()),
    Captures(Arc<dyn Fn() + Send + Sync>),
}

/// What is sent in place of a function.
#[derive(Serialize, Deserialize)]
struct Sent {
    /// Of which program; it means nothing in another.
    program: u64,
    offset: i64,
    /// Of the two, against bytes that were damaged on the way.
    check: u64,
}

impl Action {
    pub(crate) fn new<F: Fn() + Send + Sync + 'static>(function: F) -> Self {
        if size_of::<F>() != 0 {
            return Self::Captures(Arc::new(function));
        }
        // Never dropped, so that there is a value for as long as it may be called.
        std::mem::forget(function);
        Self::Code(call::<F>)
    }

    pub(crate) fn run(&self) {
        match self {
            Self::None => {}
            Self::Code(function) => function(),
            Self::Captures(function) => function(),
        }
    }
}

fn call<F: Fn() + 'static>() {
    // SAFETY: an F has no size, so any aligned address will do for it, and new() keeps one from being
    // dropped; a process that got this function in a message is of the same program, and has it as a
    // forked child would.
    let function = unsafe { NonNull::<F>::dangling().as_ref() };
    function();
}

#[inline(never)]
fn anchor() {}

fn anchor_address() -> usize {
    anchor as fn() as usize
}

/// The program file, as one number: it changes with each build.
fn program() -> Option<u64> {
    let file = fs::metadata("/proc/self/exe").ok()?;
    let parts =
        [file.dev(), file.ino(), file.size(), file.mtime() as u64, file.mtime_nsec() as u64];
    Some(parts.into_iter().fold(0, mix))
}

fn mix(hash: u64, part: u64) -> u64 {
    (hash.rotate_left(25) ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Whether `address` lies in the same code as the anchor does, and not, say, in a library elsewhere.
fn is_beside_anchor(address: usize) -> bool {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return false };
    maps.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { return false };
        let Some((start, end)) = range.split_once('-') else { return false };
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        let range = number(start)..number(end);
        rights.contains('x') && range.contains(&address) && range.contains(&anchor_address())
    })
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let sent = match self {
            Self::None => None,
            Self::Captures(_) => {
                return Err(S::Error::custom(
                    "the barrier's action captures variables, which cannot be sent: give a function, or \
                     a closure that captures nothing",
                ));
            }
            Self::Code(function) => {
                let address = *function as usize;
                let program = program().filter(|_| is_beside_anchor(address)).ok_or_else(|| {
                    S::Error::custom("the barrier's action is not code of this program's own file")
                })?;
                let offset = address.wrapping_sub(anchor_address()) as i64;
                Some(Sent { program, offset, check: mix(program, offset as u64) })
            }
        };
        sent.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let Some(Sent { program: theirs, offset, check }) = Option::deserialize(deserializer)?
        else {
            return Ok(Self::None);
        };
        let address = anchor_address().wrapping_add(offset as usize);
        if check != mix(theirs, offset as u64) || !is_beside_anchor(address) {
            return Err(D::Error::custom("the barrier's action was damaged on the way"));
        }
        if program() != Some(theirs) {
            return Err(D::Error::custom(
                "the barrier's action comes from another program, or another build of this one",
            ));
        }
        // SAFETY: the same program file puts the same function at the same distance from the anchor, and
        // the address is one of its code; the function is a fn(), as only those are sent.
        Ok(Self::Code(unsafe { std::mem::transmute::<usize, fn()>(address) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_function_comes_out_as_it_went_in() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let action = Action::new(|| _ = RUNS.fetch_add(1, Ordering::Relaxed));
        let message = mp_core::encode(&action).unwrap();
        let action: Action = mp_core::decode(message).unwrap();
        assert!(matches!(action, Action::Code(_)));
        action.run();
        assert_eq!(RUNS.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_captures_or_was_damaged_is_refused() {
        let captured = Box::new(1);
        let action = Action::new(move || assert_eq!(*captured, 1));
        action.run();
        let error = mp_core::encode(&action).unwrap_err().to_string();
        assert!(error.contains("captures"), "{error}");

        for damaged in 0..3 {
            let message = mp_core::encode(&Action::new(|| ())).unwrap();
            let mut sent: Sent = mp_core::decode::<Option<Sent>>(message).unwrap().unwrap();
            match damaged {
                0 => sent.program ^= 0x10,
                1 => sent.offset ^= 0x10,
                _ => sent.check ^= 0x10,
            }
            let message = mp_core::encode(&Some(sent)).unwrap();
            assert!(mp_core::decode::<Action>(message).is_err());
        }
    }
}
