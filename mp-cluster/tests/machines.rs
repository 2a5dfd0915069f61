//! Network namespaces as machines, each with a line to the first: where this user may make some.

use std::process::{Child, Command, Output, Stdio};

use mp_cluster::{Engine, Error};
use mp_pool::Pool;

use crate::pool::{LEASE, square};
use crate::redis::Redis;
use crate::{Outcome, ROLE};

crate::cases! {
    hosts_in_other_namespaces_give_the_result_of_one_machine
}

const PORT: &str = "7379";

fn ip(arguments: &str) -> Output {
    let ip = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    ip.expect("ip runs")
}

/// Why there are no namespaces to test with, if so.
pub(crate) fn missing() -> Option<String> {
    if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
        return Some("ip is not in the path: apt-get install iproute2".to_string());
    }
    // All that the test does with them: some may make namespaces, and no lines, or not run anything there.
    let name = format!("mp-try-{}", std::process::id());
    let tried = [
        format!("netns add {name}"),
        format!("-n {name} link add to1 type veth peer name line"),
        format!("netns exec {name} true"),
    ];
    let may = tried.iter().all(|line| ip(line).status.success());
    ip(&format!("netns del {name}"));
    (!may).then(|| "this user may not make network namespaces".to_string())
}

/// A namespace of the head, and some of hosts.
struct Machines {
    names: Vec<String>,
}

impl Machines {
    fn new(count: usize) -> Self {
        let pid = std::process::id();
        let names = (0..=count).map(|n| format!("mp-{pid}-{n}")).collect();
        let machines = Self { names };
        for name in &machines.names {
            let made = ip(&format!("netns add {name}"));
            assert!(made.status.success(), "{made:?}");
        }
        let head = &machines.names[0];
        for (n, name) in machines.names.iter().enumerate().skip(1) {
            for line in [
                format!("-n {head} link add to{n} type veth peer name line netns {name}"),
                format!("-n {head} addr add 10.77.{n}.1/24 dev to{n}"),
                format!("-n {name} addr add 10.77.{n}.2/24 dev line"),
                format!("-n {head} link set to{n} up"),
                format!("-n {name} link set line up"),
                format!("-n {head} link set lo up"),
            ] {
                let done = ip(&line);
                assert!(done.status.success(), "{line}: {done:?}");
            }
        }
        machines
    }

    /// The start of a command on one of them.
    fn on(&self, machine: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.names[machine]].map(str::to_string).to_vec()
    }

    fn role(&self, machine: usize, arguments: &[&str]) -> Command {
        let mut words = self.on(machine).into_iter();
        let mut command = Command::new(words.next().expect("a command"));
        command.args(words).arg(std::env::current_exe().expect("this program"));
        command.arg(ROLE).args(arguments).stdin(Stdio::null());
        command
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The role of a caller that compares what comes of its tasks with what it finds itself.
pub(crate) fn count(url: &str, name: &str) -> Result<(), Error> {
    let pool = Pool::builder().engine(Engine::connect(url, name)?.lease(LEASE)).build()?;
    let squares = pool.map(square, 0..20_000).expect("the hosts answer");
    assert!(squares.into_iter().eq((0..20_000).map(square)));
    // They are all elsewhere.
    let links = |_: u32| {
        let links = std::fs::read_to_string("/proc/net/dev").expect("proc");
        links.contains(" line:") && !links.contains(" to1:")
    };
    let elsewhere = pool.map_chunked(links, 0..50, 1).expect("the hosts answer");
    assert!(elsewhere.into_iter().all(|is| is));
    Ok(())
}

fn hosts_in_other_namespaces_give_the_result_of_one_machine() -> Outcome {
    let machines = Machines::new(2);
    let options = ["--port", PORT, "--protected-mode", "no", "--bind", "0.0.0.0"];
    let _redis = Redis::on(&machines.on(0), &options);
    let url = |n: usize| format!("redis://10.77.{n}.1:{PORT}/");
    let _hosts = [1, 2].map(|n| {
        let host = machines.role(n, &["host", &url(n), "a", "2"]).spawn();
        Ends(host.expect("a host starts"))
    });
    let called =
        machines.role(0, &["count", &format!("redis://127.0.0.1:{PORT}/"), "a"]).output()?;
    let said = String::from_utf8_lossy(&called.stderr).into_owned();
    assert!(called.status.success(), "{said}");
    Ok(())
}
