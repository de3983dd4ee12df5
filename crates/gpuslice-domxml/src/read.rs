//! The domain as a whole: who it is, what it asks, what it carries.

use crate::claim::read_claims;
use crate::error::{DomXmlError, Position};
use crate::hostdev::read_hostdev;
use crate::pinned::pinned;
use crate::shape::parse;
use gpuslice_core::domain::{Domain, NAMESPACE};
use roxmltree::{Document, Node};
use std::cell::LazyCell;
use uuid::Uuid;

/// Reads a domain.
///
/// # Errors
/// Anything that is not a well-formed domain within the limits; anything of ours that has no meaning. Devices of
/// others, malformed or of other kinds, are passed over.
pub fn read_domain(xml: &str) -> Result<Domain, DomXmlError> {
    let document = parse(xml)?;
    let root = domain_of(&document)?;
    let name = text_of(root, "name")?;
    let uuid_node = child(root, "uuid").ok_or(DomXmlError::NoIdentity { element: "uuid" })?;
    let text = uuid_node.text().unwrap_or_default().trim();
    let uuid = Uuid::try_parse(text).map_err(|_| DomXmlError::BadUuid {
        at: at(uuid_node),
        text: text.chars().take(80).collect(),
    })?;
    let claims = match our_element(root)? {
        Some(element) => read_claims(element, &LazyCell::new(|| pinned(root)))?,
        None => Vec::new(),
    };
    let mut devices = Vec::new();
    for hostdev in hostdevs(root) {
        devices.extend(read_hostdev(hostdev)?);
    }
    Ok(Domain { uuid, name: name.to_owned(), claims, devices })
}

/// The root, if it is a domain.
pub(crate) fn domain_of<'a, 'i>(document: &'a Document<'i>) -> Result<Node<'a, 'i>, DomXmlError> {
    let root = document.root_element();
    if is_plain(root, "domain") {
        return Ok(root);
    }
    let name = root.tag_name().name();
    Err(DomXmlError::NotADomain {
        found: match root.tag_name().namespace() {
            Some(namespace) => format!("{name} xmlns='{namespace}'"),
            None => name.to_owned(),
        },
    })
}

/// Where a node begins.
pub(crate) fn at(node: Node) -> Position {
    position(node, node.range().start)
}

/// Line and column of a byte of a node's document.
pub(crate) fn position(node: Node, byte: usize) -> Position {
    let at = node.document().text_pos_at(byte);
    Position { line: at.row, column: at.col }
}

/// The first child element of a name in no namespace.
pub(crate) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| is_plain(*child, name))
}

/// libvirt's own elements are in no namespace; `has_tag_name` of a bare name would match any.
pub(crate) fn is_plain(node: Node, name: &str) -> bool {
    node.is_element() && node.tag_name().namespace().is_none() && node.tag_name().name() == name
}

/// Whether an element is in our namespace.
pub(crate) fn is_ours(node: Node) -> bool {
    node.is_element() && node.tag_name().namespace() == Some(NAMESPACE)
}

/// Every `<hostdev>` of the domain.
pub(crate) fn hostdevs<'a, 'i>(domain: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    domain
        .children()
        .filter(|node| is_plain(*node, "devices"))
        .flat_map(|devices| devices.children())
        .filter(|node| is_plain(*node, "hostdev"))
}

fn text_of<'a>(root: Node<'a, '_>, element: &'static str) -> Result<&'a str, DomXmlError> {
    child(root, element)
        .and_then(|node| node.text())
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .ok_or(DomXmlError::NoIdentity { element })
}

/// Our one element in the metadata.
pub(crate) fn our_element<'a, 'i>(
    domain: Node<'a, 'i>,
) -> Result<Option<Node<'a, 'i>>, DomXmlError> {
    let mut found: Option<Node> = None;
    for part in domain.children().filter(Node::is_element) {
        if !is_plain(part, "metadata") {
            // libvirt drops it at define: a claim there would be passed over without a word.
            if let Some(stray) = part.descendants().find(|node| is_ours(*node)) {
                return Err(DomXmlError::Misplaced { at: at(stray), element: shown(stray) });
            }
            continue;
        }
        // Deeper elements belong to whoever wrote what is around them.
        for element in part.children().filter(|node| is_ours(*node)) {
            if let Some(first) = found {
                return Err(DomXmlError::NamespaceTwice { at: at(element), first: at(first) });
            }
            found = Some(element);
        }
    }
    Ok(found)
}

/// An element's name as a person would write it.
pub(crate) fn shown(node: Node) -> String {
    let name = node.tag_name().name();
    if is_ours(node) { format!("gpuslice:{name}") } else { name.to_owned() }
}
