//! Findings as text.

use crate::doctor::{Finding, Severity};
use crate::style::{Paint, Tone};
use crate::table::printable;
use std::fmt::Write as _;

/// What was mended, then each finding.
pub fn findings(
    domain: Option<&str>,
    fixed: &[String],
    findings: &[Finding],
    paint: Paint,
) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    for text in fixed {
        let _ = writeln!(out, "{} {}", paint.paint(Tone::Good, "fixed:"), printable(text));
    }
    if findings.is_empty() {
        let _ = match domain {
            None => writeln!(out, "nothing found that keeps slices from working"),
            Some(domain) => writeln!(
                out,
                "nothing found in {} that keeps it from slices; gpuslice doctor looks at the host",
                printable(domain)
            ),
        };
    }
    for finding in findings {
        let tone = match finding.severity {
            Severity::Error => Tone::Bad,
            Severity::Warning => Tone::Warn,
        };
        let code = paint.paint(tone, finding.code.page().code);
        let _ = writeln!(out, "{code}: {}", printable(&finding.found));
        let _ = writeln!(out, "  {} {}", paint.paint(Tone::Faint, "why:"), finding.why);
        let _ =
            writeln!(out, "  {} {}", paint.paint(Tone::Good, "mend:"), printable(&finding.mend));
        if finding.fixable {
            let _ = writeln!(out, "  {} gpuslice doctor --fix", paint.paint(Tone::Good, "or:"));
        }
    }
    out
}
