//! Hot-plug: the agent asks for slices, libvirt plugs them in, the agent tells. It can go wrong, and the agent can
//! die, between any two of these.

use crate::agent::Runs;
use crate::directed::{after, all, attach, declare, phases, run, runs, stop};
use crate::domains::claim;
use crate::happening::Happening;
use crate::happening::Happening as H;
use crate::invariants::{Broken, slice_of, vfs_of};
use crate::libvirt::Print;
use crate::people::hostdev_written;
use crate::world::{State, World, bind_by_hand};
use gpuslice_core::domain::{ClaimRequest, HostDeviceSource};
use gpuslice_core::history::Wanted;
use gpuslice_core::ids::{ClaimKey, ClaimName, Owner, PciAddress, SliceId};
use gpuslice_core::machine::RequestId;
use gpuslice_core::request::{Answer, Command, DeviceToWrite};
use gpuslice_core::state::Phase;
use gpuslice_libvirt::writing::{self, Into, Plugs as _};
use std::cell::RefCell;

/// A hot-plug the agent has asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    request: RequestId,
    claim: ClaimRequest,
    keep: bool,
}

impl World {
    pub fn plug(&mut self, vm: u8, name: &ClaimName, profile: &str, count: u32, keep: bool) {
        let guest = &self.guests[&vm];
        if !matches!(guest.state, State::Running(_)) {
            return;
        }
        let claim = claim(name, profile, count);
        let in_definition = guest.definition.claims.iter().any(|c| c.name == *name);
        let request = self.driver.command(Command::Plug {
            domain: guest.definition.uuid,
            domain_name: guest.definition.name.clone(),
            request: claim.clone(),
            pool: None,
            reserve: None,
            keep: keep || in_definition,
        });
        self.plugging.insert(vm, Asked { request, claim, keep });
    }

    /// The agent goes on, if it has its answer; libvirt does what it is asked if it can. `dies`: before it tells.
    pub fn plug_next(&mut self, vm: u8, dies: bool) -> Result<(), Broken> {
        self.driver.drain()?;
        let Some(asked) = self.plugging.get(&vm).cloned() else { return Ok(()) };
        let Some(outcome) = self.driver.answers.remove(&asked.request) else { return Ok(()) };
        self.plugging.remove(&vm);
        let devices = match outcome {
            Ok(Answer::Claimed { devices, .. }) => devices,
            Ok(other) => return Err(Broken::new("plug", format!("{other:?}"))),
            Err(refusal) => {
                *self.refusals.entry(refusal.code).or_default() += 1;
                self.plug_refused = Some(refusal);
                return Ok(());
            }
        };
        let plugged = self.libvirt_plugs(vm, &asked, &devices);
        if dies {
            return Ok(());
        }
        let domain = self.guests[&vm].domain().read().clone();
        let tell = if plugged {
            Command::DomainRuns { domain }
        } else {
            let owner = Owner::Domain(domain.uuid);
            Command::PlugFailed { key: ClaimKey { owner, name: asked.claim.name } }
        };
        self.order(tell).map(drop)
    }

