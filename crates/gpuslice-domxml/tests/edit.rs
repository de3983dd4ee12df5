//! Edits: the exact text they leave, and on random documents that nothing but ours changes.
#![cfg(test)]

use gpuslice_core::domain::{ALIAS_PREFIX, ClaimRequest, HostDeviceSource, NAMESPACE, alias_for};
use gpuslice_core::ids::{ClaimName, MdevUuid, PciAddress};

use gpuslice_core::numa::Pinned;
use gpuslice_core::request::DeviceToWrite;
use gpuslice_domxml::{
    adopt_device, claims_for_set_metadata, claims_xml, device_xml, hostdev_xml, plain_device_xml,
    put_claims, put_device, read_domain, remap_pci, remove_claims, remove_device, rename_device,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

const MDEV: &str = "aaaaaaaa-1111-5222-8333-444444444444";
const ID: &str = "<name>a</name><uuid>4be47ad5-6e2f-4e0c-9d4a-1f6a3f0e1a01</uuid>";

fn name(text: &str) -> ClaimName {
    text.parse().expect(text)
}

fn mdev(alias: &str, uuid: &str) -> DeviceToWrite {
    DeviceToWrite {
        alias: alias.to_owned(),
        source: HostDeviceSource::Mdev(uuid.parse().expect(uuid)),
    }
}

fn pci(alias: &str, address: &str) -> DeviceToWrite {
    DeviceToWrite {
        alias: alias.to_owned(),
        source: HostDeviceSource::Pci(address.parse().expect(address)),
    }
}

fn claim(text: &str) -> ClaimRequest {
    ClaimRequest::one(&name(text), "p".parse().expect("a profile"))
}

#[test]
fn a_device_is_given_another_alias_and_nothing_else() {
    let device = "<hostdev mode='subsystem' type='pci' managed='no'><source><address bus='1'/></source>\
                  <alias name=\"ua-gpuslice-gpu0\"/><rom bar='off'/></hostdev>";
    let xml = format!("<domain>{ID}<devices>{device}</devices></domain>");
    let renamed = rename_device(&xml, "ua-gpuslice-gpu0", "ua-gpuslice-main").unwrap();
    assert_eq!(renamed, xml.replace("ua-gpuslice-gpu0", "ua-gpuslice-main"));
    assert_eq!(rename_device(&xml, "ua-gpuslice-gpu1", "ua-gpuslice-main").unwrap(), xml);
}

#[test]
fn what_was_picked_becomes_ours_and_stays_as_it_was_picked() {
    // As virt-manager's dialog writes it, and libvirt gives it back.
    let picked = "    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source>
        <address domain='0x0000' bus='0x41' slot='0x00' function='0x5'/>
      </source>
      <address type='pci' domain='0x0000' bus='0x07' slot='0x00' function='0x0'/>
    </hostdev>
";
    let theirs =
        picked.replace("      <address type", "      <alias name='ua-mine'/>\n      <address type");
    let xml = format!("<domain>\n  {ID}\n  <devices>\n{theirs}{picked}  </devices>\n</domain>\n");
    let vf = |function| pci("ua-gpuslice-gpu0", &format!("0000:41:00.{function}"));
    let passed = vf(5).source;
    assert_eq!(plain_device_xml(&xml, passed).unwrap(), Some(picked.trim()));
    let named = picked.replace("</source>", "</source>\n      <alias name='ua-gpuslice-gpu0'/>");
    assert_eq!(adopt_device(&xml, passed, &vf(5)).unwrap(), xml.replacen(picked, &named, 1));
    // Somebody else has it: another one, which is bound by us.
    let other = named.replace("function='0x5'", "function='0x6'").replace("'yes'", "'no'");
    assert_eq!(adopt_device(&xml, passed, &vf(6)).unwrap(), xml.replacen(picked, &other, 1));
    let made = adopt_device(&xml, passed, &mdev("ua-gpuslice-gpu0", MDEV)).unwrap();
    let device = read_domain(&made).unwrap().devices.pop().unwrap();
    assert_eq!(device.source, mdev("", MDEV).source);
    assert_eq!(device.alias.as_deref(), Some("ua-gpuslice-gpu0"));
    assert_eq!(made.matches("bus='0x07'").count(), 2, "{made}");
    assert_eq!(adopt_device(&xml, vf(4).source, &vf(4)).unwrap(), xml, "it is not there");
}

#[test]
fn what_we_write_looks_as_libvirt_writes_it() {
    assert_eq!(
        hostdev_xml(&mdev("ua-gpuslice-gpu0", MDEV)),
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>
  <source>
    <address uuid='aaaaaaaa-1111-5222-8333-444444444444'/>
  </source>
  <alias name='ua-gpuslice-gpu0'/>
</hostdev>"
    );
    assert_eq!(
        hostdev_xml(&pci("it's <&>", "10001:0c:1f.7")),
        "<hostdev mode='subsystem' type='pci' managed='no'>
  <source>
    <address domain='0x10001' bus='0x0c' slot='0x1f' function='0x7'/>
  </source>
  <alias name='it&apos;s &lt;&amp;>'/>
</hostdev>"
    );
    let claims = [
        ClaimRequest {
            count: 8,
            same_fabric: true,
            prefer_numa: true,
            parameters: Some("disable_vnc=1".parse().unwrap()),
            ..claim("ai")
        },
        ClaimRequest { require_numa: Some(Pinned::default()), ..claim("near") },
        ClaimRequest {
            profile: None,
            memory_min: Some(1536 << 20),
            isolation_min: Some("hardware".to_owned()),
            ..claim("cad")
        },
    ];
    assert_eq!(
        claims_xml(&claims),
        "<gpuslice:claims xmlns:gpuslice='urn:gpuslice:domain:1'>
  <gpuslice:claim name='ai' profile='p' count='8' fabric='same' numa='prefer' parameters='disable_vnc=1'/>
  <gpuslice:claim name='near' profile='p' numa='require'/>
  <gpuslice:claim name='cad'>
    <gpuslice:memory min='1536' unit='MiB'/>
    <gpuslice:isolation min='hardware'/>
  </gpuslice:claim>
</gpuslice:claims>"
    );
    assert_eq!(
        claims_for_set_metadata(&claims[..1]),
        "<claims>
  <claim name='ai' profile='p' count='8' fabric='same' numa='prefer' parameters='disable_vnc=1'/>
</claims>"
    );
}

#[test]
fn a_device_is_added_in_the_documents_own_layout() {
    let device = mdev("ua-gpuslice-a", MDEV);
    let flat: String = hostdev_xml(&device).lines().map(str::trim).collect();
    let nested = |lead: &str| format!("{lead}{}", hostdev_xml(&device).replace('\n', lead));
    for (before, want) in [
        (
            "<domain>\n\t<devices>\n\t\t<x/> \n\t</devices>\n</domain>\n".to_owned(),
            format!(
                "<domain>\n\t<devices>\n\t\t<x/>{} \n\t</devices>\n</domain>\n",
                nested("\n\t\t")
            ),
        ),
        (
            "<domain>\r\n  <devices>\r\n    <x/>\r\n  </devices>\r\n</domain>".to_owned(),
            format!(
                "<domain>\r\n  <devices>\r\n    <x/>{}\r\n  </devices>\r\n</domain>",
                nested("\r\n    ")
            ),
        ),
        (
            "<domain><devices><x/></devices></domain>".to_owned(),
            format!("<domain><devices><x/>{flat}</devices></domain>"),
        ),
        (
            "<domain><devices/></domain>".to_owned(),
            format!("<domain><devices>{flat}</devices></domain>"),
        ),
        (
            "<domain>\n  <devices />\n</domain>".to_owned(),
            format!("<domain>\n  <devices >{}\n  </devices>\n</domain>", nested("\n    ")),
        ),
        (
            "<domain>\n  <devices>\n    <!-- none -->\n  </devices>\n</domain>".to_owned(),
            format!(
                "<domain>\n  <devices>\n    <!-- none -->{}\n  </devices>\n</domain>",
                nested("\n    ")
            ),
        ),
        (
            "<domain>\n  <devices></devices>\n</domain>".to_owned(),
            format!("<domain>\n  <devices>{}\n  </devices>\n</domain>", nested("\n    ")),
        ),
        (
            "<domain>\n  <name>a</name>\n</domain>".to_owned(),
            format!(
                "<domain>\n  <name>a</name>\n  <devices>{}\n  </devices>\n</domain>",
                nested("\n    ")
            ),
        ),
        ("<domain/>".to_owned(), format!("<domain><devices>{flat}</devices></domain>")),
    ] {
        assert_eq!(put_device(&before, &device).unwrap(), want, "{before}");
        assert_eq!(device_xml(&before, &device.alias).unwrap(), None);
        assert_eq!(remove_device(&before, &device.alias).unwrap(), before);
    }
}

#[test]
fn a_device_is_given_another_source_and_keeps_the_rest() {
    let around = |hostdev: &str| {
        format!(
            "<domain>{ID}\n <devices>\n  {hostdev}\n  <hostdev type=\"pci\"><alias name=\"hostdev0\"/></hostdev>\n </devices></domain>"
        )
    };
    let guest = "<address type='pci' domain='0x0000' bus='0x07' slot='0x00' function='0x0'/>";
    let vf = format!(
        "<hostdev  mode=\"subsystem\" type='pci' managed=\"yes\"><boot order='1'/><!-- mine -->
        <source><address   domain='0' bus='65' slot='0x00' function='0x4' /></source><rom bar='off'/>{guest}<alias name='ua-gpuslice-a'/></hostdev>"
    );
    let before = around(&vf);
    let after = put_device(&before, &pci("ua-gpuslice-a", "0000:42:00.5")).unwrap();
    let want = vf
        .replace("managed=\"yes\"", "managed=\"no\"")
        .replace("bus='65'", "bus='0x42'")
        .replace("slot='0x00' function='0x4'", "slot='0x00' function='0x5'");
    assert_eq!(after, around(&want));
    assert_eq!(device_xml(&after, "ua-gpuslice-a").unwrap(), Some(want.as_str()));
    // What is already so stays as it is written.
    assert_eq!(put_device(&after, &pci("ua-gpuslice-a", "0000:42:00.5")).unwrap(), after);

    // Another kind: only the guest's address has a meaning for it.
    let mdev_of_vf = put_device(&before, &mdev("ua-gpuslice-a", MDEV)).unwrap();
    assert_eq!(
        mdev_of_vf,
        around(&format!(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>\n    <source>\n      <address uuid='{MDEV}'/>\n    </source>\n    <alias name='ua-gpuslice-a'/>\n    {guest}\n  </hostdev>"
        ))
    );
    let other = "bbbbbbbb-1111-5222-8333-444444444444";
    assert_eq!(
        put_device(&mdev_of_vf, &mdev("ua-gpuslice-a", other)).unwrap(),
        mdev_of_vf.replace(MDEV, other)
    );
    // And back, as when a driver offers VFs where it made mediated devices.
    assert_eq!(
        put_device(&mdev_of_vf, &pci("ua-gpuslice-a", "0000:42:00.5")).unwrap(),
        around(&format!(
            "<hostdev mode='subsystem' type='pci' managed='no'>\n    <source>\n      <address domain='0x0000' bus='0x42' slot='0x00' function='0x5'/>\n    </source>\n    <alias name='ua-gpuslice-a'/>\n    {guest}\n  </hostdev>"
        ))
    );
    // A malformed one of ours is mended.
    let mended = put_device(
        &around("<hostdev type='pci'><alias name='ua-gpuslice-a'/></hostdev>"),
        &pci("ua-gpuslice-a", "0000:42:00.5"),
    );
    let read = read_domain(&mended.unwrap()).unwrap();
    assert_eq!(read.devices[0].source, pci("", "0000:42:00.5").source);
}

#[test]
fn claims_are_put_where_libvirt_puts_them() {
    let one = [claim("a")];
    let at = |lead: &str| format!("{lead}{}", claims_xml(&one).replace('\n', lead));
    let flat: String = claims_xml(&one).lines().map(str::trim).collect();
    for (before, want) in [
        (
            "<domain>\n <name>a</name>\n <uuid>b</uuid>\n <memory>1</memory>\n</domain>".to_owned(),
            format!("<domain>\n <name>a</name>\n <uuid>b</uuid>\n <metadata>{}\n </metadata>\n <memory>1</memory>\n</domain>", at("\n   ")),
        ),
        (
            "<domain>\n  <metadata/>\n</domain>".to_owned(),
            format!("<domain>\n  <metadata>{}\n  </metadata>\n</domain>", at("\n    ")),
        ),
        (
            "<domain>\n  <metadata>\n    <t:x xmlns:t='u'/>\n  </metadata>\n</domain>".to_owned(),
            format!("<domain>\n  <metadata>\n    <t:x xmlns:t='u'/>{}\n  </metadata>\n</domain>", at("\n    ")),
        ),
        (
            "<domain>\n  <metadata>\n    <g:claims xmlns:g='urn:gpuslice:domain:1'><x/></g:claims><!-- c -->\n  </metadata>\n</domain>".to_owned(),
            format!("<domain>\n  <metadata>{}<!-- c -->\n  </metadata>\n</domain>", at("\n    ")),
        ),
        (
            "<domain/>".to_owned(),
            format!("<domain><metadata>{}</metadata></domain>", flat),
        ),
    ] {
        assert_eq!(put_claims(&before, &one).unwrap(), want, "{before}");
    }
    let twice = "<domain><metadata><g:a xmlns:g='urn:gpuslice:domain:1'/><g:b xmlns:g='urn:gpuslice:domain:1'/></metadata></domain>";
    put_claims(twice, &one).unwrap_err();
    remove_claims(twice).unwrap_err();
}

#[test]
fn broken_documents_are_not_edited() {
    for xml in ["", "<domain>", "<network/>", "<!DOCTYPE domain><domain/>"] {
        put_device(xml, &mdev("ua-gpuslice-a", MDEV)).unwrap_err();
        remove_device(xml, "ua-gpuslice-a").unwrap_err();
        put_claims(xml, &[claim("a")]).unwrap_err();
        remove_claims(xml).unwrap_err();
        device_xml(xml, "a").unwrap_err();
        remap_pci(xml, &BTreeMap::new()).unwrap_err();
    }
}

#[test]
fn functions_are_remapped_all_at_once() {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<PciAddress, PciAddress> {
        pairs.iter().map(|(a, b)| (a.parse().expect(a), b.parse().expect(b))).collect()
    };
    let xml = |first: &str, second: &str, third: &str| {
        format!("<domain><devices><hostdev type='pci'><source>{first}</source><address type='pci' bus='0x41' slot='0x00' function='0x4'/></hostdev>
<interface type='hostdev'><source><address type='pci' domain='0' bus='0x41' slot='0' function='4'/></source></interface>
<hostdev type=\"pci\"><source>{second}</source></hostdev><hostdev type='mdev'><source><address uuid='{MDEV}'/></source></hostdev>
<hostdev type='pci'><source>{third}</source></hostdev></devices></domain>")
    };
    let before = xml(
        "<address domain='0x0000' bus='0x41' slot='0x00' function='0x4'/>",
        "<address\nbus=\"65\" function=\"05\"/>",
        "<address slot='0x02'></address>",
    );
    assert_eq!(remap_pci(&before, &BTreeMap::new()).unwrap(), before);
    assert_eq!(remap_pci(&before, &map(&[("0000:43:00.0", "0000:44:00.0")])).unwrap(), before);
    let swapped = map(&[
        ("0000:41:00.4", "0000:41:00.5"),
        ("0000:41:00.5", "0000:41:00.4"),
        ("0000:00:02.0", "0001:42:02.3"),
    ]);
    assert_eq!(
        remap_pci(&before, &swapped).unwrap(),
        xml(
            "<address domain='0x0000' bus='0x41' slot='0x00' function='0x5'/>",
            "<address\nbus=\"65\" function=\"0x4\"/>",
            "<address domain='0x0001' bus='0x42' function='0x3' slot='0x02'></address>",
        )
    );
}

// ---- random documents

/// Bytes of a document that are ours, with the line break and blanks before each: found again here by another way.
fn without_ours(xml: &str) -> String {
    let document = roxmltree::Document::parse(xml).expect(xml);
    let plain = |node: roxmltree::Node, name| {
        node.tag_name().namespace().is_none() && node.tag_name().name() == name
    };
    let mut ranges: Vec<Range<usize>> = document
        .descendants()
        .filter(|node| {
            let in_namespace = node.is_element()
                && node.tag_name().namespace() == Some(NAMESPACE)
                && node.parent().is_some_and(|p| plain(p, "metadata"));
            let alias = node.children().find(|c| plain(*c, "alias"));
            let alias = alias.and_then(|alias| alias.attribute("name")).unwrap_or("");
            in_namespace || plain(*node, "hostdev") && alias.starts_with(ALIAS_PREFIX)
        })
        .map(|node| node.range())
        .collect();
    ranges.reverse();
    let mut out = xml.to_owned();
    for range in ranges {
        let before = &xml[..range.start];
        let blanks = before.trim_end_matches([' ', '\t', '\r', '\n']);
        let line = match before[blanks.len()..].rfind('\n') {
            Some(newline) if before[blanks.len()..newline + blanks.len()].ends_with('\r') => {
                blanks.len() + newline - 1
            }
            Some(newline) => blanks.len() + newline,
            None => range.start,
        };
        out.replace_range(line..range.end, "");
    }
    out
}

fn gap() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(""),
        Just("\n  "),
        Just("\r\n\t"),
        Just(" "),
        Just("\n\n    "),
        Just("\n<!-- <hostdev> ü -->\n"),
    ]
}

