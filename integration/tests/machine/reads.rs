//! One reading of a host asks for each attribute that is needed once, and for no other: files of a device can act when
//! read, and on a host with thousands of slices each file counts. `--nocapture` prints reads per slice.

use crate::driver::Driver;
use crate::vgpu::order;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::observation::Observation;
use gpuslice_core::observe::Observer;
use gpuslice_core::port::{HostRead, HostWrite, LogLine, Ran};
use gpuslice_core::request::Command;
use gpuslice_sim::{HostFile, Kernel};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const DEVICES: &str = "/sys/bus/pci/devices/";

const MDEV: &[u8] = b"f0000000-0000-4000-8000-000000000001";

/// A kernel that counts what it is asked.
pub struct Counting<'a> {
    pub kernel: &'a Kernel,
    pub asked: RefCell<BTreeMap<String, u32>>,
}

impl Counting<'_> {
    fn count(&self, how: &str, what: &str) {
        *self.asked.borrow_mut().entry(format!("{how} {what}")).or_default() += 1;
    }
}

impl HostRead for Counting<'_> {
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        self.count("list", dir);
        self.kernel.list(dir)
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        self.count("read", file);
        self.kernel.read(file)
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        self.count("link", path);
        self.kernel.link(path)
    }

    fn ask(&self, command: &[String]) -> Result<Ran, Errno> {
        let ran = self.kernel.ask(command);
        // One that is not there is looked for each time, which costs nothing.
        self.count(if ran.is_ok() { "ask" } else { "seek" }, &command.join(" "));
        ran
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        self.count("read", "/dev/kmsg");
        self.kernel.kernel_log()
    }
}

/// What a function is, and whose.
fn kind(seen: &Observation, address: PciAddress) -> String {
    let of = |what: &str, driver: &Option<String>| match driver.as_deref() {
        Some(driver @ ("gim" | "nvidia" | "amdgpu")) => format!("{what} of {driver}"),
        _ => what.to_owned(),
    };
    match (seen.functions.get(&address), seen.whole.get(&address), seen.vfs.get(&address)) {
        (Some(pf), ..) if pf.sriov.is_some() => of("PF", &pf.driver),
        (Some(parent), ..) => of("GPU", &parent.driver),
        (_, Some(gpu), _) => of("GPU", &gpu.driver),
        (.., Some(vf)) => of("VF", &vf.driver),
        _ => "other".to_owned(),
    }
}

/// A path without what makes it this device's, and what kind of device that is.
pub fn general(seen: &Observation, asked: &str) -> (String, String) {
    let (how, path) = asked.split_once(' ').unwrap();
    if let Some((address, name)) =
        path.strip_prefix(DEVICES).map(|p| p.split_once('/').unwrap_or((p, ".")))
        && !address.is_empty()
    {
        let name = if name.starts_with("virtfn") { "virtfnN" } else { name };
        return (kind(seen, address.parse().unwrap()), format!("{how} {name}"));
    }
    // Files of other people, whatever they are called and wherever modprobe finds them.
    if let Some((_, name)) = path.split_once("/modprobe.d")
        && !name.starts_with("/gpuslice-")
    {
        return ("host".to_owned(), format!("{how} modprobe.d"));
    }
    let below = |dir: &str| {
        path.strip_prefix(dir).map(|rest| rest.split_once('/').map_or(".", |(_, name)| name))
    };
    if let Some((address, name)) =
        path.strip_prefix("/proc/driver/nvidia/gpus/").and_then(|p| p.split_once('/'))
    {
        return (kind(seen, address.parse().unwrap()), format!("{how} {name}"));
    }
    if let Some(node) = path.strip_prefix("/sys/devices/system/node/node") {
        let name = node.trim_start_matches(|c: char| c.is_ascii_digit());
        return ("host".to_owned(), format!("{how} /sys/devices/system/node/nodeN{name}"));
    }
    if let Some(name) = below("/sys/class/mdev_bus/") {
        return match name.split('/').nth(2) {
            Some(attribute) => ("mdev type".to_owned(), format!("{how} {attribute}")),
            None => ("mdev parent".to_owned(), format!("{how} {name}")),
        };
    }
    if let Some(name) = below("/sys/bus/mdev/devices/") {
        return ("mdev".to_owned(), format!("{how} {name}"));
    }
    ("host".to_owned(), asked.to_owned())
}

/// What is needed of a thing of each kind, and nothing else is. The lab holds a real kernel's daemon to the same list.
pub fn needed() -> BTreeMap<String, BTreeSet<String>> {
    let text =
        std::fs::read_to_string(gpuslice_integration::root().join("integration/lab/reads.txt"))
            .unwrap();
    let mut needed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (kind, name) = line.split_once('\t').unwrap();
        assert!(needed.entry(kind.to_owned()).or_default().insert(name.to_owned()), "{line}");
    }
    needed
}

/// Of these nothing can have changed.
const ONCE: [&str; 10] = [
    "read config",
    "read device_api",
    "read name",
    "read description",
    "ask ",
    "list modprobe.d",
    "read modprobe.d",
    "read /proc/cmdline",
    "list /sys/devices/system/node",
    "read /sys/devices/system/node",
];

