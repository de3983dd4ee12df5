//! What the simulated kernel answers to a fixed list of probes, as `name<TAB>value` lines. The lab's scenario
//! `silicon` asks a real kernel the same and keeps the answers in `integration/lab/conformance.txt`; a test holds
//! the two together. Names and machine are that scenario's: PFs in domains of their own, 1 and 2 plain SR-IOV,
//! 3 and 4 with types on the PF, 5 with a driver that binds its VFs, 6 with types on its VFs.

mod amd;
mod nvidia;

pub use amd::amd_facts;
pub use nvidia::nvidia_facts;

use crate::host_file::HostFile;
use crate::kernel::fault::Fault;
use crate::kernel::uevent::Action;
use crate::kernel::{Kernel, Pace};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{MdevUuid, PciAddress, SliceId};
use gpuslice_core::port::{HostRead, HostWrite, Written, read_text};
use uuid::Uuid;

const HOST: &str = include_str!("conformance/host.toml");
const PCI: &str = "/sys/bus/pci/devices";
const DRIVERS: &str = "/sys/bus/pci/drivers";
const MDEVS: &str = "/sys/bus/mdev/devices";
const HOLDER: u32 = 4711;

/// All facts, in the scenario's order.
///
/// # Errors
/// When the embedded host file does not parse, which a test excludes.
pub fn facts() -> Result<Vec<(String, String)>, crate::HostError> {
    let mut probe = Probe { kernel: Kernel::from_host(&HostFile::parse(HOST)?), facts: Vec::new() };
    probe.numvfs();
    probe.events();
    probe.binding();
    probe.resets();
    probe.vf_in_use();
    probe.mdev();
    probe.samples();
    probe.serials();
    probe.slow_driver();
    Ok(probe.facts)
}

struct Probe {
    kernel: Kernel,
    facts: Vec<(String, String)>,
}

fn pf(domain: u32) -> String {
    format!("{PCI}/{domain:04x}:00:00.0")
}

fn uuid(last: u8) -> String {
    format!("11111111-2222-3333-4444-5555555555{last:02}")
}

fn word(result: Result<Written, Errno>) -> String {
    match result {
        Ok(Written::Done) => "ok".to_owned(),
        Ok(Written::Blocked) => "blocks".to_owned(),
        Err(errno) => errno.name().unwrap_or("?").to_owned(),
    }
}

impl Probe {
    fn fact(&mut self, name: &str, value: String) {
        self.facts.push((name.to_owned(), value));
    }

    /// As `echo` writes.
    fn echo(&mut self, value: &str, file: &str) -> String {
        word(self.kernel.write(file, format!("{value}\n").as_bytes()))
    }

    fn writes(&mut self, name: &str, value: &str, file: &str) {
        let answer = self.echo(value, file);
        self.fact(name, answer);
    }

    fn reads(&mut self, name: &str, file: &str) {
        let answer = read_text(&self.kernel, file);
        self.fact(name, answer.unwrap_or_else(|errno| word(Err(errno))));
    }

    fn numvfs(&mut self) {
        let file = format!("{}/sriov_numvfs", pf(1));
        for (name, value) in [
            ("write.word", "x"),
            ("write.negative", "-1"),
            ("write.65536", "65536"),
            ("write.above-total", "9"),
            ("write.same", "0"),
            ("write.hex", "0x2"),
            ("write.nonzero-to-nonzero", "4"),
            ("write.nonzero-same", "2"),
            ("write.nonzero-above-total", "9"),
            ("write.zero", "0"),
        ] {
            self.writes(&format!("sriov_numvfs.{name}"), value, &file);
        }
        self.echo("0001:00:00.0", &format!("{}/driver/unbind", pf(1)));
        self.writes("sriov_numvfs.no-driver.same", "0", &file);
        self.writes("sriov_numvfs.no-driver.above-total", "9", &file);
        self.writes("sriov_numvfs.no-driver.other", "2", &file);
        self.echo("0001:00:00.0", &format!("{DRIVERS}/gpusim/bind"));
        if let Some(first) = PciAddress::new(1, 0, 0, 0) {
            let (nth, times, errno) = (1, 1, Errno::ENOMEM);
            self.kernel.inject(Fault::Enable { pf: first, nth, times, errno });
            self.writes("sriov_numvfs.driver-refuses", "2", &file);
            self.reads("sriov_numvfs.driver-refuses.count", &file);
            self.kernel.inject(Fault::Fewer { pf: first, vfs: 3 });
            self.writes("sriov_numvfs.driver-gives-fewer", "8", &file);
            self.reads("sriov_numvfs.driver-gives-fewer.count", &file);
        }
        self.kernel.clear_faults();
        self.echo("0", &file);
    }

