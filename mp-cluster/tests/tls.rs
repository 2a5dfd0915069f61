//! A server that is reached by TLS.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use mp_cluster::{Cluster, Engine, Error};
use mp_pool::Pool;

use crate::Outcome;
use crate::pool::{LEASE, square, start_host};
use crate::redis::Redis;

crate::cases! {
    tls_takes_certificates_that_are_trusted_and_no_others
}

/// Why there are no certificates to test with, if so.
pub(crate) fn missing() -> Option<String> {
    let asked = Command::new("openssl").arg("version").stdout(Stdio::null()).status();
    asked.is_err().then(|| "openssl is not in the path".to_string())
}

/// Makes `ca.crt`, and `server.crt` and `server.key` for localhost.
fn make_certificates(directory: &Path) -> Outcome {
    std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost\n")?;
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for line in [
        format!("req -x509 {new} -keyout ca.key -out ca.crt -days 2 -subj /CN=tests"),
        format!("req {new} -keyout server.key -out server.csr -subj /CN=localhost"),
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 -extfile names"
            .to_string(),
    ] {
        let done = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()?;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

fn tls_takes_certificates_that_are_trusted_and_no_others() -> Outcome {
    let place = Redis::start();
    make_certificates(place.directory())?;
    let file = |name: &str| place.directory().join(name).display().to_string();
    let files = [file("server.crt"), file("server.key"), file("ca.crt")];
    let (_redis, port) = loop {
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let mut redis = Redis::with(&[
            "--tls-port",
            &port,
            "--tls-cert-file",
            &files[0],
            "--tls-key-file",
            &files[1],
            "--tls-ca-cert-file",
            &files[2],
            "--tls-auth-clients",
            "no",
            "--requirepass",
            "hunter2",
        ]);
        if redis.listens() {
            break (redis, port);
        }
    };
    let url = format!("rediss://:hunter2@localhost:{port}/");
    let error = Cluster::connect(&url, "a").unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error}");
    assert!(error.to_string().contains("certificate") && !error.to_string().contains("hunter2"));
    // SAFETY: no other thread looks at the environment.
    unsafe { std::env::set_var("SSL_CERT_FILE", &files[2]) };
    let counter = Cluster::connect(&url, "a")?.counter("n")?;
    assert_eq!(counter.add(2)?, 2);
    let _host = start_host(&url, "a", 1);
    let pool = Pool::builder().engine(Engine::connect(&url, "a")?.lease(LEASE)).build()?;
    assert_eq!(pool.map(square, 0..1000)?, (0..1000).map(square).collect::<Vec<_>>());
    Ok(())
}
