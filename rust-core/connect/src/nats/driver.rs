//! A runtime that is driven by a thread of its own, so that connections live also while nobody waits for anything.

use std::{future::Future, io, sync::Arc, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::Notify,
};

/// It ends when this is dropped.
pub struct Driver {
    handle: Handle,
    ended: Arc<Notify>,
}

impl Driver {
    pub fn start() -> io::Result<Driver> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, ended) = (runtime.handle().clone(), Arc::new(Notify::new()));
        let is_over = Arc::clone(&ended);
        let drive = move || {
            runtime.block_on(is_over.notified());
            runtime.shutdown_background();
        };
        thread::Builder::new().name("nats-out".to_owned()).spawn(drive)?;
        Ok(Driver { handle, ended })
    }

    /// Waits for it, on the thread that calls.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.ended.notify_one();
    }
}
