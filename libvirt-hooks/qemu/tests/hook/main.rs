//! The real program, run as libvirt runs it, against a daemon that does as it is told.
#![cfg(test)]

mod rules;
mod scripted;
mod surroundings;
