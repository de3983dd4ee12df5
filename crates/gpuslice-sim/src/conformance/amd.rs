//! The same for AMD's drivers: the lab's scenario `silicon-gim` and its answers in
//! `integration/lab/conformance-amd.txt`. PFs: 1 and 2 an MI300X, 3 a V710, 4 an MI350X, 5 a card without VFs.

use super::{DRIVERS, HOLDER, Probe, pf, word};
use crate::host_file::HostFile;
use crate::kernel::Kernel;
use crate::kernel::fault::Fault;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{PciAddress, SliceId};
use gpuslice_core::port::{HostRead, HostWrite, read_text};

const HOST: &str = include_str!("amd.toml");
const CONFIG: &str = "/etc/gim_config";
/// What the scenario gives modprobe as arguments.
const OPTIONS: &str = "/etc/modprobe.d/scenario.conf";
const PROFILE: &str = "accelerator_partition_profile";
const MEMORY: &str = "memory_partition_mode";

/// All facts, in the scenario's order.
///
/// # Errors
/// When the embedded host file does not parse, which a test excludes.
pub fn amd_facts() -> Result<Vec<(String, String)>, crate::HostError> {
    let host = HostFile::parse(HOST)?;
    let mut probe = Probe { kernel: Kernel::from_host(&host), facts: Vec::new() };
    probe.before_the_driver();
    probe.first_load();
    probe.count_of_vfs();
    probe.what_is_kept();
    probe.one_vf();
    probe.change_of_memory();
    probe.eight_vfs();
    probe.radeon();
    probe.vf_in_use_of_gim();
    probe.thread_fails();
    probe.vf_of_the_host();
    probe.amdgpu(&host);
    probe.first_generation(&host);
    Ok(probe.facts)
}

/// A file of a PF.
fn of(domain: u32, name: &str) -> String {
    format!("{}/{name}", pf(domain))
}

fn option(vf_num: &str) -> String {
    format!("options gim vf_num={vf_num}")
}

impl Probe {
    fn reads_text(&self, file: &str) -> String {
        read_text(&self.kernel, file).unwrap_or_else(|errno| word(Err(errno)))
    }

    /// The first line, as the scenario shows it.
    fn first(&self, file: &str) -> String {
        self.reads_text(file).lines().next().unwrap_or_default().to_owned()
    }

    /// All of a file in one line, blanks as one.
    fn one_line(&self, file: &str) -> String {
        let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        self.reads_text(file).lines().map(squeeze).collect::<Vec<_>>().join("|")
    }

    fn saved(&self) -> String {
        self.reads_text(CONFIG).lines().collect::<Vec<_>>().join(" ")
    }

    fn keep(&mut self, text: Option<&str>) {
        self.kernel.gim_config = text.map(|text| text.as_bytes().to_vec());
    }

    fn vfs_of(&self, domain: u32) -> usize {
        let names = self.kernel.list(&pf(domain)).unwrap_or_default();
        names.iter().filter(|name| name.starts_with("virtfn")).count()
    }

    fn vfs_of_all(&self) -> String {
        [1, 2, 3, 4].map(|domain| self.vfs_of(domain).to_string()).join(" ")
    }

    fn driver_of(&self, device: &str) -> String {
        let driver = self.kernel.link(&format!("{device}/driver")).unwrap_or_default();
        driver.rsplit('/').next().unwrap_or_default().to_owned()
    }

    fn there_or(&self, path: &str, yes: &str, no: &str) -> String {
        if self.kernel.list(path).is_ok() { yes } else { no }.to_owned()
    }

    fn bind_files(&self) -> String {
        let mut names = self.kernel.list(&format!("{DRIVERS}/gim")).unwrap_or_default();
        names.retain(|name| name == "bind" || name == "unbind");
        names.sort();
        names.join(" ")
    }

    /// The last line of the kernel's log that holds these words, from where they are.
    fn said(&self, words: &str, from: usize) -> String {
        let log = self.kernel.kernel_log().unwrap_or_default();
        let lines = log.iter().skip(from).rev().map(|line| line.text.as_str());
        let found = lines.filter_map(|text| text.find(words).and_then(|at| text.get(at..))).next();
        found.and_then(|text| text.lines().next()).unwrap_or_default().to_owned()
    }

    fn mark(&self) -> usize {
        self.kernel.kernel_log().unwrap_or_default().len()
    }

    /// `modprobe gim` with these options, or with none.
    fn load(&mut self, options: &str) -> Result<(), Errno> {
        self.kernel.replace(OPTIONS, format!("{options}\n").as_bytes())?;
        let loaded = self.kernel.load_module("gim");
        self.kernel.settle();
        loaded
    }

