//! Where a listener is.

use std::convert::Infallible;
use std::fmt;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mp_core::sys::net::MAX_PATH;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where a [`Listener`](crate::Listener) is: a path, or a host and port.
///
/// Made from a [`Path`], a [`SocketAddr`], a pair of host and port, or a text: what has a `/` in it is a
/// path, all else `host:port`. It can be sent to other processes, which connect to it.
///
/// A Unix socket is as fast as a pipe made by [`duplex`](crate::duplex), as that is what a connection
/// becomes, and carries handles; it reaches processes on this machine. TCP reaches other machines, and
/// carries values without handles.
///
/// Linux's abstract names, which begin with a NUL, are refused: they have no permissions, so any user can
/// connect to one, or be there first.
///
/// Python: an address is a string or a pair, and `family` says which kind.
///
/// # Example
///
/// ```
/// use mp_pipe::Address;
///
/// # fn main() -> mp_pipe::Result<()> {
/// let near: Address = "/run/user/1000/jobs".parse()?;
/// assert_eq!(near, Address::Unix("/run/user/1000/jobs".into()));
///
/// let far = Address::from(("worker-7", 4000));
/// assert_eq!(far.to_string(), "worker-7:4000");
/// assert_eq!("[::1]:4000".parse::<Address>()?, Address::from(("::1", 4000)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Address {
    /// The path of a Unix socket, up to 107 bytes.
    #[doc(alias = "AF_UNIX")]
    Unix(PathBuf),
    /// A host's name or number, and a port. Port 0 lets the kernel choose, for a listener.
    #[doc(alias = "AF_INET")]
    Tcp(String, u16),
}

impl Address {
    /// The path, where it is one.
    #[must_use]
    pub fn as_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(..) => None,
        }
    }

    /// The port, where it has one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(_, port) => Some(*port),
        }
    }

    pub(crate) fn invalid(address: impl fmt::Display, why: &'static str) -> Error {
        Error::InvalidAddress { address: address.to_string(), why }
    }

    /// Refuses what no listener can be at, whoever made it.
    pub(crate) fn check(&self) -> Result<()> {
        let why = match self {
            Self::Unix(path) => path_fault(path),
            Self::Tcp(host, _) => host_fault(host),
        };
        why.map_or(Ok(()), |why| Err(Self::invalid(self, why)))
    }
}

fn path_fault(path: &Path) -> Option<&'static str> {
    let bytes = path.as_os_str().as_bytes();
    match bytes {
        [] => Some("it is empty"),
        [0, ..] => Some("abstract names are open to every user: give a path"),
        _ if bytes.contains(&0) => Some("it has a NUL in it"),
        _ if bytes.len() > MAX_PATH => Some("the path of a socket has at most 107 bytes"),
        _ => None,
    }
}

fn host_fault(host: &str) -> Option<&'static str> {
    match host {
        "" => Some("the host is missing: 127.0.0.1 is this machine"),
        _ if host.len() > 255 => Some("no host has a name of more than 255 bytes"),
        _ if host.contains(|c: char| c.is_control() || c.is_whitespace() || "[]/".contains(c)) => {
            Some("it has no host's name")
        }
        _ => None,
    }
}

/// A path as it is parsed again: one without a slash gets one.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) if path.as_os_str().as_bytes().contains(&b'/') => {
                write!(f, "{}", path.display())
            }
            Self::Unix(path) => write!(f, "./{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Reads a path, which has a `/` in it, or `host:port`, with the number of an IPv6 host in brackets.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why| Err(Self::invalid(text.escape_debug(), why));
        let address = if text.starts_with(['\0', '@']) {
            return invalid("abstract names are open to every user: give a path");
        } else if text.contains('/') {
            Self::Unix(text.into())
        } else if let Some((host, port)) = text.rsplit_once(':') {
            let Some(port) = parse_port(port) else {
                return invalid("behind the colon goes a port, 0 to 65535");
            };
            let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                Some(number) => number,
                None if host.contains(':') => {
                    return invalid("the number of an IPv6 host goes in brackets: [::1]:4000");
                }
                None => host,
            };
            Self::Tcp(host.to_string(), port)
        } else {
            return invalid("it is neither host:port nor a path, which has a slash: ./name");
        };
        address.check()?;
        Ok(address)
    }
}

