//! Who holds a device: processes with an open descriptor on a VFIO node, read from `/proc/<pid>/fd`.
//!
//! An answer that could not be had is not "nobody": a process whose descriptors cannot be read counts as unknown,
//! and unknown means held. But any user can give a file such a name, and open one he has no right to with `O_PATH`; neither
//! is a use of the device.

use crate::errno::Errno;
use crate::ids::{MdevUuid, PciAddress, SliceId};
use crate::port::{HostRead, link_name, read_text, text_of};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Where VFIO devices have nodes of their own. Among the nodes of a device it stands for those that are there no more: what
/// is taken off its driver loses number and node at once, and its driver waits for whoever has it open.
const CDEVS: &str = "/dev/vfio/devices";

/// Where all nodes of VFIO are.
const VFIO_NODES: &str = "/dev/vfio/";

/// Of a descriptor that only names a file, for which no right to the file is needed (open(2)).
const O_PATH: u32 = 0o10_000_000;

/// A process that has a node open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// `/proc/<pid>/comm`.
    pub comm: String,
}

/// Whether a process of this name is that of a VM.
pub fn is_vm(comm: &str) -> bool {
    ["qemu", "kvm"].iter().any(|vm| comm.starts_with(vm))
}

/// Result of a look into `/proc`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// Who was found.
    pub found: Vec<Holder>,
    /// Processes that could not be looked into.
    pub unknown: Vec<u32>,
}

impl Holders {
    /// Whether the device must be taken as in use.
    pub fn held(&self) -> bool {
        !self.found.is_empty() || !self.unknown.is_empty()
    }
}

/// Device nodes through which a PCI function can be held: its group's and its own cdev's. The link to its driver goes first when
/// that is taken off, and the driver waits for whoever has it open: without one, it may be a node that is there no more.
///
/// # Errors
/// Any errno but `ENOENT` of the links involved.
pub fn nodes_of_function(
    host: &dyn HostRead,
    address: PciAddress,
) -> Result<BTreeSet<String>, Errno> {
    let dir = format!("/sys/bus/pci/devices/{address}");
    let mut nodes = nodes_in(host, &dir)?;
    if link_name(host, &format!("{dir}/driver"))?.is_none() {
        nodes.insert(CDEVS.to_owned());
    }
    Ok(nodes)
}

/// Device nodes through which an mdev can be held.
///
/// # Errors
/// Any errno but `ENOENT` of the links involved.
pub fn nodes_of_mdev(host: &dyn HostRead, uuid: MdevUuid) -> Result<BTreeSet<String>, Errno> {
    nodes_in(host, &format!("/sys/bus/mdev/devices/{uuid}"))
}

/// What a look for the holders of several slices found. Slices nobody holds are in neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EachHolders {
    /// Who has which.
    pub found: BTreeMap<SliceId, Vec<Holder>>,
    /// Those of which nothing could be told, and why: `/proc` or their nodes could not be read.
    pub untold: BTreeMap<SliceId, Errno>,
}

impl EachHolders {
    /// One holder of each, where one is all that is shown.
    pub fn one_of_each(self) -> BTreeMap<SliceId, Holder> {
        let one = |(slice, mut all): (SliceId, Vec<Holder>)| Some((slice, all.pop()?));
        self.found.into_iter().filter_map(one).collect()
    }
}

/// Looks once for the holders of several slices. Processes that cannot be looked into hold none of them here, so this is for
/// showing, not for taking away.
pub fn find_each<'a>(
    host: &dyn HostRead,
    slices: impl IntoIterator<Item = &'a SliceId>,
) -> EachHolders {
    let mut each = EachHolders::default();
    let mut nodes: BTreeMap<String, Vec<SliceId>> = BTreeMap::new();
    for slice in slices {
        match nodes_of(host, *slice) {
            Ok(of_slice) => {
                for node in of_slice {
                    nodes.entry(node).or_default().push(*slice);
                }
            }
            Err(errno) => drop(each.untold.insert(*slice, errno)),
        }
    }
    match by_node(host, &nodes) {
        Ok(found) => each.found = found,
        Err(errno) => {
            let all = nodes.into_values().flatten();
            each.untold.extend(all.map(|slice| (slice, errno)));
        }
    }
    each
}

