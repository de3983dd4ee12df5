//! What of the kernel and its modules keeps VMs from slices, whoever made the GPU.

use super::check::{Check, Finding};
use super::facts::{Host, Kvm};

/// All findings.
pub fn check(host: &Host) -> Vec<Finding> {
    // A host without a GPU that could be sliced is none of our business.
    if !host.devices.iter().any(|device| device.is_sliced()) {
        return Vec::new();
    }
    let all = [kvm(host), modules(host), interrupts(host), gvt(host)];
    all.into_iter().flatten().collect()
}

fn kvm(host: &Host) -> Option<Finding> {
    let module = if host.intel { "kvm_intel" } else { "kvm_amd" };
    let (text, mend) = match host.kvm {
        Kvm::Ready => return None,
        Kvm::Closed => {
            ("/dev/kvm may be opened by root alone, and QEMU runs as another user".to_owned(), {
                "chown root:kvm /dev/kvm; chmod 660 /dev/kvm".to_owned()
            })
        }
        Kvm::NoNode { container } => {
            let text = format!("/dev/kvm is not there, though {module} is loaded");
            // Misc device 232 (include/linux/miscdevice.h, KVM_MINOR).
            let mend = if container {
                "pass it into this container: --device /dev/kvm with podman and docker, or a unix-char device with Incus"
            } else {
                "mknod -m 660 /dev/kvm c 10 232; chown root:kvm /dev/kvm"
            };
            (text, mend.to_owned())
        }
        Kvm::Absent { virtualizes: true } => {
            let text = format!("/dev/kvm is not there: {module} is not loaded");
            (text, format!("modprobe {module}; journalctl -k -g kvm says why not, if it fails"))
        }
        Kvm::Absent { .. } if host.is_guest => {
            let text = "/dev/kvm is not there: this host is a VM itself, without nesting";
            let mend = "on the host of this VM: virsh edit it with <cpu mode='host-passthrough'/>, and options kvm_intel nested=1 (kvm_amd) in /etc/modprobe.d";
            (text.to_owned(), mend.to_owned())
        }
        Kvm::Absent { .. } => {
            let text = "/dev/kvm is not there: the processor does not say that it runs VMs";
            let mend = "switch VT-x (Intel) or SVM (AMD) on in the firmware, and reboot";
            (text.to_owned(), mend.to_owned())
        }
    };
    Some(Finding::error(Check::KvmMissing, text, mend))
}

/// The kernel that runs was updated away.
fn modules(host: &Host) -> Option<Finding> {
    let kernel = host.modules_gone.as_ref()?;
    let text = format!("/lib/modules/{kernel} is gone, and the kernel {kernel} runs");
    let finding = if host.has_driver("vfio-pci") { Finding::warning } else { Finding::error };
    Some(finding(Check::ModulesGone, text, "reboot".to_owned()))
}

fn interrupts(host: &Host) -> Option<Finding> {
    let told = |argument: &&String| {
        *argument == "nointremap"
            || argument.strip_prefix("intremap=").is_some_and(|to| to.contains("off"))
    };
    let argument = host.arguments.iter().find(told).filter(|_| !host.unsafe_interrupts)?;
    let text = format!("the kernel was started with {argument}");
    Some(Finding::error(Check::InterruptsUnsafe, text, host.system.take_argument(argument)))
}

/// GVT-g was asked for, and the GPU shows no types.
fn gvt(host: &Host) -> Option<Finding> {
    let asked = i915_told(host, |word| word == "enable_gvt=1")?;
    let idle = |gpu: &&super::pci::Device| {
        gpu.is_gpu() && gpu.driver.as_deref() == Some("i915") && !gpu.mdevs && gpu.vfs == 0
    };
    // One GPU has it; another of Intel's beside it need not.
    let works = host.devices.iter().any(|gpu| gpu.vendor == 0x8086 && gpu.mdevs);
    let gpu = host.devices.iter().find(idle).filter(|_| !works)?;
    let guc = i915_told(host, |word| {
        word.strip_prefix("enable_guc=").is_some_and(|to| to != "0" && to != "-1")
    });
    let (why, mend) = match guc {
        _ if !host.kvmgt => (
            "kvmgt is not loaded",
            "modprobe kvmgt; echo kvmgt > /etc/modules-load.d/kvmgt.conf".to_owned(),
        ),
        Some(mend) => ("it goes with no GuC", mend),
        None => (
            "this GPU is not of Broadwell to Comet Lake, or its aperture is too small",
            format!("raise the GPU's aperture in the firmware; a newer GPU has no GVT-g: {asked}"),
        ),
    };
    let text = format!(
        "i915.enable_gvt=1 is said, and GPU {} makes no mediated devices: {why}",
        gpu.address
    );
    Some(Finding::warning(Check::GvtOff, text, mend))
}

/// How a word goes that i915 is given, among the kernel's arguments or in modprobe's files.
fn i915_told(host: &Host, is_it: impl Fn(&str) -> bool) -> Option<String> {
    let argument = host.arguments.iter().find(|a| a.strip_prefix("i915.").is_some_and(&is_it));
    if let Some(argument) = argument {
        return Some(host.system.take_argument(argument));
    }
    let (word, file) = host.options.get("i915")?.iter().find(|(word, _)| is_it(word))?;
    Some(format!("take {word} out of {file}; {}", host.system.at_next_boot()))
}
