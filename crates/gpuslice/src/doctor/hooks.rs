//! What keeps libvirt from calling gpuslice's hook, and what other hooks do to VMs with slices.

use super::check::{Check, Finding, Severity};
use super::facts::{Host, Libvirt, OtherHook, Service};
use super::fix::PROGRAM;
use super::system::Boot;
use gpuslice_core::shell::quoted;

/// libvirt reads `qemu.d` since then.
const FIRST_WITH_FOLDER: Libvirt = Libvirt(6, 5, 0);

/// The oldest that gpuslice is made for; README says so.
const FIRST_MEANT: Libvirt = Libvirt(9, 0, 0);

/// It takes an unmanaged function on any driver with a VFIO device since then.
const FIRST_WITH_VENDOR_VFIO: Libvirt = Libvirt(9, 7, 0);

/// All findings.
pub fn check(host: &Host) -> Vec<Finding> {
    if !host.runs_libvirt {
        // Proxmox VE calls a script of its own in the hook's place.
        let refuses = host.proxmox_hook && host.unheard;
        let text =
            "Proxmox VE's hookscript is there, and nobody listens at /run/gpuslice/hook.sock";
        return if refuses { vec![daemon_off(text)] } else { Vec::new() };
    }
    let mut found = Vec::new();
    found.extend(host.libvirt.and_then(|version| libvirt(host, version)));
    found.extend(hook(host));
    found.extend(host.other_hooks.iter().flat_map(|hook| other(hook, Finding::error)));
    // Whoever calls these may look at what they answer, or not.
    found.extend(host.dispatched.iter().flat_map(|hook| other(hook, Finding::warning)));
    found.extend(host.services.iter().filter_map(memlock));
    found
}

fn libvirt(host: &Host, version: Libvirt) -> Option<Finding> {
    let Libvirt(major, minor, micro) = version;
    let typed = host.devices.iter().find(|device| device.typed);
    let stays = typed.map(|vf| format!("VF {} stays on its own driver", vf.address));
    let passed = host.passed_by.first_key_value();
    let stays = stays.or(passed.map(|(gpu, by)| format!("VFs of GPU {gpu} are passed by {by}")));
    let (works, text) = match stays.filter(|_| version < FIRST_WITH_VENDOR_VFIO) {
        _ if version < FIRST_WITH_FOLDER => {
            (false, "it reads no hooks from qemu.d before 6.5".to_owned())
        }
        Some(stays) => (false, format!("{stays}, which it takes from 9.7 on")),
        None if version < FIRST_MEANT => {
            (true, "gpuslice is made for libvirt 9 or newer".to_owned())
        }
        None => return None,
    };
    let text = format!("libvirt is {major}.{minor}.{micro}: {text}");
    let mend = if host.system.bookworm {
        "apt install -t bookworm-backports libvirt-daemon-system, or a newer release of the system"
    } else {
        "install a newer release of the system, or of libvirt"
    };
    Some(match works {
        true => Finding::warning(Check::LibvirtOld, text, mend),
        false => Finding::error(Check::LibvirtOld, text, mend),
    })
}

/// Installed, then executable, then allowed, then seen: the first that fails hides the rest.
fn hook(host: &Host) -> Vec<Finding> {
    let hook = &host.hook;
    if hook.unknown {
        return Vec::new();
    }
    let place = host.system.hook();
    let Some(target) = &hook.target else {
        return vec![missing(host, &place)];
    };
    if !hook.executable {
        let text = format!("{target} may not be executed");
        let mend = format!("chmod 755 {target}; {}", reload(host));
        let found = Finding::error(Check::HookNotExecutable, text, mend);
        return vec![if target == PROGRAM { found.fixable() } else { found }];
    }
    let mut found = Vec::new();
    // libvirt's folders are libvirt's: who made them may want the label that they have.
    let (ours, others): (Vec<&String>, Vec<&String>) =
        host.mislabelled.iter().partition(|path| is_ours(path, &place));
    for (paths, ours) in [(others, false), (ours, true)] {
        let Some(first) = paths.first() else { continue };
        let text = format!("SELinux enforces, and {first} has another label than its policy says");
        let paths: Vec<&str> = paths.iter().map(|path| path.as_str()).collect();
        // A link with another label is, for libvirt, one that was not there when it looked.
        let again = match paths.contains(&place.as_str()) {
            true => format!("; {}", reload(host)),
            false => String::new(),
        };
        let mend = format!("restorecon -v {}{again}", paths.join(" "));
        let finding = Finding::warning(Check::HookLabel, text, mend);
        found.push(if ours { finding.fixable() } else { finding });
    }
    let allowed = ["/etc/libvirt/hooks/", "/usr/bin/", "/usr/sbin/"];
    if host.apparmor && !allowed.iter().any(|folder| target.starts_with(folder)) {
        let text =
            format!("AppArmor enforces a profile for libvirt, which may not execute {target}");
        let mend = format!("ln -sfn {PROGRAM} {place}");
        let finding = Finding::error(Check::HookNotAllowed, text, mend);
        found.push(if hook.installed { finding.fixable() } else { finding });
    }
    let mut unaware = host.services.iter().filter_map(|s| Some((s.unit, not_seen(host, s)?)));
    if let Some((unit, severity)) = unaware.next() {
        let text = format!("{unit} was last started or reloaded before the hook was there");
        let finding = Finding::error(Check::HookNotSeen, text, format!("systemctl reload {unit}"));
        found.push(Finding { severity, ..finding }.fixable());
    }
    if host.unheard {
        let text = "the hook is there, and nobody listens at /run/gpuslice/hook.sock";
        found.push(daemon_off(text));
    }
    found
}

