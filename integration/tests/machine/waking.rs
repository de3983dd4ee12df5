//! How a daemon begins: what it finds on the disk and in the configuration.

use crate::disk::Disk;
use gpuslice_core::config::{self, Config};
use gpuslice_core::ids::BootId;
use gpuslice_core::machine::{Effect, Machine, Start};
use gpuslice_core::port::read_text;
use gpuslice_sim::Kernel;

pub fn wake(kernel: &Kernel, disk: &Disk, config: &str) -> (Machine, Vec<Effect>) {
    let boot: BootId =
        read_text(kernel, "/proc/sys/kernel/random/boot_id").unwrap().parse().unwrap();
    Machine::start(Start {
        mechanisms: gpuslice_vendors::all(),
        host: "each".to_owned(),
        boot,
        uptime_ms: kernel.uptime_ms(),
        config: read_config(config),
        durable: disk.durable(),
        run: disk.runtime(),
        history: disk.history.open(),
        warnings: Vec::new(),
    })
}

pub fn read_config(text: &str) -> Result<Config, Vec<config::ConfigError>> {
    config::parse(&[("gpuslice.toml".to_owned(), text.to_owned())])
}