    fn unload(&mut self) {
        // What is not loaded is not there afterwards.
        let _ = self.kernel.unload_module("gim");
        self.kernel.settle();
    }

    fn reload(&mut self, options: &str) {
        self.unload();
        // A refusal shows in the facts that follow.
        let _ = self.load(options);
    }

    /// The mode that a file reads.
    fn mode_in(&self, file: &str) -> String {
        let text = self.reads_text(file);
        if file.ends_with(MEMORY) {
            let mode = text.lines().find_map(|line| line.strip_prefix("memory_partition_mode: "));
            return mode.unwrap_or_default().to_owned();
        }
        if file.ends_with(PROFILE) {
            let row = text.lines().nth(1).unwrap_or_default();
            return row.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        }
        text
    }

    /// What a write answers, what the file reads then, and what the log says.
    fn refusal(&mut self, name: &str, file: &str, value: &str, words: &str) {
        let from = self.mark();
        let answer = self.echo(value, file);
        let fact = format!("{answer}; {}; {}", self.mode_in(file), self.said(words, from));
        self.fact(name, fact);
    }

    fn before_the_driver(&mut self) {
        self.fact("gim.autoload", self.there_or("/sys/module/gim", "loaded", "absent"));
        self.writes("gim.numvfs.no-driver", "1", &of(1, "sriov_numvfs"));
        for domain in 1..=4 {
            self.echo("0", &of(domain, "sriov_drivers_autoprobe"));
        }
    }

    fn first_load(&mut self) {
        self.kernel.take_events();
        let _ = self.load("");
        let told = self.kernel.take_events();
        let told = told.iter().filter(|event| event.devpath.contains("0001:"));
        let told = told.map(|event| format!("{} {}", event.action, super::short(event.name())));
        // When the thread begins, the probe may not have ended.
        let told: Vec<String> = told.filter(|event| event != "bind PF").collect();
        self.fact("events.gim.load", told.join(", "));
        self.fact("gim.pf.driver", self.driver_of(&pf(1)));
        self.fact("gim.rx6600.driver", self.driver_of(&pf(5)));
        self.fact("gim.vfs.default", self.vfs_of_all());
        self.fact("gim.ready.log", self.said("AMD GIM probed GPU(0)", 0));
        self.fact("gim.config.first", self.saved());
        let parameter = "/sys/module/gim/parameters/vf_num";
        self.reads("gim.parameter.unset", parameter);
        self.writes("gim.parameter.write", "2", parameter);
        self.fact("gim.driver.bind-files", self.bind_files());
        let mut names = self.kernel.list(&pf(1)).unwrap_or_default();
        names.retain(|name| is_of_gim(name));
        names.sort();
        self.fact("gim.pf.files", names.join(" "));
        let vf = of(1, "virtfn0");
        let names = self.kernel.list(&vf).unwrap_or_default();
        let of_gim = names.iter().filter(|name| is_of_gim(name)).count();
        self.fact("gim.vf.files", of_gim.to_string());
        let bound = self.kernel.link(&format!("{vf}/driver")).is_ok();
        self.fact("gim.vf.driver", if bound { "bound" } else { "none" }.to_owned());
    }

    fn count_of_vfs(&mut self) {
        for (name, value) in [
            ("write-same", "1"),
            ("write-other", "4"),
            ("write-zero", "0"),
            ("write-above-total", "9"),
        ] {
            self.writes(&format!("gim.numvfs.{name}"), value, &of(1, "sriov_numvfs"));
        }
        self.tells("events.gim.unload", "0001:", Self::unload);
        self.fact("gim.unload.vfs", self.vfs_of_all());
        let parameter = "/sys/module/gim/parameters/vf_num";
        self.reload(&option("4"));
        self.fact("gim.vf_num.all", self.vfs_of_all());
        self.reads("gim.vf_num.all.parameter", parameter);
        self.fact("gim.vf_num.all.config", self.saved());
        self.reload(&option("1,2,4,3"));
        self.fact("gim.vf_num.each", self.vfs_of_all());
        self.reads("gim.vf_num.each.parameter", parameter);
        let from = self.mark();
        self.reload(&option("9"));
        self.fact("gim.vf_num.above-total", self.vfs_of_all());
        self.fact("gim.vf_num.above-total.log", self.said("VF number", from));
        let names = self.kernel.list(&pf(1)).unwrap_or_default();
        let files = names.iter().filter(|name| is_of_gim(name)).count();
        self.fact("gim.vf_num.above-total.driver", format!("{} {files}", self.driver_of(&pf(1))));
        self.fact("gim.vf_num.above-total.config", self.saved());
        let from = self.mark();
        self.reload(&option("0,2"));
        let said = self.said("invalid token", from);
        self.fact("gim.vf_num.zero", format!("{} {said}", self.vfs_of_all()));
        self.unload();
        let answer =
            self.load(&option("x")).map_or_else(|errno| sentence(errno.text()), |()| String::new());
        self.fact("gim.vf_num.word", answer);
    }

