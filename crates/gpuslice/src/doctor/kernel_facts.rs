//! The facts of a host's kernel: what it was told, which modules it has, whether VMs run on its processor.

use super::facts::Kvm;
use super::tree::Tree;

/// Folders of modprobe's files.
pub const MODPROBE: [&str; 3] = ["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d"];

/// The word that a kernel was not to draw on screens by its drivers, which keeps i915 and xe from their GPUs.
pub const NO_MODESET: &str = "nomodeset";

/// Whether a word stands among the processor's flags.
pub fn has_flag(tree: &Tree, words: &[&str]) -> bool {
    let text = tree.text("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags"));
    flags.unwrap_or_default().split_whitespace().any(|flag| words.contains(&flag))
}

/// Whether VFIO was told to pass devices whose interrupts are not kept apart. Loaded, it says so itself; before, what it will
/// be loaded with.
pub fn unsafe_interrupts(tree: &Tree, arguments: &[String]) -> bool {
    let says = tree.text("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
    if let Some(says) = says {
        return says == "Y";
    }
    // A switch of a module without a value is on (kernel/params.c, param_set_bool).
    let on = |word: &str| {
        let to = word.strip_prefix("allow_unsafe_interrupts");
        to.is_some_and(|to| matches!(to, "" | "=1" | "=y" | "=Y" | "=on"))
    };
    let is_its = |module: &str| module.replace('-', "_") == "vfio_iommu_type1";
    let argued = arguments.iter().any(|argument| {
        argument.split_once('.').is_some_and(|(module, word)| is_its(module) && on(word))
    });
    let files = MODPROBE.iter().flat_map(|folder| tree.files(folder, ".conf"));
    let mut texts = files.filter_map(|file| tree.text(&file));
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("options") && words.next().is_some_and(is_its) && words.any(on)
    };
    argued || texts.any(|text| text.lines().any(line))
}

/// What modprobe's files give to a module when it is loaded, word by word, each with its file.
pub fn options(tree: &Tree, module: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in MODPROBE.iter().flat_map(|folder| tree.files(folder, ".conf")) {
        for line in tree.text(&file).unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("options") && words.next() == Some(module) {
                found.extend(words.map(|word| (word.to_owned(), file.clone())));
            }
        }
    }
    found
}

/// What says that a system is a container (systemd's container interface, Docker's and Podman's own).
const CONTAINER: [&str; 3] = ["/run/systemd/container", "/.dockerenv", "/run/.containerenv"];

/// Whether a system is one.
pub fn in_container(tree: &Tree) -> bool {
    CONTAINER.iter().any(|path| tree.exists(path))
}

/// Whether /dev/kvm is there for who runs QEMU: libvirt runs it as a user of its own, Proxmox VE as root.
pub fn kvm(tree: &Tree, libvirt: bool) -> Kvm {
    const NODE: &str = "/dev/kvm";
    if tree.absent(NODE) {
        let loaded = ["kvm_intel", "kvm_amd"].into_iter();
        let virtualizes = has_flag(tree, &["vmx", "svm"]);
        let mut loaded = loaded.map(|name| format!("/sys/module/{name}"));
        let loaded = loaded.any(|path| tree.exists(&path));
        if virtualizes && loaded {
            return Kvm::NoNode { container: in_container(tree) };
        }
        return Kvm::Absent { virtualizes };
    }
    let closed = tree.mode(NODE).is_some_and(|mode| mode & 0o022 == 0);
    if closed && libvirt && !runs_as_root(tree) { Kvm::Closed } else { Kvm::Ready }
}

/// Whether libvirt's qemu.conf has QEMU run as root, or may not be read.
fn runs_as_root(tree: &Tree) -> bool {
    const FILE: &str = "/etc/libvirt/qemu.conf";
    let Some(text) = tree.text(FILE) else { return !tree.absent(FILE) };
    text.lines().any(|line| {
        let mut words = line.split(['=', ' ', '"']).filter(|word| !word.is_empty());
        words.next() == Some("user") && matches!(words.next(), Some("root" | "+0" | "0"))
    })
}

/// The running kernel, when its modules were removed. Other kernels' have to be there: a container has none at all.
pub fn modules_gone(tree: &Tree) -> Option<String> {
    let kernel = tree.text("/proc/sys/kernel/osrelease").filter(|kernel| !kernel.is_empty())?;
    let gone =
        !tree.names("/lib/modules").is_empty() && tree.absent(&format!("/lib/modules/{kernel}"));
    gone.then_some(kernel)
}

/// Modules that are not to be loaded, and where that is said.
pub fn switched_off(tree: &Tree, arguments: &[String]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for argument in arguments {
        let lists = ["modprobe.blacklist=", "module_blacklist=", "rd.driver.blacklist="];
        let list = lists.iter().find_map(|lead| argument.strip_prefix(lead)).unwrap_or_default();
        let names = list.split(',').filter(|name| !name.is_empty());
        found.extend(names.map(|name| (name.replace('-', "_"), argument.clone())));
    }
    for file in MODPROBE.iter().flat_map(|folder| tree.files(folder, ".conf")) {
        for line in tree.text(&file).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = match words.as_slice() {
                ["blacklist", name] => name,
                [
                    "install",
                    name,
                    "/bin/false" | "/bin/true" | "/usr/bin/false" | "/usr/bin/true",
                ] => name,
                _ => continue,
            };
            found.push((name.replace('-', "_"), file.clone()));
        }
    }
    found
}
