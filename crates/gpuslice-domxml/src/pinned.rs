//! Where on its host a domain is pinned: `<numatune>`, `<vcpu cpuset>` and `<cputune>` (libvirt's docs/formatdomain.rst,
//! "NUMA Node Tuning", "CPU Allocation", "CPU Tuning"). What libvirt would not read is passed over: it judges that itself.

use crate::error::DomXmlError;
use crate::read::{child, domain_of, is_plain};
use crate::shape::parse;
use gpuslice_core::numa::{Numbers, Pinned};
use roxmltree::Node;
use std::collections::BTreeSet;

/// Where a domain is pinned.
///
/// # Errors
/// Anything that is not a well-formed domain within the limits.
pub fn read_pinned(xml: &str) -> Result<Pinned, DomXmlError> {
    let document = parse(xml)?;
    Ok(pinned(domain_of(&document)?))
}

pub(crate) fn pinned(domain: Node) -> Pinned {
    let tuned = child(domain, "numatune");
    let memory = tuned.into_iter().flat_map(|tuned| tuned.children());
    let memory = memory.filter(|node| is_plain(*node, "memory") || is_plain(*node, "memnode"));
    Pinned {
        memory: joined(memory.filter_map(|node| numbers(node, "nodeset"))),
        cpus: cpus(domain),
    }
}

/// A vCPU without a pin of its own runs where all may; of one that may run anywhere nothing is known.
fn cpus(domain: Node) -> Numbers {
    let vcpu = child(domain, "vcpu");
    let all = vcpu.and_then(|vcpu| numbers(vcpu, "cpuset"));
    let pins = child(domain, "cputune").into_iter().flat_map(|tuned| tuned.children());
    let pins: Vec<Node> = pins.filter(|node| is_plain(*node, "vcpupin")).collect();
    let each: BTreeSet<&str> = pins.iter().filter_map(|pin| pin.attribute("vcpu")).collect();
    let count = vcpu.and_then(|vcpu| vcpu.text()?.trim().parse::<usize>().ok()).unwrap_or(1);
    let own = joined(pins.into_iter().filter_map(|pin| numbers(pin, "cpuset")));
    match all {
        _ if each.len() >= count => own,
        Some(all) => all.and(&own),
        None => Numbers::default(),
    }
}

fn numbers(node: Node, attribute: &str) -> Option<Numbers> {
    node.attribute(attribute)?.parse().ok()
}

fn joined(all: impl Iterator<Item = Numbers>) -> Numbers {
    all.fold(Numbers::default(), |joined, more| joined.and(&more))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(inside: &str) -> (String, String) {
        let pinned = read_pinned(&format!("<domain type='kvm'>{inside}</domain>")).unwrap();
        (pinned.memory.to_string(), pinned.cpus.to_string())
    }

    fn is(memory: &str, cpus: &str) -> (String, String) {
        (memory.to_owned(), cpus.to_owned())
    }

    #[test]
    fn memory_is_where_numatune_says() {
        assert_eq!(read("<numatune><memory mode='strict' nodeset='1'/></numatune>"), is("1", ""));
        let cells = "<numatune><memory mode='strict' nodeset='0'/><memnode cellid='0' mode='strict' nodeset='2-3'/></numatune>";
        assert_eq!(read(cells), is("0,2-3", ""));
        assert_eq!(read("<numatune><memory placement='auto'/></numatune>"), is("", ""));
        assert_eq!(read("<numatune><memory nodeset='x'/></numatune>"), is("", ""));
    }

    #[test]
    fn cpus_are_those_that_any_vcpu_may_run_on() {
        assert_eq!(read("<vcpu placement='static' cpuset='1-4,^3'>4</vcpu>"), is("", "1-2,4"));
        let pin = |n: u32, cpus: &str| format!("<vcpupin vcpu='{n}' cpuset='{cpus}'/>");
        let two = format!("<cputune>{}{}</cputune>", pin(0, "8"), pin(1, "9"));
        assert_eq!(read(&format!("<vcpu>2</vcpu>{two}")), is("", "8-9"));
        // The third runs where all may, or anywhere.
        assert_eq!(read(&format!("<vcpu cpuset='0-1'>3</vcpu>{two}")), is("", "0-1,8-9"));
        assert_eq!(read(&format!("<vcpu>3</vcpu>{two}")), is("", ""));
        assert_eq!(read("<cputune><emulatorpin cpuset='3'/></cputune>"), is("", ""));
    }
}
