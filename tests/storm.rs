//! A kill storm over everything at once: locks, queues, pipes, a manager, a pool and families of processes, all
//! under load, of which one at random is killed every few milliseconds.
//!
//! After each kill what the victim had to do with is looked at; after every few hundred, when all were killed,
//! every item is accounted for and nothing may be left over. `cargo test -p multiprocess --test storm`; behind `--`, `--long` is for
//! a million kills, `--kills N` for so many, `--seed N` repeats the choices of a run (not its timing).
#![allow(unsafe_code, reason = "signals for the test's own processes")]

#[path = "support/leak.rs"]
mod leak;
#[path = "support/watchdog.rs"]
#[allow(dead_code, reason = "shared with the suite")]
mod watchdog;
#[path = "storm/world.rs"]
mod world;

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::{Arguments, Failed, Trial};
use multiprocess as mp;
use multiprocess::{Child, Manager, Pool, Process, TaskError};

use leak::Inventory;
use world::{ANNOUNCED, DONE, Dice, HANG, Item, Objects, PERMITS, PLACES, PUT, SEEN, Way, World};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The first argument of this program where it is the storm itself.
const STORM: &str = "--mp-storm";
const KILLS: u64 = 10_000;
const LONG: u64 = 1_000_000;
/// So many kills, and all is brought to rest and counted.
const EPOCH: u64 = 500;

fn main() -> ExitCode {
    mp::init();
    let mut arguments: Vec<String> = env::args().collect();
    if arguments.get(1).is_some_and(|first| first == STORM) {
        let number = |index: usize| arguments[index].parse().expect("a number");
        let result = Storm::new(number(3)).and_then(|storm| storm.blow(number(2)));
        return match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    // Ours first, the rest is for the harness.
    let kills = if take(&mut arguments, "--long", false).is_some() { LONG } else { KILLS };
    let kills = take(&mut arguments, "--kills", true).map_or(kills, |n| n.parse().expect("kills"));
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    let seed = take(&mut arguments, "--seed", true).map_or(now, |n| n.parse().expect("a seed"));
    let trial = Trial::test("storm_over_everything", move || in_a_process(kills, seed));
    libtest_mimic::run(&Arguments::from_iter(arguments), vec![trial]).exit_code()
}

/// Takes an argument of ours out; gives what stands behind it, or itself.
fn take(arguments: &mut Vec<String>, name: &str, has_value: bool) -> Option<String> {
    let index = arguments.iter().position(|argument| argument == name)?;
    let name = arguments.remove(index);
    Some(if has_value { arguments.remove(index) } else { name })
}

/// In a process group of its own, watched from outside.
fn in_a_process(kills: u64, seed: u64) -> Result<(), Failed> {
    eprintln!("{kills} kills, seed {seed}");
    let mut command = Command::new("/proc/self/exe");
    command.args([STORM, &kills.to_string(), &seed.to_string()]);
    command.stdin(Stdio::null()).process_group(0).env("RUST_BACKTRACE", "0");
    // A thirtieth of the pace it has where nothing else runs.
    let limit = Duration::from_millis(kills * 200) + Duration::from_secs(300);
    let child = command.spawn()?;
    watchdog::watch(child, limit).map_err(|why| format!("{why}; seed {seed}").into())
}

/// What can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Locker,
    Producer,
    Consumer,
    Doer,
    Echo,
    Client,
    Parent,
    Worker,
    Manager,
    ForkServer,
}

/// Who stands at which place.
const CAST: [Kind; 14] = [
    Kind::Locker,
    Kind::Locker,
    Kind::Locker,
    Kind::Producer,
    Kind::Producer,
    Kind::Consumer,
    Kind::Consumer,
    Kind::Doer,
    Kind::Doer,
    Kind::Echo,
    Kind::Echo,
    Kind::Client,
    Kind::Client,
    Kind::Parent,
];
const _: () = assert!(CAST.len() <= PLACES);

/// What threads of this process find wrong.
type Faults = Arc<Mutex<Vec<String>>>;

/// One victim and what belongs to it.
struct Victim {
    kind: Kind,
    child: Child<()>,
    /// Who talks with an echo; ends with it.
    partner: Option<JoinHandle<u64>>,
    /// What it had done when it was last looked at, and when that was less.
    beat: (u64, Instant),
    /// How many fork servers had been killed when it was started.
    of_server: u64,
}

