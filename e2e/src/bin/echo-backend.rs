//! The backend of the local stack: see `e2e::echo`.

use std::net::SocketAddr;

use clap::Parser;

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
        return e2e::echo::ask_health(arguments.listen.port()).await;
    }
    e2e::echo::serve(arguments.listen, arguments.sandbox_listen).await
}
