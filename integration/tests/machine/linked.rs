//! Which GPUs under GIM share their memory: as many as the layout says, where their places on the board are known, and
//! none that has several VFs.

use super::*;

const DPX: &str = "amd-mi300x-vf2-dpx";
const SECOND: &str = "0000:22:00.0";

/// The GPUs of which a VM gets so many slices of one fabric; none where it gets none.
fn gpus_of(driver: &mut Driver, vm: u128, count: u32) -> Vec<String> {
    let mut vm = domain(vm);
    let _ = ask(driver, &mut vm, same("ai", SPX, count));
    gpus(driver, &vm).iter().map(ToString::to_string).collect()
}

#[test]
fn a_gpu_with_several_vfs_shares_with_none() {
    let mut driver = hives(2, 4);
    let mut vm = domain(1);
    ask(&mut driver, &mut vm, same("ai", DPX, 2)).unwrap();
    assert_eq!(gpus(&driver, &vm).len(), 1);
    let refusal = ask(&mut driver, &mut domain(2), same("ai", DPX, 3)).unwrap_err();
    assert_eq!(refusal.message, format!("{DPX}: wanted 3 of one fabric, the most one has is 2"));
}

#[test]
fn what_a_layout_shares_in_vain_is_told() {
    for (vfs, sharing, told) in [(2, "4", 8), (8, "2", 8), (1, "4", 0), (2, "1", 0), (2, "0", 0)] {
        let layout = format!("layout = {{ vfs = {vfs}, fabric-sharing = {sharing} }}");
        let config = format!("[[gpu]]\nmatch = {{ model = \"mi300x\" }}\n{layout}");
        let mut driver = Driver::new(&mi300x(), &config).unwrap();
        driver.advance(10_000).unwrap();
        let Ok(Answer::Plan(plan)) = order(&mut driver, Command::Plan) else { panic!() };
        assert_eq!(plan.ignored.len(), told, "{layout}: {:?}", plan.ignored);
        let first = format!("fabric-sharing = {sharing} of 0000:0c:00.0, ");
        assert!(plan.ignored.iter().take(1).all(|line| line.starts_with(&first)), "{plan:?}");
    }
}

#[test]
fn gpus_of_a_board_that_lacks_one_are_not_counted_by_those_that_are_there() {
    let mut host = mi300x();
    host.functions.retain(|function| function.address.to_string() != SECOND);
    let layout = |sharing| {
        format!("[[gpu]]\nmatch = {{ model = \"mi300x\" }}\nlayout = {{ vfs = 1{sharing} }}")
    };
    let mut driver = on(&host, &layout(", fabric-sharing = 4"));
    assert_eq!(gpus_of(&mut driver, 1, 2), [""; 0]);
    assert_eq!(gpus_of(&mut driver, 1, 1).len(), 1);
    // Those that all share are all that are there.
    for all in [", fabric-sharing = 8", ""] {
        let mut driver = on(&host, &layout(all));
        assert_eq!(gpus_of(&mut driver, 1, 7).len(), 7, "{all}");
    }
    // Of two boards together nobody knows which lacks it.
    let mut second = mi300x();
    for function in &mut second.functions {
        function.address = format!("0001{}", &function.address.to_string()[4..]).parse().unwrap();
        function.serial = None;
    }
    host.functions.extend(second.functions);
    let mut driver = on(&host, &layout(""));
    assert_eq!(gpus_of(&mut driver, 1, 2), [""; 0]);
}

#[test]
fn a_gpu_that_another_driver_has_keeps_its_place() {
    let other = format!("[[gpu]]\nmatch = {{ address = \"{SECOND}\" }}\nlayout = {{ vfs = 0 }}");
    let config = format!(
        "{other}\n[[gpu]]\nmatch = {{ model = \"mi300x\" }}\nlayout = {{ vfs = 1, fabric-sharing = 2 }}"
    );
    let mut driver = Driver::new(&mi300x(), &config).unwrap();
    bind_by_hand(&mut driver.kernel, SECOND.parse().unwrap(), "vfio-pci");
    order(&mut driver, Command::Apply).unwrap();
    driver.advance(60_000).unwrap();
    assert_eq!(gpus_of(&mut driver, 1, 2), ["0000:38:00.0", "0000:5c:00.0"]);
    assert_eq!(gpus_of(&mut driver, 2, 2), ["0000:9f:00.0", "0000:af:00.0"]);
    assert_eq!(gpus_of(&mut driver, 3, 2), ["0000:bf:00.0", "0000:df:00.0"]);
    assert_eq!(gpus_of(&mut driver, 4, 2), [""; 0]);
    assert_eq!(gpus_of(&mut driver, 4, 1), ["0000:0c:00.0"]);
}

#[test]
fn vms_whose_gpus_reach_each_other_are_told_where_nobody_asked_for_it() {
    let warned = |sharing: &str, with_claims: bool| {
        let config =
            format!("[[gpu]]\nmatch = {{ model = \"mi300x\" }}\nlayout = {{ vfs = 1{sharing} }}");
        let mut driver = on(&mi300x(), &config);
        let free: Vec<PciAddress> = driver.machine.observation().vfs.keys().copied().collect();
        for (number, vf) in (1..=3).zip(free) {
            let mut vm = domain(number);
            if with_claims {
                ask(&mut driver, &mut vm, claim(&name("one"), SPX, 1)).unwrap();
            } else {
                let source = HostDeviceSource::Pci(vf);
                vm.devices = vec![HostDevice { source, alias: None, managed: false }];
            }
            call(&mut driver, &vm, HookOperation::Prepare).unwrap();
        }
        let Ok(Answer::Status(status)) = order(&mut driver, Command::Status) else { panic!() };
        let linked = |text: &String| text.contains("reach each other's memory");
        status.warnings.into_iter().filter(linked).collect::<Vec<_>>()
    };
    let told = "vm1, vm2, vm3 have GPUs that reach each other's memory (XGMI hive of 0000:0c:00.0); \
        to keep them apart: set fabric-sharing to 1 for 0000:0c:00.0, then gpuslice apply";
    assert_eq!(warned("", true), [told]);
    assert_eq!(warned("", false), [told]);
    for sharing in [", fabric-sharing = 1", ", fabric-sharing = 8"] {
        assert_eq!(warned(sharing, true), [""; 0]);
    }
}

#[test]
fn a_vm_is_not_told_of_its_own_gpus() {
    let config = "[[gpu]]\nmatch = { model = \"mi300x\" }\nlayout = { vfs = 1 }";
    let mut driver = on(&mi300x(), config);
    let mut vm = domain(1);
    ask(&mut driver, &mut vm, same("ai", SPX, 4)).unwrap();
    call(&mut driver, &vm, HookOperation::Prepare).unwrap();
    let Ok(Answer::Status(status)) = order(&mut driver, Command::Status) else { panic!() };
    assert_eq!(status.warnings, [""; 0]);
}
