//! What can be wrong with a domain's XML, each with its place and the objects' names.

use crate::shape::{ATTRIBUTE_LIMIT, DEPTH_LIMIT, NAMESPACE_LIMIT, NODE_LIMIT, SIZE_LIMIT};
use gpuslice_core::domain::MOST_CLAIMS;
use std::fmt;

/// A place in a document, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Character within the line.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a domain's XML was not read or edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomXmlError {
    /// More than [`SIZE_LIMIT`].
    #[error("domain XML of {length} bytes, more than {SIZE_LIMIT}")]
    TooLong {
        /// Its bytes.
        length: usize,
    },
    /// More than [`DEPTH_LIMIT`].
    #[error("domain XML at {at}: elements nested more than {DEPTH_LIMIT} deep")]
    TooDeep {
        /// The first element too deep.
        at: Position,
    },
    /// More than [`ATTRIBUTE_LIMIT`].
    #[error("domain XML at {at}: element with more than {ATTRIBUTE_LIMIT} attributes")]
    TooManyAttributes {
        /// The first attribute too many.
        at: Position,
    },
    /// More than [`NAMESPACE_LIMIT`].
    #[error("domain XML with more than {NAMESPACE_LIMIT} namespace declarations")]
    TooManyNamespaces,
    /// More than [`MOST_CLAIMS`].
    #[error("domain XML at {at}: more than {MOST_CLAIMS} claims")]
    TooManyClaims {
        /// The first claim too many.
        at: Position,
    },
    /// More than [`NODE_LIMIT`].
    #[error("domain XML with more than {NODE_LIMIT} nodes")]
    TooManyNodes,
    /// A document type declaration, with which entities would come.
    #[error("domain XML has a document type declaration, which is not accepted")]
    Dtd,
    /// Not well-formed.
    #[error("domain XML at {at} is not well-formed")]
    Syntax {
        /// Where the parser stopped.
        at: Position,
        /// Why.
        #[source]
        source: roxmltree::Error,
    },
    /// The root is something else.
    #[error("XML is of a <{found}>, not of a <domain>")]
    NotADomain {
        /// The root's name.
        found: String,
    },
    /// `<name>` or `<uuid>` is absent.
    #[error("domain XML has no <{element}>")]
    NoIdentity {
        /// Which.
        element: &'static str,
    },
    /// `<uuid>` is not one.
    #[error("domain XML at {at}: {text:?} is not a UUID")]
    BadUuid {
        /// The element.
        at: Position,
        /// Its text, cut to 80 characters.
        text: String,
    },
    /// libvirt keeps one element of a namespace; which one, is not to be guessed.
    #[error(
        "domain XML at {at}: second element of the namespace {} in <metadata>, the first is at {first}",
        gpuslice_core::domain::NAMESPACE
    )]
    NamespaceTwice {
        /// The second.
        at: Position,
        /// The first.
        first: Position,
    },
    /// An element of ours where libvirt would drop it.
    #[error("domain XML at {at}: <{element}> must be a child of <metadata>")]
    Misplaced {
        /// Where it is.
        at: Position,
        /// Its name.
        element: String,
    },
    /// A name that has no meaning there.
    #[error("domain XML at {at}: unknown {what} {name:?} in <{parent}>{}", suggest(nearest.as_deref(), known))]
    Unknown {
        /// Where it is.
        at: Position,
        /// `element` or `attribute`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The element that holds it.
        parent: String,
        /// The known name closest to it, if any is close.
        nearest: Option<String>,
        /// The names known there.
        known: &'static [&'static str],
    },
    /// An element of no namespace within ours would be passed over by everyone.
    #[error(
        "domain XML at {at}: <{name}> in <{parent}> is not in its namespace, write <gpuslice:{name}>"
    )]
    NoNamespace {
        /// Where it is.
        at: Position,
        /// Its name.
        name: String,
        /// The element that holds it.
        parent: String,
    },
    /// Text where only elements have a meaning.
    #[error("domain XML at {at}: text in <{parent}> has no meaning")]
    Text {
        /// Where it is.
        at: Position,
        /// The element that holds it.
        parent: String,
    },
    /// Something needed is not written.
    #[error("domain XML at {at}: <{element}> has no {missing}")]
    Missing {
        /// The element.
        at: Position,
        /// Its name.
        element: &'static str,
        /// What it lacks.
        missing: &'static str,
    },
    /// A value that has no meaning there.
    #[error("domain XML at {at}: {attribute}={value:?} in <{element}>: {why}")]
    BadValue {
        /// The attribute.
        at: Position,
        /// The element that holds it.
        element: &'static str,
        /// Its name.
        attribute: &'static str,
        /// Its value, cut to 80 characters.
        value: String,
        /// The rule it breaks.
        why: String,
    },
    /// Something of which one is allowed.
    #[error("domain XML at {at}: second {what}, the first is at {first}")]
    Twice {
        /// The second.
        at: Position,
        /// The first.
        first: Position,
        /// What it is.
        what: String,
    },
    /// A hostdev with an alias of ours that is no device of ours.
    #[error("domain XML at {at}: hostdev {alias}: {why}")]
    Device {
        /// The hostdev.
        at: Position,
        /// Its alias.
        alias: String,
        /// What is wrong.
        why: String,
    },
}

fn suggest(nearest: Option<&str>, known: &[&str]) -> String {
    match (nearest, known) {
        (Some(name), _) => format!(", did you mean {name:?}?"),
        (None, []) => String::new(),
        (None, known) => format!(", known are {}", known.join(", ")),
    }
}
