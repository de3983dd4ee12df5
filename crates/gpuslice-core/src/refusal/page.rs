//! The page that belongs to a code: `gpuslice explain` prints it. Written as Markdown, so that it can be read where
//! it lies, in one form: a title, then the same three sections for all.

use serde::Serialize;

/// A page, taken apart. Texts are paragraphs of Markdown without headings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The code as it is printed.
    pub code: &'static str,
    /// What it means, in a few words.
    pub meaning: &'static str,
    /// The rule behind it.
    pub rule: &'static str,
    /// What stands in the way.
    pub blocks: &'static str,
    /// What to do.
    pub next: &'static str,
}

/// Headings of the sections, in order.
pub const SECTIONS: [&str; 3] = ["Rule", "What blocks", "Next step"];

impl Page {
    /// Takes a page apart; what it lacks is empty, and a test knows.
    pub fn of(text: &'static str) -> Self {
        let (title, rest) = text.split_once('\n').unwrap_or((text, ""));
        let (code, meaning) =
            title.strip_prefix("# ").and_then(|title| title.split_once(": ")).unwrap_or_default();
        let section = |name: &str| {
            let (_, after) = rest.split_once(&format!("\n## {name}\n"))?;
            Some(after.split_once("\n## ").map_or(after, |(section, _)| section).trim())
        };
        let [rule, blocks, next] = SECTIONS.map(|name| section(name).unwrap_or_default());
        Self { code, meaning, rule, blocks, next }
    }

    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        [self.code, self.meaning, self.rule, self.blocks, self.next].iter().all(|t| !t.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_taken_apart_and_what_is_missing_is_known() {
        let text =
            "# held: it is\n\n## Rule\n\nA.\nB.\n\n## What blocks\n\nC.\n\n## Next step\n\nD.\n";
        let page = Page::of(text);
        let want =
            Page { code: "held", meaning: "it is", rule: "A.\nB.", blocks: "C.", next: "D." };
        assert_eq!(page, want);
        assert!(page.is_whole());
        for broken in ["", "# held\n", "# held: it is\n\n## Rule\n\nA.\n", "held: it is\n## Rule"] {
            assert!(!Page::of(broken).is_whole(), "{broken}");
        }
    }
}
