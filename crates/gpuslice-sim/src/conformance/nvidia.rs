//! The same for NVIDIA's driver and tools: the lab's scenario `silicon-nvidia` and its answers in
//! `integration/lab/conformance-nvidia.txt`. PFs: 1 an A40, 2 a T4, 3 an A100, 4 a card without vGPUs.

use super::{DRIVERS, HOLDER, MDEVS, Probe, pf, word};
use crate::host_file::{HostFile, MdevOn, MdevRule};
use crate::kernel::Kernel;
use crate::kernel::fault::Fault;
use crate::kernel::vendor::nvidia::VgpuFile;
use crate::tree::files::Mode;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{MdevUuid, PciAddress, SliceId};
use gpuslice_core::port::{HostRead, HostWrite, read_text};
use uuid::Uuid;

const HOST: &str = include_str!("nvidia.toml");
const MANAGE: &str = "/usr/lib/nvidia/sriov-manage";
const SMI: &str = "/usr/bin/nvidia-smi";
const A40: &str = "0001:00:00.0";
const T4: &str = "0002:00:00.0";
const A100: &str = "0003:00:00.0";
const OPTIONS: &str = "/etc/modprobe.d/scenario.conf";
const PARAMS: &str = "/proc/driver/nvidia/params";

/// All facts, in the scenario's order.
///
/// # Errors
/// When the embedded host file does not parse, which a test excludes.
pub fn nvidia_facts() -> Result<Vec<(String, String)>, crate::HostError> {
    let host = HostFile::parse(HOST)?;
    let mut probe = Probe { kernel: Kernel::from_host(&host), facts: Vec::new() };
    probe.before_vfs();
    probe.manage();
    probe.files_of_a_vf();
    probe.one_size();
    probe.in_use();
    probe.off_the_driver();
    probe.mixed_sizes();
    probe.instances();
    probe.mdevs_on_pf();
    probe.mdevs_on_vfs(&host);
    probe.options();
    Ok(probe.facts)
}

fn mdev(last: u8) -> String {
    format!("22222222-2222-3333-4444-5555555555{last:02}")
}

fn slice_of(uuid: &str) -> Option<SliceId> {
    Uuid::try_parse(uuid).ok().map(|uuid| SliceId::Mdev(MdevUuid(uuid)))
}

/// `key: value` of a query.
fn value_of(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(key));
    let value = line.and_then(|rest| rest.split_once(": ")).map(|(_, value)| value);
    format!("{key}: {}", value.unwrap_or_default())
}

impl Probe {
    fn tool(&mut self, program: &str, arguments: &[&str]) -> (String, String) {
        let words = std::iter::once(program).chain(arguments.iter().copied());
        let command: Vec<String> = words.map(str::to_owned).collect();
        match HostWrite::run(&mut self.kernel, &command) {
            Ok(ran) => (ran.code.to_string(), ran.said.trim_end().to_owned()),
            Err(errno) => (word(Err(errno)), String::new()),
        }
    }

    fn manages(&mut self, option: &str, gpu: &str) -> String {
        self.tool(MANAGE, &[option, gpu]).0
    }

    fn smi(&mut self, arguments: &[&str]) -> String {
        self.tool(SMI, arguments).0
    }

    fn text(&self, file: &str) -> String {
        read_text(&self.kernel, file).unwrap_or_else(|errno| word(Err(errno)))
    }

    fn lines(&self, file: &str) -> usize {
        let text = self.kernel.read(file).unwrap_or_default();
        text.iter().filter(|byte| **byte == b'\n').count()
    }

    fn there(&self, path: &str) -> String {
        let there = self.kernel.list(path).is_ok() || self.kernel.link(path).is_ok();
        if there { "present" } else { "absent" }.to_owned()
    }

    fn names(&self, dir: &str) -> String {
        let mut names = self.kernel.list(dir).unwrap_or_default();
        names.sort();
        names.join(" ")
    }

    /// What can be made on a VF, shortened as the scenario does.
    fn ids(&self, vf: &str) -> String {
        let text = self.text(&format!("{vf}/nvidia/creatable_vgpu_types"));
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        let ids: Vec<String> = text.lines().filter_map(first).filter(|id| id != "ID").collect();
        match ids.as_slice() {
            [a, b, middle @ .., y, z] if middle.len() > 5 => format!("{a} {b} .. {y} {z}"),
            all => all.join(" "),
        }
    }