    /// Events of a domain's PCI functions and mediated devices, in the scenario's notation.
    fn tells(&mut self, name: &str, word: &str, act: impl FnOnce(&mut Self)) {
        self.kernel.take_events();
        act(self);
        let told = self.kernel.take_events();
        let told = told.iter().filter(|e| e.devpath.contains(word));
        let told = told.filter(|e| {
            matches!(e.subsystem.as_str(), "pci" | "mdev" | "mtty" | "mdpy" | "mbochs")
        });
        let told: Vec<String> = told.map(|e| format!("{} {}", e.action, short(e.name()))).collect();
        self.fact(name, told.join(", "));
    }

    fn events(&mut self) {
        self.echo("0", &format!("{}/sriov_drivers_autoprobe", pf(1)));
        let numvfs = |domain| format!("{}/sriov_numvfs", pf(domain));
        for (name, domain, value) in [
            ("events.enable.no-autoprobe", 1, "2"),
            ("events.disable.driverless", 1, "0"),
            ("events.enable.driver-binds", 5, "2"),
            ("events.disable.bound", 5, "0"),
        ] {
            let word = format!("{domain:04x}:");
            self.tells(name, &word, |probe| drop(probe.echo(value, &numvfs(domain))));
        }
        if let Some(second) = PciAddress::new(2, 0, 0, 0) {
            self.tells("events.unplug", "0002:", |p| {
                p.kernel.unplug(second);
            });
            self.tells("events.plug", "0002:", |p| {
                p.kernel.plug(second);
            });
        }
        for (name, file) in [
            ("events.mdev-parent.unbind", format!("{}/driver/unbind", pf(4))),
            ("events.mdev-parent.bind", format!("{DRIVERS}/nvidia/bind")),
        ] {
            self.tells(name, "0004:", |p| drop(p.echo("0004:00:00.0", &file)));
        }
    }

    fn binding(&mut self) {
        let vf = format!("{}/virtfn0", pf(1));
        let vfio = format!("{DRIVERS}/vfio-pci");
        let (probe, own) = ("/sys/bus/pci/drivers_probe", "0001:00:02.0");
        let over = format!("{vf}/driver_override");
        self.echo("2", &format!("{}/sriov_numvfs", pf(1)));
        self.reads("driver_override.unset", &over);
        self.writes("bind.id-mismatch", own, &format!("{vfio}/bind"));
        self.writes("bind.probe-refuses", own, &format!("{DRIVERS}/gpusim/bind"));
        self.writes("bind.no-such-device", "0009:00:02.0", &format!("{vfio}/bind"));
        self.writes("drivers_probe.no-such-device", "0009:00:02.0", probe);
        self.writes("unbind.not-bound", own, &format!("{vfio}/unbind"));
        self.writes("drivers_probe.no-override", own, probe);
        self.writes("driver_override.write", "vfio-pci", &over);
        self.writes("drivers_probe.override", own, probe);
        self.writes("bind.already-bound", own, &format!("{vfio}/bind"));
        self.writes("drivers_probe.already-bound", own, probe);
        self.writes("driver_override.clear", "", &over);
        self.reads("driver_override.cleared", &over);
    }

    fn resets(&mut self) {
        let (reset, method) =
            (format!("{}/virtfn0/reset", pf(1)), format!("{}/virtfn0/reset_method", pf(1)));
        self.reads("reset_method.first", &method);
        self.reads("reset.read", &reset);
        self.writes("reset.write.word", "x", &reset);
        self.writes("reset.write.zero", "0", &reset);
        self.writes("reset.write", "1", &reset);
        self.writes("reset_method.write.unknown", "x", &method);
        self.writes("reset_method.write.unsupported", "bus", &method);
        self.writes("reset_method.write.none", "", &method);
        self.reads("reset_method.none", &method);
        self.writes("reset.write.without-method", "1", &reset);
        self.writes("reset_method.write.default", "default", &method);
        self.reads("reset_method.default", &method);
    }

