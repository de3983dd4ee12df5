//! Following paths: components, links, `..`; and where each directory is by its own name.

use super::entries::GPUS;
use super::files::Mode;
use super::{Dir, FIXED, File, Fixed, Node};
use crate::kernel::Kernel;
use gpuslice_core::errno::Errno;
use std::sync::atomic::Ordering;

/// Links followed on one path, as in the kernel.
const MOST_LINKS: u32 = 40;

impl Kernel {
    /// What a path leads to; its last component is followed when it is a link and `follow` is set. Also gives the
    /// directory that the last component is in.
    pub(super) fn lookup(&self, path: &str, follow: bool) -> Result<(Dir, Node), Errno> {
        let path = path.strip_prefix('/').ok_or(Errno::ENOENT)?;
        let mut at = Dir::Fixed(Fixed::Root);
        let mut node = Node::Dir(at.clone());
        let mut links = 0;
        let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
        while let Some(part) = parts.next() {
            let found = if part == ".." { self.above(&at) } else { self.entry(&at, part) };
            let last = parts.peek().is_none();
            let inside = at.clone();
            node = found.ok_or(Errno::ENOENT)?;
            if let Node::Link(target) = &node
                && (follow || !last)
            {
                links += 1;
                node = Node::Dir(target.clone());
            }
            match &node {
                _ if links > MOST_LINKS => return Err(Errno::ELOOP),
                _ if last => return Ok((inside, node)),
                Node::Dir(dir) => at = dir.clone(),
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Ok((at, node))
    }

    fn above(&self, dir: &Dir) -> Option<Node> {
        let path = self.path(dir);
        let (above, _) = path.rsplit_once('/')?;
        self.lookup(&format!("/{above}"), true).ok().map(|(_, node)| node)
    }

    /// Where a directory is, by its own name and not by a link's.
    pub(super) fn path(&self, dir: &Dir) -> String {
        let in_types =
            |parent| format!("{}/mdev_supported_types", self.path(&self.parent_dir(parent)));
        match dir {
            Dir::Fixed(Fixed::Root) => String::new(),
            Dir::Fixed(Fixed::ProcSys) => "/proc/sys".to_owned(),
            Dir::Fixed(Fixed::System) => "/sys/devices/system".to_owned(),
            Dir::NumaNode(node) => format!("/sys/devices/system/node/node{node}"),
            Dir::PciDriver(name) => format!("/sys/bus/pci/drivers/{name}"),
            Dir::Slot(name) => format!("/sys/bus/pci/slots/{name}"),
            Dir::MdevDriver(name) => format!("/sys/bus/mdev/drivers/{name}"),
            Dir::Group(group) => format!("/sys/kernel/iommu_groups/{group}"),
            Dir::GroupDevices(group) => format!("/sys/kernel/iommu_groups/{group}/devices"),
            Dir::Parameters(name) => {
                format!("/sys/module/{}/parameters", name.replace('-', "_"))
            }
            Dir::Module(name) => format!("/sys/module/{}", name.replace('-', "_")),
            Dir::Bridge(domain, bus) => format!("/sys/devices/pci{domain:04x}:{bus:02x}"),
            Dir::Function(address) => format!("/sys{}", self.devpath(*address)),
            Dir::Vgpu(address) => format!("/sys{}/nvidia", self.devpath(*address)),
            Dir::VfioDev(member) => format!("/sys{}/vfio-dev", self.member_path(*member)),
            Dir::VfioNumber(member) => {
                let number = self.vfio_number(*member).unwrap_or(0);
                format!("/sys{}/vfio-dev/vfio{number}", self.member_path(*member))
            }
            Dir::Virtual => "/sys/devices/virtual".to_owned(),
            Dir::VirtualClass(name) => format!("/sys/devices/virtual/{name}"),
            Dir::VirtualParent(name) => format!("/sys/devices/virtual/{name}/{name}"),
            Dir::Types(parent) => in_types(parent),
            Dir::Type(parent, kind) => {
                format!("{}/{}", in_types(parent), self.type_dir(parent, *kind))
            }
            Dir::TypeDevices(parent, kind) => {
                format!("{}/{}/devices", in_types(parent), self.type_dir(parent, *kind))
            }
            Dir::Mdev(uuid) => format!("/sys{}", self.mdev_path(*uuid)),
            Dir::MdevVgpu(uuid) => format!("/sys{}/nvidia", self.mdev_path(*uuid)),
            Dir::VfioCdevs => "/dev/vfio/devices".to_owned(),
            Dir::ProcDriver => "/proc/driver".to_owned(),
            Dir::Registry(driver) => format!("/proc/driver/{driver}"),
            Dir::Gpus => format!("{}/{GPUS}", self.path(&Dir::Registry(self.gpus_driver()))),
            Dir::Gpu(address) => format!("{}/{address}", self.path(&Dir::Gpus)),
            Dir::Process(pid) => format!("/proc/{pid}"),
            Dir::Descriptors(pid) => format!("/proc/{pid}/fd"),
            Dir::DescriptorInfos(pid) => format!("/proc/{pid}/fdinfo"),
            fixed => match FIXED.iter().find(|(_, _, dir)| dir == fixed) {
                Some((parent, name, _)) => format!("{}/{name}", self.path(&Dir::Fixed(*parent))),
                None => String::new(),
            },
        }
    }

    fn type_dir(&self, parent: &str, kind: usize) -> String {
        let catalogue = self.parents.get(parent).map(|p| &p.catalogue);
        let found = catalogue.and_then(|c| Some((&c.prefix, &c.types.get(kind)?.id)));
        found.map(|(prefix, id)| format!("{prefix}-{id}")).unwrap_or_default()
    }

    pub(crate) fn list_dir(&self, path: &str) -> Result<Vec<String>, Errno> {
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        self.read_fault(path).map_or(Ok(()), Err)?;
        match self.lookup(path, true)?.1 {
            Node::Dir(dir) => Ok(self.names(&dir)),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn read_file(&self, path: &str) -> Result<Vec<u8>, Errno> {
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        self.read_fault(path).map_or(Ok(()), Err)?;
        let file = self.file(path, Mode::Write)?;
        self.content(&file).map(|content| self.strange(path, content))
    }

    /// The file at a path, if it opens in a direction other than `only`.
    pub(super) fn file(&self, path: &str, only: Mode) -> Result<File, Errno> {
        match self.lookup(path, true)?.1 {
            Node::File(file) if file.mode() == only => Err(Errno::EACCES),
            Node::File(file) => Ok(file),
            Node::Dir(_) | Node::Link(_) => Err(Errno::EISDIR),
            Node::Descriptor(_) => Ok(File::Node),
        }
    }

    /// Permission bits of a file, as stat(2) shows them.
    ///
    /// # Errors
    /// `ENOENT` when it is absent, `EISDIR` for what is no file.
    pub fn permissions(&self, path: &str) -> Result<u32, Errno> {
        match self.lookup(path, true)?.1 {
            Node::File(file) => Ok(file.permissions()),
            _ => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn read_link(&self, path: &str) -> Result<String, Errno> {
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        self.read_fault(path).map_or(Ok(()), Err)?;
        match self.lookup(path, false)? {
            (inside, Node::Link(target)) => Ok(relative(&self.path(&inside), &self.path(&target))),
            (_, Node::Descriptor(target)) => Ok(target),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn device_number(&self, path: &str) -> Result<Option<(u32, u32)>, Errno> {
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        self.read_fault(path).map_or(Ok(()), Err)?;
        Ok(match self.lookup(path, true)?.1 {
            Node::Descriptor(node) => Some(number(&node)),
            Node::File(File::Node) => Some(number(path)),
            _ => None,
        })
    }
}

/// Major and minor number of a node. Those of groups and of VFIO devices are handed out, the others are fixed.
fn number(node: &str) -> (u32, u32) {
    let (_, name) = node.rsplit_once('/').unwrap_or_default();
    let of_cdev = name.strip_prefix("vfio").and_then(|number| number.parse().ok());
    let of_group = name.parse().ok();
    let handed_out = of_cdev.map(|minor| (VFIO_DEV, minor)).or(of_group.map(|minor| (VFIO, minor)));
    handed_out.unwrap_or((MISC, 0))
}

const MISC: u32 = 10;

const VFIO_DEV: u32 = 511;

const VFIO: u32 = 510;

/// The way from one directory to another.
pub(super) fn relative(from: &str, to: &str) -> String {
    let (mut from, mut to) = (from.split('/').peekable(), to.split('/').peekable());
    while from.peek().is_some() && from.peek() == to.peek() {
        from.next();
        to.next();
    }
    let up = from.map(|_| "..");
    up.chain(to).collect::<Vec<&str>>().join("/")
}
