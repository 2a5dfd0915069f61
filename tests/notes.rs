//! x
use crate::support::Outcome;
crate::cases! { ONCE: placeholder; }
fn placeholder() -> Outcome {
    Ok(())
}
