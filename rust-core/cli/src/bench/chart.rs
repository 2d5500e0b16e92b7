//! Charts as SVG: lines over linear, logarithmic and percentile axes, with what happened marked as bands behind them.
//!
//! A chart stands for itself (a file that any browser shows) and inside the report. Colours come from its own style sheet,
//! which follows the reader's light or dark scheme. It decides nothing about what is shown.

use std::fmt::Write;

/// Width and height of the drawing, in its own units.
const SIZE: (f64, f64) = (860.0, 400.0);
/// Free space around the plot: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (74.0, 62.0, 18.0, 52.0);
/// Colours that readers with colour blindness can tell apart (Okabe and Ito), for light and for dark ground.
const COLOURS: [(&str, &str); 7] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8a3d"),
    ("#009e73", "#2fd3a5"),
    ("#aa4499", "#e38fd0"),
    ("#8a6d00", "#f0e442"),
    ("#555555", "#bbbbbb"),
    ("#882255", "#e06c9f"),
];

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm.
    Log,
}

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What is on it.
    pub label: String,
    /// How values become places.
    pub scale: Scale,
    /// Ends.
    pub range: (f64, f64),
    /// Where a line and a text stand.
    pub ticks: Vec<(f64, String)>,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// A line.
    Line,
    /// A line with a dot at each point.
    Dotted,
    /// A broken, paler line: something to compare with.
    Pale,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Which colour.
    pub colour: usize,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Its points; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A stretch of the x axis in which something happened.
#[derive(Clone, Debug)]
pub struct Band {
    /// From and to.
    pub range: (f64, f64),
    /// Shown when pointed at.
    pub label: String,
    /// Which colour.
    pub colour: usize,
}

/// A drawing.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// Lines, the first ones below the others.
    pub series: Vec<Series>,
    /// Behind the lines.
    pub bands: Vec<Band>,
}

impl Axis {
    /// A logarithmic axis for latencies in nanoseconds that has room for all of these.
    pub fn of_latencies(values: impl Iterator<Item = f64> + Clone) -> Axis {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let least = positive.clone().fold(f64::INFINITY, f64::min);
        let most = positive.fold(0.0, f64::max);
        let (least, most) = if least.is_finite() { (least, most) } else { (1e3, 1e6) };
        let range = (10_f64.powf(least.log10().floor()), 10_f64.powf((most * 1.02).log10().ceil()));
        let decades = range.0.log10().round() as i32..=range.1.log10().round() as i32;
        let ticks = decades.map(|power| (10_f64.powi(power), nanoseconds(10_f64.powi(power))));
        Axis { label: "latency (log)".to_owned(), scale: Scale::Log, range, ticks: ticks.collect() }
    }

    /// An even axis with round numbers from 0 to at least `most`.
    pub fn linear(label: &str, most: f64, text: impl Fn(f64) -> String) -> Axis {
        let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
        let rough = most / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let count = (most / step).ceil() as u32;
        let ticks = (0..=count).map(|index| (f64::from(index) * step, text(f64::from(index) * step))).collect();
        Axis { label: label.to_owned(), scale: Scale::Linear, range: (0.0, f64::from(count) * step), ticks }
    }

    /// Percentiles up to `most` (as 1/(1-quantile)): each decade to the right is one more nine.
    pub fn percentiles(most: f64) -> Axis {
        let decades = most.max(100.0).log10().ceil() as i32;
        let mut ticks = vec![(1.0, "0 %".to_owned()), (2.0, "50 %".to_owned())];
        for nines in 1..=decades {
            let text = match nines {
                1 => "90 %".to_owned(),
                2 => "99 %".to_owned(),
                _ => format!("99.{} %", "9".repeat(nines as usize - 2)),
            };
            ticks.push((10_f64.powi(nines), text));
        }
        let range = (1.0, 10_f64.powi(decades));
        Axis { label: "percentile".to_owned(), scale: Scale::Log, range, ticks }
    }

    /// 0 for the beginning of the axis, 1 for its end; outside it is cut off.
    fn place(&self, value: f64) -> f64 {
        let (from, to) = self.range;
        let part = match self.scale {
            Scale::Linear => (value - from) / (to - from),
            Scale::Log => (value.max(from).ln() - from.ln()) / (to.ln() - from.ln()),
        };
        part.clamp(0.0, 1.0)
    }
}

