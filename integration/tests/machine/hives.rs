//! Random hosts of hives, random claims, daemons that die: whatever happens, a claim has all its slices or none, and
//! those of one fabric where it says so; and modes change only when nobody uses a VF.

use super::{SPX, ask, bound, domain, put, same};
use crate::domains::{claim, write_devices};
use crate::driver::Driver;
use crate::vgpu::order;
use gpuslice_core::domain::{ClaimRequest, Domain};
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::machine::{HookAnswer, HookCall, HookOperation};
use gpuslice_core::mode::Mode;
use gpuslice_core::numa::Pinned;
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::HostFile;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Act {
    Ask {
        vm: u8,
        claim: u8,
        count: u32,
        same: bool,
        near: Option<u8>,
    },
    Seen {
        vm: u8,
    },
    Start {
        vm: u8,
        dies: Option<u32>,
    },
    Stop {
        vm: u8,
        dies: Option<u32>,
    },
    Cordon {
        gpu: u8,
        on: bool,
    },
    /// `apply` of other modes.
    Modes {
        which: u8,
        dies: Option<u32>,
    },
}

/// Compute and memory modes that go with a number of VFs.
fn modes(vfs: u16) -> &'static [(&'static str, &'static str)] {
    match vfs {
        1 => &[("SPX", "NPS1"), ("CPX", "NPS1"), ("CPX", "NPS4")],
        2 => &[("DPX", "NPS1"), ("CPX", "NPS1")],
        _ => &[("QPX", "NPS1"), ("CPX", "NPS4"), ("QPX", "NPS4"), ("CPX", "NPS1")],
    }
}

#[derive(Debug, Clone)]
struct Plan {
    gpus: usize,
    vfs: u16,
    hive: usize,
    spread: bool,
    acts: Vec<Act>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let dies = prop_oneof![2 => Just(None), 1 => (0..40u32).prop_map(Some)];
    let act = prop_oneof![
        4 => (0..3u8, 0..2u8, 1..6u32, prop::bool::weighted(0.8), prop::option::weighted(0.3, 0..4u8))
            .prop_map(|(vm, claim, count, same, near)| Act::Ask { vm, claim, count, same, near }),
        1 => (0..3u8).prop_map(|vm| Act::Seen { vm }),
        4 => (0..3u8, dies.clone()).prop_map(|(vm, dies)| Act::Start { vm, dies }),
        3 => (0..3u8, dies.clone()).prop_map(|(vm, dies)| Act::Stop { vm, dies }),
        1 => (0..8u8, any::<bool>()).prop_map(|(gpu, on)| Act::Cordon { gpu, on }),
        2 => (0..4u8, dies).prop_map(|(which, dies)| Act::Modes { which, dies }),
    ];
    let gpus = prop_oneof![3 => Just(8usize), 1 => 1..8usize];
    let shape = (gpus, prop::sample::select(vec![1u16, 1, 2, 4]));
    let hive = prop::sample::select(vec![1usize, 2, 4, 8]);
    (shape, hive, any::<bool>(), prop::collection::vec(act, 1..24))
        .prop_map(|((gpus, vfs), hive, spread, acts)| Plan { gpus, vfs, hive, spread, acts })
}

fn config(spread: bool, vfs: u16, hive: usize, more: &str) -> String {
    let placement = if spread { "spread" } else { "pack" };
    format!(
        "placement = \"{placement}\"\n[[gpu]]\nmatch = {{ model = \"mi300x\" }}\n\
         layout = {{ vfs = {vfs}, fabric-sharing = {hive}{more} }}"
    )
}

/// Where a domain is, of the two nodes that eight GPUs are on.
fn pinned(which: u8) -> Pinned {
    let (memory, cpus) = match which {
        0 => ("0", ""),
        // The memory decides.
        1 => ("1", "0-3"),
        2 => ("", "9"),
        _ => ("0-1", ""),
    };
    Pinned { memory: memory.parse().unwrap(), cpus: cpus.parse().unwrap() }
}

struct Run {
    driver: Driver,
    gpus: Vec<PciAddress>,
    hive: usize,
    vfs: u16,
    spread: bool,
    profile: &'static str,
    vms: BTreeMap<u8, Domain>,
    refused: u32,
    started: u32,
}

