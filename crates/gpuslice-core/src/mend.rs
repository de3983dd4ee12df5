//! The orders and edits that more than one refusal's hint is made of.

use crate::hint;
use crate::holders::{Holder, is_vm};
use crate::ids::{ClaimKey, ClaimName, MdevUuid, Owner, ParentId, PciAddress, ProfileName};
use crate::numa::Numbers;
use crate::observation::GivenOption;
use crate::refusal::Hint;
use std::fmt::Display;
use uuid::Uuid;

/// Ends a process of the host that has a slice open. To a VM's own process that would be a power cut.
#[must_use]
pub fn end_process(holder: &Holder) -> Hint {
    let pid = holder.pid;
    if is_vm(&holder.comm) {
        hint!("shut down the VM of process {} (ps -fp {} shows its name)", pid, pid)
    } else {
        hint!("kill {} (ps -fp {} shows it)", pid, pid)
    }
}

/// Mends what the kernel says of a step that failed without saying what would help.
#[must_use]
pub fn as_the_kernel_says() -> Hint {
    hint!("journalctl -k -n 20, mend what it says, then start it again")
}

/// That a GPU has no driver, and how it has one again.
#[must_use]
pub fn bare(parent: &ParentId) -> String {
    format!("no driver is bound; where it is loaded: {}", probe(parent))
}

/// Has a function's own driver take it, also where a tool that was killed left it to another one.
fn probe(function: impl Display) -> String {
    let pci = "/sys/bus/pci";
    format!(
        "echo > {pci}/devices/{function}/driver_override; echo {function} > {pci}/drivers_probe"
    )
}

/// Has a driver of the host let go of a function.
#[must_use]
pub fn let_go(function: impl Display, driver: &str) -> Hint {
    hint!("echo {} > /sys/bus/pci/drivers/{}/unbind", function, driver)
}

/// Has a function's own driver take it from another one.
#[must_use]
pub fn give_back(function: impl Display, from: &str) -> String {
    format!("{}; {}", let_go(&function, from).as_str(), probe(&function))
}

/// Has a domain ask for what it was given by hand.
#[must_use]
pub fn ask_instead(name: &str) -> Hint {
    hint!(
        "virsh edit {}: take the device out, then gpuslice attach {} PROFILE, with one of gpuslice profiles",
        name,
        name
    )
}

/// Starts a domain when the agent has written what its claim is called by.
#[must_use]
pub fn own_device(name: &str) -> Hint {
    hint!("virsh start {} (the agent gives it its own device)", name)
}

/// The same where what is started is not what the agent writes into: a copy that libvirt does not keep, or a snapshot.
#[must_use]
pub fn write_by_hand(domain: Uuid, profile: &ProfileName, claim: &ClaimName, count: u32) -> Hint {
    hint!(
        "gpuslice attach {} {} --name {} --count {} --print, then put that into the XML it is started with \
         (virsh snapshot-edit, where that is a snapshot)",
        domain,
        profile,
        claim,
        count
    )
}

/// Gives a domain's claim a device that it can have.
#[must_use]
pub fn attach(name: &str, profile: &ProfileName, claim: &ClaimName) -> Hint {
    hint!("gpuslice attach {} {} --name {}", name, profile, claim)
}

/// The same with slices of one fabric.
#[must_use]
pub fn attach_linked(name: &str, profile: &ProfileName, claim: &ClaimName, count: u32) -> Hint {
    hint!("{} --count {} --fabric same", attach(name, profile, claim), count)
}

/// Has a domain's memory be on other NUMA nodes of its host.
#[must_use]
pub fn move_memory(name: &str, nodes: &Numbers) -> Hint {
    hint!("virsh numatune {} --nodeset {} --config, then the same again", name, nodes)
}

/// Gives a domain's claim slices of any NUMA node.
#[must_use]
pub fn attach_far(name: &str, profile: &ProfileName, claim: &ClaimName, count: u32) -> Hint {
    hint!("{} --count {} --numa prefer", attach(name, profile, claim), count)
}

/// The same while it runs: its memory is where it is.
#[must_use]
pub fn attach_far_live(name: &str, profile: &ProfileName, claim: &ClaimName, count: u32) -> Hint {
    hint!("{} --live", attach_far(name, profile, claim, count))
}

/// Has a domain's claim ask for what there is.
#[must_use]
pub fn another_profile(name: &str, claim: &ClaimName) -> Hint {
    hint!("gpuslice attach {} PROFILE --name {}, with one of gpuslice profiles", name, claim)
}