fn foreign_part() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("<disk type='file'><source file='/a'/></disk>"),
        Just("<hostdev type='usb'><source/><alias name='ua-mine'/></hostdev>"),
        Just(
            "<hostdev mode=\"subsystem\" type=\"pci\" managed=\"yes\"><source><address domain='0x0000' bus='0x41' slot='0x00' function='0x4'/></source></hostdev>"
        ),
        Just("<![CDATA[ <hostdev><alias name='ua-gpuslice-a'/></hostdev> ]]>"),
        Just("<t:hostdev xmlns:t='u'><alias name='ua-gpuslice-a'/></t:hostdev>"),
    ]
}

fn document() -> impl Strategy<Value = String> {
    let parts = || proptest::collection::vec((gap(), foreign_part()), 0..5);
    (gap(), gap(), parts(), gap(), gap()).prop_map(|(a, b, parts, c, d)| {
        let inside: String = parts.iter().flat_map(|(gap, part)| [*gap, *part]).collect();
        format!("<domain>{a}{ID}{b}<metadata>{c}<t:x xmlns:t='u'/>{d}</metadata>{a}<devices>{b}<x/>{inside}{c}</devices>{d}</domain>\n")
    })
}

fn source() -> impl Strategy<Value = HostDeviceSource> {
    prop_oneof![
        any::<u128>().prop_map(|n| HostDeviceSource::Mdev(MdevUuid(uuid::Uuid::from_u128(n)))),
        (0..0x2_0000u32, any::<u8>(), 0..32u8, 0..8u8).prop_map(|(a, b, c, d)| {
            HostDeviceSource::Pci(PciAddress::new(a, b, c, d).expect("in range"))
        }),
    ]
}

