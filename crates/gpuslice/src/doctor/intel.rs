//! What keeps Intel's drivers from making VFs: that they are another build, or what they were told.

use super::check::{Check, Finding};
use super::facts::Host;
use super::host::{is_not_built, sriov_off, without_driver};
use super::pci::Device;
use gpuslice_vendors::makers::{Maker, intel, is_max, maker};

/// The vendor's id.
pub const INTEL: u16 = 0x8086;

/// The package of DKMS by which integrated GPUs make VFs; it brings both drivers.
pub const INTEL_DKMS: &str = "i915-sriov-dkms";

/// A GPU that nobody slices unasked. An integrated one makes VFs by a driver that is built on the host alone: whoever
/// installed that wants them; of any other a layout says so.
pub fn unasked(host: &Host, gpu: &Device) -> Option<Finding> {
    let maker = intel(gpu.device);
    let installed = maker.package == Some(INTEL_DKMS) && host.dkms.has(INTEL_DKMS);
    let laid_out = host.laid_out.contains(&gpu.address);
    // Whether it has SR-IOV at all, the kernel says.
    if gpu.vendor != INTEL || gpu.vfs > 0 || gpu.total_vfs.is_none() || !installed && !laid_out {
        return None;
    }
    match gpu.driver.as_deref() {
        None => laid_out.then(|| without_driver(host, gpu, &maker)),
        Some(driver @ ("i915" | "xe")) => {
            if installed && !host.has_built("xe") && !host.has_built("i915") {
                let lead = kernels_own(gpu, driver);
                return Some(is_not_built(host, &lead, INTEL_DKMS, "reboot"));
            }
            sriov_off(host, gpu).filter(|_| gpu.total_vfs == Some(0))
        }
        Some(_) => None,
    }
}

fn kernels_own(gpu: &Device, driver: &str) -> String {
    format!("GPU {} is on the kernel's own {driver}, which makes no VFs", gpu.address)
}

/// The kernel's own i915 shows `sriov_numvfs`, and writing it fails.
pub fn makes_no_vfs(host: &Host, pf: &Device) -> Option<Finding> {
    // Where an integrated GPU's sources are here, it is said what of them is not as it should be.
    let said = maker(pf.vendor, pf.device).is_none() && host.dkms.has(INTEL_DKMS);
    if host.i915_makes_vfs || said || !host.wants_vfs(pf) {
        return None;
    }
    let text = kernels_own(pf, "i915");
    let maker = intel(pf.device);
    let found = match maker.package.filter(|package| host.dkms.has(package)) {
        Some(package) if !host.has_built("i915") => is_not_built(host, &text, package, "reboot"),
        // An initramfs may have brought the kernel's.
        Some(_) => Finding::error(Check::DriverInTheWay, text, host.system.at_next_boot()),
        None => {
            let name = if maker.package.is_some() { maker.name } else { INTEL_DKMS };
            Finding::error(Check::DriverInTheWay, text, format!("install {name}; reboot"))
        }
    };
    Some(host.weighed(pf, found))
}

/// How a driver comes to a GPU that has none, where nothing is known to keep it away.
pub fn comes(host: &Host, maker: &Maker) -> String {
    let driver = maker.driver;
    let loaded = host.has_driver(driver);
    if maker.package.is_none() {
        return match loaded {
            true => format!("look for why in journalctl -k -g {driver}"),
            false => {
                format!("modprobe {driver}; if that fails, take a kernel that has {}", maker.name)
            }
        };
    }
    let first = match host.has_built(driver) {
        true => String::new(),
        false => format!("install {}, then ", maker.name),
    };
    // Loaded it is another's, or has refused this GPU.
    if loaded { format!("{first}reboot") } else { format!("{first}modprobe {driver}") }
}

/// How a driver that says sriov_totalvfs 0 comes to say more. Nothing where that is known to wait for the BARs of VFs alone,
/// of which another finding tells.
pub fn says_more(host: &Host, gpu: &Device, driver: &str) -> Option<String> {
    if driver == "xe" { Some(xe(host, gpu)) } else { i915(host, gpu) }
}

