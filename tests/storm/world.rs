//! What the processes of the storm share, and what each kind of them does until it is killed.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::manager;
use multiprocess::sync::{Error as SyncError, TryLockError, TryLockResult};
use serde::{Deserialize, Serialize};

/// How long one wait may take before it counts as hung.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) struct Dice(u64);

impl Dice {
    /// A sequence of its own for each seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        dice.below(1);
        dice.below(1);
        dice
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

pub(crate) fn busy(micros: u64) {
    let end = Instant::now() + Duration::from_micros(micros);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// An item or message: its number, who made it, and a body that follows from the number.
#[derive(Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) id: u64,
    pub(crate) by: u64,
    body: Vec<u8>,
}

impl Item {
    pub(crate) fn new(id: u64, by: u64) -> Self {
        Self { id, by, body: vec![id as u8; Self::len(id)] }
    }

    fn len(id: u64) -> usize {
        // Mostly within a slot or a ring, now and then far beyond.
        match id % 97 {
            0 => 40_000,
            n => n as usize,
        }
    }

    pub(crate) fn check(&self) {
        let whole = self.body.len() == Self::len(self.id)
            && self.body.iter().all(|byte| *byte == self.id as u8);
        assert!(whole, "item {} of {} is torn", self.id, self.by);
    }
}

// What became of an item, in its cell of the table: announced, put, done, and how often it was seen.
pub(crate) const ANNOUNCED: u32 = 1;
pub(crate) const PUT: u32 = 2;
pub(crate) const DONE: u32 = 4;
pub(crate) const SEEN: u32 = 8;

/// Cells that a lock guards: two equal numbers, and who is inside.
type Guarded = mp::RawArray<AtomicU64>;

/// How many places there are for victims.
pub(crate) const PLACES: usize = 16;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct World {
    pub(crate) lock: mp::Lock,
    pub(crate) rlock: mp::RLock,
    pub(crate) condition: mp::Condition,
    /// For the three above, in turn.
    pub(crate) guarded: Guarded,
    pub(crate) mutex: mp::Mutex<[u64; 2]>,
    pub(crate) rwlock: mp::RwLock<[u64; 2]>,
    pub(crate) value: mp::Value<[u64; 2]>,
    pub(crate) array: mp::Array<u64>,
    pub(crate) semaphore: mp::Semaphore,
    pub(crate) event: mp::Event,
    pub(crate) barrier: mp::Barrier,
    /// From processes that are killed to processes that are killed.
    pub(crate) queue: mp::Queue<Item>,
    /// From processes that are killed to one that is not.
    pub(crate) inbox: mp::Queue<Item>,
    /// As `queue`; whoever gets one says that it is done.
    pub(crate) tasks: mp::JoinableQueue<Item>,
    /// What became of each item.
    pub(crate) table: mp::RawArray<AtomicU32>,
    /// The number of the next item.
    pub(crate) next: mp::RawValue<AtomicU64>,
    /// Turns under each kind of lock that were ended.
    pub(crate) turns: mp::RawArray<AtomicU64>,
    /// For each place, what its process has done, so that one that hangs is found.
    pub(crate) beats: mp::RawArray<AtomicU64>,
    /// For each place, a number whose meaning is its kind's.
    pub(crate) notes: mp::RawArray<AtomicU64>,
}

/// Which queue an item goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Queue,
    /// Where no reader is killed, so that none may be missing.
    Inbox,
    Tasks,
}

impl Way {
    pub(crate) fn of(id: u64) -> Self {
        match id % 4 {
            0 => Self::Queue,
            2 => Self::Tasks,
            _ => Self::Inbox,
        }
    }
}

/// Kinds of locks.
pub(crate) const LOCKS: usize = 7;
/// How many permits the semaphore has.
pub(crate) const PERMITS: u32 = 2;

