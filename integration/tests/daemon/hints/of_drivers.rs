//! A VM that comes with what another driver has saved: that driver is had here, or what the VM has in its memory is given up.

use super::person::{Person, Refused};
use crate::host::Vm;
use gpuslice_core::refusal::Code;

const START: &str = "virsh start vm1";

/// With a domain that has run on a host of examples/hosts.
struct Here {
    person: Person,
    host: String,
}

impl Here {
    fn at(name: &str, config: &str, profile: &str) -> Self {
        let path = gpuslice_integration::root().join("examples/hosts").join(name);
        let mut person = Person::at(path.to_str().unwrap(), config, 1);
        person.does(&format!("gpuslice attach vm1 {profile}"));
        Self { person, host: std::fs::read_to_string(path).unwrap() }
    }

    /// As it comes, with what was noted of the driver where it ran.
    fn noted(&self, driver: &str) -> Vm {
        let run = format!(
            "<r:drivers xmlns:r='urn:gpuslice:run:1'><r:driver claim='gpu0' {driver}/></r:drivers>"
        );
        let xml = self.person.libvirt.xml("vm1").replace("</metadata>", &(run + "</metadata>"));
        Vm { xml, ..Vm::new(1) }
    }

    /// The two ways out of its refusal.
    fn refuses(&self, vm: &Vm, operation: &str, code: Code) -> (String, Vec<String>) {
        let ran = self.person.host.hook(vm, operation);
        let hint = Refused::read(ran.refused(code.as_str())).hint;
        let (fits, anew) = hint.split_once("; or ").unwrap();
        super::registry::follows(fits);
        super::registry::follows(anew);
        let steps = anew.split(", then ").map(str::to_owned).collect();
        (fits.strip_suffix(", then the same again").unwrap().to_owned(), steps)
    }

    /// Another driver is installed, and what came comes again.
    fn then_takes(mut self, vm: &Vm, operation: &str, old: &str, new: &str) {
        // What it has in its memory is given up.
        self.person.does(START);
        self.person.does("virsh shutdown vm1");
        let host = &mut self.person.host;
        host.kill();
        host.becomes(&self.host.replace(old, new));
        host.start_daemon();
        host.settle();
        host.hook(vm, operation).quiet();
        host.run_vm(vm);
    }
}

pub fn it_migrates_from_a_newer_branch(code: Code) {
    let config = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
    let here = Here::at("a40-vfio.toml", config, "nvidia-a40-8q");
    let vm = here.noted("name='nvidia' version='590.48.01'");
    let (fits, anew) = here.refuses(&vm, "migrate", code);
    assert_eq!(anew, ["virsh shutdown vm1 (where it is)", "define it here", START]);
    assert_eq!(fits, "install nvidia 590.48.01 or later on this host");
    here.then_takes(&vm, "migrate", "580.65.05", "590.48.01");
}

pub fn it_was_saved_under_another_driver(code: Code) {
    let config = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 4 }\n";
    let here = Here::at("sriov-8.toml", config, "amd-74a1-vf4");
    let vm = here.noted("name='another'");
    let (fits, anew) = here.refuses(&vm, "restore", code);
    assert_eq!(anew, ["virsh managedsave-remove vm1 (its memory is lost)", START]);
    assert_eq!(fits, "give its GPU to another on this host");
    here.then_takes(&vm, "restore", "\"gpusim\"", "\"another\"");
}
