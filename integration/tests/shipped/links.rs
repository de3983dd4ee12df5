//! Links that a package's script makes after the files, and `integration/layout` where there are no packages. What an
//! administrator has put in their place is his, at an installation and at each upgrade.

use super::layout::{built, stage};
use gpuslice_integration::root;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HOOK: &str = "etc/libvirt/hooks/qemu.d/10-gpuslice";
const SNIPPET: &str = "var/lib/vz/snippets/gpuslice-proxmox-hook";

/// Runs a script of a package as dpkg does for a host below a folder.
pub fn runs(package: &str, script: &str, arguments: &[&str], host: &Path) -> Output {
    run(package, script, arguments, host).output().unwrap()
}

/// The same with programs of a folder in the place of those of their names.
pub fn runs_with(
    programs: &Path,
    package: &str,
    script: &str,
    arguments: &[&str],
    host: &Path,
) -> Output {
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    run(package, script, arguments, host).env("PATH", path).output().unwrap()
}

fn run(package: &str, script: &str, arguments: &[&str], host: &Path) -> Command {
    let script = root().join("integration/packaging").join(package).join(script);
    let mut run = Command::new("sh");
    run.arg(script).args(arguments).env("DPKG_ROOT", host);
    run
}

/// At an upgrade from a version or the first time.
fn configures(package: &str, host: &Path, from: &str) -> Output {
    runs(package, "postinst", &["configure", from], host)
}

/// What makes the link at `place` to `program` does so, and again, and leaves there what leads elsewhere.
#[track_caller]
fn makes_what_is_not_there(place: &str, program: &str, make: impl Fn(&Path) -> Output) {
    let told = |host: &Path| {
        let output = make(host);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said.lines().filter(|line| line.contains(place)).map(str::to_owned).collect::<Vec<_>>()
    };
    let host = tempfile::tempdir().unwrap();
    let link = host.path().join(place);
    for _ in 0..2 {
        assert_eq!(told(host.path()), Vec::<String>::new());
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(program));
    }
    let mends = format!("then: ln -s {program} {}", link.display());
    let is_told = |told: &[String]| matches!(told, [line] if line.ends_with(&mends));

    fs::remove_file(&link).unwrap();
    fs::write(&link, "#!/bin/sh\n# theirs\n").unwrap();
    let said = told(host.path());
    assert!(is_told(&said), "{said:?}");
    assert_eq!(fs::read_to_string(&link).unwrap(), "#!/bin/sh\n# theirs\n");
    for elsewhere in [PathBuf::from("/usr/local/sbin/theirs"), host.path().to_owned()] {
        fs::remove_file(&link).unwrap();
        symlink(&elsewhere, &link).unwrap();
        let said = told(host.path());
        assert!(is_told(&said), "{said:?}");
        assert_eq!(fs::read_link(&link).unwrap(), elsewhere);
    }
}

#[test]
fn libvirt_s_hook_of_the_package() {
    for from in ["", "0.0-1"] {
        let make = |host: &Path| configures("gpuslice", host, from);
        makes_what_is_not_there(HOOK, "/usr/sbin/gpuslice-qemu-hook", make);
    }
}

#[test]
fn the_hookscript_of_proxmox() {
    for from in ["", "0.0-1"] {
        let make = |host: &Path| configures("gpuslice-proxmox", host, from);
        makes_what_is_not_there(SNIPPET, "/usr/sbin/gpuslice-proxmox-hook", make);
    }
}

#[test]
fn libvirt_s_hook_where_there_are_no_packages() {
    let target = tempfile::tempdir().unwrap();
    built(target.path());
    let make = |host: &Path| stage(target.path(), host, &[]);
    makes_what_is_not_there(HOOK, "/usr/sbin/gpuslice-qemu-hook", make);
}
