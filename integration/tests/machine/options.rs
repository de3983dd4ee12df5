//! Options of a driver whose VFs come with its load: what no layout says any more ends with the next load, and is told.

use super::*;
use gpuslice_core::mode::Mode;
use gpuslice_core::request::ParentRow;

const POLICY: &str = "vfs = 8, scheduler = 4, fabric-sharing = 2";

fn laid_out(layout: &str) -> String {
    LAYOUT.replace("vfs = 8", layout)
}

fn rows(driver: &mut Driver) -> Vec<ParentRow> {
    match order(driver, Command::ListParents).unwrap() {
        Answer::Parents { rows } => rows,
        other => panic!("{other:?}"),
    }
}

/// What is to come of each GPU.
fn coming(driver: &mut Driver) -> Vec<Vec<String>> {
    let words = |row: ParentRow| row.coming.into_iter().map(|(mode, to)| format!("{mode}={to}"));
    rows(driver).into_iter().map(|row| words(row).collect()).collect()
}

fn with_policy() -> Driver {
    let mut driver = Driver::new(&hive(), &laid_out(POLICY)).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(coming(&mut driver), [[""; 0]; 8]);
    driver
}

#[test]
fn what_no_layout_says_any_more_ends_with_the_next_load() {
    let mut driver = with_policy();
    // Nobody is disturbed.
    let domain = attach(&mut driver, 1, "amd-mi300x-vf8-cpx");
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
    driver.config = LAYOUT.to_owned();
    let plan = planned(&mut driver);
    assert!(plan.blockers.is_empty(), "{plan:?}");
    let steps: Vec<&str> = plan.steps.iter().map(|row| row.step.as_str()).collect();
    let write = format!("write \"options gim vf_num=8,8,8,8,8,8,8,8\" to {CONFIG}");
    assert_eq!(steps, [write.as_str()]);
    order(&mut driver, Command::Apply).unwrap();
    assert!(read_text(&driver.kernel, CONFIG).unwrap().ends_with("vf_num=8,8,8,8,8,8,8,8"));
    assert_eq!(counts(&driver), [8; 8]);
    assert_eq!(coming(&mut driver), [["fabric-sharing=default", "scheduler=default"]; 8]);
    assert!(states(&mut driver).iter().all(|(state, _)| state == "ok"));
    assert!(!planned(&mut driver).changed);
    driver.kernel.reboot();
    driver.kernel.settle();
    driver.restart().unwrap();
    driver.advance(60_000).unwrap();
    assert_eq!(counts(&driver), [8; 8]);
    assert_eq!(coming(&mut driver), [[""; 0]; 8]);
    let seen = driver.machine.observation();
    assert!(seen.drivers["gim"].parameters.is_empty(), "{:?}", seen.drivers["gim"]);
}

#[test]
fn one_that_is_said_again_is_written_again() {
    let mut driver = with_policy();
    driver.config = LAYOUT.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    // The module has it still.
    driver.config = laid_out(POLICY);
    assert_eq!(planned(&mut driver).steps.len(), 1);
    order(&mut driver, Command::Apply).unwrap();
    assert!(read_text(&driver.kernel, CONFIG).unwrap().ends_with("fb_sharing_mode=2 sch_policy=4"));
    assert_eq!(coming(&mut driver), [[""; 0]; 8]);
    assert!(!planned(&mut driver).changed);
}

#[test]
fn what_another_file_gives_does_not_end() {
    let mut driver = with_policy();
    driver.kernel.replace("/etc/modprobe.d/zz.conf", b"options gim sch_policy=4\n").unwrap();
    driver.config = LAYOUT.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(coming(&mut driver), [["fabric-sharing=default"]; 8]);
}

/// The driver counts the GPUs that it takes, and gives a list's numbers to those.
#[test]
fn an_option_of_somebody_else_that_leaves_gpus_out_is_named_before_any_vf_goes() {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    let gpus: Vec<String> = rows(&mut driver).iter().map(|row| row.parent.to_string()).collect();
    let give = |driver: &mut Driver, gpus: &[String]| {
        let file = format!("options gim enabled_devices={}\n", gpus.join(";"));
        driver.kernel.replace("/etc/modprobe.d/zz.conf", file.as_bytes()).unwrap();
    };
    give(&mut driver, &gpus[1..]);
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig, "{refusal}");
    let told = format!("which leaves {} out of what vf_num counts", gpus[0]);
    assert!(refusal.message.contains("zz.conf gives gim enabled_devices="), "{refusal}");
    assert!(refusal.message.ends_with(&told), "{refusal}");
    let hint = "take enabled_devices out of /etc/modprobe.d/zz.conf, then gpuslice apply";
    assert_eq!(refusal.hint.unwrap(), hint);
    assert_eq!(counts(&driver), [8; 8]);
    // One that names them all is none.
    give(&mut driver, &gpus);
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [4; 8]);
}

/// The first by its address is the second that the driver takes.
#[test]
fn values_of_a_list_go_by_the_order_of_the_probe() {
    let mut host = hive();
    host.functions.truncate(2);
    host.functions[0].device = 0x74a2;
    let other = LAYOUT.replace("74a1", "74a2").replace("vfs = 8", "vfs = 4");
    let mut driver = Driver::new(&host, &format!("{LAYOUT}\n{other}\n")).unwrap();
    let file = b"options gim sch_policy=1,4 pf_fb_size=1024,512\n";
    driver.kernel.replace("/etc/modprobe.d/amd.conf", file).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [4, 8]);
    let seen = driver.machine.observation();
    let policies: Vec<_> =
        seen.modes.values().map(|modes| modes[&Mode::Scheduler].current.clone()).collect();
    assert_eq!(policies, [4, 1].map(|policy| policy.to_string().parse().ok()));
    let profiles = match order(&mut driver, Command::ListProfiles).unwrap() {
        Answer::Profiles { rows } => rows,
        other => panic!("{other:?}"),
    };
    let seen = driver.machine.observation();
    let totals: Vec<u64> = seen.functions.values().filter_map(|gpu| gpu.memory).collect();
    // What the PF keeps in MiB, but for what is lost by rounding each VF's share.
    for (model, total, vfs, kept) in [("mi308x", totals[0], 4, 512), ("mi300x", totals[1], 8, 1024)]
    {
        let own = profiles.iter().find(|row| row.profile.as_str().contains(model)).unwrap();
        let rest = (total - own.memory.unwrap() * vfs) >> 20;
        assert!((kept..kept + 16 * vfs).contains(&rest), "{model}: {rest} of {total}, {own:?}");
    }
}

/// The file was written before the driver was not unloaded, and the next boot would read it.
#[test]
fn a_layout_that_is_taken_back_is_written_back() {
    let mut driver = applied();
    driver.kernel.open_node(4242, "amd-smi", "/dev/gim-smi0").unwrap();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    order(&mut driver, Command::Apply).unwrap_err();
    assert!(read_text(&driver.kernel, CONFIG).unwrap().ends_with("vf_num=4,4,4,4,4,4,4,4"));
    driver.config = LAYOUT.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    assert!(read_text(&driver.kernel, CONFIG).unwrap().ends_with("vf_num=8,8,8,8,8,8,8,8"));
    assert_eq!(counts(&driver), [8; 8]);
    assert!(!planned(&mut driver).changed);
}
