// What the examples of the documentation run with: a server of their own, and a host for it, which is the example again.
// Stands where an expression does, in hidden lines; is none where there is no redis-server in the path.
{
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    const URL: &str = "MP_CLUSTER_EXAMPLE_URL";

    struct Server {
        url: String,
        directory: Option<PathBuf>,
        running: Vec<Child>,
    }

    #[allow(dead_code, reason = "not every example has a host")]
    impl Server {
        fn start() -> Option<Self> {
            if let Ok(url) = std::env::var(URL) {
                return Some(Self { url, directory: None, running: Vec::new() });
            }
            let time = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
            let name = format!("mp-cluster-doc-{}-{time}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            std::fs::create_dir(&directory).expect("a directory");
            let socket = directory.join("socket");
            let mut command = Command::new("redis-server");
            command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
            command.arg(&socket).arg("--dir").arg(&directory);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            let url = format!("redis+unix://{}", socket.display());
            let running: Vec<Child> = child.into_iter().collect();
            let server = Self { url, directory: Some(directory), running };
            if server.running.is_empty() {
                eprintln!("NOT TESTED: redis-server is not in the path");
                return None;
            }
            Some(server)
        }

        fn url(&self) -> &'static str {
            self.url.clone().leak()
        }

        /// Starts the example again, as a host.
        fn serve(&mut self) {
            let mut command = Command::new("/proc/self/exe");
            command.arg("--serve").env(URL, &self.url).stdin(Stdio::null());
            self.running.push(command.spawn().expect("the example starts again"));
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            for child in self.running.iter_mut().rev() {
                let _ = child.kill();
                let _ = child.wait();
            }
            if let Some(directory) = &self.directory {
                let _ = std::fs::remove_dir_all(directory);
            }
        }
    }

    Server::start()
}