struct Storm {
    seed: u64,
    dice: Dice,
    world: World,
    victims: Vec<Option<Victim>>,
    manager: Manager,
    objects: Objects,
    pool: Arc<Pool>,
    ran: mp::RawArray<AtomicU32>,
    next_task: Arc<AtomicU64>,
    kills: BTreeMap<Kind, u64>,
    incarnation: u64,
    faults: Faults,
    counts: Arc<Counts>,
    /// Of clients of a manager that was killed.
    acknowledged: [u64; PLACES],
    /// How many of each kind had been killed when all was at rest last.
    at_last_rest: BTreeMap<Kind, u64>,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    items: AtomicU64,
    messages: AtomicU64,
    tasks: AtomicU64,
    lost_tasks: AtomicU64,
    /// Items that their takers had not done when they were killed.
    unfinished: AtomicU64,
    worker_kills: AtomicU64,
}

/// Runs `work` on a thread; a panic of it is a fault.
fn watched<R: Send + 'static>(
    faults: &Faults,
    work: impl FnOnce() -> R + Send + 'static,
) -> JoinHandle<R> {
    struct Told(Faults);
    impl Drop for Told {
        fn drop(&mut self) {
            if thread::panicking() {
                let name = thread::current().name().unwrap_or("?").to_string();
                self.0.lock().unwrap_or_else(|error| error.into_inner()).push(name);
            }
        }
    }
    let told = Told(Arc::clone(faults));
    thread::spawn(move || {
        let _told = told;
        work()
    })
}

impl Storm {
    fn new(seed: u64) -> Outcome<Self> {
        let manager = Manager::new()?;
        let objects = Objects::new(&manager)?;
        let ran = mp::RawArray::zeroed(1 << 12)?;
        let pool =
            Pool::builder().workers(2).initializer(world::prepare, (ran.clone(),)).build()?;
        Ok(Self {
            seed,
            dice: Dice::new(seed),
            world: World::new()?,
            victims: CAST.iter().map(|_| None).collect(),
            manager,
            objects,
            pool: Arc::new(pool),
            ran,
            next_task: Arc::default(),
            kills: BTreeMap::new(),
            incarnation: seed << 32,
            faults: Faults::default(),
            counts: Arc::default(),
            acknowledged: [0; PLACES],
            at_last_rest: BTreeMap::new(),
        })
    }

    fn blow(mut self, kills: u64) -> Outcome {
        let start = Instant::now();
        let inbox = self.read_inbox();
        let tasks = self.submit_tasks();
        let mut rest: Option<(Inventory, u64)> = None;
        while self.killed() < kills {
            let end = (self.killed() + EPOCH).min(kills);
            for place in 0..CAST.len() {
                self.start(place)?;
            }
            while self.killed() < end {
                thread::sleep(Duration::from_micros(self.dice.below(4000)));
                let after = self.killed();
                self.kill_one().map_err(|error| format!("after {after} kills: {error}"))?;
                self.look_for_faults()?;
            }
            let after = self.killed();
            self.bring_to_rest()
                .map_err(|error| format!("at rest after {after} kills: {error}"))?;
            let memory = resident_kib();
            match &rest {
                // All that comes to be with the first of each kind is there after a few.
                None if self.killed() >= 2 * EPOCH => rest = Some((Inventory::take(), memory)),
                None => {}
                Some((before, _)) => {
                    before.compare(HANG).map_err(|left| format!("left behind: {left}"))?;
                }
            }
            if self.killed() % 50_000 < EPOCH {
                eprintln!("{} kills in {:?}, {memory} KiB", self.killed(), start.elapsed());
            }
        }
        self.counts.stop.store(true, SeqCst);
        self.world.inbox.close();
        let last = Instant::now();
        for thread in [inbox, tasks] {
            while !thread.is_finished() {
                assert!(last.elapsed() < HANG * 2, "a thread of the storm hangs");
                thread::sleep(Duration::from_millis(1));
            }
            thread.join().map_err(|_| "a thread panicked, see above")?;
        }
        self.look_for_faults()?;
        let (counts, memory) = (&self.counts, resident_kib());
        if let Some((_, first)) = rest {
            // A heap that has its size moves by a little; what leaks by the kill moves by more.
            let room = 4096 + self.killed() / 100;
            if memory > first + room {
                return Err(format!("{memory} KiB at the end, {first} KiB at first").into());
            }
        }
        let [items, messages, tasks, lost] =
            [&counts.items, &counts.messages, &counts.tasks, &counts.lost_tasks]
                .map(|count| count.load(SeqCst));
        let turns = self.world.guarded_turns();
        println!(
            "{} kills in {:.1?}, seed {}: {:?}\n{} turns under locks {turns:?}, {items} items of which {} were taken \
             and not done, {messages} messages, {tasks} tasks of which {lost} were lost to {} kills of workers; {memory} KiB",
            self.killed(),
            start.elapsed(),
            self.seed,
            self.kills,
            turns.iter().sum::<u64>(),
            counts.unfinished.load(SeqCst),
            counts.worker_kills.load(SeqCst),
        );
        // That there was a storm at all.
        let least = self.killed();
        if items < least || messages < least || tasks < least || turns.iter().sum::<u64>() < least {
            return Err("hardly anything was done".into());
        }
        Ok(())
    }

