use super::*;
use crate::port::LogLine;
use std::cell::Cell;

const NODE: &str = "/dev/vfio/12";

/// The number of [`NODE`].
const GROUP: (u32, u32) = (510, 12);

const NULL: (u32, u32) = (1, 3);

/// `/proc/devices` of a kernel with VFIO.
const DEVICES: &str = "Character devices:\n  1 mem\n510 vfio\n511 vfio-dev\n\n\
                       Block devices:\n  8 vfio\n";

/// `fdinfo` of a node that is open, and of one that is only named.
const OPEN: &str = "pos:\t0\nflags:\t0100002\nmnt_id:\t29\n";
const NAMED: &str = "pos:\t0\nflags:\t012000000\nmnt_id:\t29\n";

/// A host with one process, 7, and what its descriptors are.
#[derive(Default)]
struct Host {
    links: Vec<Result<&'static str, Errno>>,
    /// Of each descriptor.
    info: Option<Result<&'static str, Errno>>,
    /// That the descriptors lead to.
    opened: Option<Result<Option<(u32, u32)>, Errno>>,
    /// That the node leads to.
    node: Option<(u32, u32)>,
    devices: Option<&'static str>,
    /// It ends when its descriptors have been read so often.
    ends_after: Option<u32>,
    reads: Cell<u32>,
}

impl HostRead for Host {
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        match dir {
            "/proc" => Ok(["7", "sys"].map(str::to_owned).to_vec()),
            "/proc/7/fd" => Ok((0..self.links.len()).map(|fd| fd.to_string()).collect()),
            _ => Err(Errno::ENOENT),
        }
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        let text = match file {
            "/proc/devices" => self.devices.ok_or(Errno::ENOENT),
            "/proc/7/comm" => Ok("qemu\n"),
            _ if file.starts_with("/proc/7/fdinfo/") => self.info.unwrap_or(Err(Errno::ENOENT)),
            _ => Err(Errno::ENOENT),
        };
        text.map(|text| text.as_bytes().to_vec())
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        self.reads.set(self.reads.get() + 1);
        if self.ends_after.is_some_and(|reads| self.reads.get() > reads) {
            return Err(Errno::ENOENT);
        }
        let fd = path.strip_prefix("/proc/7/fd/").ok_or(Errno::ENOENT)?;
        self.links[fd.parse::<usize>().unwrap()].map(str::to_owned)
    }

    fn device(&self, path: &str) -> Result<Option<(u32, u32)>, Errno> {
        match path.strip_prefix("/proc/7/fd/") {
            Some(_) => self.opened.unwrap_or(Err(Errno::ENOENT)),
            None => self.node.map(Some).ok_or(Errno::ENOENT),
        }
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        Err(Errno::ENOENT)
    }
}

/// A process that has the node open.
fn open() -> Host {
    Host {
        links: vec![Ok(NODE)],
        info: Some(Ok(OPEN)),
        opened: Some(Ok(Some(GROUP))),
        node: Some(GROUP),
        devices: Some(DEVICES),
        ..Host::default()
    }
}

/// Who holds the node, and who may; both ways to look agree.
fn look_for(node: &str, host: &Host) -> (usize, usize) {
    let shown = by_node(host, &BTreeMap::from([(node.to_owned(), vec![()])])).unwrap();
    host.reads.set(0);
    let found = find(host, &BTreeSet::from([node.to_owned()])).unwrap();
    if node != CDEVS {
        assert_eq!(shown.get(&()), (!found.found.is_empty()).then_some(&found.found));
    }
    (found.found.len(), found.unknown.len())
}

#[test]
fn a_path_that_fits_no_page_hides_no_other_descriptor() {
    let long = Err(Errno::ENAMETOOLONG);
    assert_eq!(look_for(NODE, &Host { links: vec![long], ..open() }), (0, 0));
    assert_eq!(look_for(NODE, &Host { links: vec![long, Ok(NODE)], ..open() }), (1, 0));
    assert_eq!(look_for(NODE, &Host { links: vec![Err(Errno::EACCES)], ..open() }), (0, 1));
}

