//! Connections: a thread of its own with a small runtime of its own.

use std::{
    io,
    net::TcpListener,
    pin::pin,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::future::{Either, select};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    sync::{Semaphore, watch},
    time::timeout,
};

use super::answer::{Served, answer};

/// Bytes of a request's head, and of a body's part that is read at once.
const BUFFER_BYTES: usize = 64 << 10;
/// After an error of the system (no descriptors left) the next connection is accepted so much later.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the last answers may take when the run ends.
const END_TIME_MAX: Duration = Duration::from_secs(1);

/// The server. When it is dropped it takes no request any more, and gives the answers that are known.
pub struct Server {
    /// Its other end knows of the end when this is dropped.
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers who connects, at most `connections_max` at a time.
    pub fn start(listener: TcpListener, served: Served, connections_max: usize) -> io::Result<Server> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = watch::channel(());
        let run = move || serve(&runtime, listener, Arc::new(served), connections_max, stopped);
        let thread = thread::Builder::new().name("ringmill-http".to_owned()).spawn(run)?;
        Ok(Server { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Who waited for an answer of a thread that panicked has none.
            let _ = thread.join();
        }
    }
}

fn serve(
    runtime: &Runtime,
    listener: TcpListener,
    served: Arc<Served>,
    connections_max: usize,
    stopped: watch::Receiver<()>,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    runtime.block_on(async {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!("requests are not answered: {error}");
                return served.intake.close();
            }
        };
        let accepting = accept(listener, &served, &places, &stopped);
        select(pin!(accepting), pin!(stopped.clone().changed())).await;
        // Connections have all their places back when the last one has ended.
        let _ = timeout(END_TIME_MAX, places.acquire_many(connections_max as u32)).await;
    });
}

async fn accept(
    listener: tokio::net::TcpListener,
    served: &Arc<Served>,
    places: &Arc<Semaphore>,
    stopped: &watch::Receiver<()>,
) {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (served, stopped) = (Arc::clone(served), stopped.clone());
                tokio::spawn(async move {
                    converse(stream, served, stopped).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("a connection cannot be taken yet: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, served: Arc<Served>, mut stopped: watch::Receiver<()>) {
    // A client that does not read its answers is given up, too. Neither is needed for what is right.
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &(served.request_timeout.as_millis() as u32));
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(served.request_timeout).max_buf_size(BUFFER_BYTES);
    let service = service_fn(move |request| answer(Arc::clone(&served), request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // What a client does wrong is its own business, and so is that it was too slow.
    if let Either::Right(_) = select(connection.as_mut(), pin!(stopped.changed())).await {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}
