//! Any bytes as what a client sends: for fuzzing, and to replay what that has kept.

use std::collections::VecDeque;
use std::sync::Arc;

use mp_core::Decoder;

use crate::call::{Made, set_current, set_held_above};
use crate::makers::makers;
use crate::protocol::{Call, What};
use crate::server::{Client, Server, Talk};
use crate::wire::{Parcel, wrapped};
use crate::{dict, list, set, value};

type Maker = fn(&mut Decoder<'_>) -> mp_core::Result<Made>;

/// Objects of each type, of parcels and of types that are known here.
fn fill(server: &Server) {
    let known: [Maker; 6] = [
        dict::make::<String, Vec<u32>>,
        dict::make::<Parcel, Parcel>,
        list::make::<String>,
        list::make::<f64>,
        set::make::<(u8, Option<String>)>,
        value::make::<crate::Object>,
    ];
    let empty = [0; 32];
    for maker in known {
        let made = maker(&mut Decoder::new(&empty, Vec::new())).expect("zeros are a value of each");
        server.insert(made).expect("descriptors");
    }
    let mut number = 0;
    while let Some(maker) = makers(number) {
        // A name and what it begins with.
        let mut arguments = vec![0; 8];
        arguments.extend([1; 8]);
        arguments.extend([0; 64]);
        let mut left = mp_core::Encoder::new();
        let ended =
            wrapped(true, || maker.try_call(&mut Decoder::new(&arguments, Vec::new()), &mut left));
        drop((ended, left));
        number += 1;
    }
}

/// Answers calls, each of which is: what kind it is, the object, the operation, how long it is, and its arguments.
pub(crate) fn run_on(bytes: &[u8]) {
    let server = Arc::new(Server::new().expect("descriptors"));
    let (ours, theirs) = mp_pipe::duplex::<(), ()>().expect("descriptors");
    // Who is gone waits for nothing.
    drop(theirs);
    let client = Client::serve(&server, ours, false).expect("memory");
    fill(&server);
    let mut talk = Talk::new(&client);
    let mut rest: VecDeque<u8> = bytes.iter().copied().collect();
    while rest.len() >= 4 {
        let mut next = || rest.pop_front().unwrap_or(0);
        let (kind, object, number, len) = (next(), next(), next(), next());
        let len = usize::from(len).min(rest.len());
        let body: Vec<u8> = rest.drain(..len).collect();
        let message = if kind & 1 == 0 {
            let what = What::Operation(u32::from(number));
            let after_end = kind & 2 != 0;
            let (first, second) = Call {
                object: u64::from(object),
                what,
                after_end,
                is_within: false,
                is_eager: kind & 4 != 0,
            }
            .to_words();
            let fingerprint = server.fingerprint(u64::from(object)).unwrap_or(0);
            let words = [first, second, fingerprint].map(u64::to_le_bytes).concat();
            [words, body].concat()
        } else {
            body
        };
        // Functions by address are for processes of one program, which say what is to run.
        if matches!(Call::read(&message), Some((Call { what: What::New(_), .. }, _))) {
            continue;
        }
        let _ = talk.answer(&message, Vec::new());
        let _ = crate::remote::split(&message);
        set_current(0, None);
        set_held_above(Vec::new());
    }
    drop(talk);
    Client::leave(&client);
}
