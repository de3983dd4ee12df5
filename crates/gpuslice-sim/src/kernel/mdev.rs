//! Mediated devices (drivers/vfio/mdev/mdev_core.c, mdev_sysfs.c) and how their drivers count
//! (samples/vfio-mdev; NVIDIA's as its users' guide describes it).

use super::catalogue::{Catalogue, Made, Room, Spot};
use super::job::{Poll, Task, done};
use super::number;
use super::uevent::{Action, Uevent};
use super::vfio::Member;
use super::{Kernel, Name};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// A registered parent.
#[derive(Debug, Clone)]
pub(crate) struct Parent {
    pub(crate) place: Place,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) children: BTreeSet<Uuid>,
    /// It is being unregistered: no link in `mdev_bus`, no new children.
    pub(crate) leaving: bool,
}

/// Where a parent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Pci(PciAddress),
    /// `/sys/devices/virtual/<name>/<name>`.
    Virtual,
}

/// A mediated device.
#[derive(Debug, Clone)]
pub(crate) struct Mdev {
    pub(crate) parent: Name,
    pub(crate) kind: usize,
    /// Where on its card, once its driver has made it.
    pub(crate) spot: Option<Spot>,
    /// Parameters of its vGPU.
    pub(crate) params: String,
    pub(crate) group: Option<u32>,
    pub(crate) vfio: Option<u32>,
    /// `mdev_type` and the link back exist.
    pub(crate) linked: bool,
    /// It is being removed: not on the bus, still in its parent and in the way of its UUID.
    pub(crate) removing: bool,
}

impl Kernel {
    /// `available_instances_show`.
    pub(crate) fn available(&self, parent: &Parent, kind: usize) -> u64 {
        self.mdev_room(parent, kind).left
    }

    fn mdev_room(&self, parent: &Parent, kind: usize) -> Room {
        let catalogue = &parent.catalogue;
        let room = self.room(catalogue, kind);
        let here = parent.children.len() as u64;
        let most = catalogue.per_parent.map_or(u64::MAX, |n| u64::from(n).saturating_sub(here));
        Room { left: room.left.min(most), ..room }
    }

    /// What is left of a type on its card.
    pub(crate) fn room(&self, catalogue: &Catalogue, kind: usize) -> Room {
        let made = self.made_of(&catalogue.pool);
        match catalogue.card.and_then(|card| self.cards.get(&card)) {
            Some(card) => catalogue.room(&made, kind, &card.set),
            None => catalogue.room(&made, kind, &Default::default()),
        }
    }

    /// What draws on a budget now: mediated devices and VFs with a type.
    pub(crate) fn made_of(&self, pool: &str) -> Vec<Made> {
        let parents = self.parents.values().filter(|parent| parent.catalogue.pool == pool);
        let children = parents.flat_map(|parent| &parent.children);
        let mdevs = children.filter_map(|uuid| {
            let mdev = self.mdevs.get(uuid)?;
            Some(Made { kind: mdev.kind, spot: mdev.spot? })
        });
        mdevs.chain(self.made_vgpus(pool)).collect()
    }

    /// `create_store`, `mdev_device_create`: length, form, duplicate, the core's count, the rest below.
    pub(crate) fn write_create(
        &mut self,
        file: &str,
        parent: &Name,
        kind: usize,
        data: &[u8],
    ) -> Result<Written, Errno> {
        if data.len() != 36 && data.len() != 37 {
            return Err(Errno::EINVAL);
        }
        let text = data.get(..36).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let uuid = text.and_then(|text| Uuid::try_parse(text).ok()).ok_or(Errno::EINVAL)?;
        if self.mdevs.contains_key(&uuid) {
            return Err(Errno::EEXIST);
        }
        let found = self.parents.get(parent).ok_or(Errno::ENODEV)?;
        if found.catalogue.core_counts && self.available(found, kind) == 0 {
            return Err(found.catalogue.full);
        }
        self.start_write(file, data, vec![Task::MdevAdd(parent.clone(), kind, uuid)])
    }

