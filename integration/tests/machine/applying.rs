//! Stories of `gpuslice apply`: it is answered when all that it lists is done, or has come to nothing.

use crate::driver::Driver;
use crate::invariants::vfs_of;
use crate::vgpu::{attach, start, stop, vf};
use crate::world::bind_by_hand;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::SliceId;
use gpuslice_core::machine::RequestId;
use gpuslice_core::port::link_name;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, Outcome, PlanRow};
use gpuslice_sim::{Fault, HostFile};

/// A card that makes its VFs at once.
const PF: &str = "0000:0c:00.0";
/// One that takes its time.
const SLOW: &str = "0000:9f:00.0";
/// Two VFs, and each of them bound.
const BOUND: &str =
    "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 2, bind = \"vfio-pci\" }";
/// What child processes do for that: they make the VFs, and bind each.
const STEPS: usize = 3;

fn layout(address: &str, layout: &str) -> String {
    format!("[[gpu]]\nmatch = {{ address = \"{address}\" }}\nlayout = {{ {layout} }}\n")
}

/// All cards have come, and none has a layout.
fn bare() -> Driver {
    let host = HostFile::parse(include_str!("host.toml")).unwrap();
    let mut driver = Driver::new(&host, "").unwrap();
    driver.advance(61_000).unwrap();
    driver
}

fn order(driver: &mut Driver, config: &str) -> RequestId {
    config.clone_into(&mut driver.config);
    driver.command(Command::Apply)
}

/// Orders, and waits for as long as a slow card takes.
fn apply(driver: &mut Driver, config: &str) -> Outcome {
    let request = order(driver, config);
    driver.advance(1_000).unwrap();
    answer(driver, request)
}

/// An order whose steps begin one by one, by [`Driver::begin_lazy`].
fn lazily(config: &str) -> (Driver, RequestId) {
    let mut driver = bare();
    driver.lazy = true;
    let request = order(&mut driver, config);
    (driver, request)
}

fn waits(driver: &Driver, request: RequestId) -> bool {
    !driver.answers.contains_key(&request)
}

fn answer(driver: &mut Driver, request: RequestId) -> Outcome {
    driver.answers.remove(&request).expect("an answer")
}

fn done(outcome: Outcome) -> PlanRow {
    match outcome {
        Ok(Answer::Plan(plan)) => plan,
        other => panic!("{other:?}"),
    }
}

fn refused(outcome: Outcome) -> Refusal {
    outcome.expect_err("a refusal")
}

fn plan(driver: &mut Driver) -> PlanRow {
    let request = driver.command(Command::Plan);
    driver.drain().unwrap();
    done(answer(driver, request))
}

fn drivers(driver: &Driver, pf: &str) -> Vec<Option<String>> {
    let kernel = &driver.kernel;
    let vfs = vfs_of(kernel, pf.parse().unwrap());
    let bound = |vf| link_name(kernel, &format!("/sys/bus/pci/devices/{vf}/driver")).unwrap();
    vfs.iter().map(bound).collect()
}

fn quarantined(driver: &Driver, pf: &str) -> bool {
    driver.machine.durable().quarantines.contains_key(&pf.parse().unwrap())
}

#[test]
fn a_step_that_follows_and_fails_refuses_the_whole() {
    let mut driver = bare();
    let config = layout(PF, "vfs = 2, bind = \"nope\"");
    let refusal = refused(apply(&mut driver, &config));
    assert_eq!(
        (refusal.code, &*refusal.message),
        (Code::DeviceFailed, "the running kernel has no module nope")
    );
    assert!(quarantined(&driver, PF));
    // A second card that gets what it should have makes the order no better, and is not kept from it.
    let both = format!("{config}{}", layout(SLOW, "vfs = 4, bind = \"vfio-pci\""));
    assert_eq!(refused(apply(&mut driver, &both)).code, Code::DeviceFailed);
    assert_eq!(drivers(&driver, SLOW), vec![Some("vfio-pci".to_owned()); 4]);
    let good = both.replace("nope", "vfio-pci");
    assert!(done(apply(&mut driver, &good)).changed && !plan(&mut driver).changed);
}