    /// A VM that runs, with what changes it.
    fn runs(&mut self, vm: u8) -> Option<Runs<'_>> {
        let guest = self.guests.get_mut(&vm).unwrap();
        let (State::Running(pid), Some(live)) = (guest.state, guest.live.as_mut()) else {
            return None;
        };
        Some(Runs {
            pid,
            kernel: RefCell::new(&mut self.driver.kernel),
            live: RefCell::new(live),
            definition: RefCell::new(&mut guest.definition),
            opened: RefCell::default(),
        })
    }

    /// All of them or none.
    fn libvirt_plugs(&mut self, vm: u8, asked: &Asked, devices: &[DeviceToWrite]) -> bool {
        let definition = self.guests[&vm].definition.read().clone();
        let live = self.guests[&vm].domain().read().clone();
        let Some(runs) = self.runs(vm) else { return false };
        let into = asked.keep.then_some(&definition);
        if writing::plug(&runs, &live, into, &asked.claim, devices).is_err() {
            return false;
        }
        let (pid, opened) = (runs.pid, runs.opened.into_inner());
        self.plugs += u32::try_from(opened.len()).unwrap();
        self.driver.plugged_in(pid, &opened);
        true
    }

    /// The guest lets go of a claim's devices. Somebody may have asked libvirt for it behind the agent's back.
    pub fn hot_unplug(&mut self, vm: u8, name: &ClaimName, by_hand: bool) -> Result<(), Broken> {
        let live = self.guests[&vm].domain().read().clone();
        let uuid = live.uuid;
        let Some(runs) = self.runs(vm) else { return Ok(()) };
        let of_claim =
            live.devices.iter().filter(|d| d.our_claim().is_some_and(|(n, _)| n == *name));
        let gone: Vec<_> = of_claim.collect();
        if gone.is_empty() {
            return Ok(());
        }
        for device in &gone {
            runs.unplug(device.alias.as_deref().unwrap(), Into::LIVE).unwrap();
        }
        let pid = runs.pid;
        if let Some(vm) = self.driver.vms.get_mut(&pid) {
            for device in &gone {
                vm.claimed.remove(&slice_of(device));
            }
        }
        // While the claim is still in its XML.
        let domain = self.guests[&vm].domain().read().clone();
        self.order(Command::DomainRuns { domain })?;
        if by_hand {
            return Ok(());
        }
        let live = self.guests[&vm].domain().read().clone();
        if let Some(runs) = self.runs(vm) {
            writing::forget(&runs, &live, name).unwrap();
        }
        let key = ClaimKey { owner: Owner::Domain(uuid), name: name.clone() };
        if let Some(Ok(_)) = self.order(Command::Unclaim { key, force: true })? {
            self.take_out(vm, name)?;
        }
        Ok(())
    }

    /// The agent comes (back) and looks at everything that runs.
    pub fn agent_comes(&mut self) -> Result<(), Broken> {
        self.plugging.clear();
        let running: Vec<_> = self
            .guests
            .values()
            .filter(|g| matches!(g.state, State::Running(_)))
            .map(|g| g.domain().read().clone())
            .collect();
        for domain in running {
            self.order(Command::DomainRuns { domain })?;
        }
        Ok(())
    }

    pub fn happen_plug(&mut self, what: &Happening) -> Result<(), Broken> {
        match what {
            Happening::HotPlug { vm, name, profile, count, keep } => {
                self.plug(*vm, name, profile, *count, *keep);
                Ok(())
            }
            Happening::HotPlugNext { vm, dies } => self.plug_next(*vm, *dies),
            Happening::HotUnplug { vm, name, by_hand } => self.hot_unplug(*vm, name, *by_hand),
            Happening::AgentComes => self.agent_comes(),
            _ => Ok(()),
        }
    }
}

fn plug(profile: &str, keep: bool) -> H {
    let name = "gpu1".parse().unwrap();
    H::HotPlug { vm: 0, name, profile: profile.to_owned(), count: 1, keep }
}

fn plugged(dies: bool) -> H {
    H::HotPlugNext { vm: 0, dies }
}

/// Whether the claim that was plugged in is known.
fn claimed(world: &World) -> bool {
    world.driver.machine.durable().claims.keys().any(|key| key.name.as_str() == "gpu1")
}

#[test]
fn what_is_plugged_in_goes_with_the_vm_and_its_claim_with_it() {
    for (profile, keep) in
        [("nvidia-a40-4q", false), ("amd-74a1-vf8", false), ("amd-74a1-vf8", true)]
    {
        let mut world = after(&[declare(0)]);
        all(&mut world, &run(0));
        all(&mut world, &[plug(profile, keep), plugged(false)]);
        assert_eq!(phases(&world), [Phase::Attached; 2], "{:?}", world.plug_refused);
        assert!(claimed(&world));
        all(&mut world, &stop(0));
        assert_eq!((phases(&world), claimed(&world)), (vec![], keep));
        world.finish().unwrap();
    }
}

