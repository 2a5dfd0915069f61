//! The larger examples, as the programs that they are.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::{Folder, HANG, Outcome, eventually, leak, may_open};

crate::cases! {
    ONCE:
        the_tour_ends_with_what_it_checked
        two_processes_copy_the_halves_of_a_file
        a_file_is_not_copied_over_itself
        what_cannot_be_copied_is_named
        guests_have_names_and_talk_in_public_and_private
        a_guest_that_vanishes_is_missed_and_what_it_began_is_not_said
        a_guest_whose_process_is_killed_is_missed
        a_flooder_is_let_go
        a_line_without_end_is_refused
        no_bytes_of_a_guest_reach_the_terminals_of_others
        who_does_not_read_holds_up_nobody
        fifty_guests_hear_each_other
        the_room_closes_with_a_word_to_all
    ;
    SLOW:
        a_sparse_file_of_gigabytes_is_copied
    ;
}

/// An example, which cargo builds beside the tests.
fn program(name: &str) -> Result<Command, Box<dyn Error>> {
    let tests = env::current_exe()?;
    let target = tests.ancestors().nth(2).ok_or("tests are in a folder of their own")?;
    let path = target.join("examples").join(name);
    if !path.exists() {
        return Err(format!("{} is missing: `cargo build --examples` first", path.display()).into());
    }
    Ok(Command::new(path))
}

fn the_tour_ends_with_what_it_checked() -> Outcome {
    let output = program("tour")?.stdin(Stdio::null()).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().unwrap_or_default();
    assert!(last.contains(" checks passed in "), "{last}");
    Ok(())
}

fn copy(source: impl AsRef<OsStr>, target: impl AsRef<OsStr>) -> Result<Output, Box<dyn Error>> {
    Ok(program("copy_file")?.arg(source).arg(target).stdin(Stdio::null()).output()?)
}

/// Copies and must succeed; gives what was printed, sorted, as the halves are done in any order.
fn copied(source: &Path, target: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let output = copy(source, target)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && errors.is_empty(), "{} {errors}", output.status);
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout)?.lines().map(str::to_string).collect();
    lines.sort_unstable();
    Ok(lines)
}

fn two_processes_copy_the_halves_of_a_file() -> Outcome {
    let folder = Folder::new()?;
    let (source, target) = (folder.path("source"), folder.path("target"));
    const BLOCK: usize = 1 << 20;
    // The target has more in it at first, then less.
    fs::write(&target, vec![1; 5000])?;
    for len in [0, 1, 2, 3, 4097, BLOCK, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK + 17, 9]
    {
        let bytes: Vec<u8> =
            (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_769) >> 24) as u8).collect();
        fs::write(&source, &bytes)?;
        let lines = copied(&source, &target)?;
        assert!(fs::read(&target)? == bytes, "{len} bytes");
        let half = len / 2;
        assert!(lines[0].starts_with(&format!("{len} bytes copied")), "{lines:?}");
        assert!(
            lines[1].starts_with(&format!("MainProcess copied bytes 0 to {half},")),
            "{lines:?}"
        );
        assert!(
            lines[2].starts_with(&format!("Process-1 copied bytes {half} to {len},")),
            "{lines:?}"
        );
    }
    Ok(())
}

fn a_sparse_file_of_gigabytes_is_copied() -> Outcome {
    let folder = Folder::new()?;
    let (source, target) = (folder.path("source"), folder.path("target"));
    let len = (4 << 30) + 12_345;
    let marks = [0, (1 << 31) - 3, len / 2 - 3, (1 << 32) - 3, len - 6];
    let file = File::create(&source)?;
    file.set_len(len)?;
    marks.iter().try_for_each(|&at| file.write_all_at(b"middle", at))?;
    copied(&source, &target)?;
    let copy = File::open(&target)?;
    for at in marks {
        let mut mark = [0; 6];
        copy.read_exact_at(&mut mark, at)?;
        assert_eq!(&mark, b"middle", "at {at}");
    }
    let metadata = copy.metadata()?;
    assert_eq!(metadata.len(), len);
    assert!(
        metadata.blocks() * 512 < 64 << 20,
        "the holes are holes: {} blocks",
        metadata.blocks()
    );
    Ok(())
}

