//! A manager: a dict and a list that ten processes change.
//!
//! `cargo run --release --example manager`
//!
//! Prints, up to the order in which the processes come:
//!
//! ```text
//! {0: '1', '2': 2, 1: '1', 2: '1', 3: '1', 4: '1', 5: '1', 6: '1', 7: '1', 8: '1', 9: '1'}
//! [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
//! ```

use multiprocess as mp;
use multiprocess::{Dict, List, Manager, Object, Process};

fn f(d: Dict<Object, Object>, l: List<i32>, n: i32) {
    let change = || -> mp::manager::Result<()> {
        d.insert(n.into(), "1".into())?;
        d.insert("2".into(), 2.into())?;
        l.push(n)
    };
    change().expect("the manager lives for as long as its children");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mp::init();
    let manager = Manager::new()?;
    let d = manager.dict::<Object, Object>()?;
    let l = manager.list(0..5)?;

    let mut children = Vec::new();
    for n in 0..10 {
        children.push(Process::new(f, (d.clone(), l.clone(), n)).start()?);
    }
    for child in children {
        child.result()?;
    }

    println!("{d}");
    println!("{l}");
    Ok(())
}
