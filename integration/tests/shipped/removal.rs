//! What a package's scripts leave on a host, and that nothing an administrator did keeps them from their end: dpkg would
//! leave the package half there.

use super::links::{runs, runs_with};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;

const HOOKS: &str = "etc/libvirt/hooks/qemu.d";

#[track_caller]
fn ends_well(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn put(host: &Path, file: &str) {
    let file = host.join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "").unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    found
}

/// The hook's link is taken out of the folder that is really there.
#[track_caller]
fn link_goes(host: &Path, hooks: &Path) {
    symlink("/usr/sbin/gpuslice-qemu-hook", hooks.join("10-gpuslice")).unwrap();
    assert_eq!(ends_well(&runs("gpuslice", "prerm", &["remove"], host)), "");
    assert!(!hooks.join("10-gpuslice").is_symlink());
}

#[test]
fn libvirt_s_hook_goes_and_an_empty_folder_with_it() {
    let host = tempfile::tempdir().unwrap();
    let hooks = host.path().join(HOOKS);
    fs::create_dir_all(&hooks).unwrap();
    link_goes(host.path(), &hooks);
    assert!(!hooks.exists());
}

#[test]
fn libvirt_s_hook_goes_also_from_a_folder_that_stays() {
    let host = tempfile::tempdir().unwrap();
    let (hooks, elsewhere) = (host.path().join(HOOKS), host.path().join("srv/hooks"));
    put(host.path(), "etc/libvirt/hooks/qemu.d/50-theirs");
    link_goes(host.path(), &hooks);
    assert_eq!(names(&hooks), ["50-theirs"]);

    fs::remove_dir_all(&hooks).unwrap();
    fs::create_dir_all(&elsewhere).unwrap();
    symlink(&elsewhere, &hooks).unwrap();
    link_goes(host.path(), &elsewhere);
    assert!(hooks.is_symlink() && elsewhere.exists());
}

/// VMs that are off start as ever, also when the daemon cannot be asked which VFs they have.
#[test]
fn vfs_of_vms_that_are_off_are_given_to_vfio_with_the_daemon_gone() {
    let host = tempfile::tempdir().unwrap();
    let pci = host.path().join("sys/bus/pci");
    let [home, other] = ["0000:41:02.1", "0000:41:02.2"].map(|vf| pci.join("devices").join(vf));
    for vf in [&home, &other] {
        fs::create_dir_all(vf.join("physfn")).unwrap();
    }
    fs::create_dir_all(host.path().join("run/systemd/system")).unwrap();
    fs::create_dir_all(host.path().join("var/lib/gpuslice")).unwrap();
    let claims = "{\"claims\": [{\"home\": [\n \"0000:41:02.1\"\n]}, {\"home\": []}]}";
    fs::write(host.path().join("var/lib/gpuslice/claims.json"), claims).unwrap();
    let programs = host.path().join("programs");
    fs::create_dir(&programs).unwrap();
    for (program, status) in
        [("gpuslice", 3), ("modprobe", 0), ("systemctl", 1), ("deb-systemd-invoke", 0)]
    {
        let program = programs.join(program);
        fs::write(&program, format!("#!/bin/sh\nexit {status}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    ends_well(&runs_with(&programs, "gpuslice", "prerm", &["remove"], host.path()));
    let given = |vf: &Path| fs::read_to_string(vf.join("driver_override")).ok();
    assert_eq!((given(&home).as_deref(), given(&other)), (Some("vfio-pci\n"), None));
    assert_eq!(fs::read_to_string(pci.join("drivers_probe")).unwrap(), "0000:41:02.1\n");
}

#[test]
fn a_purge_leaves_nothing_of_what_was_written() {
    let host = tempfile::tempdir().unwrap();
    let options = "etc/modprobe.d/gpuslice-nvidia.conf";
    for file in [
        options,
        "etc/modprobe.d/.gpuslice-nvidia.conf.new",
        "etc/modprobe.d/nvidia.conf",
        "etc/gpuslice/gpuslice.toml",
        "var/lib/gpuslice/durable.json",
        "run/gpuslice/state/runtime.json",
    ] {
        put(host.path(), file);
    }
    let said = ends_well(&runs("gpuslice", "postrm", &["purge"], host.path()));
    assert_eq!(names(&host.path().join("etc/modprobe.d")), ["nvidia.conf"]);
    for folder in ["etc/gpuslice", "var/lib/gpuslice", "run/gpuslice"] {
        assert!(!host.path().join(folder).exists(), "{folder}");
    }
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("initramfs")).collect();
    let [line] = lines[..] else { panic!("{said}") };
    assert!(line.contains(options), "{line}");
    // Where nothing was there is nothing to say.
    let said = ends_well(&runs("gpuslice", "postrm", &["purge"], host.path()));
    assert!(!said.contains("initramfs"), "{said}");
}
