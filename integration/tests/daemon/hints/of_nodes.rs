//! Claims that require the NUMA node of their VM, where no slice is on it.

use super::person::{Person, no_edit, on_nodes};
use gpuslice_core::refusal::Code;
use gpuslice_integration::root;

const Q8: &str = "gpuslice attach vm1 nvidia-a40-8q --numa require";
const START: &str = "virsh start vm1";

pub fn it_is_pinned_nowhere(code: Code) {
    let mut person = Person::at("mdev", "", 1);
    person.does(Q8);
    person.mends(code, START);
}

/// Both GPUs are on the other.
pub fn its_node_has_no_gpu(code: Code) {
    let text = std::fs::read_to_string(root().join("examples/hosts/mdev.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join("host.toml");
    std::fs::write(&host, text.replace("numa_node = 0", "numa_node = 1")).unwrap();
    let mut person = Person::at(host.to_str().unwrap(), "", 1);
    person.edits("vm1", |xml| on_nodes(xml, "0"));
    person.does(Q8);
    person.mends(code, START);
}

pub fn the_gpu_tells_no_node(code: Code) {
    let text = std::fs::read_to_string(root().join("examples/hosts/mdev.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join("host.toml");
    std::fs::write(&host, text.replace("numa_node = 0", "")).unwrap();
    let mut person = Person::at(host.to_str().unwrap(), "", 1);
    person.edits("vm1", |xml| on_nodes(xml, "0"));
    person.does(Q8);
    person.mends(code, START);
}

/// Its memory was moved while the agent was away.
pub fn its_vf_is_on_another_node(code: Code) {
    let host = root().join("examples/hosts/a40-vfio.toml");
    let config = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
    let mut person = Person::at(host.to_str().unwrap(), config, 1);
    person.edits("vm1", |xml| on_nodes(xml, "0"));
    person.does(Q8);
    person.edits_unseen("vm1", |xml| on_nodes(xml, "1"));
    let refused = person.refused(code, START);
    person.agent_comes();
    if !person.follows(&refused.hint, START, 0, &mut no_edit) {
        person.does(START);
    }
}