#[test]
fn what_the_guest_lets_go_of_is_released_whoever_unplugged_it() {
    for by_hand in [false, true] {
        let mut world = after(&[declare(0)]);
        all(&mut world, &run(0));
        all(&mut world, &[plug("amd-74a1-vf8", false), plugged(false)]);
        let name = "gpu1".parse().unwrap();
        all(&mut world, &[H::HotUnplug { vm: 0, name, by_hand }]);
        assert_eq!((phases(&world), runs(&world, 0)), (vec![Phase::Attached], true));
        assert!(!claimed(&world));
        // Right away again.
        all(&mut world, &[plug("amd-74a1-vf8", false), plugged(false)]);
        assert_eq!(phases(&world), [Phase::Attached; 2]);
        world.finish().unwrap();
    }
}

#[test]
fn an_agent_that_dies_leaves_nothing_and_takes_nothing_away() {
    // Before libvirt was asked: nobody holds it, and in time it is taken back.
    let mut world = after(&[declare(0)]);
    all(&mut world, &run(0));
    all(&mut world, &[plug("amd-74a1-vf8", true), H::AgentComes, H::Advance { ms: 300_000 }]);
    assert_eq!(phases(&world), [Phase::Prepared, Phase::Attached]);
    all(&mut world, &[H::Advance { ms: 400_000 }]);
    assert_eq!(phases(&world), [Phase::Attached]);

    // After libvirt did it: the next agent sees it, and without one the daemon finds out.
    for comes in [true, false] {
        let mut world = after(&[declare(0)]);
        all(&mut world, &run(0));
        all(&mut world, &[plug("amd-74a1-vf8", false), plugged(true)]);
        assert!(phases(&world).contains(&Phase::Prepared));
        world.driver.restart().unwrap();
        world.driver.drain().unwrap();
        let then = if comes { H::AgentComes } else { H::Advance { ms: 700_000 } };
        all(&mut world, &[then]);
        assert_eq!(phases(&world), [Phase::Attached; 2], "comes: {comes}");
        world.finish().unwrap();
    }
}

/// VFs that are bound from the start can be opened whoever has them.
fn bound_from_the_start(vm: u8) -> World {
    let mut world = after(&[H::Edit { config: 2 }, H::Apply]);
    all(&mut world, &run(vm));
    world
}

#[test]
fn what_libvirt_plugs_in_after_it_was_taken_back_is_its_vm_s_again() {
    for dies in [true, false] {
        let mut world = bound_from_the_start(0);
        all(&mut world, &[plug("amd-74a1-vf2", true), H::Advance { ms: 700_000 }]);
        assert_eq!(phases(&world), [], "it is taken back");
        // libvirt hung for so long.
        all(&mut world, &[plugged(dies)]);
        if dies {
            assert_eq!(phases(&world), []);
            all(&mut world, &[H::AgentComes]);
        }
        assert_eq!(phases(&world), [Phase::Attached], "the agent died: {dies}");
        all(&mut world, &stop(0));
        assert_eq!(phases(&world), []);
        world.finish().unwrap();
    }
}

#[test]
fn what_libvirt_plugs_in_after_another_was_given_it_is_in_one_of_them() {
    let mut world = bound_from_the_start(0);
    all(&mut world, &run(1));
    all(&mut world, &[plug("amd-74a1-vf2", true), H::Advance { ms: 700_000 }]);
    let (name, profile) = ("gpu1".parse().unwrap(), "amd-74a1-vf2".to_owned());
    all(&mut world, &[H::HotPlug { vm: 1, name, profile, count: 1, keep: false }, plugged(true)]);
    all(&mut world, &[H::HotPlugNext { vm: 1, dies: false }]);
    assert_eq!(phases(&world), [Phase::Releasing], "the other finds it in use");
    all(&mut world, &stop(0));
    assert_eq!(phases(&world), []);
    world.finish().unwrap();
}

