//! Every hint that the sources can print, and which of them were followed. A hint is made by `hint!` alone, as its type
//! has it, so its words stand in the sources; of each way out some case has to do what it says.

use gpuslice_integration::{files, root};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// What no program can do for a person, with what it takes.
const OUT_OF_REACH: &[(&str, &str)] = &[
    // The machine itself.
    (
        "boot with the IOMMU on for it: intel_iommu=on without igfx_off on Intel, the firmware on AMD (gpuslice doctor says which)",
        "a boot, and the firmware",
    ),
    (
        "echo blacklist {} > /etc/modprobe.d/{}-off.conf, then make the initramfs anew, then reboot, then gpuslice apply",
        "a boot with another driver",
    ),
    (
        "switch ACS and ARI on in the firmware, or put the GPU into another slot; then reboot",
        "the firmware, and a boot",
    ),
    (
        "switch \"Above 4G decoding\" and \"Resizable BAR\" on in the firmware, or add pci=realloc to the kernel's arguments; then reboot",
        "the firmware, and a boot",
    ),
    ("blacklist {} and let gim make VFs of it", "a boot with another driver"),
    (
        "{}, which writes the scheduler that the next load of {} brings; reboot, and put it in again",
        "a boot; see integration/tests/machine/scheduler.rs",
    ),
    (
        "install i915-sriov-dkms or Intel's own build of i915 (the kernel's makes no VFs), reboot, then gpuslice apply",
        "a boot with another driver",
    ),
    (
        "take {}.{} out of the kernel's arguments, then reboot, then gpuslice apply",
        "a boot with other arguments; see integration/tests/machine/scheduler.rs and gim.rs",
    ),
    ("gpuslice doctor (it says why no GPU is there)", "a GPU that is put in"),
    (
        "gpuslice doctor (it says how they are switched on), then gpuslice apply",
        "a driver's option, or the firmware; see crates/gpuslice/tests/doctor/traps.rs",
    ),
    (
        "gpuslice doctor (it says who has the GPU open)",
        "a program at NVIDIA's nodes; see crates/gpuslice/tests/doctor.rs",
    ),
    (
        "echo 0 | tee /sys/bus/pci/devices/{}/drm/card*/*iov/vf*/gt*/*_quota; echo 1 | tee /sys/bus/pci/devices/{}/drm/card*/*iov/pf/auto_provisioning",
        "quotas of Intel's i915, which the simulated one has not",
    ),
    (
        "let VMs render on it, beside VNC or SPICE: \
         <graphics type='egl-headless'><gl rendernode='/dev/dri/by-path/pci-{}-render'/></graphics> \
         and <video><model type='virtio'><acceleration accel3d='yes'/></model></video>",
        "a GPU to render on",
    ),
    // Programs that are installed or belong to the system.
    (
        "install NVIDIA's vGPU host driver, so that {} -q works, then gpuslice apply",
        "NVIDIA's driver",
    ),
    (
        "{} --gpu-reset -i {} while nothing uses it, or reboot; then gpuslice apply",
        "a GPU that is lost, or a boot",
    ),
    ("install the vendor's host driver that brings {}", "a vendor's driver"),
    ("install gpusliced and gpuslice-libvirt-agent of the same version", "another release"),
    ("systemctl restart gpusliced, so that it is of the same release", "another release"),
    (
        "systemctl edit gpusliced: CAP_SYS_PTRACE in CapabilityBoundingSet, then systemctl restart gpusliced",
        "a unit of systemd; a simulated host's holders are always known",
    ),
    ("systemctl start {}", "the system's own bus; a test's daemon is started `there`"),
    ("systemctl unmask {}, then systemctl start {}", "a unit of systemd"),
    ("unset {}", "the system's own daemon"),
    ("systemctl start libvirtd", "libvirtd; its test driver is in the agent's process"),
    ("systemctl start virtqemud", "virtqemud; the test driver is in the agent's process"),
    (
        "usermod -aG libvirt gpuslice-agent, then systemctl restart gpuslice-libvirt-agent",
        "libvirt's socket and its group",
    ),
    (
        "allow org.libvirt.api.domain.* to user gpuslice-agent in /etc/polkit-1/rules.d",
        "libvirt's access driver and polkit",
    ),
    (
        "systemctl restart gpuslice-libvirt-agent, then the same again",
        "an agent that has lost its thread",
    ),
    (
        "journalctl -u libvirtd -u virtqemud, mend what it says, then try again",
        "a fault of libvirt",
    ),
    (
        "allow {} to your user in /etc/polkit-1/rules.d",
        "polkit; see integration/lab/scenarios/boot.sh",
    ),
    ("run it as root", "for other programs on the bus; the command line says `sudo gpuslice …`"),
    (
        "modprobe {}, then the same again",
        "a driver that is not there yet; the simulated kernel's are, or never come",
    ),
    // A guest.
    (
        "stop what uses it inside the guest, then gpuslice detach {} {} --live",
        "a guest, in the lab",
    ),
    (
        "virsh edit {}: one more <controller type='pci' model='pcie-root-port'/> \
         (for hot-plug after the next start)",
        "hot-plug, which libvirt's test driver has not before 10; see integration/lab/scenarios/live.sh",
    ),
    // Told of a host that is written down, by another test.
    (
        "gpuslice doctor (it looks at the mappings of Proxmox VE)",
        "a node of Proxmox VE; see crates/gpuslice/tests/doctor.rs",
    ),
    ("sudo gpuslice doctor {}", "another user's files; see crates/gpuslice/tests/doctor.rs"),
    ("sudo gpuslice doctor --fix", "another user's files; see crates/gpuslice/tests/doctor.rs"),
    ("sudo systemctl reload {}", "a unit of systemd; see crates/gpuslice/tests/doctor.rs"),
    (
        "gpuslice release {} --force",
        "a run of what is neither libvirt's nor Proxmox's: such a claim has a home and never runs",
    ),
    // What passes by itself.
    (
        "{} (it goes on when the write returns)",
        "the write; see integration/tests/machine/directed.rs",
    ),
    (
        "gpuslice wait --settled, then the same again (gpuslice status tells which)",
        "a tool that hangs; see integration/tests/machine/one_vm.rs",
    ),
];

