//! What is shipped beside the binaries: units, bus policy, polkit actions, tmpfiles, udev rules. Checked by the programs that
//! will read it where they are installed, and against each other: a path in one file is a path another one makes.

#![cfg(test)]

#[path = "shipped/layout.rs"]
mod layout;
#[path = "shipped/links.rs"]
mod links;

#[path = "shipped/install.rs"]
mod install;
#[path = "shipped/removal.rs"]
mod removal;

use gpuslice_integration::{files, root};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where each program is installed: what the script says that lays out a host.
fn programs() -> Vec<String> {
    let found: Vec<String> = read(Path::new("integration/layout"))
        .lines()
        .filter_map(|line| line.strip_prefix("program \"")?.rsplit(' ').next())
        .map(|to| format!("/{to}"))
        .collect();
    assert!(found.len() >= 4, "integration/layout installs only {found:?}");
    // libvirt's AppArmor profile runs hooks from /usr/bin and /usr/sbin, and nothing from libexec.
    for program in &found {
        assert!(program.starts_with("/usr/bin/") || program.starts_with("/usr/sbin/"), "{program}");
    }
    found
}

/// Shipped files: where they are installed, and where they are in the tree.
fn shipped() -> BTreeMap<PathBuf, PathBuf> {
    let mut found = BTreeMap::new();
    for path in files() {
        let parts: Vec<_> = path.iter().collect();
        if let Some(at) = parts.iter().position(|p| *p == "dist") {
            let target = Path::new("/").join(parts.iter().skip(at + 1).collect::<PathBuf>());
            let before = found.insert(target.clone(), path.clone());
            assert_eq!(before, None, "{} is shipped twice", target.display());
        } else if path.starts_with("udev-rules") && path.extension().is_some_and(|e| e == "rules") {
            let rules = Path::new("/usr/lib/udev/rules.d");
            found.insert(rules.join(path.file_name().unwrap()), path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn units() -> Vec<(String, String)> {
    shipped()
        .iter()
        .filter(|(target, _)| target.starts_with("/usr/lib/systemd/system"))
        .map(|(target, path)| {
            (target.file_name().unwrap().to_str().unwrap().to_owned(), read(path))
        })
        .collect()
}

/// Values of a key in a unit, one per word; a comment does not count.
fn words<'t>(unit: &'t str, key: &str) -> Vec<&'t str> {
    unit.lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .flat_map(str::split_whitespace)
        .collect()
}

fn unit(name: &str) -> String {
    let found = units().into_iter().find(|(n, _)| n == name);
    found.unwrap_or_else(|| panic!("{name} is not shipped")).1
}

/// Loud, so that a run without the program is not taken for a check.
fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("SKIPPED: what {program} says of units: it is not installed");
    }
    found
}

#[test]
fn systemd_understands_every_unit() {
    if !installed("systemd-analyze") {
        return;
    }
    let stage = tempfile::tempdir().unwrap();
    let put = |path: &str, content: &str| {
        let to = stage.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, content).unwrap();
        to
    };
    for binary in programs().into_iter().chain(["/bin/true".to_owned()]) {
        let to = put(&binary, "#!/bin/true\n");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(to, executable).unwrap();
    }
    // Stand-ins for what every system has.
    for target in ["sysinit", "basic", "shutdown", "sockets", "multi-user", "local-fs"] {
        let text = "[Unit]\nDescription=stand-in\nDefaultDependencies=no\n";
        put(&format!("/usr/lib/systemd/system/{target}.target"), text);
    }
    let bus = "[Unit]\nDescription=stand-in\nDefaultDependencies=no\n";
    put(
        "/usr/lib/systemd/system/dbus.socket",
        &format!("{bus}[Socket]\nListenStream=/run/dbus/system_bus_socket\n"),
    );
    put("/usr/lib/systemd/system/dbus.service", &format!("{bus}[Service]\nExecStart=/bin/true\n"));
    let units = units();
    for (name, text) in &units {
        put(&format!("/usr/lib/systemd/system/{name}"), text);
    }
    let out = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--root"])
        .arg(stage.path())
        .args(units.iter().map(|(name, _)| name))
        .output()
        .unwrap();
    // An unknown key is only a line of output, not a status.
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{}: {said}", out.status);
}