fn a_file_is_not_copied_over_itself() -> Outcome {
    let folder = Folder::new()?;
    let source = folder.path("source");
    fs::write(&source, "precious")?;
    fs::hard_link(&source, folder.path("hard"))?;
    symlink("source", folder.path("soft"))?;
    for name in ["source", "hard", "soft", "../source", "./source"] {
        let target = match name.strip_prefix("../") {
            Some(name) => folder.join("..").join(folder.file_name().expect("named")).join(name),
            None => folder.path(name),
        };
        let output = copy(&source, target)?;
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(String::from_utf8(output.stderr)?.contains("is the source itself"), "{name}");
        assert_eq!(fs::read(&source)?, b"precious", "{name}");
    }
    Ok(())
}

fn what_cannot_be_copied_is_named() -> Outcome {
    let folder = Folder::new()?;
    let (source, missing) = (folder.path("source"), folder.path("missing"));
    fs::write(&source, "text")?;
    for (from, to, named) in [
        (&missing, &source, "missing: No such file"),
        (&folder.to_path_buf(), &source, "is no regular file"),
        (&source, &folder.to_path_buf(), "Is a directory"),
        (&source, &folder.path("no/where"), "no/where: No such file"),
    ] {
        let output = copy(from, to)?;
        let errors = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(1) && errors.contains(named), "{errors}");
    }
    assert_eq!(fs::read(&source)?, b"text");
    assert_eq!(program("copy_file")?.arg(&source).output()?.status.code(), Some(2));
    Ok(())
}

/// The room, on a port of its own.
struct Room {
    child: Child,
    address: String,
}

impl Room {
    fn open() -> Result<Self, Box<dyn Error>> {
        let mut command = program("chat")?;
        command.arg("127.0.0.1:0").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.as_mut().ok_or("has one")?;
        // One byte at a time, as the rest stays in the pipe.
        while !line.ends_with('\n') {
            let mut byte = [0];
            stdout.read_exact(&mut byte)?;
            line.push(byte[0].into());
        }
        let address = line.split([' ', ';']).find(|word| word.starts_with("127."));
        Ok(Self { address: address.ok_or(line.clone())?.to_string(), child })
    }

    fn enter(&self, name: &str) -> Result<Guest, Box<dyn Error>> {
        let mut guest = Guest::new(TcpStream::connect(&self.address)?)?;
        guest.expect("* your name?")?;
        guest.say(name)?;
        guest.expect(&format!("* hello {name}; there are /msg NAME TEXT, /who and /quit"))?;
        Ok(guest)
    }