    fn vf_in_use(&mut self) {
        let Some(vf) = PciAddress::new(1, 0, 2, 0) else {
            return;
        };
        // A refusal shows in the fact after the next: nothing would block.
        let _ = self.kernel.open(HOLDER, "qemu-system-x86", SliceId::Vf(vf));
        self.writes("reset.write.while-open", "1", &format!("{}/virtfn0/reset", pf(1)));
        self.writes("sriov_numvfs.zero-while-held", "0", &format!("{}/sriov_numvfs", pf(1)));
        self.kernel.kill(HOLDER);
    }

    fn mdev(&mut self) {
        let types = format!("{}/mdev_supported_types", pf(3));
        let create = |id: u32| format!("{types}/nvidia-{id}/create");
        let (upper, lower) =
            ("AAAAAAAA-2222-3333-4444-555555555501", "aaaaaaaa-2222-3333-4444-555555555501");
        let malformed = "g1111111-2222-3333-4444-555555555501";
        self.writes("mdev.create.short", "1234", &create(560));
        self.writes("mdev.create.malformed", malformed, &create(560));
        self.writes("mdev.create.upper-case", upper, &create(560));
        let names = self.kernel.list(MDEVS).unwrap_or_default().join(" ");
        self.fact("mdev.create.upper-case.name", names);
        self.writes("mdev.create.exists", lower, &create(557));
        let elsewhere = format!("{}/mdev_supported_types/nvidia-557/create", pf(4));
        self.writes("mdev.create.exists-elsewhere", lower, &elsewhere);
        let left = [557, 558, 560].map(|id| {
            let file = format!("{types}/nvidia-{id}/available_instances");
            read_text(&self.kernel, &file).unwrap_or_default()
        });
        self.fact("mdev.available.after-half", left.join(" "));
        self.writes("mdev.create.second", &uuid(2), &create(560));
        self.writes("mdev.create.full", &uuid(3), &create(557));
        let remove = |uuid: &str| format!("{MDEVS}/{uuid}/remove");
        self.writes("mdev.remove.zero", "0", &remove(&uuid(2)));
        self.writes("mdev.remove.word", "x", &remove(&uuid(2)));
        self.writes("mdev.remove.one", "1", &remove(&uuid(2)));
        let fourth = uuid(4);
        let file = create(560);
        self.tells("events.mdev.create", &fourth, |p| drop(p.echo(&fourth, &file)));
        let file = remove(&fourth);
        self.tells("events.mdev.remove", &fourth, |p| drop(p.echo("1", &file)));
        if let Ok(held) = Uuid::try_parse(lower) {
            let _ = self.kernel.open(HOLDER, "qemu-system-x86", SliceId::Mdev(MdevUuid(held)));
            self.writes("mdev.remove.while-held", "1", &remove(lower));
            self.kernel.kill(HOLDER);
        }
        self.echo("2", &format!("{}/sriov_numvfs", pf(6)));
        let on_vf = format!("{}/virtfn0/mdev_supported_types/nvidia-560", pf(6));
        self.reads("mdev-vf.available", &format!("{on_vf}/available_instances"));
        self.echo("0", &format!("{}/sriov_numvfs", pf(6)));
    }

    fn samples(&mut self) {
        for (module, kind) in [("mtty", "mtty-2"), ("mdpy", "mdpy-xga"), ("mbochs", "mbochs-large")]
        {
            self.tells(&format!("events.{module}.load"), module, |p| {
                // Without the module the facts below say ENOENT.
                let _ = p.kernel.load_module(module);
            });
            let types = format!("/sys/class/mdev_bus/{module}/mdev_supported_types");
            let mut names = self.kernel.list(&types).unwrap_or_default();
            names.sort();
            self.fact(&format!("{module}.types"), names.join(" "));
            let available = format!("{types}/{kind}/available_instances");
            self.reads(&format!("{kind}.available"), &available);
            let (create, mut made) = (format!("{types}/{kind}/create"), 0_u128);
            let refusal = loop {
                let answer = self.echo(&Uuid::from_u128(made + 1).to_string(), &create);
                if answer != "ok" {
                    break answer;
                }
                made += 1;
            };
            self.fact(&format!("{kind}.fill"), format!("{made} {refusal}"));
            self.kernel.reload_driver(module);
        }
    }

