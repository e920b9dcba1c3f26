//! One self-contained page: figures inline, numbers in tables, nothing loaded from elsewhere.

use std::fmt::Write;

use super::convergence::coverage;
use super::heatmap::metrics;
use super::means::means;
use super::scale::number;
use super::{Content, Section};
use crate::output::{ConvergenceRow, DenseShareRow, DivergenceRow, QuadraticRow, SummaryRow};

const STYLE: &str = include_str!("page.css");
/// Above this many pairs the page names the table instead of listing it.
const MOST_PAIRS: usize = 2_000;

/// The page.
pub fn page(content: &Content) -> String {
    let run = escaped(&content.record.run);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{run}: Hessian spectra</title><style>{STYLE}</style></head><body>\n"
    );
    page.push_str(&head(content, &run));
    section(
        &mut page,
        "quadratic",
        "Optimizers on a quadratic problem",
        &[figures(content, Section::Quadratic), quadratic_table(content)],
    );
    section(&mut page, "dense", "Dense Hessians", &[figures(content, Section::Dense), share_table(content)]);
    section(&mut page, "summary", "Summary", &[figures(content, Section::Summary), summary_table(content)]);
    section(
        &mut page,
        "convergence",
        "How many tokens are enough",
        &[
            figures(content, Section::ConvergenceOverview),
            grid(figures(content, Section::Convergence)),
            figures(content, Section::ConvergencePairs),
            coverage_table(content),
            convergence_table(content),
        ],
    );
    section(&mut page, "distance", "Mean distance between blocks", &[mean_table(content)]);
    section(&mut page, "full", "Whole network", &[figures(content, Section::Full)]);
    section(
        &mut page,
        "blocks",
        "Blocks",
        &[figures(content, Section::Overview), grid(figures(content, Section::Blocks))],
    );
    section(
        &mut page,
        "distances",
        "Distances between blocks",
        &[figures(content, Section::Distances), pair_tables(content)],
    );
    section(&mut page, "advice", "Statuses and advice", &[advice(content)]);
    section(&mut page, "run", "Run", &[run_table(content), configuration(content)]);
    page.push_str("</body></html>\n");
    page
}

fn head(content: &Content, run: &str) -> String {
    let state = if content.is_done { "done" } else { "<span class=\"warn\">not done</span>" };
    let apart = match (&*content.tables.quadratic, &*content.tables.dense) {
        ([], []) => None,
        ([], _) => Some("Dense Hessians"),
        _ => Some("Gradient descent and Adam on quadratic problems"),
    };
    if let Some(what) = apart {
        let created = escaped(&content.record.created);
        return format!("<h1>{run}</h1><p class=\"lead\">{what}; begun {created}; {state}.</p>\n");
    }
    format!(
        "<h1>{run}</h1><p class=\"lead\">Hessian spectra by stochastic Lanczos quadrature; {} blocks; begun {}; {state}.</p>\n<nav><a href=\"#summary\">Summary</a><a href=\"#full\">Whole network</a><a href=\"#blocks\">Blocks</a><a href=\"#distances\">Distances</a><a href=\"#advice\">Advice</a><a href=\"#run\">Run</a></nav>\n",
        content.tables.blocks.len(),
        escaped(&content.record.created)
    )
}

/// A section, unless there is nothing in it.
fn section(page: &mut String, id: &str, title: &str, parts: &[String]) {
    let body = parts.concat();
    if !body.is_empty() {
        page.push_str(&format!("<section id=\"{id}\"><h2>{title}</h2>{body}</section>\n"));
    }
}

fn grid(body: String) -> String {
    if body.is_empty() { body } else { format!("<div class=\"grid\">{body}</div>") }
}

fn figures(content: &Content, section: Section) -> String {
    let wanted = content.figures.iter().filter(|figure| figure.section == section);
    wanted
        .map(|figure| {
            format!("<figure>{}<figcaption>{}</figcaption></figure>\n", figure.canvas.svg(), escaped(&figure.caption))
        })
        .collect()
}