impl World {
    pub(crate) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Self {
            lock: mp::Lock::new()?,
            rlock: mp::RLock::new()?,
            condition: mp::Condition::new()?,
            guarded: Guarded::zeroed(9)?,
            mutex: mp::Mutex::new([0; 2])?,
            rwlock: mp::RwLock::new([0; 2])?,
            value: mp::Value::new([0; 2])?,
            array: mp::Array::zeroed(64)?,
            semaphore: mp::Semaphore::new(PERMITS)?,
            event: mp::Event::new()?,
            barrier: mp::Barrier::new(2)?,
            queue: mp::Queue::unbounded()?,
            inbox: mp::Queue::bounded(32)?,
            tasks: mp::JoinableQueue::unbounded()?,
            table: mp::RawArray::zeroed(1 << 20)?,
            next: mp::RawValue::new(AtomicU64::new(0))?,
            turns: mp::RawArray::zeroed(LOCKS)?,
            beats: mp::RawArray::zeroed(PLACES)?,
            notes: mp::RawArray::zeroed(PLACES)?,
        })
    }

    /// One turn under the lock of that kind: what it guards is whole, or its holder's death is told.
    pub(crate) fn turn(&self, kind: usize, dice: &mut Dice) {
        let long = if dice.below(8) == 0 { dice.below(60) } else { 0 };
        match kind {
            0 => {
                let (_guard, died) = news(self.lock.lock_timeout(HANG));
                self.inside(kind, died, long);
            }
            1 => {
                let (_guard, died) = news(self.rlock.lock_timeout(HANG));
                let again = news(self.rlock.lock_timeout(HANG));
                self.inside(kind, died || again.1, long);
            }
            2 => {
                let (mut guard, died) = news(self.condition.lock_timeout(HANG));
                self.inside(kind, died, long);
                if dice.below(2) == 0 {
                    self.condition.notify_all();
                } else {
                    let wait = Duration::from_micros(dice.below(1000));
                    let (again, died) = match self.condition.wait_timeout(guard, wait) {
                        Ok((guard, _)) => (guard, false),
                        Err(died) => (died.into_inner().0, true),
                    };
                    guard = again;
                    self.inside(kind, died, 0);
                }
                drop(guard);
            }
            3 => {
                let (mut guard, died) = news(self.mutex.lock_timeout(HANG));
                pair(&mut guard, died, long);
            }
            4 if dice.below(3) == 0 => {
                let (mut guard, died) = news(self.rwlock.write_timeout(HANG));
                pair(&mut guard, died, long);
            }
            4 => {
                let (guard, died) = news(self.rwlock.read_timeout(HANG));
                let [one, two] = *guard;
                busy(long);
                assert!(*guard == [one, two], "written while it was read");
                assert!(one == two || died, "torn and nobody told: {one} {two}");
                return;
            }
            5 => {
                let (mut guard, died) = news(self.value.lock_timeout(HANG));
                pair(&mut guard, died, long);
            }
            _ => {
                let (mut guard, died) = news(self.array.lock_timeout(HANG));
                let most = guard.iter().copied().max().unwrap_or(0);
                let even = guard.iter().all(|number| *number == most);
                assert!(even || died, "an array is torn and nobody told");
                guard.fill(most + 1);
            }
        }
        self.turns[kind].fetch_add(1, SeqCst);
    }

    fn inside(&self, kind: usize, died: bool, long: u64) {
        let [one, two, who] = [0, 1, 2].map(|index| &self.guarded[kind * 3 + index]);
        let other = who.swap(u64::from(std::process::id()), SeqCst);
        assert!(other == 0 || died, "{other} is inside too");
        let (first, second) = (one.load(SeqCst), two.load(SeqCst));
        assert!(first == second || died, "torn and nobody told: {first} {second}");
        one.store(first + 1, SeqCst);
        busy(long);
        two.store(first + 1, SeqCst);
        who.store(0, SeqCst);
    }

    /// How many turns what each lock guards tells of.
    pub(crate) fn guarded_turns(&self) -> [u64; LOCKS] {
        // The larger number, where a turn was cut.
        let cell = |kind: usize| self.guarded[kind * 3].load(SeqCst);
        let first = |pair: [u64; 2]| pair[0];
        [
            cell(0),
            cell(1),
            cell(2),
            first(*news(self.mutex.lock_timeout(HANG)).0),
            first(*news(self.rwlock.write_timeout(HANG)).0),
            first(*news(self.value.lock_timeout(HANG)).0),
            news(self.array.lock_timeout(HANG)).0.iter().copied().max().unwrap_or(0),
        ]
    }

    /// Marks an item as seen; it must be whole, announced, and not seen before.
    pub(crate) fn see(&self, item: &Item) {
        item.check();
        let before = self.table[item.id as usize].fetch_add(SEEN, SeqCst);
        assert!(before & ANNOUNCED != 0, "item {} comes from nowhere", item.id);
        assert!(before < SEEN, "item {} comes twice", item.id);
    }

    /// Announces the next item, while there is room in the table.
    pub(crate) fn announce(&self) -> Option<u64> {
        let id = self.next.fetch_add(1, SeqCst);
        // The last cell is for the mark.
        let cell = self.table[..self.table.len() - 1].get(id as usize)?;
        cell.store(ANNOUNCED, SeqCst);
        Some(id)
    }

    /// An item that ends an epoch, and its cell.
    pub(crate) fn mark(&self) -> (Item, &AtomicU32) {
        let id = self.table.len() - 1;
        self.table[id].store(ANNOUNCED, SeqCst);
        (Item::new(id as u64, 0), &self.table[id])
    }

    /// Puts an item into the queue that its number says.
    pub(crate) fn put(&self, item: Item) -> Result<(), mp::queue::Error> {
        let put = match Way::of(item.id) {
            Way::Queue => self.queue.put_timeout(item, HANG),
            Way::Inbox => self.inbox.put_timeout(item, HANG),
            Way::Tasks => self.tasks.put_timeout(item, HANG),
        };
        put.map_err(|refused| refused.reason)
    }

    /// Says that a task is done.
    pub(crate) fn finish(&self, id: u64) -> Result<(), mp::queue::Error> {
        self.tasks.task_done()?;
        self.table[id as usize].fetch_or(DONE, SeqCst);
        Ok(())
    }

    pub(crate) fn acknowledge(&self, id: u64) {
        self.table[id as usize].fetch_or(PUT, SeqCst);
    }

    /// Tells that the process at `place` lives, and lets others run: that there are more processes than CPUs is
    /// wanted, that each start waits for all of them is not.
    fn beat(&self, place: usize, dice: &mut Dice) {
        self.beats[place].fetch_add(1, SeqCst);
        if dice.below(2) == 0 {
            thread::sleep(Duration::from_micros(dice.below(600)));
        }
    }
}

