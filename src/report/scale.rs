//! Axes: how values lie on them, where ticks go and what they say.

/// How a value lies on an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    Linear,
    /// asinh(value / lambda_c): both signs and many decades.
    Asinh(f64),
    /// log10 of a positive value.
    Log,
}

/// An interval of an axis and the pixels it covers.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    pub scale: Scale,
    /// Ends as coordinates (after the scale).
    pub from: f64,
    pub to: f64,
    /// Ends in pixels; `start` may exceed `end` (upward axes).
    pub start: f64,
    pub end: f64,
}

/// A tick: pixel and label.
pub type Tick = (f64, String);

impl Scale {
    pub fn coordinate(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Asinh(scale) => (value / scale).asinh(),
            Scale::Log => value.log10(),
        }
    }

    fn value(self, coordinate: f64) -> f64 {
        match self {
            Scale::Linear => coordinate,
            Scale::Asinh(scale) => coordinate.sinh() * scale,
            Scale::Log => 10f64.powf(coordinate),
        }
    }
}

impl Axis {
    /// Pixel of a coordinate, kept inside the axis.
    pub fn pixel(&self, coordinate: f64) -> f64 {
        let share = (coordinate - self.from) / (self.to - self.from);
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    /// Ticks at least `gap` pixels apart.
    pub fn ticks(&self, gap: f64) -> Vec<Tick> {
        let values = match self.scale {
            Scale::Linear => self.round_values(gap),
            Scale::Log => self.decades(gap, |exponent| vec![exponent]),
            Scale::Asinh(_) => self.decades(gap, |exponent| vec![exponent, -exponent]),
        };
        let values = if values.len() < 3 { self.round_values(gap) } else { values };
        values.into_iter().map(|value| (self.pixel(self.scale.coordinate(value)), label(value))).collect()
    }

    /// Zero and the powers of ten in view that keep their distance, every n-th decade. `signs` is handed 10^k.
    fn decades(&self, gap: f64, signs: impl Fn(f64) -> Vec<f64>) -> Vec<f64> {
        let ends = [self.scale.value(self.from), self.scale.value(self.to)];
        let largest = ends.iter().fold(f64::MIN_POSITIVE, |most, end| end.abs().max(most)).log10().floor() as i32;
        let smallest = match self.scale {
            Scale::Log => self.from.ceil() as i32,
            _ => largest - 40,
        };
        let zero = matches!(self.scale, Scale::Asinh(_)).then_some(0.0);
        let per_decade = (self.end - self.start).abs() * std::f64::consts::LN_10
            / (self.to - self.from)
            / if self.scale == Scale::Log { std::f64::consts::LN_10 } else { 1.0 };
        let stride = (gap / per_decade).ceil().max(1.0) as usize;
        let mut kept: Vec<f64> = zero.into_iter().collect();
        let top =
            if self.scale == Scale::Log { largest - (largest - smallest).rem_euclid(stride as i32) } else { largest };
        for exponent in (smallest..=top).rev().step_by(stride) {
            for value in signs(10f64.powi(exponent)) {
                let coordinate = self.scale.coordinate(value);
                let is_free =
                    |other: &f64| (self.pixel(self.scale.coordinate(*other)) - self.pixel(coordinate)).abs() >= gap;
                if (self.from..=self.to).contains(&coordinate) && kept.iter().all(is_free) {
                    kept.push(value);
                }
            }
        }
        kept.retain(|value| (self.from..=self.to).contains(&self.scale.coordinate(*value)));
        kept
    }

    /// Multiples of 1, 2 or 5 times a power of ten, evenly in value.
    fn round_values(&self, gap: f64) -> Vec<f64> {
        let (from, to) = (self.scale.value(self.from), self.scale.value(self.to));
        let most = ((self.end - self.start).abs() / gap).max(1.0);
        let rough = (to - from) / most;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let Some(step) = step.filter(|step| step.is_normal()) else { return vec![from] };
        ((from / step).ceil() as i64..=(to / step).floor() as i64).map(|number| number as f64 * step).collect()
    }
}

/// A tick's text: powers of ten as such.
fn label(value: f64) -> String {
    let exponent = value.abs().log10().round();
    let is_power = value != 0.0 && (value.abs() / 10f64.powf(exponent) - 1.0).abs() < 1e-9;
    let text = if is_power && !(-2.0..=3.0).contains(&exponent) {
        format!("{}10{}", if value < 0.0 { "-" } else { "" }, superscript(exponent as i32))
    } else {
        number(value)
    };
    text.replace('-', "−")
}

fn superscript(exponent: i32) -> String {
    let raised = |c| match c {
        '-' => '⁻',
        '0' => '⁰',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        _ => '⁹',
    };
    exponent.to_string().chars().map(raised).collect()
}

/// A number to about four digits: `0`, `12.5`, `3.1e-7`.
pub fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    let exponent = value.abs().log10().floor() as i32;
    if (-3..6).contains(&exponent) {
        let text = format!("{value:.*}", (3 - exponent).max(0) as usize);
        let trimmed = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        return trimmed.to_string();
    }
    let text = format!("{value:.3e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e{power}", mantissa.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale, from: f64, to: f64) -> Axis {
        Axis { scale, from: scale.coordinate(from), to: scale.coordinate(to), start: 0.0, end: 600.0 }
    }

    fn labels(axis: &Axis) -> Vec<String> {
        let mut ticks = axis.ticks(40.0);
        ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
        ticks.into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn numbers_are_short_and_right() {
        for (value, text) in [
            (0.0, "0"),
            (12.5, "12.5"),
            (-0.001, "-0.001"),
            (3.1e-7, "3.1e-7"),
            (123_456.0, "123456"),
            (1e9, "1e9"),
            (0.999_99, "1"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn asinh_ticks_are_powers_of_ten_of_both_signs_around_zero() {
        let labels = labels(&axis(Scale::Asinh(1e-3), -0.5, 200.0));
        assert_eq!(labels, ["−0.1", "−0.01", "0", "0.01", "0.1", "1", "10", "100"]);
    }

    #[test]
    fn ticks_keep_their_distance_and_lie_inside() {
        for scale in [Scale::Linear, Scale::Asinh(1e-4), Scale::Asinh(10.0), Scale::Log] {
            for to in [0.3, 7.0, 1e5] {
                let axis = axis(scale, 0.01, to);
                let mut pixels: Vec<_> = axis.ticks(40.0).into_iter().map(|tick| tick.0).collect();
                pixels.sort_by(f64::total_cmp);
                assert!(!pixels.is_empty(), "{scale:?} {to}");
                assert!(pixels.iter().all(|pixel| (0.0..=600.0).contains(pixel)));
                if scale == Scale::Linear {
                    assert!(pixels.windows(2).all(|pair| pair[1] - pair[0] >= 39.9), "{scale:?} {to} {pixels:?}");
                }
            }
        }
    }
}