#[test]
fn who_only_names_a_node_does_not_hold_it() {
    let with = |info| look_for(NODE, &Host { info, ..open() });
    assert_eq!(with(Some(Ok(NAMED))), (0, 0));
    for info in [Some(Ok(OPEN)), Some(Ok("pos:\t0\n")), Some(Err(Errno::EACCES)), None] {
        assert_eq!(with(info), (1, 0), "{info:?}");
    }
    let gone = ["/dev/vfio/devices/vfio3 (deleted)"].map(Ok).to_vec();
    let gone = |info| Host { links: gone.clone(), info, ..open() };
    let gone = |info| Host { node: None, opened: Some(Ok(Some((511, 3)))), ..gone(info) };
    assert_eq!(look_for(CDEVS, &gone(Some(Ok(OPEN)))), (1, 0));
    assert_eq!(look_for(CDEVS, &gone(Some(Ok(NAMED)))), (0, 0));
}

#[test]
fn who_opened_another_file_of_a_nodes_name_does_not_hold_it() {
    let with = |opened, node| look_for(NODE, &Host { opened: Some(opened), node, ..open() });
    assert_eq!(with(Ok(Some(GROUP)), Some(GROUP)), (1, 0));
    for other in [None, Some(NULL), Some((510, 13))] {
        assert_eq!(with(Ok(other), Some(GROUP)), (0, 0), "{other:?}");
    }
    // The node is there no more: any device of VFIO may have been it.
    for (other, held) in [(None, 0), (Some(NULL), 0), (Some((8, 12)), 0), (Some((511, 12)), 1)] {
        assert_eq!(with(Ok(other), None), (held, 0), "{other:?}");
    }
    // What cannot be told is not no.
    assert_eq!(with(Err(Errno::ENOSYS), Some(GROUP)), (1, 0));
    let untold = Host { opened: Some(Ok(Some(NULL))), node: None, devices: None, ..open() };
    assert_eq!(look_for(NODE, &untold), (1, 0));
    let links = vec![Ok("/dev/gim-smi0")];
    let of_a_driver = Host { links, opened: Some(Ok(Some((236, 0)))), node: None, ..open() };
    assert_eq!(look_for("/dev/gim-smi0", &of_a_driver), (1, 0));
}

#[test]
fn who_ends_meanwhile_does_not_hold_a_node() {
    let ended =
        |ends_after| Host { info: None, opened: None, ends_after: Some(ends_after), ..open() };
    for (ends_after, held) in [(0, 0), (1, 0), (2, 1)] {
        assert_eq!(
            find(&ended(ends_after), &BTreeSet::from([NODE.to_owned()])).unwrap().found.len(),
            held
        );
    }
}

/// Mediated devices, each in a group, where one path cannot be read.
struct Without(String);

impl Without {
    fn told<T>(&self, path: &str, told: Result<T, Errno>) -> Result<T, Errno> {
        if path == self.0 { Err(Errno::EMFILE) } else { told }
    }
}

impl HostRead for Without {
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        self.told(dir, if dir == "/proc" { Ok(Vec::new()) } else { Err(Errno::ENOENT) })
    }

    fn read(&self, _: &str) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENOENT)
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        self.told(path, Ok("../12".to_owned()))
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        Err(Errno::ENOENT)
    }
}

#[test]
fn what_cannot_be_read_is_not_nobody() {
    let uuid = |number| MdevUuid(uuid::Uuid::from_u128(number));
    let slices = [1, 2].map(|number| SliceId::Mdev(uuid(number)));
    let untold = |path: &str| {
        let each = find_each(&Without(path.to_owned()), &slices);
        assert_eq!(each.found, BTreeMap::new());
        each.untold.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(untold(""), []);
    assert_eq!(untold("/proc"), slices);
    let group = format!("/sys/bus/mdev/devices/{}/iommu_group", uuid(1));
    assert_eq!(untold(&group), slices[..1]);
}
