//! Stories of the room for all slices of a start, and of that which parked devices make for it: only where it helps, and no
//! more than it takes.

use crate::directed::{after, all, runs};
use crate::domains::claim;
use crate::driver::Driver;
use crate::happening::Happening as H;
use crate::vgpu::{attach, attach_several, call, claimed, one_gpu, order};
use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource, alias_for};
use gpuslice_core::ids::{ClaimName, MdevUuid, Owner, ParentId};
use gpuslice_core::machine::HookOperation;
use gpuslice_core::numa::Pinned;
use gpuslice_core::plan::Step;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, DeviceToWrite};
use gpuslice_sim::HostFile;
use std::collections::BTreeMap;
use uuid::Uuid;

const CARDS: [&str; 2] = ["0000:3b:00.0", "0000:5e:00.0"];
const EIGHT: &str = "nvidia-t4-8q";
const WHOLE: &str = "nvidia-t4-16q";

const PARKED: &str =
    "[[gpu]]\nmatch = { model = \"t4\" }\nlayout = { park = { nvidia-t4-8q = 2 } }\n";

/// Two T4 that are full of what is parked: two halves each.
fn full() -> Driver {
    let driver = two_cards(PARKED);
    assert_eq!(CARDS.map(|card| parked(&driver, card).len()), [2, 2]);
    driver
}