/// What would break the daemon, and how.
const NOT_FOR_THE_DAEMON: [(&str, &str); 15] = [
    ("PrivateNetwork", "no uevents"),
    ("PrivateUsers", "no uevents"),
    ("PrivateDevices", "no /dev/vfio"),
    ("DevicePolicy", "no /dev/vfio of a GPU that comes later"),
    ("DeviceAllow", "sets a device policy"),
    ("ProtectClock", "sets a device policy"),
    ("ProtectKernelTunables", "/sys is read-only"),
    ("ProtectKernelModules", "no vfio modules"),
    ("ProtectKernelLogs", "no reasons from drivers"),
    ("ProtectProc", "no holders"),
    ("ProcSubset", "no holders"),
    ("RuntimeDirectory", "systemd deletes it at every stop"),
    ("MemoryMax", "a driver's load is killed half-way"),
    ("MemoryHigh", "a hook waits for a vendor's tool"),
    ("StartLimitBurst", "the daemon would stay down"),
];

/// systemd's own judgement (0 is best, 10 worst): 3.0 or better, each option aside that the daemon cannot have.
#[test]
fn every_service_is_confined() {
    if !installed("systemd-analyze") {
        return;
    }
    let stage = tempfile::tempdir().unwrap();
    let folder = stage.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&folder).unwrap();
    let none = stage.path().join("none.json");
    fs::write(&none, "{}").unwrap();
    // A policy gives options other weights; an option without weight is not judged.
    let aside = stage.path().join("aside.json");
    let weights: Vec<String> = NOT_FOR_THE_DAEMON
        .iter()
        .map(|(key, _)| format!("\"{key}\": {{\"weight\": 0, \"range\": 1}}"))
        .collect();
    fs::write(&aside, format!("{{{}}}", weights.join(","))).unwrap();
    for (name, text) in units() {
        if !name.ends_with(".service") {
            continue;
        }
        fs::write(folder.join(&name), text).unwrap();
        let exposure = |policy: &Path| -> f64 {
            let out = Command::new("systemd-analyze")
                .args(["security", "--no-pager", "--offline=true"])
                .arg(format!("--root={}", stage.path().display()))
                .arg(format!("--security-policy={}", policy.display()))
                .arg(&name)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            let line = said.lines().find(|line| line.contains("exposure level"));
            let number = line.and_then(|line| line.split(": ").nth(1)?.split(' ').next());
            number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name}: {said}"))
        };
        let whole = exposure(&none);
        let daemon = name == "gpusliced.service";
        let judged = if daemon { exposure(&aside) } else { whole };
        let rest = if daemon { format!(", {judged} but for what it needs") } else { String::new() };
        // `integration/test` shows it in its summary.
        println!("NOTE: systemd's exposure level of {name}: {whole}{rest}");
        assert!(judged <= 3.0, "{name}: {judged}");
    }
}

#[test]
fn the_daemon_keeps_what_it_works_with() {
    let unit = unit("gpusliced.service");
    for (key, harm) in NOT_FOR_THE_DAEMON {
        assert_eq!(words(&unit, key), <[&str; 0]>::default(), "{key}: {harm}");
    }
    for (key, want) in [
        ("Type", vec!["notify"]),
        ("Restart", vec!["always"]),
        ("StartLimitIntervalSec", vec!["0"]),
        ("KillMode", vec!["process"]),
        ("RestrictAddressFamilies", vec!["AF_UNIX", "AF_NETLINK"]),
    ] {
        assert_eq!(words(&unit, key), want, "{key}");
    }
    let watchdog: u32 = words(&unit, "WatchdogSec")[0].parse().unwrap();
    assert!(watchdog >= 120, "a shorter watchdog wakes an idle host: {watchdog}");
}

