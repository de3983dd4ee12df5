//! What kind of system a host is: where its libvirt keeps things, and the words by which a person changes how it boots.

use super::tree::Tree;
use gpuslice_core::shell::quoted;

/// What sets the kernel's arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Boot {
    /// /etc/default/grub and `update-grub`, as Debian has it.
    #[default]
    Grub,
    /// The same file and `grub-mkconfig`.
    GrubMkconfig,
    /// The same under the names that openSUSE has.
    Grub2Mkconfig,
    /// `grubby`, as Fedora and its kin have it.
    Grubby,
    /// `rpm-ostree`, where the system is an image of Fedora's.
    Ostree,
    /// /etc/kernel/cmdline and `proxmox-boot-tool`, where Proxmox VE boots by systemd-boot.
    Proxmox,
    /// /etc/kernel/cmdline and `kernel-install`, where another system boots by systemd-boot.
    KernelInstall,
    /// The entries of systemd-boot themselves.
    Entries,
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
    /// `uname -r`.
    kernel: String,
    /// It is Debian 12.
    pub bookworm: bool,
}

/// What the tools are told that change the kernel's arguments by themselves.
struct Tools {
    grubby: String,
    ostree: String,
}

/// What started the kernel says so here, after the variable's attributes and in UTF-16 (systemd's Boot Loader Interface).
/// systemd-boot always does, GRUB in some systems.
const LOADER: &str = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Where the kernel's arguments are for systemd-boot.
const CMDLINE: &str = "/etc/kernel/cmdline";

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
        let loader = tree.text(LOADER).unwrap_or_default().replace('\0', "");
        let systemd_boot = loader.contains("systemd-boot");
        let has_cmdline = tree.exists(CMDLINE);
        let boot = if tree.exists("/etc/NIXOS") {
            Boot::Nix
        } else if has("rpm-ostree") && tree.exists("/run/ostree-booted") {
            Boot::Ostree
        // On ZFS it boots by GRUB too: without EFI, and with Secure Boot.
        } else if systemd_boot && has_cmdline && has("proxmox-boot-tool") {
            Boot::Proxmox
        } else if has("grubby") {
            Boot::Grubby
        } else if systemd_boot && has_cmdline && has("kernel-install") {
            Boot::KernelInstall
        } else if systemd_boot {
            Boot::Entries
        } else if has("update-grub") {
            Boot::Grub
        } else if has("grub2-mkconfig") {
            Boot::Grub2Mkconfig
        } else if has("grub-mkconfig") {
            Boot::GrubMkconfig
        } else {
            Boot::Grub
        };
        let initramfs = match boot {
            Boot::Nix | Boot::Ostree => "",
            // Not the newest kernel's alone: another may be pinned.
            _ if has("update-initramfs") => "update-initramfs -u -k all; ",
            _ if has("mkinitcpio") => "mkinitcpio -P; ",
            _ if has("dracut") => "dracut --force; ",
            _ => "update-initramfs -u -k all; ",
        };
        let release = tree.text("/etc/os-release").unwrap_or_default();
        let bookworm = release.lines().any(|line| line == "VERSION_CODENAME=bookworm");
        let kernel = tree.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self { boot, initramfs, grub: grub(tree), kernel, bookworm }
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
        let each = argument.split(' ').map(|one| format!(" --append={one}"));
        let tools =
            Tools { grubby: format!(" --args={}", quoted(argument)), ostree: each.collect() };
        self.changed("", &tools, |place| format!("add {argument} to {place}"))
    }

    /// How an argument is taken from it.
    pub fn take_argument(&self, argument: &str) -> String {
        let tools = Tools {
            grubby: format!(" --remove-args={argument}"),
            ostree: format!(" --delete={argument}"),
        };
        self.changed(argument, &tools, |place| format!("take {argument} out of {place}"))
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
        let tools = Tools {
            grubby: format!(" --remove-args={argument} --args={name}={rest}"),
            ostree: format!(" --delete={argument} --append={name}={rest}"),
        };
        self.changed(argument, &tools, |place| format!("take {value} out of {name} in {place}"))
    }

    /// How the kernel's arguments are changed: by a tool that does it, or by an edit of where they are written. It is about one
    /// that is there, or about a new one.
    fn changed(&self, argument: &str, by: &Tools, edit: impl Fn(&str) -> String) -> String {
        let in_grub = |tool: &str| {
            let [always, usual] = GRUB_VARIABLES;
            match self.grub.iter().find(|(word, _)| word == argument) {
                Some((_, place)) => format!("{place}; {tool}"),
                None if argument.is_empty() => format!("{always} in {GRUB}; {tool}"),
                None => format!("{always} or {usual} in {GRUB}; {tool}"),
            }
        };
        let change = match self.boot {
            Boot::Grubby => format!("grubby --update-kernel=ALL{}", by.grubby),
            Boot::Ostree => format!("rpm-ostree kargs{}", by.ostree),
            Boot::Grub => edit(&in_grub("update-grub")),
            Boot::Grub2Mkconfig => edit(&in_grub("grub2-mkconfig -o /boot/grub2/grub.cfg")),
            Boot::GrubMkconfig => edit(&in_grub("grub-mkconfig -o /boot/grub/grub.cfg")),
            Boot::Proxmox => edit(&format!("{CMDLINE}; proxmox-boot-tool refresh")),
            Boot::KernelInstall => {
                let kernel = &self.kernel;
                edit(&format!("{CMDLINE}; kernel-install add {kernel} /boot/vmlinuz-{kernel}"))
            }
            Boot::Entries => edit("the line options of the entry's file, which bootctl list names"),
            Boot::Nix => {
                edit("boot.kernelParams in /etc/nixos/configuration.nix; nixos-rebuild boot")
            }
        };
        format!("{change}; reboot")
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
            Boot::Ostree => format!("rpm-ostree install kernel-devel-{kernel}"),
            Boot::Grub2Mkconfig => "zypper install kernel-default-devel".to_owned(),
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
