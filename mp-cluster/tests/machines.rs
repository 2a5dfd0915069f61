//! Network namespaces as machines, joined by a bridge: where this user may make some.

crate::cases! { nothing }
fn nothing() -> crate::Outcome {
    Ok(())
}
pub(crate) fn missing() -> Option<String> {
    None
}
pub(crate) fn count(_: &str, _: &str) -> Result<(), mp_cluster::Error> {
    Ok(())
}