/// It holds nothing that its next start does not find again.
#[test]
fn the_agent_ends_before_it_takes_the_host_s_memory() {
    let unit = unit("gpuslice-libvirt-agent.service");
    for (key, want) in [("MemoryMax", "512M"), ("MemorySwapMax", "0"), ("Restart", "always")] {
        assert_eq!(words(&unit, key), [want], "{key}");
    }
}

#[test]
fn ours_is_there_before_anything_starts_a_vm() {
    for name in ["gpusliced.service", "gpuslice-ready.service"] {
        let unit = unit(name);
        let before: BTreeSet<_> = words(&unit, "Before").into_iter().collect();
        for starter in [
            "libvirtd.service",
            "virtqemud.service",
            "libvirt-guests.service",
            "pve-guests.service",
            "pve-ha-lrm.service",
        ] {
            assert!(before.contains(starter), "{name} must be before {starter}");
        }
    }
    // Ordered after libvirt and before libvirt-guests, the agent also keeps these two in order at a shutdown.
    let agent = unit("gpuslice-libvirt-agent.service");
    assert!(words(&agent, "Before").contains(&"libvirt-guests.service"));
    for libvirt in ["libvirtd.service", "virtqemud.service"] {
        assert!(words(&agent, "After").contains(&libvirt), "the agent must be after {libvirt}");
    }
    let ready = unit("gpuslice-ready.service");
    let start = words(&ready, "ExecStart");
    assert!(start[0].starts_with('-'), "must never fail the boot: {start:?}");
    let ours: u32 = start.last().unwrap().parse().unwrap();
    let systemd: u32 = words(&ready, "TimeoutStartSec")[0].parse().unwrap();
    assert!(systemd > ours, "systemd would end the wait: {systemd} after {ours}");
}

#[test]
fn every_program_that_is_started_is_installed() {
    let (mut started, programs) = (0, programs());
    for (name, text) in units() {
        for key in ["ExecStart", "ExecStartPre", "ExecStartPost", "ExecReload", "ExecStop"] {
            let lines = text.lines().filter_map(|l| l.strip_prefix(key)?.strip_prefix('='));
            for program in lines.filter_map(|line| line.split_whitespace().next()) {
                let program = program.trim_start_matches(['-', '+', '!', ':', '@']);
                assert!(
                    programs.iter().any(|p| p == program),
                    "{name}: {program} is installed by nothing"
                );
                started += 1;
            }
        }
    }
    assert!(started >= 2);
}

#[test]
fn every_directory_the_daemon_writes_is_made_for_it() {
    let tmpfiles = read(&shipped()[Path::new("/usr/lib/tmpfiles.d/gpuslice.conf")]);
    let made: BTreeMap<&str, (&str, &str)> = tmpfiles
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let [kind, path, mode, user, ..] = line.split_whitespace().collect::<Vec<_>>()[..]
            else {
                panic!("{line:?}")
            };
            assert_eq!(kind, "d", "{line:?}");
            (path, (mode, user))
        })
        .collect();
    assert_eq!(made["/run/gpuslice"], ("0755", "root"));
    assert_eq!(made["/run/gpuslice/state"], ("0700", "root"));
    assert_eq!(made["/var/lib/gpuslice"], ("0700", "root"));
    let service = unit("gpusliced.service");
    for path in words(&service, "ReadWritePaths") {
        assert!(path.starts_with('-') || made.contains_key(path), "{path} is made by nothing");
    }
    let socket = unit("gpusliced.socket");
    assert_eq!(words(&socket, "ListenStream"), ["/run/gpuslice/hook.sock"]);
    assert_eq!(words(&socket, "SocketMode"), ["0600"]);
}

/// GIM writes /etc/gim_config from inside the load that gpusliced asks for, and takes the kernel down where it may not.
#[test]
fn a_driver_may_write_what_it_writes_when_the_daemon_loads_it() {
    let service = unit("gpusliced.service");
    assert!(words(&service, "ReadWritePaths").contains(&"-/etc"));
    let capabilities = words(&service, "CapabilityBoundingSet");
    for needed in ["CAP_SYS_MODULE", "CAP_DAC_OVERRIDE"] {
        assert!(capabilities.contains(&needed), "{needed}: {capabilities:?}");
    }
}

