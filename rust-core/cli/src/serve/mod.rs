//! `[serve]`: retained results over HTTP, from the process that writes them.
//!
//! A thread of its own with a small runtime of its own; rows come through the store's handle in the process, so the
//! pipeline is never waited for and never waits. What a stranger can take is bounded: connections, the time that one may
//! last, the size of requests and of answers. There is no password, so it listens for this machine only, unless an
//! address says otherwise; then whoever can reach it can read.

mod answer;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ringmill_engine::plan::retained::steps;
use ringmill_engine::{Control, Plan};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};

use crate::failure::{Failure, Hinted};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// A client has this long to send the head of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection may last, whatever it is used for.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes of a request's head, the address included.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Threads that read the stores.
const READERS: usize = 2;
/// After an error of the system (no descriptors left) the next connection is accepted so much later.
const PAUSE: Duration = Duration::from_millis(100);

/// The server; it ends when it is dropped.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Listens, and serves the results that `control`'s run retains.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(listen: SocketAddr, plan: &Plan, control: &Arc<Control>) -> Result<Server, Failure> {
        let failed = |error: std::io::Error| {
            let message = format!("[serve] cannot listen at {listen}: {error}");
            let hint = "choose another port with `listen` in [serve], or end what listens there";
            Failure::Run(Hinted::new(message).hint(hint))
        };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(READERS).build();
        let runtime = runtime.map_err(failed)?;
        let steps = steps(plan).map(|spec| spec.step.clone()).collect();
        let router = answer::router(steps, Arc::clone(control), listen.ip().is_loopback());
        let (stop, stopped) = oneshot::channel();
        let serve = move || serve(runtime, listener, router, stopped);
        let thread = std::thread::Builder::new().name("serve".to_owned()).spawn(serve).map_err(failed)?;
        tracing::info!("retained results at http://{address}/v1/");
        if !address.ip().is_loopback() {
            tracing::warn!("[serve] whoever can reach {address} can read the retained results");
        }
        Ok(Server { stop: Some(stop), thread: Some(thread), address })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A thread that is gone has stopped.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // The run does not depend on it, so its panic is no failure.
            let _ = thread.join();
        }
    }
}

fn serve(runtime: Runtime, listener: TcpListener, router: Router, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(tokio::spawn(accept(listener, router))),
            Err(error) => tracing::error!("retained results are not served: {error}"),
        }
        // Either way the server is to end.
        let _ = stopped.await;
    });
    // Connections end where they are; a read that is under way ends by itself.
    runtime.shutdown_background();
}

async fn accept(listener: tokio::net::TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    converse(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!("a connection could not be accepted: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // What a client does wrong is its own business, and so is that it was too slow.
    let _ = tokio::time::timeout(CONNECTION_TIME_MAX, connection).await;
}