    /// Closes it, as somebody at its keyboard does.
    fn close(mut self) -> Outcome {
        self.child.stdin.take().ok_or("has one")?.write_all(b"\n")?;
        assert!(self.child.wait()?.success());
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One client.
struct Guest(BufReader<TcpStream>);

impl Guest {
    fn new(stream: TcpStream) -> Result<Self, Box<dyn Error>> {
        stream.set_read_timeout(Some(HANG))?;
        stream.set_write_timeout(Some(HANG))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn say(&mut self, line: &str) -> Outcome {
        Ok(self.0.get_mut().write_all(format!("{line}\n").as_bytes())?)
    }

    fn hear(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err("the room let it go".into());
        }
        Ok(line.trim_end_matches('\n').to_string())
    }

    /// The next line must be this one.
    fn expect(&mut self, line: &str) -> Outcome {
        assert_eq!(self.hear()?, line);
        Ok(())
    }

    /// Hears lines until one that starts so; gives the ones before, and it.
    fn hear_until(&mut self, start: &str) -> Result<Vec<String>, Box<dyn Error>> {
        let mut lines = vec![self.hear()?];
        while !lines.last().is_some_and(|line| line.starts_with(start)) {
            lines.push(self.hear()?);
        }
        Ok(lines)
    }
}

fn guests_have_names_and_talk_in_public_and_private() -> Outcome {
    let room = Room::open()?;
    let mut alex = room.enter("alex")?;
    let mut yuan = Guest::new(TcpStream::connect(&room.address)?)?;
    yuan.expect("* your name?")?;
    for refused in ["", "two words", "longerthantwentyletters", "a:b"] {
        yuan.say(refused)?;
        yuan.expect("* a name is up to 20 letters and digits; your name?")?;
    }
    yuan.say("alex")?;
    yuan.expect("* that name is taken; your name?")?;
    yuan.say("袁\r")?;
    yuan.expect("* hello 袁; there are /msg NAME TEXT, /who and /quit")?;
    alex.expect("* 袁 joined")?;
    let mut eva = room.enter("eva")?;
    alex.expect("* eva joined")?;
    yuan.expect("* eva joined")?;

    alex.say("hello, all")?;
    for guest in [&mut alex, &mut yuan, &mut eva] {
        guest.expect("alex: hello, all")?;
    }
    alex.say("/msg eva just you  and me")?;
    eva.expect("alex to you: just you  and me")?;
    alex.say("/msg nobody hello")?;
    alex.expect("* there is no nobody")?;
    for unknown in ["/dance", "/msg eva", "/"] {
        alex.say(unknown)?;
        alex.expect("* there are /msg NAME TEXT, /who and /quit")?;
    }
    alex.say("/who")?;
    alex.expect("* here: alex, 袁, eva")?;

    eva.say("/quit")?;
    eva.expect("* bye: left")?;
    assert!(eva.hear().is_err());
    yuan.expect("* eva is gone: left")?;
    alex.expect("* eva is gone: left")?;
    // Its name is free again.
    room.enter("eva")?.say("/quit")?;
    room.close()
}

fn a_guest_that_vanishes_is_missed_and_what_it_began_is_not_said() -> Outcome {
    let room = Room::open()?;
    let mut alex = room.enter("alex")?;
    let mut eva = room.enter("eva")?;
    alex.expect("* eva joined")?;
    eva.0.get_mut().write_all(b"whole\nand half of")?;
    drop(eva);
    alex.expect("eva: whole")?;
    assert!(alex.hear()?.starts_with("* eva is gone: "));
    // Reset, as there is something it has not read.
    let eva = room.enter("eva")?;
    alex.expect("* eva joined")?;
    alex.say("are you there?")?;
    alex.expect("alex: are you there?")?;
    eva.0.get_ref().peek(&mut [0])?;
    drop(eva);
    assert!(alex.hear()?.starts_with("* eva is gone: "));
    // And without a name.
    for _ in 0..10 {
        TcpStream::connect(&room.address)?;
    }
    alex.say("and now?")?;
    alex.expect("alex: and now?")?;
    room.close()
}

fn a_guest_whose_process_is_killed_is_missed() -> Outcome {
    let room = Room::open()?;
    let mut eva = room.enter("eva")?;
    // Children of the fork server, the one child of the room.
    let (helper, _) = leak::children_of(room.child.id())[0];
    let (process, _) = leak::children_of(helper)[0];
    let mut alex = room.enter("alex")?;
    eva.expect("* alex joined")?;
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::kill(process as i32, libc::SIGKILL) }, 0);
    let news = alex.hear()?;
    assert!(news.starts_with("* eva is gone: the process was killed by"), "{news}");
    assert!(eva.hear().is_err());
    alex.say("and now?")?;
    alex.expect("alex: and now?")?;
    room.close()
}

fn a_flooder_is_let_go() -> Outcome {
    let room = Room::open()?;
    let mut alex = room.enter("alex")?;
    let mut eva = room.enter("eva")?;
    alex.expect("* eva joined")?;
    // It may be over before all is written.
    let _ = eva.0.get_mut().write_all("flood\n".repeat(100_000).as_bytes());
    let lines = alex.hear_until("* ")?;
    assert_eq!(lines.last().map(String::as_str), Some("* eva is gone: too many lines"));
    assert!((100..500).contains(&lines.len()), "{} lines", lines.len());
    alex.say("and now?")?;
    alex.expect("alex: and now?")?;
    room.close()
}