fn two_cards(config: &str) -> Driver {
    let text = include_str!("../../../examples/hosts/t4-l40s.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.functions.truncate(1);
    let mut other = host.functions[0].clone();
    other.address = CARDS[1].parse().unwrap();
    (host.functions[0].numa_node, other.numa_node) = (0, 1);
    host.functions.push(other);
    let mut driver = Driver::new(&host, config).unwrap();
    driver.advance(10_000).unwrap();
    driver
}

fn parked(driver: &Driver, card: &str) -> Vec<MdevUuid> {
    let card: ParentId = card.parse().unwrap();
    let mdevs = driver.machine.observation().mdevs.iter();
    mdevs.filter(|(uuid, m)| uuid.is_parked() && m.parent == card).map(|(uuid, _)| *uuid).collect()
}

fn start(driver: &mut Driver, domain: &Domain) -> Result<(), Refusal> {
    call(driver, domain, HookOperation::Prepare)?;
    let pid = u32::try_from(domain.uuid.as_u128()).unwrap() + 1000;
    driver.kernel.open(pid, "qemu-system-x86", domain.devices[0].source.slice()).unwrap();
    call(driver, domain, HookOperation::Started)
}

/// A VM with a half.
fn half(driver: &mut Driver, vm: u128) {
    let domain = attach(driver, vm, EIGHT);
    start(driver, &domain).unwrap();
}

#[test]
fn one_card_is_emptied_and_the_other_left() {
    let mut driver = full();
    let whole = attach(&mut driver, 1, WHOLE);
    let before = driver.executed;
    start(&mut driver, &whole).unwrap();
    let mut left = CARDS.map(|card| parked(&driver, card).len());
    left.sort_unstable();
    assert_eq!((left, driver.executed - before), ([0, 2], 3), "two taken away and one made");
}

#[test]
fn a_card_that_a_vm_shares_is_not_emptied_for_what_needs_all_of_one() {
    let mut driver = full();
    half(&mut driver, 1);
    let [shared, free] =
        if parked(&driver, CARDS[0]).len() == 1 { CARDS } else { [CARDS[1], CARDS[0]] };
    let beside = parked(&driver, shared);
    assert_eq!((beside.len(), parked(&driver, free).len()), (1, 2));
    let whole = attach(&mut driver, 2, WHOLE);
    let before = driver.executed;
    start(&mut driver, &whole).unwrap();
    assert_eq!((parked(&driver, shared), parked(&driver, free)), (beside, vec![]));
    assert_eq!(driver.executed - before, 3);
}

#[test]
fn nothing_is_taken_away_in_vain() {
    let mut driver = full();
    let refused = |driver: &mut Driver, domain: &Domain| {
        let (executed, there) = (driver.executed, CARDS.map(|card| parked(driver, card)));
        let refusal = start(driver, domain).unwrap_err();
        assert_eq!(refusal.code, Code::NoCapacity, "{refusal}");
        assert_eq!((driver.executed, CARDS.map(|card| parked(driver, card))), (executed, there));
    };
    // There are two.
    let three = attach_several(&mut driver, 4, WHOLE, 3);
    refused(&mut driver, &three);
    for vm in 1..=3 {
        half(&mut driver, vm);
    }
    assert_eq!(CARDS.map(|card| parked(&driver, card).len()).iter().sum::<usize>(), 1);
    let whole = attach(&mut driver, 5, WHOLE);
    refused(&mut driver, &whole);
    // The last half is another's to have.
    half(&mut driver, 6);
}

/// One card is on each node.
#[test]
fn a_card_of_another_node_is_not_emptied() {
    let near = |driver: &mut Driver, vm: u128, same_fabric: bool| {
        let mut domain = attach(driver, vm, EIGHT);
        let memory = "1".parse().unwrap();
        domain.claims[0].require_numa = Some(Pinned { memory, ..Pinned::default() });
        domain.claims[0].same_fabric = same_fabric;
        domain
    };
    let mut driver = full();
    for vm in 1..=2 {
        let domain = near(&mut driver, vm, vm == 2);
        start(&mut driver, &domain).unwrap();
    }
    assert_eq!(CARDS.map(|card| parked(&driver, card).len()), [2, 0]);
    for (vm, same_fabric) in [(3, false), (4, true)] {
        let domain = near(&mut driver, vm, same_fabric);
        let executed = driver.executed;
        let refusal = start(&mut driver, &domain).unwrap_err();
        assert_eq!(refusal.code, Code::NoCapacity, "{refusal}");
        assert_eq!((parked(&driver, CARDS[0]).len(), driver.executed), (2, executed));
    }
    // Who may be there has it.
    half(&mut driver, 5);
    assert_eq!(parked(&driver, CARDS[0]).len(), 1);
}

/// Nothing tells of a link between these cards, so each is a fabric by itself.
#[test]
fn what_is_to_be_of_one_fabric_has_one_emptied_and_none_in_vain() {
    let linked = |driver: &mut Driver, vm: u128, profile: &str, count: u32| {
        let mut domain = attach_several(driver, vm, profile, count);
        domain.claims[0].same_fabric = true;
        domain
    };
    let mut driver = full();
    for (vm, profile, count) in [(1, EIGHT, 3), (2, WHOLE, 2)] {
        let domain = linked(&mut driver, vm, profile, count);
        let (executed, there) = (driver.executed, CARDS.map(|card| parked(&driver, card)));
        let refusal = start(&mut driver, &domain).unwrap_err();
        assert!(refusal.message.contains("of one fabric"), "{refusal}");
        assert_eq!((driver.executed, CARDS.map(|card| parked(&driver, card))), (executed, there));
    }
    // Beside a VM there is room for one more on one card, and for two on the other.
    half(&mut driver, 3);
    let two = linked(&mut driver, 4, EIGHT, 2);
    let before = driver.executed;
    start(&mut driver, &two).unwrap();
    let mut left = CARDS.map(|card| parked(&driver, card).len());
    left.sort_unstable();
    assert_eq!((left, driver.executed - before), ([0, 1], 4), "two taken away and two made");
}

/// A VM with a claim for each of these.
fn with_both(claims: &[(&str, u32)]) -> Domain {
    let uuid = Uuid::from_u128(1);
    let mut domain = Domain { uuid, name: "vm1".to_owned(), claims: vec![], devices: vec![] };
    for (at, (profile, count)) in claims.iter().enumerate() {
        let name: ClaimName = format!("gpu{at}").parse().unwrap();
        domain.claims.push(claim(&name, profile, *count));
        for index in 0..*count {
            let alias = Some(alias_for(&name, index));
            let source = HostDeviceSource::Mdev(MdevUuid::for_claim(domain.uuid, &name, index));
            domain.devices.push(HostDevice { source, alias, managed: false });
        }
    }
    domain
}

/// The kernel tells what is left before the first of a start is made, and of each type as if there were no other.
#[test]
fn sizes_of_one_start_that_need_a_card_each_have_one() {
    let spread = format!("placement = \"spread\"\n{PARKED}");
    for (config, there) in
        [(PARKED, 4), (spread.as_str(), 4), ("", 0), ("placement = \"spread\"\n", 0)]
    {
        for claims in [[(WHOLE, 1), (EIGHT, 2)], [(EIGHT, 2), (WHOLE, 1)]] {
            let mut driver = two_cards(config);
            let domain = with_both(&claims);
            let before = driver.executed;
            let started = start(&mut driver, &domain);
            assert_eq!(started, Ok(()), "{config} {claims:?}");
            assert_eq!(driver.executed - before, there + 3, "{config} {claims:?}");
        }
        // No card has room for a half beside the whole of it, and each is needed whole.
        let mut driver = two_cards(config);
        let domain = with_both(&[(WHOLE, 2), (EIGHT, 1)]);
        let before = driver.executed;
        let refusal = start(&mut driver, &domain).unwrap_err();
        assert_eq!((refusal.code, driver.executed - before), (Code::NoCapacity, 0), "{refusal}");
    }
}

/// The VFs of a start are given their types one after the other, and each lists what it could be as if it were the first.
#[test]
fn sizes_that_cannot_be_side_by_side_are_refused_before_the_first_is_made() {
    let refusal = start_of(&mut one_gpu(), &["nvidia-a40-24q", "nvidia-a40-8q"]).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal}");
    assert!(refusal.message.contains("no nvidia-a40-8q beside its nvidia-a40-24q"), "{refusal}");
    let mut driver = one_gpu();
    assert_eq!(start_of(&mut driver, &["nvidia-a40-24q"; 3]).unwrap_err().code, Code::NoCapacity);
    assert_eq!(start_of(&mut driver, &["nvidia-a40-24q"; 2]), Ok(()));
}

