//! Refuses documents whose shape would cost the parser more than its size: it compares each attribute of an element
//! with every other, and copies the namespaces in scope at each declaration. One pass over the bytes, before parsing.

use crate::error::{DomXmlError, Position};
use roxmltree::{Document, ParsingOptions};

/// Longest document in bytes. libvirt's own protocol ends at 4 MiB for one string.
pub const SIZE_LIMIT: usize = 16 * 1024 * 1024;
/// Deepest nesting, as in libxml2, which libvirt reads with.
pub const DEPTH_LIMIT: usize = 256;
/// Most attributes of one element.
pub const ATTRIBUTE_LIMIT: usize = 256;
/// Most namespace declarations.
pub const NAMESPACE_LIMIT: usize = 1024;
/// Most nodes.
pub const NODE_LIMIT: u32 = 500_000;

/// Parses within the limits.
pub(crate) fn parse(xml: &str) -> Result<Document<'_>, DomXmlError> {
    if xml.len() > SIZE_LIMIT {
        return Err(DomXmlError::TooLong { length: xml.len() });
    }
    check(xml)?;
    let options =
        ParsingOptions { allow_dtd: false, nodes_limit: NODE_LIMIT, ..ParsingOptions::default() };
    Document::parse_with_options(xml, options).map_err(|source| match source {
        roxmltree::Error::DtdDetected => DomXmlError::Dtd,
        roxmltree::Error::NodesLimitReached => DomXmlError::TooManyNodes,
        source => {
            let at = match source {
                // The parser gives these no place: the document ends too early.
                roxmltree::Error::UnexpectedEndOfStream
                | roxmltree::Error::UnclosedRootNode
                | roxmltree::Error::NoRootNode => position(xml, xml.len()),
                _ => Position { line: source.pos().row, column: source.pos().col },
            };
            DomXmlError::Syntax { at, source }
        }
    })
}

/// Walks from tag to tag. What is not well-formed is left for the parser to judge: it stops at the first such place,
/// so it never sees more than was counted here.
fn check(xml: &str) -> Result<(), DomXmlError> {
    let mut depth = 0usize;
    let mut namespaces = 0;
    let mut rest = xml;
    while let Some(start) = memchr::memchr(b'<', rest.as_bytes()) {
        let tag = rest.get(start..).unwrap_or_default();
        let at = xml.len() - tag.len();
        let skipped = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")]
            .iter()
            .find(|(open, _)| tag.starts_with(open));
        if let Some((open, close)) = skipped {
            let inside = tag.get(open.len()..).unwrap_or_default();
            let Some(end) = inside.find(close) else {
                return Ok(());
            };
            rest = inside.get(end + close.len()..).unwrap_or_default();
            continue;
        }
        let Tag { length, attributes, declarations, empty } = Tag::measure(tag.as_bytes());
        namespaces += declarations;
        if attributes > ATTRIBUTE_LIMIT {
            return Err(DomXmlError::TooManyAttributes { at: position(xml, at) });
        }
        if namespaces > NAMESPACE_LIMIT {
            return Err(DomXmlError::TooManyNamespaces);
        }
        if tag.starts_with("</") {
            depth = depth.saturating_sub(1);
        } else if !empty {
            depth += 1;
            if depth > DEPTH_LIMIT {
                return Err(DomXmlError::TooDeep { at: position(xml, at) });
            }
        }
        // A tag ends behind an ASCII byte, so this is a character's border.
        rest = tag.get(length..).unwrap_or_default();
    }
    Ok(())
}

/// What one tag holds.
#[derive(Debug, Default)]
struct Tag {
    length: usize,
    attributes: usize,
    declarations: usize,
    empty: bool,
}

impl Tag {
    fn measure(tag: &[u8]) -> Self {
        let mut measured = Self::default();
        let mut quote = None;
        let mut before = 0u8;
        for (at, byte) in tag.iter().copied().enumerate() {
            match quote {
                Some(open) if byte == open => quote = None,
                Some(_) => {}
                None if byte == b'"' || byte == b'\'' => quote = Some(byte),
                None if byte == b'=' => measured.attributes += 1,
                None if byte == b'x' && before.is_ascii_whitespace() => {
                    let name = tag.get(at..).unwrap_or_default();
                    measured.declarations += usize::from(name.starts_with(b"xmlns"));
                }
                None if byte == b'>' => {
                    measured.empty = before == b'/';
                    measured.length = at + 1;
                    return measured;
                }
                None => {}
            }
            before = byte;
        }
        measured.length = tag.len();
        measured
    }
}

fn position(xml: &str, at: usize) -> Position {
    let before = xml.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position {
        line: count(before.matches('\n').count() + 1),
        column: count(before.get(line_start..).unwrap_or_default().chars().count() + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        "<a>".repeat(depth) + &"</a>".repeat(depth)
    }

    #[test]
    fn limits_are_where_they_are_said_to_be() {
        parse(&nested(DEPTH_LIMIT)).unwrap();
        assert_eq!(
            parse(&format!("\n{}", nested(DEPTH_LIMIT + 1))).unwrap_err(),
            DomXmlError::TooDeep { at: Position { line: 2, column: 769 } }
        );
        let with = |n: usize| {
            let attributes: String = (0..n).map(|i| format!(" a{i}='>\"'")).collect();
            format!("<a{attributes}/>")
        };
        parse(&with(ATTRIBUTE_LIMIT)).unwrap();
        assert!(matches!(
            parse(&with(ATTRIBUTE_LIMIT + 1)),
            Err(DomXmlError::TooManyAttributes { .. })
        ));
        let declaring = |n: usize| {
            let elements: String = (0..n).map(|_| "<b  xmlns:x = 'u'/>").collect();
            format!("<a>{elements}</a>")
        };
        parse(&declaring(NAMESPACE_LIMIT)).unwrap();
        assert_eq!(
            parse(&declaring(NAMESPACE_LIMIT + 1)).unwrap_err(),
            DomXmlError::TooManyNamespaces
        );
        let nodes = NODE_LIMIT as usize;
        assert_eq!(
            parse(&format!("<a>{}</a>", "<b/>".repeat(nodes))).unwrap_err(),
            DomXmlError::TooManyNodes
        );
        assert_eq!(
            parse(&" ".repeat(SIZE_LIMIT + 1)).unwrap_err(),
            DomXmlError::TooLong { length: SIZE_LIMIT + 1 }
        );
    }

    #[test]
    fn what_is_no_tag_does_not_count() {
        let deep = nested(DEPTH_LIMIT);
        let deep = deep.strip_suffix("</a>").unwrap();
        for inside in [
            "<!-- <b><c x='' -->",
            "<![CDATA[<b><c><d>]]>",
            "<?pi <b><c>?>",
            "<b/><b x='a>b'/><b x=\"/>'\"/>",
            "text = \" text '",
        ] {
            parse(&format!("{deep}{inside}</a>")).unwrap();
        }
    }
}