/// nvidia-vgpud gives the driver its types, and only root with CAP_MKNOD can make the nodes that nvidia-smi opens.
#[test]
fn nvidias_services_are_done_before_its_tools_are_run() {
    let service = unit("gpusliced.service");
    for theirs in ["nvidia-vgpud.service", "nvidia-vgpu-mgr.service"] {
        assert!(words(&service, "After").contains(&theirs), "{theirs}");
        // Hosts without them have nothing to start.
        for key in ["Wants", "Requires", "BindsTo"] {
            assert!(!words(&service, key).contains(&theirs), "{key}: {theirs}");
        }
    }
    assert!(words(&service, "CapabilityBoundingSet").contains(&"CAP_MKNOD"));
}

fn parse<'t>(path: &Path, text: &'t str) -> roxmltree::Document<'t> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options);
    document.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What the bus is told of each name.
fn policies() -> Vec<(String, String)> {
    shipped()
        .into_iter()
        .filter(|(target, _)| target.starts_with("/usr/share/dbus-1/system.d"))
        .map(|(target, path)| {
            (target.file_stem().unwrap().to_str().unwrap().to_owned(), read(&path))
        })
        .collect()
}

#[test]
fn only_root_owns_the_name_on_the_bus() {
    for (target, path) in shipped() {
        if !target.starts_with("/usr/share/dbus-1/system.d") {
            continue;
        }
        let text = read(&path);
        for allow in parse(&path, &text).descendants().filter(|n| n.has_attribute("own")) {
            let user = allow.parent().and_then(|policy| policy.attribute("user"));
            let name = allow.attribute("own").unwrap();
            assert!(name != "org.gpuslice1" || user == Some("root"), "{name} by {user:?}");
        }
    }
    assert!(shipped().contains_key(Path::new("/usr/share/dbus-1/system.d/org.gpuslice1.conf")));
}

/// None can be, and zbus reads the value, which can be megabytes, before it says so.
#[test]
fn the_bus_lets_nobody_set_a_property() {
    let policies = policies();
    let named: Vec<&str> = policies.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(named, ["org.gpuslice1.Libvirt", "org.gpuslice1"]);
    for (name, text) in &policies {
        let document = parse(Path::new(name), text);
        let default = document.descendants().find(|n| n.attribute("context") == Some("default"));
        let rules: Vec<_> = default.unwrap().children().filter(|n| n.is_element()).collect();
        // The last rule that fits is the one that counts.
        let words = ["send_destination", "send_interface", "send_member"];
        let set = [name, "org.freedesktop.DBus.Properties", "Set"].map(Some);
        let last = rules.last().unwrap();
        assert_eq!(last.tag_name().name(), "deny", "{name}");
        assert_eq!(words.map(|word| last.attribute(word)), set, "{name}");
    }
}

#[test]
fn every_polkit_action_asks_an_administrator_and_says_for_what() {
    let path = &shipped()[Path::new("/usr/share/polkit-1/actions/org.gpuslice1.policy")];
    let text = read(path);
    let document = parse(path, &text);
    let mut actions = BTreeSet::new();
    for action in document.descendants().filter(|n| n.has_tag_name("action")) {
        let child = |name: &str| action.descendants().find(|n| n.has_tag_name(name));
        let id = action.attribute("id").unwrap();
        for name in ["description", "message"] {
            assert!(child(name).and_then(|n| n.text()).is_some(), "{id}: no {name}");
        }
        for name in ["allow_any", "allow_inactive", "allow_active"] {
            let text = child(name).and_then(|n| n.text()).unwrap_or_default();
            assert!(text.starts_with("auth_admin"), "{id}: {name} is {text:?}");
        }
        actions.insert(id.to_owned());
    }
    let want = ["attach", "release", "apply", "adopt"].map(|a| format!("org.gpuslice1.{a}"));
    assert_eq!(actions, want.into());
}