    fn serials(&mut self) {
        for domain in [1, 2] {
            let config = self.kernel.read(&format!("{}/config", pf(domain)));
            let serial = serial_in(&config.unwrap_or_default()).unwrap_or_default();
            self.fact(&format!("serial.{domain:04x}"), serial);
        }
    }

    /// The link is made before the probe: only the bind event says that a driver is ready.
    fn slow_driver(&mut self) {
        let Some(second) = PciAddress::new(2, 0, 0, 0) else {
            return;
        };
        self.kernel.unplug(second);
        self.kernel.take_events();
        self.kernel.set_pace(Pace::Steps);
        self.kernel.plug(second);
        let link = format!("{}/driver", pf(2));
        while self.kernel.link(&link).is_err() && self.kernel.step() {}
        let bound = self.kernel.take_events().iter().any(|e| e.action == Action::Bind);
        let seen = self.kernel.link(&link).is_ok() && !bound;
        self.fact("driver-link.while-probing", if seen { "present" } else { "" }.to_owned());
        self.kernel.set_pace(Pace::Whole);
        self.kernel.settle();
    }
}

/// The Device Serial Number as lspci prints it, found by walking the extended capabilities.
fn serial_in(config: &[u8]) -> Option<String> {
    let word = |at: usize| Some(u32::from_le_bytes(config.get(at..at + 4)?.try_into().ok()?));
    let mut at = 0x100;
    while at != 0 {
        let header = word(at)?;
        if header & 0xffff == 0x0003 {
            let bytes = config.get(at + 4..at + 12)?;
            let digits: Vec<String> = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
            return Some(digits.join("-"));
        }
        at = usize::try_from(header >> 20).ok()?;
    }
    None
}

