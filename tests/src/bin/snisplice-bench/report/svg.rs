//! Grouped horizontal bars as SVG.

/// A picture: panels side by side, each with bars of its own.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// One line below the title.
    pub(crate) note: String,
    pub(crate) panels: Vec<Panel>,
}

/// One group of bars.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    /// The unit, and which figures are the better ones.
    pub(crate) axis: String,
    pub(crate) bars: Vec<Bar>,
}

/// One bar with the range of the rounds.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) look: Look,
    pub(crate) value: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The value for people.
    pub(crate) label: String,
}

/// How a bar is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// The subject of the picture.
    Ours,
    /// What it is compared with.
    Rival,
    /// What no proxy can beat.
    Direct,
}

const MARGIN: f64 = 16.0;
const HEAD: f64 = 62.0;
const PANEL_HEAD: f64 = 44.0;
const PANEL_GAP: f64 = 26.0;
const COLUMN: f64 = 560.0;
const NAMES: f64 = 152.0;
const FIGURES: f64 = 58.0;
const ROW: f64 = 22.0;
const THICK: f64 = 15.0;

/// Greys and a blue that can be read on white and on black.
const STYLE: &str = "\
text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; font-size: 13px; fill: #7a818a; }
.title { font-size: 18px; font-weight: 600; }
.panel { font-size: 14px; font-weight: 600; }
.ours { font-weight: 600; fill: #2b7fd4; }
.name { text-anchor: end; }
.bar-ours { fill: #2b7fd4; }
.bar-rival { fill: #9aa1aa; }
.bar-direct { fill: none; stroke: #9aa1aa; stroke-dasharray: 3 2; }
.range { stroke: #d9822b; stroke-width: 1.5; }
.axis { stroke: #7a818a; stroke-width: 1; }
";

/// The picture, as wide as two panels.
pub(crate) fn render(chart: &Chart) -> String {
    let rows: Vec<&[Panel]> = chart.panels.chunks(2).collect();
    let width = 2.0 * COLUMN + 3.0 * MARGIN;
    let height = HEAD + rows.iter().map(|row| height_of(row) + PANEL_GAP).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\">\n<title>{0}</title>\n<style>\n{STYLE}</style>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"28\">{0}</text>\n<text x=\"{MARGIN}\" y=\"48\">{1}</text>\n",
        escaped(&chart.title),
        escaped(&chart.note)
    );
    let mut top = HEAD;
    for row in rows {
        for (column, panel) in row.iter().enumerate() {
            let left = MARGIN + column as f64 * (COLUMN + MARGIN);
            svg += &panel_at(panel, left, top);
        }
        top += height_of(row) + PANEL_GAP;
    }
    svg + "</svg>\n"
}

fn height_of(row: &[Panel]) -> f64 {
    let bars = row.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    PANEL_HEAD + bars as f64 * ROW
}

fn panel_at(panel: &Panel, left: f64, top: f64) -> String {
    let most = panel.bars.iter().map(|bar| bar.max).fold(0.0, f64::max);
    // Pixels of one unit.
    let scale = if most > 0.0 { (COLUMN - NAMES - FIGURES) / most } else { 0.0 };
    let zero = left + NAMES;
    let mut svg = format!(
        "<text class=\"panel\" x=\"{left:.1}\" y=\"{:.1}\">{}</text>\n<text x=\"{left:.1}\" y=\"{:.1}\">{}</text>\n",
        top + 14.0,
        escaped(&panel.title),
        top + 31.0,
        escaped(&panel.axis)
    );
    let first = top + PANEL_HEAD;
    for (at, bar) in panel.bars.iter().enumerate() {
        svg += &bar_at(bar, zero, first + at as f64 * ROW, scale);
    }
    let end = first + panel.bars.len() as f64 * ROW;
    svg + &format!(
        "<line class=\"axis\" x1=\"{zero:.1}\" x2=\"{zero:.1}\" y1=\"{first:.1}\" y2=\"{end:.1}\"/>\n"
    )
}

fn bar_at(bar: &Bar, zero: f64, top: f64, scale: f64) -> String {
    let (class, text) = match bar.look {
        Look::Ours => ("bar-ours", " ours"),
        Look::Rival => ("bar-rival", ""),
        Look::Direct => ("bar-direct", ""),
    };
    let [length, min, max] = [bar.value, bar.min, bar.max].map(|value| (value * scale).max(0.0));
    let (base, middle) = (top + ROW / 2.0 + 4.5, top + ROW / 2.0);
    let upper = middle - THICK / 2.0;
    let mut svg = format!(
        "<text class=\"name{text}\" x=\"{:.1}\" y=\"{base:.1}\">{}</text>\n\
         <rect class=\"{class}\" x=\"{zero:.1}\" y=\"{upper:.1}\" width=\"{length:.1}\" height=\"{THICK}\" rx=\"2\"/>\n",
        zero - 8.0,
        escaped(&bar.name)
    );
    if bar.max > bar.min {
        let (from, to) = (zero + min, zero + max);
        let (high, low) = (middle - 4.0, middle + 4.0);
        svg += &format!(
            "<path class=\"range\" d=\"M{from:.1} {middle:.1}H{to:.1}M{from:.1} {high:.1}V{low:.1}M{to:.1} {high:.1}V{low:.1}\"/>\n"
        );
    }
    svg + &format!(
        "<text class=\"figure{text}\" x=\"{:.1}\" y=\"{base:.1}\">{}</text>\n",
        zero + length.max(max) + 7.0,
        escaped(&bar.label)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, look: Look, value: f64) -> Bar {
        Bar { name: name.to_owned(), look, value, min: value / 2.0, max: value, label: format!("{value}") }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bars =
            vec![bar("a<b", Look::Ours, 40.0), bar("c", Look::Rival, 10.0), bar("d", Look::Direct, 0.0)];
        let panel = Panel { title: "t".to_owned(), axis: "Gbit/s".to_owned(), bars };
        let svg = render(&Chart { title: "A & B".to_owned(), note: String::new(), panels: vec![panel] });
        let full = COLUMN - NAMES - FIGURES;
        for part in [
            format!("class=\"bar-ours\" x=\"168.0\" y=\"109.5\" width=\"{full:.1}\""),
            format!("width=\"{:.1}\"", full / 4.0),
            "class=\"bar-direct\"".to_owned(),
            "A &amp; B".to_owned(),
            "a&lt;b".to_owned(),
        ] {
            assert!(svg.contains(&part), "{part:?} is not in\n{svg}");
        }
        assert_eq!(svg.matches("class=\"range\"").count(), 2, "a range of nothing is not drawn");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