    fn killed(&self) -> u64 {
        self.kills.values().sum()
    }

    fn look_for_faults(&mut self) -> Outcome {
        let faults = self.faults.lock().unwrap_or_else(|error| error.into_inner());
        if !faults.is_empty() {
            return Err(format!("found by {faults:?}, see above").into());
        }
        drop(faults);
        for (place, victim) in self.victims.iter_mut().enumerate() {
            let Some(victim) = victim else { continue };
            let beat = self.world.beats[place].load(SeqCst);
            if beat != victim.beat.0 {
                victim.beat = (beat, Instant::now());
            }
            let (pid, kind) = (victim.child.pid(), victim.kind);
            if victim.beat.1.elapsed() > HANG {
                return Err(
                    format!("the {kind:?} {pid} hangs\n{}", watchdog::describe_one(pid)).into()
                );
            }
            if !victim.child.is_alive() {
                return Err(format!("the {kind:?} {pid} ended by itself, see above").into());
            }
        }
        Ok(())
    }

    fn start(&mut self, place: usize) -> Outcome {
        self.incarnation += 1;
        let (kind, seed, world) = (CAST[place], self.incarnation, self.world.clone());
        let mut partner = None;
        self.world.notes[place].store(0, SeqCst);
        let process = match kind {
            Kind::Locker => Process::new(world::locker, (world, place, seed)),
            Kind::Producer => Process::new(world::producer, (world, place, seed)),
            Kind::Consumer => Process::new(world::consumer, (world, place, seed)),
            Kind::Doer => Process::new(world::doer, (world, place, seed)),
            Kind::Echo => {
                let (here, there) = mp::duplex()?;
                let counts = Arc::clone(&self.counts);
                partner = Some(watched(&self.faults, move || talk(&here, seed, &counts)));
                Process::new(world::echo, (there, world, place, seed))
            }
            Kind::Client => Process::new(world::client, (self.objects.clone(), world, place, seed)),
            _ => Process::new(world::parent, (world, place, seed)),
        };
        let child = process.daemon(kind != Kind::Parent).start()?;
        let beat = (self.world.beats[place].load(SeqCst), Instant::now());
        let of_server = self.kills.get(&Kind::ForkServer).copied().unwrap_or(0);
        self.victims[place] = Some(Victim { kind, child, partner, beat, of_server });
        Ok(())
    }

    fn kill_one(&mut self) -> Outcome {
        match self.dice.below(1000) {
            0..4 => self.kill_manager(),
            4..12 => self.kill_fork_server(),
            12..160 => self.kill_worker(),
            _ => {
                let place = self.dice.below(CAST.len() as u64) as usize;
                self.kill(place)?;
                self.start(place)
            }
        }
    }

    fn count(&mut self, kind: Kind) {
        *self.kills.entry(kind).or_default() += 1;
    }