    pub(crate) fn mdev_add(&mut self, parent: Name, kind: usize, uuid: Uuid) -> Poll {
        let Some(found) = self.parents.get_mut(&parent).filter(|found| !found.leaving) else {
            return Poll::Failed(Errno::ENODEV, Vec::new());
        };
        if self.mdevs.contains_key(&uuid) {
            return Poll::Failed(Errno::EEXIST, Vec::new());
        }
        found.children.insert(uuid);
        let (linked, removing) = (false, false);
        let (spot, params) = (None, String::new());
        let mdev = Mdev { parent, kind, spot, params, group: None, vfio: None, linked, removing };
        self.mdevs.insert(uuid, mdev);
        self.mdev_event(Action::Add, uuid);
        Poll::Next(vec![Task::MdevProbe(uuid), Task::MdevLinks(uuid)])
    }

    /// The driver's probe, which is where a full parent refuses: the device was added, and goes again.
    pub(crate) fn mdev_probe(&mut self, uuid: Uuid) -> Poll {
        let Some(mdev) = self.mdevs.get(&uuid) else {
            return Poll::Failed(Errno::ENODEV, Vec::new());
        };
        let Some(parent) = self.parents.get(&mdev.parent) else {
            return Poll::Failed(Errno::ENODEV, Vec::new());
        };
        // The device itself is among the children already.
        let mut without = parent.clone();
        without.children.remove(&uuid);
        let (kind, full) = (mdev.kind, without.catalogue.full);
        if self.vgpu_refused(without.catalogue.card) {
            return Poll::Failed(full, vec![Task::MdevRemoved(uuid)]);
        }
        let room = self.mdev_room(&without, kind);
        if !without.catalogue.core_counts && room.left == 0 {
            return Poll::Failed(full, vec![Task::MdevRemoved(uuid)]);
        }
        let group = self.groups.join(None, Member::Mdev(uuid));
        let number = self.vfio_numbers.take();
        if let Some(mdev) = self.mdevs.get_mut(&uuid) {
            (mdev.spot, mdev.group, mdev.vfio) = (Some(room.first), Some(group), Some(number));
        }
        let device = format!("{}/vfio-dev/vfio{number}", self.mdev_path(uuid));
        self.plain_event(Action::Add, device, "vfio-dev");
        self.plain_event(Action::Add, format!("/devices/virtual/vfio/{group}"), "vfio");
        self.mdev_event(Action::Bind, uuid);
        done()
    }

    /// `mdev_create_sysfs_files` comes last: no `mdev_type` at the add event.
    pub(crate) fn mdev_links(&mut self, uuid: Uuid) -> Poll {
        if let Some(mdev) = self.mdevs.get_mut(&uuid) {
            mdev.linked = true;
        }
        done()
    }

    /// `remove_store`: 0 is accepted and does nothing; the file goes before the device.
    pub(crate) fn write_remove(
        &mut self,
        file: &str,
        uuid: Uuid,
        data: &[u8],
    ) -> Result<Written, Errno> {
        if number::parse(data).ok_or(Errno::EINVAL)? == 0 {
            return Ok(Written::Done);
        }
        self.start_write(file, data, vec![Task::MdevRemove(uuid)])
    }

    /// `mdev_device_remove_common`: links, then `device_del`, which takes it off the bus before its driver waits.
    pub(crate) fn mdev_remove(&mut self, uuid: Uuid) -> Poll {
        let Some(mdev) = self.mdevs.get_mut(&uuid) else {
            return done();
        };
        if mdev.removing {
            // Somebody else is at it; whoever unregisters the parent waits for the end of that.
            return Poll::Next(vec![Task::AwaitMdev(uuid)]);
        }
        (mdev.removing, mdev.linked) = (true, false);
        Poll::Next(vec![Task::AwaitMdev(uuid), Task::MdevRemoved(uuid)])
    }

