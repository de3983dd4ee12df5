//! A small host of each mechanism, and what people do there whatever else happens: a layout, and two VMs with a slice
//! each. At the end all is mended, and must be as wished.

use crate::disk::Disk;
use crate::domains::{claim, write_devices};
use crate::driver::Driver;
use crate::invariants::{Broken, Vm, slice_of};
use gpuslice_core::domain::{ClaimRequest, Domain, HostDevice};
use gpuslice_core::ids::{ClaimKey, Owner, SliceId};
use gpuslice_core::machine::{HookAnswer, HookCall, HookOperation};
use gpuslice_core::port::{HostRead, link_name, read_text};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::{Command as Hazard, Fault, HostFile, Kernel};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Longer than any timer of the machine, and than a VM that ends young is wedged for.
const LONG: u64 = 1_300_000;

/// A host and its layout.
pub struct Scene {
    pub name: &'static str,
    host: HostFile,
    pub config: String,
    /// Another layout; the same where there is none.
    pub other: String,
    /// A slice's profile; `None` where there are none.
    profile: Option<&'static str>,
}

macro_rules! scene {
    ($name:literal, $file:literal, $gpus:literal, $match:literal, $layout:literal, $other:literal, $profile:expr) => {
        Scene {
            name: $name,
            host: small(include_str!(concat!("../../../examples/hosts/", $file)), $gpus),
            config: format!("[[gpu]]\nmatch = {{ {} }}\nlayout = {{ {} }}\n", $match, $layout),
            other: format!("[[gpu]]\nmatch = {{ {} }}\nlayout = {{ {} }}\n", $match, $other),
            profile: $profile,
        }
    };
}

/// The last GPUs of a host, with few VFs and types, so that there are few things to go wrong.
fn small(text: &str, gpus: usize) -> HostFile {
    let mut host = HostFile::parse(text).unwrap();
    let first = host.functions.len().saturating_sub(gpus);
    host.functions.drain(..first);
    for function in &mut host.functions {
        if let (Some(mdev), Some(sriov)) = (&mut function.mdev, &mut function.sriov) {
            sriov.total_vfs = 4;
            if mdev.mig.is_none() {
                mdev.types.retain(|of| of.memory_mib == 8192);
            }
        }
    }
    host
}

pub fn scenes() -> Vec<Scene> {
    vec![
        scene!(
            "VFs by sriov_numvfs",
            "sriov-8.toml",
            1,
            "driver = \"gpusim\"",
            "vfs = 4, wipe = \"required\"",
            "vfs = 2",
            Some("amd-74a1-vf4")
        ),
        scene!(
            "a hive under gim",
            "mi300x-8.toml",
            2,
            "vendor-device = \"1002:74a1\"",
            "vfs = 8, compute = \"CPX\", memory = \"NPS4\", wipe = \"required\"",
            "vfs = 4, compute = \"CPX\"",
            Some("amd-mi300x-vf8-cpx-nps4")
        ),
        scene!(
            "an unknown Radeon under gim",
            "radeon-gim.toml",
            1,
            "vendor-device = \"1002:7ff0\"",
            "vfs = 2",
            "vfs = 1",
            Some("amd-7ff0-vf2")
        ),
        scene!(
            "partitions on bare metal",
            "mi300x-amdgpu.toml",
            2,
            "driver = \"amdgpu\"",
            "vfs = 0, compute = \"QPX\"",
            "vfs = 0, compute = \"SPX\"",
            None
        ),
        scene!(
            "VFs that take a type",
            "a40-vfio.toml",
            1,
            "vendor-device = \"10de:2235\"",
            "vfs = \"all\", sizes = \"mixed\"",
            "vfs = 0",
            Some("nvidia-a40-8q")
        ),
        scene!(
            "VFs of GPU instances",
            "a100-mig.toml",
            1,
            "vendor-device = \"10de:20b5\"",
            "vfs = \"all\", instances = [\"3g.40gb\", \"3g.40gb\"]",
            "vfs = \"all\", instances = [\"2g.20gb\"]",
            Some("nvidia-a100d-3-40c")
        ),
        scene!(
            "mdevs of VFs",
            "a40-mdev.toml",
            1,
            "vendor-device = \"10de:2235\"",
            "vfs = \"all\"",
            "vfs = 0",
            Some("nvidia-a40-8q")
        ),
        Scene {
            name: "mdevs of a GPU without SR-IOV",
            host: {
                let mut host = small(include_str!("../../../examples/hosts/t4-l40s.toml"), 2);
                host.functions.truncate(1);
                host.functions[0].sriov = None;
                host.drivers[0].smi_tool = Some("/usr/bin/nvidia-smi".to_owned());
                host
            },
            config: String::new(),
            other: String::new(),
            profile: Some("nvidia-t4-8q"),
        },
        Scene {
            name: "GPUs that stay whole",
            host: small(include_str!("../../../examples/hosts/consumer.toml"), 3),
            config: String::new(),
            other: String::new(),
            profile: None,
        },
    ]
}