/// The guard, and whether its last holder died.
pub(crate) fn news<G>(result: TryLockResult<G>) -> (G, bool) {
    match result {
        Ok(guard) => (guard, false),
        Err(TryLockError::Poisoned(died)) => (died.into_inner(), true),
        Err(error) => panic!("no lock within {HANG:?}: {error}"),
    }
}

fn pair(pair: &mut [u64; 2], died: bool, long: u64) {
    assert!(pair[0] == pair[1] || died, "torn and nobody told: {pair:?}");
    pair[0] += 1;
    busy(long);
    pair[1] = pair[0];
}

/// Takes turns under all kinds of locks.
pub(crate) fn locker(world: World, place: usize, seed: u64) {
    let mut dice = Dice::new(seed);
    loop {
        world.beat(place, &mut dice);
        match dice.below(LOCKS as u64 + 3) as usize {
            kind @ 0..LOCKS => world.turn(kind, &mut dice),
            LOCKS => {
                let permit = world.semaphore.permit_timeout(HANG).expect("a permit");
                busy(dice.below(30));
                drop(permit);
            }
            8 => match dice.below(3) {
                0 => world.event.set(),
                1 => world.event.clear(),
                _ => {
                    world.event.wait_timeout(Duration::from_micros(300)).expect("waits");
                }
            },
            _ => match world.barrier.wait_timeout(Duration::from_micros(dice.below(2000))) {
                Ok(index) => assert!(index < 2),
                Err(SyncError::TimedOut) => {}
                Err(SyncError::Broken) => world.barrier.reset().expect("resets"),
                Err(error) => panic!("a barrier says {error}"),
            },
        }
    }
}

