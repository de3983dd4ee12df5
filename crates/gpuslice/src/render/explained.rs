//! Pages and explanations as text.

use crate::explain::Explained;
use crate::style::{self, Paint, Tone};
use crate::table::{self, left, printable};
use gpuslice_core::refusal::{Page, SECTIONS};
use std::fmt::Write as _;

/// A page, its sections under their headings.
pub fn page(page: &Page, paint: Paint) -> String {
    let mut out = format!("{}: {}\n", paint.paint(Tone::Head, page.code), page.meaning);
    for (heading, text) in SECTIONS.iter().zip([page.rule, page.blocks, page.next]) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "\n{}", paint.paint(Tone::Head, heading));
        for line in wrapped(text) {
            let _ = writeln!(out, "  {line}");
        }
    }
    out
}

/// Text as lines that a console shows whole.
fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 78;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A line for each code.
pub fn pages(pages: &[Page], paint: Paint) -> String {
    let rows: Vec<_> =
        pages.iter().map(|page| vec![page.code.into(), page.meaning.into()]).collect();
    table::table(&[left("CODE"), left("MEANING")], &rows, paint)
}

/// Objects, each with what stands in its way.
pub fn explained(objects: &[Explained], paint: Paint) -> String {
    let mut out = String::new();
    for (n, object) in objects.iter().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        let state = paint.paint(style::of_state(&object.state), &object.state);
        let _ = writeln!(out, "{} {}: {state}", object.kind, printable(&object.id));
        let _ = writeln!(out, "  {}", printable(&object.about));
        if object.reasons.is_empty() {
            let _ = writeln!(out, "  {}", paint.paint(Tone::Good, "nothing stands in its way"));
        }
        for reason in &object.reasons {
            let code = reason.code.map_or_else(|| "note".to_owned(), |code| code.to_string());
            let code = paint.paint(Tone::Warn, &format!("{code}:"));
            let _ = writeln!(out, "  {code} {}", printable(&reason.text));
            let label = paint.paint(Tone::Good, "next:");
            let _ = writeln!(out, "    {label} {}", printable(&reason.next));
            for line in &reason.lines {
                let _ = writeln!(out, "      {}", printable(line));
            }
        }
    }
    out
}
