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
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    e2e::echo::serve(arguments.listen, arguments.sandbox_listen).await
}
