//! Who does what when gpuslice is installed from source: cargo is in a person's home, and only root installs. The script is
//! run in a tree, and finds programs, that are stand-ins: nothing of this machine is built, asked or changed.

use gpuslice_integration::root;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Says who runs it, and as what.
const TELLS: &str =
    "echo \"${AS:-$([ $EUID = 0 ] && echo root || echo caller)}: ${0##*/} $*\" >> \"$LOG\"\n";

/// Of each package a file that is named like one.
const PACKAGES: &str = r#"for name in gpuslice gpuslice-libvirt gpuslice-proxmox; do echo > "$2/${name}_1_amd64.deb"; done
"#;

/// What the script and its stand-ins may run of this machine.
const REAL: [&str; 12] = [
    "bash", "chmod", "cut", "dirname", "env", "head", "mktemp", "realpath", "rm", "sed", "sort",
    "unshare",
];

/// A tree with the script as it is, and all that it calls as stand-ins.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// `elsewhere`: on no Debian.
    fn new(elsewhere: bool) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        // Others come in too, and tell what they did.
        let open = |path: &Path| {
            fs::create_dir_all(path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        };
        for folder in ["", "tree", "tree/integration", "bin", "alice", "alice/.cargo/bin", "tmp"] {
            open(&place.path(folder));
        }
        for script in ["install", "toolchain"] {
            let to = place.path("tree/integration").join(script);
            fs::copy(root().join("integration").join(script), to).unwrap();
        }
        fs::copy(root().join("Cargo.toml"), place.path("tree/Cargo.toml")).unwrap();
        for script in ["packages", "release-programs", "layout"] {
            place.stand_in(&format!("tree/integration/{script}"), "");
        }
        place.stand_in("tree/integration/package", PACKAGES);
        for program in REAL {
            let from = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
            let from = from.into_iter().find(|from| from.exists()).unwrap();
            symlink(from, place.path("bin").join(program)).unwrap();
        }
        place.stand_in("bin/sudo", "exec unshare --user --map-root-user \"$@\"\n");
        for program in ["systemd-sysusers", "systemd-tmpfiles", "udevadm", "systemctl"] {
            place.stand_in(&format!("bin/{program}"), "");
        }
        if !elsewhere {
            place.stand_in("bin/apt-get", "");
            place.stand_in("bin/dpkg-deb", "");
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A script that tells that it was run, and does what is said then.
    fn stand_in(&self, name: &str, then: &str) {
        let to = self.path(name);
        fs::write(&to, format!("#!{}/bin/bash\n{TELLS}{then}", self.dir.path().display())).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A toolchain in a folder, as new as it has to be.
    fn rust(&self, folder: &str) {
        for program in ["cargo", "rustc"] {
            let then = format!("[ \"$1\" != --version ] || echo {program} 999.0.0\n");
            self.stand_in(&format!("{folder}/{program}"), &then);
        }
    }

    /// The tree is hers, and her home is beside it.
    fn owned_by_alice(&self) {
        let passwd = format!("alice:x:1000:1000::{}:/bin/bash", self.path("alice").display());
        self.stand_in("bin/stat", "echo alice\n");
        self.stand_in("bin/getent", &format!("echo '{passwd}'\n"));
        self.stand_in("bin/runuser", "shift 3; AS=alice exec \"$@\"\n");
    }

    /// Runs it as somebody, who is `root` or who is not.
    fn install(&self, as_root: bool, arguments: &[&str]) -> (Output, Vec<String>) {
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let become_it: &[&str] = match (is_root, as_root) {
            (true, true) | (false, false) => &["env"],
            (true, false) => &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
            (false, true) => &["unshare", "--user", "--map-root-user"],
        };
        let log = self.path("tmp/log");
        let mut command = Command::new(become_it[0]);
        command.args(&become_it[1..]).arg(self.path("bin/env")).arg("-i");
        for (name, value) in
            [("PATH", self.path("bin")), ("LOG", log.clone()), ("TMPDIR", self.path("tmp"))]
        {
            command.arg(format!("{name}={}", value.display()));
        }
        if as_root {
            command.args(["HOME=/root", "SUDO_USER=alice"]);
        }
        let script = self.path("tree/integration/install");
        let output = command.arg(script).args(arguments).current_dir("/").output().unwrap();
        let told = fs::read_to_string(log).unwrap_or_default();
        // What only looks is no part of it.
        let looks = ["--version", ": stat ", ": getent ", ": runuser ", ": sudo "];
        let told = told.lines().filter(|line| !looks.iter().any(|look| line.contains(look)));
        (output, told.map(|line| line.trim_end().to_owned()).collect())
    }
}

/// The steps as told, with whoever builds.
fn built_by(who: &str, packages: &str) -> Vec<String> {
    vec![format!("{packages}: packages --quiet"), format!("{who}: release-programs")]
}

#[track_caller]
fn installs_packages((output, told): (Output, Vec<String>), built: &[String]) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (building, installing) = told.split_at(built.len());
    assert_eq!(building, built);
    let [package, apt] = installing else { panic!("{installing:?}") };
    assert!(package.starts_with("root: package --built "), "{package}");
    assert!(apt.starts_with("root: apt-get install ") && apt.ends_with(".deb"), "{apt}");
}

#[test]
fn who_calls_it_builds_and_root_installs() {
    let place = Place::new(false);
    place.rust("bin");
    installs_packages(place.install(false, &[]), &built_by("caller", "caller"));
}

#[test]
fn called_by_root_it_builds_as_whose_tree_it_is() {
    let place = Place::new(false);
    place.owned_by_alice();
    place.rust("alice/.cargo/bin");
    installs_packages(place.install(true, &[]), &built_by("alice", "root"));
}

#[test]
fn root_s_own_toolchain_will_do_where_the_owner_has_none() {
    let place = Place::new(false);
    place.owned_by_alice();
    place.rust("bin");
    place.stand_in("bin/runuser", "exit 1\n");
    installs_packages(place.install(true, &[]), &built_by("root", "root"));
}

#[test]
fn without_any_toolchain_root_is_told_to_call_it_without_sudo() {
    let place = Place::new(false);
    place.owned_by_alice();
    let (output, told) = place.install(true, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("error: no cargo"), "{said}");
    assert!(said.contains("hint: the same without sudo") && said.contains("alice"), "{said}");
    assert_eq!(told, ["root: packages --quiet"]);
}

#[test]
fn without_sudo_nothing_is_built_in_vain() {
    let place = Place::new(false);
    place.rust("bin");
    fs::remove_file(place.path("bin/sudo")).unwrap();
    let (output, told) = place.install(false, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("hint: call it as root"), "{said}");
    assert_eq!(told, Vec::<String>::new());
    // What is only laid out needs none.
    let (output, told) = place.install(false, &["--root", "stage"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.last().unwrap(), "caller: layout /stage");
}

#[test]
fn a_host_gets_the_packages_that_are_of_use_on_it() {
    let place = Place::new(false);
    let installed = || {
        let (output, told) = place.install(false, &["--built"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let apt = told.last().unwrap();
        let debs = apt.split(' ').filter_map(|word| word.strip_suffix("_1_amd64.deb"));
        debs.map(|path| path.rsplit('/').next().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(installed(), ["gpuslice", "gpuslice-libvirt"].map(str::to_owned).into());
    place.stand_in("bin/pveversion", "");
    assert_eq!(installed(), ["gpuslice", "gpuslice-proxmox"].map(str::to_owned).into());
    place.stand_in("bin/virtqemud", "");
    assert_eq!(
        installed(),
        ["gpuslice", "gpuslice-libvirt", "gpuslice-proxmox"].map(str::to_owned).into()
    );
}

#[test]
fn elsewhere_the_files_are_laid_out_and_the_units_started() {
    let place = Place::new(true);
    place.rust("bin");
    let (output, told) = place.install(false, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let installing = &told[2..];
    assert_eq!(installing[0], "root: layout /");
    assert!(
        installing.contains(&"root: systemctl restart gpusliced.service".to_owned()),
        "{told:?}"
    );
    assert!(installing.iter().all(|line| line.starts_with("root: ")), "{told:?}");
}
