//! The examples that say what a VM asks for: domain XML, an Ansible playbook, a Terraform configuration. What they make is a
//! domain by libvirt's own schema, and with what the agent adds to it the hook lets it start and stop. Neither Ansible nor
//! Terraform is run: their files are read, and a stylesheet is applied as libvirt's provider does.

use crate::host::{Host, Vm, as_root};
use gpuslice_core::domain::HostDevice;
use gpuslice_core::request::{Answer, Command as Order};
use gpuslice_domxml::{adopt_device, put_claims, put_device, read_domain};
use gpuslice_hook_proto::{Body, Reply, ReplyBody, Request, Served};
use gpuslice_integration::{files, root};
use hcl::eval::{Context, Evaluate};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use uuid::Uuid;

const A40: &str = "[[gpu]]\nmatch = { address = \"0000:41:00.0\" }\nlayout = { vfs = \"all\" }\n";
const ALL_A40: &str = "[[gpu]]\nmatch = { model = \"a40\" }\nlayout = { vfs = \"all\" }\n";

/// Each example, the host that it fits and what that host's GPUs are.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("examples/ansible/win11.yml", "a40-vfio", A40),
    ("examples/domains/claim-by-profile.xml", "a40-vfio", A40),
    ("examples/domains/claim-by-properties.xml", "mi300x-8", EIGHT),
    ("examples/domains/claim-several-slices.xml", "mi300x-8", WHOLE),
    ("examples/domains/claim-on-its-node.xml", "a40-vfio", ALL_A40),
    ("examples/domains/claim-with-mdev.xml", "mdev", ""),
    ("examples/domains/claim-with-parameters.xml", "a40-vfio", A40),
    ("examples/domains/claim-with-vf.xml", "mi300x-8", EIGHT),
    ("examples/domains/picked-in-virt-manager.xml", "sriov-8", FOUR),
    ("examples/domains/render-node.xml", "consumer", ""),
    (TERRAFORM, "t4-l40s", ""),
];

/// Starts its domain in the same breath as it defines it, so that no agent comes between.
const TERRAFORM: &str = "examples/terraform/win11.tf";

const EIGHT: &str =
    "[[gpu]]\nmatch = { model = \"mi300x\" }\nlayout = { vfs = 8, compute = \"CPX\" }\n";
const WHOLE: &str =
    "[[gpu]]\nmatch = { model = \"mi300x\" }\nlayout = { vfs = 1, compute = \"SPX\" }\n";
const FOUR: &str =
    "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 4, bind = \"vfio-pci\" }\n";

fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The domain that an example makes.
fn domain_of(path: &str) -> String {
    let text = text_of(path);
    match Path::new(path).extension().and_then(|e| e.to_str()) {
        Some("yml") => in_playbook(&text),
        Some("tf") => transformed(&in_terraform(&text)),
        _ => text,
    }
}

fn in_playbook(text: &str) -> String {
    let plays: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).unwrap();
    let tasks = plays[0]["tasks"].as_sequence().unwrap();
    // The order in the middle ends when the domain has its device.
    let [define, attach, start] = tasks.as_slice() else { panic!("{tasks:?}") };
    let order = attach["ansible.builtin.command"].as_str().unwrap();
    assert!(order.starts_with("gpuslice attach win11 nvidia-a40-8q "), "{order}");
    assert_eq!(start["community.libvirt.virt"]["state"].as_str(), Some("running"));
    define["community.libvirt.virt"]["xml"].as_str().unwrap().to_owned()
}

/// The stylesheet.
fn in_terraform(text: &str) -> String {
    let body = hcl::parse(text).unwrap();
    let domain = body.blocks().find(|block| block.identifier() == "resource").unwrap();
    assert_eq!(domain.labels()[0].as_str(), "libvirt_domain");
    let xml = domain.body().blocks().find(|block| block.identifier() == "xml").unwrap();
    let xslt = xml.body().attributes().find(|attribute| attribute.key() == "xslt").unwrap();
    let value = xslt.expr().evaluate(&Context::new()).unwrap();
    value.as_str().unwrap().to_owned()
}

/// A domain as the provider makes it, after the stylesheet.
fn transformed(xslt: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let domain = "<domain type='kvm'><name>win11</name>\
                  <memory unit='MiB'>8192</memory><vcpu>4</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>\
                  <devices><video><model type='virtio'/></video></devices></domain>";
    let out = Command::new("xsltproc")
        .arg(put("claim.xslt", xslt))
        .arg(put("domain.xml", domain))
        .output()
        .expect("xsltproc; first: integration/packages");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// By libvirt's schema, with its own tool.
#[track_caller]
fn validated(path: &str, xml: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("domain.xml");
    fs::write(&file, xml).unwrap();
    let out = Command::new("virt-xml-validate").arg(&file).arg("domain").output();
    let out = out.expect("virt-xml-validate; first: integration/packages");
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("validates"), "{path}: {said}\n{xml}");
}