    /// Instances left of each of these types; of all when there are none.
    fn available(&self, parent: &str, few: &[&str]) -> String {
        let types = format!("{parent}/mdev_supported_types");
        let mut names = self.kernel.list(&types).unwrap_or_default();
        names.sort();
        let number = |name: &String| name.rsplit('-').next().unwrap_or_default().to_owned();
        let names = names.iter().filter(|n| few.is_empty() || few.contains(&number(n).as_str()));
        let each = |name: &String| {
            let left = self.text(&format!("{types}/{name}/available_instances"));
            format!("{}:{left}", number(name))
        };
        names.map(each).collect::<Vec<_>>().join(" ")
    }

    /// Whether a VM could start with it.
    fn opens(&mut self, slice: Option<SliceId>) -> String {
        let Some(slice) = slice else { return String::new() };
        let opened = self.kernel.open(HOLDER, "qemu-system-x86", slice);
        self.kernel.close(HOLDER, slice);
        opened.map_or_else(|errno| word(Err(errno)), |()| "ok".to_owned())
    }

    fn before_vfs(&mut self) {
        let driver = self.kernel.link(&format!("{}/driver", pf(1))).unwrap_or_default();
        let driver = driver.rsplit('/').next().unwrap_or_default().to_owned();
        self.fact("nvidia.pf.driver", driver);
        self.fact("nvidia.pf.nvidia-folder", self.there(&format!("{}/nvidia", pf(1))));
        self.fact("nvidia.pf.mdev-types", self.there(&format!("{}/mdev_supported_types", pf(1))));
        let numvfs = format!("{}/sriov_numvfs", pf(1));
        self.writes("nvidia.numvfs.write-total", "4", &numvfs);
        self.writes("nvidia.numvfs.write-same", "0", &numvfs);
        self.writes("nvidia.numvfs.write-above-total", "5", &numvfs);
        let geforce = self.there(&format!("{}/mdev_supported_types", pf(4)));
        self.fact("nvidia.geforce.mdev-types", geforce);
    }

    fn manage(&mut self) {
        let answer = self.manages("-e", T4);
        self.fact("sriov-manage.t4", answer);
        let Some(a40) = PciAddress::new(1, 0, 0, 0) else { return };
        self.kernel.inject(Fault::Tool { pf: a40, nth: 1, times: 2, unbinds: false });
        let (code, said) = self.tool(MANAGE, &["-e", A40]);
        self.fact("sriov-manage.lock-refused", code);
        self.fact("sriov-manage.lock-refused.text", said);
        let answer = self.manages("-e", A40);
        self.fact("sriov-manage.client", answer);
        self.kernel.clear_faults();
        self.kernel.inject(Fault::Enable { pf: a40, nth: 1, times: 1, errno: Errno::ENOMEM });
        let answer = self.manages("-e", A40);
        self.fact("sriov-manage.enable-fails", answer);
        let bound = self.kernel.link(&format!("{}/driver", pf(1))).is_ok();
        let bound = if bound { "bound" } else { "unbound" };
        self.fact("sriov-manage.enable-fails.driver", bound.to_owned());
        let answer = self.manages("-e", A40);
        self.fact("sriov-manage.unbound", answer);
        self.kernel.clear_faults();
        self.echo(A40, &format!("{DRIVERS}/nvidia/bind"));
        self.manages_events("events.sriov-manage.enable", "-e");
        let count = self.text(&format!("{}/sriov_numvfs", pf(1)));
        self.fact("sriov-manage.enable.count", count);
        let answer = self.manages("-e", A40);
        self.fact("sriov-manage.enable.again", answer);
    }

    fn manages_events(&mut self, name: &str, option: &str) {
        self.tells(name, "0001:", |probe| drop(probe.manages(option, A40)));
    }