/// A table from its header and rows of ready cells.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut html = String::from("<div class=\"scroll\"><table><thead><tr>");
    header.iter().for_each(|name| html.push_str(&format!("<th>{name}</th>")));
    html.push_str("</tr></thead><tbody>\n");
    for cells in rows {
        html.push_str("<tr>");
        html.extend(cells);
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

fn cell(text: &str) -> String {
    format!("<td>{}</td>", escaped(text))
}

fn number_cell(value: f64) -> String {
    format!("<td>{}</td>", number(value))
}

/// value ± error, or the value alone.
fn error_cell(value: Option<f64>, error: Option<f64>) -> String {
    let Some(value) = value else { return "<td class=\"soft\">none</td>".into() };
    let error = error.map_or(String::new(), |error| format!(" ± {}", number(error)));
    format!("<td>{}{error}</td>", number(value))
}

/// What rows and runs say when there is nothing to say.
fn is_fine(status: &str) -> bool {
    status == "ok" || status == "done"
}

fn status_cell(status: &str) -> String {
    let class = if is_fine(status) { "text" } else { "text wrap warn" };
    format!("<td class=\"{class}\">{}</td>", escaped(status))
}

/// What lies between which parts.
fn share_table(content: &Content) -> String {
    let rows = &content.tables.dense_shares;
    if rows.is_empty() {
        return String::new();
    }
    if rows.len() > MOST_PAIRS {
        return format!("<p>{} pairs of parts: read them from the table <code>dense_shares</code>.</p>", rows.len());
    }
    let header = ["block", "part", "other part", "entries", "squared norm", "share of the block's"];
    let cells = |row: &DenseShareRow| {
        let name = |text: &str| format!("<td class=\"text\">{}</td>", escaped(text));
        vec![
            cell(&row.block),
            name(&row.part_a),
            name(&row.part_b),
            cell(&row.num_entries.to_string()),
            number_cell(row.frobenius_squared),
            error_cell(row.share, None),
        ]
    };
    let body = table(&header, rows.iter().map(cells));
    format!("<details><summary>all {} pairs of parts</summary>{body}</details>", rows.len())
}

fn quadratic_table(content: &Content) -> String {
    let rows = &content.tables.quadratic;
    if rows.is_empty() {
        return String::new();
    }
    let header =
        ["quantity", "block", "trials", "missing", "lower quartile", "median", "upper quartile", "mean", "largest"];
    let cells = |row: &QuadraticRow| {
        let names = [cell(&row.quantity), cell(row.block.as_deref().unwrap_or("all"))];
        let counts = [row.trials, row.missing].map(|count| cell(&count.to_string()));
        let numbers = [row.lower_quartile, row.median, row.upper_quartile, row.mean, row.max];
        names.into_iter().chain(counts).chain(numbers.map(|value| error_cell(value, None))).collect()
    };
    format!(
        "{}<p class=\"soft\">Missing: the accuracy was not reached, which counts as infinite.</p>",
        table(&header, rows.iter().map(cells))
    )
}

fn summary_table(content: &Content) -> String {
    let rows = &content.tables.summary;
    if rows.is_empty() {
        return String::new();
    }
    let header = [
        "block",
        "parameters",
        "trace",
        "Frobenius norm",
        "smallest eigenvalue",
        "largest eigenvalue",
        "negative mass",
        "negative energy",
        "noise floor",
        "steps",
        "status",
    ];
    let body = table(&header, rows.iter().map(|row| summary_cells(content, row)));
    format!(
        "{body}<p class=\"soft\">± of the trace: standard error from the randomness of the probes, known from the spectrum; ± of an eigenvalue: its residual bound, or the noise floor where that is larger.</p>"
    )
}

fn summary_cells(content: &Content, row: &SummaryRow) -> Vec<String> {
    let block = content.tables.blocks.iter().find(|block| block.block == row.block);
    vec![
        cell(&row.block),
        cell(&block.map_or("?".into(), |block| block.num_params.to_string())),
        error_cell(Some(row.trace), row.trace_sem),
        number_cell(row.frobenius),
        error_cell(Some(row.lambda_min), Some(row.lambda_min_residual_bound)),
        error_cell(Some(row.lambda_max), Some(row.lambda_max_residual_bound)),
        number_cell(row.negative_mass),
        error_cell(row.negative_energy, None),
        number_cell(row.noise_floor),
        cell(&row.steps_done.to_string()),
        status_cell(&row.status),
    ]
}

/// Whether the bootstrap errors hold what they promise.
fn coverage_table(content: &Content) -> String {
    let found = coverage(&content.tables.convergence);
    if found.is_empty() {
        return String::new();
    }
    let percent = |share: f64| format!("<td>{:.0} %</td>", 100.0 * share);
    let header =
        ["difference to the largest batch", "blocks × batches", "within 1 error", "within 2 errors", "mean, in errors"];
    let rows = found.iter().map(|row| {
        let [one, two] = row.within.map(percent);
        vec![cell(row.statistic), cell(&row.count.to_string()), one, two, number_cell(row.bias)]
    });
    format!(
        "{}<p class=\"soft\">An error that is right, of a normal difference, holds 68 % and 95 %. Blocks and batches share data, so these \
         counts are fewer independent trials than they look. A mean away from 0 is a bias of small batches, which no resampling shows.</p>",
        table(&header, rows)
    )
}

fn convergence_table(content: &Content) -> String {
    let rows = &content.tables.convergence;
    if rows.is_empty() {
        return String::new();
    }
    let header = [
        "block",
        "tokens",
        "W1 from previous",
        "W1 from largest",
        "W1 error",
        "js from previous",
        "js from largest",
        "js error",
        "noise share",
        "trace",
        "smallest eigenvalue",
        "largest eigenvalue",
    ];
    let cells = |row: &ConvergenceRow| {
        vec![
            cell(&row.block),
            cell(&row.tokens.to_string()),
            error_cell(row.w1_previous, None),
            error_cell(row.w1_largest, None),
            number_cell(row.w1_error),
            error_cell(row.js_previous, None),
            error_cell(row.js_largest, None),
            number_cell(row.js_error),
            error_cell(row.noise_share, None),
            error_cell(Some(row.trace), Some(row.trace_error)),
            error_cell(Some(row.lambda_min), Some(row.lambda_min_error)),
            error_cell(Some(row.lambda_max), Some(row.lambda_max_error)),
        ]
    };
    let body = table(&header, rows.iter().map(cells));
    format!(
        "<details><summary>all blocks and batches</summary>{body}<p class=\"soft\">±: bootstrap error over segments. Noise share: how much of the squared Frobenius norm is sampling noise of the batch, as its fall since the previous one shows; by chance it may lie below 0 or above 1.</p></details>"
    )
}

fn mean_table(content: &Content) -> String {
    let means = means(&content.tables.divergence);
    if means.is_empty() {
        return String::new();
    }
    let header = ["metric", "mean over pairs", "pairs", "left out: zero blocks", "left out: no value"];
    let body = table(
        &header,
        means.iter().map(|mean| {
            vec![
                cell(&mean.metric),
                error_cell(mean.value, None),
                cell(&mean.num_pairs.to_string()),
                cell(&mean.num_zero_block.to_string()),
                cell(&mean.num_undefined.to_string()),
            ]
        }),
    );
    format!(
        "{body}<p class=\"soft\">Metrics as configured; by default what is resolved best comes first: wasserstein1_energy, in decades of |eigenvalue|. JS0 is this mean at initialisation. The diagonal is excluded, except in symkl_paper; the whole network is not a block.</p>"
    )
}

/// Values with errors and noise floors, which the colours of a heatmap cannot show.
fn pair_tables(content: &Content) -> String {
    let mut html = String::new();
    for metric in metrics(&content.tables.divergence) {
        let rows: Vec<_> = content.tables.divergence.iter().filter(|row| row.metric == metric).collect();
        let body = if rows.len() > MOST_PAIRS {
            format!("<p>{} pairs: read them from the table <code>divergence</code>.</p>", rows.len())
        } else {
            pair_table(&rows)
        };
        let metric = escaped(metric);
        html.push_str(&format!(
            "<details><summary>{metric}: all {} pairs, with errors (one standard deviation: steps, probes, data)</summary>{body}</details>\n",
            rows.len()
        ));
    }
    html
}

fn pair_table(rows: &[&DivergenceRow]) -> String {
    let cells = |row: &&DivergenceRow| {
        vec![
            cell(&row.block_a),
            format!("<td class=\"text\">{}</td>", escaped(&row.block_b)),
            error_cell(row.value, row.error),
            error_cell(row.noise_floor, None),
            status_cell(&row.status),
        ]
    };
    table(&["block", "other block", "distance ± error", "noise floor", "status"], rows.iter().map(cells))
}

/// Every status that is not `ok`, once, with how often it occurs; and what could not be drawn.
fn advice(content: &Content) -> String {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let tables = &content.tables;
    let of_runs = tables.runs.iter().map(|row| ("run".to_string(), &row.status));
    let of_summary = tables.summary.iter().map(|row| (row.block.clone(), &row.status));
    let of_batches =
        tables.convergence.iter().map(|row| (format!("{}: {} tokens", row.block, row.tokens), &row.status));
    let of_pairs =
        tables.divergence.iter().map(|row| (format!("{}: {} – {}", row.metric, row.block_a, row.block_b), &row.status));
    for (place, status) in
        of_runs.chain(of_summary).chain(of_batches).chain(of_pairs).filter(|(_, status)| !is_fine(status))
    {
        match found.iter_mut().find(|(known, _)| known == status) {
            Some((_, places)) => places.push(place),
            None => found.push((status.clone(), vec![place])),
        }
    }
    let mut html = String::new();
    for note in &content.notes {
        let _ = writeln!(html, "<li class=\"warn\">{}</li>", escaped(note));
    }
    for (status, places) in found {
        let more = if places.len() > 3 { format!(" and {} more", places.len() - 3) } else { String::new() };
        let first = places.into_iter().take(3).collect::<Vec<_>>().join("; ");
        let _ = writeln!(
            html,
            "<li><span class=\"warn\">{}</span> <span class=\"soft\">{}{more}</span></li>",
            escaped(&status),
            escaped(&first)
        );
    }
    if html.is_empty() {
        "<p>All statuses are ok; everything was drawn.</p>".into()
    } else {
        format!("<ul>{html}</ul>")
    }
}

fn run_table(content: &Content) -> String {
    let header = ["name", "started", "finished", "seconds", "world", "hardware", "matmul precision", "status"];
    if content.tables.runs.is_empty() {
        return String::new();
    }
    let rows = content.tables.runs.iter().map(|row| {
        vec![
            cell(&content.record.run),
            cell(&row.started),
            cell(&row.finished),
            number_cell(row.seconds),
            cell(&row.world.to_string()),
            cell(&row.hardware),
            cell(&row.matmul_precision),
            status_cell(&row.status),
        ]
    });
    table(&header, rows)
}

fn configuration(content: &Content) -> String {
    format!(
        "<details><summary>Resolved configuration</summary><pre>{}</pre></details><details><summary>Versions</summary><pre>{}</pre></details>",
        escaped(&content.record.config),
        escaped(&content.record.versions)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(cell("<b a=\"1\">&"), "<td>&lt;b a=&quot;1&quot;&gt;&amp;</td>");
        assert_eq!(error_cell(Some(1.0), Some(0.5)), "<td>1 ± 0.5</td>");
        assert_eq!(error_cell(None, None), "<td class=\"soft\">none</td>");
    }
}
