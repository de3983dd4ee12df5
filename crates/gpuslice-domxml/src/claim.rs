//! The metadata element: `<gpuslice:claims>` with its `<gpuslice:claim>`s. Strict, because a misspelt wish that is
//! passed over gives a domain something else than it asked for, or nothing.

use crate::error::{DomXmlError, Position};
use crate::read::{at, is_ours, position, shown};
use gpuslice_core::domain::{ClaimRequest, MOST_CLAIMS, MOST_SLICES, NAMESPACE};
use gpuslice_core::numa::Pinned;
use roxmltree::{Attribute, Node};
use std::ops::Deref;
use std::str::FromStr;

const CLAIM: &str = "gpuslice:claim";
const MEMORY: &str = "gpuslice:memory";
const ISOLATION: &str = "gpuslice:isolation";

/// `pinned` is where the domain is, found out where a claim asks for that.
pub(crate) fn read_claims(
    element: Node,
    pinned: &impl Deref<Target = Pinned>,
) -> Result<Vec<ClaimRequest>, DomXmlError> {
    if element.tag_name().name() != "claims" {
        return Err(unknown(
            at(element),
            "element",
            "metadata",
            &["claims"],
            element.tag_name().name(),
        ));
    }
    check_names(element, &[], &["claim"])?;
    let mut claims: Vec<(ClaimRequest, Node)> = Vec::new();
    for node in ours(element) {
        if claims.len() == MOST_CLAIMS {
            return Err(DomXmlError::TooManyClaims { at: at(node) });
        }
        let claim = read_claim(node, pinned)?;
        if let Some((_, first)) = claims.iter().find(|(other, _)| other.name == claim.name) {
            return Err(DomXmlError::Twice {
                at: at(node),
                first: at(*first),
                what: format!("claim {}", claim.name),
            });
        }
        claims.push((claim, node));
    }
    Ok(claims.into_iter().map(|(claim, _)| claim).collect())
}

fn read_claim(
    node: Node,
    pinned: &impl Deref<Target = Pinned>,
) -> Result<ClaimRequest, DomXmlError> {
    check_names(
        node,
        &["name", "profile", "count", "fabric", "numa", "parameters"],
        &["memory", "isolation"],
    )?;
    let missing = |missing| DomXmlError::Missing { at: at(node), element: CLAIM, missing };
    let name = parsed(node, CLAIM, "name")?.ok_or_else(|| missing("name"))?;
    let profile = parsed(node, CLAIM, "profile")?;
    let memory_min = only(node, "memory")?.map(read_memory).transpose()?;
    let isolation_min = only(node, "isolation")?.map(read_isolation).transpose()?;
    if profile.is_none() && memory_min.is_none() && isolation_min.is_none() {
        return Err(missing("profile, and asks for no property either"));
    }
    let count = value(node, CLAIM, "count", |text| {
        text.parse()
            .ok()
            .filter(|count| (1..=MOST_SLICES).contains(count))
            .ok_or_else(|| format!("not a number from 1 to {MOST_SLICES}"))
    })?;
    let numa = word(node, CLAIM, "numa", &["prefer", "require"])?;
    Ok(ClaimRequest {
        name,
        profile,
        count: count.unwrap_or(1),
        same_fabric: word(node, CLAIM, "fabric", &["same"])?.is_some(),
        prefer_numa: numa == Some("prefer"),
        require_numa: (numa == Some("require")).then(|| Pinned::clone(pinned)),
        memory_min,
        isolation_min,
        parameters: parsed(node, CLAIM, "parameters")?,
    })
}

fn read_memory(node: Node) -> Result<u64, DomXmlError> {
    check_names(node, &["min", "unit"], &[])?;
    let missing = |missing| DomXmlError::Missing { at: at(node), element: MEMORY, missing };
    // libvirt's own default differs from element to element, so none is assumed here.
    let unit = value(node, MEMORY, "unit", scale)?.ok_or_else(|| missing("unit"))?;
    value(node, MEMORY, "min", |text| {
        let number: u64 =
            text.parse().ok().filter(|number| *number > 0).ok_or("not a whole number above 0")?;
        number.checked_mul(unit).ok_or_else(|| "more than 64 bits of bytes".to_owned())
    })?
    .ok_or_else(|| missing("min"))
}