    fn files_of_a_vf(&mut self) {
        let vf = format!("{}/virtfn0", pf(1));
        let driver = self.kernel.link(&format!("{vf}/driver")).unwrap_or_default();
        let driver = driver.rsplit('/').next().unwrap_or_default().to_owned();
        self.fact("nvidia.vf.driver", driver);
        let names = self.names(&format!("{vf}/nvidia"));
        self.fact("nvidia.vf.files", names.clone());
        let mode = |name: &str| {
            let file = VgpuFile::ALL.iter().find(|file| file.name() == name);
            match file.map(|file| file.mode()) {
                Some(Mode::Read) => "444",
                Some(Mode::Write) => "200",
                Some(Mode::Both) => "644",
                None => "",
            }
        };
        let modes: Vec<&str> = names.split(' ').map(mode).collect();
        self.fact("nvidia.vf.modes", modes.join(" "));
        self.reads("nvidia.vf.subsystem", &format!("{vf}/subsystem_device"));
        let device = self.names(&format!("{vf}/vfio-dev"));
        let device = device.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        self.fact("nvidia.vf.vfio-dev", device);
        let list = format!("{vf}/nvidia/creatable_vgpu_types");
        let text = self.text(&list);
        let mut lines = text.lines();
        for name in ["nvidia.creatable.header", "nvidia.creatable.line"] {
            self.fact(name, lines.next().unwrap_or_default().to_owned());
        }
        self.fact("nvidia.creatable.ids", self.ids(&vf));
        self.writes("nvidia.creatable.write", "1", &list);
        for (name, file) in [
            ("nvidia.current.unset", "current_vgpu_type"),
            ("nvidia.gpu_instance_id.unset", "gpu_instance_id"),
            ("nvidia.placement_id.unset", "placement_id"),
            ("nvidia.vgpu_params.unset", "vgpu_params"),
        ] {
            self.reads(name, &format!("{vf}/nvidia/{file}"));
        }
        let answer = self.opens(PciAddress::new(1, 0, 0, 4).map(SliceId::Vf));
        self.fact("nvidia.open.unset", answer);
    }

    /// A write to a file of the `nth` VF of a PF.
    fn tell_vf(&mut self, domain: u32, nth: u8, value: &str, file: &str) -> String {
        self.echo(value, &format!("{}/virtfn{nth}/nvidia/{file}", pf(domain)))
    }

    fn of_vf(&self, domain: u32, nth: u8, file: &str) -> String {
        self.text(&format!("{}/virtfn{nth}/nvidia/{file}", pf(domain)))
    }

    fn gives(&mut self, name: &str, domain: u32, nth: u8, value: &str) {
        let answer = self.tell_vf(domain, nth, value, "current_vgpu_type");
        self.fact(name, answer);
    }

    fn one_size(&mut self) {
        let (first, second) = (format!("{}/virtfn0", pf(1)), format!("{}/virtfn1", pf(1)));
        let current = format!("{first}/nvidia/current_vgpu_type");
        self.gives("nvidia.current.write.word", 1, 0, "x");
        self.gives("nvidia.current.write.negative", 1, 0, "-1");
        self.gives("nvidia.current.write.zero-while-none", 1, 0, "0");
        self.gives("nvidia.current.write.unknown", 1, 0, "999");
        self.reads("nvidia.current.write.unknown.value", &current);
        let (path, errno) = ("*/current_vgpu_type".to_owned(), Errno::EIO);
        self.kernel.inject(Fault::Write { path, nth: 1, times: 1, errno });
        self.gives("nvidia.current.write.not-ready", 1, 0, "560");
        self.kernel.clear_faults();
        self.gives("nvidia.current.write.create", 1, 0, "560");
        self.reads("nvidia.current.set", &current);
        self.gives("nvidia.current.write.same", 1, 0, "560");
        self.gives("nvidia.current.write.other", 1, 0, "561");
        let lines = self.lines(&format!("{first}/nvidia/creatable_vgpu_types"));
        self.fact("nvidia.creatable.own", lines.to_string());
        self.fact("nvidia.creatable.sibling", self.ids(&second));
        self.gives("nvidia.current.write.other-size", 1, 1, "561");
        self.gives("nvidia.current.write.same-size", 1, 1, "581");
        self.fact("nvidia.placement_id.first", self.of_vf(1, 0, "placement_id"));
        self.fact("nvidia.placement_id.second", self.of_vf(1, 1, "placement_id"));
        let answer = self.tell_vf(1, 1, "8", "placement_id");
        self.fact("nvidia.placement_id.write", answer);
        self.fact("nvidia.gpu_instance_id.time-sliced", self.of_vf(1, 0, "gpu_instance_id"));
        let each = [0, 1].map(|nth| self.tell_vf(1, nth, "0", "current_vgpu_type"));
        self.fact("nvidia.current.write.zero", each.join(" "));
        self.fact("nvidia.creatable.regrown", self.ids(&first));
        self.tell_vf(1, 0, "565", "current_vgpu_type");
        self.fact("nvidia.creatable.half", self.ids(&second));
        self.tell_vf(1, 1, "575", "current_vgpu_type");
        self.fact("nvidia.creatable.full", self.ids(&format!("{}/virtfn2", pf(1))));
        self.gives("nvidia.current.write.full", 1, 2, "565");
        self.tell_vf(1, 1, "0", "current_vgpu_type");
    }

