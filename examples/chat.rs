//! A chat room: a server with one process for each client.
//!
//! `cargo run --release --example chat [ADDRESS]`, and in other terminals `nc localhost 7878`. Enter stops it.
//!
//! The main process is the room, which knows who is there and waits for nobody. What a client sends is read by a
//! process of its own, from which only lines come, by a pipe; what it is told lies in a queue until that process takes
//! it. So a client may crash its process, flood it or not read: that process ends, and nobody else is harmed.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use multiprocess::{Child, Fd, Process, Queue, Receiver, Sender, Waitable, simplex, wait};

/// A line has no more bytes than this.
const LINE: usize = 1000;
/// So many lines may come at once, and then so many a second.
const BURST: f64 = 100.0;
const PER_SECOND: f64 = 20.0;
/// Who reads nothing for so long is let go, as is who is so many lines behind.
const PATIENCE: Duration = Duration::from_secs(5);
const BEHIND: usize = 1000;
/// Who has no name after so long gives its place to others.
const NAMING: Duration = Duration::from_secs(15);
/// The room holds so many: each takes nine descriptors here, and a process has 1024 as a rule.
const MOST: usize = 100;

/// The process of one client: takes lines to the room, and to the client what is in its mail. Gives why it ended.
fn client(stream: Fd, room: Sender<String>, mail: Queue<String>) -> String {
    let mut stream = TcpStream::from(stream);
    let why = talk(&mut stream, &room, &mail).unwrap_or_else(|error| error.to_string());
    let _ = writeln!(stream, "* bye: {why}");
    why
}

fn talk(
    stream: &mut TcpStream,
    room: &Sender<String>,
    mail: &Queue<String>,
) -> Result<String, Box<dyn Error>> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "* your name?")?;
    let mut pending = Vec::new();
    let (mut allowed, mut since) = (BURST, Instant::now());
    loop {
        let ready = wait(&[mail, stream], None)?;
        if ready.contains(&0) {
            let Ok(text) = mail.get() else { return Ok("the room is closed".into()) };
            writeln!(stream, "{text}").map_err(|_| "did not read")?;
        }
        if ready.contains(&1) {
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes)? {
                0 => return Ok("left".into()), // in the middle of a line, maybe
                n => pending.extend_from_slice(&bytes[..n]),
            }
        }
        loop {
            let end = pending.iter().position(|&byte| byte == b'\n');
            if end.unwrap_or(pending.len()) > LINE {
                return Ok("a line was too long".into());
            }
            let Some(end) = end else { break };
            allowed = BURST.min(allowed + since.elapsed().as_secs_f64() * PER_SECOND) - 1.0;
            since = Instant::now();
            if allowed < 0.0 {
                return Ok("too many lines".into());
            }
            let line: Vec<u8> = pending.drain(..=end).collect();
            // No byte of a client does anything to a terminal of another.
            let mut text = String::from_utf8_lossy(&line).into_owned();
            text.retain(|c| !c.is_control());
            match text.trim() {
                "/quit" => return Ok("left".into()),
                text => room.send(text.to_string())?,
            }
        }
    }
}

struct Guest {
    /// None until it said one.
    name: Option<String>,
    /// Until when it has to; none once it did, or was let go.
    until: Option<Instant>,
    lines: Receiver<String>,
    mail: Queue<String>,
    child: Child<String>,
}

impl Guest {
    /// Never waits: who is too far behind is out.
    fn tell(&self, text: &str) {
        if self.mail.try_put(text.to_string()).is_err() {
            let _ = self.child.kill();
        }
    }
}

#[derive(Default)]
struct Room {
    guests: BTreeMap<u64, Guest>,
    next: u64,
}

impl Room {
    fn enter(&mut self, listener: &TcpListener) -> Result<(), Box<dyn Error>> {
        let (mut stream, _) = listener.accept()?;
        if self.guests.len() == MOST {
            return Ok(writeln!(stream, "* the room is full")?);
        }
        let ((lines, sender), mail) = (simplex()?, Queue::bounded(BEHIND)?);
        let theirs = (stream.into(), sender, mail.clone());
        let child = Process::new(client, theirs).daemon(true).start()?;
        let until = Some(Instant::now() + NAMING);
        self.guests.insert(self.next, Guest { name: None, until, lines, mail, child });
        self.next += 1;
        Ok(())
    }

