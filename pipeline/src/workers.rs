//! Threads that compress, at a lower priority than the rest, so that intake never waits for them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use crate::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// A pool of them. It ends with the last clone, once what it was given is done.
#[derive(Clone)]
pub(crate) struct Workers {
    jobs: mpsc::Sender<Job>,
    threads: usize,
}

impl Workers {
    /// Starts `threads` of them, 0 = one a core.
    pub(crate) fn start(threads: usize) -> Result<Workers> {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let threads = if threads == 0 { cores() } else { threads };
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for n in 0..threads {
            let receiver = receiver.clone();
            let thread = std::thread::Builder::new().name(format!("encode-{n}"));
            thread.spawn(move || work(&receiver)).map_err(Error::io("start a thread for", "encode"))?;
        }
        Ok(Workers { jobs, threads })
    }

    /// How many there are.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Queues a job.
    ///
    /// # Errors
    /// All threads have ended, which only a panic in each of them could bring about.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.jobs.send(Box::new(job)).map_err(|_| Error::Closed)
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    // Linux has a nice value per thread. Without the right to change it compression just competes.
    let _ = rustix::process::setpriority_process(None, 5);
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        job();
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("threads", &self.threads).finish_non_exhaustive()
    }
}