#[test]
fn the_agent_may_do_without_a_question_what_the_daemon_lets_its_name_do() {
    let file = "/usr/share/polkit-1/rules.d/50-gpuslice-libvirt-agent.rules";
    let text = read(&shipped()[Path::new(file)]);
    let named: BTreeSet<&str> =
        text.split('"').filter(|word| word.starts_with("org.gpuslice1.")).collect();
    let needed: BTreeSet<&str> = gpuslice_api::names::AGENT_ACTIONS.iter().copied().collect();
    assert_eq!(named, needed);
}

#[test]
fn the_bus_starts_the_unit() {
    let file = "/usr/share/dbus-1/system-services/org.gpuslice1.service";
    let text = read(&shipped()[Path::new(file)]);
    assert_eq!(words(&text, "Name"), ["org.gpuslice1"]);
    assert_eq!(words(&text, "SystemdService"), ["gpusliced.service"]);
    unit("gpusliced.service");
}

/// The bus daemon itself says whether it can read the policy.
#[test]
fn the_bus_accepts_the_policy() {
    if !installed("dbus-daemon") {
        return;
    }
    let stage = tempfile::tempdir().unwrap();
    let folder = stage.path().join("policies");
    fs::create_dir(&folder).unwrap();
    for (name, policy) in policies() {
        fs::write(folder.join(format!("{name}.conf")), policy).unwrap();
    }
    let config = format!(
        "<busconfig><type>system</type><listen>unix:path={0}/bus</listen>\
         <policy context='default'><allow user='*'/></policy>\
         <includedir>{0}/policies</includedir></busconfig>",
        stage.path().display()
    );
    fs::write(stage.path().join("bus.conf"), config).unwrap();
    let mut bus = Command::new("dbus-daemon")
        .args(["--nofork", "--nopidfile", "--print-address", "--config-file"])
        .arg(stage.path().join("bus.conf"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(bus.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    bus.kill().unwrap();
    let out = bus.wait_with_output().unwrap();
    assert!(line.starts_with("unix:path="), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn udev_rules_only_tag() {
    let rules: Vec<_> =
        shipped().into_iter().filter(|(t, _)| t.starts_with("/usr/lib/udev")).collect();
    assert!(!rules.is_empty());
    for (_, path) in &rules {
        for line in read(path).lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            for part in line.split(", ") {
                let (name, operator, value) = udev_part(part)
                    .unwrap_or_else(|| panic!("{}: {part:?} is no match", path.display()));
                assert!(
                    matches!(operator, "==" | "!=") || matches!(name, "TAG" | "GOTO" | "LABEL"),
                    "{}: {part} does more than tag",
                    path.display()
                );
                assert!(
                    !name.contains("physfn"),
                    "{}: physfn is not there when a VF is added",
                    path.display()
                );
                assert!(value.starts_with('"') && value.ends_with('"'), "{part}");
            }
        }
    }
    // Since systemd 254.
    let verify = || Command::new("udevadm").args(["verify", "--no-summary"]).arg("--help").output();
    if !verify().is_ok_and(|out| out.status.success()) {
        println!("SKIPPED: what udevadm verify says of rules: this udevadm has no such command");
        return;
    }
    let out = Command::new("udevadm")
        .arg("verify")
        .args(rules.iter().map(|(_, path)| root().join(path)))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn udev_part(part: &str) -> Option<(&str, &str, &str)> {
    let end = part.find(['=', '!', '+'])?;
    let (name, rest) = part.split_at(end);
    let length = if rest.starts_with("==") || rest.starts_with("!=") || rest.starts_with("+=") {
        2
    } else {
        1
    };
    let (operator, value) = rest.split_at(length);
    let upper = name.split('{').next()?.bytes().all(|b| b.is_ascii_uppercase());
    upper.then_some((name, operator, value))
}