    fn in_use(&mut self) {
        let answer = self.tell_vf(1, 0, "frame_rate_limiter=0,disable_vnc=1", "vgpu_params");
        self.fact("nvidia.vgpu_params.write", answer);
        self.fact("nvidia.vgpu_params.set", self.of_vf(1, 0, "vgpu_params"));
        let Some(vf) = PciAddress::new(1, 0, 0, 4) else { return };
        // A refusal shows in the next fact: nothing would be in the way.
        let _ = self.kernel.open(HOLDER, "qemu-system-x86", SliceId::Vf(vf));
        self.gives("nvidia.current.write.zero-while-open", 1, 0, "0");
        let answer = self.manages("-d", A40);
        self.fact("sriov-manage.vm-runs", answer);
        self.kernel.kill(HOLDER);
        let index = |vf: &PciAddress| (vf.function() - 4).to_string();
        let wedged: Vec<String> = self.kernel.wedged().iter().map(index).collect();
        self.fact("nvidia.killed-at-start.wedged", wedged.join(" "));
        self.fact("nvidia.current.after-vm", self.of_vf(1, 0, "current_vgpu_type"));
        let answer = self.opens(Some(SliceId::Vf(vf)));
        self.fact("nvidia.wedged.open", answer);
        self.fact("nvidia.vgpu_params.after-vm", self.of_vf(1, 0, "vgpu_params"));
        let answer = self.tell_vf(1, 0, " ", "vgpu_params");
        self.fact("nvidia.vgpu_params.clear", answer);
        self.fact("nvidia.vgpu_params.cleared", self.of_vf(1, 0, "vgpu_params"));
    }

    fn off_the_driver(&mut self) {
        let (own, vf) = ("0001:00:00.6", format!("{}/virtfn2", pf(1)));
        self.echo(own, &format!("{vf}/driver/unbind"));
        self.fact("nvidia.unbound.files", self.names(&format!("{vf}/nvidia")));
        self.echo("vfio-pci", &format!("{vf}/driver_override"));
        self.writes("nvidia.unbound.vfio-pci", own, &format!("{DRIVERS}/vfio-pci/bind"));
        self.echo("", &format!("{vf}/driver_override"));
        self.writes("nvidia.rebound", own, &format!("{DRIVERS}/nvidia/bind"));
        self.fact("nvidia.rebound.files", self.names(&format!("{vf}/nvidia")));
        self.fact("nvidia.rebound.vfio-dev", self.there(&format!("{vf}/vfio-dev")));
        self.fact("nvidia.rebound.current", self.of_vf(1, 2, "current_vgpu_type"));
        self.gives("nvidia.rebound.write", 1, 2, "565");
        self.manages_events("events.sriov-manage.disable", "-d");
        let count = self.text(&format!("{}/sriov_numvfs", pf(1)));
        self.fact("sriov-manage.disable.count", count);
        let answer = self.manages("-e", A40);
        self.fact("sriov-manage.cycle", answer);
        self.fact("sriov-manage.cycle.current", self.of_vf(1, 0, "current_vgpu_type"));
        let wedged = self.kernel.wedged().len();
        let wedged = if wedged == 0 { String::new() } else { wedged.to_string() };
        self.fact("sriov-manage.cycle.wedged", wedged);
        self.gives("sriov-manage.cycle.rebound", 1, 2, "565");
        self.tell_vf(1, 2, "0", "current_vgpu_type");
    }