/// A host on which all is well: its VMs have claims, and the first runs.
pub struct Ready {
    kernel: Kernel,
    disk: Disk,
    domains: Vec<Domain>,
    free: u32,
    looks: Vec<String>,
}

/// A host while something is wrong with it.
pub struct Story<'a> {
    pub driver: Driver,
    pub scene: &'a Scene,
    domains: [Option<Domain>; 2],
    running: BTreeSet<usize>,
    /// What people were told that was not done.
    pub refused: Vec<Refusal>,
}

fn uuid(vm: usize) -> Uuid {
    Uuid::from_u128(0x6000_0000_0000_4000_8000_0000_0000_0000 + vm as u128)
}

fn pid(vm: usize) -> u32 {
    1000 + u32::try_from(vm).unwrap()
}

/// Whoever is refused is told what to do.
fn helps(refusal: &Refusal) -> Result<(), Broken> {
    if refusal.hint.is_none() || refusal.message.is_empty() {
        return Err(Broken::new("a_refusal_says_what_to_do", format!("{refusal:?}")));
    }
    Ok(())
}

impl Scene {
    /// A daemon that comes up where something is wrong already.
    pub fn begun(&self, fault: Option<&Fault>) -> Result<Story<'_>, Broken> {
        let mut kernel = Kernel::from_host(&self.host);
        kernel.settle();
        if let Some(fault) = fault {
            kernel.inject(fault.clone());
        }
        let driver = Driver::on(kernel, Disk::default(), &self.config)?;
        Ok(Story {
            driver,
            scene: self,
            domains: [None, None],
            running: BTreeSet::new(),
            refused: Vec::new(),
        })
    }

    /// What may happen to GPUs while something is done to one.
    pub fn hazards(&self) -> Vec<Hazard> {
        let gpus = &self.host.functions;
        let unplugged = gpus.iter().map(|gpu| Hazard::Unplug(gpu.address));
        unplugged.chain(gpus[0].driver.clone().map(Hazard::ReloadDriver)).collect()
    }

    /// How its driver refuses without an error, or because of what else happens on the host.
    pub fn refusals(&self) -> Vec<Fault> {
        let gpu = &self.host.functions[0];
        let (pf, times) = (gpu.address, 1);
        match gpu.driver.as_deref() {
            Some("gim") => vec![
                Fault::Refuses { pf, nth: 1, times },
                Fault::Refuses { pf, nth: 2, times },
                Fault::Refuses { pf, nth: 1, times: u32::MAX },
            ],
            Some("amdgpu") => vec![Fault::Computes { pf }],
            Some("nvidia") => [false, true]
                .into_iter()
                .flat_map(|unbinds| {
                    [1, 2, u32::MAX].map(|times| Fault::Tool { pf, nth: 1, times, unbinds })
                })
                .chain([false, true].into_iter().flat_map(|under_stub| {
                    [1, u32::MAX].map(|times| Fault::ToolEnds { pf, nth: 1, times, under_stub })
                }))
                .collect(),
            _ => vec![Fault::Fewer { pf, vfs: 1 }, Fault::FallsOff { pf, after: 1 }],
        }
    }

    fn request(&self, profile: &str) -> ClaimRequest {
        let takes = self.host.drivers.iter().any(|driver| driver.smi_tool.is_some());
        let parameters = takes.then(|| "frame_rate_limiter=0".parse().unwrap());
        ClaimRequest { parameters, ..claim(&"gpu0".parse().unwrap(), profile, 1) }
    }

    pub fn ready(&self) -> Ready {
        let mut story = self.begun(None).unwrap();
        story.apply().unwrap().unwrap();
        if self.profile.is_some() {
            for vm in 0..2 {
                assert!(story.attach(vm).unwrap(), "{}: {:?}", self.name, story.profiles());
            }
        }
        let free = story.free().unwrap();
        if self.profile.is_some() {
            assert!(story.start(0).unwrap(), "{}: {:?}", self.name, story.refused);
        }
        story.driver.advance(60_000).unwrap();
        Ready {
            looks: story.looks(0),
            kernel: story.driver.kernel.clone(),
            disk: story.driver.disk.clone(),
            domains: story.domains.into_iter().flatten().collect(),
            free,
        }
    }

    /// A daemon for which something goes wrong while a VM runs. It has just started anew.
    pub fn with_vm(&self, ready: &Ready) -> Result<Story<'_>, Broken> {
        let driver = Driver::on(ready.kernel.clone(), ready.disk.clone(), &self.config)?;
        let mut domains = ready.domains.iter().cloned();
        let domains = [domains.next(), domains.next()];
        let mut story =
            Story { driver, scene: self, domains, running: BTreeSet::new(), refused: Vec::new() };
        if story.domains[0].is_some() {
            story.runs(0);
        }
        story.driver.advance(1000)?;
        Ok(story)
    }
}

