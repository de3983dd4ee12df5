//! The machine: its state, and what can be done to it from outside.

pub(crate) mod binding;
pub(crate) mod catalogue;
mod chance;
pub(crate) mod command;
pub(crate) mod config_space;
pub(crate) mod fault;
pub(crate) mod function;
pub(crate) mod job;
pub(crate) mod log;
mod machine;
pub(crate) mod mdev;
pub(crate) mod number;
pub(crate) mod sriov;
pub(crate) mod uevent;
pub(crate) mod vendor;
pub(crate) mod vfio;

use crate::host_file::HostFile;
use command::{Command, Data, Outcome};
use fault::{Armed, Fault};
use function::Function;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{PciAddress, SliceId};
use gpuslice_core::port::{HostRead, HostWrite, LogLine, Ran, Written};
use job::{Job, Lock};
use log::What;
use mdev::{Mdev, Parent};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uevent::{EventQueue, Noise, Uevent};
use uuid::Uuid;
use vendor::amdgpu::Partitions;
use vendor::gim::Gim;
use vendor::nvidia::TypedVf;
use vendor::nvidia::card::Card;
use vendor::nvidia::registry::Registry;
use vfio::{Groups, Numbers, Process};

/// A name shared by whatever refers to it.
pub(crate) type Name = Arc<str>;

/// Whether a write runs to its end, or stops at each step so that a reader sees what lies between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// To its end, or until it has to wait for somebody or for time.
    #[default]
    Whole,
    /// Nothing happens but through [`Kernel::step`] and [`Kernel::settle`]; each such write is `Blocked` first.
    Steps,
}

/// A write that had slept and is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// The file written.
    pub file: String,
    /// What was written.
    pub data: Vec<u8>,
    /// How it ended.
    pub result: Result<(), Errno>,
}

/// A simulated machine. See the crate.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub(crate) host: Arc<HostFile>,
    pub(crate) now: u64,
    booted: u64,
    pub(crate) boot_id: Uuid,
    boots: u64,
    pub(crate) pace: Pace,
    /// By function of the host file: whether the hardware is in its slot.
    pub(crate) present: Vec<bool>,
    pub(crate) functions: BTreeMap<PciAddress, Function>,
    pub(crate) drivers: BTreeSet<Name>,
    /// Drivers whose modules exit: they are off the bus before they let go of their devices (`bus_remove_driver`).
    pub(crate) leaving: BTreeSet<Name>,
    pub(crate) modules: BTreeSet<Name>,
    pub(crate) groups: Groups,
    pub(crate) vfio_numbers: Numbers,
    pub(crate) parents: BTreeMap<Name, Parent>,
    pub(crate) mdevs: BTreeMap<Uuid, Mdev>,
    /// VFs that take a type.
    pub(crate) typed: BTreeMap<PciAddress, TypedVf>,
    /// VFs that were taken off the driver that passes them to VMs.
    pub(crate) spoiled: BTreeSet<PciAddress>,
    /// What cards and their driver are set to, by PF.
    pub(crate) cards: BTreeMap<PciAddress, Card>,
    /// Keys of the module of cards, while it is loaded.
    pub(crate) registry: Option<Registry>,
    /// GIM's module, while it is loaded.
    pub(crate) gim: Option<Gim>,
    /// `/proc/cmdline`.
    pub(crate) arguments: String,
    /// `/etc/gim_config`, which GIM writes and which survives a boot.
    pub(crate) gim_config: Option<Vec<u8>>,
    /// What amdgpu keeps of PFs.
    pub(crate) partitions: BTreeMap<PciAddress, Partitions>,
    /// The kernel's log since the boot.
    dmesg: Vec<LogLine>,
    /// Files of `/etc/modprobe.d`, which survive a boot.
    pub(crate) modprobe_d: BTreeMap<String, Vec<u8>>,
    /// What the last tool said.
    ran: Option<Ran>,
    /// `/sys/class/mdev_bus` exists from the first parent on.
    pub(crate) mdev_class: bool,
    pub(crate) processes: BTreeMap<u32, Process>,
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) next_job: u64,
    pub(crate) locks: BTreeMap<Lock, u64>,
    completed: Vec<Completed>,
    pub(crate) events: EventQueue,
    pub(crate) faults: Vec<Armed>,
    log: log::Log,
    pub(crate) counts: Counts,
}