    fn mixed_sizes(&mut self) {
        for (name, gpu) in [
            ("nvidia-smi.shm.unknown-gpu", "9"),
            ("nvidia-smi.shm.t4", T4),
            ("nvidia-smi.shm", "0"),
        ] {
            let answer = self.smi(&["vgpu", "-i", gpu, "-shm", "1"]);
            self.fact(name, answer);
        }
        let (_, query) = self.tool(SMI, &["-q", "-i", "0"]);
        for (name, key) in [
            ("nvidia-smi.query.capability", "Heterogeneous Time-Slice Sizes"),
            ("nvidia-smi.query.state", "vGPU Heterogeneous Mode"),
        ] {
            self.fact(name, value_of(&query, key));
        }
        self.tell_vf(1, 0, "560", "current_vgpu_type");
        self.fact("nvidia.mixed.creatable", self.ids(&format!("{}/virtfn1", pf(1))));
        self.gives("nvidia.mixed.other-size", 1, 1, "562");
        let place = |probe: &Self, nth| probe.of_vf(1, nth, "placement_id");
        self.fact("nvidia.mixed.placement", format!("{} {}", place(self, 0), place(self, 1)));
        let answer = self.tell_vf(1, 2, "565", "current_vgpu_type");
        self.fact("nvidia.mixed.third", format!("{answer} {}", place(self, 2)));
        self.fact("nvidia.mixed.full", self.ids(&format!("{}/virtfn3", pf(1))));
        let (code, said) = self.tool(SMI, &["vgpu", "-i", "0", "-shm", "0"]);
        self.fact("nvidia-smi.shm.in-use", code);
        let why = said.rsplit(": ").next().unwrap_or_default().to_owned();
        self.fact("nvidia-smi.shm.in-use.text", why);
        let vf = PciAddress::new(1, 0, 0, 4).map(SliceId::Vf);
        for (name, id) in [("free", "12"), ("taken", "16"), ("invalid", "5")] {
            self.tell_vf(1, 0, &format!("vgpu-placement-id={id}"), "vgpu_params");
            let mut answer = self.opens(vf);
            if name == "free" {
                answer = format!("{answer} {}", place(self, 0));
            }
            self.fact(&format!("nvidia.mixed.placement.{name}"), answer);
        }
        let answer = self.manages("-d", A40);
        let (_, query) = self.tool(SMI, &["-q", "-i", "0"]);
        let mixed = value_of(&query, "vGPU Heterogeneous Mode").ends_with("Enabled");
        self.fact("sriov-manage.wipes-mixed", format!("{answer} {}", u8::from(mixed)));
    }

    fn mig(&mut self) -> (usize, u8) {
        let (_, instances) = self.tool(SMI, &["mig", "-i", A100, "-lgi"]);
        let (_, query) = self.tool(SMI, &["-q", "-i", A100]);
        let on = query.lines().any(|line| line.contains("Current") && line.ends_with("Enabled"));
        (instances.lines().count(), u8::from(on))
    }

    fn instances(&mut self) {
        let answer = self.smi(&["-i", A100, "-mig", "1"]);
        self.fact("nvidia-smi.mig.on", answer);
        let answer = self.smi(&["mig", "-i", A100, "-cgi", "19", "-C"]);
        self.fact("nvidia-smi.cgi.before-vfs", answer);
        let answer = self.manages("-e", A100);
        let left = self.mig().0;
        self.fact("sriov-manage.wipes-instances", format!("{answer} {left}"));
        let first = format!("{}/virtfn0", pf(3));
        let lines = self.lines(&format!("{first}/nvidia/creatable_vgpu_types"));
        self.fact("nvidia.mig.creatable.no-instance", lines.to_string());
        self.gives("nvidia.mig.write.no-instance", 3, 0, "699");
        let answer = self.smi(&["mig", "-i", A100, "-cgi", "19,14", "-C"]);
        self.fact("nvidia-smi.cgi", answer);
        self.fact("nvidia.mig.creatable", self.ids(&first));
        self.gives("nvidia.mig.write.time-sliced", 3, 0, "692");
        self.gives("nvidia.mig.write", 3, 0, "700");
        self.fact("nvidia.mig.gpu_instance_id", self.of_vf(3, 0, "gpu_instance_id"));
        self.fact("nvidia.mig.placement_id", self.of_vf(3, 0, "placement_id"));
        self.fact("nvidia.mig.creatable.after", self.ids(&format!("{}/virtfn1", pf(3))));
        for (name, command) in [
            ("nvidia-smi.dgi.in-use", ["mig", "-i", A100, "-dgi", "-gi", "1"].as_slice()),
            ("nvidia-smi.cgi.full", &["mig", "-i", A100, "-cgi", "0"]),
            ("nvidia-smi.shm.mig", &["vgpu", "-i", A100, "-shm", "1"]),
        ] {
            let answer = self.smi(command);
            self.fact(name, answer);
        }
        self.tell_vf(3, 0, "0", "current_vgpu_type");
        let answer = self.smi(&["-i", A100, "-mig", "0"]);
        self.fact("nvidia-smi.mig.off-with-vfs", answer);
        let answer = self.manages("-d", A100);
        let (left, mode) = self.mig();
        self.fact("sriov-manage.mig-mode-stays", format!("{answer} {left} {mode}"));
        let answer = self.smi(&["-i", A100, "-mig", "0"]);
        self.fact("nvidia-smi.mig.off", answer);
    }