    fn what_is_kept(&mut self) {
        self.unload();
        self.keep(None);
        self.reload(&option("1,8"));
        self.reload(&option("8"));
        self.fact("gim.config.residue", self.saved());
        let from = self.mark();
        self.reload("");
        let said = self.said("unknown token", from);
        let said = said.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        self.fact("gim.config.residue.next", format!("{} {said}", self.vfs_of(1)));
        self.fact("gim.config.residue.then", self.saved());
        for (name, text) in
            [("gim.config.foreign-key", "vf_num=2\nsch_policy=3\n"), ("gim.config.empty", "")]
        {
            self.unload();
            self.keep(Some(text));
            self.reload("");
            self.fact(name, format!("{} {}", self.vfs_of(1), self.saved()));
        }
        self.unload();
        self.keep(Some("vf_num=2\naccelerator_partition_mode=9\nmemory_partition_mode=9\n"));
        self.reload("");
        self.fact("gim.config.vf_num", self.vfs_of(1).to_string());
        self.unload();
    }

    fn one_vf(&mut self) {
        self.keep(None);
        self.reload(&option("1"));
        let (profile, memory) = (of(1, PROFILE), of(1, MEMORY));
        self.fact("gim.compute.read", self.one_line(&profile));
        self.fact(
            "gim.compute.config",
            self.one_line(&of(1, "accelerator_partition_profile_config")),
        );
        self.fact("gim.memory.read", self.one_line(&memory));
        let config = self.kernel.read(&of(1, "memory_partition_config")).unwrap_or_default();
        self.fact("gim.memory.config", String::from_utf8_lossy(&config).replace('\n', "$"));
        let spatial = ["spatial_partition_mode", "spatial_partition_caps"];
        let spatial = spatial.map(|name| self.first(&of(1, name)));
        self.fact("gim.spatial", spatial.join(" "));
        self.writes("gim.compute.write.name", "CPX", &profile);
        let already = "current accelerator_partition_profile is already";
        self.refusal("gim.compute.write.same", &profile, "0", already);
        self.refusal("gim.compute.write.none", &profile, "7", "Failed to set accelerator");
        let answer = self.echo("1", &profile);
        let spatial = self.first(&of(1, "spatial_partition_mode"));
        self.fact("gim.compute.write", format!("{answer} {} {spatial}", self.mode_in(&profile)));
        self.fact("gim.compute.write.hive", self.mode_in(&of(2, PROFILE)));
        self.fact("gim.compute.write.config", self.saved());
    }

    fn change_of_memory(&mut self) {
        let (profile, memory) = (of(1, PROFILE), of(1, MEMORY));
        let words = ["x", "NPS3", "4"].map(|value| self.echo(value, &memory));
        self.fact("gim.memory.write.word", words.join(" "));
        let already = "current memory partition mode";
        self.refusal("gim.memory.write.same", &memory, "NPS1", already);
        self.refusal("gim.memory.write.unsupported", &memory, "NPS2", "Failed to set mp mode");
        self.kernel.set_pace(crate::kernel::Pace::Steps);
        let answer = self.echo("nps4", &memory);
        self.fact("gim.memory.write.reset", format!("{answer} {}", self.mode_in(&memory)));
        let switching = "memory mode switch in progress";
        self.refusal("gim.memory.write.while-reset", &memory, "NPS4", switching);
        self.kernel.set_pace(crate::kernel::Pace::Whole);
        self.kernel.settle();
        let modes = format!("{} {}", self.mode_in(&memory), self.mode_in(&profile));
        self.fact("gim.memory.write.after", modes);
        self.fact("gim.memory.write.config", self.saved());
        self.fact("gim.memory.read.nps4", self.one_line(&memory));
        self.refusal("gim.compute.write.illegal", &profile, "0", "Failed to set accelerator");
        self.reload(&option("1"));
        let modes = format!("{} {}", self.mode_in(&memory), self.mode_in(&profile));
        self.fact("gim.modes.kept", modes);
        self.reload(&option("2"));
        let modes = format!("{} {}", self.mode_in(&memory), self.mode_in(&profile));
        self.fact("gim.modes.other-count", format!("{modes}; {}", self.saved()));
    }

