//! Passes connections on: `port-relay 8095=postgres:5432 …`. The compose profile `test` publishes ports with it that are open to nobody else.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Passes connections on, port by port.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// `PORT=HOST:PORT`: what is listened on, on every address, and where its connections go.
    #[arg(required = true)]
    relays: Vec<Relay>,
}

#[derive(Clone, Debug)]
struct Relay {
    port: u16,
    target: String,
}

impl FromStr for Relay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not PORT=HOST:PORT");
        let (port, target) = text.split_once('=').ok_or_else(wrong)?;
        let (port, _host) = (port.parse().map_err(|_| wrong())?, target.rsplit_once(':').ok_or_else(wrong)?);
        Ok(Self { port, target: target.to_owned() })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Arguments::parse().relays).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(relays: Vec<Relay>) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    for Relay { port, target } in relays {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?;
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(pass(stream, target.clone()))),
                    // Such as too many open files: passes when connections end.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn pass(mut near: TcpStream, target: String) {
    let Ok(mut far) = TcpStream::connect(&target).await else { return };
    let _delays_are_ours = near.set_nodelay(true).and(far.set_nodelay(true));
    let _either_end_may_break_off = copy_bidirectional(&mut near, &mut far).await;
}