/// xe makes as many as there can be, unless it was told otherwise, or is of a kernel in which it makes none unasked
/// (drivers/gpu/drm/xe/xe_module.c).
fn xe(host: &Host, gpu: &Device) -> String {
    let told = told(host, "xe", "max_vfs");
    let none: Vec<Told> = told.into_iter().filter(|told| told.value == "0").collect();
    let address = &gpu.address;
    if !none.is_empty() {
        changed(host, &none, &[])
    } else if host.max_vfs.get("xe").is_some_and(|most| most == "0") {
        changed(host, &[], &["xe.max_vfs=63"])
    } else if host.configfs_none.contains(address) {
        format!(
            "have nothing that is started at boot write 0 into /sys/kernel/config/xe/{address}/sriov/max_vfs; reboot"
        )
    } else {
        "switch SR-IOV on in the firmware, or take a newer kernel, whose xe makes VFs of this GPU"
            .to_owned()
    }
}

/// i915 makes none unless it is told how many, its GuC submits, the BARs of VFs have addresses, and a Max is not linked to
/// others (i915_sriov.c of Intel's own builds, pf_verify_readiness).
fn i915(host: &Host, gpu: &Device) -> Option<String> {
    let (mut wrong, mut missing) = (Vec::new(), Vec::new());
    let mut want = |name: &str, is_wrong: fn(&str) -> bool, word: Option<&'static str>| {
        let (against, right): (Vec<Told>, Vec<Told>) =
            told(host, "i915", name).into_iter().partition(|told| is_wrong(told.value));
        wrong.extend(against);
        missing.extend(word.filter(|_| right.is_empty()));
    };
    // An integrated GPU has seven at most, and its GuC has to be asked for.
    let (guc, most) = match maker(gpu.vendor, gpu.device) {
        Some(_) => (None, "i915.max_vfs=63"),
        None => (Some("i915.enable_guc=3"), "i915.max_vfs=7"),
    };
    let submits_not = |to: &str| to.parse::<i32>().is_ok_and(|bits| bits >= 0 && bits & 1 == 0);
    want("enable_guc", submits_not, guc);
    want("max_vfs", |to| to == "0", Some(most));
    if is_max(gpu.device) {
        want("enable_iaf", |to| !matches!(to, "0" | "n" | "N"), Some("i915.enable_iaf=0"));
    }
    if !wrong.is_empty() || !missing.is_empty() {
        return Some(changed(host, &wrong, &missing));
    }
    if host.max_vfs.get("i915").is_some_and(|most| most == "0") {
        return Some(host.system.at_next_boot());
    }
    (!gpu.no_vf_bars).then(|| "look for why in journalctl -k -g i915".to_owned())
}

/// What a driver is told under a name.
struct Told<'a> {
    /// As it is written.
    word: &'a str,
    value: &'a str,
    /// The file of modprobe's; without one it is an argument of the kernel's.
    file: Option<&'a str>,
}

fn told<'a>(host: &'a Host, driver: &str, name: &str) -> Vec<Told<'a>> {
    let value = |word: &'a str| word.strip_prefix(name)?.strip_prefix('=');
    let argued = host.arguments.iter().filter_map(|argument| {
        let word = argument.strip_prefix(driver)?.strip_prefix('.')?;
        Some(Told { word: argument, value: value(word)?, file: None })
    });
    let options = host.options.get(driver).into_iter().flatten();
    let written = options
        .filter_map(|(word, file)| Some(Told { word, value: value(word)?, file: Some(file) }));
    argued.chain(written).collect()
}

/// How words go and others come, with one boot for all.
fn changed(host: &Host, wrong: &[Told], missing: &[&str]) -> String {
    let taken = wrong.iter().map(|Told { word, file, .. }| match file {
        Some(file) => format!("take {word} out of {file}; {}", host.system.at_next_boot()),
        None => host.system.take_argument(word),
    });
    let added = (!missing.is_empty()).then(|| host.system.add_argument(&missing.join(" ")));
    let steps: Vec<String> = taken.chain(added).collect();
    let before_boot: Vec<&str> = steps.iter().map(|step| step.trim_end_matches("reboot")).collect();
    format!("{}reboot", before_boot.concat())
}
