//! Asks a control plane on this machine whether it is ready: what a container's health check runs, where there is no shell and no curl.

use clap::Parser;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The name of the subcommand.
pub const COMMAND: &str = "health";

/// Longer than `/ready` itself waits for a store.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two questions while it starts.
const PAUSE: Duration = Duration::from_millis(50);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Ask the control plane on this machine whether it is ready.
#[derive(Clone, Debug, Parser)]
#[command(name = "control-plane health", no_binary_name = true)]
pub struct Arguments {
    /// Where its admin API listens.
    #[arg(long, env = "ADMIN_LISTEN", default_value = "127.0.0.1:8092")]
    admin_listen: SocketAddr,
    /// How long to wait for one that does not listen or answer yet, in seconds: then it is healthy the moment it is ready, not at the next check.
    #[arg(long, default_value_t = 0)]
    start_s: u64,
    /// A file that is made once it is ready. While it is there, nothing is waited for that does not listen. It has to be gone when the container
    /// starts again.
    #[arg(long)]
    was_ready: Option<PathBuf>,
    /// How long to wait before it is asked, in seconds, while that file is there: a container engine's interval is short for the start's sake, and each
    /// check costs it CPU.
    #[arg(long, requires = "was_ready", default_value_t = 0)]
    pause_s: u64,
}

/// It is not ready.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// Nobody answers.
    #[error("no answer from {at}")]
    NoAnswer {
        /// Where.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says what it lacks.
    #[error("{at} is not ready: {answer}")]
    NotReady {
        /// Where.
        at: SocketAddr,
        /// What `/ready` answers.
        answer: String,
    },
    /// It is ready, but that cannot be remembered.
    #[error("it is ready, but `{}` cannot be written", path.display())]
    NotRemembered {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What `/ready` answers.
///
/// # Errors
/// Nobody answers, or it is not ready.
pub fn run(arguments: &Arguments) -> Result<String, Unhealthy> {
    let at = reachable(arguments.admin_listen);
    let known = arguments.was_ready.as_deref().filter(|file| file.exists());
    if known.is_some() {
        std::thread::sleep(Duration::from_secs(arguments.pause_s));
    }
    let patience = if known.is_some() { 0 } else { arguments.start_s };
    let deadline = Instant::now() + Duration::from_secs(patience);
    let answer = loop {
        match ask(at) {
            Err(error) if starts(&error) && Instant::now() < deadline => std::thread::sleep(PAUSE),
            answered => break answered.map_err(|source| Unhealthy::NoAnswer { at, source })?,
        }
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(Unhealthy::NotReady { at, answer: body.to_owned() });
    }
    if let Some(path) = &arguments.was_ready
        && known.is_none()
    {
        std::fs::write(path, "").map_err(|source| Unhealthy::NotRemembered { path: path.clone(), source })?;
    }
    Ok(body.to_owned())
}

/// A control plane binds its ports first, and answers once it has migrated its database and compiled its policy.
fn starts(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Who listens on every address is asked on loopback.
const fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    };
    SocketAddr::new(address, listen.port())
}

fn ask(at: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // In one piece: `write!` sends each part of a format by itself.
    stream.write_all(format!("GET /ready HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn asking(admin_listen: SocketAddr) -> Arguments {
        Arguments { admin_listen, start_s: 0, was_ready: None, pause_s: 0 }
    }

    fn answering(status: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || answer_at(listener, status));
        address
    }

    fn answer_at(listener: TcpListener, status: &str) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 1024];
        let length = stream.read(&mut asked).unwrap();
        assert!(asked[..length].starts_with(b"GET /ready HTTP/1.1\r\n"));
        // Who closes with something unread resets the connection, and its answer is lost.
        assert!(asked[..length].ends_with(b"\r\n\r\n"), "asked in pieces");
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}").unwrap();
    }

    #[test]
    fn only_who_is_ready_is_healthy() {
        assert_eq!(run(&asking(answering("200 OK"))).unwrap(), "{}");
        let told = run(&Arguments { start_s: 60, ..asking(answering("503 Service Unavailable")) }).unwrap_err().to_string();
        assert!(told.ends_with("is not ready: {}"), "{told}");
    }

    #[test]
    fn who_does_not_answer_is_not_healthy() {
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        assert!(matches!(run(&asking(closed)), Err(Unhealthy::NoAnswer { .. })));
    }

    #[test]
    fn who_starts_is_waited_for() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let started = std::thread::spawn(move || {
            std::thread::sleep(PAUSE * 3);
            answer_at(TcpListener::bind(free).unwrap(), "200 OK");
        });
        assert_eq!(run(&Arguments { start_s: 60, ..asking(free) }).unwrap(), "{}");
        started.join().unwrap();
    }

    #[test]
    fn who_listens_and_does_not_answer_yet_is_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let started = std::thread::spawn(move || {
            let _silent = listener.accept().unwrap();
            answer_at(listener, "200 OK");
        });
        assert_eq!(run(&Arguments { start_s: 60, ..asking(address) }).unwrap(), "{}");
        started.join().unwrap();
    }

    #[test]
    fn who_was_ready_is_looked_at_after_a_pause_and_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("was-ready");
        let looks = |at: SocketAddr| {
            let begun = Instant::now();
            let seen = run(&Arguments { start_s: 600, was_ready: Some(file.clone()), pause_s: 1, ..asking(at) });
            (seen.is_ok(), begun.elapsed() >= Duration::from_secs(1))
        };
        assert_eq!(looks(answering("200 OK")), (true, false));
        assert!(file.exists());
        assert_eq!(looks(answering("200 OK")), (true, true));
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        assert_eq!(looks(closed), (false, true), "it does not start: it was there");
    }

    #[test]
    fn a_pause_needs_to_know_of_the_start() {
        assert!(Arguments::try_parse_from(["--pause-s", "8"]).is_err());
    }

    #[test]
    fn a_wildcard_is_asked_on_loopback() {
        for (listen, asked) in [("0.0.0.0:8092", "127.0.0.1:8092"), ("[::]:8092", "[::1]:8092"), ("10.1.2.3:8092", "10.1.2.3:8092")] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