impl Story<'_> {
    fn domain(&self, vm: usize) -> Domain {
        self.domains[vm].clone().unwrap_or_else(|| panic!("vm{vm} has no claim"))
    }

    fn runs(&mut self, vm: usize) {
        let domain = self.domain(vm);
        let claimed = domain.devices.iter().map(slice_of).collect();
        let late = BTreeMap::new();
        self.driver.vms.insert(pid(vm), Vm { domain: domain.uuid, claimed, late });
        self.running.insert(vm);
    }

    fn order(&mut self, command: Command) -> Result<Result<Answer, Refusal>, Broken> {
        let request = self.driver.command(command.clone());
        for _ in 0..60 {
            self.driver.advance(10_000)?;
            if let Some(outcome) = self.driver.answers.remove(&request) {
                if let Err(refusal) = &outcome {
                    helps(refusal)?;
                    self.refused.push(refusal.clone());
                }
                return Ok(outcome);
            }
            if self.driver.deaths > 0 {
                // The connection is gone; a person asks again.
                self.driver.deaths = 0;
                return self.order(command);
            }
        }
        Err(Broken::new("an_order_is_answered", format!("{command:?}")))
    }

    pub fn apply(&mut self) -> Result<Result<Answer, Refusal>, Broken> {
        self.order(Command::Apply)
    }

    fn profiles(&mut self) -> Result<Vec<gpuslice_core::request::ProfileRow>, Broken> {
        match self.order(Command::ListProfiles)? {
            Ok(Answer::Profiles { rows }) => Ok(rows),
            other => Err(Broken::new("lists_are_given", format!("{other:?}"))),
        }
    }

    fn free(&mut self) -> Result<u32, Broken> {
        let rows = self.profiles()?;
        Ok(rows
            .iter()
            .filter(|r| Some(r.profile.as_str()) == self.scene.profile)
            .map(|r| r.free)
            .sum())
    }

    /// Whether the VM has its claim now.
    pub fn attach(&mut self, vm: usize) -> Result<bool, Broken> {
        let Some(profile) = self.scene.profile else { return Ok(false) };
        let request = self.scene.request(profile);
        let outcome = self.order(Command::Claim {
            owner: Owner::Domain(uuid(vm)),
            owner_name: format!("vm{vm}"),
            request: request.clone(),
            pool: None,
            reserve: None,
            dry_run: false,
        })?;
        let Ok(Answer::Claimed { devices, .. }) = outcome else { return Ok(false) };
        let devices = devices.into_iter().map(|device| HostDevice {
            source: device.source,
            alias: Some(device.alias),
            managed: false,
        });
        self.domains[vm] = Some(Domain {
            uuid: uuid(vm),
            name: format!("vm{vm}"),
            claims: vec![request],
            devices: devices.collect(),
        });
        Ok(true)
    }

    fn call(&mut self, vm: usize, operation: HookOperation) -> Result<(), Broken> {
        let domain = self.domain(vm);
        self.driver.hook(HookCall::new(operation, domain));
        self.driver.advance(1000)?;
        // Calls that cannot be refused are made again when the daemon died over them.
        for call in std::mem::take(&mut self.driver.lost) {
            self.driver.hook(call);
        }
        self.driver.advance(1000)
    }

    /// A VM whose home has moved names the new one.
    fn agent_looks(&mut self, vm: usize) -> Result<(), Broken> {
        let mut domain = self.domain(vm);
        let seen = Command::DomainSeen { domain: domain.clone(), shut_off: true };
        if let Ok(Answer::Domain { devices, .. }) = self.order(seen)?
            && !devices.is_empty()
        {
            write_devices(&mut domain, |_| true, devices);
            self.domains[vm] = Some(domain);
        }
        Ok(())
    }

    /// Whether the VM runs now.
    pub fn start(&mut self, vm: usize) -> Result<bool, Broken> {
        self.dead_are_not_running();
        if self.domains[vm].is_none() || self.running.contains(&vm) {
            return Ok(false);
        }
        self.agent_looks(vm)?;
        let domain = self.domain(vm);
        let request = self.driver.hook(HookCall::new(HookOperation::Prepare, domain.clone()));
        let mut told = None;
        for _ in 0..30 {
            self.driver.advance(1000)?;
            told = self.driver.told.remove(&request);
            if told.is_some() || !self.driver.unanswered(request) {
                break;
            }
        }
        let answer = match told {
            Some(answer) => answer,
            // The hook's patience is at its end, or its daemon's life.
            None => {
                self.driver.hook_gone(request);
                self.call(vm, HookOperation::Release)?;
                return Ok(false);
            }
        };
        match answer {
            HookAnswer::Refuse(refusal) => {
                helps(&refusal)?;
                self.refused.push(refusal);
                self.call(vm, HookOperation::Release)?;
                return Ok(false);
            }
            HookAnswer::Remap(_) => return Err(Broken::new("nothing_is_remapped", "a start was")),
            HookAnswer::Proceed => {}
        }
        self.runs(vm);
        let slice = slice_of(&domain.devices[0]);
        if let Err(errno) = self.driver.kernel.open(pid(vm), "qemu-system-x86", slice) {
            if self.there(slice) {
                let how = format!("vm{vm} cannot open {slice}: {errno}");
                return Err(Broken::new("what_is_prepared_can_be_opened", how));
            }
            // The GPU went in the meantime.
            self.stop(vm)?;
            return Ok(false);
        }
        self.call(vm, HookOperation::Started)?;
        Ok(true)
    }

    fn clean(&self) -> Kernel {
        let mut kernel = self.driver.kernel.clone();
        kernel.clear_faults();
        kernel
    }

    fn there(&self, slice: SliceId) -> bool {
        self.clean().link(&dir(slice)).is_ok()
    }

    pub fn stop(&mut self, vm: usize) -> Result<(), Broken> {
        self.dead_are_not_running();
        if !self.running.remove(&vm) {
            return Ok(());
        }
        // One that ends young could leave a VF that is held back.
        self.driver.advance(20_000)?;
        self.driver.kernel.kill(pid(vm));
        self.driver.vms.remove(&pid(vm));
        self.call(vm, HookOperation::Release)
    }

    /// VMs end with their host.
    fn dead_are_not_running(&mut self) {
        let vms = &self.driver.vms;
        self.running.retain(|vm| vms.contains_key(&pid(*vm)));
    }

    pub fn domain_of_first(&self) -> Option<&Domain> {
        self.domains[0].as_ref()
    }

    /// What the kernel shows of a VM's slice, whatever reading shows.
    fn looks(&self, vm: usize) -> Vec<String> {
        let kernel = self.clean();
        let Some(domain) = &self.domains[vm] else { return Vec::new() };
        let slice = slice_of(&domain.devices[0]);
        let dir = dir(slice);
        vec![
            format!("{:?}", kernel.holders(slice)),
            format!("{:?}", link_name(&kernel, &format!("{dir}/driver"))),
            format!("{:?}", read_text(&kernel, &format!("{dir}/nvidia/current_vgpu_type"))),
        ]
    }

    /// The VM that runs keeps its slice, on the disk and in the kernel; and no claim is lost.
    pub fn undisturbed(&self, ready: &Ready) -> Result<(), Broken> {
        let Some(domain) = &self.domains[0] else { return Ok(()) };
        if self.looks(0) != ready.looks {
            let how = format!("{:?}, was {:?}", self.looks(0), ready.looks);
            return Err(Broken::new("no_vm_is_disturbed", how));
        }
        let slice = slice_of(&domain.devices[0]);
        let disk = self.driver.disk.runtime().unwrap_or_else(|| panic!("no record"));
        let owner = disk.assignments.get(&slice).map(|a| a.claim.owner.clone());
        if owner != Some(Owner::Domain(domain.uuid)) {
            return Err(Broken::new("nothing_is_lost", format!("{slice} is {owner:?}'s")));
        }
        self.claims_are_kept()
    }

    fn claims_are_kept(&self) -> Result<(), Broken> {
        let durable = self.driver.disk.durable();
        for domain in self.domains.iter().flatten() {
            let name = domain.claims[0].name.clone();
            let key = ClaimKey { owner: Owner::Domain(domain.uuid), name };
            if !durable.claims.contains_key(&key) {
                return Err(Broken::new(
                    "nothing_is_lost",
                    format!("the claim of {}", domain.name),
                ));
            }
        }
        Ok(())
    }

    fn quarantines_help(&self) -> Result<(), Broken> {
        self.driver.machine.durable().quarantines.values().try_for_each(helps)
    }

    /// What is wrong is mended, a person does what the hints say, and all is as wished.
    pub fn finish(&mut self, ready: &Ready) -> Result<(), Broken> {
        self.quarantines_help()?;
        self.driver.dies_after = None;
        self.driver.kernel.clear_faults();
        self.driver.kernel.settle();
        for address in self.scene.host.functions.iter().map(|function| function.address) {
            self.driver.kernel.plug(address);
        }
        self.driver.wake_up()?;
        for vm in 0..2 {
            self.stop(vm)?;
        }
        self.driver.advance(LONG)?;
        self.quarantines_help()?;
        let durable = self.driver.machine.durable();
        let kept: Vec<_> =
            durable.cordons.keys().chain(durable.quarantines.keys()).cloned().collect();
        for parent in kept {
            drop(self.order(Command::Uncordon { parent })?);
        }
        // One that is refused because the layout is being realised is given again.
        for last in [false, true] {
            match self.apply()? {
                Ok(_) => break,
                Err(refusal) if refusal.code == Code::Reshaping && !last => {
                    self.driver.advance(LONG)?;
                }
                Err(refusal) => {
                    let how = format!("{refusal:?}");
                    return Err(Broken::new("apply_works_once_all_is_mended", how));
                }
            }
        }
        self.driver.advance(LONG)?;
        let (durable, run) = (self.driver.machine.durable(), self.driver.machine.runtime());
        let left = (&durable.quarantines, &run.assignments, &run.pending, &run.dirty);
        if !(left.0.is_empty() && left.1.is_empty() && left.2.is_empty() && left.3.is_empty()) {
            return Err(Broken::new("nothing_is_left", format!("{left:?}")));
        }
        if self.driver.disk.durable() != *durable
            || self.driver.disk.runtime().as_ref() != Some(run)
        {
            return Err(Broken::new("the_disk_says_the_same", "it does not"));
        }
        match self.order(Command::Plan)? {
            Ok(Answer::Plan(plan)) if !plan.changed && plan.blockers.is_empty() => {}
            other => return Err(Broken::new("second_plan_is_empty", format!("{other:?}"))),
        }
        self.claims_are_kept()?;
        for vm in 0..2 {
            if self.scene.profile.is_some() && self.domains[vm].is_none() && !self.attach(vm)? {
                return Err(Broken::new("what_was_refused_is_given_now", format!("vm{vm}")));
            }
        }
        if self.free()? != ready.free {
            let how = format!("{} free, were {}", self.free()?, ready.free);
            return Err(Broken::new("all_is_free_again", how));
        }
        for vm in 0..2 {
            if self.scene.profile.is_some() && !self.start(vm)? {
                let how = format!("vm{vm}: {:?}", self.refused.last());
                return Err(Broken::new("what_was_refused_starts_now", how));
            }
        }
        for vm in 0..2 {
            self.stop(vm)?;
        }
        self.driver.advance(LONG)?;
        match self.driver.machine.runtime().assignments.iter().next() {
            None => Ok(()),
            Some(left) => Err(Broken::new("nothing_is_left", format!("{left:?}"))),
        }
    }
}

fn dir(slice: SliceId) -> String {
    match slice {
        SliceId::Mdev(uuid) => format!("/sys/bus/mdev/devices/{uuid}"),
        SliceId::Vf(address) | SliceId::Function(address) => {
            format!("/sys/bus/pci/devices/{address}")
        }
    }
}