    /// Kills the process at `place` and looks at what it had to do with.
    fn kill(&mut self, place: usize) -> Outcome {
        let Victim { kind, child, partner, of_server, .. } =
            self.victims[place].take().ok_or("nobody there")?;
        self.count(kind);
        child.kill()?;
        let status = child.join_timeout(HANG)?.ok_or("a killed process has not ended")?;
        // Who would know how it ended may have been killed.
        let unknown = of_server != self.kills.get(&Kind::ForkServer).copied().unwrap_or(0);
        if status.signal() != Some(libc::SIGKILL) && !(unknown && status.exit_code().is_none()) {
            return Err(format!("the {kind:?} {} ended by itself: {status}", child.pid()).into());
        }
        let (world, note) = (&self.world, self.world.notes[place].load(SeqCst));
        match kind {
            Kind::Locker => {
                for kind in 0..world::LOCKS {
                    world.turn(kind, &mut self.dice);
                }
                drop(world.semaphore.permit_timeout(HANG)?);
            }
            Kind::Producer | Kind::Consumer | Kind::Doer => {
                if let Some(id) = world.announce() {
                    world.put(Item::new(id, u64::MAX))?;
                    world.acknowledge(id);
                }
                take_one(world)?;
                finish_one(world)?;
            }
            Kind::Echo => {
                let partner = partner.ok_or("an echo without a partner")?;
                let start = Instant::now();
                while !partner.is_finished() {
                    if start.elapsed() > HANG {
                        return Err("the partner of a killed process hangs".into());
                    }
                    thread::sleep(Duration::from_micros(50));
                }
                partner.join().map_err(|_| "the partner of a killed process panicked")?;
            }
            Kind::Client => {
                self.acknowledged[place] = self.acknowledged[place].max(note);
                let stored = self.objects.counts.get(&place)?.unwrap_or(0);
                // It may have been killed before it noted the last one, or before it noted anything.
                let expected = self.acknowledged[place];
                if !(expected..=expected + 1).contains(&stored) {
                    return Err(format!("{stored} are stored of {expected} that were noted").into());
                }
                self.acknowledged[place] = stored;
                self.objects.turn()?;
            }
            _ => {
                // Its daemon ends with it.
                let start = Instant::now();
                while note != 0 && leak::runs(note as u32) {
                    if start.elapsed() > HANG {
                        return Err(format!("the daemon {note} outlives its parent").into());
                    }
                    thread::sleep(Duration::from_micros(100));
                }
            }
        }
        Ok(())
    }

    fn kill_worker(&mut self) -> Outcome {
        let pool = &self.pool;
        let workers = pool.workers();
        // None where the last ones are being replaced.
        if let Some(&pid) = workers.get(self.dice.below(workers.len().max(1) as u64) as usize) {
            self.counts.worker_kills.fetch_add(1, SeqCst);
            signal(pid);
            // Not yet running when it was killed, so it costs this one nothing.
            let n = self.next_task.fetch_add(1, SeqCst);
            let item = pool.apply_async(world::task, (n,)).get_timeout(HANG);
            item.map_err(|error| format!("a task after a kill: {error}"))?.check();
            self.ran[n as usize % self.ran.len()].store(0, SeqCst);
            self.count(Kind::Worker);
        }
        Ok(())
    }

    /// Then every call is an error, and there is another manager.
    fn kill_manager(&mut self) -> Outcome {
        self.count(Kind::Manager);
        signal(self.manager.pid());
        let start = Instant::now();
        loop {
            // The kill may take a moment to arrive.
            match self.objects.counts.len() {
                Err(mp::manager::Error::ServerDied) => break,
                Ok(_) if start.elapsed() < HANG => {}
                other => return Err(format!("of a killed server: {other:?}").into()),
            }
        }
        let clients = (0..CAST.len()).filter(|&place| CAST[place] == Kind::Client);
        for place in clients.clone() {
            let victim = self.victims[place].take().ok_or("nobody there")?;
            let ended =
                victim.child.join_timeout(HANG)?.ok_or("a client of a killed server hangs")?;
            if !ended.success() && ended.exit_code().is_some() {
                return Err(format!("a client of a killed server: {ended}").into());
            }
        }
        self.manager = Manager::new()?;
        self.objects = Objects::new(&self.manager)?;
        self.acknowledged = [0; PLACES];
        for place in clients {
            self.start(place)?;
        }
        Ok(())
    }

    /// Children outlive it, and the next start has another.
    fn kill_fork_server(&mut self) -> Outcome {
        let server = leak::children_of(std::process::id()).into_iter().find(|one| one.1 != 'Z');
        let (server, _) = server.ok_or("no fork server")?;
        signal(server);
        self.count(Kind::ForkServer);
        let start = Instant::now();
        while leak::runs(server) {
            if start.elapsed() > HANG {
                return Err("the killed fork server runs".into());
            }
            thread::yield_now();
        }
        let answer = Process::new(|n: u64| n + 1, (self.seed,)).start()?.result()?;
        if answer == self.seed + 1 { Ok(()) } else { Err("another result".into()) }
    }

