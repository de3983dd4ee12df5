//! What the kernel is doing: each write that takes more than one step, each plug and unplug, is a stack of
//! [`Task`]s. A task does one small thing and may put others before itself; a task that waits leaves its job
//! asleep, with the locks it took, until [`Kernel::run`] comes by again. This is how a write blocks, how a
//! reader can look between two steps, and how an unplug meets a half-done enable.

use super::binding::Attach;
use super::{Kernel, Name, Pace};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;
use uuid::Uuid;

/// Kernel locks that sleepers hold and others meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lock {
    /// `device_lock` of a PCI function.
    Device(PciAddress),
    /// `pci_rescan_remove_lock`.
    Rescan,
}

/// One thing to do.
#[derive(Debug, Clone)]
pub(crate) enum Task {
    /// Take a lock; it is given back when the job ends.
    Lock(Lock),
    /// Give one back early.
    Unlock(Lock),
    /// Wait for a time.
    Sleep(u64),
    /// Wait until the fault is over that has this file's writer sleep; then fail.
    Stuck(String),
    /// `sriov_numvfs_store` below the device lock.
    NumVfs(PciAddress, u16),
    /// The driver's `.sriov_configure`.
    Configure(PciAddress, u16),
    /// Add the VF of this index of so many.
    AddVf(PciAddress, u16, u16),
    /// Make `virtfnN` and `physfn`.
    LinkVf(PciAddress, u16),
    /// Tell of the VF.
    ChangeVf(PciAddress, u16),
    /// Tell of the PF.
    EnabledVfs(PciAddress, u16),
    /// `num_VFs`.
    StoreNumVfs(PciAddress, u16),
    /// Remove VFs from this index upwards.
    DropVfs(PciAddress, u16),
    /// `device_attach`: find a driver, without complaint if none takes it.
    Probe(PciAddress),
    /// Bind one driver.
    Attach(Attach),
    /// Its probe is done.
    Attached(PciAddress),
    /// `device_release_driver`, with all that hangs on the driver.
    Release(PciAddress),
    /// Wait until nobody has the function open.
    AwaitFunction(PciAddress),
    /// The driver is off.
    Released(PciAddress),
    /// `device_del`.
    Remove(PciAddress),
    /// A function of the host file, by index, appears.
    Appear(usize),
    /// `mdev_register_parent`.
    ParentBorn(Name),
    /// `mdev_unregister_parent`.
    ParentGone(Name),
    /// The parent's children are gone.
    ParentForgotten(Name),
    /// `device_add` of a mediated device.
    MdevAdd(Name, usize, Uuid),
    /// Its driver's probe.
    MdevProbe(Uuid),
    /// Its links.
    MdevLinks(Uuid),
    /// `device_del`, up to where the driver waits.
    MdevRemove(Uuid),
    /// Wait until nobody has it open.
    AwaitMdev(Uuid),
    /// The rest.
    MdevRemoved(Uuid),
    /// A driver's module is unloaded.
    DriverGone(Name),
    /// It is loaded.
    DriverBorn(Name),
    /// A driver's module is to be unloaded, once none of its VFs is in use.
    Unload(Name),
    /// GIM's thread for the GPU probed as the n-th makes its VFs.
    GimInit(PciAddress, usize),
    /// Its modes and files are there.
    GimLive(PciAddress, usize),
    /// The reset that a memory mode waits for is over.
    GimReset(PciAddress),
}

/// How a task ended.
pub(crate) enum Poll {
    /// It did its thing; these come next, in this order.
    Next(Vec<Task>),
    /// It cannot go on yet.
    Wait(Task),
    /// It was refused; these come next, then the job ends.
    Failed(Errno, Vec<Task>),
}

/// A stack of tasks and who waits for it.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// File and data, when a writer waits.
    pub(crate) write: Option<(String, Vec<u8>)>,
    stack: Vec<Task>,
    error: Option<Errno>,
    /// The writer was told that it sleeps.
    slept: bool,
}

impl Job {
    pub(crate) fn will_appear(&self, index: usize) -> bool {
        self.stack.iter().any(|task| matches!(task, Task::Appear(i) if *i == index))
    }

    /// It takes a driver's module away.
    pub(crate) fn unloads(&self, module: &str) -> bool {
        self.stack.iter().any(
            |task| matches!(task, Task::Unload(name) | Task::DriverGone(name) if **name == *module),
        )
    }

    /// When it goes on, if time is what it waits for.
    pub(crate) fn wakes(&self) -> Option<u64> {
        match self.stack.last() {
            Some(Task::Sleep(at)) => Some(*at),
            _ => None,
        }
    }
}

impl Kernel {
    /// Begins a job on behalf of a writer, and runs it as far as it goes.
    pub(crate) fn start_write(
        &mut self,
        file: &str,
        data: &[u8],
        tasks: Vec<Task>,
    ) -> Result<Written, Errno> {
        let id = self.start(Some((file.to_owned(), data.to_vec())), tasks);
        self.run_at_pace();
        self.outcome(id)
    }

    /// Begins a job that nobody waits for.
    pub(crate) fn start(&mut self, write: Option<(String, Vec<u8>)>, mut tasks: Vec<Task>) -> u64 {
        let id = self.next_job;
        self.next_job += 1;
        tasks.reverse();
        self.jobs.insert(id, Job { write, stack: tasks, error: None, slept: false });
        id
    }

