//! Domains that come from elsewhere: libvirt's `migrate` on the host they go to, and `restore` from an image, with the
//! XML that libvirt hands over there, passwords and all.

use crate::host::{Host, Ran, Vm, as_root};
use gpuslice_core::ids::MdevUuid;
use serde_json::json;

const FOUR: &str = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 4 }\n";
const PROFILE: &str = "amd-74a1-vf4";
const SECRET: &str = "<graphics type='vnc' passwd='geheim'/>";

/// A VF as libvirt writes it.
fn source(address: &str) -> String {
    let (domain, rest) = address.split_once(':').unwrap();
    let (bus, rest) = rest.split_once(':').unwrap();
    let (slot, function) = rest.split_once('.').unwrap();
    format!("domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'")
}

/// A domain with a claim that never was on this host: its VF is of the host it comes from.
fn stranger(number: u8, vf: &str) -> Vm {
    let mut vm = Vm::new(number);
    vm.wear(&format!(
        "<metadata><gpuslice:claims xmlns:gpuslice='urn:gpuslice:domain:1'>\
         <gpuslice:claim name='gpu0' profile='{PROFILE}'/></gpuslice:claims></metadata>\
         <hostdev mode='subsystem' type='pci' managed='no'><source><address {}/></source>\
         <alias name='ua-gpuslice-gpu0'/></hostdev>",
        source(vf)
    ));
    vm.xml = vm.xml.replace("</devices>", &format!("{SECRET}</devices>"));
    vm
}

/// What the hook wrote, with which VF of this host.
#[track_caller]
fn moved(host: &Host, vm: &Vm, old: &str, ran: &Ran) -> (Vm, String) {
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}\n{}", host.log());
    let vfs = host.column("slices", "address");
    let with = |vf: &String| vm.xml.replace(&source(old), &source(vf));
    let vf = vfs.iter().find(|vf| ran.out == with(vf)).expect("only the VF is another");
    (Vm { xml: ran.out.clone(), ..vm.clone() }, vf.clone())
}

#[test]
fn domains_that_come_in_at_once_each_get_a_vf_of_this_host() {
    as_root(|| {
        let host = Host::start("sriov-8", FOUR);
        host.settle();
        let elsewhere = "0000:c1:00.3";
        let mut here = Vec::new();
        for number in 1..=4 {
            let vm = stranger(number, elsewhere);
            here.push(moved(&host, &vm, elsewhere, &host.hook(&vm, "migrate")));
        }
        let mut vfs: Vec<&String> = here.iter().map(|(_, vf)| vf).collect();
        vfs.sort();
        vfs.dedup();
        assert_eq!(vfs.len(), 4);
        // Nothing is reserved or recorded by that.
        assert_eq!(host.ask(&["claims"]), json!([]));
        assert_eq!(host.column("slices", "state"), ["free"; 4]);
        let fifth = stranger(5, elsewhere);
        host.hook(&fifth, "migrate").refused("no-capacity");
        // Asked again it is the same answer.
        let again = moved(
            &host,
            &stranger(1, elsewhere),
            elsewhere,
            &host.hook(&stranger(1, elsewhere), "migrate"),
        );
        assert_eq!(again.1, here[0].1);
        for (vm, _) in &here {
            host.run_vm(vm);
        }
        assert_eq!(host.column("slices", "state"), ["attached"; 4]);
        assert!(!host.log().contains("geheim"), "{}", host.log());
    });
}

#[test]
fn a_domain_whose_vf_is_free_here_is_left_as_it_is() {
    as_root(|| {
        let host = Host::start("sriov-8", FOUR);
        host.settle();
        let free = host.column("slices", "address");
        for operation in ["migrate", "restore"] {
            host.hook(&stranger(1, &free[2]), operation).quiet();
        }
    });
}

