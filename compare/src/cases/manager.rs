//! A dictionary of numbers in a server: writes and reads by 1 and by 4 clients, one operation at a time.
//!
//! The server ends by being killed with the row, as its descriptors are the row's.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use multiprocess::{Dict, Manager};

use super::python::python;
use crate::harness::{
    Case, Client, Kind, NotHere, Outcome, Row, Run, Setup, Unit, Waits, forked_clients,
};
use crate::raw::pipes;
use crate::raw::process;
use crate::raw::ring::{Reader, Ring, Writer};
use crate::raw::shared::{Poller, Wait};

const fn case(name: &'static str, what: &'static str, clients: usize, write: bool) -> Case {
    let setup = Setup { producers: clients, write, ..Setup::PLAIN };
    Case { name, what, unit: Unit::PerSecond, setup, rows: &ROWS }
}

pub const CASES: [Case; 4] = [
    case("manager_dict_set_1", "writes to a dictionary in a server, 1 client", 1, true),
    case("manager_dict_get_1", "reads of a dictionary in a server, 1 client", 1, false),
    case("manager_dict_set_4", "writes to a dictionary in a server, 4 clients", 4, true),
    case("manager_dict_get_4", "reads of a dictionary in a server, 4 clients", 4, false),
];

const ROWS: [Row; 6] = [
    Row { name: "Manager, Dict", kind: Kind::Ours, waits: Waits::Both, run: ours },
    Row { name: "redis, Unix socket", kind: Kind::Process, waits: Waits::Sleeps, run: redis },
    Row {
        name: "CPython Manager.dict",
        kind: Kind::Process,
        waits: Waits::Sleeps,
        run: |run| python(run, "dict", &[if run.setup.write { "set" } else { "get" }]),
    },
    Row { name: "seqpacket and HashMap", kind: Kind::Raw, waits: Waits::Sleeps, run: sockets },
    Row {
        name: "shared memory rings and HashMap, polling",
        kind: Kind::Raw,
        waits: Waits::Polls,
        run: |run| rings(run, Wait::Poll),
    },
    Row {
        name: "the same, clients poll then futex",
        kind: Kind::Raw,
        waits: Waits::Both,
        run: |run| rings(run, Wait::Futex),
    },
];

impl Client for Dict<u64, u64> {
    fn set(&mut self, key: u64, value: u64) {
        self.insert(key, value).expect("sets");
    }

    fn get(&mut self, key: u64) -> u64 {
        Dict::get(self, &key).expect("gets").expect("a value")
    }
}

fn ours(run: &Run) -> Outcome {
    let manager = Manager::new()?;
    let dict = manager.dict::<u64, u64>()?;
    forked_clients(run, |_| dict.clone())
}

/// A request to the raw servers: a key, and a value to store or [`READ`].
type Request = [u64; 2];
const READ: u64 = u64::MAX;

fn serve(table: &mut HashMap<u64, u64>, [key, value]: Request) -> u64 {
    if value == READ {
        return table.get(&key).copied().unwrap_or(READ);
    }
    table.insert(key, value);
    value
}

struct Socket<'a>(&'a File);

impl Socket<'_> {
    fn ask(&mut self, [key, value]: Request) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&key.to_ne_bytes());
        bytes[8..].copy_from_slice(&value.to_ne_bytes());
        pipes::write(self.0, &bytes);
        pipes::read_word(self.0)
    }
}

impl Client for Socket<'_> {
    fn set(&mut self, key: u64, value: u64) {
        self.ask([key, value]);
    }

    fn get(&mut self, key: u64) -> u64 {
        self.ask([key, READ])
    }
}

