//! The world around the daemon: libvirtd with its domains, people, other programs and hardware.

use crate::calls;
use crate::domains::claim;
use crate::driver::Driver;
use crate::happening::Happening;
use crate::hosts::Host;
use crate::identity::Kept;
use crate::invariants::{Broken, clean_before_the_next, slice_of};
use crate::libvirt::{No, Print, Xml};
use crate::people;
use crate::place::Place;
use crate::plugging::Asked;
use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource, alias_for};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ClaimName, MdevUuid, PciAddress, SliceId};
use gpuslice_core::machine::{HookAnswer, HookCall, RequestId};
use gpuslice_core::port::{HostRead, HostWrite, link_name};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Command, Outcome};
use gpuslice_hook_proto::Operation;
use gpuslice_qemu_hook::verdict::Verdict;
use gpuslice_sim::{Kernel, Noise, Pace};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

pub const VMS: u8 = 5;

/// Where libvirt is with a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Off,
    /// The prepare hook waits for its answer.
    Asking(RequestId),
    /// QEMU runs; `started` is not told yet.
    Launched(u32),
    Running(u32),
    /// QEMU ended or never came; `release` is not told yet.
    Ended,
    /// The same, because the VM is on another host now.
    Left,
}

#[derive(Debug, Clone)]
pub struct Guest {
    /// What the next start takes.
    pub definition: Xml,
    /// The copy of it that libvirt made for this run.
    pub live: Option<Xml>,
    pub state: State,
    pub kept: Kept,
}

impl Guest {
    /// What libvirt prints for whoever asks: of a domain that runs, what it runs with.
    pub fn domain(&self) -> &Xml {
        self.live.as_ref().unwrap_or(&self.definition)
    }
}

pub struct World {
    pub place: Place,
    pub driver: Driver,
    pub guests: BTreeMap<u8, Guest>,
    pub libvirt_up: bool,
    lingering: BTreeSet<u32>,
    foreign_pids: BTreeSet<u32>,
    /// VFs somebody has bound by hand.
    pub by_hand: BTreeSet<PciAddress>,
    /// A layout that binds VFs may have been applied; what it bound stays.
    pub bound_from_the_start: bool,
    pub persons_tool_failed: bool,
    next_pid: u32,
    pub refusals: BTreeMap<Code, u32>,
    pub starts: u32,
    /// Hot-plugs the agent waits for.
    pub plugging: BTreeMap<u8, Asked>,
    pub plugs: u32,
    /// Why the last one was not.
    pub plug_refused: Option<Refusal>,
}

impl World {
    pub fn new() -> Result<Self, Broken> {
        Self::on(&Host::Each)
    }

    pub fn on(host: &Host) -> Result<Self, Broken> {
        let place = Place::of(host);
        let guests = (0..VMS).map(|vm| {
            let uuid = Uuid::from_u128(0x6000_0000_0000_4000_8000_0000_0000_0000 + u128::from(vm));
            let definition = Xml::plain(format!("vm{vm}"), uuid);
            let (state, live, kept) = (State::Off, None, Kept::default());
            (vm, Guest { definition, live, state, kept })
        });
        let mut world = Self {
            driver: Driver::new(&place.file, place.config(0))?,
            bound_from_the_start: place.config(0).contains("bind"),
            place,
            guests: guests.collect(),
            libvirt_up: true,
            lingering: BTreeSet::new(),
            foreign_pids: BTreeSet::new(),
            by_hand: BTreeSet::new(),
            persons_tool_failed: false,
            next_pid: 1000,
            refusals: BTreeMap::new(),
            starts: 0,
            plugging: BTreeMap::new(),
            plugs: 0,
            plug_refused: None,
        };
        if *host != Host::Each {
            // The first time nothing else loads GIM.
            world.driver.advance(61_000)?;
            world.order(Command::Apply)?;
            world.driver.advance(10_000)?;
        }
        Ok(world)
    }

    fn pid(&mut self) -> u32 {
        self.next_pid += 1;
        self.next_pid
    }

    fn guest(&mut self, vm: u8) -> &mut Guest {
        self.guests.get_mut(&vm).unwrap()
    }

