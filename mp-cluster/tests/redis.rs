//! A server for one test.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use mp_cluster::Cluster;

/// Why there is no server to test with, if so.
pub(crate) fn missing() -> Option<String> {
    let asked = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    match asked {
        Ok(status) if status.success() => None,
        _ => Some("redis-server is not in the path: apt-get install redis-server".to_string()),
    }
}

/// A server, which ends with this, by SIGKILL, and leaves nothing.
pub(crate) struct Redis {
    child: Option<Child>,
    directory: PathBuf,
    /// What runs it, and its arguments.
    runner: Vec<String>,
    options: Vec<String>,
    url: String,
}

impl Redis {
    /// Starts one that keeps nothing on its disk.
    pub(crate) fn start() -> Self {
        Self::with(&["--appendonly", "no"])
    }

    /// Starts one with such options, on a socket.
    pub(crate) fn with(options: &[&str]) -> Self {
        Self::on(&[], options)
    }

    /// The same, by a command that runs others.
    pub(crate) fn on(runner: &[String], options: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mp-cluster-{}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("a directory");
        let url = format!("redis+unix://{}", directory.join("socket").display());
        let options = options.iter().map(ToString::to_string).collect();
        let runner = runner.to_vec();
        let mut redis = Self { child: None, directory, runner, options, url };
        redis.restart();
        redis
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    pub(crate) fn connect(&self, name: &str) -> Cluster {
        Cluster::connect(&self.url, name).expect("the server is there")
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, where it was, with what it kept.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let program = "redis-server".to_string();
        let mut words = self.runner.iter().chain([&program]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        if !self.options.iter().any(|option| option == "--port") {
            command.args(["--port", "0"]);
        }
        command.arg("--unixsocket").arg(self.directory.join("socket"));
        command.arg("--dir").arg(&self.directory).args(["--save", ""]);
        command.args(&self.options).stdin(Stdio::null()).stdout(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server starts"));
    }
}

impl Redis {
    /// Waits until it listens; says whether it does, or has ended, as somebody else has its port.
    #[cfg(feature = "tls")]
    pub(crate) fn listens(&mut self) -> bool {
        let child = self.child.as_mut().expect("it was started");
        // It makes its socket when it has all ports.
        let socket = self.directory.join("socket");
        loop {
            let ended = child.try_wait().expect("waits").is_some();
            if ended || socket.exists() {
                return !ended;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