/// Units as virScaleInteger takes them, in any case.
fn scale(unit: &str) -> Result<u64, String> {
    let unit = unit.to_ascii_lowercase();
    if unit == "b" || unit == "bytes" {
        return Ok(1);
    }
    let (prefix, base) = match unit.strip_suffix("ib") {
        Some(prefix) => (prefix, 1024u64),
        None => match unit.strip_suffix('b') {
            Some(prefix) => (prefix, 1000),
            None => (unit.as_str(), 1024),
        },
    };
    let power = ["k", "m", "g", "t", "p", "e"]
        .iter()
        .zip(1..)
        .find_map(|(known, power)| (*known == prefix).then_some(power));
    power
        .and_then(|power| base.checked_pow(power))
        .ok_or_else(|| "not a unit such as MiB or GiB".to_owned())
}

fn read_isolation(node: Node) -> Result<String, DomXmlError> {
    check_names(node, &["min"], &[])?;
    let word = word(node, ISOLATION, "min", &["hardware", "shared"])?;
    word.map(str::to_owned).ok_or_else(|| DomXmlError::Missing {
        at: at(node),
        element: ISOLATION,
        missing: "min",
    })
}

/// Child elements of our namespace.
fn ours<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(|child| is_ours(*child))
}

/// The one child of a name.
fn only<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Result<Option<Node<'a, 'i>>, DomXmlError> {
    let mut found = ours(node).filter(|child| child.tag_name().name() == name);
    let first = found.next();
    match (first, found.next()) {
        (Some(first), Some(second)) => {
            Err(DomXmlError::Twice { at: at(second), first: at(first), what: shown(second) })
        }
        _ => Ok(first),
    }
}

/// Refuses every attribute and element without a meaning here. Other namespaces are others' business.
fn check_names(
    node: Node,
    attributes: &'static [&'static str],
    elements: &'static [&'static str],
) -> Result<(), DomXmlError> {
    for attribute in node.attributes() {
        let name = match attribute.namespace() {
            None if attributes.contains(&attribute.name()) => continue,
            None => attribute.name().to_owned(),
            Some(NAMESPACE) => format!("gpuslice:{}", attribute.name()),
            Some(_) => continue,
        };
        let place = position(node, attribute.range().start);
        return Err(unknown(place, "attribute", &shown(node), attributes, &name));
    }
    for child in node.children() {
        if child.is_text() && !child.text().unwrap_or_default().trim().is_empty() {
            return Err(DomXmlError::Text { at: at(child), parent: shown(node) });
        }
        let name = child.tag_name().name();
        if child.is_element() && child.tag_name().namespace().is_none() {
            return Err(DomXmlError::NoNamespace {
                at: at(child),
                name: name.to_owned(),
                parent: shown(node),
            });
        }
        if is_ours(child) && !elements.contains(&name) {
            return Err(unknown(at(child), "element", &shown(node), elements, name));
        }
    }
    Ok(())
}

fn unknown(
    at: Position,
    what: &'static str,
    parent: &str,
    known: &'static [&'static str],
    name: &str,
) -> DomXmlError {
    let bare = name.strip_prefix("gpuslice:").unwrap_or(name);
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(bare, known), *known))
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .min();
    DomXmlError::Unknown {
        at,
        what,
        name: name.chars().take(80).collect(),
        parent: parent.to_owned(),
        nearest: nearest.map(|(_, name)| name.to_owned()),
        known,
    }
}

/// An attribute, judged by `read`.
fn value<T>(
    node: Node,
    element: &'static str,
    attribute: &'static str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, DomXmlError> {
    let Some(found) = node.attribute_node(attribute) else {
        return Ok(None);
    };
    read(found.value()).map(Some).map_err(|why| bad_value(node, found, element, attribute, why))
}

fn bad_value(
    node: Node,
    found: Attribute,
    element: &'static str,
    attribute: &'static str,
    why: String,
) -> DomXmlError {
    DomXmlError::BadValue {
        at: position(node, found.range().start),
        element,
        attribute,
        value: found.value().chars().take(80).collect(),
        why,
    }
}

/// An attribute that is a name of the core's.
fn parsed<T: FromStr<Err = gpuslice_core::ids::ParseIdError>>(
    node: Node,
    element: &'static str,
    attribute: &'static str,
) -> Result<Option<T>, DomXmlError> {
    value(node, element, attribute, |text| {
        text.parse().map_err(|error: T::Err| error.why.to_owned())
    })
}

/// An attribute that is one of few words.
fn word(
    node: Node,
    element: &'static str,
    attribute: &'static str,
    words: &[&'static str],
) -> Result<Option<&'static str>, DomXmlError> {
    value(node, element, attribute, |text| {
        words
            .iter()
            .copied()
            .find(|word| *word == text)
            .ok_or_else(|| format!("expected {}", words.join(" or ")))
    })
}
