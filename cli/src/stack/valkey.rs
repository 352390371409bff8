//! Valkey: empty on every run, its log of changes synced every second.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::children::Launch;
use super::error::StackError;
use super::part::Part;
use super::run_dir::{RunDir, write_private};

pub(crate) fn url(port: u16, password: &str) -> String {
    format!("redis://:{password}@127.0.0.1:{port}/0")
}

/// Writes its configuration, which holds the password: on the command line everybody could read it.
pub(crate) fn launch(run_dir: &RunDir, program: &Path, port: u16, password: &str, log: PathBuf) -> Result<Launch, StackError> {
    let home = run_dir.folder("valkey", 0o700)?;
    let configuration = home.join("valkey.conf");
    let text = format!(
        "bind 127.0.0.1\nport {port}\nprotected-mode yes\nrequirepass {password}\ndaemonize no\nsave \"\"\n\
         appendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\ndir \"{}\"\n",
        home.display()
    );
    write_private(&configuration, text.as_bytes())?;
    Ok(Launch {
        part: Part::Valkey,
        program: program.to_owned(),
        arguments: vec![configuration.into_os_string()],
        container: None,
        environment: Vec::new(),
        account: None,
        directory: home,
        log,
        lock: None,
        stop: Signal::SIGTERM,
        patience: Duration::from_secs(5),
    })
}

/// Whether it answers.
pub(crate) fn check(port: u16, password: &str) -> Result<(), String> {
    let patience = Duration::from_secs(1);
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into(), patience)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "AUTH {password}\r\nPING\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Ok(answer) if answer.contains("+PONG") => Ok(()),
        Ok(answer) => Err(format!("it answers `{}`", answer.trim())),
        Err(error) => Err(error.to_string()),
    }
}