/// What the agent asks when it sees a domain, and the XML with what it writes then. How many devices are ours.
fn completed(host: &Host, xml: &str) -> (String, usize) {
    let domain = read_domain(xml).unwrap();
    let body = Body::Command(Order::DomainSeen { domain, shut_off: true });
    let line = Request::new(Uuid::from_u128(1), body).to_line().unwrap();
    let mut stream = UnixStream::connect(host.path("hook.sock")).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    let reply: Reply = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
    let ReplyBody::Ok(Served::Command(told)) = reply.body else { panic!("{answer}") };
    let Answer::Domain { devices, refused, adopted } = *told else { panic!("{answer}") };
    assert_eq!(refused, []);
    let mut claims = read_domain(xml).unwrap().claims;
    claims.extend(adopted.iter().map(|adopted| adopted.request.clone()));
    let claimed = put_claims(xml, &claims).unwrap();
    let xml = devices.iter().fold(claimed, |xml, device| {
        match adopted.iter().find(|adopted| adopted.alias == device.alias) {
            Some(adopted) => adopt_device(&xml, adopted.picked, device).unwrap(),
            None => put_device(&xml, device).unwrap(),
        }
    });
    (xml, devices.len())
}

/// A T4 beside the MI300X, whose host file has none.
fn host_file(folder: &Path, name: &str) -> String {
    let mut text = text_of(&format!("examples/hosts/{name}.toml"));
    if name == "mi300x-8" {
        let other = text_of("examples/hosts/t4-l40s.toml");
        let driver = other.split("[[driver]]").nth(1).unwrap().split("[[").next().unwrap();
        let t4 = other.split("[[function]]").nth(1).unwrap();
        text.push_str(&format!("\n[[driver]]{driver}\n[[function]]{t4}"));
    }
    let file = folder.join("host.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn runs(path: &str) {
    let (_, host, layout) = EXAMPLES.iter().find(|(name, ..)| *name == path).unwrap();
    let xml = domain_of(path);
    validated(path, &xml);
    let folder = tempfile::tempdir().unwrap();
    let host = Host::start(&host_file(folder.path(), host), layout);
    // The first load of a driver is a person's to ask for.
    host.ask(&["apply"]);
    host.settle();
    let asked = read_domain(&xml).unwrap();
    let (xml, devices) = if path == TERRAFORM {
        (xml, asked.devices.iter().filter_map(HostDevice::our_claim).count())
    } else {
        completed(&host, &xml)
    };
    validated(path, &xml);
    // What was picked is one claim.
    let count: u32 = asked.claims.iter().map(|claim| claim.count).sum();
    let picked = asked.devices.len();
    assert_eq!(devices, usize::try_from(count).unwrap().max(picked), "{path}: {xml}");
    let vm = Vm { name: asked.name.clone(), uuid: asked.uuid.to_string(), xml };
    host.run_vm(&vm);
    let attached = |host: &Host| {
        let states = host.column("slices", "state");
        states.into_iter().filter(|state| state == "attached").count()
    };
    assert_eq!(attached(&host), devices, "{path}");
    host.stop_vm(&vm);
    assert_eq!(attached(&host), 0, "{path}");
}

macro_rules! examples {
    ($($name:ident = $path:literal,)*) => {
        $(#[test]
        fn $name() {
            as_root(|| runs($path));
        })*

        #[test]
        fn each_example_is_run() {
            let run: BTreeSet<_> = [$($path.to_owned()),*].into();
            let ours = ["examples/ansible", "examples/domains", "examples/terraform"];
            let found: BTreeSet<_> = files()
                .into_iter()
                .filter(|path| ours.iter().any(|folder| path.starts_with(folder)))
                .map(|path| path.to_str().unwrap().to_owned())
                .collect();
            assert_eq!(found, run);
        }
    };
}

examples! {
    an_ansible_playbook = "examples/ansible/win11.yml",
    a_claim_by_its_profile = "examples/domains/claim-by-profile.xml",
    a_claim_by_properties = "examples/domains/claim-by-properties.xml",
    a_claim_of_several_slices = "examples/domains/claim-several-slices.xml",
    a_claim_on_the_node_of_its_vm = "examples/domains/claim-on-its-node.xml",
    a_claim_with_its_mediated_device = "examples/domains/claim-with-mdev.xml",
    a_claim_with_parameters = "examples/domains/claim-with-parameters.xml",
    a_claim_with_its_vf = "examples/domains/claim-with-vf.xml",
    a_vf_picked_in_virt_manager = "examples/domains/picked-in-virt-manager.xml",
    a_vm_that_renders_on_a_gpu = "examples/domains/render-node.xml",
    a_terraform_configuration = "examples/terraform/win11.tf",
}