/// Ways out that were followed, as they were printed.
static FOLLOWED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A case does what this says.
pub fn follows(way: &str) {
    FOLLOWED.lock().unwrap_or_else(PoisonError::into_inner).push(way.to_owned());
}

/// One way out, as it is written: what is between its places.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way(Vec<String>);

impl Way {
    fn text(&self) -> String {
        self.0.join("{}")
    }

    /// How much of it is its own words.
    fn own(&self) -> usize {
        self.0.iter().map(String::len).sum()
    }

    /// It begins with what is put in, or goes on where that ends.
    fn is_within(&self) -> bool {
        !self.0.first().is_some_and(|first| first.starts_with(|c: char| c.is_alphabetic()))
    }

    /// Whether this was printed there in the text.
    fn is_at(&self, text: &str, at: usize) -> bool {
        let Some(rest) = text.get(at..).and_then(|rest| rest.strip_prefix(self.0[0].as_str()))
        else {
            return false;
        };
        goes_on(&self.0[1..], rest)
    }
}

fn goes_on(parts: &[String], text: &str) -> bool {
    let Some((part, parts)) = parts.split_first() else { return is_end(text) };
    if part.is_empty() {
        return !text.is_empty();
    }
    let mut found = text.match_indices(part.as_str()).filter(|(at, _)| *at > 0);
    found.any(|(at, _)| goes_on(parts, &text[at + part.len()..]))
}

/// Nothing follows but another step, or a remark.
fn is_end(rest: &str) -> bool {
    rest.is_empty() || [", then ", "; then ", "; or ", " ("].iter().any(|s| rest.starts_with(s))
}

/// Where a step begins.
fn begins(text: &str) -> Vec<usize> {
    let then = [", then ", "; then "];
    let after = then.iter().flat_map(|s| text.match_indices(s).map(|(at, s)| at + s.len()));
    std::iter::once(0).chain(after).collect()
}

/// A Rust string as the compiler reads it, and what is left behind it.
fn literal(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (out, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, '\n')) => {
                    let rest = chars.as_str().trim_start();
                    let (more, rest) = literal(rest);
                    return (out + &more, rest);
                }
                Some((_, 'n')) => out.push('\n'),
                Some((_, other)) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    panic!("a string without an end: {text}")
}

/// Every way out that stands in the sources.
fn ways() -> BTreeSet<Way> {
    let mut ways = BTreeSet::new();
    for path in files() {
        let name = path.to_str().unwrap();
        let product = name.contains("/src/") && name.ends_with(".rs");
        if !product || name.starts_with("integration/") || name.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if name.ends_with("refusal/hint.rs") {
            continue;
        }
        for past in ["Hint::made", ".hint = ", "hint: Some("] {
            assert!(!text.contains(past), "{name}: a hint is made by hint! alone, not by {past:?}");
        }
        for (at, word) in text.match_indices("hint!(") {
            let rest = text[at + word.len()..].trim_start();
            let rest = rest.strip_prefix('"').unwrap_or_else(|| panic!("{name}: {rest}"));
            let (text, _) = literal(rest);
            for way in text.split("; or ") {
                let way = way.replace("{{", "\u{1}").replace("}}", "\u{2}");
                let unescaped = |part: &str| part.replace('\u{1}', "{").replace('\u{2}', "}");
                let parts = way.split("{}").map(unescaped).collect();
                ways.insert(Way(parts));
            }
        }
    }
    // What only joins others is followed with them.
    let says = |way: &Way| way.text().replace("then", "").contains(|c: char| c.is_alphabetic());
    ways.into_iter().filter(says).collect()
}

/// The ways out in the sources that no case took, but for those that none can.
pub fn not_followed() -> Vec<String> {
    let ways = ways();
    let followed = FOLLOWED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken: BTreeSet<&Way> = BTreeSet::new();
    for text in followed.iter() {
        for at in begins(text) {
            // Where another says the same and more, it is that one.
            let there = ways.iter().filter(|way| !way.is_within() && way.is_at(text, at));
            taken.extend(there.max_by_key(|way| way.own()));
        }
        let within = ways.iter().filter(|way| way.is_within());
        taken.extend(within.filter(|way| {
            (0..text.len()).any(|at| match way.0[0].is_empty() {
                true => goes_on(&way.0[1..], &text[at.min(text.len())..]),
                false => text.is_char_boundary(at) && way.is_at(text, at),
            })
        }));
    }
    let out_of_reach = |way: &&Way| OUT_OF_REACH.iter().any(|(text, _)| *text == way.text());
    for (text, why) in OUT_OF_REACH {
        let there = ways.iter().any(|way| way.text() == *text && !taken.contains(way));
        assert!(there && !why.is_empty(), "{text:?} is no hint, or a case follows it");
    }
    let missing = ways.iter().filter(|way| !taken.contains(way) && !out_of_reach(way));
    missing.map(Way::text).collect()
}