#[test]
fn a_vm_that_stops_before_it_is_plugged_in_takes_it_along() {
    let mut world = after(&[declare(0)]);
    all(&mut world, &run(0));
    all(&mut world, &[plug("nvidia-a40-4q", false)]);
    assert!(phases(&world).contains(&Phase::Prepared));
    all(&mut world, &stop(0));
    assert_eq!((phases(&world), claimed(&world)), (vec![], false));
    // libvirt finds no device, and the agent says so.
    all(&mut world, &run(0));
    all(&mut world, &[plugged(false)]);
    assert_eq!((phases(&world), runs(&world, 0)), (vec![Phase::Attached], true));
    world.finish().unwrap();
}

#[test]
fn a_hot_plug_that_is_refused_leaves_the_claim_as_it_was() {
    let mut world = after(&[declare(0)]);
    all(&mut world, &run(0));
    all(&mut world, &[plug("no-such", true), plugged(false)]);
    assert_eq!((phases(&world), claimed(&world)), (vec![Phase::Attached], false));
    for (durable, runtime) in [(u32::MAX, 0), (0, u32::MAX)] {
        all(&mut world, &[H::DiskFull { durable, runtime }, plug("nvidia-a40-4q", true)]);
        all(&mut world, &[plugged(false), H::DiskFull { durable: 0, runtime: 0 }, H::Lists]);
        assert_eq!((phases(&world), claimed(&world)), (vec![Phase::Attached], false));
    }
    world.finish().unwrap();
}

fn asked(world: &World) -> Vec<String> {
    let claims = world.driver.machine.durable().claims.values();
    claims.map(|claim| claim.profile.to_string()).collect()
}

/// A VM whose claim was something else before, and is not in it now.
fn known_before(profile: &str) -> World {
    let mut world = after(&[]);
    all(&mut world, &run(0));
    let name = "gpu1".parse().unwrap();
    let unplug = H::HotUnplug { vm: 0, name, by_hand: true };
    all(&mut world, &[plug(profile, true), plugged(false), unplug]);
    assert_eq!((asked(&world), phases(&world)), (vec![profile.to_owned()], vec![]));
    world
}

/// Should the record be lost, the claim alone tells whose a slice is that comes after its hot-plug was refused.
#[test]
fn a_claim_is_as_before_a_refused_hot_plug_once_its_slices_are_back() {
    // It was a VF before, or an mdev of the same name.
    for before in ["amd-74a1-vf8", "mtty-1"] {
        for (restarted, lost) in [(false, false), (true, false), (true, true)] {
            let mut world = known_before(before);
            let plug = plug("nvidia-a40-4q", true);
            all(&mut world, &[H::Steps { on: true }, plug, H::Advance { ms: 16_000 }]);
            all(&mut world, &[plugged(false)]);
            assert_eq!(world.plug_refused.as_ref().unwrap().code.as_str(), "device-stuck");
            assert_eq!(asked(&world), ["nvidia-a40-4q"]);
            if lost {
                all(&mut world, &[H::LoseRecord { claims: false }]);
                assert_eq!(phases(&world), [Phase::Prepared], "it is found by its name");
            } else if restarted {
                world.driver.restart().unwrap();
                world.driver.drain().unwrap();
            }
            all(&mut world, &[H::Steps { on: false }, H::Advance { ms: 700_000 }]);
            // Without the record the next daemon cannot know what slept, nor that it has ended.
            let stuck: Vec<_> =
                world.driver.machine.durable().quarantines.keys().cloned().collect();
            assert_eq!(stuck.len(), usize::from(lost));
            for parent in stuck {
                all(&mut world, &[H::Uncordon { parent }, H::Advance { ms: 60_000 }]);
            }
            assert_eq!((asked(&world), phases(&world)), (vec![before.to_owned()], vec![]));
            assert!(world.driver.disk.durable().plugs.is_empty());
            world.finish().unwrap();
        }
    }
}

