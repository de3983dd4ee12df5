//! Loading and unloading kernel modules. Dependencies, options and aliases are modprobe's to know (modprobe.d(5)), so it is run,
//! by absolute path and with an empty environment.

use super::{SysHost, tool};
use crate::errno;
use gpuslice_core::errno::Errno;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::time::Duration;

/// Where distributions put it; never `$PATH`.
const MODPROBE: [&str; 2] = ["/usr/sbin/modprobe", "/sbin/modprobe"];

/// A module that has no devices of its own is there in no time. A driver that has some may initialise all of them first, minutes
/// for eight; whoever loads one calls from a process of its own and has a time for that.
pub(super) const DEADLINE: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 120 });

pub(super) fn load(host: &SysHost, name: &str, deadline: Duration) -> Result<(), Errno> {
    if loaded(host, name)? {
        return Ok(());
    }
    modprobe(host, &[name], deadline)
}

pub(super) fn unload(host: &SysHost, name: &str) -> Result<(), Errno> {
    if !loaded(host, name)? {
        return Err(Errno::ENOENT);
    }
    // A driver may wait for its devices for ever, and nothing ends it while it does.
    modprobe(host, &["-r", name], tool::NEVER)
}

fn loaded(host: &SysHost, name: &str) -> Result<bool, Errno> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.starts_with('-') || !name.bytes().all(plain) {
        return Err(Errno::EINVAL);
    }
    exists(host, &format!("/sys/module/{}", name.replace('-', "_")))
}

fn modprobe(host: &SysHost, arguments: &[&str], deadline: Duration) -> Result<(), Errno> {
    for program in MODPROBE {
        if exists(host, program)? {
            // modprobe is one line of the C locale away from an errno.
            let ran = tool::run(&host.place(program)?, arguments, deadline, tool::Part::End)?;
            return if ran.code == 0 { Ok(()) } else { Err(errno_of(&ran.said)) };
        }
    }
    Err(Errno::ENOSYS)
}

fn exists(host: &SysHost, path: &str) -> Result<bool, Errno> {
    let path = host.place(path)?;
    match accessat(CWD, &*path, Access::EXISTS, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(errno(error)),
    }
}

/// modprobe only ever exits with 1; the kernel's answer is in its last line, in the C locale
/// (`modprobe: ERROR: could not insert 'gim': No such device`).
fn errno_of(complaints: &str) -> Errno {
    let last = complaints.trim_end().lines().next_back().unwrap_or("");
    if last.contains(" not found in directory ") {
        return Errno::ENOENT;
    }
    if last.contains(" is in use") {
        return Errno::EBUSY;
    }
    let text = last.rsplit(": ").next().unwrap_or("").to_lowercase();
    (1..=133)
        .map(Errno)
        .find(|errno| errno.name().is_some() && errno.text() == text)
        .unwrap_or(Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuslice_core::execute::{self, Performed};
    use gpuslice_core::plan::Step;
    use gpuslice_core::port::HostWrite;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    /// A host whose modprobe is a shell script.
    fn host_with(script: &str) -> (tempfile::TempDir, SysHost) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("sbin/modprobe");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::create_dir_all(dir.path().join("sys/module/vfio_pci")).unwrap();
        // Written by another process: a descriptor of ours, open for writing and caught in the fork of a test
        // running beside this one, would make the exec fail with ETXTBSY.
        let mut writer = Command::new("/bin/sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 755 "$1""#, "sh"])
            .arg(&program)
            .arg(script)
            .spawn()
            .unwrap();
        assert!(writer.wait().unwrap().success());
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        let host = SysHost::new(dir.path()).unwrap();
        (dir, host)
    }

    #[test]
    fn a_loaded_module_is_not_loaded_again() {
        let (dir, host) = host_with("exit 1");
        load(&host, "vfio-pci", DEADLINE).unwrap();
        load(&host, "vfio_pci", DEADLINE).unwrap();
        fs::remove_dir(dir.path().join("sys/module/vfio_pci")).unwrap();
        load(&host, "vfio-pci", DEADLINE).unwrap_err();
    }

    /// The deadline of its step is the longer one, and says what happens.
    #[test]
    fn a_driver_that_initialises_its_devices_first_is_not_broken_off() {
        let (_dir, mut host) = host_with("sleep 4");
        assert_eq!(host.load_module("gim"), Err(Errno::ETIMEDOUT));
        let step = Step::LoadDriver {
            name: "gim".to_owned(),
            parameter: "vf_num".to_owned(),
            value: "8".to_owned(),
            others: BTreeMap::new(),
            refusals: Vec::new(),
            vfs: BTreeMap::new(),
        };
        assert_eq!(execute::perform(&mut host, &step), Ok(Performed::Changed));
    }

    #[test]
    fn modprobe_gets_the_name_and_nothing_else() {
        let (dir, host) = host_with(r#"echo "$# $1 ${HOME-none}" > "${0%/*}/seen""#);
        load(&host, "mtty", DEADLINE).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("sbin/seen")).unwrap(), "1 mtty none\n");
    }

    #[test]
    fn only_what_is_loaded_is_unloaded() {
        let (dir, host) = host_with(r#"echo "$*" > "${0%/*}/seen""#);
        assert_eq!(unload(&host, "gim"), Err(Errno::ENOENT));
        unload(&host, "vfio-pci").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("sbin/seen")).unwrap(), "-r vfio-pci\n");
        assert_eq!(unload(&host, "-a"), Err(Errno::EINVAL));
        let (_dir, host) =
            host_with("echo \"modprobe: FATAL: Module vfio_pci is in use.\" >&2; exit 1");
        assert_eq!(unload(&host, "vfio-pci"), Err(Errno::EBUSY));
    }

    #[test]
    fn names_that_are_options_or_paths_are_refused() {
        let (_dir, host) = host_with("exit 0");
        for name in ["", "-r", "a/b", "a b", "a\n", "../x"] {
            assert_eq!(load(&host, name, DEADLINE), Err(Errno::EINVAL), "{name:?}");
        }
    }

    #[test]
    fn its_complaint_becomes_an_errno() {
        for (complaint, want) in [
            ("modprobe: FATAL: Module gim not found in directory /lib/modules/6.12", Errno::ENOENT),
            ("modprobe: ERROR: could not insert 'gim': No such device", Errno::ENODEV),
            (
                "warning: x\nmodprobe: ERROR: could not insert 'gim': Operation not permitted",
                Errno::EPERM,
            ),
            (
                "modprobe: ERROR: could not insert 'gim': Key was rejected by service",
                Errno::EKEYREJECTED,
            ),
            (
                "modprobe: ERROR: could not insert 'gim': Unknown symbol in module, or unknown parameter (see dmesg)",
                Errno::EIO,
            ),
            ("", Errno::EIO),
        ] {
            let (_dir, host) = host_with(&format!("cat >&2 <<'E'\n{complaint}\nE\nexit 1"));
            assert_eq!(load(&host, "gim", DEADLINE), Err(want), "{complaint}");
        }
    }

    #[test]
    fn without_modprobe_it_is_not_taken_for_an_absent_module() {
        let dir = tempfile::tempdir().unwrap();
        let host = SysHost::new(dir.path()).unwrap();
        assert_eq!(load(&host, "mtty", DEADLINE), Err(Errno::ENOSYS));
    }
}
