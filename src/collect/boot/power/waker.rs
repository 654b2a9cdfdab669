//! Wake-on-LAN without a daemon: reads interfaces and machine files, and sends.

use greypit_pipeline::Result;

use super::target::{self, Target};
use super::wol;
use crate::collect::boot::config::Config;
use crate::collect::boot::machines::Boot;
use crate::collect::boot::machines::catalog::Catalog;
use crate::collect::boot::net::{Look, Networks};
use crate::collect::boot::policy::Why;

/// What `greypit wake` needs where it asks nobody.
#[derive(Debug)]
pub(crate) struct Waker {
    networks: Networks,
    machines: Catalog,
}

impl Waker {
    /// `None` where the config names no interface.
    ///
    /// # Errors
    /// What is wrong with the interfaces or the machine files.
    pub(crate) fn new(config: &Config) -> Result<Option<Waker>> {
        if !config.is_on() {
            return Ok(None);
        }
        let networks = Networks::new(config, Look::now(&config.interface, &[])?.some()?)?;
        Ok(Some(Waker { machines: Catalog::open(&config.dir, &networks)?, networks }))
    }

    /// One line for a person.
    ///
    /// # Errors
    /// Why not, for a person.
    pub(crate) fn wake(&self, name: &str) -> std::result::Result<String, String> {
        let target = target::find(&self.machines.current(), |_| None, name)?;
        match target.machine.as_ref().is_some_and(|machine| machine.boot == Boot::Off) {
            true => Err(format!("{}: {}", target.text(), Why::Off.name())),
            false => self.send(&target),
        }
    }

    fn send(&self, target: &Target) -> std::result::Result<String, String> {
        let ways = wol::ways(&self.networks, target.ip);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let sent = runtime.and_then(|runtime| runtime.block_on(wol::send(&target.macs, &ways, wol::PORT)));
        sent.map_err(|error| format!("{}: the packet could not be sent: {error}", target.text()))?;
        let to: Vec<_> = ways.iter().map(|way| way.to.to_string()).collect();
        Ok(format!("{}: woken through {}", target.text(), to.join(", ")))
    }
}