fn daemon_off(text: &str) -> Finding {
    let mend = "systemctl enable --now gpusliced.socket gpusliced.service";
    Finding::error(Check::DaemonOff, text, mend)
}

/// Whether a file on libvirt's way to the hook is gpuslice's: the link, and what packages install.
pub fn is_ours(path: &str, link: &str) -> bool {
    path == link || path == PROGRAM
}

fn missing(host: &Host, place: &str) -> Finding {
    let text = match host.hook.present {
        true => format!("{place} leads nowhere"),
        false => format!("{place} is not there"),
    };
    if host.system.boot == Boot::Nix {
        // What is linked by hand there, the next boot takes away.
        let mend = format!(
            "add virtualisation.libvirtd.hooks.qemu.\"10-gpuslice\" = \"{PROGRAM}\"; to /etc/nixos/configuration.nix; nixos-rebuild switch; systemctl restart libvirtd-config; {}",
            reload(host)
        );
        return Finding::error(Check::HookMissing, text, mend);
    }
    if !host.hook.installed {
        let mend = format!("install gpuslice again (integration/install); {}", reload(host));
        return Finding::error(Check::HookMissing, text, mend);
    }
    let folder = match host.hook.no_folder {
        true => format!("mkdir -p {}/qemu.d; ", host.system.hooks()),
        false => String::new(),
    };
    let mend = format!("{folder}ln -sfn {PROGRAM} {place}; {}", reload(host));
    Finding::error(Check::HookMissing, text, mend).fixable()
}

/// Whether a daemon knows of no hook, and how certain that is. It looks whether there is any; if so, it reads the folder at each
/// call. Of one that was changed since it cannot be told whether it was there.
pub fn not_seen(host: &Host, service: &Service) -> Option<Severity> {
    let (looked, made) = service.looked_at.zip(host.hook.made_at)?;
    let there = |hook: &OtherHook| hook.made_at.is_some_and(|made| made <= looked);
    if made <= looked || host.other_hooks.iter().any(there) {
        return None;
    }
    Some(if host.other_hooks.is_empty() { Severity::Error } else { Severity::Warning })
}

fn reload(host: &Host) -> String {
    let unit = host.services.first().map_or("libvirtd", |service| service.unit);
    format!("systemctl reload {unit}")
}

/// Every hook is called for every VM, and one that fails refuses the start.
fn other(hook: &OtherHook, broken: fn(Check, String, String) -> Finding) -> Vec<Finding> {
    let file = &hook.file;
    let mut found = Vec::new();
    if let Some(lacks) = &hook.lacks {
        let (text, mend) = match lacks.strip_suffix('\r') {
            Some(_) => (
                format!("the hook {file} has lines that end as on Windows"),
                format!("sed -i 's/\\r$//' {}", quoted(file)),
            ),
            None => (
                format!("the hook {file} is to be run by {lacks}, which is not there"),
                format!("write the path of a shell that is there into the first line of {file}"),
            ),
        };
        found.push(broken(Check::HookBroken, text, mend));
    }
    if hook.text.contains("virsh ") {
        let text = format!("the hook {file} calls virsh, which waits for the hook");
        let mend = format!("take the calls of virsh out of {file}");
        found.push(Finding::warning(Check::HookCallsVirsh, text, mend));
    }
    found
}

fn memlock(service: &Service) -> Option<Finding> {
    let limit = service.memlock?;
    let unit = service.unit;
    let text = format!("{unit} may lock {} MiB for a VM and not raise that", limit >> 20);
    let mend = if service.mapped {
        "give this container the limit from outside and start it anew: limits.kernel.memlock=unlimited with Incus, --ulimit memlock=-1 with podman and docker".to_owned()
    } else {
        format!("systemctl edit {unit}: [Service] LimitMEMLOCK=infinity; systemctl restart {unit}")
    };
    Some(Finding::error(Check::MemlockLow, text, mend))
}
