//! Orders that the agent refuses: for what a domain's XML is, or whether it runs.

use super::person::Person;
use crate::life::{ONE_VF, PROFILE};
use gpuslice_core::refusal::Code;

fn host() -> Person {
    Person::at("sriov-8", ONE_VF, 1)
}

pub fn nothing_runs_to_be_plugged_into(code: Code) {
    host().mends(code, &format!("gpuslice attach vm1 {PROFILE} --live"));
}

pub fn metadata_that_the_agent_cannot_read(code: Code) {
    let mut person = host();
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    person.edits_unseen("vm1", |xml| xml.replace(" profile=", " profil="));
    person.agent_comes();
    person.mends_by(code, &format!("gpuslice attach vm1 {PROFILE}"), 0, &mut |person, what| {
        assert!(what.starts_with("virsh edit vm1: "), "{what}");
        person.edits("vm1", |xml| xml.replace(" profil=", " profile="));
    });
    person.does("virsh start vm1");
}

pub fn a_domain_that_libvirt_does_not_keep(code: Code) {
    let mut person = host();
    let xml = person.libvirt.xml("vm1");
    person.libvirt.undefine("vm1");
    person.libvirt.creates(&xml);
    person.mends(code, &format!("gpuslice attach vm1 {PROFILE}"));
    person.libvirt.stopped("vm1");
    person.does("virsh start vm1");
}
