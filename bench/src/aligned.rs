//! Tables for the terminal.

use std::fmt::Write;

/// Rows whose first cell begins at the left and whose others end under each other.
pub(crate) fn aligned<const CELLS: usize>(rows: &[[String; CELLS]]) -> String {
    let mut widths = [0; CELLS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            // Writing to a string cannot fail.
            let _ = write!(line, "  {cell:>width$}");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_under_each_other() {
        let rows = [["", "ops/s"], ["write", "7"], ["a", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "       ops/s\nwrite      7\na\n");
    }
}