    fn eight_vfs(&mut self) {
        let (profile, memory) = (of(1, PROFILE), of(1, MEMORY));
        self.reload(&option("8"));
        let config = self.one_line(&of(1, "accelerator_partition_profile_config"));
        self.fact("gim.compute.config.eight", config);
        self.fact("gim.compute.read.eight", self.mode_in(&profile));
        self.writes("gim.memory.nps8", "NPS8", &memory);
        self.kernel.settle();
        self.fact("gim.memory.nps8.compute", self.mode_in(&profile));
        let head = self.first(&of(1, "guard_status"));
        let head = head.split_whitespace().collect::<Vec<_>>().join(" ");
        self.fact("gim.guard.head", head);
        let notes = self.reads_text(&of(1, "guard_status"));
        let notes = notes.lines().nth(9).unwrap_or_default().to_owned();
        self.fact("gim.guard.notes", notes);
    }

    fn radeon(&mut self) {
        for name in [
            PROFILE,
            "accelerator_partition_profile_config",
            MEMORY,
            "memory_partition_config",
            "spatial_partition_mode",
            "spatial_partition_caps",
        ] {
            let text = self.first(&of(3, name));
            self.fact(&format!("gim.radeon.{name}"), text);
        }
        let failed = "Failed to set accelerator";
        self.refusal("gim.radeon.compute.write", &of(3, PROFILE), "0", failed);
        self.writes("gim.radeon.memory.write", "NPS1", &of(3, MEMORY));
    }

    fn vf_in_use_of_gim(&mut self) {
        let (profile, memory) = (of(1, PROFILE), of(1, MEMORY));
        let Some(vf) = PciAddress::new(2, 0, 2, 3) else { return };
        self.echo("vfio-pci", &format!("{}/driver_override", of(2, "virtfn3")));
        self.echo("0002:00:02.3", "/sys/bus/pci/drivers_probe");
        // Bound and idle is idle.
        self.echo("NPS1", &memory);
        self.kernel.settle();
        // A refusal shows in the facts that follow: nothing would be in the way.
        let _ = self.kernel.open(HOLDER, "qemu-system-x86", SliceId::Vf(vf));
        let not = "set memory partition mode not allowed";
        self.refusal("gim.in-use.memory", &memory, "NPS4", not);
        let not = "set accelerator partition mode not allowed";
        self.refusal("gim.in-use.compute", &profile, "1", not);
        let from = self.mark();
        let answer = self.kernel.unload_module("gim");
        self.fact("gim.unload.in-use.log", self.said("GIM is used by", from));
        let waits = if word(answer) == "blocks" { "waits" } else { "" };
        self.fact("gim.unload.in-use", format!("{waits} {}", self.vfs_of(2)));
        self.kernel.kill(HOLDER);
        self.kernel.settle();
        self.fact("gim.unload.released", self.vfs_of(2).to_string());
    }

    fn thread_fails(&mut self) {
        let Some(first) = PciAddress::new(1, 0, 0, 0) else { return };
        let (nth, times, errno) = (1, 1, Errno::ENOMEM);
        self.kernel.inject(Fault::Enable { pf: first, nth, times, errno });
        self.reload(&option("1"));
        let seen = format!("{} {}", self.vfs_of_all(), self.driver_of(&pf(1)));
        self.fact("gim.enable-fails", seen);
        self.kernel.clear_faults();
        self.unload();
    }

    fn vf_of_the_host(&mut self) {
        let _ = self.load(&option("1"));
        // Its ids are in the table of both there; here an override stands for that.
        let _ = self.kernel.load_module("amdgpu");
        let vf = of(1, "virtfn0");
        self.echo("amdgpu", &format!("{vf}/driver_override"));
        self.echo("0001:00:02.0", "/sys/bus/pci/drivers_probe");
        let from = self.mark();
        let answer = self.echo("NPS4", &of(1, MEMORY));
        let said = self.said("set memory partition mode not allowed", from);
        let mode = self.mode_in(&of(1, MEMORY));
        let fact = format!("{} {answer}; {mode}; {said}", self.driver_of(&vf));
        self.fact("gim.host-driver", fact);
        self.echo("0001:00:02.0", &format!("{DRIVERS}/amdgpu/unbind"));
        self.unload();
    }