#[test]
fn what_is_listed_is_done_when_it_is_answered() {
    let (mut driver, request) = lazily(BOUND);
    driver.drain().unwrap();
    let mut steps = 0;
    while waits(&driver, request) {
        driver.begin_lazy().unwrap();
        steps += 1;
    }
    assert_eq!((steps, drivers(&driver, PF)), (STEPS, vec![Some("vfio-pci".to_owned()); 2]));
    let listed = done(answer(&mut driver, request)).steps;
    let last = listed.last().map(|row| row.step.as_str());
    assert_eq!(last, Some("bind each of its 2 VFs to vfio-pci"), "{listed:?}");
}

#[test]
fn a_step_that_sleeps_ends_the_wait_with_its_time() {
    for steps in 0..STEPS {
        let (mut driver, request) = lazily(BOUND);
        driver.drain().unwrap();
        (0..steps).for_each(|_| driver.begin_lazy().unwrap());
        assert!(waits(&driver, request));
        driver.advance(200_000).unwrap();
        assert_eq!(refused(answer(&mut driver, request)).code, Code::DeviceStuck);
        assert!(quarantined(&driver, PF));
    }
}

#[test]
fn a_gpu_that_leaves_meanwhile_is_waited_for_by_nobody() {
    for steps in 0..STEPS {
        let (mut driver, request) = lazily(BOUND);
        driver.drain().unwrap();
        (0..steps).for_each(|_| driver.begin_lazy().unwrap());
        assert!(waits(&driver, request), "{steps}");
        driver.kernel.unplug(PF.parse().unwrap());
        driver.lazy = false;
        driver.begin_lazy().unwrap();
        refused(answer(&mut driver, request));
        assert!(!quarantined(&driver, PF));
    }
}

#[test]
fn what_follows_and_cannot_be_recorded_is_refused_at_once() {
    for (durable, runtime) in [(1, 0), (0, 1)] {
        for steps in 0..STEPS {
            let (mut driver, request) = lazily(BOUND);
            if steps > 0 {
                driver.drain().unwrap();
                (1..steps).for_each(|_| driver.begin_lazy().unwrap());
            }
            (driver.disk.durable_fails, driver.disk.runtime_fails) = (durable, runtime);
            while waits(&driver, request) {
                let before = driver.handled;
                driver.begin_lazy().unwrap();
                assert_ne!(driver.handled, before, "nothing follows");
            }
            let bound = drivers(&driver, PF).iter().filter(|driver| driver.is_some()).count();
            match answer(&mut driver, request) {
                Ok(_) => assert_eq!(bound, 2),
                Err(refusal) => assert_eq!(refusal.code, Code::StateUnwritable),
            }
        }
    }
}

#[test]
fn what_could_not_be_parked_is_not_among_the_steps_that_are_done() {
    let mut driver = bare();
    let (path, errno) = ("*/create".to_owned(), Errno::EIO);
    driver.kernel.inject(Fault::Write { path, nth: 1, times: 2, errno });
    let config = layout("0000:41:00.0", "park = { nvidia-a40-4q = 2 }");
    let done = done(apply(&mut driver, &config));
    assert!(done.steps.is_empty() && done.layouts.len() == 1, "{done:?}");
    assert_eq!(done.unparked.iter().map(|why| why.code).collect::<Vec<_>>(), [Code::DeviceFailed]);
}