fn claim_request() -> impl Strategy<Value = ClaimRequest> {
    let isolation = proptest::option::of(proptest::sample::select(vec!["hardware", "shared"]));
    (1..=64u32, any::<bool>(), 0..3u8, proptest::option::of(1..u64::MAX), isolation).prop_map(
        |(count, same_fabric, numa, memory_min, isolation)| ClaimRequest {
            count,
            same_fabric,
            prefer_numa: numa == 1,
            // Their domain is pinned nowhere.
            require_numa: (numa == 2).then(Pinned::default),
            memory_min,
            isolation_min: isolation.map(str::to_owned),
            ..claim("a")
        },
    )
}

#[derive(Debug, Clone)]
enum Edit {
    Put(usize, HostDeviceSource),
    Remove(usize),
    Claims(Vec<ClaimRequest>),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => (0..3usize, source()).prop_map(|(n, source)| Edit::Put(n, source)),
        1 => (0..3usize).prop_map(Edit::Remove),
        2 => proptest::collection::vec(claim_request(), 0..4).prop_map(|mut claims| {
            for (n, claim) in claims.iter_mut().enumerate() {
                claim.name = name(&format!("c{n}"));
            }
            Edit::Claims(claims)
        }),
    ]
}

proptest! {
    #[test]
    fn edits_change_only_ours_and_read_back(original in document(), edits in proptest::collection::vec(edit(), 1..8)) {
        let mut xml = original.clone();
        let mut claims = Vec::new();
        let mut devices = BTreeMap::new();
        for edit in edits {
            match edit {
                Edit::Put(n, source) => {
                    let alias = alias_for(&name("gpu"), u32::try_from(n).unwrap());
                    xml = put_device(&xml, &DeviceToWrite { alias: alias.clone(), source }).unwrap();
                    devices.insert(alias, source);
                }
                Edit::Remove(n) => {
                    let alias = alias_for(&name("gpu"), u32::try_from(n).unwrap());
                    xml = remove_device(&xml, &alias).unwrap();
                    devices.remove(&alias);
                }
                Edit::Claims(new) => {
                    xml = put_claims(&xml, &new).unwrap();
                    claims = new;
                }
            }
            prop_assert_eq!(without_ours(&xml), original.as_str());
            let read = read_domain(&xml).unwrap();
            prop_assert_eq!(&read.claims, &claims);
            let ours: BTreeMap<_, _> = read
                .devices
                .iter()
                .filter(|device| device.our_claim().is_some())
                .map(|device| (device.alias.clone().unwrap(), device.source))
                .collect();
            prop_assert_eq!(&ours, &devices);
        }
        for alias in devices.keys() {
            xml = remove_device(&xml, alias).unwrap();
        }
        prop_assert_eq!(remove_claims(&xml).unwrap(), original);
    }

    #[test]
    fn remapping_changes_nothing_else(original in document(), new in (0..9u32, 0..32u8)) {
        let old: PciAddress = "0000:41:00.4".parse().unwrap();
        let new = PciAddress::new(new.0, 7, new.1, 3).unwrap();
        let xml = remap_pci(&original, &BTreeMap::from([(old, new)])).unwrap();
        let mut want = read_domain(&original).unwrap();
        for device in &mut want.devices {
            device.source = HostDeviceSource::Pci(new);
        }
        prop_assert_eq!(read_domain(&xml).unwrap(), want);
        prop_assert_eq!(remap_pci(&xml, &BTreeMap::from([(new, old)])).unwrap(), original);
    }

    #[test]
    fn no_text_brings_it_down(text in "[<>/='\"a-c!?&;x\\[\\]\\- \\n]{0,200}") {
        let _ = read_domain(&text);
        let _ = put_device(&text, &mdev("ua-gpuslice-a", MDEV));
    }
}
