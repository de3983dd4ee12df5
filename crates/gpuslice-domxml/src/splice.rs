//! Changes to a text by byte ranges, all of them of the text as it was.

use std::ops::Range;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Splice {
    /// What goes; empty for an insertion.
    pub range: Range<usize>,
    /// What comes.
    pub text: String,
}

/// Makes the changes, which do not overlap.
pub(crate) fn apply(text: &str, mut splices: Vec<Splice>) -> String {
    splices.sort_by_key(|splice| splice.range.start);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for Splice { range, text: new } in splices {
        out.push_str(text.get(done..range.start).unwrap_or_default());
        out.push_str(&new);
        done = range.end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// The line break and indentation right before a byte; empty if something else stands on its line before it.
pub(crate) fn lead(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or_default();
    let line = before.trim_end_matches([' ', '\t']);
    let Some(line) = line.strip_suffix('\n') else {
        return "";
    };
    let line = line.strip_suffix('\r').unwrap_or(line);
    before.get(line.len()..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splices_are_of_the_text_as_it_was() {
        let splice = |range, text: &str| Splice { range, text: text.to_owned() };
        assert_eq!(
            apply("0123456789", vec![splice(8..10, "z"), splice(1..3, ""), splice(5..5, "abc")]),
            "034abc567z"
        );
        assert_eq!(apply("same", Vec::new()), "same");
    }

    #[test]
    fn a_lead_is_white_space_from_its_line_break_on() {
        for (text, want) in [
            ("<a>\n  ", "\n  "),
            ("<a>\r\n\t", "\r\n\t"),
            ("<a>\n\n ", "\n "),
            ("<a>  ", ""),
            ("  ", ""),
            ("", ""),
        ] {
            assert_eq!(lead(text, text.len()), want, "{text:?}");
        }
    }
}
