//! Standard output for data, standard error for talk.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};

use anstream::AutoStream;
use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use crate::failure::Failure;

/// What is good.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What needs a look.
pub(crate) const ODD: Style = AnsiColor::Yellow.on_default();
/// What is bad.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What is less important.
pub(crate) const DIM: Style = Style::new().dimmed();
/// A heading.
pub(crate) const HEAD: Style = Style::new().bold();

/// Standard output.
#[derive(Debug)]
pub(crate) struct Out {
    json: bool,
    color: bool,
    width: Option<usize>,
    to: BufWriter<Stdout>,
}

impl Out {
    /// Returns standard output; the choice of colour must have been made.
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let color = !json && AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
        let width = if stdout.is_terminal() {
            terminal_size::terminal_size_of(&stdout).map(|(width, _)| usize::from(width.0).max(40))
        } else {
            None
        };
        Self { json, color, width, to: BufWriter::new(stdout) }
    }

    /// Returns whether JSON is wanted.
    pub(crate) fn json_wanted(&self) -> bool {
        self.json
    }

    /// Returns the columns of the terminal; nothing when it is none.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    /// Returns text in a style, where colours are wanted.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// Prints one line.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Prints one value as JSON on one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text =
            serde_json::to_string(value).map_err(|e| Failure::bug(format!("the answer is no JSON: {e}")))?;
        self.line(&text)
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(|e| lost(&e))
    }

    /// Hands over what was printed.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(|e| lost(&e))
    }

    /// Prints a table without borders; `style` says how a row is coloured.
    pub(crate) fn table(
        &mut self,
        header: &[&str],
        rows: &[Vec<String>],
        style: impl Fn(usize) -> Option<Style>,
    ) -> Result<(), Failure> {
        let lines = table(header, rows, self.width);
        // A wrapped row has several lines, and then it is not known whose they are.
        let whole = lines.len() == rows.len() + 1;
        for (i, line) in lines.iter().enumerate() {
            let style = if i == 0 { Some(HEAD) } else { style(i - 1).filter(|_| whole) };
            match style {
                Some(style) => self.line(&self.paint(style, line))?,
                None => self.line(line)?,
            }
        }
        Ok(())
    }
}

fn table(header: &[&str], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width {
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    }
    table.set_header(header.iter().copied());
    table.add_rows(rows.iter().cloned());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn lost(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::Quiet;
    }
    Failure::file("write to", std::path::Path::new("standard output"), error)
}

/// Says one line on standard error; whoever closed it does not want to hear it.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Returns text in the colour of an error, for standard error.
pub(crate) fn paint_error(text: &str) -> String {
    let style = BAD;
    if AutoStream::choice(&io::stderr()) == anstream::ColorChoice::Never {
        text.to_owned()
    } else {
        format!("{style}{text}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_borders_and_fits_its_width() {
        let rows = vec![
            vec!["bus".to_owned(), "The durable log.".to_owned()],
            vec!["changelog".to_owned(), "What happened, in words that a person reads.".to_owned()],
        ];
        let wide = table(&["SERVICE", "SUMMARY"], &rows, None);
        assert_eq!(
            wide,
            [
                "SERVICE    SUMMARY",
                "bus        The durable log.",
                "changelog  What happened, in words that a person reads."
            ]
        );
        let narrow = table(&["SERVICE", "SUMMARY"], &rows, Some(40));
        assert!(narrow.len() > wide.len() && narrow.iter().all(|l| l.len() <= 40), "{narrow:#?}");
    }
}