    /// Kills all that is at a place, then accounts for every item, turn and permit.
    fn bring_to_rest(&mut self) -> Outcome {
        let mut order: Vec<usize> = (0..CAST.len()).collect();
        while !order.is_empty() {
            let next = self.dice.below(order.len() as u64) as usize;
            self.kill(order.swap_remove(next))?;
        }
        let world = &self.world;
        while take_one(world)? {}
        while finish_one(world)? {}
        // The last item of the inbox; once its reader has seen this one, it has seen all.
        let (mark, cell) = world.mark();
        world.inbox.put_timeout(mark, HANG).map_err(|refused| refused.reason)?;
        let start = Instant::now();
        while cell.swap(ANNOUNCED, SeqCst) < SEEN {
            if start.elapsed() > HANG {
                return Err("the last item does not come out of the inbox".into());
            }
            thread::sleep(Duration::from_micros(50));
        }
        let next = (world.next.load(SeqCst) as usize).min(world.table.len() - 1);
        // One that a consumer had got, and not yet noted, when it was killed; and so for tasks.
        let (mut in_hand, mut in_hands, mut undone) = (0, 0, 0);
        for (id, cell) in (0..).zip(&world.table[..next]) {
            let state = cell.load(SeqCst);
            if state >= 2 * SEEN {
                return Err(format!("item {id} was seen {} times", state / SEEN).into());
            }
            let missing = state & PUT != 0 && state < SEEN;
            match Way::of(id) {
                Way::Inbox if missing => {
                    return Err(format!("item {id}, which was put into the inbox, is lost").into());
                }
                Way::Inbox => {}
                Way::Queue => in_hand += u64::from(missing),
                Way::Tasks => {
                    in_hands += u64::from(missing);
                    undone += u64::from((state & PUT != 0 || state >= SEEN) && state & DONE == 0);
                }
            }
            self.counts.items.fetch_add(u64::from(state >= SEEN), SeqCst);
        }
        let before = std::mem::replace(&mut self.at_last_rest, self.kills.clone());
        let killed = |kind| self.kills[&kind] - before.get(&kind).copied().unwrap_or(0);
        for (gone, kind) in [(in_hand, Kind::Consumer), (in_hands, Kind::Doer)] {
            if gone > killed(kind) {
                let had = killed(kind);
                return Err(format!("{gone} items are gone with {had} killed: {kind:?}").into());
            }
        }
        self.end_what_was_lost(undone, killed(Kind::Doer), killed(Kind::Producer))?;
        let world = &self.world;
        if !(world.queue.is_empty() && world.inbox.is_empty() && world.tasks.is_empty()) {
            return Err("a drained queue is not empty".into());
        }
        world.table[..next].iter().for_each(|cell| cell.store(0, SeqCst));
        world.next.store(0, SeqCst);
        // Every turn that was ended is there, and at most one more for each kill.
        let kills = self.kills[&Kind::Locker];
        for (kind, counted) in world.guarded_turns().into_iter().enumerate() {
            let ended = world.turns[kind].load(SeqCst);
            if kind != 2 && !(ended..=ended + kills).contains(&counted) {
                return Err(format!("lock {kind}: {ended} turns ended, {counted} are there").into());
            }
        }
        let permits = (0..PERMITS).map(|_| world.semaphore.permit_timeout(HANG));
        let permits = permits.collect::<Result<Vec<_>, _>>()?;
        if world.semaphore.try_permit().is_ok() {
            return Err("there is a permit too many".into());
        }
        drop(permits);
        Ok(())
    }

    /// The queue is drained, and counts as unfinished what its takers had when they were killed: of `undone`, which
    /// nobody noted as done, all but what they were killed right after, and what producers had not noted to be put.
    /// Who waits for all to be done goes on once somebody has ended these in their place.
    fn end_what_was_lost(&self, undone: u64, doers: u64, producers: u64) -> Outcome {
        let tasks = &self.world.tasks;
        let lost = tasks.unfinished() as u64;
        let least = undone.saturating_sub(doers);
        if lost > doers || !(least..=undone + producers).contains(&lost) {
            return Err(format!("{lost} unfinished of {undone} undone, {doers} were killed").into());
        }
        let waiter = {
            let tasks = tasks.clone();
            watched(&self.faults, move || tasks.join().expect("ends"))
        };
        let moment = Duration::from_millis(1);
        match (lost, tasks.join_timeout(moment)) {
            (0, Ok(())) | (1.., Err(mp::queue::Error::TimedOut)) => {}
            (_, other) => return Err(format!("{lost} unfinished, and {other:?}").into()),
        }
        for _ in 0..lost {
            tasks.task_done()?;
        }
        let start = Instant::now();
        while !waiter.is_finished() {
            if start.elapsed() > HANG {
                return Err("all is done, and who waits for that hangs".into());
            }
            thread::sleep(Duration::from_micros(50));
        }
        waiter.join().map_err(|_| "who waited for all to be done panicked")?;
        self.counts.unfinished.fetch_add(lost, SeqCst);
        match tasks.task_done() {
            Err(mp::queue::Error::TooManyDone) => Ok(()),
            other => Err(format!("done once too often: {other:?}").into()),
        }
    }