fn every_vf(name: &str) -> Driver {
    let text = std::fs::read_to_string(gpuslice_integration::root().join(name)).unwrap();
    let mut driver = Driver::new(&HostFile::parse(&text).unwrap(), "").unwrap();
    driver.advance(60_000).unwrap();
    let mut config = String::new();
    let seen = driver.machine.observation();
    for (address, function) in &seen.functions {
        let mdevs = seen.mdev_parents.contains_key(&ParentId::Pci(*address));
        // A driver that computes on the whole GPU makes no VFs.
        let computes = function.driver.as_deref() == Some("amdgpu");
        if function.sriov.is_some() && !mdevs && !computes {
            writeln!(
                config,
                "[[gpu]]\nmatch = {{ address = \"{address}\" }}\nlayout = {{ vfs = \"all\" }}"
            )
            .unwrap();
        }
    }
    driver.config = config;
    order(&mut driver, Command::Apply).unwrap();
    driver.advance(120_000).unwrap();
    one_in_use(&mut driver);
    driver
}

/// What a slice that somebody has shows, and no other: a type of a VF, an mdev.
fn one_in_use(driver: &mut Driver) {
    let seen = driver.machine.observation().clone();
    let can_be = seen
        .vfs
        .iter()
        .find_map(|(vf, seen)| Some((vf, seen.choice.as_ref()?.creatable.first()?.to_string())));
    if let Some((vf, type_id)) = can_be {
        let number = type_id.rsplit('-').next().unwrap().as_bytes();
        driver.kernel.write(&format!("{DEVICES}{vf}/nvidia/current_vgpu_type"), number).unwrap();
    }
    let free = seen.mdev_parents.iter().find_map(|(parent, seen)| {
        let mut types = seen.types.iter().filter(|(_, of_type)| of_type.available > 0);
        Some((parent, types.next()?.0))
    });
    if let Some((parent, type_id)) = free {
        let path = format!("/sys/class/mdev_bus/{parent}/mdev_supported_types/{type_id}/create");
        driver.kernel.write(&path, MDEV).unwrap();
        driver.kernel.settle();
    }
}

#[test]
fn slots_are_read_where_a_layout_asks_for_one_alone() {
    let driver = every_vf("examples/hosts/a40-vfio.toml");
    let mut observer = Observer::new(gpuslice_vendors::all());
    observer.observe(&driver.kernel);
    let mut of_slots = |wanted| {
        observer.read_slots(wanted);
        let counting = Counting { kernel: &driver.kernel, asked: RefCell::default() };
        let seen = observer.observe(&counting);
        let slots: Vec<_> = seen.functions.values().filter_map(|f| f.slot.clone()).collect();
        let asked = counting.asked.into_inner();
        let own = |what: &String| {
            what.contains("/slots") || what.starts_with("link") && what.ends_with(":00.0")
        };
        (slots, asked.into_iter().filter(|(what, _)| own(what)).collect::<Vec<_>>())
    };
    assert_eq!(of_slots(false), (Vec::new(), Vec::new()));
    let (slots, asked) = of_slots(true);
    assert_eq!(slots, ["1", "2", "3", "4"]);
    // The list, each slot, and where each GPU is.
    assert_eq!(asked.len(), 9, "{asked:#?}");
    assert!(asked.iter().all(|(_, times)| *times == 1), "{asked:#?}");
}

#[test]
fn each_attribute_that_is_needed_is_read_once_and_no_other() {
    let mut hosts: Vec<_> = gpuslice_integration::files()
        .into_iter()
        .filter(|path| path.starts_with("examples/hosts"))
        .map(|path| path.display().to_string())
        .collect();
    hosts.sort();
    assert!(hosts.len() >= 12, "{hosts:?}");
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for host in hosts {
        let driver = every_vf(&host);
        let mut observer = Observer::new(gpuslice_vendors::all());
        for again in [false, true] {
            let counting = Counting { kernel: &driver.kernel, asked: RefCell::default() };
            let seen = observer.observe(&counting);
            let asked = counting.asked.into_inner();
            let twice: Vec<_> = asked.iter().filter(|(_, times)| **times > 1).collect();
            assert!(twice.is_empty(), "{host}, again {again}: {twice:#?}");
            let kinds = asked.keys().map(|asked| general(&seen, asked));
            for (kind, name) in kinds {
                let once = ONCE.iter().any(|known| name.starts_with(known));
                assert!(!(again && once), "{host}: {kind}: {name} is asked again");
                all.entry(kind).or_default().insert(name);
            }
            let vfs = seen.vfs.len();
            let types: usize = seen.mdev_parents.values().map(|parent| parent.types.len()).sum();
            let of = if again { "the next reading" } else { "the first reading" };
            let each = asked.len() * 10 / vfs.max(1);
            println!(
                "{host}, {of}: {} asked, {vfs} VFs, {types} types of mdevs; per VF {}.{}",
                asked.len(),
                each / 10,
                each % 10
            );
        }
    }
    let needed = needed();
    assert_eq!(all, needed, "{all:#?}");
}