/// Digits only: std's parser takes a sign.
fn parse_port(port: &str) -> Option<u16> {
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten()
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<&String> for Address {
    type Error = Error;

    fn try_from(text: &String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<&Self> for Address {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::Unix(path.into())
    }
}

impl From<&PathBuf> for Address {
    fn from(path: &PathBuf) -> Self {
        Self::Unix(path.into())
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        // The scope of an IPv6 address is part of its number as text: fe80::1%2.
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => address.ip().to_string(),
        };
        Self::Tcp(host, address.port())
    }
}

impl From<SocketAddrV4> for Address {
    fn from(address: SocketAddrV4) -> Self {
        SocketAddr::V4(address).into()
    }
}

impl From<SocketAddrV6> for Address {
    fn from(address: SocketAddrV6) -> Self {
        SocketAddr::V6(address).into()
    }
}

impl From<(&str, u16)> for Address {
    fn from((host, port): (&str, u16)) -> Self {
        Self::Tcp(host.to_string(), port)
    }
}

impl From<(String, u16)> for Address {
    fn from((host, port): (String, u16)) -> Self {
        Self::Tcp(host, port)
    }
}

/// So that what is an address and what is to be parsed as one can be given alike.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Address> {
        text.parse()
    }

    #[test]
    fn texts_are_paths_or_hosts_with_ports() {
        let tcp = |host: &str, port| Address::from((host, port));
        for (text, expected) in [
            ("/tmp/x", Address::Unix("/tmp/x".into())),
            ("./x", Address::Unix("./x".into())),
            ("/tmp/x:80", Address::Unix("/tmp/x:80".into())),
            ("localhost:0", tcp("localhost", 0)),
            ("10.0.0.1:65535", tcp("10.0.0.1", 65535)),
            ("[::1]:80", tcp("::1", 80)),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
            assert_eq!(expected.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, expected) in [
            ("", "neither"),
            ("name", "./name"),
            (":80", "host is missing"),
            ("host:", "a port"),
            ("host:65536", "a port"),
            ("host:+80", "a port"),
            ("::1:80", "brackets"),
            ("a b:80", "host's name"),
            ("[::1:80", "brackets"),
            ("\0name", "abstract"),
            ("@name", "abstract"),
            (&format!("/{}", "x".repeat(107)), "107"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(Address::Unix("\0x".into()).check().is_err());
        assert!(Address::Unix(PathBuf::new()).check().is_err());
        assert!(Address::from(("", 1)).check().is_err());
    }

    #[test]
    fn a_path_without_a_slash_is_still_one_when_printed_and_read() {
        let address = Address::from(Path::new("name"));
        assert_eq!(parse(&address.to_string()).unwrap(), Address::Unix("./name".into()));
    }

    #[test]
    fn socket_addresses_become_what_resolves_to_them() {
        for text in ["127.0.0.1:8", "[::1]:8", "[fe80::1%3]:8"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Address::from(address).to_string(), text);
        }
    }

    #[test]
    fn an_address_can_be_sent() {
        for address in [Address::from(("host", 7)), Address::Unix("/x".into())] {
            let back: Address = mp_core::decode(mp_core::encode(&address).unwrap()).unwrap();
            assert_eq!(back, address);
            let text = serde_json::to_string(&address).unwrap();
            assert_eq!(serde_json::from_str::<Address>(&text).unwrap(), address);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_error_or_an_address_that_prints_the_same(text in "[\\PC\0]{0,130}") {
            if let Ok(address) = parse(&text) {
                prop_assert_eq!(parse(&address.to_string()).unwrap(), address);
            }
        }
    }
}