fn a_line_without_end_is_refused() -> Outcome {
    let room = Room::open()?;
    let mut alex = room.enter("alex")?;
    let longest = "x".repeat(1000);
    alex.say(&longest)?;
    alex.expect(&format!("alex: {longest}"))?;
    for bytes in [vec![b'x'; 1001], vec![b'x'; 10_000_000]] {
        let mut eva = room.enter("eva")?;
        alex.expect("* eva joined")?;
        let _ = eva.0.get_mut().write_all(&bytes);
        alex.expect("* eva is gone: a line was too long")?;
    }
    room.close()
}

fn no_bytes_of_a_guest_reach_the_terminals_of_others() -> Outcome {
    let room = Room::open()?;
    let mut alex = room.enter("alex")?;
    let mut eva = room.enter("eva")?;
    alex.expect("* eva joined")?;
    eva.0.get_mut().write_all(b"\x1b[2Jred \xff\xfe and \0 blue\r\n")?;
    alex.expect("eva: [2Jred \u{fffd}\u{fffd} and  blue")?;
    room.close()
}

/// A connection of which little can be under way, so that who sends soon has to wait.
fn narrow(address: &str) -> Result<TcpStream, Box<dyn Error>> {
    let port = address.rsplit(':').next().ok_or("has a port")?.parse::<u16>()?;
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0);
    // SAFETY: the call just made this descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for (level, name, value) in
        [(libc::SOL_SOCKET, libc::SO_RCVBUF, 4096), (libc::IPPROTO_TCP, libc::TCP_MAXSEG, 536)]
    {
        // SAFETY: points to an int, and says its size.
        let set = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), 4) };
        assert_eq!(set, 0);
    }
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    // SAFETY: points to an address, and says its size.
    let connected = unsafe {
        libc::connect(socket.as_raw_fd(), (&raw const to).cast(), size_of_val(&to) as u32)
    };
    assert_eq!(connected, 0);
    Ok(socket.into())
}

fn who_does_not_read_holds_up_nobody() -> Outcome {
    let room = Room::open()?;
    let mut slow = Guest::new(narrow(&room.address)?)?;
    slow.say("slow")?;
    let mut guests = Vec::new();
    for n in 0..16 {
        guests.push(room.enter(&format!("talker{n}"))?);
    }
    let text = "x".repeat(900);
    let mut gone = [false; 16];
    for _ in 0..9 {
        for guest in &mut guests {
            (0..10).try_for_each(|_| guest.say(&text))?;
        }
        // All is heard by all who read.
        for (guest, gone) in guests.iter_mut().zip(&mut gone) {
            let mut lines = 0;
            while lines < 16 * 10 {
                let line = guest.hear()?;
                lines += usize::from(line.ends_with(&text));
                *gone |= line.starts_with("* slow is gone: ");
            }
        }
    }
    for (guest, gone) in guests.iter_mut().zip(gone) {
        if !gone {
            guest.hear_until("* slow is gone: ")?;
        }
    }
    room.close()
}

fn fifty_guests_hear_each_other() -> Outcome {
    if !may_open(1024) {
        return Ok(());
    }
    let room = Room::open()?;
    let mut guests = Vec::new();
    for n in 0..50 {
        guests.push(room.enter(&format!("guest{n}"))?);
    }
    for (n, guest) in guests.iter_mut().enumerate() {
        guest.say(&format!("I am {n}"))?;
    }
    for guest in &mut guests {
        let mut heard = Vec::new();
        while heard.len() < 50 {
            let line = guest.hear()?;
            if let Some((name, said)) = line.split_once(": I am ") {
                assert_eq!(name.strip_prefix("guest"), Some(said));
                heard.push(said.parse::<u32>()?);
            }
        }
        heard.sort_unstable();
        assert!(heard.into_iter().eq(0..50));
    }
    room.close()
}

fn the_room_closes_with_a_word_to_all() -> Outcome {
    let room = Room::open()?;
    let mut named = room.enter("alex")?;
    let mut unnamed = Guest::new(TcpStream::connect(&room.address)?)?;
    unnamed.expect("* your name?")?;
    let address = room.address.clone();
    room.close()?;
    for guest in [&mut named, &mut unnamed] {
        guest.expect("* bye: the room is closed")?;
        assert!(guest.hear().is_err());
    }
    eventually("nobody listens", || TcpStream::connect(&address).is_err())
}