/// Gives a host more slices of a kind of which all are somebody's.
#[must_use]
pub fn lay_out_another() -> Hint {
    hint!("lay out another GPU in /etc/gpuslice/gpuslice.toml, then gpuslice apply")
}

/// Ends a domain's claim.
#[must_use]
pub fn detach(name: &str, claim: &ClaimName) -> Hint {
    hint!("gpuslice detach {} {}", name, claim)
}

/// Ends a claim of whoever has this name.
#[must_use]
pub fn end_claim(key: &ClaimKey, name: &str) -> Hint {
    match &key.owner {
        Owner::Domain(_) => detach(name, &key.name),
        Owner::Vmid(_) | Owner::External(_) => hint!("gpuslice release {}", key),
    }
}

/// Removes an mdev that another program made: Proxmox VE does so with the guest's end.
#[must_use]
pub fn stop_mdev(uuid: MdevUuid) -> Hint {
    match uuid.proxmox_guest() {
        Some(vmid) => hint!("qm shutdown {}", vmid),
        // mdevctl does the same, where it is installed.
        None => hint!("echo 1 > /sys/bus/mdev/devices/{}/remove", uuid),
    }
}

/// Has a GPU given out again, and looked at anew.
#[must_use]
pub fn uncordon(parent: &ParentId) -> Hint {
    hint!("gpuslice uncordon {}", parent)
}

/// Has somebody order it when all that matters could be read.
#[must_use]
pub fn when_it_is_read() -> Hint {
    hint!("gpuslice wait --settled, then the same again (gpuslice status tells which)")
}

/// The same where nobody else makes up for it.
#[must_use]
pub fn ask_when_settled() -> Hint {
    hint!("gpuslice wait --settled, then the same again")
}

/// Has a device be what somebody wants of it.
#[must_use]
pub fn write_layout(parent: impl Display) -> Hint {
    hint!("write a layout for {} in /etc/gpuslice/gpuslice.toml, then gpuslice apply", parent)
}

/// Has a layout say what its device can be.
#[must_use]
pub fn set(what: impl Display, to: impl Display, parent: impl Display) -> Hint {
    hint!("set {} to {} for {}, then gpuslice apply", what, to, parent)
}

/// The same where there is a choice.
#[must_use]
pub fn set_to_one_of(
    what: impl Display,
    values: impl IntoIterator<Item = impl Display>,
    parent: impl Display,
) -> Hint {
    let values = Hint::words(values, ", ");
    hint!("set {} to one of {} for {}, then gpuslice apply", what, values, parent)
}

/// Has a layout not say what its device cannot be.
#[must_use]
pub fn take_out(what: impl Display, parent: impl Display) -> Hint {
    hint!("take {} out of the layout of {}, then gpuslice apply", what, parent)
}

/// Has a module's option be gpuslice's to give.
#[must_use]
pub fn take_option_out(module: &'static str, option: &GivenOption) -> Hint {
    let GivenOption { name, file, .. } = option;
    if option.is_argument() {
        hint!(
            "take {}.{} out of the kernel's arguments, then reboot, then gpuslice apply",
            module,
            name
        )
    } else {
        hint!("take {} out of {}, then gpuslice apply", name, file)
    }
}

/// Has a driver take a function that makes VFs of it, in the place of one that makes none.
#[must_use]
pub fn driver_of_vfs(pf: PciAddress) -> Hint {
    hint!(
        "give {} to a driver that makes VFs of it (gpuslice doctor knows what keeps GPUs from theirs), then gpuslice apply; or {}",
        pf,
        set("vfs", 0, pf)
    )
}

/// Takes the type from a VF that somebody else gave it.
#[must_use]
pub fn take_type(vf: PciAddress, attribute: &str) -> Hint {
    hint!("echo 0 > /sys/bus/pci/devices/{}/{}", vf, attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_shut_down_and_another_process_is_ended() {
        let of = |comm: &str| end_process(&Holder { pid: 42, comm: comm.to_owned() });
        assert_eq!(of("dpdk").as_str(), "kill 42 (ps -fp 42 shows it)");
        for vm in ["qemu-system-x86", "qemu-kvm", "kvm"] {
            let hint = "shut down the VM of process 42 (ps -fp 42 shows its name)";
            assert_eq!(of(vm).as_str(), hint, "{vm}");
        }
    }
}
