//! Plain text tables: columns aligned, words to the left, figures to the right.

/// Rows of equal length, the first of them the header.
#[derive(Clone, Debug)]
pub struct TextTable {
    rows: Vec<Vec<String>>,
    left: usize,
}

impl TextTable {
    /// A table with this header.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> TextTable {
        TextTable { rows: vec![header.into_iter().map(Into::into).collect()], left: 1 }
    }

    /// How many columns are aligned to the left; otherwise the first alone.
    pub fn left(mut self, columns: usize) -> TextTable {
        self.left = columns;
        self
    }

    /// Appends a row.
    pub fn push<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// Whether there is nothing but the header.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The lines, each indented by two blanks.
    pub fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate();
            let text: String = cells
                .map(
                    |(index, (cell, width))| {
                        if index < self.left { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") }
                    },
                )
                .collect();
            text.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let mut table = TextTable::new(["stage", "p50"]);
        table.push(["udf", "344 ns"]);
        table.push(["end to end", "1.4 µs"]);
        assert_eq!(table.lines(), ["  stage          p50", "  udf         344 ns", "  end to end  1.4 µs"]);
    }
}