/// Whether one process has a slice open. One that is not there has none.
///
/// # Errors
/// When that cannot be told.
pub fn has_open(host: &dyn HostRead, pid: u32, slice: SliceId) -> Result<bool, Errno> {
    let nodes = nodes_of(host, slice)?;
    match look(host, pid, |path| nodes.contains(path), |_| ControlFlow::Break(())) {
        Ok(looked) => Ok(looked.is_break()),
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The same of anything else, by the nodes that each has.
///
/// # Errors
/// When `/proc` itself cannot be listed.
pub fn by_node<T: Ord + Clone>(
    host: &dyn HostRead,
    nodes: &BTreeMap<String, Vec<T>>,
) -> Result<BTreeMap<T, Vec<Holder>>, Errno> {
    let mut held: BTreeMap<T, Vec<Holder>> = BTreeMap::new();
    if nodes.is_empty() {
        return Ok(held);
    }
    for pid in processes(host)? {
        // Each process is looked through once, however many nodes there are.
        let mut opened = BTreeSet::new();
        let named = |path: &str| nodes.contains_key(path);
        let looked = look(host, pid, named, |path| {
            opened.extend(nodes.get(path).into_iter().flatten());
            ControlFlow::Continue(())
        });
        if looked.is_ok() && !opened.is_empty() {
            let holder = holder(host, pid);
            for of in opened {
                held.entry(of.clone()).or_default().push(holder.clone());
            }
        }
    }
    Ok(held)
}

fn nodes_in(host: &dyn HostRead, dir: &str) -> Result<BTreeSet<String>, Errno> {
    let mut nodes = BTreeSet::new();
    if let Some(group) = link_name(host, &format!("{dir}/iommu_group"))? {
        nodes.insert(format!("/dev/vfio/{group}"));
    }
    match host.list(&format!("{dir}/vfio-dev")) {
        Ok(names) => nodes.extend(names.into_iter().map(|n| format!("{CDEVS}/{n}"))),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    Ok(nodes)
}

/// Device nodes through which a slice can be held.
///
/// # Errors
/// Any errno but `ENOENT` of the links involved.
pub fn nodes_of(host: &dyn HostRead, slice: SliceId) -> Result<BTreeSet<String>, Errno> {
    match slice {
        SliceId::Mdev(uuid) => nodes_of_mdev(host, uuid),
        SliceId::Vf(address) | SliceId::Function(address) => nodes_of_function(host, address),
    }
}

/// Looks for processes that have any of the nodes open.
///
/// # Errors
/// When `/proc` itself cannot be listed.
pub fn find(host: &dyn HostRead, nodes: &BTreeSet<String>) -> Result<Holders, Errno> {
    let mut holders = Holders::default();
    if nodes.is_empty() {
        return Ok(holders);
    }
    let going = if nodes.contains(CDEVS) { Some(cdevs(host)?) } else { None };
    let gone = |path: &str| {
        let name = path.strip_prefix(CDEVS).and_then(|name| name.strip_prefix('/'));
        going.as_ref().zip(name).is_some_and(|(there, name)| !there.contains(name))
    };
    for pid in processes(host)? {
        let named = |path: &str| nodes.contains(path) || gone(path);
        match look(host, pid, named, |_| ControlFlow::Break(())) {
            Ok(ControlFlow::Break(())) => holders.found.push(holder(host, pid)),
            Ok(ControlFlow::Continue(())) => {}
            // It ended meanwhile.
            Err(Errno::ENOENT | Errno::ESRCH) => {}
            Err(_) => holders.unknown.push(pid),
        }
    }
    Ok(holders)
}

/// VFIO devices that have nodes now.
fn cdevs(host: &dyn HostRead) -> Result<BTreeSet<String>, Errno> {
    match host.list(CDEVS) {
        Ok(names) => Ok(names.into_iter().collect()),
        Err(Errno::ENOENT) => Ok(BTreeSet::new()),
        Err(errno) => Err(errno),
    }
}

fn processes(host: &dyn HostRead) -> Result<impl Iterator<Item = u32>, Errno> {
    Ok(host.list("/proc")?.into_iter().filter_map(|name| name.parse().ok()))
}

fn holder(host: &dyn HostRead, pid: u32) -> Holder {
    let comm = read_text(host, &format!("/proc/{pid}/comm")).unwrap_or_default();
    Holder { pid, comm }
}

/// Goes through those of the named nodes that a process has open, until `each` breaks off.
fn look(
    host: &dyn HostRead,
    pid: u32,
    named: impl Fn(&str) -> bool,
    mut each: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Errno> {
    for fd in host.list(&format!("/proc/{pid}/fd"))? {
        match host.link(&format!("/proc/{pid}/fd/{fd}")) {
            Ok(target) => {
                let path = opened_as(&target);
                if named(path) && opens(host, pid, &fd, path) && each(path).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            // Closed meanwhile; or a path that fits no page, which that of a node does.
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The path under which a descriptor was opened. A node may be gone from the holder's `/dev` (libvirt gives each
/// QEMU its own) and still be open.
fn opened_as(target: &str) -> &str {
    target.strip_suffix(" (deleted)").unwrap_or(target)
}

/// Whether a descriptor that has a node's name has its device open, as far as it can be told.
fn opens(host: &dyn HostRead, pid: u32, fd: &str, node: &str) -> bool {
    if host.read(&format!("/proc/{pid}/fdinfo/{fd}")).is_ok_and(|info| only_names(&info)) {
        return false;
    }
    let link = format!("/proc/{pid}/fd/{fd}");
    match host.device(&link) {
        Ok(Some(number)) => leads_to(host, node, number),
        Ok(None) => false,
        // Either it was closed meanwhile, or nothing was told.
        Err(_) => !matches!(host.link(&link), Err(Errno::ENOENT | Errno::ESRCH)),
    }
}

/// `flags:` is in octal (proc_pid_fdinfo(5)).
fn only_names(info: &[u8]) -> bool {
    let flags = text_of(info).ok().and_then(|text| {
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
        u32::from_str_radix(flags.trim(), 8).ok()
    });
    flags.is_some_and(|flags| flags & O_PATH != 0)
}

/// Whether a node leads to the device of this number. Of one that is there no more only VFIO's own numbers are known, which
/// nobody has without a right to some device of it.
fn leads_to(host: &dyn HostRead, node: &str, number: (u32, u32)) -> bool {
    match host.device(node) {
        Ok(Some(there)) => there == number,
        _ => !node.starts_with(VFIO_NODES) || of_vfio(host, number.0),
    }
}

/// Whether a major number is VFIO's (its groups' or its devices': drivers/vfio/group.c, device_cdev.c).
fn of_vfio(host: &dyn HostRead, major: u32) -> bool {
    let Ok(devices) = read_text(host, "/proc/devices") else { return true };
    let characters = devices.lines().take_while(|line| !line.starts_with("Block"));
    let mut named = characters.filter_map(|line| line.trim_start().split_once(' '));
    named.any(|(number, name)| number.parse() == Ok(major) && name.starts_with("vfio"))
}

#[cfg(test)]
mod tests;
