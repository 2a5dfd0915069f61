//! Another program, which uses all that a manager has: `tests/main.rs` serves it and looks what became of it.
//!
//! It has nothing of that program but the list of what is to be done.

mod builtins;

use std::env;
use std::error::Error;

use builtins::{check_collections, collections, locks, use_collections, use_locks};
use multiprocess::manager::{Event, Result};
use multiprocess::{AuthKey, Dict, List, Manager, Process};

/// Uses what it finds at the manager of another program, and what it makes there, which it leaves to be found.
fn use_all(manager: &Manager) -> Result<()> {
    use_collections(manager, &manager.find("collections")?)?;
    use_locks(&manager.find("locks")?)?;
    let own = collections(manager)?;
    use_collections(manager, &own)?;
    check_collections(&own)?;
    let made = collections(manager)?;
    use_collections(manager, &made)?;
    use_locks(&locks(manager)?)?;
    manager.publish("made", &made)?;
    // A child of a stranger is one too.
    let task = |dict: Dict<String, List<i32>>, event: Event| {
        dict.get(&"a".to_string()).unwrap().expect("a list").push(3).unwrap();
        event.set().unwrap();
    };
    let event = manager.event()?;
    let list = made.7.get(&"a".into())?.expect("a list");
    let child = Process::new(task, (made.7.clone(), event.clone())).start().expect("starts");
    event.wait()?;
    child.result().expect("ends well");
    assert_eq!(list.to_vec()?, [1, 2, 3]);
    assert_eq!(list.pop()?, Some(3));
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    multiprocess::init();
    let address = env::args().nth(1).ok_or("say the manager's address")?;
    let key = AuthKey::new(env::var("MANAGER_KEY")?.as_bytes())?;
    Ok(use_all(&Manager::connect(address.as_str(), &key)?)?)
}
