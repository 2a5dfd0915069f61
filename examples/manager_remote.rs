//! A manager that other programs and machines use: a queue of words, and how often each came.
//!
//! ```sh
//! export MANAGER_KEY="a secret of the two"
//! cargo run --release --example manager_remote -- serve 127.0.0.1:5000 "to be or not to be" &
//! cargo run --release --example manager_remote -- work 127.0.0.1:5000
//! ```
//!
//! The two may be built at different times, as long as it is with the same version of the library: what they share are
//! built-in types. So who counts holds a lock meanwhile; in one program, `Dict::update` would do.

use std::env;
use std::error::Error;

use multiprocess as mp;
use multiprocess::manager::{self, JoinableQueue, Lock};

type Counts = mp::Dict<String, u64>;

fn serve(address: &str, key: &mp::AuthKey, text: &str) -> Result<(), Box<dyn Error>> {
    let manager = mp::Manager::serve(address, key)?;
    let words = manager.joinable_queue::<String>(0)?;
    words.put_many(text.split_whitespace().map(str::to_string))?;
    let counts: Counts = manager.dict()?;
    manager.publish("words", &words)?;
    manager.publish("counts", &counts)?;
    manager.publish("lock", &manager.lock()?)?;
    println!("at {}", manager.address().expect("it listens"));
    words.join()?;
    println!("{counts}");
    Ok(())
}

/// Counts until there is nothing left to count.
fn work(address: &str, key: &mp::AuthKey) -> Result<(), Box<dyn Error>> {
    let manager = mp::Manager::connect(address, key)?;
    let counts: Counts = manager.find("counts")?;
    let lock: Lock = manager.find("lock")?;
    let count = |word: String| -> manager::Result<()> {
        let _guard = lock.lock()?;
        let before = counts.get(&word)?.unwrap_or(0);
        counts.insert(word, before + 1)?;
        Ok(())
    };
    let words: JoinableQueue<String> = manager.find("words")?;
    while let Ok(word) = words.try_get() {
        count(word)?;
        words.task_done()?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    mp::init();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let key = env::var("MANAGER_KEY").map_err(|_| "set MANAGER_KEY to a secret")?;
    let key = mp::AuthKey::new(key.as_bytes())?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address, text] => serve(address, &key, text),
        ["work", address] => work(address, &key),
        _ => Err("serve ADDRESS TEXT, or work ADDRESS".into()),
    }
}