    /// Takes a finished job away, or leaves it asleep.
    pub(crate) fn outcome(&mut self, id: u64) -> Result<Written, Errno> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Ok(Written::Done);
        };
        if !job.stack.is_empty() {
            job.slept = true;
            return Ok(Written::Blocked);
        }
        let error = job.error;
        self.jobs.remove(&id);
        error.map_or(Ok(Written::Done), Err)
    }

    pub(crate) fn run_at_pace(&mut self) {
        if self.pace == Pace::Whole {
            self.run();
        }
    }

    /// Runs all jobs until each is done or waits.
    pub(crate) fn run(&mut self) {
        while self.step_any() {}
    }

    /// One step of the first job that can take one.
    pub(crate) fn step_any(&mut self) -> bool {
        let ids: Vec<u64> = self.jobs.keys().copied().collect();
        ids.into_iter().any(|id| self.step_job(id))
    }

    fn step_job(&mut self, id: u64) -> bool {
        let Some(task) = self.jobs.get_mut(&id).and_then(|job| job.stack.pop()) else {
            return false;
        };
        let poll = self.poll(id, task);
        let Some(job) = self.jobs.get_mut(&id) else {
            return true;
        };
        let progress = match poll {
            Poll::Next(tasks) => {
                job.stack.extend(tasks.into_iter().rev());
                true
            }
            Poll::Wait(task) => {
                job.stack.push(task);
                false
            }
            Poll::Failed(errno, tasks) => {
                job.error.get_or_insert(errno);
                job.stack.clear();
                job.stack.extend(tasks.into_iter().rev());
                true
            }
        };
        if job.stack.is_empty() {
            self.end_job(id);
        }
        progress
    }

    /// Whether a job is not done.
    pub(crate) fn under_way(&self, id: u64) -> bool {
        self.jobs.get(&id).is_some_and(|job| !job.stack.is_empty())
    }

    /// Gives back locks; tells a writer that slept.
    fn end_job(&mut self, id: u64) {
        self.locks.retain(|_, owner| *owner != id);
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let result = job.error.map_or(Ok(()), Err);
        match (job.slept, job.write.clone()) {
            (true, Some((file, data))) => {
                self.jobs.remove(&id);
                self.complete(file, data, result);
            }
            (false, Some(_)) => {}
            (_, None) => drop(self.jobs.remove(&id)),
        }
    }

    pub(crate) fn take_lock(&mut self, id: u64, lock: Lock) -> bool {
        if lock == Lock::Rescan && !self.host.kernel.rescan_lock {
            return true;
        }
        *self.locks.entry(lock).or_insert(id) == id
    }

    fn poll(&mut self, id: u64, task: Task) -> Poll {
        match task {
            Task::Lock(lock) if !self.take_lock(id, lock) => Poll::Wait(task),
            Task::Sleep(until) if self.now < until => Poll::Wait(task),
            Task::Lock(_) | Task::Sleep(_) => done(),
            Task::Stuck(ref file) if self.still_sleeps(file) => Poll::Wait(task),
            Task::Stuck(_) => Poll::Failed(Errno::EIO, Vec::new()),
            Task::Unlock(lock) => {
                if self.locks.get(&lock) == Some(&id) {
                    self.locks.remove(&lock);
                }
                done()
            }
            Task::Attached(address) => self.attached(address),
            Task::NumVfs(pf, want) => self.store_numvfs(pf, want),
            Task::Configure(pf, want) => self.configure_vfs(pf, want),
            Task::AddVf(pf, index, count) => self.add_vf(pf, index, count),
            Task::LinkVf(pf, index) => self.link_vf(pf, index),
            Task::ChangeVf(pf, index) => self.change_vf(pf, index),
            Task::EnabledVfs(pf, count) => self.enabled_vfs(pf, count),
            Task::StoreNumVfs(pf, count) => self.finish_numvfs(pf, count),
            Task::DropVfs(pf, index) => self.drop_vfs(pf, index),
            Task::Probe(address) => self.probe(address),
            Task::Attach(attach) => self.attach(attach),
            Task::Release(address) => self.release(address),
            Task::AwaitFunction(address) if self.function_held(address) => Poll::Wait(task),
            Task::AwaitFunction(_) => done(),
            Task::Released(address) => self.released(address),
            Task::Remove(address) => self.remove_function(address),
            Task::Appear(index) => self.appear(index),
            Task::ParentBorn(name) => self.parent_born(&name),
            Task::ParentGone(name) => self.parent_gone(&name),
            Task::ParentForgotten(name) => self.parent_forgotten(&name),
            Task::MdevAdd(parent, kind, uuid) => self.mdev_add(parent, kind, uuid),
            Task::MdevProbe(uuid) => self.mdev_probe(uuid),
            Task::MdevLinks(uuid) => self.mdev_links(uuid),
            Task::MdevRemove(uuid) => self.mdev_remove(uuid),
            Task::AwaitMdev(uuid) if self.mdev_held(uuid) => Poll::Wait(task),
            Task::AwaitMdev(_) => done(),
            Task::MdevRemoved(uuid) => self.mdev_removed(uuid),
            Task::DriverGone(name) => self.driver_gone(&name),
            Task::DriverBorn(name) => self.driver_born(&name),
            Task::Unload(name) => self.unload(name),
            Task::GimInit(address, index) => self.gim_init(address, index),
            Task::GimLive(address, index) => self.gim_live(address, index),
            Task::GimReset(address) => self.gim_reset(address),
        }
    }
}

/// Nothing follows.
pub(crate) fn done() -> Poll {
    Poll::Next(Vec::new())
}
