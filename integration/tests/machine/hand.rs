//! The daemon's hand on the kernel: it can die between any two writes of a step.

use crate::driver::Driver;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::SliceId;
use gpuslice_core::machine::OpId;
use gpuslice_core::observe::Observer;
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, HostWrite, LogLine, Ran, Written, link_name};
use gpuslice_sim::{Kernel, Outcome};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// A step under way.
#[derive(Debug)]
pub struct Under {
    pub op: OpId,
    pub step: Step,
    /// Its writer sleeps on this file; `None` when it has not begun.
    pub file: Option<String>,
}

/// What steps have asked of a kernel: how, and what.
pub type Asked = RefCell<BTreeSet<String>>;

pub struct Hand<'a> {
    pub kernel: &'a mut Kernel,
    /// Where what it reads is noted, if somebody wants to know.
    pub asked: Option<&'a Asked>,
    /// Writes left to live.
    pub left: Option<u32>,
    pub died: bool,
}

impl Hand<'_> {
    fn note(&self, how: &str, what: &str) {
        if let Some(asked) = self.asked {
            asked.borrow_mut().insert(format!("{how} {what}"));
        }
    }

    fn alive(&mut self) -> Result<(), Errno> {
        match &mut self.left {
            Some(0) => {
                self.died = true;
                Err(Errno::EINTR)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl HostRead for Hand<'_> {
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        self.note("list", dir);
        self.kernel.list(dir)
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        self.note("read", file);
        self.kernel.read(file)
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        self.note("link", path);
        self.kernel.link(path)
    }

    fn device(&self, path: &str) -> Result<Option<(u32, u32)>, Errno> {
        self.kernel.device(path)
    }

    fn ask(&self, command: &[String]) -> Result<Ran, Errno> {
        self.note("ask", &command.join(" "));
        self.kernel.ask(command)
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        self.note("read", "/dev/kmsg");
        self.kernel.kernel_log()
    }
}

impl HostWrite for Hand<'_> {
    fn write(&mut self, file: &str, data: &[u8]) -> Result<Written, Errno> {
        self.alive()?;
        self.kernel.write(file, data)
    }

    fn run(&mut self, command: &[String]) -> Result<Ran, Errno> {
        self.alive()?;
        self.kernel.run(command)
    }

    fn load_module(&mut self, name: &str) -> Result<(), Errno> {
        self.alive()?;
        self.kernel.load_module(name)
    }

    fn unload_module(&mut self, name: &str) -> Result<Written, Errno> {
        self.alive()?;
        self.kernel.unload_module(name)
    }

    fn replace(&mut self, file: &str, content: &[u8]) -> Result<(), Errno> {
        self.alive()?;
        self.kernel.replace(file, content)
    }
}

/// Whether tools may be asked: while a step sets a device none is.
pub fn may_ask(under: &[Under]) -> bool {
    !under.iter().any(|under| under.step.sets_device())
}

/// Asks tools again what they failed to answer.
pub fn ask_again(observer: &mut Observer, kernel: &Kernel) {
    for command in observer.failed_questions() {
        observer.asked_again(&command, kernel.ask(&command));
    }
}

impl Driver {
    /// A person loads a driver anew. Its mdevs go, whoever made them, at once or while a step of ours is under way.
    pub fn reload(&mut self, driver: &str) {
        let kernel = &mut self.kernel;
        let of_driver = |slice: &SliceId| {
            let SliceId::Mdev(uuid) = slice else { return false };
            let device = kernel.link(&format!("/sys/bus/mdev/devices/{uuid}")).unwrap_or_default();
            let Some(parent) = device.rsplit('/').nth(1) else { return false };
            let bound = link_name(kernel, &format!("/sys/bus/pci/devices/{parent}/driver"));
            parent == driver || bound.is_ok_and(|bound| bound.as_deref() == Some(driver))
        };
        let go: Vec<SliceId> = self.foreign_mdevs.iter().copied().filter(of_driver).collect();
        if !matches!(kernel.reload_driver(driver), Outcome::Failed(_)) {
            self.foreign_mdevs.retain(|slice| !go.contains(slice));
        }
    }
}

/// As much of what it is told and does as a person reads.
pub fn brief(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    text.chars().take(220).collect()
}

/// The daemon hears of the ends of processes, not of what one closes that goes on.
pub fn still_held(kernel: &Kernel, slice: SliceId, pids: &mut BTreeSet<u32>) -> bool {
    pids.retain(|pid| kernel.runs(*pid));
    if pids.is_empty() {
        pids.extend(kernel.holders(slice));
    }
    !pids.is_empty()
}