    /// Reads what killed producers have put, in order.
    fn read_inbox(&self) -> JoinHandle<()> {
        let world = self.world.clone();
        watched(&self.faults, move || {
            let mut last = HashMap::new();
            loop {
                match world.inbox.get() {
                    Ok(item) => {
                        // The mark that ends an epoch: numbers begin again.
                        if item.by == 0 {
                            last.clear();
                        }
                        let before = last.insert(item.by, item.id);
                        assert!(before.is_none_or(|before| before < item.id), "out of order");
                        world.see(&item);
                    }
                    Err(mp::queue::Error::Closed) => return,
                    Err(error) => panic!("the inbox says {error}"),
                }
            }
        })
    }

    /// Keeps the pool busy.
    fn submit_tasks(&self) -> JoinHandle<()> {
        let (pool, ran, next, counts) = (
            Arc::clone(&self.pool),
            self.ran.clone(),
            Arc::clone(&self.next_task),
            Arc::clone(&self.counts),
        );
        watched(&self.faults, move || {
            while !counts.stop.load(SeqCst) {
                let first = next.fetch_add(32, SeqCst);
                let tasks = first..first + 32;
                let results: Vec<_> =
                    tasks.map(|n| (n, pool.apply_async(world::task, (n,)))).collect();
                for (n, result) in results {
                    let cell = &ran[n as usize % ran.len()];
                    match result.get_timeout(HANG) {
                        Ok(item) => {
                            item.check();
                            assert!(item.id == n, "the result of another task");
                            assert_eq!(cell.swap(0, SeqCst), 1, "task {n} ran so many times");
                        }
                        Err(TaskError::WorkerDied { exit_code, .. }) => {
                            let code = exit_code.unwrap_or(-libc::SIGKILL);
                            assert_eq!(code, -libc::SIGKILL, "a worker ended by itself");
                            counts.lost_tasks.fetch_add(1, SeqCst);
                            assert!(cell.swap(0, SeqCst) <= 1, "a lost task ran twice");
                        }
                        Err(error) => panic!("task {n}: {error}"),
                    }
                    counts.tasks.fetch_add(1, SeqCst);
                }
                let (lost, kills) = (&counts.lost_tasks, &counts.worker_kills);
                assert!(lost.load(SeqCst) <= kills.load(SeqCst), "a kill costs more than a task");
            }
        })
    }
}

/// Gets an item of the queue; says whether there was one.
fn take_one(world: &World) -> Outcome<bool> {
    match world.queue.try_get() {
        Ok(item) => world.see(&item),
        Err(mp::queue::Error::Empty) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// As [`take_one`], a task, which is done then.
fn finish_one(world: &World) -> Outcome<bool> {
    match world.tasks.try_get() {
        Ok(item) => {
            world.see(&item);
            world.finish(item.id)?;
        }
        Err(mp::queue::Error::Empty) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// Talks with an echo until that is killed; says how many messages came back.
fn talk(peer: &mp::Connection<Item, Item>, seed: u64, counts: &Counts) -> u64 {
    let mut dice = Dice::new(seed);
    let (mut sent, mut back) = (0, 0);
    loop {
        let ahead = dice.below(4);
        while sent < back + 1 + ahead {
            match peer.send(Item::new(sent, seed)) {
                Ok(()) => sent += 1,
                Err(error) => {
                    assert!(matches!(error.reason, mp::pipe::Error::Disconnected), "{error}");
                    break;
                }
            }
        }
        match peer.recv() {
            Ok(item) => {
                item.check();
                assert_eq!((item.id, item.by), (back, seed), "another message than was sent");
                back += 1;
                counts.messages.fetch_add(1, SeqCst);
            }
            Err(error) => {
                assert!(matches!(error, mp::pipe::Error::Disconnected), "{error}");
                return back;
            }
        }
        thread::sleep(Duration::from_micros(dice.below(200)));
    }
}

fn signal(pid: u32) {
    // SAFETY: takes numbers only; a process that this test started and has not let go of.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap_or_default();
    line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
