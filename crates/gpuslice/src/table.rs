//! Aligned columns. Text of others (a domain's name, a driver's description) is shown without control characters,
//! so that it cannot move the cursor or end a row.

use crate::style::{Paint, Tone};

/// A heading and how its column is aligned.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    name: &'static str,
    right: bool,
}

/// A column of words.
pub const fn left(name: &'static str) -> Column {
    Column { name, right: false }
}

/// A column of numbers.
pub const fn right(name: &'static str) -> Column {
    Column { name, right: true }
}

/// One value.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A value in a tone.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: printable(&text.into()), tone }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Self::toned(value.to_string(), Tone::Plain)
    }
}

/// A value that may be missing: `-`.
pub fn maybe<T: ToString>(value: Option<T>) -> Cell {
    value.map_or_else(|| Cell::toned("-", Tone::Faint), |v| v.to_string().into())
}

/// Several values in one cell.
pub fn list<T: ToString>(values: &[T]) -> Cell {
    let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
    maybe((!texts.is_empty()).then(|| texts.join(",")))
}

/// The text without what could act on a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The whole table, a line per row, without blanks at the ends of lines.
pub fn table(columns: &[Column], rows: &[Vec<Cell>], paint: Paint) -> String {
    let heads: Vec<Cell> = columns.iter().map(|c| Cell::toned(c.name, Tone::Head)).collect();
    let width = |n: usize| {
        let cells = rows.iter().chain([&heads]).filter_map(|row| row.get(n));
        cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for row in [&heads].into_iter().chain(rows) {
        let mut line = String::new();
        let mut pending = 0;
        for ((cell, column), width) in row.iter().zip(columns).zip(&widths) {
            let gap = width - cell.text.chars().count();
            let (before, after) = if column.right { (gap, 0) } else { (0, gap) };
            // Padding is written only when something follows it.
            line.push_str(&" ".repeat(pending + before));
            line.push_str(&paint.paint(cell.tone, &cell.text));
            pending = after + 2;
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        let columns = [left("NAME"), right("N"), left("WHY")];
        let rows = vec![
            vec!["größe".into(), 7.into(), maybe(None::<u32>)],
            vec!["a".into(), 123.into(), list(&["x", "y"])],
        ];
        assert_eq!(
            table(&columns, &rows, Paint::Off),
            "NAME     N  WHY\ngröße    7  -\na      123  x,y\n"
        );
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let rows = vec![vec![Cell::toned("ok", Tone::Good), "x".into()]];
        assert_eq!(
            table(&[left("STATE"), left("N")], &rows, Paint::On),
            "\x1b[1mSTATE\x1b[0m  \x1b[1mN\x1b[0m\n\x1b[32mok\x1b[0m     x\n"
        );
    }

    #[test]
    fn foreign_text_cannot_act() {
        let cell = Cell::from("vm\x1b[2J\n\u{85}x");
        assert_eq!(cell.text, "vm?[2J??x");
        assert_eq!(list::<u32>(&[]).text, "-");
    }
}
