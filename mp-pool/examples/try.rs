use mp_pool::*;
use std::time::*;
fn sq(x: u64) -> u64 { x * x }
fn nothing() {}
fn main() {
    mp_process::init();
    let pool = Pool::new(2).unwrap();
    println!("{:?}", pool.workers());
    assert_eq!(pool.apply(sq, (3,)).unwrap(), 9);
    let t = Instant::now();
    for _ in 0..1000 { pool.apply(nothing, ()).unwrap(); }
    println!("apply: {:?} each", t.elapsed() / 1000);
    for _ in 0..6 {
        let n = 200_000;
        let t = Instant::now();
        let r: Vec<_> = (0..n).map(|_| pool.apply_async(nothing, ())).collect();
        let s = t.elapsed();
        for r in &r { r.get().unwrap(); }
        println!("empty: {:.2} M/s (submitted in {s:?})", n as f64 / t.elapsed().as_secs_f64() / 1e6);
    }
    for _ in 0..6 {
        let t = Instant::now();
        let r = pool.map(sq, 0..1_000_000_u64).unwrap();
        println!("map: {:.1} M/s", 1.0 / t.elapsed().as_secs_f64());
        assert_eq!(r[999_999], 999_999 * 999_999);
    }
    let t = Instant::now();
    let n = pool.imap_unordered(sq, 0..100_000_u64).count();
    println!("imap_unordered: {:.2} M/s", n as f64 / t.elapsed().as_secs_f64() / 1e6);
    for pid in pool.workers() {
        let s = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        println!("{}", s.lines().filter(|l| l.starts_with("Pss:") || l.starts_with("Rss")).collect::<String>());
    }
    pool.close();
    pool.join().unwrap();
}