/// Starts a VM that has claims of all of these. If it is refused, nothing was done for it.
pub fn start_of(driver: &mut Driver, profiles: &[&str]) -> Result<(), Refusal> {
    let uuid = Uuid::from_u128(1);
    let mut domain = Domain { uuid, name: "vm1".to_owned(), claims: vec![], devices: vec![] };
    for (at, profile) in profiles.iter().enumerate() {
        let request = claim(&format!("gpu{at}").parse().unwrap(), profile, 1);
        let (devices, _) = claimed(driver, 1, request.clone());
        domain.claims.push(request);
        let DeviceToWrite { source, alias } = devices[0].clone();
        domain.devices.push(HostDevice { source, alias: Some(alias), managed: false });
    }
    let before = driver.executed;
    let started = call(driver, &domain, HookOperation::Prepare);
    assert!(started.is_ok() || driver.executed == before, "{started:?}");
    started
}

#[test]
fn claims_that_have_no_room_together_have_nothing_taken_away() {
    let mut driver = full();
    let domain = with_both(&[(WHOLE, 1), (EIGHT, 3)]);
    let before = driver.executed;
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!((refusal.code, driver.executed - before), (Code::NoCapacity, 0), "{refusal}");
}

#[test]
fn a_start_waits_for_no_device_that_does_not_offer_what_it_asks_for() {
    let mut world = after(&[]);
    let layouts = |park: &str| {
        format!("[[gpu]]\nmatch = {{ address = \"0000:81:00.0\" }}\nlayout = {{ vfs = 3{park} }}\n")
    };
    world.driver.config = layouts(", park = { nvidia-a40-4q = 2 }");
    all(&mut world, &[H::Apply, H::Advance { ms: 1000 }, H::Lazy { on: true }]);
    // They are on their way to be taken away, on a card that has no half of 8 GiB.
    world.driver.config = layouts("");
    let request = world.driver.command(Command::Apply);
    let (name, profile) = ("gpu0".parse().unwrap(), "nvidia-a40-8q".to_owned());
    all(&mut world, &[H::Declare { vm: 0, name, profile, count: 1 }, H::Start { vm: 0 }]);
    all(&mut world, &[H::Next { vm: 0 }, H::Next { vm: 0 }]);
    let under: Vec<&Step> = world.driver.under.iter().map(|under| &under.step).collect();
    assert!(runs(&world, 0) && matches!(under.as_slice(), [Step::RemoveMdev { .. }]), "{under:?}");
    all(&mut world, &[H::Lazy { on: false }, H::Advance { ms: 1000 }]);
    assert!(world.driver.answers.remove(&request).unwrap().is_ok());
    world.finish().unwrap();
}

