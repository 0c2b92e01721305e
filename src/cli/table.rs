//! A table of text, as wide as its contents and no wider.
//!
//! Nothing is cut off: a name that was shortened could not be pasted into the
//! next command. Tables are laid out so that usual contents hold in 80
//! columns, and sentences stand on lines of their own.

/// Columns of text.
#[derive(Debug)]
pub struct Table {
    indent: usize,
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Table {
    /// A table with these headings. The first `left` columns are aligned to
    /// the left, the others, being numbers, to the right. Each line starts
    /// with `indent` spaces.
    #[must_use]
    pub fn new(indent: usize, left: usize, headings: &[&str]) -> Self {
        let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
        Self { indent, rows: vec![headings], left }
    }

    /// Add a row. Missing cells are empty.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines, each with its end.
    #[must_use]
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (column, width) in widths.iter().enumerate() {
                if column > 0 {
                    line.push_str("  ");
                }
                let cell = row.get(column).map_or("", String::as_str);
                let padding = " ".repeat(width - cell.chars().count());
                if column < self.left {
                    line.push_str(cell);
                    line.push_str(&padding);
                } else {
                    line.push_str(&padding);
                    line.push_str(cell);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(2, 1, &["NAME", "BYTES"]);
        table.row(vec!["a".into(), "12345".into()]);
        table.row(vec!["longer".into(), "7".into()]);
        assert_eq!(table.render(), "  NAME    BYTES\n  a       12345\n  longer      7\n");
    }

    #[test]
    fn lines_do_not_end_in_spaces() {
        let mut table = Table::new(0, 2, &["A", "B"]);
        table.row(vec!["x".into()]);
        assert_eq!(table.render(), "A  B\nx\n");
    }
}