/// Counts that a test asks for.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) reads: AtomicU64,
    pub(crate) blocked_reads: AtomicU64,
    pub(crate) asked: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) writes: u64,
}

impl Clone for Counts {
    fn clone(&self) -> Self {
        let copy = |count: &AtomicU64| AtomicU64::new(count.load(Ordering::Relaxed));
        Self {
            reads: copy(&self.reads),
            blocked_reads: copy(&self.blocked_reads),
            asked: copy(&self.asked),
            resets: copy(&self.resets),
            writes: self.writes,
        }
    }
}

/// What can be done to the machine.
impl Kernel {
    /// Does one thing, and records it.
    pub fn apply(&mut self, command: Command) -> Outcome {
        let outcome = self.perform(&command);
        self.log.push(self.now, What::Did(command, outcome));
        outcome
    }

    fn perform(&mut self, command: &Command) -> Outcome {
        if command.is_of_daemon()
            && let Some(other) = self.meanwhile()
        {
            self.perform(&other);
        }
        match command {
            Command::Write { file, data } => return self.perform_write(file, data.bytes()),
            Command::LoadModule(name) => {
                let refused = self.write_fault(&format!("modprobe {name}"));
                if let Err(errno) = refused.map_or_else(|| self.modprobe(name), Err) {
                    return Outcome::Failed(errno);
                }
            }
            Command::UnloadModule(name) => return told(self.unload_driver(name)),
            Command::Replace { file, data } => {
                if let Err(errno) = self.replace_file(file, data.bytes()) {
                    return Outcome::Failed(errno);
                }
            }
            Command::Delete(file) => {
                if let Err(errno) = self.delete_file(file) {
                    return Outcome::Failed(errno);
                }
            }
            Command::Drivers(host) => self.set_drivers(host),
            Command::ReloadDriver(name) => return self.start_reload(name),
            Command::Run(command) => match self.run_tool(command) {
                Ok(ran) => self.ran = Some(ran),
                Err(errno) => return Outcome::Failed(errno),
            },
            Command::Open { pid, comm, slice } => {
                if let Err(errno) = self.open_device(*pid, comm, *slice) {
                    return Outcome::Failed(errno);
                }
            }
            Command::OpenNode { pid, comm, node } => {
                if let Err(errno) = self.open_own_node(*pid, comm, node) {
                    return Outcome::Failed(errno);
                }
            }
            Command::Close { pid, slice } => self.close_device(*pid, *slice),
            Command::Kill(pid) => self.end_process(*pid),
            Command::Plug(address) => return self.start_plug(*address),
            Command::Unplug(address) => return self.start_unplug(*address),
            Command::Advance(ms) => self.pass(*ms),
            Command::Step => {
                return if self.step_any() { Outcome::Done } else { Outcome::Idle };
            }
            Command::Settle => {
                self.run();
                return Outcome::Done;
            }
            Command::Pace(pace) => self.pace = *pace,
            Command::Fault(fault) => self.faults.push(Armed::new(fault.clone())),
            Command::ClearFaults => self.faults.clear(),
            Command::Noise(noise) => self.events.set_noise(*noise),
            Command::Say(line) => self.printk(line.clone()),
            Command::Reboot => self.boot(),
        }
        self.run_at_pace();
        Outcome::Done
    }

    /// Stops at each moment at which something falls due, so that one delay does not stretch the next.
    fn pass(&mut self, ms: u64) {
        let end = self.now.saturating_add(ms);
        while self.pace == Pace::Whole
            && let Some(due) = self.next_timer().filter(|due| *due <= end)
        {
            self.now = due;
            self.run();
        }
        self.now = end;
    }

