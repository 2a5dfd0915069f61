//! Copies a file in two halves at the same time: this process the first, a child the second.
//!
//! `cargo run --release --example copy_file -- SOURCE TARGET`
//!
//! Each reads its half of the copy again, and is content when both checksums are the same. Files of any size; what
//! is only zeros is not written, so holes stay holes.

use std::error::Error;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;

use multiprocess::{Fd, Process};

const BLOCK: usize = 1 << 20;

/// Calls `with` for each block in `range` that is not all zeros; gives the checksum of the range.
fn blocks(
    file: &File,
    range: Range<u64>,
    mut with: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<u64> {
    let zeros = vec![0; BLOCK];
    let mut buffer = zeros.clone();
    let mut checksum = 0_u64;
    for at in range.clone().step_by(BLOCK) {
        let len = BLOCK.min((range.end - at) as usize);
        let block = &mut buffer[..len];
        file.read_exact_at(block, at)?;
        if block != &zeros[..len] {
            with(block, at)?;
            let mut hasher = DefaultHasher::new();
            (at, block).hash(&mut hasher);
            checksum = checksum.wrapping_add(hasher.finish());
        }
    }
    Ok(checksum)
}

fn copy(source: &File, target: &File, range: Range<u64>) -> io::Result<()> {
    let read = blocks(source, range.clone(), |block, at| target.write_all_at(block, at))?;
    let written = blocks(target, range.clone(), |_, _| Ok(()))?;
    if read != written {
        return Err(io::Error::other("the copy is not what was read"));
    }
    let process = multiprocess::current_process();
    let Range { start, end } = range;
    println!("{} copied bytes {start} to {end}, checksum {written:016x}", process.name());
    Ok(())
}

/// What the child does. It gets descriptors: no name can have come to mean another file meanwhile.
fn copy_there(source: Fd, target: Fd, range: Range<u64>) -> Result<(), String> {
    copy(&source.into(), &target.into(), range).map_err(|error| error.to_string())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    let about = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let metadata = fs::metadata(from).map_err(|error| about(from, error))?;
    if !metadata.is_file() {
        return Err(format!("{} is no regular file", from.display()).into());
    }
    let source = File::open(from).map_err(|error| about(from, error))?;
    // Not truncated before it is known to be another file, under whatever name.
    let mut options = File::options();
    let target = options.read(true).write(true).create(true).truncate(false).open(to);
    let target = target.map_err(|error| about(to, error))?;
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    if identity(&source)? == identity(&target)? {
        return Err(format!("{} is the source itself", to.display()).into());
    }
    let len = metadata.len();
    target.set_len(0).and_then(|()| target.set_len(len)).map_err(|error| about(to, error))?;
    target.set_permissions(metadata.permissions())?;

    let files = (source.try_clone()?.into(), target.try_clone()?.into(), len / 2..len);
    let child = Process::new(copy_there, files).start()?;
    let ours = copy(&source, &target, 0..len / 2);
    let theirs = child.result(); // an error also where the child was killed
    ours?;
    theirs??;
    println!("{len} bytes copied");
    Ok(())
}

fn main() -> ExitCode {
    multiprocess::init();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        eprintln!("usage: copy_file SOURCE TARGET");
        return ExitCode::from(2);
    };
    match copy_file(from.as_ref(), to.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("not copied: {error}");
            ExitCode::FAILURE
        }
    }
}