#[test]
fn a_rule_for_a_gpu_that_another_comes_before_is_told_and_waited_for_by_nobody() {
    let mut driver = bare();
    let kind = "[[gpu]]\nmatch = { vendor-device = \"1002:74a1\" }\nlayout = { vfs = 2 }\n";
    let plan = done(apply(&mut driver, &format!("{kind}{}", layout(PF, "vfs = 3"))));
    let [told] = plan.overruled.try_into().unwrap();
    assert_eq!((told.by.rsplit(':').next(), plan.unmatched.as_slice()), (Some("1"), [].as_slice()));
    assert!(told.rule.ends_with(":4: match = { address = \"0000:0c:00.0\" }"), "{told:?}");
    assert_eq!(told.parents, [PF.parse().unwrap()]);
    let request = driver.command(Command::WaitSettled { timeout_ms: 1_000 });
    driver.advance(1_000).unwrap();
    answer(&mut driver, request).unwrap();
    // Before the other one it counts, and the other for the rest.
    let plan = done(apply(&mut driver, &format!("{}{kind}", layout(PF, "vfs = 3"))));
    assert_eq!((plan.overruled, drivers(&driver, PF).len()), (Vec::new(), 3));
}

const VARIANT: &str = "xe-vfio-pci";

/// A host with a VFIO driver of a vendor, and two VFs that a layout gives to one of this name.
fn with_variant(bind: &str) -> Driver {
    let mut host = HostFile::parse(include_str!("host.toml")).unwrap();
    let mut variant = host.drivers[0].clone();
    (variant.name, variant.vfio) = (VARIANT.to_owned(), true);
    host.drivers.push(variant);
    let mut driver = Driver::new(&host, "").unwrap();
    driver.advance(61_000).unwrap();
    done(apply(&mut driver, &bound_to(bind)));
    driver
}

fn bound_to(name: &str) -> String {
    layout(PF, &format!("vfs = 2, bind = \"{name}\""))
}

fn named(names: [&str; 2]) -> Vec<Option<String>> {
    names.map(|name| Some(name.to_owned())).to_vec()
}

#[test]
fn a_vf_stays_on_the_vfio_driver_of_its_layout_when_vms_come_and_go() {
    let mut driver = with_variant(VARIANT);
    let both = named([VARIANT; 2]);
    assert_eq!(drivers(&driver, PF), both);
    let domain = attach(&mut driver, 1, "amd-74a1-vf2");
    start(&mut driver, &domain).unwrap();
    assert_eq!(drivers(&driver, PF), both, "while it runs");
    stop(&mut driver, &domain);
    assert_eq!(drivers(&driver, PF), both, "when it is over");
    assert!(driver.machine.runtime().assignments.is_empty() && !plan(&mut driver).changed);
}

#[test]
fn an_order_binds_anew_what_another_vfio_driver_has_and_nobody_uses() {
    let mut driver = with_variant("vfio-pci");
    let domain = attach(&mut driver, 1, "amd-74a1-vf2");
    start(&mut driver, &domain).unwrap();
    let vfs = vfs_of(&driver.kernel, PF.parse().unwrap());
    let used = vfs.iter().position(|address| *address == vf(&domain)).unwrap();
    let plan_of_one = done(apply(&mut driver, &bound_to(VARIANT)));
    assert_eq!(plan_of_one.steps.len(), 2, "{plan_of_one:?}");
    let mut one = [VARIANT; 2];
    one[used] = "vfio-pci";
    assert_eq!(drivers(&driver, PF), named(one));
    stop(&mut driver, &domain);
    assert_eq!(plan(&mut driver).steps.len(), 2);
    done(apply(&mut driver, &bound_to(VARIANT)));
    assert_eq!(drivers(&driver, PF), named([VARIANT; 2]));
    // Of one that nobody has told of the step finds out, and the GPU goes on.
    bind_by_hand(&mut driver.kernel, vfs[0], "vfio-pci");
    driver.wake_up().unwrap();
    driver.kernel.open(7, "dpdk", SliceId::Vf(vfs[0])).unwrap();
    let refusal = refused(apply(&mut driver, &bound_to(VARIANT)));
    assert!(refusal.code == Code::Held && !quarantined(&driver, PF), "{refusal}");
    assert_eq!(drivers(&driver, PF), named(["vfio-pci", VARIANT]));
}