#[test]
fn a_saved_domain_whose_vf_was_taken_in_between_is_restored_with_another() {
    as_root(|| {
        let host = Host::start("sriov-8", FOUR);
        host.settle();
        let mut vm = Vm::new(1);
        host.attach(&mut vm, PROFILE);
        let home = host.only("claims")["home"][0].as_str().unwrap().to_owned();
        host.run_vm(&vm);
        host.stop_vm(&vm);
        host.hook(&vm, "restore").quiet();

        // Somebody passes it through without a claim.
        let mut other = Vm::new(2);
        other.wear(&format!(
            "<metadata/><hostdev mode='subsystem' type='pci' managed='yes'><source><address {}/></source></hostdev>",
            source(&home)
        ));
        host.run_vm(&other);
        let (restored, vf) = moved(&host, &vm, &home, &host.hook(&vm, "restore"));
        assert_ne!(vf, home);
        host.run_vm(&restored);
        let claim = host.only("claims");
        assert_eq!((&claim["home"], &claim["state"]), (&json!([vf]), &json!("attached")));
    });
}

#[test]
fn what_cannot_be_here_is_refused_before_anything_is_copied() {
    as_root(|| {
        let mut host = Host::start("sriov-8", FOUR);
        host.settle();
        let elsewhere = "0000:c1:00.3";
        for operation in ["migrate", "restore"] {
            let mut vm = stranger(1, elsewhere);
            vm.xml = vm.xml.replace(PROFILE, "nvidia-a40-8q");
            host.hook(&vm, operation).refused("no-profile");
            // The device of another claim.
            let mut vm = stranger(1, elsewhere);
            vm.xml = vm.xml.replace("ua-gpuslice-gpu0", "ua-gpuslice-gpu1");
            host.hook(&vm, operation).refused("not-in-xml");
            // Broken XML is told by its place alone.
            let mut vm = stranger(1, elsewhere);
            vm.xml = vm.xml.replace("geheim", "geheim&bad;");
            let ran = host.hook(&vm, operation);
            assert!(!ran.refused("bad-request").contains("geheim"));
        }
        assert_eq!(host.ask(&["claims"]), json!([]));
        assert!(!host.log().contains("geheim"), "{}", host.log());
        host.kill();
        for operation in ["migrate", "restore"] {
            let ran = host.hook(&stranger(1, elsewhere), operation);
            assert!(!ran.refused("unreachable").contains("geheim"));
        }
    });
}

#[test]
fn a_slice_of_another_form_is_refused_before_anything_is_copied() {
    as_root(|| {
        // Here the profile is a mediated device, and there it was a VF: its driver is of another kind.
        let profile = "nvidia-a40-8q";
        let host = Host::start("mdev", "");
        host.settle();
        assert!(host.column("profiles", "profile").contains(&profile.to_owned()));
        let mut vm = stranger(1, "0000:c1:00.3");
        vm.xml = vm.xml.replace(PROFILE, profile);
        for operation in ["migrate", "restore"] {
            let ran = host.hook(&vm, operation);
            let line = ran.refused("not-in-xml");
            assert!(line.contains("carries a VF for claim gpu0, but nvidia-a40-8q"), "{line}");
        }
        // And the other way round.
        let host = Host::start("sriov-8", FOUR);
        host.settle();
        let mut vm = stranger(1, "0000:c1:00.3");
        let (from, to) = (vm.xml.find("<hostdev").unwrap(), vm.xml.find("<alias").unwrap());
        let claim = "gpu0".parse().unwrap();
        let device = MdevUuid::for_claim(vm.uuid.parse().unwrap(), &claim, 0);
        let hostdev = format!(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>\
             <address uuid='{device}'/></source>"
        );
        vm.xml.replace_range(from..to, &hostdev);
        for operation in ["migrate", "restore"] {
            host.hook(&vm, operation).refused("not-in-xml");
        }
        assert_eq!(host.ask(&["claims"]), json!([]));
    });
}

/// With the note of the agent of the host that it ran on.
fn noted(vm: &Vm, name: &str, version: &str) -> Vm {
    let run = format!(
        "<gpuslice-run:drivers xmlns:gpuslice-run='urn:gpuslice:run:1'>\
         <gpuslice-run:driver claim='gpu0' name='{name}'{version}/></gpuslice-run:drivers>"
    );
    Vm { xml: vm.xml.replace("</metadata>", &format!("{run}</metadata>")), ..vm.clone() }
}

