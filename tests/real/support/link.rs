//! A TCP link to a server that can be cut as a network is: connections stay
//! open and nothing comes through, in no direction. When it is mended, what
//! was on its way arrives late, unless an end has given up.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A running link; dropping it ends it and every connection.
#[derive(Debug)]
pub(crate) struct Link {
    addr: SocketAddr,
    whole: watch::Sender<bool>,
    /// None only while dropping.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Link {
    /// A whole link to `server`, whether that runs or not.
    pub(crate) fn new(server: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("link")
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let whole = watch::Sender::new(true);
        runtime.spawn(accept(listener, server, whole.subscribe()));
        Self { addr, whole, runtime: Some(runtime) }
    }

    /// The end to connect to.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, whole: watch::Receiver<bool>) {
    while let Ok((client, _)) = listener.accept().await {
        // A client that is gone or a server that is away is no news here.
        tokio::spawn(connection(client, server, whole.clone()));
    }
}

async fn connection(client: TcpStream, server: SocketAddr, mut whole: watch::Receiver<bool>) -> io::Result<()> {
    drop(whole.wait_for(|whole| *whole).await);
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Where one direction ends, so does the other: Kafka's clients half-close nothing.
    tokio::select! {
        up = copy(from_client, to_server, whole.clone()) => up,
        down = copy(from_server, to_client, whole) => down,
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut whole: watch::Receiver<bool>) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut piece).await?;
        drop(whole.wait_for(|whole| *whole).await);
        if read == 0 {
            return Ok(());
        }
        to.write_all(&piece[..read]).await?;
    }
}
