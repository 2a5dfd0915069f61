//! How other programs have objects made, by the numbers of what makes them. Their elements are parcels.

use mp_process::Function;

use crate::call::Create;
use crate::wire::Parcel;
use crate::{barrier, condition, dict, event, list, lock, namespace, queue, semaphore, set, value};

/// The numbers are what other programs say.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Maker {
    Dict,
    List,
    Set,
    Namespace,
    Value,
    Queue,
    Lock,
    RLock,
    Semaphore,
    BoundedSemaphore,
    Condition,
    Event,
    Barrier,
}

/// What makes an object, by its number.
pub(crate) fn makers(number: u32) -> Option<Function> {
    let makers = [
        (Maker::Dict, Function::new::<_, Create>(dict::make::<Parcel, Parcel>)),
        (Maker::List, Function::new::<_, Create>(list::make::<Parcel>)),
        (Maker::Set, Function::new::<_, Create>(set::make::<Parcel>)),
        (Maker::Namespace, Function::new::<_, Create>(namespace::make)),
        (Maker::Value, Function::new::<_, Create>(value::make::<Parcel>)),
        (Maker::Queue, Function::new::<_, Create>(queue::make::<Parcel>)),
        (Maker::Lock, Function::new::<_, Create>(lock::make)),
        (Maker::RLock, Function::new::<_, Create>(lock::make_reentrant)),
        (Maker::Semaphore, Function::new::<_, Create>(semaphore::make)),
        (Maker::BoundedSemaphore, Function::new::<_, Create>(semaphore::make_bounded)),
        (Maker::Condition, Function::new::<_, Create>(condition::make)),
        (Maker::Event, Function::new::<_, Create>(event::make)),
        (Maker::Barrier, Function::new::<_, Create>(barrier::make)),
    ];
    let (maker, function) = makers.get(number as usize)?;
    debug_assert_eq!(*maker as u32, number);
    Some(*function)
}