/// FREE of each profile that is made as mediated devices.
fn free(driver: &mut Driver) -> BTreeMap<String, u32> {
    let Answer::Profiles { rows } = order(driver, Command::ListProfiles).unwrap() else {
        panic!("other rows")
    };
    let made = rows.into_iter().filter(|row| row.mechanism == "mdev");
    made.map(|row| (row.profile.to_string(), row.free)).collect()
}

/// Starts VMs of each profile until one is refused, each profile on a host of its own.
fn free_is_what_starts_get(host: impl Fn() -> Driver, runs: &[&str]) {
    let at_work = || {
        let mut driver = host();
        for (vm, profile) in (1..).zip(runs) {
            let domain = attach(&mut driver, vm, profile);
            start(&mut driver, &domain).unwrap();
        }
        driver.advance(10_000).unwrap();
        driver
    };
    for (profile, all) in free(&mut at_work()) {
        let mut driver = at_work();
        let mut left = all;
        for vm in 100_u128.. {
            let domain = attach(&mut driver, vm, &profile);
            match start(&mut driver, &domain) {
                Ok(()) => left = left.checked_sub(1).expect(&profile),
                Err(refusal) => {
                    assert_eq!((refusal.code, left), (Code::NoCapacity, 0), "{profile} of {all}");
                    assert!(
                        refusal.message.contains("none free") || refusal.message.contains(" 0 of "),
                        "{refusal}"
                    );
                    break;
                }
            }
            driver.advance(10_000).unwrap();
            assert_eq!(free(&mut driver)[&profile], left, "{profile} of {all}");
        }
    }
}

#[test]
fn what_is_free_is_what_starts_get_beside_what_is_parked() {
    free_is_what_starts_get(full, &[]);
    free_is_what_starts_get(full, &[EIGHT]);
    free_is_what_starts_get(full, &[WHOLE]);
    let of = |text: &str, layout: &str| {
        let (host, layout) = (HostFile::parse(text).unwrap(), layout.to_owned());
        move || {
            let mut driver = Driver::new(&host, &layout).unwrap();
            driver.advance(30_000).unwrap();
            driver
        }
    };
    let text = include_str!("../../../examples/hosts/a40-mdev.toml");
    let text = text.split("[[function]]").take(2).collect::<Vec<_>>().join("[[function]]");
    let on = |layout| format!("[[gpu]]\nmatch = {{ model = \"a40\" }}\nlayout = {{ {layout} }}\n");
    let vfs = of(&text, &on("vfs = \"all\", park = { nvidia-a40-16q = 2 }"));
    free_is_what_starts_get(&vfs, &[]);
    free_is_what_starts_get(&vfs, &["nvidia-a40-16q"]);
    let text = include_str!("../../../examples/hosts/mdev.toml");
    let mdev = of(text, &on("park = { nvidia-a40-8q = 1 }"));
    free_is_what_starts_get(&mdev, &[]);
    free_is_what_starts_get(&mdev, &["nvidia-a40-8q"]);
}

