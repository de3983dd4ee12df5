//! What is noted of a domain while it runs, in an element and a namespace of its own: `<gpuslice-run:drivers>`, what makes the
//! slices of its claims. No definition has it, and where it says nothing that has a meaning nothing is known: it is no request.

use crate::read::{child, domain_of};
use crate::shape::parse;
use crate::write::laid_out;
use gpuslice_core::domain::{MOST_CLAIMS, RUN_NAMESPACE};
use gpuslice_core::driver::{Driver, DriverOf};
use roxmltree::Node;

/// What made a domain's slices where it ran, by claim. What stands there without a meaning is passed over.
pub fn read_drivers(xml: &str) -> Vec<DriverOf> {
    let Ok(document) = parse(xml) else { return Vec::new() };
    let Some(metadata) = domain_of(&document).ok().and_then(|root| child(root, "metadata")) else {
        return Vec::new();
    };
    let named = |name: &'static str| move |node: &Node| is_of_run(*node, name);
    let all = metadata.children().filter(named("drivers")).flat_map(|node| node.children());
    let read = |node: Node| {
        let driver = Driver::told(node.attribute("name")?, node.attribute("version"))?;
        Some(DriverOf { claim: node.attribute("claim")?.parse().ok()?, driver })
    };
    all.filter(named("driver")).filter_map(read).take(MOST_CLAIMS).collect()
}

fn is_of_run(node: Node, name: &str) -> bool {
    let tag = node.tag_name();
    node.is_element() && tag.namespace() == Some(RUN_NAMESPACE) && tag.name() == name
}

/// The element as virDomainSetMetadata wants it: without prefixes, which libvirt adds itself; none of none.
pub fn drivers_for_set_metadata(drivers: &[DriverOf]) -> Option<String> {
    let line = |DriverOf { claim, driver: Driver { name, version } }: &DriverOf| {
        let version = version.iter().map(|version| format!(" version='{version}'"));
        let version: String = version.collect();
        (1, format!("<driver claim='{claim}' name='{name}'{version}/>"))
    };
    let mut lines = vec![(0, "<drivers>".to_owned())];
    lines.extend(drivers.iter().map(line));
    lines.push((0, "</drivers>".to_owned()));
    (!drivers.is_empty()).then(|| laid_out(&lines, "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(claim: &str, name: &str, version: Option<&str>) -> DriverOf {
        let driver = Driver::told(name, version).unwrap();
        DriverOf { claim: claim.parse().unwrap(), driver }
    }

    fn domain(metadata: &str) -> String {
        format!("<domain type='kvm'><name>a</name><metadata>{metadata}</metadata></domain>")
    }

    /// As libvirt keeps what it is given.
    fn kept(drivers: &[DriverOf]) -> String {
        let element = drivers_for_set_metadata(drivers).unwrap();
        let open = format!("<drivers xmlns='{RUN_NAMESPACE}'>");
        domain(&element.replace("<drivers>", &open))
    }

    #[test]
    fn what_is_noted_is_read_back() {
        let drivers = [of("gpu0", "nvidia", Some("580.65.05")), of("b", "xe", None)];
        assert_eq!(read_drivers(&kept(&drivers)), drivers);
        assert_eq!(drivers_for_set_metadata(&[]), None);
    }

    #[test]
    fn what_has_no_meaning_says_nothing() {
        let inside = |inside: &str| {
            let run = format!("xmlns:r='{RUN_NAMESPACE}'");
            read_drivers(&domain(&format!("<r:drivers {run}>{inside}</r:drivers>")))
        };
        let whole = [of("gpu0", "nvidia", None)];
        assert_eq!(inside("<r:driver claim='gpu0' name='nvidia'/><r:later/>text"), whole);
        assert_eq!(inside("<r:driver claim='gpu0' name='nvidia' version='a b' more='1'/>"), whole);
        for nothing in [
            "",
            "<r:driver name='nvidia'/>",
            "<r:driver claim='gpu0'/>",
            "<r:driver claim='no name' name='nvidia'/>",
            "<r:driver claim='gpu0' name=\"it's\"/>",
            "<driver claim='gpu0' name='nvidia'/>",
        ] {
            assert_eq!(inside(nothing), [], "{nothing}");
        }
        for xml in ["", "<domain/>", "<network><metadata/></network>", &domain("")] {
            assert_eq!(read_drivers(xml), [], "{xml}");
        }
        let many = "<r:driver claim='gpu0' name='nvidia'/>".repeat(100);
        assert_eq!(inside(&many).len(), MOST_CLAIMS);
    }
}