    /// Does one thing, and all that follows from it.
    pub fn happen(&mut self, what: &Happening) -> Result<(), Broken> {
        self.act(what)?;
        self.driver.drain()?;
        self.driver.known_after_all();
        for guest in self.guests.values_mut().filter(|guest| guest.state == State::Off) {
            guest.live = None;
        }
        if self.driver.deaths > 0 {
            self.driver.deaths = 0;
            self.ask_again()?;
        }
        let there: BTreeSet<SliceId> = self.driver.foreign_mdevs.clone();
        let kernel = &self.driver.kernel;
        self.driver.foreign_mdevs =
            there.into_iter().filter(|slice| exists(kernel, *slice)).collect();
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one arm per thing that can happen")]
    pub fn act(&mut self, what: &Happening) -> Result<(), Broken> {
        use Happening as H;
        let driver = &mut self.driver;
        match what.clone() {
            H::Attach { vm, name, profile, count, pool, reserve } => {
                return self.attach(vm, &name, &profile, count, (pool, reserve));
            }
            H::Detach { vm, name, force } => return self.detach(vm, &name, force),
            H::Declare { vm, name, profile, count } => self.declare(vm, &name, &profile, count),
            H::Seen { vm } => return self.seen(vm),
            H::SeenMeanwhile { vm, edit } => return self.seen_meanwhile(vm, &edit),
            H::Clone { from, to } => self.copy(from, to),
            H::Undefine { vm } => return self.undefine(vm),
            H::Plain { vm, slice, managed } => self.plain(vm, slice, managed),
            H::Start { vm } => self.start(vm),
            H::Next { vm } => return self.next(vm),
            H::Stop { vm, linger } => self.stop(vm, linger),
            H::Gone => {
                for pid in std::mem::take(&mut self.lingering) {
                    self.end(pid);
                }
            }
            H::HookDies { vm } => {
                if let State::Asking(request) = self.guest(vm).state {
                    self.driver.hook_gone(request);
                    self.guest(vm).state = State::Ended;
                }
            }
            H::LibvirtDown => self.libvirt_down(),
            H::LibvirtUp { tells } => self.libvirt_up(tells),
            H::Cordon { parent } => {
                driver.command(Command::Cordon { parent, reason: "service".into() });
            }
            H::Uncordon { parent } => drop(driver.command(Command::Uncordon { parent })),
            H::Edit { config: index } => {
                self.place.config(index).clone_into(&mut driver.config);
                self.bound_from_the_start |= driver.config.contains("bind");
            }
            H::Apply => drop(driver.command(Command::Apply)),
            H::Lists => self.lists(),
            H::Plug { address } => drop(driver.kernel.plug(address)),
            H::Unplug { address } => drop(driver.kernel.unplug(address)),
            H::Reload { driver: name } => driver.reload(&name),
            H::Fault { fault } => driver.kernel.inject(fault),
            H::ClearFaults => driver.kernel.clear_faults(),
            H::ForeignMdev { parent, type_id, uuid } => {
                // Of two at one time the kernel lets one win, and nothing here would tell which.
                let slice = SliceId::Mdev(uuid);
                if driver.under.iter().any(|under| under.step.slice() == Some(slice)) {
                    return Ok(());
                }
                let path =
                    format!("/sys/class/mdev_bus/{parent}/mdev_supported_types/{type_id}/create");
                if driver.kernel.write(&path, uuid.to_string().as_bytes()).is_ok() {
                    driver.kernel.settle();
                    driver.foreign_mdevs.insert(SliceId::Mdev(uuid));
                }
            }
            H::ForeignMdevGone { uuid } => {
                if driver.foreign_mdevs.remove(&SliceId::Mdev(uuid)) {
                    let path = format!("/sys/bus/mdev/devices/{uuid}/remove");
                    if driver.kernel.write(&path, b"1").is_err() {
                        driver.foreign_mdevs.insert(SliceId::Mdev(uuid));
                    }
                }
            }
            H::ForeignOpen { vf } => {
                let pid = self.pid();
                self.by_hand.insert(vf);
                bind_by_hand(&mut self.driver.kernel, vf, "vfio-pci");
                if self.driver.kernel.open(pid, "dpdk", SliceId::Vf(vf)).is_ok() {
                    self.foreign_pids.insert(pid);
                }
            }
            H::ForeignClose => {
                for pid in std::mem::take(&mut self.foreign_pids) {
                    self.end(pid);
                }
            }
            H::Other { file, data } => drop(driver.kernel.write(&file, data.as_bytes())),
            H::Tool { command } => {
                let ran = driver.kernel.run(&command);
                self.persons_tool_failed |= ran.map_or(true, |ran| ran.code != 0);
            }
            H::Noise { seed, lose, duplicate } => {
                driver.kernel.set_noise(Noise { seed, lose, duplicate, capacity: 0 });
            }
            H::Deaf { on } => driver.deaf = on,
            H::Lazy { on } => {
                driver.lazy = on;
                if !on {
                    return driver.begin_lazy();
                }
            }
            H::Steps { on } => {
                driver.kernel.set_pace(if on { Pace::Steps } else { Pace::Whole });
                if !on {
                    driver.kernel.settle();
                }
            }
            H::KernelSteps { count } => {
                for _ in 0..count {
                    driver.kernel.step();
                    driver.drain()?;
                }
            }
            H::Advance { ms } => return driver.advance(ms),
            H::Kill { after } => driver.dies_after = Some(after),
            H::DiskFull { durable, runtime } => {
                (driver.disk.durable_fails, driver.disk.runtime_fails) = (durable, runtime);
            }
            H::LoseRecord { claims } => return self.lose_record(claims),
            H::HotPlug { .. } | H::HotPlugNext { .. } | H::HotUnplug { .. } | H::AgentComes => {
                return self.happen_plug(what);
            }
            H::Say { line } => driver.kernel.say(&line),
            H::Reboot => return self.reboot(),
            _ => return self.happen_identity(what),
        }
        Ok(())
    }

    /// Gives an order and waits for the answer, as far as it comes at once.
    pub fn order(&mut self, command: Command) -> Result<Option<Outcome>, Broken> {
        let request = self.driver.command(command);
        self.driver.drain()?;
        Ok(self.driver.answers.remove(&request))
    }

    /// Somebody defines a domain by other XML; libvirt may refuse that. One that runs goes on as it was started.
    pub fn edit(&mut self, vm: u8, edit: impl FnOnce(&Xml) -> Result<Xml, No>) {
        let guest = self.guest(vm);
        if matches!(guest.state, State::Off | State::Running(_))
            && let Ok(new) = edit(&guest.definition)
        {
            guest.definition = new;
        }
    }

    /// The same, for who has in mind what the domain is to be, and knows that libvirt takes it.
    pub fn define(&mut self, vm: u8, change: impl FnOnce(&mut Domain)) {
        self.edit(vm, |xml| Ok(changed(xml, change).unwrap()));
    }

    fn declare(&mut self, vm: u8, name: &ClaimName, profile: &str, count: u32) {
        let asks = |domain: &mut Domain| {
            domain.claims.retain(|c| c.name != *name);
            domain.claims.push(claim(name, profile, count));
            domain.devices.retain(|d| d.our_claim().is_none_or(|(other, _)| other != *name));
            domain.devices.extend((0..count).map(|index| HostDevice {
                source: HostDeviceSource::Mdev(MdevUuid::for_claim(domain.uuid, name, index)),
                alias: Some(alias_for(name, index)),
                managed: false,
            }));
        };
        self.edit(vm, |xml| changed(xml, asks));
    }

    fn copy(&mut self, from: u8, to: u8) {
        if from != to {
            let text = self.guests[&from].domain().text().to_owned();
            self.edit(to, |xml| Xml::defined(&people::copied(&text, &xml.name, xml.uuid)));
        }
    }

    fn undefine(&mut self, vm: u8) -> Result<(), Broken> {
        let uuid = self.guest(vm).definition.uuid;
        self.order(Command::DomainGone { uuid })?;
        let guest = self.guest(vm);
        guest.kept.definition = Some(guest.definition.clone());
        if guest.state == State::Off {
            guest.definition = Xml::plain(guest.definition.name.clone(), uuid);
        }
        Ok(())
    }

    fn plain(&mut self, vm: u8, slice: SliceId, managed: bool) {
        let device = people::hostdev_written(HostDeviceSource::of(slice), None, managed);
        self.edit(vm, |xml| xml.change(Print::Inactive, |def| def.attach(&device)));
    }

    /// What the machine is told, or what libvirt is told by the hook alone.
    fn call(&mut self, vm: u8, operation: Operation, extra: &str) -> RequestId {
        let xml = self.guests[&vm].domain();
        self.ask(calls::told(operation, extra, xml))
    }

    pub fn ask(&mut self, told: Result<HookCall, Verdict>) -> RequestId {
        match told {
            Ok(call) => self.driver.hook(call),
            Err(verdict) => {
                let request = self.driver.request();
                let answer = match verdict {
                    Verdict::Pass => HookAnswer::Proceed,
                    Verdict::Refused(refusal) => HookAnswer::Refuse(refusal),
                    Verdict::Edited(_) => unreachable!("nobody was asked"),
                };
                self.driver.told.insert(request, answer);
                request
            }
        }
    }

    pub fn start(&mut self, vm: u8) {
        let definition = self.guest(vm).definition.clone();
        self.begin(vm, &definition);
    }

    /// Starts a domain with this XML, its own or that of an image.
    pub fn begin(&mut self, vm: u8, xml: &Xml) {
        if self.libvirt_up && self.guest(vm).state == State::Off {
            self.guest(vm).live = Some(xml.prepared(self.next_pid));
            let request = self.call(vm, Operation::Prepare, "-");
            self.guest(vm).state = State::Asking(request);
        }
    }

    /// Takes libvirt one step on with a domain.
    pub fn next(&mut self, vm: u8) -> Result<(), Broken> {
        if !self.libvirt_up {
            return Ok(());
        }
        self.driver.drain()?;
        match self.guest(vm).state {
            State::Off | State::Running(_) => {}
            State::Asking(request) => {
                let Some(answer) = self.driver.told.remove(&request) else { return Ok(()) };
                match calls::heeded(Operation::Prepare, self.guests[&vm].domain(), answer) {
                    Verdict::Refused(refusal) => {
                        *self.refusals.entry(refusal.code).or_default() += 1;
                        self.guest(vm).state = State::Ended;
                    }
                    Verdict::Pass => self.launch(vm)?,
                    Verdict::Edited(_) => return Err(Broken::new("hook", "a start is edited")),
                }
            }
            State::Launched(pid) => {
                self.call(vm, Operation::Started, "-");
                self.guest(vm).state = State::Running(pid);
            }
            ended @ (State::Ended | State::Left) => {
                self.give_back_managed(vm);
                let why = if ended == State::Left { "migrated" } else { "destroyed" };
                self.call(vm, Operation::Release, why);
                self.guest(vm).state = State::Off;
            }
        }
        Ok(())
    }

    /// QEMU opens every device or ends.
    fn launch(&mut self, vm: u8) -> Result<(), Broken> {
        let pid = self.pid();
        let live = self.guests[&vm].domain().live(pid);
        let domain = live.read().clone();
        self.guest(vm).live = Some(live);
        let claimed = domain.devices.iter().filter(|d| d.our_claim().is_some()).map(slice_of);
        self.driver.launched(pid, domain.uuid, claimed.collect());
        let mut good = true;
        for device in &domain.devices {
            if let (true, HostDeviceSource::Pci(vf)) = (device.managed, device.source) {
                self.by_hand.insert(vf);
                bind_by_hand(&mut self.driver.kernel, vf, "vfio-pci");
            }
            let slice = slice_of(device);
            let opened = self.driver.kernel.open(pid, "qemu", slice);
            // One that somebody plugs in beside the claims may be one too many.
            if opened == Err(Errno::EIO) && domain.devices.iter().all(|d| d.our_claim().is_some()) {
                return Err(Broken::new("a_vm_opens_what_it_was_given", slice.to_string()));
            }
            good = good && opened.is_ok();
            if let (true, true, Some(vf)) = (good, device.our_claim().is_some(), slice.pci()) {
                clean_before_the_next(&self.driver, domain.uuid, slice)?;
                self.driver.used.insert(vf, domain.uuid);
            }
        }
        if good {
            self.starts += 1;
            self.guest(vm).state = State::Launched(pid);
        } else {
            self.end(pid);
            self.guest(vm).state = State::Ended;
        }
        self.driver.drain()
    }

    /// libvirt gives managed devices back to the host.
    fn give_back_managed(&mut self, vm: u8) {
        for device in self.guest(vm).domain().devices.clone() {
            if let (true, HostDeviceSource::Pci(vf)) = (device.managed, device.source)
                && self.driver.kernel.holders(SliceId::Vf(vf)).is_empty()
            {
                bind_by_hand(&mut self.driver.kernel, vf, "");
            }
        }
    }

    pub fn stop(&mut self, vm: u8, linger: bool) {
        if let State::Running(pid) | State::Launched(pid) = self.guest(vm).state {
            if linger {
                self.lingering.insert(pid);
            } else {
                self.end(pid);
            }
            self.guest(vm).state = State::Ended;
        }
    }

    fn end(&mut self, pid: u32) {
        self.driver.kernel.kill(pid);
        self.driver.vms.remove(&pid);
    }

    fn libvirt_down(&mut self) {
        self.libvirt_up = false;
        for vm in 0..VMS {
            match self.guest(vm).state {
                // The start is lost with libvirtd, and nobody will tell; the hook it ran dies with it.
                State::Asking(request) => {
                    let gone = self.driver.unanswered(request);
                    if gone {
                        self.driver.hook_gone(request);
                    }
                    self.guest(vm).state = State::Off;
                }
                State::Launched(pid) => {
                    self.end(pid);
                    self.guest(vm).state = State::Off;
                }
                _ => {}
            }
        }
    }

    fn libvirt_up(&mut self, tells: bool) {
        if self.libvirt_up {
            return;
        }
        self.libvirt_up = true;
        for vm in 0..VMS {
            match self.guest(vm).state {
                State::Running(_) => drop(self.call(vm, Operation::Reconnect, "-")),
                State::Ended | State::Left if !tells => self.guest(vm).state = State::Off,
                _ => {}
            }
        }
    }

    /// Hooks find their connection broken and ask the new daemon the same.
    fn ask_again(&mut self) -> Result<(), Broken> {
        for vm in 0..VMS {
            if let State::Asking(_) = self.guest(vm).state {
                let request = self.call(vm, Operation::Prepare, "-");
                self.guest(vm).state = State::Asking(request);
            }
        }
        for call in std::mem::take(&mut self.driver.lost) {
            self.driver.hook(call);
        }
        self.driver.drain()
    }

    fn lists(&mut self) {
        for question in [
            Command::Status,
            Command::ListParents,
            Command::ListProfiles,
            Command::ListTypes,
            Command::ListSlices,
            Command::ListClaims,
            Command::ListHistory { about: None, since: None },
            Command::AgentWork,
            Command::Plan,
        ] {
            self.driver.command(question);
        }
    }

    fn lose_record(&mut self, claims: bool) -> Result<(), Broken> {
        // Nobody could tell another's mdev from one of ours by the same name any more.
        let name = "gpu0".parse().unwrap();
        let named = |guest: &Guest| {
            let uuid = MdevUuid::for_claim(guest.domain().uuid, &name, 0);
            self.driver.foreign_mdevs.contains(&SliceId::Mdev(uuid))
        };
        if self.guests.values().any(named) {
            return Ok(());
        }
        self.driver.disk.runtime = None;
        if claims {
            self.driver.disk.durable = None;
        }
        self.driver.lost_record = true;
        self.driver.restart()
    }

    fn reboot(&mut self) -> Result<(), Broken> {
        self.driver.kernel.reboot();
        self.driver.kernel.settle();
        self.driver.forget_processes();
        self.driver.vms.clear();
        self.driver.foreign_mdevs.clear();
        self.driver.lost_record = false;
        self.lingering.clear();
        self.foreign_pids.clear();
        self.libvirt_up = true;
        for guest in self.guests.values_mut() {
            guest.state = State::Off;
        }
        self.plugging.clear();
        self.driver.restart()?;
        self.driver.deaths = 0;
        self.driver.lost.clear();
        Ok(())
    }
}

fn exists(kernel: &Kernel, slice: SliceId) -> bool {
    match slice {
        SliceId::Mdev(uuid) => kernel.link(&format!("/sys/bus/mdev/devices/{uuid}")).is_ok(),
        _ => true,
    }
}

/// `driverctl set-override`, libvirt's own binding; an empty name gives the function back.
pub fn bind_by_hand(kernel: &mut Kernel, function: PciAddress, driver: &str) {
    let dir = format!("/sys/bus/pci/devices/{function}");
    let present = link_name(kernel, &format!("{dir}/driver")).ok().flatten();
    if present.as_deref() == Some(driver) || !kernel.holders(SliceId::Vf(function)).is_empty() {
        return;
    }
    if driver == "vfio-pci" {
        let _ = kernel.load_module("vfio-pci");
    }
    let address = function.to_string();
    let _ = kernel.write(&format!("{dir}/driver_override"), format!("{driver}\n").as_bytes());
    if let Some(present) = present {
        let _ = kernel.write(&format!("/sys/bus/pci/drivers/{present}/unbind"), address.as_bytes());
    }
    let _ = kernel.write("/sys/bus/pci/drivers_probe", address.as_bytes());
}

/// A domain's XML after such a change.
fn changed(xml: &Xml, change: impl FnOnce(&mut Domain)) -> Result<Xml, No> {
    let mut domain = xml.read().clone();
    change(&mut domain);
    let new = Xml::defined(&people::defined_as(xml.text(), &domain))?;
    assert_eq!(*new.read(), domain);
    Ok(new)
}