#[test]
fn who_attaches_more_than_can_run_is_told_how_many_can() {
    let warned = |driver: &mut Driver, vm: u128, profile: &str, count: u32| {
        claimed(driver, vm, claim(&"gpu0".parse().unwrap(), profile, count)).1.join("; ")
    };
    let mut driver = full();
    assert_eq!(warned(&mut driver, 1, WHOLE, 2), "");
    let more = "3 of nvidia-t4-16q are claimed, more than the 2 that this host can run at once";
    assert_eq!(warned(&mut driver, 2, WHOLE, 1), more);

    // A half makes one card of no use to who needs all of one.
    let mut driver = full();
    half(&mut driver, 1);
    assert_eq!(warned(&mut driver, 2, WHOLE, 1), "");
    let all = "2 of nvidia-t4-16q are claimed, and this host can run 2 at once";
    assert_eq!(warned(&mut driver, 3, WHOLE, 1), format!("{all}; 1 more can start now"));
    assert_eq!(warned(&mut driver, 4, WHOLE, 1), format!("{more}; 1 more can start now"));
    // What runs is no longer among those that can start.
    let whole = attach(&mut driver, 2, WHOLE);
    start(&mut driver, &whole).unwrap();
    assert_eq!(warned(&mut driver, 4, WHOLE, 1), format!("{more}; 0 more can start now"));
}

/// What is refused is not on record, and a person knows a VM by its name.
#[test]
fn who_is_refused_before_it_has_a_claim_is_called_by_its_name() {
    let mut driver = two_cards("");
    let claim = |profile: &str| claim(&"gpu0".parse().unwrap(), profile, 1);
    let named = |refusal: Refusal| refusal.hint.unwrap();
    let mut domain = with_both(&[("nvidia-t4-9q", 1)]);
    let started = call(&mut driver, &domain, HookOperation::Prepare);
    assert_eq!(named(started.unwrap_err()), "gpuslice attach vm1 nvidia-t4-1q --name gpu0");
    let uuid = Uuid::from_u128(2);
    let order = |driver: &mut Driver, name: &str| {
        let (owner, owner_name, request) =
            (Owner::Domain(uuid), name.to_owned(), claim("nvidia-t4-9q"));
        let (pool, reserve, dry_run) = (None, None, false);
        order(driver, Command::Claim { owner, owner_name, request, pool, reserve, dry_run })
    };
    let hint = named(order(&mut driver, "cad").unwrap_err());
    assert_eq!(hint, "gpuslice attach cad nvidia-t4-1q --name gpu0");
    // One that was renamed is called by its new name.
    attach(&mut driver, 1, EIGHT);
    domain.name = "renamed".to_owned();
    let started = call(&mut driver, &domain, HookOperation::Prepare);
    assert_eq!(named(started.unwrap_err()), "gpuslice attach renamed nvidia-t4-1q --name gpu0");
}

/// VFs that make mediated devices have to be there first: without `vfs` a layout leaves it at none.
#[test]
fn a_gpu_without_vfs_is_to_have_them_before_anything_is_parked() {
    let text = include_str!("../../../examples/hosts/a40-mdev.toml");
    let host = HostFile::parse(text).unwrap();
    let on = |layout| format!("[[gpu]]\nmatch = {{ model = \"a40\" }}\nlayout = {{ {layout} }}\n");
    let mut driver = Driver::new(&host, "").unwrap();
    driver.config = on("park = { nvidia-a40-8q = 1 }");
    order(&mut driver, Command::Apply).unwrap();
    let Answer::Plan(plan) = order(&mut driver, Command::Plan).unwrap() else { panic!() };
    let why = &plan.unparked[0];
    assert_eq!(why.code, Code::NoProfile, "{why:?}");
    let way =
        "add vfs = \"all\" to the layout of 0000:41:00.0, then gpuslice apply; or take park out";
    assert!(why.hint.as_ref().unwrap().starts_with(way), "{why:?}");
    driver.config = on("vfs = \"all\", park = { nvidia-a40-8q = 1 }");
    let request = driver.command(Command::Apply);
    driver.advance(60_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    assert_eq!(parked(&driver, "0000:41:00.0").len(), 0, "its VFs make them");
    let all = driver.machine.observation().mdevs.keys().filter(|uuid| uuid.is_parked()).count();
    assert_eq!(all, 4);
}
