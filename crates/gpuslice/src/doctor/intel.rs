//! What keeps Intel's drivers from making VFs: that they are another build, or what they were told.

use super::check::{Check, Finding};
use super::facts::Host;
use super::host::{is_not_built, sriov_off, without_driver};
use super::pci::Device;
use gpuslice_vendors::makers::{Maker, intel, maker};

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
            (gpu.total_vfs == Some(0)).then(|| sriov_off(host, gpu))
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

/// How a driver of Intel's that says 0 comes to say more.
pub fn says_more(host: &Host, gpu: &Device, driver: &str) -> String {
    if driver == "xe" {
        // Without it, it makes as many as there can be.
        let told = host.arguments.iter().find(|argument| argument.starts_with("xe.max_vfs="));
        return match told {
            Some(argument) => host.system.take_argument(argument),
            None => "switch SR-IOV on in the firmware, or take a newer kernel, whose xe makes VFs of this GPU".to_owned(),
        };
    }
    // Of a Flex or Max; an integrated GPU has seven at most, and its GuC has to be asked for.
    if maker(gpu.vendor, gpu.device).is_some() {
        return host.system.add_argument("i915.max_vfs=63");
    }
    let guc = host.arguments.iter().any(|argument| argument.starts_with("i915.enable_guc="));
    let guc = if guc { "" } else { "i915.enable_guc=3 " };
    host.system.add_argument(&format!("{guc}i915.max_vfs=7"))
}
