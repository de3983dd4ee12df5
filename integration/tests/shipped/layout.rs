//! Which file is in which package, and what a host looks like on which all are installed.

use super::{programs, read, shipped, units, words};
use gpuslice_integration::{files, root};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything below a folder: modes and contents of files, modes of folders, targets of links.
fn tree(top: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                folders.push(path.clone());
                String::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                fs::read_to_string(&path).unwrap()
            };
            let mode = if meta.is_symlink() { 0 } else { meta.permissions().mode() & 0o7777 };
            let below = Path::new("/").join(path.strip_prefix(top).unwrap());
            found.insert(below, (mode, content));
        }
    }
    found
}

/// Where `integration/release-programs` leaves them.
const BUILT: &str = "x86_64-unknown-linux-gnu/release";

/// Stand-ins for what cargo builds, each of which can say what it is; `gpuslice` also writes its pages.
pub fn built(target: &Path) {
    for (program, text) in [
        ("gpusliced", "gpusliced"),
        (
            "gpuslice",
            "#!/bin/sh\nif [ \"$1\" = man ]; then echo page > \"$2/gpuslice.1\"; else echo \"$*\"; fi\n",
        ),
        ("gpuslice-libvirt-agent", "gpuslice-libvirt-agent"),
        ("gpuslice-qemu-hook", "gpuslice-qemu-hook"),
        ("gpuslice-proxmox-hook", "gpuslice-proxmox-hook"),
    ] {
        let to = target.join(BUILT).join(program);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, text).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Lays out a host as `integration/install --root` does, or packages, for somebody whose own files are private.
pub fn stage(target: &Path, dest: &Path, packages: &[&str]) -> std::process::Output {
    Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" \"$@\""])
        .arg(root().join("integration/layout"))
        .arg(dest)
        .args(packages)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap()
}

#[test]
fn a_host_is_laid_out_as_the_files_say() {
    let (target, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    built(target.path());
    // A folder the host has keeps the mode it has.
    let private = dest.path().join("etc");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o711)).unwrap();
    let before = fs::metadata(dest.path()).unwrap().permissions();
    let out = stage(target.path(), dest.path(), &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(fs::metadata(dest.path()).unwrap().permissions(), before);

    let mut want = BTreeMap::new();
    for (to, from) in shipped() {
        want.insert(to, (0o644, read(&from)));
    }
    let document = read(Path::new("crates/gpuslice/JSON.md"));
    want.insert("/usr/share/doc/gpuslice/JSON.md".into(), (0o644, document));
    for program in programs() {
        let name = program.rsplit('/').next().unwrap();
        let from = target.path().join(BUILT).join(name);
        want.insert(program.into(), (0o755, fs::read_to_string(from).unwrap()));
    }
    let hook = "/usr/sbin/gpuslice-qemu-hook".to_owned();
    want.insert("/etc/libvirt/hooks/qemu.d/10-gpuslice".into(), (0, hook));
    for (name, text) in units() {
        for by in words(&text, "WantedBy") {
            let link = format!("/etc/systemd/system/{by}.wants/{name}");
            want.insert(link.into(), (0, format!("/usr/lib/systemd/system/{name}")));
        }
    }
    for (to, text) in [
        ("man/man1/gpuslice.1", "page\n"),
        ("bash-completion/completions/gpuslice", "completions bash\n"),
        ("zsh/vendor-completions/_gpuslice", "completions zsh\n"),
        ("fish/vendor_completions.d/gpuslice.fish", "completions fish\n"),
    ] {
        want.insert(Path::new("/usr/share").join(to), (0o644, text.to_owned()));
    }
    let mut folders: BTreeSet<PathBuf> =
        want.keys().flat_map(|path| path.ancestors().skip(1).map(Path::to_owned)).collect();
    folders.extend(["/etc/gpuslice", "/etc/gpuslice/conf.d"].map(PathBuf::from));
    folders.remove(Path::new("/"));
    for folder in folders {
        let mode = if folder == Path::new("/etc") { 0o711 } else { 0o755 };
        want.insert(folder, (mode, String::new()));
    }
    let first = tree(dest.path());
    assert_eq!(first, want);

    let out = stage(target.path(), dest.path(), &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(tree(dest.path()), first, "a second time changes nothing");
}

/// Folders of `integration/packaging`.
fn packages() -> Vec<String> {
    let mut found = BTreeSet::new();
    for path in files() {
        let Ok(below) = path.strip_prefix("integration/packaging") else { continue };
        if below.iter().count() > 1 {
            found.insert(below.iter().next().unwrap().to_str().unwrap().to_owned());
        }
    }
    assert!(found.len() >= 3, "{found:?}");
    found.into_iter().collect()
}

#[test]
fn each_file_is_in_one_package_and_links_are_in_none() {
    let target = tempfile::tempdir().unwrap();
    built(target.path());
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    assert!(stage(target.path(), &whole, &[]).status.success());
    let no_folders = |top: &Path| -> BTreeMap<PathBuf, (u32, String)> {
        tree(top)
            .into_iter()
            .filter(|(path, _)| !top.join(path.strip_prefix("/").unwrap()).is_dir())
            .collect()
    };
    let mut parts = BTreeMap::new();
    for package in packages() {
        let dest = folder.path().join(&package);
        let out = stage(target.path(), &dest, &[&package]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        for (path, file) in no_folders(&dest) {
            assert_eq!(parts.insert(path.clone(), file), None, "{} twice", path.display());
        }
    }
    let links = |path: &PathBuf, (mode, _): &mut (u32, String)| {
        let made_by_scripts = path.starts_with("/etc");
        assert_eq!(*mode == 0, made_by_scripts, "{}", path.display());
        !made_by_scripts
    };
    let mut want = no_folders(&whole);
    want.retain(links);
    assert_eq!(parts, want);
    let out = stage(target.path(), &folder.path().join("other"), &["other"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(!folder.path().join("other").exists());
}

/// What a package's scripts say of a unit is said of each of its units, and of no other.
#[test]
fn the_packages_scripts_know_every_unit() {
    let mut named = BTreeSet::new();
    for package in packages() {
        for script in ["postinst", "prerm", "postrm"] {
            let path = Path::new("integration/packaging").join(&package).join(script);
            if !root().join(&path).exists() {
                continue;
            }
            let text = read(&path);
            assert!(!text.contains("restart libvirtd") && !text.contains("restart virtqemud"));
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c))) {
                if word.starts_with("gpuslice")
                    && (word.ends_with(".service") || word.ends_with(".socket"))
                {
                    named.insert((script, word.to_owned()));
                }
            }
        }
    }
    let want: BTreeSet<_> = units()
        .into_iter()
        .flat_map(|(name, _)| ["postinst", "postrm"].map(|script| (script, name.clone())))
        .collect();
    let prerm: BTreeSet<_> = units().into_iter().map(|(name, _)| ("prerm", name)).collect();
    assert_eq!(named, want.union(&prerm).cloned().collect());
}

#[test]
fn half_of_a_build_is_not_laid_out() {
    let (target, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    built(target.path());
    let missing =
        ["gpusliced", "gpuslice-qemu-hook"].map(|program| target.path().join(BUILT).join(program));
    for program in &missing {
        fs::remove_file(program).unwrap();
    }
    let out = stage(target.path(), dest.path(), &[]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr);
    for program in &missing {
        assert!(said.contains(&format!("missing: {}\n", program.display())), "{said}");
    }
    assert!(said.contains("build first: integration/release-programs"), "{said}");
    assert_eq!(tree(dest.path()), BTreeMap::new());
}