    fn mdevs_on_pf(&mut self) {
        let types = format!("{}/mdev_supported_types", pf(2));
        self.reads("nvidia.t4.totalvfs", &format!("{}/sriov_totalvfs", pf(2)));
        self.fact("nvidia.t4.types", self.available(&pf(2), &[]));
        self.fact("nvidia.t4.files", self.names(&format!("{types}/nvidia-231")));
        for file in ["name", "description", "device_api"] {
            self.reads(&format!("nvidia.t4.{file}"), &format!("{types}/nvidia-231/{file}"));
        }
        let few = ["223", "226", "231", "232"];
        self.writes("nvidia.t4.create", &mdev(1), &format!("{types}/nvidia-231/create"));
        self.fact("nvidia.t4.available", self.available(&pf(2), &few));
        self.writes("nvidia.t4.create.other-type", &mdev(2), &format!("{types}/nvidia-232/create"));
        let device = format!("{MDEVS}/{}", mdev(1));
        self.fact("nvidia.mdev.files", self.names(&format!("{device}/nvidia")));
        let driver = self.kernel.link(&format!("{device}/driver")).unwrap_or_default();
        let driver = driver.rsplit('/').next().unwrap_or_default().to_owned();
        self.fact("nvidia.mdev.driver", driver);
        self.reads("nvidia.mdev.vm_name", &format!("{device}/nvidia/vm_name"));
        let params = format!("{device}/nvidia/vgpu_params");
        let answer = self.echo("frame_rate_limiter=0", &params);
        let now = self.text(&params);
        self.fact("nvidia.mdev.vgpu_params", format!("{answer} {now}"));
        let answer = self.opens(slice_of(&mdev(1)));
        self.fact("nvidia.mdev.open", answer);
        self.echo("1", &format!("{device}/remove"));
        self.fact("nvidia.t4.available.after", self.available(&pf(2), &few));
    }

