//! What is printed: a line a figure, and whether it keeps its bar.

#[derive(Default)]
pub(crate) struct Report {
    missed: Vec<String>,
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

    pub(crate) fn end(self) {
        println!();
        if self.missed.is_empty() {
            println!("every bar is kept");
        } else {
            println!("missed: {}", self.missed.join("; "));
            std::process::exit(1);
        }
    }
}
