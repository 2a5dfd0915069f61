//! Two processes and a pipe between them: one asks, the other answers, until the first is done.
//!
//! `cargo run --release --example pipe_ping`

use std::time::Instant;

use multiprocess::{Connection, Process, duplex, init};

/// Answers until the other end is closed: dropped, or its process is gone.
fn serve(conn: Connection<u64, String>) -> usize {
    let mut count = 0;
    for question in &conn {
        // The one who asked may be gone meanwhile; then there is nobody to answer.
        if conn.send(question.len() as u64).is_err() {
            break;
        }
        count += 1;
    }
    count
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    init();
    let (here, there) = duplex::<String, u64>()?;
    let child = Process::new(serve, (there,)).start()?;

    for question in ["ping", "and a longer one", ""] {
        here.send(question.to_string())?;
        println!("{question:?} has {} letters", here.recv()?);
    }

    const ROUNDS: u32 = 10_000;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        here.send("ping".to_string())?;
        here.recv()?;
    }
    println!("a round trip takes {:?}", start.elapsed() / ROUNDS);

    drop(here);
    println!("{} questions were answered", child.result()?);
    Ok(())
}