    fn mdevs_on_vfs(&mut self, host: &HostFile) {
        let mut host = host.clone();
        for function in &mut host.functions {
            if let Some(mdev) = &mut function.mdev
                && mdev.on == MdevOn::VfType
            {
                (mdev.on, mdev.rule) = (MdevOn::Vf, MdevRule::SameType);
                mdev.mig.iter_mut().for_each(|mig| mig.on = true);
                function.sriov.iter_mut().for_each(|sriov| sriov.total_vfs = 2);
            }
        }
        self.kernel = Kernel::from_host(&host);
        let vf = |nth: u8| format!("{}/virtfn{nth}", pf(1));
        let create = |vf: &str, id: u32| format!("{vf}/mdev_supported_types/nvidia-{id}/create");
        let few = ["560", "565", "570"];
        self.fact("nvidia-mdev.pf.types", self.there(&format!("{}/mdev_supported_types", pf(1))));
        self.manages_events("events.sriov-manage.enable-mdev", "-e");
        self.fact("nvidia-mdev.nvidia-folder", self.there(&format!("{}/nvidia", vf(0))));
        self.fact("nvidia-mdev.available.unset", self.available(&vf(0), &few));
        self.writes("nvidia-mdev.create", &mdev(11), &create(&vf(0), 560));
        self.fact("nvidia-mdev.available.own", self.available(&vf(0), &few));
        self.fact("nvidia-mdev.available.sibling", self.available(&vf(1), &few));
        // Newer drivers let all types of one size stand side by side.
        host.functions.iter_mut().filter_map(|f| f.mdev.as_mut()).for_each(|mdev| {
            mdev.rule = MdevRule::SameSize;
        });
        self.kernel = Kernel::from_host(&host);
        self.manages("-e", A40);
        self.echo(&mdev(11), &create(&vf(0), 560));
        self.fact("nvidia-mdev.available.sibling-newer", self.available(&vf(1), &few));
        self.writes("nvidia-mdev.create.second-on-vf", &mdev(12), &create(&vf(0), 560));
        self.writes("nvidia-mdev.create.sibling", &mdev(13), &create(&vf(1), 570));
        let answer = self.opens(slice_of(&mdev(11)));
        self.fact("nvidia-mdev.open", answer);
        self.manages_events("events.sriov-manage.disable-mdev", "-d");
        let left = self.kernel.list(MDEVS).unwrap_or_default().len();
        self.fact("nvidia-mdev.after-disable", left.to_string());
        self.fact_of_mig("nvidia-smi.mig.kept");
        self.manages("-e", A100);
        let (first, few) = (format!("{}/virtfn0", pf(3)), ["692", "699", "700"]);
        self.fact("nvidia-mdev.mig.no-instance", self.available(&first, &few));
        self.smi(&["mig", "-i", A100, "-cgi", "19,14,14", "-C"]);
        self.fact("nvidia-mdev.mig.available", self.available(&first, &few));
        self.writes("nvidia-mdev.mig.create", &mdev(21), &create(&first, 700));
        let second = format!("{}/virtfn1", pf(3));
        self.fact("nvidia-mdev.mig.available.sibling", self.available(&second, &few));
        self.kernel.reload_driver("nvidia");
        let count = self.text(&format!("{}/sriov_numvfs", pf(3)));
        let (left, mode) = self.mig();
        let mdevs = self.kernel.list(MDEVS).unwrap_or_default().len();
        self.fact("nvidia.reload", format!("{count} {left} {mode} {mdevs}"));
    }

    /// What the module is given when it is loaded, and what its cards go by.
    fn options(&mut self) {
        self.facts_of_options("default");
        let options = format!(
            "options nvidia NVreg_RegistryDwords=\"RmPVMRL=0x01\" \
             NVreg_RegistryDwordsPerDevice=\"pci={A40};RmPVMRL=0x11\"\n"
        );
        self.echo(&options, OPTIONS);
        self.manages("-e", A40);
        self.facts_of_options("before-load");
        self.kernel.reload_driver("nvidia");
        self.facts_of_options("loaded");
        self.echo("# none\n", OPTIONS);
        self.manages("-e", A40);
        self.fact("nvidia.scheduler.sriov-manage", self.schedulers());
        self.manages("-d", A40);
        let _ = self.kernel.unload_module("nvidia");
        self.fact("nvidia.params.unloaded", self.text(PARAMS));
        let _ = self.kernel.load_module("nvidia");
        self.fact("nvidia.params.reloaded", self.params());
    }

    fn facts_of_options(&mut self, when: &str) {
        self.fact(&format!("nvidia.params.{when}"), self.params());
        self.fact(&format!("nvidia.scheduler.{when}"), self.schedulers());
    }

    fn params(&self) -> String {
        let text = self.text(PARAMS);
        let lines = text.lines().filter(|line| line.starts_with("RegistryDwords"));
        lines.collect::<Vec<_>>().join(" ")
    }

    /// Of the A40 and the T4, in the tool's words.
    fn schedulers(&self) -> String {
        let of = |gpu: &str| match self.kernel.scheduler(gpu.parse().ok()?)? {
            0x11 => Some("Fixed Share"),
            0x01 => Some("Equal Share"),
            _ => Some("Best Effort"),
        };
        [A40, T4].map(|gpu| of(gpu).unwrap_or_default()).join(", ")
    }

    fn fact_of_mig(&mut self, name: &str) {
        let mode = self.mig().1;
        self.fact(name, mode.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../integration/lab/conformance-nvidia.txt");

    /// What is told in the kernel's log, which is not simulated; and the driver's own removal of an mdev, which has
    /// a test of its own.
    const NOT_SIMULATED: &[&str] = &[
        "nvidia.current.write.not-ready.log",
        "nvidia.mig.write.no-instance.log",
        "nvidia.mdev.open.autoremove",
    ];

    #[test]
    fn the_lab_saw_the_same() {
        super::super::tests::compare(LAB, nvidia_facts().unwrap(), NOT_SIMULATED);
    }
}