fn sockets(run: &Run) -> Outcome {
    let pairs: Vec<_> =
        (0..run.setup.producers).map(|_| pipes::sockets(libc::SOCK_SEQPACKET)).collect();
    let (near, far): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let server = process::fork(|| {
        let mut table = HashMap::new();
        let answer = |socket: &File, table: &mut HashMap<u64, u64>| {
            let mut bytes = [0; 16];
            pipes::read(socket, &mut bytes);
            let (words, _) = bytes.as_chunks::<8>();
            let value = serve(table, [0, 1].map(|index| u64::from_ne_bytes(words[index])));
            pipes::write_word(socket, value);
        };
        loop {
            // One client needs no poll.
            if let [only] = &far[..] {
                answer(only, &mut table);
                continue;
            }
            for (socket, ready) in far.iter().zip(pipes::readable(&far)) {
                if ready {
                    answer(socket, &mut table);
                }
            }
        }
    });
    let outcome = forked_clients(run, |index| Socket(&near[index]));
    process::kill(server.pid());
    outcome
}

struct Rings {
    requests: Writer,
    answers: Reader,
}

impl Rings {
    fn ask(&mut self, [key, value]: Request) -> u64 {
        self.requests.write_word(key);
        self.requests.write_word(value);
        self.answers.read_word()
    }
}

impl Client for Rings {
    fn set(&mut self, key: u64, value: u64) {
        self.ask([key, value]);
    }

    fn get(&mut self, key: u64) -> u64 {
        self.ask([key, READ])
    }
}

/// The server polls all rings; the clients wait as `wait` says.
fn rings(run: &Run, wait: Wait) -> Outcome {
    let ring = |wait| Ring::new(4096, wait);
    let rings: Vec<_> = (0..run.setup.producers).map(|_| (ring(Wait::Poll), ring(wait))).collect();
    let server = process::fork(|| {
        let (mut table, mut poller) = (HashMap::new(), Poller::default());
        let mut ends: Vec<_> =
            rings.iter().map(|(requests, answers)| (requests.reader(), answers.writer())).collect();
        loop {
            let mut idle = true;
            for (requests, answers) in &mut ends {
                if requests.is_ready() {
                    let request = [requests.read_word(), requests.read_word()];
                    answers.write_word(serve(&mut table, request));
                    idle = false;
                }
            }
            if idle {
                poller.pause();
            }
        }
    });
    let outcome = forked_clients(run, |index| {
        let (requests, answers) = rings[index];
        Rings { requests: requests.writer(), answers: answers.reader() }
    });
    process::kill(server.pid());
    outcome
}

/// The least of a client: commands and answers of redis's protocol, one at a time.
struct Redis(BufReader<UnixStream>);

impl Redis {
    fn ask(&mut self, words: &[&str]) -> Option<u64> {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(command.as_bytes()).expect("asks");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("is answered");
        match line.as_bytes()[0] {
            b'+' | b':' => None,
            b'$' => {
                line.clear();
                self.0.read_line(&mut line).expect("is answered");
                Some(line.trim_end().parse().expect("a number"))
            }
            _ => panic!("redis answered {line}"),
        }
    }
}

impl Client for Redis {
    fn set(&mut self, key: u64, value: u64) {
        self.ask(&["HSET", "d", &key.to_string(), &value.to_string()]);
    }

    fn get(&mut self, key: u64) -> u64 {
        self.ask(&["HGET", "d", &key.to_string()]).expect("a value")
    }
}

fn redis(run: &Run) -> Outcome {
    let socket = std::env::temp_dir().join("redis.sock");
    let mut server = Command::new("redis-server");
    server.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    server.arg("--dir").arg(std::env::temp_dir()).arg("--unixsocket").arg(&socket);
    let mut server = match server.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(NotHere("redis-server is not installed".into()).into());
        }
        server => server?,
    };
    let limit = Instant::now() + Duration::from_secs(5);
    while UnixStream::connect(&socket).is_err() {
        if Instant::now() > limit {
            return Err("redis-server does not come up".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let outcome = forked_clients(run, |_| {
        Redis(BufReader::new(UnixStream::connect(&socket).expect("connects")))
    });
    server.kill()?;
    server.wait()?;
    // It was killed, and so did not do this itself.
    std::fs::remove_file(&socket)?;
    outcome
}