impl Chart {
    /// The drawing.
    pub fn svg(&self) -> String {
        let mut svg = String::with_capacity(16 << 10);
        let (width, height) = SIZE;
        let title = escape(&self.title);
        put(
            &mut svg,
            format_args!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
                 aria-label=\"{title}\" class=\"chart\"><style>{}</style>\
                 <rect class=\"ground\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\
                 <text class=\"title\" x=\"16\" y=\"25\">{title}</text>",
                style()
            ),
        );
        self.put_bands(&mut svg);
        self.put_axes(&mut svg);
        self.series.iter().for_each(|series| self.put_series(&mut svg, series));
        self.put_legend(&mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn x_of(&self, value: f64) -> f64 {
        MARGIN.0 + self.x.place(value) * (SIZE.0 - MARGIN.0 - MARGIN.2)
    }

    fn y_of(&self, value: f64) -> f64 {
        SIZE.1 - MARGIN.3 - self.y.place(value) * (SIZE.1 - MARGIN.1 - MARGIN.3)
    }

    fn put_bands(&self, svg: &mut String) {
        let (top, height) = (MARGIN.1, SIZE.1 - MARGIN.1 - MARGIN.3);
        for band in &self.bands {
            let (from, to) = (self.x_of(band.range.0), self.x_of(band.range.1));
            let (width, class, label) = ((to - from).max(1.5), colour_class(band.colour), escape(&band.label));
            let class = if to - from < 3.0 { format!("{class} moment") } else { class };
            put(
                svg,
                format_args!(
                    "<rect class=\"band {class}\" x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" \
                     height=\"{height}\"><title>{label}</title></rect>"
                ),
            );
        }
    }

    fn put_axes(&self, svg: &mut String) {
        let (left, right) = (MARGIN.0, SIZE.0 - MARGIN.2);
        let (top, bottom) = (MARGIN.1, SIZE.1 - MARGIN.3);
        for (value, text) in &self.y.ticks {
            let (y, text) = (self.y_of(*value), escape(text));
            put(
                svg,
                format_args!(
                    "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>\
                     <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                    left - 8.0,
                    y + 4.0
                ),
            );
        }
        for (value, text) in &self.x.ticks {
            let (x, text) = (self.x_of(*value), escape(text));
            put(
                svg,
                format_args!(
                    "<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/>\
                     <text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{text}</text>",
                    bottom + 17.0
                ),
            );
        }
        let (middle, below) = ((left + right) / 2.0, SIZE.1 - 12.0);
        let (half, label_x, label_y) = ((top + bottom) / 2.0, escape(&self.x.label), escape(&self.y.label));
        put(
            svg,
            format_args!(
                "<path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/>\
                 <text class=\"label\" text-anchor=\"middle\" x=\"{middle:.1}\" y=\"{below:.1}\">{label_x}</text>\
                 <text class=\"label\" text-anchor=\"middle\" transform=\"rotate(-90 16 {half:.1})\" x=\"16\" \
                 y=\"{half:.1}\">{label_y}</text>"
            ),
        );
    }

    fn put_series(&self, svg: &mut String, series: &Series) {
        let points = series.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let places: Vec<(f64, f64)> = points.clone().map(|(x, y)| (self.x_of(*x), self.y_of(*y))).collect();
        let mut path = String::new();
        for (index, (x, y)) in places.iter().enumerate() {
            put(&mut path, format_args!("{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' }));
        }
        let pale = if series.stroke == Stroke::Pale { " pale" } else { "" };
        let (class, name) = (colour_class(series.colour), escape(&series.name));
        put(svg, format_args!("<path class=\"line {class}{pale}\" d=\"{path}\"><title>{name}</title></path>"));
        if series.stroke == Stroke::Dotted {
            for ((x, y), (_, value)) in places.iter().zip(points) {
                let value = nanoseconds(*value);
                put(
                    svg,
                    format_args!(
                        "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\"><title>{name}: \
                         {value}</title></circle>"
                    ),
                );
            }
        }
    }

    fn put_legend(&self, svg: &mut String) {
        let mut x = MARGIN.0;
        for series in &self.series {
            let (class, name) = (colour_class(series.colour), escape(&series.name));
            let pale = if series.stroke == Stroke::Pale { " pale" } else { "" };
            put(
                svg,
                format_args!(
                    "<path class=\"line {class}{pale}\" d=\"M{x:.1} 44h18\"/>\
                     <text class=\"tick\" x=\"{:.1}\" y=\"48\">{name}</text>",
                    x + 24.0
                ),
            );
            x += 42.0 + 6.6 * series.name.chars().count() as f64;
        }
    }
}

fn colour_class(colour: usize) -> String {
    format!("c{}", colour % COLOURS.len())
}

fn style() -> String {
    let colours = |dark: bool| -> String {
        let pick = |(index, (light, night)): (usize, &(&str, &str))| {
            let colour = if dark { night } else { light };
            format!(".chart .c{index}{{stroke:{colour}}}.chart .dot.c{index},.chart .band.c{index}{{fill:{colour}}}")
        };
        COLOURS.iter().enumerate().map(pick).collect()
    };
    format!(
        ".chart{{font:12px system-ui,sans-serif}}.chart .ground{{fill:#fff}}.chart .title{{font-size:15px;font-weight:\
         600;fill:#1b1f24}}.chart .tick{{fill:#57606a}}.chart .label{{fill:#57606a}}.chart .grid{{stroke:#e4e8ec;fill:\
         none}}.chart .axis{{stroke:#8c959f;fill:none}}.chart .line{{fill:none;stroke-width:2;stroke-linejoin:round}}\
         .chart .pale{{stroke-width:1.4;stroke-dasharray:5 4;opacity:.75}}.chart .dot{{stroke:none}}.chart \
         .band{{stroke:none;opacity:.16}}.chart .moment{{opacity:.6}}{}@media(prefers-color-scheme:dark){{.chart .ground{{fill:#161b22}}.chart \
         .title{{fill:#e6edf3}}.chart .tick,.chart .label{{fill:#9da7b1}}.chart .grid{{stroke:#2b323b}}.chart \
         .axis{{stroke:#6e7681}}{}}}",
        colours(false),
        colours(true)
    )
}

/// A number of nanoseconds on an axis: `10 µs`.
fn nanoseconds(value: f64) -> String {
    let (value, unit) = match value {
        value if value < 1e3 => (value, "ns"),
        value if value < 1e6 => (value / 1e3, "µs"),
        value if value < 1e9 => (value / 1e6, "ms"),
        value => (value / 1e9, "s"),
    };
    let digits = if value >= 100.0 || value.fract() == 0.0 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

/// Text inside XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Writing into a string cannot fail.
fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decade_of_a_percentile_axis_is_one_more_nine() {
        let axis = Axis::percentiles(20_000.0);
        let texts: Vec<&str> = axis.ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
        assert!((axis.place(100.0) - 0.4).abs() < 1e-9);
    }

    #[test]
    fn latencies_get_whole_decades() {
        let axis = Axis::of_latencies([2_500.0, 81_000.0].into_iter());
        assert_eq!(axis.range, (1e3, 1e5));
        let texts: Vec<&str> = axis.ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["1 µs", "10 µs", "100 µs"]);
    }

    #[test]
    fn an_even_axis_has_round_ticks() {
        let axis = Axis::linear("rows/s", 29.0, |value| format!("{value}"));
        assert_eq!(axis.range, (0.0, 30.0));
        assert_eq!(axis.ticks.len(), 7);
    }

    #[test]
    fn names_cannot_break_the_drawing() {
        let chart = Chart {
            title: "<a> & \"b\"".to_owned(),
            x: Axis::linear("s", 1.0, |value| value.to_string()),
            y: Axis::of_latencies(std::iter::empty()),
            series: vec![Series {
                name: "</svg>".to_owned(),
                colour: 9,
                stroke: Stroke::Dotted,
                points: vec![(0.5, 5e3), (0.6, f64::NAN)],
            }],
            bands: vec![Band { range: (0.1, 0.1), label: "kill <9>".to_owned(), colour: 1 }],
        };
        let svg = chart.svg();
        assert_eq!(svg.matches("</svg>").count(), 1);
        assert!(svg.contains("&lt;a&gt; &amp; &quot;b&quot;") && svg.contains("kill &lt;9&gt;"), "{svg}");
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