    /// Takes one line of a guest, so that all have their turn, or notices that it is gone.
    fn hear(&mut self, id: u64) {
        let guest = &self.guests[&id];
        match (guest.lines.recv(), guest.name.clone()) {
            (Ok(line), Some(name)) => self.command(id, &name, &line),
            (Ok(name), None) => self.name(id, name),
            (Err(_), _) => self.leave(id),
        }
    }

    fn name(&mut self, id: u64, name: String) {
        let is_fine = (1..=20).contains(&name.len()) && name.chars().all(char::is_alphanumeric);
        if !is_fine {
            self.guests[&id].tell("* a name is up to 20 letters and digits; your name?");
        } else if self.find(&name).is_some() {
            self.guests[&id].tell("* that name is taken; your name?");
        } else {
            self.announce(&format!("{name} joined"));
            self.guests[&id]
                .tell(&format!("* hello {name}; there are /msg NAME TEXT, /who and /quit"));
            self.guests
                .entry(id)
                .and_modify(|guest| (guest.name, guest.until) = (Some(name), None));
        }
    }

    /// Lets those go who have taken too long to say a name. Gives how long the next one has.
    fn let_go(&mut self) -> Option<Duration> {
        let now = Instant::now();
        for guest in
            self.guests.values_mut().filter(|guest| guest.until.is_some_and(|at| at <= now))
        {
            guest.until = None;
            guest.tell("* no name, no place");
            guest.mail.close(); // its process ends once it has said so
        }
        self.guests.values().filter_map(|guest| guest.until).min().map(|at| at - now)
    }

    fn command(&self, id: u64, name: &str, line: &str) {
        let guest = &self.guests[&id];
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("/who"), None, _) => {
                let names: Vec<&str> = self.named().map(|(name, _)| name).collect();
                guest.tell(&format!("* here: {}", names.join(", ")));
            }
            (Some("/msg"), Some(to), Some(text)) => match self.find(to) {
                Some(other) => other.tell(&format!("{name} to you: {text}")),
                None => guest.tell(&format!("* there is no {to}")),
            },
            (Some(word), ..) if word.starts_with('/') => {
                guest.tell("* there are /msg NAME TEXT, /who and /quit");
            }
            _ => self.named().for_each(|(_, other)| other.tell(&format!("{name}: {line}"))),
        }
    }

    fn leave(&mut self, id: u64) {
        let Some(Guest { name, child, .. }) = self.guests.remove(&id) else { return };
        // Its end of the pipe is closed, so its process ends. How, and with what result, is known here.
        let why = child.result().unwrap_or_else(|error| error.to_string());
        if let Some(name) = name {
            self.announce(&format!("{name} is gone: {why}"));
        }
    }

    fn announce(&self, text: &str) {
        println!("{text}");
        self.named().for_each(|(_, guest)| guest.tell(&format!("* {text}")));
    }

    fn named(&self) -> impl Iterator<Item = (&str, &Guest)> {
        self.guests.values().filter_map(|guest| Some((guest.name.as_deref()?, guest)))
    }

    fn find(&self, name: &str) -> Option<&Guest> {
        self.named().find(|(other, _)| *other == name).map(|(_, guest)| guest)
    }

    /// All processes end by themselves once their mail is closed and read; who does not is ended with this one.
    fn close(self) {
        self.guests.values().for_each(|guest| guest.mail.close());
        let end = Instant::now() + PATIENCE;
        for guest in self.guests.values() {
            let _ = guest.child.join_timeout(end.saturating_duration_since(Instant::now()));
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    multiprocess::init();
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7878".to_string());
    let listener = TcpListener::bind(&address).map_err(|error| format!("{address}: {error}"))?;
    // A client may be gone again before it is accepted.
    listener.set_nonblocking(true)?;
    println!("the room is at {}; Enter closes it", listener.local_addr()?);

    let keyboard = io::stdin();
    let mut room = Room::default();
    loop {
        let patience = room.let_go();
        let ids: Vec<u64> = room.guests.keys().copied().collect();
        let mut all: Vec<&dyn Waitable> = vec![&keyboard, &listener];
        all.extend(room.guests.values().map(|guest| &guest.lines as &dyn Waitable));
        let ready = wait(&all, patience)?;
        for index in ready {
            match index {
                0 => {
                    room.close();
                    return Ok(());
                }
                1 => {
                    if let Err(error) = room.enter(&listener) {
                        eprintln!("a client could not enter: {error}");
                    }
                }
                _ => room.hear(ids[index - 2]),
            }
        }
    }
}
