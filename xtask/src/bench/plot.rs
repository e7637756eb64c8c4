//! Speed over memory, as a picture.

use std::fmt::Write;

/// Points of one engine, drawn as marks, or of a bound, drawn as a line.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) colour: &'static str,
    pub(crate) kind: Kind,
    /// Bytes and tokens per second.
    pub(crate) points: Vec<(f64, f64)>,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Line,
    Marks,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;

/// An SVG of tokens per second, on a logarithmic axis, over memory.
pub(crate) fn svg(title: &str, model_bytes: f64, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| series.points.iter());
    let right_bytes = points().map(|point| point.0).fold(model_bytes, f64::max) * 1.05;
    let fastest = points().map(|point| point.1).fold(1.0, f64::max);
    let slowest = points().map(|point| point.1).fold(fastest, f64::min).max(1e-3);
    let (low, high) = ((slowest * 0.8).log10(), (fastest * 1.3).log10());
    let x = |bytes: f64| LEFT + bytes / right_bytes * (WIDTH - LEFT - RIGHT);
    let y = |rate: f64| TOP + (high - rate.log10()) / (high - low) * (HEIGHT - TOP - BOTTOM);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{title}</text>\n"
    );
    for rate in [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        if (low..=high).contains(&f64::log10(rate)) {
            let (at, end, text) = (y(rate), WIDTH - RIGHT, LEFT - 8.0);
            line(&mut out, (LEFT, at), (end, at), "#ddd", "");
            let _ = writeln!(out, "<text x=\"{text}\" y=\"{:.1}\" text-anchor=\"end\">{rate}</text>", at + 4.0);
        }
    }
    let step = if right_bytes > 8e9 { 2e9 } else { 5e8 };
    for tick in 0..=(right_bytes / step) as usize {
        let (bytes, under) = (tick as f64 * step, HEIGHT - BOTTOM + 18.0);
        let at = x(bytes);
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{under}\" text-anchor=\"middle\">{:.1}</text>", bytes / 1e9);
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">memory limit, GB (the model: {:.2})</text>",
        HEIGHT - 14.0,
        model_bytes / 1e9
    );
    let _ = writeln!(
        out,
        "<text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">tokens per second</text>",
        HEIGHT / 2.0
    );
    line(&mut out, (x(model_bytes), TOP), (x(model_bytes), HEIGHT - BOTTOM), "#bbb", "4 4");
    for (index, Series { name, colour, kind, points }) in series.iter().enumerate() {
        let mut points = points.clone();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let path: Vec<String> =
            points.iter().map(|&(bytes, rate)| format!("{:.1},{:.1}", x(bytes), y(rate.max(1e-3)))).collect();
        let width = if *kind == Kind::Line { "1.5\" stroke-dasharray=\"6 3" } else { "2" };
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            path.join(" ")
        );
        if *kind == Kind::Marks {
            for &(bytes, rate) in &points {
                let _ = writeln!(
                    out,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
                    x(bytes),
                    y(rate.max(1e-3))
                );
                let _ = writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{colour}\">{rate:.2}</text>",
                    x(bytes),
                    y(rate.max(1e-3)) - 8.0
                );
            }
        }
        let at = TOP + 6.0 + 18.0 * index as f64;
        line(&mut out, (LEFT + 12.0, at), (LEFT + 36.0, at), colour, if *kind == Kind::Line { "6 3" } else { "" });
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\">{name}</text>", LEFT + 44.0, at + 4.0);
    }
    out + "</svg>\n"
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

    #[test]
    fn every_point_lies_inside_and_faster_is_higher() {
        let series =
            |kind, points: &[(f64, f64)]| Series { name: "a".into(), colour: "red", kind, points: points.to_vec() };
        let svg = svg("t", 3e9, &[series(Kind::Marks, &[(1e9, 0.5), (3e9, 50.0)]), series(Kind::Line, &[(1e9, 1.0)])]);
        let attribute = |name: &str| -> Vec<f64> {
            svg.split(&format!(" {name}=\""))
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
                .collect()
        };
        let (x, y) = (attribute("cx"), attribute("cy"));
        assert_eq!((x.len(), y.len()), (2, 2));
        assert!(x[0] < x[1] && y[0] > y[1]);
        assert!(
            x.iter().all(|x| (LEFT..WIDTH - RIGHT).contains(x)) && y.iter().all(|y| (TOP..HEIGHT - BOTTOM).contains(y))
        );
    }
}
