//! A pool: one function, many items, all CPUs.
//!
//! `cargo run --release --example pool_map`

use multiprocess::{Pool, TaskError};

/// How many steps the Collatz sequence takes from `n` to 1.
fn steps(n: u64) -> u32 {
    assert!(n > 0, "zero never gets there");
    let (mut n, mut steps) = (n, 0);
    while n != 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    steps
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    multiprocess::init();
    let pool = Pool::builder().build()?; // as many workers as CPUs

    let all = pool.map(steps, 1..300_000)?;
    let (longest, n) = all.iter().zip(1..).max().expect("there are some");
    println!("of all numbers below 300000, {n} takes the most steps: {longest}");

    // An item that panics is an error, and says which one it was.
    match pool.map(steps, [3, 2, 1, 0]) {
        Err(TaskError::Panicked(message)) => println!("{message}: {}", message.task()),
        other => println!("{other:?}"),
    }

    // Results one by one, while the others are under way; the input may be endless.
    let found = pool.imap(steps, 1..).zip(1..).find(|(steps, _)| *steps == Ok(150));
    println!("150 steps: {:?}", found.map(|(_, n)| n));

    pool.close();
    pool.join()?;
    Ok(())
}
