//! What kind of system a host is: where its libvirt keeps things, and the words by which a person changes how it boots.

use super::tree::Tree;

/// What sets the kernel's arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Boot {
    /// /etc/default/grub and `update-grub`, as Debian has it.
    #[default]
    Grub,
    /// The same file and `grub-mkconfig`.
    GrubMkconfig,
    /// `grubby`, as Fedora and its kin have it.
    Grubby,
    /// /etc/kernel/cmdline and `proxmox-boot-tool`, where Proxmox VE boots by systemd-boot.
    Proxmox,
    /// The configuration of NixOS.
    Nix,
}

/// A host's kind.
#[derive(Debug, Clone, Default)]
pub struct System {
    /// What sets the kernel's arguments.
    pub boot: Boot,
    /// What makes the initramfs anew; empty where booting anew does.
    initramfs: &'static str,
    /// Words that GRUB is told to give to the kernel: each with its variable, and the variable's file.
    grub: Vec<(String, String)>,
}

/// Where GRUB's own tool reads what the kernel is to be given, beside a folder of the kind.
const GRUB: &str = "/etc/default/grub";

/// The variables that may have it.
const GRUB_VARIABLES: [&str; 2] = ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"];

impl System {
    /// By the tools that are there.
    pub fn of(tree: &Tree) -> Self {
        let has = |name: &str| {
            ["/usr/sbin/", "/usr/bin/"].iter().any(|folder| tree.exists(&format!("{folder}{name}")))
        };
        let boot = if tree.exists("/etc/NIXOS") {
            Boot::Nix
        } else if tree.exists("/etc/kernel/cmdline") && has("proxmox-boot-tool") {
            Boot::Proxmox
        } else if has("grubby") {
            Boot::Grubby
        } else if has("grub-mkconfig") && !has("update-grub") {
            Boot::GrubMkconfig
        } else {
            Boot::Grub
        };
        let initramfs = match boot {
            Boot::Nix => "",
            _ if has("update-initramfs") => "update-initramfs -u; ",
            _ if has("mkinitcpio") => "mkinitcpio -P; ",
            _ if has("dracut") => "dracut --force; ",
            _ => "update-initramfs -u; ",
        };
        Self { boot, initramfs, grub: grub(tree) }
    }

    /// Where libvirt looks for hooks. NixOS builds it with /var/lib in place of /etc.
    pub fn hooks(&self) -> &'static str {
        if self.boot == Boot::Nix { "/var/lib/libvirt/hooks" } else { "/etc/libvirt/hooks" }
    }

    /// Where libvirt keeps domains.
    pub fn domains(&self) -> &'static str {
        if self.boot == Boot::Nix { "/var/lib/libvirt/qemu" } else { "/etc/libvirt/qemu" }
    }

    /// The hook's link.
    pub fn hook(&self) -> String {
        format!("{}/qemu.d/10-gpuslice", self.hooks())
    }

    /// How an argument comes to the kernel.
    pub fn add_argument(&self, argument: &str) -> String {
        match self.boot {
            Boot::Grubby => format!("grubby --update-kernel=ALL --args={argument}; reboot"),
            _ => format!("add {argument} to {}; reboot", self.arguments("")),
        }
    }

    /// How an argument is taken from it.
    pub fn take_argument(&self, argument: &str) -> String {
        match self.boot {
            Boot::Grubby => format!("grubby --update-kernel=ALL --remove-args={argument}; reboot"),
            _ => format!("take {argument} out of {}; reboot", self.arguments(argument)),
        }
    }

    /// How one of the values goes that an argument has, with commas between them.
    pub fn take_from_argument(&self, argument: &str, value: &str) -> String {
        let (name, values) = argument.split_once('=').unwrap_or((argument, ""));
        let is_it = |one: &&str| one.to_ascii_lowercase().starts_with(value);
        let rest: Vec<&str> = values.split(',').filter(|one| !is_it(one)).collect();
        if rest.is_empty() {
            return self.take_argument(argument);
        }
        let rest = rest.join(",");
        match self.boot {
            Boot::Grubby => format!(
                "grubby --update-kernel=ALL --remove-args={argument} --args={name}={rest}; reboot"
            ),
            _ => format!("take {value} out of {name} in {}; reboot", self.arguments(argument)),
        }
    }

    /// Where the kernel's arguments are written, and what brings them to where it boots from: for one that is there, or for a
    /// new one.
    fn arguments(&self, argument: &str) -> String {
        let tool = match self.boot {
            Boot::Grub | Boot::Grubby => "update-grub",
            Boot::GrubMkconfig => "grub-mkconfig -o /boot/grub/grub.cfg",
            Boot::Proxmox => return "/etc/kernel/cmdline; proxmox-boot-tool refresh".to_owned(),
            Boot::Nix => {
                return "boot.kernelParams in /etc/nixos/configuration.nix; nixos-rebuild boot"
                    .to_owned();
            }
        };
        let [always, usual] = GRUB_VARIABLES;
        match self.grub.iter().find(|(word, _)| word == argument) {
            Some((_, place)) => format!("{place}; {tool}"),
            None if argument.is_empty() => format!("{always} in {GRUB}; {tool}"),
            None => format!("{always} or {usual} in {GRUB}; {tool}"),
        }
    }

    /// How the headers of a kernel come, which DKMS builds with.
    pub fn headers(&self, kernel: &str) -> String {
        let older = |parts: Vec<&str>| match parts.as_slice() {
            [major, minor, ..] => {
                (major.parse().ok(), minor.parse().ok()) < (Some(6_u32), Some(5_u32))
            }
            _ => false,
        };
        match self.boot {
            Boot::Grubby => format!("dnf install kernel-devel-{kernel}"),
            Boot::GrubMkconfig => "pacman -S linux-headers".to_owned(),
            // Proxmox VE's packages took its own name with kernel 6.5.
            _ if kernel.ends_with("-pve") && older(kernel.split(['.', '-']).collect()) => {
                format!("apt install pve-headers-{kernel}")
            }
            _ if kernel.ends_with("-pve") => format!("apt install proxmox-headers-{kernel}"),
            _ => format!("apt install linux-headers-{kernel}"),
        }
    }

    /// How what is told to modprobe holds from the next boot on.
    pub fn at_next_boot(&self) -> String {
        format!("{}reboot", self.initramfs)
    }
}

/// What is written in GRUB's files, word by word.
fn grub(tree: &Tree) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in [GRUB.to_owned()].into_iter().chain(tree.files("/etc/default/grub.d", ".cfg")) {
        for line in tree.text(&file).unwrap_or_default().lines() {
            let Some((variable, value)) = line.trim_start().split_once('=') else { continue };
            if GRUB_VARIABLES.contains(&variable) {
                let words = value.split([' ', '\t', '"', '\'']).filter(|word| !word.is_empty());
                let place = format!("{variable} in {file}");
                found.extend(words.map(|word| (word.to_owned(), place.clone())));
            }
        }
    }
    found
}
