//! The daemon's own program on a simulated host, asked as the world asks it: by the command line, libvirt's hook, raw
//! D-Bus calls and raw lines on the socket. Nothing here knows its insides; what a kernel alone can show (a slice that
//! a QEMU keeps while the daemon restarts) is the lab's, as the simulated kernel ends with the daemon.

#![cfg(test)]

mod bus;
mod cli;
mod config;
mod dbus;
mod drain;
mod examples;
mod export;
mod fabric;
mod hints;
mod history;
mod host;
mod incoming;
mod life;
mod log;
mod no_bus;
mod notify;
mod objects;
mod parked;
mod progress;
mod proxmox;
mod restart;
mod socket;
mod state;