/// Puts items into the queues.
pub(crate) fn producer(world: World, place: usize, seed: u64) {
    let mut dice = Dice::new(seed);
    loop {
        world.beat(place, &mut dice);
        if world.queue.len() > 2000 || world.tasks.len() > 2000 {
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        let Some(id) = world.announce() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        if let Err(error) = world.put(Item::new(id, seed)) {
            panic!("item {id} is refused: {error}");
        }
        world.acknowledge(id);
        busy(dice.below(40));
    }
}

/// Gets what is in the queue.
pub(crate) fn consumer(world: World, place: usize, seed: u64) {
    let mut dice = Dice::new(seed);
    loop {
        world.beat(place, &mut dice);
        match world.queue.get_timeout(Duration::from_millis(100)) {
            Ok(item) => world.see(&item),
            Err(mp::queue::Error::TimedOut) => {}
            Err(error) => panic!("a queue says {error}"),
        }
        busy(dice.below(30));
    }
}

/// Gets tasks, says that they are done, and now and then waits until all are.
pub(crate) fn doer(world: World, place: usize, seed: u64) {
    let mut dice = Dice::new(seed);
    loop {
        world.beat(place, &mut dice);
        match world.tasks.get_timeout(Duration::from_millis(100)) {
            Ok(item) => {
                world.see(&item);
                busy(dice.below(30));
                world.finish(item.id).expect("it is not done yet");
            }
            Err(mp::queue::Error::TimedOut) => {}
            Err(error) => panic!("a queue says {error}"),
        }
        if dice.below(16) == 0 {
            match world.tasks.join_timeout(Duration::from_micros(dice.below(600))) {
                Ok(()) | Err(mp::queue::Error::TimedOut) => {}
                Err(error) => panic!("a queue says {error}"),
            }
        }
    }
}

/// Sends back what it receives.
pub(crate) fn echo(peer: mp::Connection<Item, Item>, world: World, place: usize, seed: u64) {
    let mut dice = Dice::new(seed);
    while let Ok(item) = peer.recv() {
        item.check();
        world.beat(place, &mut dice);
        if peer.send(item).is_err() {
            break;
        }
    }
}

/// What clients of the manager use.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Objects {
    /// For each place, how much it has added.
    pub(crate) counts: mp::Dict<usize, u64>,
    pub(crate) lock: manager::Lock,
    pub(crate) pair: manager::Value<(u64, u64)>,
    pub(crate) items: manager::Queue<u64>,
}

impl Objects {
    pub(crate) fn new(manager: &mp::Manager) -> manager::Result<Self> {
        Ok(Self {
            counts: manager.dict()?,
            lock: manager.lock()?,
            pair: manager.value((0, 0))?,
            items: manager.queue(0)?,
        })
    }

    /// A turn under the manager's lock.
    pub(crate) fn turn(&self) -> manager::Result<()> {
        let guard = self.lock.lock_timeout(HANG)?;
        let (one, two) = self.pair.get()?;
        assert!(
            one == two || manager::LockGuard::owner_died(&guard),
            "torn and nobody told: {one} {two}"
        );
        self.pair.set((one + 1, two))?;
        self.pair.set((one + 1, one + 1))
    }
}

/// Calls the manager until that dies, or this process does.
pub(crate) fn client(objects: Objects, world: World, place: usize, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut work = || -> manager::Result<()> {
        // Its predecessor's last word may not have been noted.
        let stored = objects.counts.get_or_insert(place, 0)?;
        world.notes[place].store(stored, SeqCst);
        loop {
            world.beat(place, &mut dice);
            let after =
                objects.counts.update(&place, |n: &mut u64| std::mem::replace(n, *n + 1), ())?;
            world.notes[place].store(after + 1, SeqCst);
            objects.turn()?;
            if let Err(refused) = objects.items.put(after) {
                return Err(refused.reason);
            }
            match objects.items.get_timeout(Duration::from_millis(1)) {
                Ok(_) | Err(manager::Error::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    };
    match work() {
        Err(manager::Error::ServerDied) => {}
        other => panic!("a client got {other:?}"),
    }
}

fn sleep_for_ever() {
    loop {
        thread::park();
    }
}

/// Has a family of its own: a daemon, and children that come and go.
pub(crate) fn parent(world: World, place: usize, seed: u64) {
    let mut dice = Dice::new(seed);
    let daemon =
        mp::Process::new(sleep_for_ever, ()).daemon(true).start().expect("a daemon starts");
    world.notes[place].store(daemon.pid().into(), SeqCst);
    for n in 0.. {
        let child = mp::Process::new(|n: u64| n + 1, (n,)).start().expect("a child starts");
        assert_eq!(child.result().expect("a child ends well"), n + 1);
        assert!(daemon.is_alive());
        world.beat(place, &mut dice);
        thread::sleep(Duration::from_millis(5));
    }
}

/// In workers of the pool: how often each task ran.
static RAN: OnceLock<mp::RawArray<AtomicU32>> = OnceLock::new();

pub(crate) fn prepare(ran: mp::RawArray<AtomicU32>) {
    assert!(RAN.set(ran).is_ok(), "prepared twice");
}

/// A task: some hundred microseconds, and now and then a large result.
pub(crate) fn task(n: u64) -> Item {
    let ran = RAN.get().expect("the worker is prepared");
    ran[n as usize % ran.len()].fetch_add(1, SeqCst);
    busy(n % 7 * 20);
    if n.is_multiple_of(5) {
        thread::sleep(Duration::from_micros(n % 700));
    }
    Item::new(n, 0)
}