#[test]
fn what_another_driver_has_saved_is_refused_before_anything_is_copied() {
    as_root(|| {
        let sim = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
        let config = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
        let host = Host::start(sim.to_str().unwrap(), config);
        host.settle();
        let mut vm = Vm::new(1);
        host.attach(&mut vm, "nvidia-a40-8q");
        for operation in ["migrate", "restore"] {
            for fits in [
                vm.clone(),
                noted(&vm, "nvidia", " version='580.65.05'"),
                noted(&vm, "nvidia", " version='550.163.02'"),
                noted(&vm, "nvidia", ""),
            ] {
                host.hook(&fits, operation).quiet();
            }
            let newer = noted(&vm, "nvidia", " version='590.48.01'");
            let ran = host.hook(&newer, operation);
            let line = ran.refused("other-driver");
            assert!(line.contains("vm1 ran with nvidia 590.48.01 for claim gpu0"), "{line}");
            assert!(
                line.contains("; try: install nvidia 590.48.01 or later on this host"),
                "{line}"
            );
            let ran = host.hook(&noted(&vm, "gim", ""), operation);
            let line = ran.refused("other-driver");
            assert!(line.contains("; try: give its GPU to gim on this host"), "{line}");
        }
        // A start here is one from nothing.
        host.run_vm(&noted(&vm, "gim", ""));
    });
}

/// What libvirt handed the hook of the host that a domain migrated to, as it came there: integration/lab/scenarios/migrate.sh
/// keeps it.
const HANDED: &str = include_str!("handed/migrate.xml");

/// The domain of that text.
fn handed() -> Vm {
    let within = |open: &str, close: &str| {
        let (_, rest) = HANDED.split_once(open).unwrap();
        rest.split_once(close).unwrap().0.to_owned()
    };
    let (name, uuid) = (within("<name>", "</name>"), within("<uuid>", "</uuid>"));
    Vm { name, uuid, xml: HANDED.to_owned() }
}

#[test]
fn what_libvirt_hands_over_when_a_domain_migrates_is_left_as_it_is() {
    as_root(|| {
        let host = Host::start("mdev", "");
        host.settle();
        let vm = handed();
        host.hook(&vm, "migrate").quiet();
        assert_eq!(host.ask(&["claims"]), json!([]));
        host.run_vm(&vm);
        let claim = host.only("claims");
        assert_eq!((&claim["profile"], &claim["state"]), (&json!("mtty-2"), &json!("attached")));
        host.migrates_away(&vm);
        // The host that it goes to has no such device.
        let other = Host::start("sriov-8", FOUR);
        other.settle();
        other.hook(&vm, "migrate").refused("no-profile");
    });
}

#[test]
fn a_vf_in_what_libvirt_hands_over_is_exchanged_and_nothing_else() {
    as_root(|| {
        let host = Host::start("sriov-8", FOUR);
        host.settle();
        let (elsewhere, mut vm) = ("0000:c1:00.3", handed());
        let claim = "gpu0".parse().unwrap();
        let device = MdevUuid::for_claim(vm.uuid.parse().unwrap(), &claim, 0);
        let (at, end) = (vm.xml.find("<hostdev ").unwrap(), vm.xml.find("<source>").unwrap());
        assert!(at < end, "{HANDED}");
        vm.xml.replace_range(at..end, "<hostdev mode='subsystem' type='pci' managed='no'>\n      ");
        vm.xml = vm.xml.replace(&format!("uuid='{device}'"), &source(elsewhere));
        assert!(vm.xml.contains(&source(elsewhere)), "{HANDED}");
        vm.xml = vm.xml.replace("mtty-2", PROFILE);
        let (here, vf) = moved(&host, &vm, elsewhere, &host.hook(&vm, "migrate"));
        assert_ne!(vf, elsewhere);
        host.run_vm(&here);
        assert_eq!(host.only("claims")["home"], json!([vf]));
    });
}