    pub(crate) fn mdev_removed(&mut self, uuid: Uuid) -> Poll {
        let Some(mdev) = self.mdevs.get(&uuid).cloned() else {
            return done();
        };
        if let (Some(group), Some(number)) = (mdev.group, mdev.vfio) {
            let device = format!("{}/vfio-dev/vfio{number}", self.mdev_path(uuid));
            self.plain_event(Action::Remove, device, "vfio-dev");
            self.plain_event(Action::Remove, format!("/devices/virtual/vfio/{group}"), "vfio");
            self.groups.leave(group, Member::Mdev(uuid));
            self.vfio_numbers.give_back(number);
            self.mdev_event(Action::Unbind, uuid);
        }
        self.mdev_event(Action::Remove, uuid);
        self.mdevs.remove(&uuid);
        if let Some(parent) = self.parents.get_mut(&mdev.parent) {
            parent.children.remove(&uuid);
        }
        done()
    }

    /// `mdev_register_parent`.
    pub(crate) fn parent_born(&mut self, name: &Name) -> Poll {
        self.register_parent(name);
        done()
    }

    pub(crate) fn register_parent(&mut self, name: &Name) {
        let Some((place, catalogue)) = self.catalogue(name) else {
            return;
        };
        let catalogue = Arc::new(catalogue);
        let (children, leaving) = (BTreeSet::new(), false);
        self.mdev_class = true;
        // A driver of mediated devices needs both modules.
        self.modules.extend(["mdev", "vfio"].map(Into::into));
        self.parents.insert(name.clone(), Parent { place, catalogue, children, leaving });
        self.parent_event(name, "registered");
    }

    /// `mdev_unregister_parent`: the link first, then every child, whoever uses it.
    pub(crate) fn parent_gone(&mut self, name: &Name) -> Poll {
        let Some(parent) = self.parents.get_mut(name) else {
            return done();
        };
        parent.leaving = true;
        let mut tasks: Vec<Task> =
            parent.children.iter().map(|uuid| Task::MdevRemove(*uuid)).collect();
        tasks.push(Task::ParentForgotten(name.clone()));
        Poll::Next(tasks)
    }

    pub(crate) fn parent_forgotten(&mut self, name: &Name) -> Poll {
        let left = self.parents.get(name).map(|parent| !parent.children.is_empty());
        if left == Some(true) {
            return Poll::Wait(Task::ParentForgotten(name.clone()));
        }
        self.parent_event(name, "unregistered");
        self.parents.remove(name);
        done()
    }

    fn parent_event(&mut self, name: &Name, state: &str) {
        let Some(parent) = self.parents.get(name) else {
            return;
        };
        let (devpath, subsystem) = match parent.place {
            Place::Pci(address) => (self.devpath(address), "pci".to_owned()),
            Place::Virtual => (format!("/devices/virtual/{name}/{name}"), name.to_string()),
        };
        let properties = vec![("MDEV_STATE".to_owned(), state.to_owned())];
        let (action, driver) = (Action::Change, None);
        self.emit(Uevent { action, devpath, subsystem, driver, properties });
    }

    /// Directory of a device, without `/sys`.
    pub(crate) fn mdev_path(&self, uuid: Uuid) -> String {
        let name = self.mdevs.get(&uuid).map(|mdev| &mdev.parent);
        let parent = name.and_then(|name| Some((name, self.parents.get(name)?.place)));
        match parent {
            Some((_, Place::Pci(address))) => format!("{}/{uuid}", self.devpath(address)),
            Some((name, Place::Virtual)) => format!("/devices/virtual/{name}/{name}/{uuid}"),
            None => format!("/devices/{uuid}"),
        }
    }

    fn mdev_event(&mut self, action: Action, uuid: Uuid) {
        let bound = self.mdevs.get(&uuid).filter(|mdev| mdev.vfio.is_some());
        let parent = bound.and_then(|mdev| self.parents.get(&mdev.parent));
        let driver = parent.map(|parent| parent.catalogue.driver.clone());
        let driver = driver.filter(|_| matches!(action, Action::Bind | Action::Change));
        let (devpath, subsystem) = (self.mdev_path(uuid), "mdev".to_owned());
        self.emit(Uevent { action, devpath, subsystem, driver, properties: Vec::new() });
    }
}
