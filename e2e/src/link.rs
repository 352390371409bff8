//! A network between two parts that can be slow, lose what is answered, or be cut: bytes in, bytes out.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Well.
    Open,
    /// Everything takes so much longer, each way.
    Slow(Duration),
    /// What is asked arrives, what is answered does not.
    Deaf,
    /// There is no connection, and no new one.
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// A running link. It ends with the runtime that it was started in.
#[derive(Debug)]
pub struct Link {
    line: watch::Sender<Line>,
}

impl Link {
    /// Listens on one port of this machine and passes everything on to another.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub async fn start(listen: u16, upstream: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, listen))).await?;
        let (line, watched) = watch::channel(Line::Open);
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(connection(stream, upstream, watched.clone()))),
                    // Such as too many open files: passes when connections end.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        Ok(Self { line })
    }

    /// From now on the network is like this.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn connection(near: TcpStream, upstream: u16, line: watch::Receiver<Line>) {
    if *line.borrow() == Line::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, upstream))).await else { return };
    let _delays_are_ours = near.set_nodelay(true).and(far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let mut cut = line.clone();
    // Where one way ends, the connection ends.
    tokio::select! {
        () = pass(near_in, far_out, Way::There, line.clone()) => {}
        () = pass(far_in, near_out, Way::Back, line) => {}
        _ = cut.wait_for(|line| *line == Line::Cut) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, line: watch::Receiver<Line>) {
    let mut chunk = vec![0_u8; 64 * 1024];
    let mut lost = false;
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let now = *line.borrow();
        lost |= (now, way) == (Line::Deaf, Way::Back);
        if lost && now == Line::Deaf {
            continue;
        }
        // A stream with a hole in it is none.
        if lost {
            return;
        }
        if let Line::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(chunk.get(..length).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}