/// libvirt does not plug in what was prepared, and the agent tells, or the daemon finds out.
#[test]
fn killed_at_each_write_a_hot_plug_that_libvirt_refuses_is_undone() {
    for before in [Some("amd-74a1-vf8"), Some("mtty-1"), None] {
        for tells in [true, false] {
            for kill in 0..24 {
                let mut world = match before {
                    Some(before) => known_before(before),
                    None => after(&run(0)),
                };
                all(&mut world, &[H::Kill { after: kill }, plug("nvidia-a40-4q", true)]);
                let owner = Owner::Domain(world.guests[&0].domain().uuid);
                let key = ClaimKey { owner, name: "gpu1".parse().unwrap() };
                if tells {
                    world.order(Command::PlugFailed { key }).unwrap();
                }
                all(&mut world, &[H::Advance { ms: 700_000 }]);
                world.driver.dies_after = None;
                world.driver.restart().unwrap();
                world.driver.advance(700_000).unwrap();
                let before: Vec<String> = before.into_iter().map(str::to_owned).collect();
                let how = format!("{before:?}, told {tells}, killed after {kill}");
                assert_eq!((asked(&world), phases(&world)), (before.clone(), vec![]), "{how}");
                assert!(world.driver.disk.durable().plugs.is_empty(), "{how}");
                if kill % 8 == 0 {
                    world.plugging.clear();
                    world.finish().unwrap();
                }
            }
        }
    }
}

#[test]
fn a_claim_stays_as_it_was_plugged_in_over_restarts() {
    for kill in 0..12 {
        let mut world = known_before("amd-74a1-vf8");
        all(&mut world, &[plug("nvidia-a40-4q", true)]);
        assert!(!world.driver.disk.durable().plugs.is_empty());
        all(&mut world, &[H::Kill { after: kill }, plugged(false), H::AgentComes]);
        world.driver.dies_after = None;
        assert!(world.driver.disk.durable().plugs.is_empty());
        all(&mut world, &stop(0));
        assert_eq!((asked(&world), phases(&world)), (vec!["nvidia-a40-4q".to_owned()], vec![]));
        world.finish().unwrap();
    }
}

/// Its home was nobody's while it asked for something else.
#[test]
fn a_home_that_was_given_away_meanwhile_is_not_had_twice() {
    let mut world = known_before("amd-74a1-vf8");
    let homes = |world: &World| {
        let claims = world.driver.machine.durable().claims.values();
        claims.flat_map(|claim| claim.home.clone()).collect::<Vec<_>>()
    };
    let [home] = homes(&world).try_into().unwrap();
    all(&mut world, &[plug("nvidia-a40-4q", true)]);
    let (name, profile) = ("gpu0".parse().unwrap(), "amd-74a1-vf8".to_owned());
    all(&mut world, &[H::Attach { vm: 1, name, profile, count: 8, pool: false, reserve: false }]);
    assert!(homes(&world).contains(&home) && homes(&world).len() == 8);
    let owner = Owner::Domain(world.guests[&0].domain().uuid);
    let key = ClaimKey { owner, name: "gpu1".parse().unwrap() };
    world.order(Command::PlugFailed { key: key.clone() }).unwrap();
    assert_eq!(homes(&world).len(), 8);
    assert!(world.driver.machine.durable().claims[&key].home.is_empty());
    world.plugging.clear();
    world.finish().unwrap();
}

#[test]
fn what_became_of_a_claim_since_is_not_undone_with_a_refused_hot_plug() {
    let name = || "gpu1".parse().unwrap();
    let ended = H::Detach { vm: 0, name: name(), force: true };
    let profile = "nvidia-a40-4q".to_owned();
    let anew = H::Attach { vm: 0, name: name(), profile, count: 1, pool: false, reserve: true };
    for (then, left) in [(ended, vec![]), (anew, vec![("nvidia-a40-4q".to_owned(), true)])] {
        let mut world = after(&[]);
        all(&mut world, &run(0));
        let unplug = H::HotUnplug { vm: 0, name: name(), by_hand: true };
        all(&mut world, &[plug("amd-74a1-vf8", true), plugged(false), unplug]);
        let late = [H::Steps { on: true }, plug("nvidia-a40-4q", true), H::Advance { ms: 16_000 }];
        all(&mut world, &late);
        all(&mut world, &[plugged(false), then, H::Steps { on: false }, H::Advance { ms: 1000 }]);
        let claims = world.driver.machine.durable().claims.values();
        let claims: Vec<_> =
            claims.map(|claim| (claim.profile.to_string(), claim.reserve)).collect();
        assert_eq!((claims, phases(&world)), (left, vec![]));
        world.finish().unwrap();
    }
}

