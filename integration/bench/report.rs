//! What is printed: a line a figure, and whether it keeps its bar.

#[derive(Default)]
pub(crate) struct Report {
    missed: Vec<String>,
    unmeasured: Vec<String>,
}

impl Report {
    pub(crate) fn begin(&mut self, part: &str) {
        println!("\n{part}");
    }

    /// A figure without a bar.
    pub(crate) fn say(&mut self, what: &str, value: impl std::fmt::Display) {
        println!("  {what:<58} {value}");
    }

    /// A figure that must not exceed its bar.
    pub(crate) fn at_most(&mut self, what: &str, value: f64, bar: f64) {
        let verdict = if value <= bar { "kept" } else { "MISSED" };
        println!("  {what:<58} {value:.2}   bar: at most {bar}, {verdict}");
        if value > bar {
            self.missed.push(what.to_owned());
        }
    }

    /// A figure that must not fall below its bar.
    pub(crate) fn at_least(&mut self, what: &str, value: f64, bar: f64) {
        let verdict = if value >= bar { "kept" } else { "MISSED" };
        println!("  {what:<58} {value:.2}   bar: at least {bar}, {verdict}");
        if value < bar {
            self.missed.push(what.to_owned());
        }
    }

    /// What could not be measured here, and why: that is no bar that is kept. `integration/test` shows the line.
    pub(crate) fn skipped(&mut self, what: &str, why: &str) {
        println!("SKIPPED: {what}: {why}");
        self.unmeasured.push(what.to_owned());
    }

    pub(crate) fn end(self) {
        println!();
        for (what, named) in [("missed", &self.missed), ("not measured", &self.unmeasured)] {
            if !named.is_empty() {
                println!("{what}: {}", named.join("; "));
            }
        }
        if !self.missed.is_empty() || !self.unmeasured.is_empty() {
            std::process::exit(1);
        }
        println!("every bar is kept");
    }
}