    /// GPUs that amdgpu has are bound to it here from the boot on.
    fn amdgpu(&mut self, host: &HostFile) {
        let mut host = host.clone();
        for function in &mut host.functions {
            function.driver = Some("amdgpu".to_owned());
        }
        for driver in &mut host.drivers {
            driver.loaded = driver.name == "amdgpu";
        }
        self.kernel = Kernel::from_host(&host);
        self.fact("amdgpu.first", self.driver_of(&pf(1)));
        self.reload(&option("2"));
        let seen = format!("{} {}", self.vfs_of_all(), self.driver_of(&pf(1)));
        self.fact("amdgpu.then-gim", seen);
        self.unload();
        self.writes("amdgpu.numvfs", "1", &of(1, "sriov_numvfs"));
        let partitions = |names: Vec<String>| {
            let mut names = names;
            names.retain(|name| name.ends_with("_partition"));
            names.sort();
            names
        };
        let names = partitions(self.kernel.list(&pf(1)).unwrap_or_default());
        self.fact("amdgpu.files", names.join(" "));
        let compute = of(1, "current_compute_partition");
        let memory = of(1, "current_memory_partition");
        let (computes, memories) =
            (of(1, "available_compute_partition"), of(1, "available_memory_partition"));
        let read = [&compute, &computes, &memory, &memories].map(|file| self.first(file));
        self.fact("amdgpu.read", read.join("; "));
        let without = partitions(self.kernel.list(&pf(3)).unwrap_or_default()).len();
        self.fact("amdgpu.without", without.to_string());
        let answer = self.echo("QPX", &compute);
        let (now, bad) = (self.first(&compute), self.echo("TPX", &compute));
        self.fact("amdgpu.compute.write", format!("{answer} {now} {bad}"));
        if let Some(pf) = PciAddress::new(1, 0, 0, 0) {
            self.kernel.inject(Fault::Computes { pf });
        }
        let busy = ["CPX", "QPX"].map(|value| self.echo(value, &compute));
        self.fact("amdgpu.compute.in-use", busy.join(" "));
        self.kernel.clear_faults();
        let bad = ["NPS2", "x"].map(|value| self.echo(value, &memory));
        self.fact("amdgpu.memory.bad", bad.join(" "));
        let answer = self.echo("NPS4", &memory);
        self.fact("amdgpu.memory.request", format!("{answer} {}", self.first(&memory)));
        self.kernel.reload_driver("amdgpu");
        self.kernel.settle();
        let other = self.first(&of(2, "current_memory_partition"));
        let seen = format!("{} {} {other}", self.first(&memory), self.first(&compute));
        self.fact("amdgpu.memory.reload", seen);
        self.writes("amdgpu.compute.illegal", "SPX", &compute);
    }

    fn first_generation(&mut self, host: &HostFile) {
        let mut host = host.clone();
        for driver in &mut host.drivers {
            driver.bind_files = true;
        }
        self.kernel = Kernel::from_host(&host);
        let _ = self.load(&option("1"));
        self.fact("gim.first.driver.bind-files", self.bind_files());
        // Last of all: whoever reads it resets the GPU.
        let text = self.reads_text(&of(1, "reset_gpu"));
        let resets = self.kernel.gpu_resets_by_reading();
        self.fact("gim.reset_gpu", format!("{text} {resets}"));
    }
}

fn is_of_gim(name: &str) -> bool {
    let begins = ["accelerator_", "memory_partition_", "spatial_", "guard_"];
    name == "reset_gpu" || name == "self_switch" || begins.iter().any(|word| name.starts_with(word))
}

/// As the C library begins it.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::tests::compare;

    const LAB: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../integration/lab/conformance-amd.txt");

    /// What nothing of gpuslice reads, writes or goes by, and what differs by design.
    const NOT_HERE: &[&str] = &[
        // modules and files have neither aliases nor permissions here; that no file is opened in the wrong direction,
        // the tree sees to
        "gim.aliases",
        "gim.config.mode",
        "gim.pf.modes",
        "amdgpu.modes",
        // options and files of no use to gpuslice
        "gim.enabled_devices",
        "gim.first.enabled_devices",
        "gim.guard.vf",
        "gim.guard.threshold.bad",
        "gim.guard.threshold.hex",
        "gim.self_switch",
        "gim.unload.in-use.state",
        // the stand-in's own account, which the vendor's driver gives to its own tools only
        "gim.framebuffer",
        // a text that grows while it is read; the mechanism does not go by that column
        "gim.memory.caps.grow",
        // a reset from elsewhere
        "amdgpu.compute.resetting",
    ];

    #[test]
    fn the_lab_saw_the_same_of_amd() {
        compare(LAB, amd_facts().unwrap(), NOT_HERE);
    }
}