/// PF, VF0, mdev; a virtual parent by its name.
fn short(name: &str) -> String {
    match name.parse::<PciAddress>() {
        Ok(address) if address.device() == 0 && address.function() == 0 => "PF".to_owned(),
        // The cards of one scenario have their VFs on the next device, of the other from function 4 on.
        Ok(address) if address.device() == 0 => {
            format!("VF{}", address.function().saturating_sub(4))
        }
        Ok(address) => format!("VF{}", address.function()),
        Err(_) if Uuid::try_parse(name).is_ok() => "mdev".to_owned(),
        Err(_) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integration/lab/conformance.txt");

    /// Holds the facts to what a lab's file says, and the two to the same names.
    pub(super) fn compare(file: &str, facts: Vec<(String, String)>, not_here: &[&str]) {
        let mut facts: BTreeMap<String, String> = facts.into_iter().collect();
        let mut wrong = Vec::new();
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let (name, seen) = line.split_once('\t').unwrap_or((line, ""));
            match facts.remove(name) {
                Some(said) if said == seen => {}
                None if not_here.contains(&name) => {}
                said => wrong.push(format!("{name}: the lab saw {seen:?}, we say {said:?}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(facts.is_empty(), "the lab does not ask for {facts:#?}");
    }

    #[test]
    fn the_lab_saw_the_same() {
        compare(LAB, facts().unwrap(), &[]);
    }

    /// The same facts without a lab: each with the document it is from.
    #[test]
    fn facts_are_the_documents() {
        let facts: BTreeMap<String, String> = facts().unwrap().into_iter().collect();
        for (name, want) in [
            // drivers/pci/iov.c, sriov_numvfs_store
            ("sriov_numvfs.write.word", "EINVAL"),
            ("sriov_numvfs.write.negative", "EINVAL"),
            ("sriov_numvfs.write.65536", "EINVAL"),
            ("sriov_numvfs.write.above-total", "ERANGE"),
            ("sriov_numvfs.write.same", "ok"),
            ("sriov_numvfs.write.hex", "ok"),
            ("sriov_numvfs.write.nonzero-to-nonzero", "EBUSY"),
            ("sriov_numvfs.write.nonzero-same", "ok"),
            ("sriov_numvfs.write.nonzero-above-total", "ERANGE"),
            ("sriov_numvfs.write.zero", "ok"),
            ("sriov_numvfs.no-driver.same", "ok"),
            ("sriov_numvfs.no-driver.above-total", "ERANGE"),
            ("sriov_numvfs.no-driver.other", "ENOENT"),
            ("sriov_numvfs.driver-refuses", "ENOMEM"),
            ("sriov_numvfs.driver-refuses.count", "0"),
            ("sriov_numvfs.driver-gives-fewer", "ok"),
            ("sriov_numvfs.driver-gives-fewer.count", "3"),
            ("sriov_numvfs.zero-while-held", "blocks"),
            // drivers/pci/iov.c, pci_iov_add_virtfn, sriov_del_vfs
            ("events.enable.no-autoprobe", "add VF0, change VF0, add VF1, change VF1, change PF"),
            ("events.disable.driverless", "remove VF0, remove VF1"),
            (
                "events.enable.driver-binds",
                "add VF0, change VF0, bind VF0, add VF1, change VF1, bind VF1, change PF",
            ),
            ("events.disable.bound", "unbind VF0, remove VF0, unbind VF1, remove VF1"),
            ("events.unplug", "unbind PF, remove PF"),
            ("events.plug", "add PF, bind PF"),
            ("events.mdev-parent.unbind", "change PF, unbind PF"),
            ("events.mdev-parent.bind", "change PF, bind PF"),
            // drivers/base/bus.c, drivers/pci/pci-driver.c
            ("driver_override.unset", "(null)"),
            ("bind.id-mismatch", "ENODEV"),
            ("bind.probe-refuses", "ENODEV"),
            ("bind.no-such-device", "ENODEV"),
            ("drivers_probe.no-such-device", "ENODEV"),
            ("unbind.not-bound", "ENODEV"),
            ("drivers_probe.no-override", "ok"),
            ("driver_override.write", "ok"),
            ("drivers_probe.override", "ok"),
            ("bind.already-bound", "EBUSY"),
            ("drivers_probe.already-bound", "ok"),
            ("driver_override.clear", "ok"),
            ("driver_override.cleared", "(null)"),
            // drivers/vfio/mdev
            ("mdev.create.short", "EINVAL"),
            ("mdev.create.malformed", "EINVAL"),
            ("mdev.create.upper-case", "ok"),
            ("mdev.create.upper-case.name", "aaaaaaaa-2222-3333-4444-555555555501"),
            ("mdev.create.exists", "EEXIST"),
            ("mdev.create.exists-elsewhere", "EEXIST"),
            ("mdev.available.after-half", "6 3 1"),
            ("mdev.create.second", "ok"),
            ("mdev.create.full", "ENOSPC"),
            ("mdev.remove.zero", "ok"),
            ("mdev.remove.word", "EINVAL"),
            ("mdev.remove.one", "ok"),
            ("events.mdev.create", "add mdev, bind mdev"),
            ("events.mdev.remove", "unbind mdev, remove mdev"),
            ("mdev.remove.while-held", "blocks"),
            ("mdev-vf.available", "1"),
            // samples/vfio-mdev
            ("events.mtty.load", "add mtty, change mtty"),
            ("mtty.types", "mtty-1 mtty-2"),
            ("mtty-2.available", "12"),
            ("mtty-2.fill", "12 ENOSPC"),
            ("mdpy.types", "mdpy-hd mdpy-vga mdpy-xga"),
            ("mdpy-xga.available", "4"),
            ("mdpy-xga.fill", "4 EUSERS"),
            ("mbochs.types", "mbochs-large mbochs-medium mbochs-small"),
            ("mbochs-large.available", "4"),
            ("mbochs-large.fill", "4 ENOSPC"),
            // PCI Express base specification, 7.9.3; drivers/base/dd.c, really_probe
            ("serial.0002", "67-70-75-73-00-00-00-01"),
            ("driver-link.while-probing", "present"),
        ] {
            assert_eq!(facts.get(name).map(String::as_str), Some(want), "{name}");
        }
    }
}
