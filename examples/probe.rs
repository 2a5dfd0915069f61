//! p
use multiprocess::{Process, StartMethod};
fn nothing() {}
fn main() {
    multiprocess::init();
    let m = match std::env::args().nth(1).as_deref() {
        Some("fork") => StartMethod::Fork,
        Some("spawn") => StartMethod::Spawn,
        _ => StartMethod::ForkServer,
    };
    let n: u32 = std::env::args().nth(2).unwrap().parse().unwrap();
    let t = std::time::Instant::now();
    for _ in 0..n {
        Process::new(nothing, ()).start_method(m).start().unwrap().join().unwrap();
    }
    println!("{:?}", t.elapsed() / n);
}
