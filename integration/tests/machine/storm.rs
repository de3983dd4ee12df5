//! More VMs than slices, all started at once as libvirt's autostart does: as many run as there are slices, none shares
//! one, and each of the others runs as soon as one has ended.

use crate::driver::Driver;
use crate::invariants::slice_of;
use crate::vgpu::order;
use crate::{domains::claim, invariants::Vm};
use gpuslice_core::domain::{Domain, HostDevice};
use gpuslice_core::ids::{Owner, SliceId};
use gpuslice_core::machine::{HookAnswer, HookCall, HookOperation};
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::HostFile;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

const VMS: u32 = 60;

/// Hosts, a profile, and how many slices of it they have.
fn hosts() -> [(Driver, &'static str, usize); 3] {
    let five = include_str!("../../../examples/hosts/sriov-8.toml");
    let mut five = HostFile::parse(five).unwrap();
    five.functions.truncate(5);
    // Two cards of twenty.
    let mdev = include_str!("../../../examples/hosts/mdev.toml");
    let mdev = mdev.replace("memory_mib = 49152", "memory_mib = 81920");
    let mdev = mdev.replace("max_instance=12", "max_instance=20");
    let typed = include_str!("../../../examples/hosts/a40-vfio.toml");
    let ready = |host: &HostFile, layout: &str| {
        let mut driver = Driver::new(host, layout).unwrap();
        driver.advance(60_000).unwrap();
        driver
    };
    let all = "[[gpu]]\nmatch = { driver = \"DRIVER\" }\nlayout = { vfs = \"all\" }\n";
    [
        (ready(&HostFile::parse(&mdev).unwrap(), ""), "nvidia-a40-4q", 40),
        (ready(&five, &all.replace("DRIVER", "gpusim")), "amd-74a1-vf8", 40),
        (
            ready(&HostFile::parse(typed).unwrap(), &all.replace("DRIVER", "nvidia")),
            "nvidia-a40-4q",
            48,
        ),
    ]
}

/// Pooled, so that each has a home although there are too few.
fn domain(driver: &mut Driver, number: u32, profile: &str) -> Domain {
    let uuid = Uuid::from_u128(0x5000 + u128::from(number));
    let request = claim(&"gpu0".parse().unwrap(), profile, 1);
    let command = Command::Claim {
        owner: Owner::Domain(uuid),
        owner_name: format!("vm{number}"),
        request: request.clone(),
        pool: Some(true),
        reserve: None,
        dry_run: false,
    };
    let Ok(Answer::Claimed { devices, .. }) = order(driver, command) else {
        panic!("vm{number} has no claim")
    };
    let device = |d: gpuslice_core::request::DeviceToWrite| HostDevice {
        source: d.source,
        alias: Some(d.alias),
        managed: false,
    };
    let devices = devices.into_iter().map(device).collect();
    Domain { uuid, name: format!("vm{number}"), claims: vec![request], devices }
}

/// The agent's look.
fn seen(driver: &mut Driver, domain: &mut Domain) {
    let command = Command::DomainSeen { domain: domain.clone(), shut_off: true };
    let Ok(Answer::Domain { devices, .. }) = order(driver, command) else { panic!("not seen") };
    crate::domains::write_devices(domain, |_| true, devices);
}

struct Running {
    driver: Driver,
    has: BTreeMap<u32, SliceId>,
}

impl Running {
    /// All of these at once. Those that were refused, and how.
    fn start(&mut self, domains: &BTreeMap<u32, Domain>) -> BTreeMap<u32, Code> {
        let call = |domain: &Domain, operation| HookCall::new(operation, domain.clone());
        let asked: Vec<_> = domains
            .iter()
            .map(|(n, d)| (*n, self.driver.hook(call(d, HookOperation::Prepare))))
            .collect();
        self.driver.advance(5000).unwrap();
        let mut refused = BTreeMap::new();
        for (number, request) in asked {
            let domain = &domains[&number];
            match self.driver.told.remove(&request).unwrap() {
                HookAnswer::Proceed => {
                    let slice = slice_of(&domain.devices[0]);
                    let pid = 1000 + number;
                    let vm = Vm {
                        domain: domain.uuid,
                        claimed: BTreeSet::from([slice]),
                        late: BTreeMap::new(),
                    };
                    self.driver.vms.insert(pid, vm);
                    self.driver.kernel.open(pid, "qemu", slice).unwrap();
                    assert_eq!(self.driver.kernel.holders(slice), [pid], "{slice} is shared");
                    self.driver.hook(call(domain, HookOperation::Started));
                    self.has.insert(number, slice);
                }
                HookAnswer::Refuse(refusal) => drop(refused.insert(number, refusal.code)),
                other @ HookAnswer::Remap(_) => panic!("{other:?}"),
            }
        }
        self.driver.advance(20_000).unwrap();
        refused
    }
}

#[test]
fn sixty_vms_start_at_once_on_fewer_slices() {
    for (mut driver, profile, most) in hosts() {
        let mut domains: BTreeMap<u32, Domain> =
            (0..VMS).map(|number| (number, domain(&mut driver, number, profile))).collect();
        let mut running = Running { driver, has: BTreeMap::new() };
        let mut waiting: BTreeSet<u32> = (0..VMS).collect();
        // A pooled one whose VF is taken is given another by the agent, and started again.
        for _ in 0..VMS {
            let now: BTreeMap<u32, Domain> =
                waiting.iter().map(|number| (*number, domains[number].clone())).collect();
            let refused = running.start(&now);
            for code in refused.values() {
                assert!(matches!(code, Code::NoCapacity | Code::Taken | Code::Held), "{code}");
            }
            let before = waiting.len();
            waiting = refused.into_keys().collect();
            for number in &waiting {
                seen(&mut running.driver, domains.get_mut(number).unwrap());
            }
            if waiting.len() == before {
                break;
            }
        }
        assert_eq!(running.has.len(), most, "{profile}");
        let slices: BTreeSet<SliceId> = running.has.values().copied().collect();
        assert_eq!(slices.len(), most, "{profile}: shared");
        // Each that ends makes room for one.
        for number in waiting {
            let (ended, _) = running.has.pop_first().unwrap();
            running.driver.kernel.kill(1000 + ended);
            running.driver.vms.remove(&(1000 + ended));
            let operation = HookOperation::Release;
            let domain = domains[&ended].clone();
            running.driver.hook(HookCall::new(operation, domain));
            running.driver.advance(1000).unwrap();
            let mut refused = BTreeMap::new();
            // Refused once, it is given the VF that is free now.
            for _ in 0..2 {
                seen(&mut running.driver, domains.get_mut(&number).unwrap());
                let one = BTreeMap::from([(number, domains[&number].clone())]);
                refused = running.start(&one);
                if refused.is_empty() {
                    break;
                }
            }
            assert_eq!(refused, BTreeMap::new(), "{profile}: vm{number}");
        }
    }
}