    fn run_tool(&mut self, command: &[String]) -> Result<Ran, Errno> {
        let (program, arguments) = command.split_first().ok_or(Errno::EINVAL)?;
        let line = command.join(" ");
        self.write_fault(&line).map_or(Ok(()), Err)?;
        if let Some(code) = self.exit_fault(&line) {
            return Ok(Ran { code, said: format!("{program}: failed\n") });
        }
        let host = Arc::clone(&self.host);
        let is = |tool: &Option<String>| tool.as_ref() == Some(program);
        if host.drivers.iter().any(|d| is(&d.vf_tool)) {
            self.sriov_manage(arguments)
        } else if host.drivers.iter().any(|d| is(&d.smi_tool)) {
            Ok(self.nvidia_smi(arguments))
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// Runs tasks to their end on behalf of a tool that waits; time passes while it does.
    pub(crate) fn run_to_end(&mut self, tasks: Vec<job::Task>) -> Result<Ran, Errno> {
        let id = self.start(Some((String::new(), Vec::new())), tasks);
        self.run();
        while self.under_way(id) {
            // A tool that waits for a process, rather than for time, is given up on.
            let Some(due) = self.next_timer() else {
                self.jobs.entry(id).and_modify(|job| job.write = None);
                return Err(Errno::ETIMEDOUT);
            };
            self.now = due;
            self.run();
        }
        match self.outcome(id) {
            Ok(_) => Ok(Ran { code: 0, said: String::new() }),
            Err(errno) => Err(errno),
        }
    }

    fn perform_write(&mut self, file: &str, data: &[u8]) -> Outcome {
        self.counts.writes += 1;
        if let Some(errno) = self.write_fault(file) {
            return Outcome::Failed(errno);
        }
        if self.sleep_fault(file) {
            return told(self.start_write(file, data, vec![job::Task::Stuck(file.to_owned())]));
        }
        told(self.write_file(file, data))
    }

    /// Virtual time since the machine was made, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.now
    }

    /// Virtual time since it booted, in milliseconds.
    pub fn uptime_ms(&self) -> u64 {
        self.now - self.booted
    }

    /// Lets time pass and does what falls due.
    pub fn advance(&mut self, ms: u64) {
        self.apply(Command::Advance(ms));
    }

    /// Time at which something falls due that waits for time alone.
    pub fn next_timer(&self) -> Option<u64> {
        self.jobs.values().filter_map(Job::wakes).filter(|at| *at > self.now).min()
    }

    /// One step of what is under way; false when everything waits or nothing is.
    pub fn step(&mut self) -> bool {
        self.apply(Command::Step) == Outcome::Done
    }

    /// All steps that wait for neither time nor people.
    pub fn settle(&mut self) {
        self.apply(Command::Settle);
    }

    /// Whether writes stop at each step.
    pub fn set_pace(&mut self, pace: Pace) {
        self.apply(Command::Pace(pace));
    }

    /// A process opens the VFIO group node of a device, as QEMU does.
    ///
    /// # Errors
    /// `ENOENT` without the device, `ENODEV` without a VFIO driver on it, `EPERM` when its group is not viable,
    /// `EBUSY` when another process has the group.
    pub fn open(&mut self, pid: u32, comm: &str, slice: SliceId) -> Result<(), Errno> {
        let comm = comm.to_owned();
        match self.apply(Command::Open { pid, comm, slice }) {
            Outcome::Failed(errno) => Err(errno),
            _ => Ok(()),
        }
    }

    /// A process opens a node that a driver made beside its devices, as a vendor's monitor does.
    ///
    /// # Errors
    /// `ENOENT` when no driver has made it.
    pub fn open_node(&mut self, pid: u32, comm: &str, node: &str) -> Result<(), Errno> {
        let (comm, node) = (comm.to_owned(), node.to_owned());
        match self.apply(Command::OpenNode { pid, comm, node }) {
            Outcome::Failed(errno) => Err(errno),
            _ => Ok(()),
        }
    }

    /// It closes it.
    pub fn close(&mut self, pid: u32, slice: SliceId) {
        self.apply(Command::Close { pid, slice });
    }

    /// The process ends; what it held is let go of.
    pub fn kill(&mut self, pid: u32) {
        self.apply(Command::Kill(pid));
    }

    /// A driver says something in the kernel's log.
    pub fn say(&mut self, line: &str) {
        self.apply(Command::Say(line.to_owned()));
    }

    /// Lines of the kernel's log from one on.
    pub fn log_from(&self, first: usize) -> &[LogLine] {
        self.dmesg.get(first..).unwrap_or_default()
    }

    /// Deletes a file of settings, as its owner does.
    ///
    /// # Errors
    /// `ENOENT` when it is not there or no such file.
    pub fn delete(&mut self, file: &str) -> Result<(), Errno> {
        match self.apply(Command::Delete(file.to_owned())) {
            Outcome::Failed(errno) => Err(errno),
            _ => Ok(()),
        }
    }

    /// Has drivers behave as this host file says, as other versions or options of theirs do. Its functions are those of
    /// the one that the machine was made of.
    pub fn become_host(&mut self, host: HostFile) {
        self.apply(Command::Drivers(Box::new(host)));
    }

    /// Puts a function of the host file back into its slot.
    pub fn plug(&mut self, address: PciAddress) -> Outcome {
        self.apply(Command::Plug(address))
    }

    /// Takes a function out, with its VFs and mediated devices; `Blocked` while one is held.
    pub fn unplug(&mut self, address: PciAddress) -> Outcome {
        self.apply(Command::Unplug(address))
    }

    /// Unloads and loads a driver's module; `Blocked` while a device of it is held.
    pub fn reload_driver(&mut self, name: &str) -> Outcome {
        self.apply(Command::ReloadDriver(name.to_owned()))
    }

    /// Power off and on: what the kernel keeps in memory is gone, and so are processes and sleeping writers.
    pub fn reboot(&mut self) {
        self.apply(Command::Reboot);
    }

    /// Arms a fault.
    pub fn inject(&mut self, fault: Fault) {
        self.apply(Command::Fault(fault));
    }

    /// Disarms all faults.
    pub fn clear_faults(&mut self) {
        self.apply(Command::ClearFaults);
    }

    /// Makes the way of events to the listener unreliable.
    pub fn set_noise(&mut self, noise: Noise) {
        self.apply(Command::Noise(noise));
    }

    /// Events since the last call.
    pub fn take_events(&mut self) -> Vec<Uevent> {
        self.events.take()
    }

    /// Whether events were lost since the last call (`ENOBUFS`).
    pub fn take_overflow(&mut self) -> bool {
        self.events.take_overflow()
    }

    /// Writes that were answered `Blocked` and have ended since the last call.
    pub fn poll_blocked(&mut self) -> Vec<Completed> {
        std::mem::take(&mut self.completed)
    }

    /// Files whose writers sleep now.
    pub fn blocked(&self) -> Vec<String> {
        self.jobs.values().filter_map(|job| Some(job.write.as_ref()?.0.clone())).collect()
    }

    /// Processes that have the device open, by id.
    pub fn holders(&self, slice: SliceId) -> Vec<u32> {
        let holds = |(pid, process): (&u32, &Process)| process.holds(slice).then_some(*pid);
        self.processes.iter().filter_map(holds).collect()
    }

    /// Whether a process is there, whatever it has open.
    pub fn runs(&self, pid: u32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// Reads of an attribute that would have slept for ever, because its lock is held by a sleeping writer.
    pub fn blocked_reads(&self) -> u64 {
        self.counts.blocked_reads.load(Ordering::Relaxed)
    }

    /// Reads, listings and links asked for so far.
    pub fn reads(&self) -> u64 {
        self.counts.reads.load(Ordering::Relaxed)
    }

    /// Tools asked so far.
    pub fn asked(&self) -> u64 {
        self.counts.asked.load(Ordering::Relaxed)
    }

    /// Writes tried so far.
    pub fn writes(&self) -> u64 {
        self.counts.writes
    }

    /// Everything done to the machine and everything it told, one JSON object a line; see
    /// [`crate::replay`].
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Addresses of the PFs of the host file, there or not.
    pub fn pfs(&self) -> Vec<PciAddress> {
        let pfs = self.host.functions.iter().filter(|f| f.sriov.is_some());
        pfs.map(|f| f.address).collect()
    }

    pub(crate) fn emit(&mut self, event: Uevent) {
        if !self.events.deaf {
            self.log.push(self.now, What::Uevent(event.clone()));
        }
        self.events.push(event);
    }

    /// The same, when it is not the last line already.
    pub(crate) fn say_once(&mut self, line: String) {
        if self.dmesg.last().is_none_or(|last| last.text != line) {
            self.printk(line);
        }
    }

    /// A line of the kernel's log.
    pub(crate) fn printk(&mut self, text: String) {
        let sequence = u64::try_from(self.dmesg.len()).unwrap_or(u64::MAX);
        self.dmesg.push(LogLine { sequence, at_us: self.now.saturating_mul(1000), text });
    }

    pub(crate) fn complete(&mut self, file: String, data: Vec<u8>, result: Result<(), Errno>) {
        let outcome = result.map_or_else(Outcome::Failed, |()| Outcome::Done);
        self.log.push(self.now, What::Woke(file.clone(), outcome));
        self.completed.push(Completed { file, data, result });
    }
}

fn told(written: Result<Written, Errno>) -> Outcome {
    match written {
        Ok(Written::Done) => Outcome::Done,
        Ok(Written::Blocked) => Outcome::Blocked,
        Err(errno) => Outcome::Failed(errno),
    }
}

impl HostRead for Kernel {
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        self.list_dir(dir)
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        self.read_file(file)
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        self.read_link(path)
    }

    fn device(&self, path: &str) -> Result<Option<(u32, u32)>, Errno> {
        self.device_number(path)
    }

    fn ask(&self, command: &[String]) -> Result<Ran, Errno> {
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
        let (program, arguments) = command.split_first().ok_or(Errno::EINVAL)?;
        self.read_fault(program).map_or(Ok(()), Err)?;
        let tells = |d: &crate::DriverShape| d.smi_tool.as_ref() == Some(program);
        if !self.host.drivers.iter().any(tells) {
            return Err(Errno::ENOENT);
        }
        if let Some(code) = self.exit_fault(&command.join(" ")) {
            return Ok(Ran { code, said: format!("{program}: failed\n") });
        }
        let ran = self.nvidia_smi_tells(arguments);
        let said = self.strange(program, ran.said.into_bytes());
        Ok(Ran { code: ran.code, said: String::from_utf8_lossy(&said).into_owned() })
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        self.read_fault("/dev/kmsg").map_or(Ok(()), Err)?;
        Ok(self.dmesg.clone())
    }
}

impl HostWrite for Kernel {
    fn write(&mut self, file: &str, data: &[u8]) -> Result<Written, Errno> {
        let (file, data) = (file.to_owned(), Data::new(data));
        match self.apply(Command::Write { file, data }) {
            Outcome::Failed(errno) => Err(errno),
            Outcome::Blocked => Ok(Written::Blocked),
            Outcome::Done | Outcome::Idle => Ok(Written::Done),
        }
    }

    fn run(&mut self, command: &[String]) -> Result<Ran, Errno> {
        match self.apply(Command::Run(command.to_vec())) {
            Outcome::Failed(errno) => Err(errno),
            _ => self.ran.take().ok_or(Errno::EIO),
        }
    }

    fn load_module(&mut self, name: &str) -> Result<(), Errno> {
        match self.apply(Command::LoadModule(name.to_owned())) {
            Outcome::Failed(errno) => Err(errno),
            _ => Ok(()),
        }
    }

    fn unload_module(&mut self, name: &str) -> Result<Written, Errno> {
        match self.apply(Command::UnloadModule(name.to_owned())) {
            Outcome::Failed(errno) => Err(errno),
            Outcome::Blocked => Ok(Written::Blocked),
            Outcome::Done | Outcome::Idle => Ok(Written::Done),
        }
    }

    fn replace(&mut self, file: &str, content: &[u8]) -> Result<(), Errno> {
        let (file, data) = (file.to_owned(), Data::new(content));
        match self.apply(Command::Replace { file, data }) {
            Outcome::Failed(errno) => Err(errno),
            _ => Ok(()),
        }
    }
}