impl Run {
    fn new(plan: &Plan) -> Self {
        let text = include_str!("../../../examples/hosts/mi300x-8.toml");
        let mut host = HostFile::parse(text).unwrap();
        host.functions.truncate(plan.gpus);
        let gpus = host.functions.iter().map(|f| f.address).collect();
        let mut driver = Driver::new(&host, &config(plan.spread, plan.vfs, plan.hive, "")).unwrap();
        order(&mut driver, Command::Apply).unwrap();
        driver.advance(60_000).unwrap();
        let profile = match plan.vfs {
            1 => SPX,
            2 => "amd-mi300x-vf2-dpx",
            _ => "amd-mi300x-vf4-qpx",
        };
        let vms = (0..3).map(|vm| (vm, domain(u128::from(vm) + 1))).collect();
        let (hive, refused, started) = (plan.hive, 0, 0);
        let (vfs, spread) = (plan.vfs, plan.spread);
        Self { driver, gpus, hive, vfs, spread, profile, vms, refused, started }
    }

    fn request(&self, of: u8, count: u32, alike: bool) -> ClaimRequest {
        let name = format!("c{of}");
        let plain = claim(&name.parse().unwrap(), self.profile, count);
        if alike { same(&name, self.profile, count) } else { plain }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Ask { vm, claim, count, same, near } => {
                let request = self.request(claim, count, same);
                let request = ClaimRequest { require_numa: near.map(pinned), ..request };
                let Self { driver, vms, .. } = self;
                let vm = vms.get_mut(&vm).unwrap();
                if bound(driver, vm) == 0
                    && let Err(refusal) = ask(driver, vm, request)
                {
                    assert!(refusal.hint.is_some(), "{refusal:?}");
                    self.refused += 1;
                }
            }
            Act::Seen { vm } => {
                let Self { driver, vms, .. } = self;
                let vm = vms.get_mut(&vm).unwrap();
                let shut_off = bound(driver, vm) == 0;
                let command = Command::DomainSeen { domain: vm.clone(), shut_off };
                if let (Ok(Answer::Domain { devices, .. }), true) =
                    (order(driver, command), shut_off)
                {
                    write_devices(vm, |_| true, devices);
                }
            }
            Act::Start { vm, dies } => self.hook(vm, HookOperation::Prepare, dies),
            Act::Stop { vm, dies } => self.hook(vm, HookOperation::Release, dies),
            Act::Modes { which, dies } => self.set_modes(which, dies),
            Act::Cordon { gpu, on } => {
                let parent = ParentId::Pci(self.gpus[usize::from(gpu) % self.gpus.len()]);
                let reason = String::new();
                let command = if on {
                    Command::Cordon { parent, reason }
                } else {
                    Command::Uncordon { parent }
                };
                order(&mut self.driver, command).unwrap();
            }
        }
    }

    /// Refused while a VM runs; otherwise the GPUs are set so, whatever becomes of the daemon in between.
    fn set_modes(&mut self, which: u8, dies: Option<u32>) {
        let legal = modes(self.vfs);
        let (compute, memory) = legal[usize::from(which) % legal.len()];
        let more = format!(", compute = \"{compute}\", memory = \"{memory}\"");
        self.driver.config = config(self.spread, self.vfs, self.hive, &more);
        let busy = !self.driver.machine.runtime().assignments.is_empty();
        let before = self.modes_now();
        self.driver.dies_after = dies;
        let request = self.driver.command(Command::Apply);
        self.driver.advance(60_000).unwrap();
        self.driver.dies_after = None;
        self.driver.advance(60_000).unwrap();
        let answered = self.driver.answers.remove(&request);
        let wanted = vec![format!("{compute} {memory}"); self.gpus.len()];
        match answered {
            Some(Ok(_)) => assert_eq!(self.modes_now(), wanted),
            _ if busy => assert_eq!(self.modes_now(), before, "{answered:?}"),
            Some(Err(refusal)) => panic!("{refusal:?}"),
            // The daemon died: whoever asks again gets it.
            None => {
                // But for a step of it that may still be under way, which has its time.
                let again = (0..10).any(|_| {
                    self.driver.advance(60_000).unwrap();
                    order(&mut self.driver, Command::Apply).is_ok()
                });
                self.driver.advance(60_000).unwrap();
                assert!(again);
                assert_eq!(self.modes_now(), wanted);
            }
        }
    }

    fn modes_now(&self) -> Vec<String> {
        let seen = self.driver.machine.observation();
        let of = |gpu: &PciAddress, mode| {
            let value = seen.mode(&ParentId::Pci(*gpu), mode);
            value.map_or_else(String::new, ToString::to_string)
        };
        let both = |gpu| format!("{} {}", of(gpu, Mode::Compute), of(gpu, Mode::Memory));
        self.gpus.iter().map(both).collect()
    }

    /// What libvirt does: it asks, and a start that is refused, or whose hook ends without an answer, it ends.
    fn hook(&mut self, vm: u8, operation: HookOperation, dies: Option<u32>) {
        let domain = self.vms[&vm].clone();
        if operation == HookOperation::Prepare && bound(&self.driver, &domain) != 0 {
            return;
        }
        self.driver.dies_after = dies;
        let request = self.driver.hook(HookCall::new(operation, domain.clone()));
        self.driver.advance(5_000).unwrap();
        self.driver.dies_after = None;
        self.driver.lost.clear();
        self.driver.advance(5_000).unwrap();
        let told = self.driver.told.remove(&request);
        let asked: usize = domain.claims.iter().map(|c| usize::try_from(c.count).unwrap()).sum();
        if operation == HookOperation::Prepare && told == Some(HookAnswer::Proceed) {
            assert_eq!(bound(&self.driver, &domain), asked);
            self.started += 1;
            return;
        }
        if let Some(HookAnswer::Refuse(refusal)) = &told {
            assert!(refusal.hint.is_some(), "{refusal:?}");
            self.refused += 1;
        }
        let operation = HookOperation::Release;
        self.driver.hook(HookCall::new(operation, domain.clone()));
        self.driver.advance(30_000).unwrap();
        assert_eq!(bound(&self.driver, &domain), 0, "{told:?}");
    }

    /// How many GPUs share their memory: none with several VFs, nor where one is missing and not all share.
    fn linked(&self) -> usize {
        if self.vfs == 1 && (self.gpus.len() == 8 || self.hive == 8) { self.hive } else { 1 }
    }

    fn hive_of(&self, gpu: PciAddress) -> usize {
        self.gpus.iter().position(|other| *other == gpu).unwrap() / self.linked()
    }

    fn check(&self) {
        let seen = self.driver.machine.observation();
        let durable = self.driver.machine.durable();
        assert_eq!(*durable, self.driver.disk.durable());
        let mut homes: Vec<PciAddress> = Vec::new();
        for (key, claim) in &durable.claims {
            let count = usize::try_from(claim.request.count).unwrap();
            assert_eq!(claim.home.len(), count, "{key}");
            homes.extend(&claim.home);
            let all = &self.driver.machine.runtime().assignments;
            let own: Vec<_> = all.values().filter(|a| a.claim == *key).collect();
            assert!(own.is_empty() || own.len() == count, "{key}: {own:?}");
            let live = claim.home.iter().map(|home| seen.vfs[home].pf);
            let run = own.iter().filter_map(|a| a.parent.pci());
            let gpus: Vec<PciAddress> = live.chain(run).collect();
            let near =
                claim.request.require_numa.as_ref().map(|near| near.within(seen.nodes.as_deref()));
            for gpu in near.iter().flat_map(|near| gpus.iter().map(move |gpu| (near, gpu))) {
                let (near, gpu) = gpu;
                assert!(near.has(seen.numa_node(&ParentId::Pci(*gpu))), "{key}: {gpu} {near:?}");
            }
            let mut hives: Vec<usize> = gpus.into_iter().map(|gpu| self.hive_of(gpu)).collect();
            hives.dedup();
            assert!(!claim.request.same_fabric || hives.len() == 1, "{key}: {claim:?}");
        }
        let before = homes.len();
        homes.sort();
        homes.dedup();
        assert_eq!(homes.len(), before, "two claims live on one VF");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_or_none_of_one_fabric(plan in plans()) {
        let mut run = Run::new(&plan);
        for act in &plan.acts {
            run.act(act);
            run.check();
        }
        // What was asked fits what there is when it is asked alone.
        let mut fresh = Run::new(&plan);
        let room = plan.gpus.min(fresh.linked()) * usize::from(plan.vfs);
        let mut vm = domain(9);
        for count in 1..=u32::try_from(plan.gpus * usize::from(plan.vfs)).unwrap().min(12) {
            let request = fresh.request(0, count, true);
            let fits = usize::try_from(count).unwrap() <= room;
            prop_assert_eq!(ask(&mut fresh.driver, &mut vm, request.clone()).is_ok(), fits);
            if !fits {
                put(&mut vm, request, Vec::new());
            }
        }
    }
}
