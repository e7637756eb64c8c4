//! Curves over memory, as an SVG.

use std::fmt::Write;

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Above the picture.
    pub title: &'a str,
    /// Below the horizontal axis, which begins at zero.
    pub x_label: &'a str,
    /// What one of the horizontal axis' numbers stands for: 1e9 for bytes in GB.
    pub x_unit: f64,
    /// Beside the vertical axis.
    pub y_label: &'a str,
    /// How the vertical axis is divided.
    pub y_scale: Scale,
    /// Where a vertical line is drawn, such as at all bytes of a model.
    pub mark: Option<f64>,
    /// The curves; the first lies below the others.
    pub series: &'a [Series],
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Evenly from 0 to this.
    To(f64),
    /// By powers of ten, as far as the points go; what is below a thousandth is drawn there.
    Logarithmic,
}

/// A curve.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// As SVG takes it.
    pub colour: &'static str,
    /// How it is drawn.
    pub style: Style,
    /// Its points, in any order.
    pub points: Vec<(f64, f64)>,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As a line.
    Line,
    /// As a dashed line: a bound.
    Dashed,
    /// As a line with marks and their numbers: measurements.
    Marked,
}

/// Colours that can be told from one another, for as many curves.
pub const COLOURS: [&str; 12] = [
    "#1b6ca8", "#d1495b", "#3a7d44", "#edae49", "#6a4c93", "#00798c", "#a44a3f", "#8d99ae", "#c77dff", "#588157",
    "#bc6c25", "#e56b9f",
];

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;

/// Where the legend stands from the left.
const LEGEND: f64 = LEFT + 12.0;

impl Chart<'_> {
    /// The picture, of 720 by 420.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let right = points().map(|point| point.0).chain(self.mark).fold(f64::MIN_POSITIVE, f64::max) * 1.05;
        let y_axis = Axis::new(self.y_scale, points().map(|point| point.1));
        let x = |value: f64| LEFT + value / right * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - y_axis.part(value) * (HEIGHT - TOP - BOTTOM);

        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{}</text>\n",
            escaped(self.title)
        );
        for tick in y_axis.ticks() {
            line(&mut out, (LEFT, y(tick)), (WIDTH - RIGHT, y(tick)), "#ddd", "");
            text(&mut out, (LEFT - 8.0, y(tick) + 4.0), "end", &number(tick));
        }
        for tick in even_ticks(right / self.x_unit) {
            text(&mut out, (x(tick * self.x_unit), HEIGHT - BOTTOM + 18.0), "middle", &number(tick));
        }
        text(&mut out, ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14.0), "middle", self.x_label);
        let _ = writeln!(
            out,
            "<text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            HEIGHT / 2.0,
            escaped(self.y_label)
        );
        if let Some(mark) = self.mark {
            line(&mut out, (x(mark), TOP), (x(mark), HEIGHT - BOTTOM), "#bbb", "4 4");
        }
        for (place, series) in self.series.iter().enumerate() {
            let mut points = series.points.clone();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let points: Vec<(f64, f64, f64)> = points.into_iter().map(|(at, value)| (x(at), y(value), value)).collect();
            series.draw(&mut out, &points);
            let at = TOP + 6.0 + 18.0 * place as f64;
            line(&mut out, (LEGEND, at), (LEGEND + 24.0, at), series.colour, series.dashes());
            text(&mut out, (LEGEND + 32.0, at + 4.0), "start", &series.name);
        }
        out + "</svg>\n"
    }
}

impl Series {
    fn dashes(&self) -> &'static str {
        if self.style == Style::Dashed { "6 3" } else { "" }
    }

    /// Of points in the picture, with their values.
    fn draw(&self, out: &mut String, points: &[(f64, f64, f64)]) {
        let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        let (colour, width) = (self.colour, if self.style == Style::Dashed { 1.5 } else { 2.0 });
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-dasharray=\"{}\"/>",
            path.join(" "),
            self.dashes()
        );
        for (x, y, value) in points.iter().filter(|_| self.style == Style::Marked) {
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>");
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{colour}\">{value:.2}</text>",
                y - 8.0
            );
        }
    }
}

