//! The command line.

use clap::Parser;
use std::path::PathBuf;

/// Gives virtual machines slices of GPUs, and takes them back.
#[derive(Debug, Clone, Parser)]
#[command(name = "gpusliced", version)]
pub struct Args {
    /// Run on a simulated host instead of this one: a host file, or the name of a built-in one (sriov-8, mdev,
    /// mixed)
    #[arg(long, value_name = "FILE|NAME")]
    pub sim: Option<String>,

    /// Take orders for the simulated host's outside world (plug, unplug, reboot, QEMU) on this socket
    #[arg(long, value_name = "PATH", requires = "sim")]
    pub sim_control: Option<PathBuf>,

    /// Where hooks ask
    #[arg(long, value_name = "PATH", default_value = gpuslice_api::names::SOCKET, env = gpuslice_api::names::SOCKET_ENV)]
    pub socket: PathBuf,

    /// Address of the bus instead of the system bus
    #[arg(long, value_name = "ADDRESS", env = gpuslice_api::names::BUS_ADDRESS_ENV)]
    pub bus: Option<String>,

    /// Where claims and applied layouts are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gpuslice")]
    pub state: PathBuf,

    /// Where assignments of this boot are kept
    #[arg(long, value_name = "DIR", default_value = "/run/gpuslice/state")]
    pub run: PathBuf,

    /// Where gpuslice.toml and conf.d are
    #[arg(long, value_name = "DIR", default_value = "/etc/gpuslice")]
    pub config: PathBuf,
}
