//! The backend of the local stack: see `e2e::echo`.

use std::net::SocketAddr;

use clap::Parser;
use e2e::http::{Ask, Client};

/// Answers every request with a JSON picture of it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where the production backend listens.
    #[arg(long, default_value = "127.0.0.1:8091")]
    listen: SocketAddr,
    /// Where the sandbox backend listens; left out, there is none.
    #[arg(long)]
    sandbox_listen: Option<SocketAddr>,
    /// Serve nothing: ask the production backend that listens on this machine whether it answers.
    #[arg(long, conflicts_with = "sandbox_listen")]
    health: bool,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    if arguments.health {
        return ask_health(arguments.listen.port()).await;
    }
    e2e::echo::serve(arguments.listen, arguments.sandbox_listen).await
}

/// Whether the backend on this port of this machine answers.
async fn ask_health(port: u16) -> std::io::Result<()> {
    let mut client = Client::new(&format!("http://127.0.0.1:{port}"));
    let answer = client.send(&Ask::get("/__echo/count")).await.map_err(std::io::Error::other)?;
    if answer.status == 200 { Ok(()) } else { Err(std::io::Error::other(format!("it answers {}", answer.status))) }
}