/// The vertical axis.
#[derive(Clone, Copy, Debug)]
enum Axis {
    Linear {
        high: f64,
    },
    /// By the logarithms of its ends.
    Logarithmic {
        low: f64,
        high: f64,
    },
}

/// What is drawn at the foot of a logarithmic axis, at the least.
const LEAST: f64 = 1e-3;

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        match scale {
            Scale::To(high) => Self::Linear { high },
            Scale::Logarithmic => {
                let most = values.clone().fold(1.0, f64::max);
                let least = values.fold(most, f64::min).max(LEAST);
                Self::Logarithmic { low: (least * 0.8).log10(), high: (most * 1.3).log10() }
            }
        }
    }

    /// Where a value lies, from 0 at the foot to 1.
    fn part(self, value: f64) -> f64 {
        match self {
            Self::Linear { high } => value / high,
            Self::Logarithmic { low, high } => (value.max(LEAST).log10() - low) / (high - low),
        }
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { high } => even_ticks(high),
            Self::Logarithmic { low, high } => {
                let powers = (low.floor() as i32..=high.ceil() as i32).map(|power| 10_f64.powi(power));
                let ticks = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * power));
                ticks.filter(|tick| (low..=high).contains(&tick.log10())).collect()
            }
        }
    }
}

/// From 0 up to `high`, 1, 2 or 5 times a power of ten apart, at most ten of them beyond 0.
fn even_ticks(high: f64) -> Vec<f64> {
    let power = 10_f64.powf((high / 10.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| high / step <= 10.0);
    let step = step.unwrap_or(high);
    (0..=(high / step * (1.0 + 1e-9)) as usize).map(|tick| tick as f64 * step).collect()
}

/// As short as the tick allows.
fn number(tick: f64) -> String {
    // Sums of steps have errors in their last digits.
    format!("{}", (tick * 1e6).round() / 1e6)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(out: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let _ =
        writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>", at.0, at.1, escaped(text));
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, dashes: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-dasharray=\"{dashes}\"/>",
        from.0, from.1, to.0, to.1
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, series: &[Series]) -> String {
        let labels =
            Chart { title: "a < b", x_label: "GB", x_unit: 1e9, y_label: "y", y_scale: scale, mark: Some(3e9), series };
        labels.svg()
    }

    #[test]
    fn every_point_lies_inside_and_more_is_higher() {
        let series = |style, points: &[(f64, f64)]| Series {
            name: "a & b".into(),
            colour: "red",
            style,
            points: points.to_vec(),
        };
        for (scale, more) in [(Scale::Logarithmic, 50.0), (Scale::To(100.0), 99.0)] {
            let svg = chart(
                scale,
                &[series(Style::Marked, &[(3e9, more), (1e9, 0.5)]), series(Style::Dashed, &[(1e9, 1.0)])],
            );
            let attribute = |name: &str| -> Vec<f64> {
                let start = format!(" {name}=\"");
                let values = svg.split(&start).skip(1);
                values.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
            };
            let (x, y) = (attribute("cx"), attribute("cy"));
            assert_eq!((x.len(), y.len()), (2, 2));
            assert!(x[0] < x[1] && y[0] > y[1], "{x:?} {y:?}");
            assert!(x.iter().all(|x| (LEFT..WIDTH - RIGHT).contains(x)));
            assert!(y.iter().all(|y| (TOP..=HEIGHT - BOTTOM).contains(y)));
            assert!(svg.contains("a &lt; b") && svg.contains("a &amp; b"));
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(even_ticks(3.0), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
        assert_eq!(even_ticks(100.0).len(), 11);
        assert_eq!(even_ticks(0.000_42).len(), 9);
        let shown: Vec<String> = even_ticks(0.7).into_iter().map(number).collect();
        assert_eq!(shown, ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"]);
    }
}
