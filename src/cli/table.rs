//! Plain-text tables for people.

/// Columns padded to their widest cell, two spaces apart; columns whose cells are all numbers are right-aligned.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let is_number = |column: usize| rows.iter().all(|row| row[column].parse::<f64>().is_ok());
    let columns: Vec<(usize, bool)> = (0..header.len()).map(|column| (width(column), is_number(column))).collect();
    let line = |cells: &[&str]| {
        let padded = cells
            .iter()
            .zip(&columns)
            .map(|(cell, (width, right))| if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let rows = rows.iter().map(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    [line(header)].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn numbers_are_right_aligned_and_nothing_trails() {
        let rows = [vec!["full".to_string(), "1.5".into(), "ok".into()], vec!["q".into(), "10.25".into(), "".into()]];
        assert_eq!(table(&["block", "s", "note"], &rows), "block      s  note\nfull     1.5  ok\nq      10.25");
    }
}
