//! One picture of all cases: how far from the best raw mechanism each row is, on a logarithmic scale.

use std::fmt::Write;

use crate::drive::Measured;
use crate::harness::{Case, Kind};
use crate::report::{best, better, show};

const LEFT: f64 = 190.0;
const WIDTH: f64 = 700.0;
const TOP: f64 = 70.0;
const LINE: f64 = 26.0;
/// The scale: from so many powers of ten below the limit to so many above.
const BELOW: f64 = 5.0;
const ABOVE: f64 = 1.0;

const KINDS: [(Kind, &str, &str); 4] = [
    (Kind::Ours, "ours", "#c2410c"),
    (Kind::Process, "peers between processes", "#2563eb"),
    (Kind::Thread, "threads", "#16a34a"),
    (Kind::Raw, "raw mechanisms", "#9ca3af"),
];

fn x(factor: f64) -> f64 {
    let power = factor.log10().clamp(-BELOW, ABOVE);
    LEFT + (power + BELOW) / (BELOW + ABOVE) * WIDTH
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

pub fn svg(results: &[(Case, Vec<Measured>)]) -> String {
    let mut svg = String::new();
    draw(&mut svg, results).expect("writes to a string");
    svg
}

fn draw(svg: &mut String, results: &[(Case, Vec<Measured>)]) -> std::fmt::Result {
    let bottom = TOP + LINE * results.len() as f64;
    let (width, height) = (LEFT + WIDTH + 30.0, bottom + 40.0);
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">"#
    )?;
    writeln!(svg, r#"<rect width="{width}" height="{height}" fill="white"/>"#)?;
    writeln!(
        svg,
        r#"<text x="10" y="20" font-size="14">Speed (or thrift) beside the best raw mechanism; further right is better</text>"#
    )?;
    for (index, (_, name, colour)) in KINDS.iter().enumerate() {
        let at = LEFT + index as f64 * 170.0;
        writeln!(svg, r#"<circle cx="{at}" cy="40" r="5" fill="{colour}"/>"#)?;
        writeln!(svg, r#"<text x="{}" y="44">{name}</text>"#, at + 10.0)?;
    }
    for power in -(BELOW as i32)..=ABOVE as i32 {
        let at = x(10_f64.powi(power));
        let (stroke, label) = match power {
            0 => ("#111827", "the limit".to_string()),
            _ if power < 0 => ("#e5e7eb", format!("1/{}", 10_i64.pow(power.unsigned_abs()))),
            _ => ("#e5e7eb", format!("{}x", 10_i64.pow(power.unsigned_abs()))),
        };
        writeln!(svg, r#"<line x1="{at}" y1="{TOP}" x2="{at}" y2="{bottom}" stroke="{stroke}"/>"#)?;
        let y = bottom + 18.0;
        writeln!(svg, r#"<text x="{at}" y="{y}" text-anchor="middle">{label}</text>"#)?;
    }
    for (index, (case, rows)) in results.iter().enumerate() {
        let y = TOP + LINE * (index as f64 + 0.5);
        let name_at = LEFT - 10.0;
        writeln!(
            svg,
            r#"<text x="{name_at}" y="{}" text-anchor="end">{}</text>"#,
            y + 4.0,
            case.name
        )?;
        let (from, to) = (x(0.0), x(f64::INFINITY));
        writeln!(svg, r##"<line x1="{from}" y1="{y}" x2="{to}" y2="{y}" stroke="#f3f4f6"/>"##)?;
        let Some((_, limit)) = best(case, rows, Kind::Raw) else { continue };
        // Ours is drawn last, on top.
        for (kind, _, colour) in KINDS.iter().rev() {
            for row in rows.iter().filter(|row| row.row.kind == *kind) {
                let Some(summary) = row.summary() else { continue };
                let at = |value: f64| x(better(case.unit, value, limit));
                let (cx, r) = (at(summary.median), if *kind == Kind::Ours { 6 } else { 4 });
                let figure = show(summary.median, case.unit);
                let title = escape(&format!("{}: {figure}", row.row.name));
                let (x1, x2) = (at(summary.least), at(summary.greatest));
                writeln!(
                    svg,
                    r#"<line x1="{x1:.1}" y1="{y}" x2="{x2:.1}" y2="{y}" stroke="{colour}"/>"#
                )?;
                writeln!(
                    svg,
                    r#"<circle cx="{cx:.1}" cy="{y}" r="{r}" fill="{colour}"><title>{title}</title></circle>"#
                )?;
            }
        }
    }
    writeln!(svg, "</svg>")
}
