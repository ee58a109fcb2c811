//! What people read: aligned tables, colours only on a terminal, numbers with units.

use std::io::{self, IsTerminal as _, Write as _};

use crate::commands::Failure;

/// How a piece of text looks on a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
}

impl Look {
    fn code(self) -> &'static str {
        match self {
            Look::Plain => "",
            Look::Bold => "\x1b[1m",
            Look::Dim => "\x1b[2m",
            Look::Good => "\x1b[32m",
            Look::Bad => "\x1b[31m",
        }
    }
}

/// Standard output.
pub(crate) struct Output {
    colour: bool,
    terminal: bool,
}

impl Output {
    /// Colours on a terminal, unless `NO_COLOR` is set to something (no-color.org).
    pub(crate) fn new() -> Output {
        let terminal = io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Output { colour: terminal && !refused, terminal }
    }

    #[cfg(test)]
    pub(crate) fn plain() -> Output {
        Output { colour: false, terminal: false }
    }

    pub(crate) fn paint(&self, look: Look, text: &str) -> String {
        if self.colour && look != Look::Plain {
            format!("{}{text}\x1b[0m", look.code())
        } else {
            text.to_owned()
        }
    }

    /// Writes text as it is.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::from_write)
    }

    /// Writes one value as JSON of several lines.
    pub(crate) fn json(&self, value: &impl serde::Serialize) -> Result<(), Failure> {
        self.print(&(to_json(serde_json::to_string_pretty(value))? + "\n"))
    }

    /// Writes one value as JSON of one line.
    pub(crate) fn json_line(&self, value: &impl serde::Serialize) -> Result<(), Failure> {
        self.print(&(to_json(serde_json::to_string(value))? + "\n"))
    }

    /// What to print before a screen that is shown again and again.
    pub(crate) fn top_of_screen(&self) -> &'static str {
        if self.terminal { "\x1b[H\x1b[2J" } else { "" }
    }
}

fn to_json(text: serde_json::Result<String>) -> Result<String, Failure> {
    text.map_err(|e| Failure::Said(trunkline_control::Error::failed(format!("cannot write JSON: {e}"))))
}

/// Rows of cells, aligned.
pub(crate) struct Table {
    indent: usize,
    heads: Vec<&'static str>,
    rows: Vec<Row>,
}

enum Row {
    Cells(Vec<(Look, String)>),
    /// A line that belongs to the row above.
    Note(Look, String),
}

impl Table {
    /// Columns whose head begins with `>` are aligned to the right.
    pub(crate) fn new(heads: &[&'static str]) -> Table {
        Table { indent: 0, heads: heads.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn indented(self, indent: usize) -> Table {
        Table { indent, ..self }
    }

    pub(crate) fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(Row::Cells(cells.into_iter().map(|c| c.into().0).collect()));
    }

    pub(crate) fn note(&mut self, look: Look, text: impl Into<String>) {
        self.rows.push(Row::Note(look, text.into()));
    }

    pub(crate) fn render(&self, out: &Output) -> String {
        let head = |i: usize| self.heads[i].trim_start_matches('>');
        let mut widths: Vec<usize> = (0..self.heads.len()).map(|i| width(head(i))).collect();
        for row in &self.rows {
            if let Row::Cells(cells) = row {
                for (w, (_, text)) in widths.iter_mut().zip(cells) {
                    *w = (*w).max(width(text));
                }
            }
        }
        let line = |cells: &[(Look, String)]| {
            let mut line = " ".repeat(self.indent);
            let mut gap = 0;
            for (i, (look, text)) in cells.iter().enumerate() {
                let pad = widths[i] - width(text);
                let right = self.heads[i].starts_with('>');
                line += &" ".repeat(gap + if right { pad } else { 0 });
                line += &out.paint(*look, text);
                gap = 2 + if right { 0 } else { pad };
            }
            line.trim_end().to_owned() + "\n"
        };
        let heads: Vec<_> = (0..self.heads.len()).map(|i| (Look::Dim, head(i).to_owned())).collect();
        let mut text = line(&heads);
        for row in &self.rows {
            match row {
                Row::Cells(cells) => text += &line(cells),
                Row::Note(look, note) => {
                    text += &format!("{}{}\n", " ".repeat(self.indent + 2), out.paint(*look, note));
                }
            }
        }
        text
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Text with a look.
pub(crate) struct Cell((Look, String));

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell((Look::Plain, text))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell((Look::Plain, text.to_owned()))
    }
}

impl From<(Look, String)> for Cell {
    fn from(cell: (Look, String)) -> Cell {
        Cell(cell)
    }
}

/// A number in at most five characters: 999, 1.2k, 34.5M.
pub(crate) fn count(n: u64) -> String {
    scaled(n, &["", "k", "M", "G", "T", "P", "E"], "")
}

/// An amount of bytes: 999 B, 1.2 kB, 34.5 MB.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], " ")
}

fn scaled(n: u64, units: &[&str], space: &str) -> String {
    if n < 1000 {
        return format!("{n}{space}{}", units[0]);
    }
    let mut value = n as f64;
    let mut unit = 0;
    // 999,950 is shown as 1.0 of the next unit, not as 1000.0.
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1}{space}{}", units[unit])
}

/// `1 address`, `2 addresses`: the plural is the word with `ending`.
pub(crate) fn plural(n: u64, word: &str, ending: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { ending })
}

/// Seconds as people say them: 45 s, 12 min, 3 h 5 min, 2 d 4 h.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(&["NAME", ">N", "WHAT"]).indented(2);
        table.row(["a", "1", "x"]);
        table.row(["größer", "1000", ""]);
        table.note(Look::Bad, "broken");
        table.row(["b", "22", "y"]);
        let expected =
            "  NAME       N  WHAT\n  a          1  x\n  größer  1000\n    broken\n  b         22  y\n";
        assert_eq!(table.render(&Output::plain()), expected);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(&["A", "B"]);
        table.row([(Look::Good, "up".to_owned()), (Look::Plain, "x".to_owned())]);
        table.row([(Look::Bad, "down".to_owned()), (Look::Plain, "y".to_owned())]);
        let coloured = table.render(&Output { colour: true, terminal: true });
        assert!(coloured.contains("\x1b[32mup\x1b[0m    x\n"), "{coloured:?}");
        let mut plain = coloured;
        for code in ["\x1b[0m", "\x1b[2m", "\x1b[31m", "\x1b[32m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, table.render(&Output::plain()));
    }

    #[test]
    fn numbers_have_units() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0k"),
            (999_949, "999.9k"),
            (999_950, "1.0M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(n), text);
        }
        assert_eq!(
            (bytes(0), bytes(65536), bytes(2_000_000_000)),
            ("0 B".into(), "65.5 kB".into(), "2.0 GB".into())
        );
        for (s, text) in [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3700, "1 h 1 min"), (200_000, "2 d 7 h")]
        {
            assert_eq!(duration(s), text);
        }
    }
}
