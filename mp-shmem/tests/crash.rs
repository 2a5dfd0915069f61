//! A process that is killed at each named step of a change, and what the others find.
//!
//! `RUSTFLAGS="--cfg mp_crash" cargo test -p mp-shmem --test crash`; in other builds there are no such steps,
//! and nothing is tested here. The steps are those that the sources name; one that is never reached fails.

#[cfg(not(mp_crash))]
fn main() {}

#[cfg(mp_crash)]
fn main() {
    scenes::main();
}

#[cfg(mp_crash)]
mod scenes {
    use std::sync::atomic::Ordering::SeqCst;

    use mp_core::testing::steps::{Scene, Stage, tests};
    use mp_core::testing::{self, numbers};
    use mp_shmem::{Array, Lock, Value};

    const SCENES: &[Scene] = &[
        Scene { name: "who updates a value", play: updates },
        Scene { name: "who sets an element", play: sets },
        Scene { name: "who comes after one who was killed in an update", play: comes_after },
    ];

    const SOURCES: &[&str] = &[include_str!("../src/block.rs"), include_str!("../src/locked.rs")];

    pub(crate) fn main() {
        testing::run(tests(SCENES, SOURCES));
    }

    /// The number that all have; panics where they differ.
    fn whole<N: Copy + PartialEq>(numbers: &[N]) -> N {
        assert!(numbers.iter().all(|number| *number == numbers[0]), "torn");
        numbers[0]
    }

    /// Looks whether what is there is what the victim had done: all of what it had begun, from the step on.
    fn check(stage: &Stage, now: u64, [begun, done]: [u64; 2]) {
        let before = stage.step() == Some("replace: the spare element is written");
        assert_eq!(now, if before { done } else { begun });
    }

    const TIMES: u64 = 10;

    fn updates(stage: &Stage) {
        let value = Value::new([0_u64; 100]).unwrap();
        let progress = numbers(2);
        let victim = stage.victim(|| {
            for _ in 0..TIMES {
                progress[0].fetch_add(1, SeqCst);
                value.update(|numbers| numbers.iter_mut().for_each(|number| *number += 1));
                progress[1].fetch_add(1, SeqCst);
            }
        });
        if stage.ends(victim) {
            let progress = [0, 1].map(|index| progress[index].load(SeqCst));
            check(stage, whole(&value.get()), progress);
            let guard = value.lock();
            whole(&*guard);
        }
        value.update(|numbers| numbers[7] = 77);
        assert_eq!(value.get()[7], 77);
    }

    fn sets(stage: &Stage) {
        let lock = Lock::new().unwrap();
        let array = Array::with_lock(&[[0_u8; 3]; 5], &lock).unwrap();
        let progress = numbers(2);
        let victim = stage.victim(|| {
            for number in 1..=TIMES {
                progress[0].store(number, SeqCst);
                array.set(4, [number as u8; 3]).unwrap();
                progress[1].store(number, SeqCst);
            }
        });
        if stage.ends(victim) {
            let progress = [0, 1].map(|index| progress[index].load(SeqCst));
            // The lock tells of the death whoever takes it first, and that is not the array.
            drop(lock.lock());
            check(stage, whole(&array.get(4).unwrap()).into(), progress);
            assert!(array.iter().all(|element| whole(&element) == element[0]));
        }
        array.set(4, [50; 3]).unwrap();
        assert_eq!(array.to_vec(), [[0; 3], [0; 3], [0; 3], [0; 3], [50; 3]]);
    }

    fn comes_after(stage: &Stage) {
        let value = Value::new([1_u64; 100]).unwrap();
        let update = |by| value.update(|numbers| numbers.iter_mut().for_each(|n| *n *= by));
        stage.dies_at("replace: the journal has it", 1, || update(10));
        let victim = stage.victim(|| update(3));
        let killed = stage.ends(victim);
        let committed = !killed
            || !["redo: the element is written", "replace: the spare element is written"]
                .contains(&stage.step().unwrap());
        assert_eq!(whole(&value.get()), if committed { 30 } else { 10 });
    }
}
