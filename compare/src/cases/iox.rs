//! iceoryx2: nodes whose files lie where the run removes them, and ends of a service.

use std::error::Error;

use iceoryx2::port::backpressure_strategy::BackpressureStrategy;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use crate::raw::shared::Poller;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A node of this process. Killed processes leave files behind, here and in /dev/shm: all under the names of
/// this run, which removes them.
pub fn node() -> Result<Node<ipc::Service>> {
    set_log_level(LogLevel::Fatal);
    let mut config = Config::default();
    let root = std::env::temp_dir().join("iceoryx2");
    config.global.set_root_path(&Path::new(root.as_os_str().as_encoded_bytes())?);
    config.global.prefix = FileName::new(crate::drive::prefix().as_bytes())?;
    Ok(NodeBuilder::new().config(&config).create::<ipc::Service>()?)
}

/// The sending end of a service of bytes, which loses nothing. `buffer` is how many messages wait at most.
pub fn publisher(
    node: &Node<ipc::Service>,
    name: &str,
    size: usize,
    buffer: usize,
) -> Result<Publisher<ipc::Service, [u8], ()>> {
    let service = node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<[u8]>()
        .payload_alignment(Alignment::new(64).ok_or("alignment")?)
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(buffer)
        .open_or_create()?;
    // The library's own retry sleeps when the buffer is full, which makes streams of small messages crawl; these
    // are sent again here. Large ones are not copied twice.
    let when_full = if size <= 1024 {
        BackpressureStrategy::DiscardData
    } else {
        BackpressureStrategy::RetryUntilDelivered
    };
    let builder = service.publisher_builder().initial_max_slice_len(size);
    Ok(builder.backpressure_strategy(when_full).create()?)
}

pub fn subscriber(
    node: &Node<ipc::Service>,
    name: &str,
    buffer: usize,
) -> Result<Subscriber<ipc::Service, [u8], ()>> {
    let service = node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<[u8]>()
        .payload_alignment(Alignment::new(64).ok_or("alignment")?)
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(buffer)
        .open_or_create()?;
    Ok(service.subscriber_builder().buffer_size(buffer).create()?)
}

/// Sends, and again until it was taken: also while the subscriber is not there yet.
#[inline(always)]
pub fn send(publisher: &Publisher<ipc::Service, [u8], ()>, message: &[u8]) {
    let mut poller = Poller::default();
    loop {
        let sample = publisher.loan_slice_uninit(message.len()).expect("lends");
        if sample.write_from_slice(message).send().expect("sends") == 1 {
            return;
        }
        poller.pause();
    }
}

/// Polls for a message, and looks at it where it lies.
#[inline(always)]
pub fn receive<R>(
    subscriber: &Subscriber<ipc::Service, [u8], ()>,
    look: impl FnOnce(&[u8]) -> R,
) -> R {
    let mut poller = Poller::default();
    loop {
        if let Some(sample) = subscriber.receive().expect("receives") {
            return look(sample.payload());
        }
        poller.pause();
    }
}

/// The same for words.
pub fn word_publisher(
    node: &Node<ipc::Service>,
    name: &str,
    buffer: usize,
) -> Result<Publisher<ipc::Service, u64, ()>> {
    let service = node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<u64>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(buffer)
        .open_or_create()?;
    let builder = service.publisher_builder();
    Ok(builder.backpressure_strategy(BackpressureStrategy::DiscardData).create()?)
}

pub fn word_subscriber(
    node: &Node<ipc::Service>,
    name: &str,
    buffer: usize,
) -> Result<Subscriber<ipc::Service, u64, ()>> {
    let service = node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<u64>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(buffer)
        .open_or_create()?;
    Ok(service.subscriber_builder().buffer_size(buffer).create()?)
}

#[inline(always)]
pub fn send_word(publisher: &Publisher<ipc::Service, u64, ()>, word: u64) {
    let mut poller = Poller::default();
    while publisher.send_copy(word).expect("sends") == 0 {
        poller.pause();
    }
}

#[inline(always)]
pub fn receive_word(subscriber: &Subscriber<ipc::Service, u64, ()>) -> u64 {
    let mut poller = Poller::default();
    loop {
        if let Some(sample) = subscriber.receive().expect("receives") {
            return *sample;
        }
        poller.pause();
    }
}

pub fn notifier(node: &Node<ipc::Service>, name: &str) -> Result<Notifier<ipc::Service>> {
    Ok(node
        .service_builder(&name.try_into()?)
        .event()
        .open_or_create()?
        .notifier_builder()
        .create()?)
}

pub fn listener(node: &Node<ipc::Service>, name: &str) -> Result<Listener<ipc::Service>> {
    Ok(node
        .service_builder(&name.try_into()?)
        .event()
        .open_or_create()?
        .listener_builder()
        .create()?)
}
