//! What a domain's XML is read as, and how each mistake in it is told.
#![cfg(test)]

use gpuslice_core::domain::{ClaimRequest, HostDeviceSource, MOST_CLAIMS, NAMESPACE};
use gpuslice_core::ids::MdevUuid;
use gpuslice_domxml::{DomXmlError, SIZE_LIMIT, read_domain, scan};
use std::collections::BTreeMap;

const UUID: &str = "4be47ad5-6e2f-4e0c-9d4a-1f6a3f0e1a01";

/// A domain with this metadata and these devices, on lines 4 and 5.
fn domain(metadata: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'>\n<name>win11</name>\n<uuid>{UUID}</uuid>\n<metadata>{metadata}</metadata>\n<devices>{devices}</devices>\n</domain>\n"
    )
}

fn claims(inside: &str) -> String {
    domain(&format!("<g:claims xmlns:g='urn:gpuslice:domain:1'>{inside}</g:claims>"), "")
}

fn error_of(xml: &str) -> String {
    match read_domain(xml) {
        Ok(domain) => panic!("{xml:.300} was read as {domain:?}"),
        Err(error) => error.to_string(),
    }
}

fn only_claim(xml: &str) -> ClaimRequest {
    let mut domain = read_domain(xml).expect(xml);
    assert_eq!(domain.claims.len(), 1);
    domain.claims.remove(0)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "finds the examples")]
