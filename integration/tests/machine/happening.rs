//! What happens around the daemon, concrete enough to be written to a log and done again.

use gpuslice_core::ids::{ClaimName, MdevTypeId, MdevUuid, ParentId, PciAddress, SliceId};
use gpuslice_sim::Fault;
use serde::{Deserialize, Serialize};

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Happening {
    /// `gpuslice attach`: a claim by command; its devices go into the shut-off domain.
    Attach { vm: u8, name: ClaimName, profile: String, count: u32, pool: bool, reserve: bool },
    /// `gpuslice release`.
    Detach { vm: u8, name: ClaimName, force: bool },
    /// Somebody writes metadata and mdev devices into the XML.
    Declare { vm: u8, name: ClaimName, profile: String, count: u32 },
    /// The agent looks at the persistent domain.
    Seen { vm: u8 },
    /// The same, and a person changes it after the agent has asked and before it writes.
    SeenMeanwhile { vm: u8, edit: Box<Happening> },
    /// The XML is copied, with the original's devices.
    Clone { from: u8, to: u8 },
    /// The domain is undefined.
    Undefine { vm: u8 },
    /// virsh domrename.
    Rename { vm: u8 },
    /// It is defined again as it was.
    Define { vm: u8 },
    /// Its XML goes into a snapshot.
    Snapshot { vm: u8 },
    /// And comes back out of it.
    Revert { vm: u8 },
    /// virsh managedsave, virsh save.
    Save { vm: u8 },
    /// virsh restore, or a start out of a saved image.
    Restore { vm: u8 },
    /// Somebody takes our devices out of the XML.
    HostdevGone { vm: u8 },
    /// Somebody writes another address into our device.
    HostdevMoved { vm: u8, vf: PciAddress },
    /// managed='no' on every device.
    NotManaged { vm: u8 },
    /// Somebody removes the metadata.
    MetadataGone { vm: u8 },
    /// Somebody writes metadata, and no device.
    MetadataAlone { vm: u8, name: ClaimName, profile: String, count: u32 },
    /// A device without our alias is added.
    Plain { vm: u8, slice: SliceId, managed: bool },
    /// managed='yes' on every device.
    Managed { vm: u8 },
    /// virsh start: the prepare hook.
    Start { vm: u8 },
    /// libvirt goes on with what it has begun.
    Next { vm: u8 },
    /// QEMU ends. It may linger: killed, but its descriptors not closed yet.
    Stop { vm: u8, linger: bool },
    /// virsh migrate: the VM runs on elsewhere.
    MigrateAway { vm: u8 },
    /// What lingered is gone.
    Gone,
    /// The hook is killed while it waits.
    HookDies { vm: u8 },
    /// libvirtd stops; VMs run on.
    LibvirtDown,
    /// It is back. What ended meanwhile it may or may not tell.
    LibvirtUp { tells: bool },
    /// An order about a parent.
    Cordon { parent: ParentId },
    /// An order about a parent.
    Uncordon { parent: ParentId },
    /// The configuration on disk changes.
    Edit { config: u8 },
    /// `gpuslice apply`.
    Apply,
    /// Every question.
    Lists,
    /// Hardware.
    Plug { address: PciAddress },
    /// Hardware.
    Unplug { address: PciAddress },
    /// A module is unloaded and loaded.
    Reload { driver: String },
    /// Something will go wrong.
    Fault { fault: Fault },
    /// Nothing will.
    ClearFaults,
    /// Somebody else makes an mdev.
    ForeignMdev { parent: ParentId, type_id: MdevTypeId, uuid: MdevUuid },
    /// And removes it.
    ForeignMdevGone { uuid: MdevUuid },
    /// Somebody binds a VF to vfio-pci by hand and opens it.
    ForeignOpen { vf: PciAddress },
    /// And ends.
    ForeignClose,
    /// Somebody else writes to a file.
    Other { file: String, data: String },
    /// Somebody else runs a vendor's tool.
    Tool { command: Vec<String> },
    /// Uevents are lost and doubled.
    Noise { seed: u64, lose: u16, duplicate: u16 },
    /// Uevents are noticed late.
    Deaf { on: bool },
    /// Writes of child processes begin late.
    Lazy { on: bool },
    /// The kernel stops at each small step.
    Steps { on: bool },
    /// Some of them.
    KernelSteps { count: u8 },
    /// Time.
    Advance { ms: u64 },
    /// The daemon is killed after so many effects and writes.
    Kill { after: u32 },
    /// So many records fail.
    DiskFull { durable: u32, runtime: u32 },
    /// The daemon dies, and with it what it recorded in this boot; its claims may be lost too.
    LoseRecord { claims: bool },
    /// The agent asks for slices of a running VM.
    HotPlug { vm: u8, name: ClaimName, profile: String, count: u32, keep: bool },
    /// It has them plugged in, and tells, unless it dies before.
    HotPlugNext { vm: u8, dies: bool },
    /// The guest lets go of a claim's devices.
    HotUnplug { vm: u8, name: ClaimName, by_hand: bool },
    /// The agent starts anew.
    AgentComes,
    /// A driver says something in the kernel's log.
    Say { line: String },
    /// Power off and on.
    Reboot,
}