/// Where a second order says that it is so already, and is what `plan` said of the first.
fn takes_over(driver: &mut Driver, config: &str) -> PlanRow {
    config.clone_into(&mut driver.config);
    let told = plan(driver);
    let first = done(apply(driver, config));
    assert!(first.changed, "{first:?}");
    assert_eq!(told, first);
    let again = done(apply(driver, config));
    let nothing = (again.layouts.as_slice(), again.settings.as_slice()) == (&[], &[]);
    assert!(!again.changed && nothing, "{again:?}");
    first
}

#[test]
fn a_layout_that_changes_without_a_step_is_told_and_counted() {
    let mut driver = bare();
    let first = takes_over(&mut driver, &layout(PF, "vfs = 2"));
    assert!(!first.steps.is_empty());
    let of = |plan: &PlanRow| {
        let [row] = plan.layouts.as_slice() else { panic!("{plan:?}") };
        assert_eq!(row.parent, PF.parse().unwrap());
        (row.before.clone(), row.after.clone())
    };
    let (plain, wiped) = (Some("vfs=2".to_owned()), Some("vfs=2 wipe=required".to_owned()));
    assert_eq!(of(&first), (None, plain.clone()));
    let second = takes_over(&mut driver, &layout(PF, "vfs = 2, wipe = \"required\""));
    assert_eq!((second.steps.len(), of(&second)), (0, (plain, wiped.clone())));
    // Where a rule is written is no part of what it says.
    driver.config = format!("# of two\n{}", driver.config);
    assert!(!plan(&mut driver).changed);
    // Nor is it news to a daemon that starts anew.
    driver.restart().unwrap();
    driver.advance(1_000).unwrap();
    assert!(!plan(&mut driver).changed);
    let last = takes_over(&mut driver, "");
    assert_eq!((last.steps.len(), of(&last)), (0, (wiped, None)));
    assert_eq!(drivers(&driver, PF).len(), 2);
}

#[test]
fn settings_and_rules_for_no_device_are_told_and_counted() {
    let mut driver = bare();
    let absent = layout("0000:fe:00.0", "vfs = 2");
    let settings = "placement = \"spread\"\non-error = \"warn\"\n";
    let first = takes_over(&mut driver, &format!("{settings}{absent}"));
    let rule = "match = { address = \"0000:fe:00.0\" }, vfs=2";
    let [placement, on_error, new] = first.settings.try_into().unwrap();
    assert_eq!(placement, "placement = \"spread\", was \"pack\"");
    assert_eq!(on_error, "on-error = \"warn\", was \"cordon\"");
    assert!(new.starts_with("rule new: ") && new.ends_with(rule), "{new}");
    let [dropped] = takes_over(&mut driver, settings).settings.try_into().unwrap();
    assert!(dropped.starts_with("rule dropped: ") && dropped.ends_with(rule), "{dropped}");
    // What is refused takes over nothing.
    let bad = layout(PF, "vfs = 300");
    refused(apply(&mut driver, &format!("placement = \"pack\"\n{bad}")));
    driver.config = String::new();
    assert_eq!(plan(&mut driver).settings.len(), 2);
}

/// Neither do its settings count, nor is it taken for applied.
#[test]
fn an_order_that_cannot_be_recorded_takes_over_nothing() {
    for (durable, runtime) in [(1, 0), (0, 1)] {
        let mut driver = bare();
        let settings = "placement = \"spread\"\non-error = \"warn\"\n";
        driver.config = format!("{settings}{}", layout(PF, "vfs = 2"));
        let before = plan(&mut driver);
        assert_eq!(before.settings.len(), 2);
        (driver.disk.durable_fails, driver.disk.runtime_fails) = (durable, runtime);
        let config = driver.config.clone();
        let refusal = refused(apply(&mut driver, &config));
        assert_eq!(refusal.code, Code::StateUnwritable, "{refusal}");
        assert_eq!(plan(&mut driver), before);
        // Nor with another record.
        driver.advance(10_000).unwrap();
        assert_eq!(plan(&mut driver), before);
        assert_eq!(done(apply(&mut driver, &config)), before);
        assert!(!plan(&mut driver).changed);
    }
}