fn every_example_is_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/domains");
    let mut read = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let xml = std::fs::read(&path).unwrap();
        let asks = !path.ends_with("render-node.xml");
        assert_eq!(scan(&xml).concerns_us(), asks, "{}", path.display());
        let domain = read_domain(std::str::from_utf8(&xml).unwrap()).expect("an example");
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        read.insert(name, domain);
    }
    let claims: Vec<_> = read
        .iter()
        .map(|(file, domain)| {
            let claims: Vec<_> = domain
                .claims
                .iter()
                .map(|c| {
                    format!("{} {:?} x{}", c.name, c.profile.as_ref().map(|p| p.as_str()), c.count)
                })
                .collect();
            (file.as_str(), claims.join(", "), domain.devices.len())
        })
        .collect();
    assert_eq!(
        claims,
        [
            ("claim-by-profile.xml", r#"gpu0 Some("nvidia-a40-8q") x1"#.to_owned(), 0),
            ("claim-by-properties.xml", "cad None x1".to_owned(), 0),
            ("claim-on-its-node.xml", r#"gpu0 Some("nvidia-a40-8q") x1"#.to_owned(), 0),
            (
                "claim-several-slices.xml",
                r#"ai Some("amd-mi300x-vf1-spx") x8, console Some("nvidia-t4-2q") x1"#.to_owned(),
                0
            ),
            ("claim-with-mdev.xml", r#"gpu0 Some("mtty-2") x1"#.to_owned(), 1),
            ("claim-with-parameters.xml", r#"gpu0 Some("nvidia-a40-8q") x1"#.to_owned(), 0),
            ("claim-with-vf.xml", r#"gpu0 Some("amd-mi300x-vf8-cpx") x1"#.to_owned(), 1),
            ("picked-in-virt-manager.xml", String::new(), 1),
            ("render-node.xml", String::new(), 0),
        ]
    );
    let several = &read["claim-several-slices.xml"].claims;
    assert!(several[0].same_fabric && several[0].prefer_numa);
    assert!(!several[1].same_fabric && !several[1].prefer_numa);
    assert_eq!(several[1].require_numa, None);
    let near = read["claim-on-its-node.xml"].claims[0].require_numa.clone().unwrap();
    assert_eq!(
        (near.memory.to_string(), near.cpus.to_string()),
        ("1".to_owned(), "8-11".to_owned())
    );
    let parameters = read["claim-with-parameters.xml"].claims[0].parameters.as_ref().unwrap();
    assert_eq!(parameters.as_str(), "frame_rate_limiter=0,disable_vnc=1");
    let properties = &read["claim-by-properties.xml"].claims[0];
    assert_eq!(properties.memory_min, Some(4 << 30));
    assert_eq!(properties.isolation_min.as_deref(), Some("hardware"));
    let mdev = &read["claim-with-mdev.xml"];
    let (claim, index) = mdev.devices[0].our_claim().unwrap();
    assert_eq!(
        mdev.devices[0].source,
        HostDeviceSource::Mdev(MdevUuid::for_claim(mdev.uuid, &claim, index))
    );
    assert!(read["picked-in-virt-manager.xml"].devices[0].managed);
    assert!(!read["claim-with-vf.xml"].devices[0].managed);
}

#[test]
fn the_identity_is_the_domains_own() {
    // A snapshot's or another tool's copy of a domain inside the metadata is not this domain.
    let xml = domain("<t:old xmlns:t='u'><name>x</name><uuid>y</uuid></t:old>", "");
    let read = read_domain(&xml).unwrap();
    assert_eq!((read.name.as_str(), read.uuid.to_string().as_str()), ("win11", UUID));
    for (xml, want) in [
        ("<domain/>".to_owned(), "domain XML has no <name>"),
        ("<domain><name> </name></domain>".to_owned(), "domain XML has no <name>"),
        ("<domain><name>a</name></domain>".to_owned(), "domain XML has no <uuid>"),
        (
            "<domain>\n <name>a</name>\n <uuid>b</uuid></domain>".to_owned(),
            "domain XML at 3:2: \"b\" is not a UUID",
        ),
        ("<network/>".to_owned(), "XML is of a <network>, not of a <domain>"),
        (
            "<domain xmlns='urn:other'/>".to_owned(),
            "XML is of a <domain xmlns='urn:other'>, not of a <domain>",
        ),
    ] {
        assert_eq!(error_of(&xml), want);
    }
}

#[test]
fn prefix_and_default_namespace_mean_the_same() {
    for element in [
        "<gpuslice:claims xmlns:gpuslice='urn:gpuslice:domain:1'><gpuslice:claim name='gpu0' profile='p'/></gpuslice:claims>",
        "<claims xmlns='urn:gpuslice:domain:1'><claim name='gpu0' profile='p'/></claims>",
        "<claims xmlns=\"urn:gpuslice:domain:1\">\n<!-- mine -->\n<claim\tname=\"gpu&#48;\" profile=\"p\" x:note='n' xmlns:x='u'><x:any>text</x:any></claim></claims>",
    ] {
        let claim = only_claim(&domain(element, ""));
        assert_eq!(claim.name.as_str(), "gpu0");
        assert_eq!(claim.profile.unwrap().as_str(), "p");
        assert_eq!(claim.count, 1);
    }
    assert_eq!(read_domain(&claims("")).unwrap().claims, []);
    assert_eq!(read_domain(&domain("", "")).unwrap().claims, []);
}

#[test]
fn memory_takes_libvirts_units() {
    for (min, unit, want) in [
        ("4", "GiB", 4 << 30),
        ("4", "G", 4 << 30),
        ("4", "GB", 4_000_000_000),
        ("1", "tib", 1 << 40),
        ("512", "KiB", 512 << 10),
        ("7", "bytes", 7),
        ("7", "b", 7),
        ("1", "EiB", 1 << 60),
    ] {
        let xml =
            claims(&format!("<g:claim name='a'><g:memory min='{min}' unit='{unit}'/></g:claim>"));
        assert_eq!(only_claim(&xml).memory_min, Some(want), "{min} {unit}");
    }
    for (memory, want) in [
        ("min='4'", "<gpuslice:memory> has no unit"),
        ("unit='GiB'", "<gpuslice:memory> has no min"),
        ("min='4' unit='Gi'", "unit=\"Gi\" in <gpuslice:memory>: not a unit such as MiB or GiB"),
        ("min='4' unit=''", "unit=\"\" in <gpuslice:memory>: not a unit such as MiB or GiB"),
        ("min='0' unit='GiB'", "min=\"0\" in <gpuslice:memory>: not a whole number above 0"),
        ("min='1.5' unit='GiB'", "min=\"1.5\" in <gpuslice:memory>: not a whole number above 0"),
        ("min='16' unit='EiB'", "min=\"16\" in <gpuslice:memory>: more than 64 bits of bytes"),
    ] {
        let got = error_of(&claims(&format!("<g:claim name='a'><g:memory {memory}/></g:claim>")));
        assert!(got.ends_with(want), "{got}");
    }
}

#[test]
fn mistakes_in_a_claim_are_told_with_place_and_remedy() {
    for (inside, want) in [
        ("<g:claim profile='p'/>", "4:53: <gpuslice:claim> has no name"),
        (
            "<g:claim name='a'/>",
            "4:53: <gpuslice:claim> has no profile, and asks for no property either",
        ),
        (
            "<g:claim name='a' profil='p'/>",
            "4:71: unknown attribute \"profil\" in <gpuslice:claim>, did you mean \"profile\"?",
        ),
        (
            "<g:claim name='a' colour='red'/>",
            "4:71: unknown attribute \"colour\" in <gpuslice:claim>, known are name, profile, count, fabric, numa, parameters",
        ),
        (
            "<g:claim g:name='a' profile='p'/>",
            "4:62: unknown attribute \"gpuslice:name\" in <gpuslice:claim>, did you mean \"name\"?",
        ),
        (
            "<g:clam name='a' profile='p'/>",
            "4:53: unknown element \"clam\" in <gpuslice:claims>, did you mean \"claim\"?",
        ),
        (
            "<claim name='a' profile='p'/>",
            "4:53: <claim> in <gpuslice:claims> is not in its namespace, write <gpuslice:claim>",
        ),
        (
            "<g:claim name='a' profile='p'><g:memroy/></g:claim>",
            "4:83: unknown element \"memroy\" in <gpuslice:claim>, did you mean \"memory\"?",
        ),
        (
            "<g:claim name='a' profile='p'><g:isolation min='hardware'><g:x/></g:isolation></g:claim>",
            "4:111: unknown element \"x\" in <gpuslice:isolation>",
        ),
        (
            "<g:claim name='a' profile='p'><g:memory min='1' unit='M'/>\n<g:memory min='2' unit='M'/></g:claim>",
            "5:1: second gpuslice:memory, the first is at 4:83",
        ),
        (
            "<g:claim name='a' profile='p'/>\n<g:claim name='a' profile='q'/>",
            "5:1: second claim a, the first is at 4:53",
        ),
        ("gpu0", "4:53: text in <gpuslice:claims> has no meaning"),
        (
            "<g:claim name='a b' profile='p'/>",
            "4:62: name=\"a b\" in <gpuslice:claim>: only letters, digits and - and _ are allowed",
        ),
        ("<g:claim name='a' profile=''/>", "4:71: profile=\"\" in <gpuslice:claim>: empty"),
        (
            "<g:claim name='a' profile='p' count='0'/>",
            "4:83: count=\"0\" in <gpuslice:claim>: not a number from 1 to 64",
        ),
        (
            "<g:claim name='a' profile='p' count='4294967297'/>",
            "4:83: count=\"4294967297\" in <gpuslice:claim>: not a number from 1 to 64",
        ),
        (
            "<g:claim name='a' profile='p' fabric='any'/>",
            "4:83: fabric=\"any\" in <gpuslice:claim>: expected same",
        ),
        (
            "<g:claim name='a' profile='p' parameters='x y'/>",
            "4:83: parameters=\"x y\" in <gpuslice:claim>: expected key=value pairs of letters, digits, _ - . and :, with commas between",
        ),
        (
            "<g:claim name='a' profile='p' numa='yes'/>",
            "4:83: numa=\"yes\" in <gpuslice:claim>: expected prefer or require",
        ),
        (
            "<g:claim name='a'><g:isolation min='hard'/></g:claim>",
            "4:84: min=\"hard\" in <gpuslice:isolation>: expected hardware or shared",
        ),
        ("<g:claim name='a'><g:isolation/></g:claim>", "4:71: <gpuslice:isolation> has no min"),
    ] {
        assert_eq!(error_of(&claims(inside)), format!("domain XML at {want}"));
    }
}

#[test]
fn our_namespace_stands_once_and_in_the_metadata() {
    let one = "<g:claims xmlns:g='urn:gpuslice:domain:1'/>";
    assert_eq!(
        error_of(&domain(&format!("{one}\n{one}"), "")),
        "domain XML at 5:1: second element of the namespace urn:gpuslice:domain:1 in <metadata>, the first is at 4:11"
    );
    assert_eq!(
        error_of(&domain("<g:claim xmlns:g='urn:gpuslice:domain:1' name='a' profile='p'/>", "")),
        "domain XML at 4:11: unknown element \"claim\" in <metadata>, did you mean \"claims\"?"
    );
    assert_eq!(
        error_of(&domain("", one)),
        "domain XML at 5:10: <gpuslice:claims> must be a child of <metadata>"
    );
    // Another tool's keepsake is its own.
    let kept = format!("<t:backup xmlns:t='u'>{one}</t:backup>");
    assert_eq!(read_domain(&domain(&kept, "")).unwrap().claims, []);
}

#[test]
fn devices_are_read_in_every_form() {
    let devices = "
      <hostdev mode='subsystem' type='mdev' managed='yes' model='vfio-pci'><source><address uuid='AAAAAAAA-1111-5222-8333-444444444444'/></source><alias name='ua-gpuslice-gpu0'/><address type='pci' domain='0x0000' bus='0x07' slot='0x00' function='0x0'/></hostdev>
      <hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0x41' slot='0x00' function='0x4'/></source><address type='pci' domain='0' bus='9' slot='0' function='0'/></hostdev>
      <hostdev type='pci'><driver name='vfio'/><source><address domain='65537' bus='017' slot='31' function='0X7'/></source><alias name='hostdev3'/></hostdev>
      <hostdev mode='subsystem' type='pci'><source><address slot='0x02'/></source><alias name='ua-theirs'/></hostdev>
      <hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>
      <hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/></source></hostdev>
      <hostdev mode='capabilities' type='misc'><source><char>/dev/input/event3</char></source></hostdev>
      <t:hostdev xmlns:t='u' mode='subsystem' type='pci'><source><address slot='0x03'/></source></t:hostdev>
      <!-- <hostdev mode='subsystem' type='pci'><source><address slot='0x04'/></source></hostdev> -->";
    let read = read_domain(&domain("", devices)).unwrap().devices;
    let shown: Vec<_> = read
        .iter()
        .map(|d| match d.source {
            HostDeviceSource::Mdev(uuid) => (uuid.to_string(), d.alias.as_deref(), d.managed),
            HostDeviceSource::Pci(address) => (address.to_string(), d.alias.as_deref(), d.managed),
        })
        .collect();
    assert_eq!(
        shown,
        [
            // libvirt passes managed over on mediated devices.
            ("aaaaaaaa-1111-5222-8333-444444444444".to_owned(), Some("ua-gpuslice-gpu0"), false),
            ("0000:41:00.4".to_owned(), None, true),
            // libvirt names each device of a running domain; nobody has given it that.
            ("10001:0f:1f.7".to_owned(), None, false),
            ("0000:00:02.0".to_owned(), Some("ua-theirs"), false),
        ]
    );
}

#[test]
fn a_malformed_device_is_an_error_only_if_ours() {
    let broken = [
        ("type='usb'", "<source/>", "it is neither of type mdev nor of type pci"),
        ("", "", "it is neither of type mdev nor of type pci"),
        ("type='pci' mode='capabilities'", "", "its mode is not subsystem"),
        ("type='pci'", "", "it has no source address"),
        ("type='pci'", "<source/>", "it has no source address"),
        ("type='pci'", "<source><address/></source>", "the address of its source is empty"),
        (
            "type='pci'",
            "<source><address bus='0x1g'/></source>",
            "the address of its source has a part that is no number",
        ),
        (
            "type='pci'",
            "<source><address bus='0x100'/></source>",
            "the address of its source is out of range",
        ),
        (
            "type='pci'",
            "<source><address slot='0x20'/></source>",
            "the address of its source is out of range",
        ),
        (
            "type='pci'",
            "<source><address function='8'/></source>",
            "the address of its source is out of range",
        ),
        ("type='mdev'", "<source><address/></source>", "its source has no uuid"),
        (
            "type='mdev'",
            "<source><address uuid='aaaaaaaa11115222833344444444444'/></source>",
            "the uuid of its source is none",
        ),
        (
            "type='mdev'",
            "<address uuid='aaaaaaaa-1111-5222-8333-444444444444'/>",
            "it has no source address",
        ),
    ];
    for (attributes, inside, why) in broken {
        let with = |alias: &str| {
            domain(
                "",
                &format!("\n<hostdev {attributes}>{inside}<alias name='{alias}'/></hostdev>"),
            )
        };
        assert_eq!(
            error_of(&with("ua-gpuslice-gpu0")),
            format!("domain XML at 6:1: hostdev ua-gpuslice-gpu0: {why}")
        );
        assert_eq!(read_domain(&with("ua-mine")).unwrap().devices, []);
        assert_eq!(read_domain(&with("hostdev0")).unwrap().devices, []);
    }
    let good = "<source><address uuid='aaaaaaaa-1111-5222-8333-444444444444'/></source>";
    let xml = domain(
        "",
        &format!("<hostdev type='mdev'>{good}<alias name='ua-gpuslice-a--0'/></hostdev>"),
    );
    assert!(error_of(&xml).ends_with("hostdev ua-gpuslice-a--0: its alias names no claim"));
}

#[test]
fn what_is_not_a_document_is_told_with_its_place() {
    for (xml, want) in [
        ("", "domain XML at 1:1 is not well-formed"),
        ("<domain>", "domain XML at 1:9 is not well-formed"),
        ("<domain>\n</domian>", "domain XML at 2:1 is not well-formed"),
        ("<domain>\n  <a b='&lol;'/></domain>", "domain XML at 2:9 is not well-formed"),
        (
            "<!DOCTYPE domain [<!ENTITY lol 'lol'>]><domain>&lol;</domain>",
            "domain XML has a document type declaration, which is not accepted",
        ),
        (
            "<!DOCTYPE domain SYSTEM 'file:///etc/shadow'><domain/>",
            "domain XML has a document type declaration, which is not accepted",
        ),
    ] {
        assert_eq!(error_of(xml), want);
    }
    // Cut anywhere, a document is refused and nothing worse.
    let whole = claims("<g:claim name='a' profile='p'/>");
    let end = whole.trim_end().len();
    for cut in 0..end {
        read_domain(&whole[..cut]).expect_err(&whole[..cut]);
    }
    read_domain(&whole[..end]).unwrap();
}

#[test]
fn size_and_depth_do_no_harm() {
    let padding = "<!-- xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx -->\n".repeat(200_000);
    let large = domain(
        "<g:claims xmlns:g='urn:gpuslice:domain:1'><g:claim name='a' profile='p'/></g:claims>",
        &padding,
    );
    assert!(large.len() > 10_000_000);
    assert_eq!(read_domain(&large).unwrap().claims.len(), 1);

    let wide = domain("", &"<x/>".repeat(2_500_000));
    assert_eq!(read_domain(&wide).unwrap_err(), DomXmlError::TooManyNodes);
    assert!(matches!(read_domain(&" ".repeat(SIZE_LIMIT + 1)), Err(DomXmlError::TooLong { .. })));
    let claims = |count: usize| -> String {
        let each = (0..count).map(|i| format!("<g:claim name='c{i}' profile='p'/>\n"));
        format!("<g:claims xmlns:g='{NAMESPACE}'>{}</g:claims>", each.collect::<String>())
    };
    assert_eq!(read_domain(&domain(&claims(MOST_CLAIMS), "")).unwrap().claims.len(), MOST_CLAIMS);
    assert!(matches!(
        read_domain(&domain(&claims(100_000), "")),
        Err(DomXmlError::TooManyClaims { .. })
    ));
    let deep = "<domain>".repeat(1_000_000);
    assert!(matches!(read_domain(&deep), Err(DomXmlError::TooDeep { .. })));
    let attributes: String = (0..1_000_000).map(|i| format!(" a{i}=''")).collect();
    assert!(matches!(
        read_domain(&format!("<domain{attributes}/>")),
        Err(DomXmlError::TooManyAttributes { .. })
    ));
}
