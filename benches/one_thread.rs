//! What one thread pays when nobody else is there: to take a lock, to change a value, to encode and decode, to send
//! itself a message. Beside each, what std has for threads.
//!
//! `cargo bench --bench one_thread`, or with a part of the names as an argument. Criterion measures and tells what has
//! changed since the last run; without the `--bench` that cargo gives, or with `--test`, it only shows that everything
//! runs.
#![allow(missing_docs, reason = "a function of criterion's")]

use std::hint::black_box;
use std::sync;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use multiprocess::core::{Message, decode, encode};
use multiprocess::{
    Lock, Mutex, Queue, RLock, RawValue, RwLock, Semaphore, Value, duplex, simplex,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn locks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("take and give back");
    let lock = Lock::new().expect("a lock");
    group.bench_function("Lock", |b| b.iter(|| drop(lock.lock().expect("takes"))));
    let lock = RLock::new().expect("a lock");
    group.bench_function("RLock", |b| b.iter(|| drop(lock.lock().expect("takes"))));
    let mutex = Mutex::new(0_u64).expect("a mutex");
    group.bench_function("Mutex", |b| b.iter(|| *mutex.lock().expect("takes") += 1));
    let lock = RwLock::new(0_u64).expect("a lock");
    group.bench_function("RwLock, to read", |b| b.iter(|| *lock.read().expect("takes")));
    group.bench_function("RwLock, to write", |b| b.iter(|| *lock.write().expect("takes") += 1));
    let semaphore = Semaphore::new(1).expect("a semaphore");
    group.bench_function("Semaphore", |b| {
        b.iter(|| {
            semaphore.acquire().expect("takes");
            semaphore.release().expect("gives back");
        });
    });
    let mutex = sync::Mutex::new(0_u64);
    group.bench_function("std Mutex", |b| b.iter(|| *mutex.lock().expect("takes") += 1));
    group.finish();
}

fn values(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("add one");
    let value = Value::new(0_u64).expect("a value");
    group.bench_function("Value::update", |b| b.iter(|| value.update(|n| *n += 1)));
    group.bench_function("Value::get and set", |b| b.iter(|| value.set(value.get() + 1)));
    let value = RawValue::new(0_u64).expect("a value");
    group.bench_function("RawValue::get and set", |b| b.iter(|| value.set(value.get() + 1)));
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    fn both<T: Serialize + DeserializeOwned>(criterion: &mut Criterion, name: &str, value: T) {
        let len = encode(&value).expect("encodes").bytes().len();
        let mut group = criterion.benchmark_group("codec");
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| encode(black_box(&value)).expect("encodes"));
        });
        let bytes = encode(&value).expect("encodes").bytes().to_vec();
        group.bench_function(BenchmarkId::new("copy and decode", name), |b| {
            b.iter(|| {
                let message = Message::new(bytes.clone(), Vec::new());
                black_box(decode::<T>(message).expect("decodes"))
            });
        });
        group.finish();
    }
    both(criterion, "u64", 7_u64);
    both(criterion, "String of 32", "a".repeat(32));
    both(criterion, "tuple", (7_u64, "name".to_string(), Some(1.5_f64)));
    both(criterion, "Vec of 1000 f64", vec![1.5_f64; 1000]);
    both(criterion, "Vec of 1000 Strings", vec!["text".to_string(); 1000]);
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send and receive");
    let (receiver, sender) = simplex::<u64>().expect("a pipe");
    group.bench_function("simplex, u64", |b| {
        b.iter(|| {
            sender.send(7).expect("sends");
            receiver.recv().expect("receives")
        });
    });
    let (near, far) = duplex::<(), ()>().expect("a pipe");
    let (bytes, mut buffer) = (vec![1_u8; 1024], vec![0_u8; 1024]);
    group.bench_function("duplex, 1 KiB as bytes", |b| {
        b.iter(|| {
            near.send_bytes(&bytes).expect("sends");
            far.recv_bytes_into(&mut buffer).expect("receives")
        });
    });
    for (name, queue) in [("bounded", Queue::bounded(64)), ("unbounded", Queue::unbounded())] {
        let queue: Queue<u64> = queue.expect("a queue");
        group.bench_function(BenchmarkId::new("Queue, u64", name), |b| {
            b.iter(|| {
                queue.put(7).expect("puts");
                queue.get().expect("gets")
            });
        });
    }
    let queue = Queue::<u64>::bounded(64).expect("a queue");
    group.bench_function("Queue, 64 of u64 at once", |b| {
        b.iter(|| {
            queue.put_many(0..64).expect("puts");
            queue.get_many(64).expect("gets")
        });
    });
    let (sender, receiver) = sync::mpsc::sync_channel(64);
    group.bench_function("std sync_channel, u64", |b| {
        b.iter(|| {
            sender.send(7_u64).expect("sends");
            receiver.recv().expect("receives")
        });
    });
    group.finish();
}

criterion_group!(benches, locks, values, codec, messages);
criterion_main!(benches);
