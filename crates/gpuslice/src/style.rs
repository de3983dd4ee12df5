//! Colours: what a word means, and whether the stream shows it.

use std::io::IsTerminal;

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// A heading.
    Head,
    /// As it should be.
    Good,
    /// Needs patience or a look.
    Warn,
    /// Broken.
    Bad,
    /// Of little interest.
    Faint,
}

/// Whether a stream gets colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Text only.
    Off,
    /// With SGR sequences.
    On,
}

impl Paint {
    /// For a stream of this process: only a terminal, and never with NO_COLOR (no-color.org: set and not empty).
    pub fn for_stream(stream: &impl IsTerminal) -> Self {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Self::choose(stream.is_terminal(), set("NO_COLOR").is_some(), dumb)
    }

    fn choose(terminal: bool, no_color: bool, dumb: bool) -> Self {
        if terminal && !no_color && !dumb { Self::On } else { Self::Off }
    }

    /// The text as the stream shows it.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => "",
            Tone::Head => "1",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
        };
        if self == Self::Off || code.is_empty() {
            text.to_owned()
        } else {
            format!("\x1b[{code}m{text}\x1b[0m")
        }
    }
}

/// The tone of a state of a parent, slice or claim.
pub fn of_state(state: &str) -> Tone {
    match state {
        "ok" | "attached" | "settled" => Tone::Good,
        "waiting" | "reshaping" | "drift" | "cordoned" | "releasing" | "prepared" | "orphaned" => {
            Tone::Warn
        }
        "quarantined" | "absent" | "lost" | "dirty" | "refused" => Tone::Bad,
        "no-layout" | "unsliceable" | "foreign" | "host" | "parent" => Tone::Faint,
        _ => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_only_on_a_terminal_that_wants_them() {
        for (terminal, no_color, dumb, want) in [
            (true, false, false, Paint::On),
            (false, false, false, Paint::Off),
            (true, true, false, Paint::Off),
            (true, false, true, Paint::Off),
        ] {
            assert_eq!(Paint::choose(terminal, no_color, dumb), want);
        }
        assert_eq!(Paint::Off.paint(Tone::Bad, "x"), "x");
        assert_eq!(Paint::On.paint(Tone::Bad, "x"), "\x1b[1;31mx\x1b[0m");
        assert_eq!(Paint::On.paint(Tone::Plain, "x"), "x");
    }
}