/// What was picked in a dialog is with a VM by a claim of that run, which its XML does not say.
#[test]
fn what_was_picked_and_what_is_plugged_in_are_two() {
    let config = "[[gpu]]\nmatch = { address = \"0000:41:00.0\" }\n\
                  layout = { park = { nvidia-a40-4q = 1 } }\n";
    let mut world = after(&[]);
    config.clone_into(&mut world.driver.config);
    all(&mut world, &[H::Apply, H::Advance { ms: 1000 }]);
    let mdevs = world.driver.machine.observation().mdevs.keys();
    let one = SliceId::Mdev(mdevs.copied().find(|uuid| uuid.is_parked()).unwrap());
    all(&mut world, &[H::Plain { vm: 0, slice: one, managed: false }]);
    all(&mut world, &run(0));
    assert_eq!(phases(&world), [Phase::Attached]);
    // The claim of the run is no claim of that name, whatever it asks for.
    for profile in ["nvidia-a40-4q", "mtty-1"] {
        let name = "gpu0".parse().unwrap();
        let (profile, count) = (profile.to_owned(), 1);
        all(&mut world, &[H::HotPlug { vm: 0, name, profile, count, keep: false }, plugged(false)]);
        let refusal = world.plug_refused.take().unwrap();
        assert_eq!(refusal.code.as_str(), "in-use", "{refusal}");
        assert_eq!(phases(&world), [Phase::Attached], "it stays as it is");
    }
    all(&mut world, &[plug("nvidia-a40-4q", false), plugged(false)]);
    assert_eq!(phases(&world), [Phase::Attached; 2]);
    let owners = |world: &World| -> Vec<(SliceId, String)> {
        let assignments = world.driver.machine.runtime().assignments.iter();
        assignments.map(|(slice, a)| (*slice, a.claim.name.to_string())).collect()
    };
    let both = owners(&world);
    assert!(both.contains(&(one, "gpu0".to_owned())), "{both:?}");
    assert!(both.iter().any(|(slice, name)| *slice != one && name == "gpu1"), "{both:?}");
    // Neither is taken for the other by who looks later, nor when they leave.
    all(&mut world, &[H::AgentComes]);
    assert_eq!(owners(&world), both);
    all(&mut world, &stop(0));
    assert_eq!(phases(&world), []);
    all(&mut world, &[H::Seen { vm: 0 }]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    world.finish().unwrap();
}

/// The VFs of a card whose slices are to be proven clean.
fn proven() -> (World, Vec<PciAddress>) {
    let mut world = after(&[]);
    let card = "0000:0c:00.0";
    world.driver.config = format!(
        "[[gpu]]\nmatch = {{ address = \"{card}\" }}\nlayout = {{ vfs = \"all\", wipe = \"required\" }}\n"
    );
    all(&mut world, &[H::Apply]);
    let vfs = vfs_of(&world.driver.kernel, card.parse().unwrap());
    (world, vfs)
}

fn in_hands_of(world: &World, vf: PciAddress) -> Option<&str> {
    let hold = world.driver.machine.runtime().foreign.get(&SliceId::Vf(vf));
    hold.map(|hold| hold.name.as_str())
}

/// `virsh attach-device --live`, of which libvirt tells no hook.
fn plug_plain(world: &mut World, vm: u8, vf: PciAddress) {
    let uuid = world.guests[&vm].domain().uuid;
    bind_by_hand(&mut world.driver.kernel, vf, "vfio-pci");
    let device = hostdev_written(HostDeviceSource::Pci(vf), None, true);
    world.runs(vm).unwrap().plug("", &device, Into::LIVE).unwrap();
    world.driver.used.insert(vf, uuid);
}

/// Out of the XML, as libvirt takes it when QEMU says that it is out of the guest.
fn unplug_plain(world: &mut World, vm: u8, pid: u32) {
    let live = world.guests.get_mut(&vm).unwrap().live.as_mut().unwrap();
    *live = live.change(Print::Live(pid), |def| def.detach("hostdev0")).unwrap();
}

#[test]
fn what_is_plugged_in_without_a_claim_is_its_vm_s_until_it_stops() {
    let (mut world, vfs) = proven();
    all(&mut world, &run(1));
    plug_plain(&mut world, 1, vfs[0]);
    all(&mut world, &[H::Seen { vm: 1 }]);
    let name = world.guests[&1].domain().name.clone();
    assert_eq!(in_hands_of(&world, vfs[0]), Some(name.as_str()));
    // Not for the length of a start only.
    all(&mut world, &[H::Advance { ms: 1_000_000 }, H::Seen { vm: 1 }]);
    all(&mut world, &[H::Advance { ms: 1_000_000 }]);
    assert_eq!(in_hands_of(&world, vfs[0]), Some(name.as_str()));
    all(&mut world, &[H::Plain { vm: 2, slice: SliceId::Vf(vfs[0]), managed: true }]);
    all(&mut world, &stop(1));
    assert_eq!((in_hands_of(&world, vfs[0]), world.driver.used.len()), (None, 0), "it was reset");
    world.finish().unwrap();
}

#[test]
fn what_was_given_to_another_meanwhile_is_not_whose_xml_has_it() {
    let (mut world, _) = proven();
    all(&mut world, &[attach(0), H::Start { vm: 0 }]);
    let home = world.guests[&0].domain().devices[0].source.slice().pci().unwrap();
    all(&mut world, &run(1));
    plug_plain(&mut world, 1, home);
    all(&mut world, &[H::Seen { vm: 1 }]);
    assert_eq!((in_hands_of(&world, home), phases(&world)), (None, vec![Phase::Prepared]));
}

#[test]
fn what_is_unplugged_is_its_vm_s_until_it_has_let_go() {
    for told_by_hook in [false, true] {
        let (mut world, vfs) = proven();
        // The hook is not asked of a domain that has no device left.
        for vf in &vfs[..if told_by_hook { 2 } else { 1 }] {
            all(&mut world, &[H::Plain { vm: 1, slice: SliceId::Vf(*vf), managed: true }]);
        }
        all(&mut world, &run(1));
        let State::Running(pid) = world.guests[&1].state else { panic!("{:?}", world.refusals) };
        world.driver.used.insert(vfs[0], world.guests[&1].domain().uuid);
        unplug_plain(&mut world, 1, pid);
        let tell: &[H] = match told_by_hook {
            false => &[H::Seen { vm: 1 }],
            true => &[H::LibvirtDown, H::LibvirtUp { tells: true }],
        };
        all(&mut world, tell);
        all(&mut world, &[H::Advance { ms: 1_000_000 }]);
        assert!(in_hands_of(&world, vfs[0]).is_some(), "while it is held");
        world.driver.kernel.close(pid, SliceId::Vf(vfs[0]));
        all(&mut world, tell);
        assert_eq!((in_hands_of(&world, vfs[0]), world.driver.used.len()), (None, 0));
        assert_eq!(in_hands_of(&world, vfs[1]).is_some(), told_by_hook);
        let ended = world.driver.disk.history.rows(Wanted::default());
        assert!(ended.iter().any(|row| row.reason.as_deref() == Some("detached")), "{ended:?}");
        all(&mut world, &[H::Plain { vm: 2, slice: SliceId::Vf(vfs[0]), managed: true }]);
        all(&mut world, &run(2));
        assert!(runs(&world, 1) && runs(&world, 2), "{:?}", world.refusals);
        world.finish().unwrap();
    }
}
