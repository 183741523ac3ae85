//! Rotary positions and YaRN, in the old and the new words of the configuration.

use super::config::Config;
use super::text::number;

/// How a model turns positions.
pub(super) struct Positions {
    /// Base of the wavelengths.
    pub(super) theta: f64,
    /// YaRN, where the context was extended.
    pub(super) yarn: Option<Yarn>,
}

/// YaRN as configurations give it.
pub(super) struct Yarn {
    pub(super) factor: f64,
    pub(super) original: u64,
    pub(super) beta_fast: f64,
    pub(super) beta_slow: f64,
    pub(super) mscale: Option<f64>,
    pub(super) mscale_all_dim: Option<f64>,
    pub(super) attention_factor: Option<f64>,
}

const KNOWN: [&str; 12] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "truncate",
    "partial_rotary_factor",
];

/// Reads `rope_parameters`, or `rope_theta` and `rope_scaling`.
pub(super) fn read(config: &mut Config<'_>) -> Option<Positions> {
    let place = match (config.has("rope_parameters"), config.has("rope_scaling")) {
        (true, true) => {
            config.refuse(
                "rope_scaling",
                "`rope_parameters` says the same in other words",
                "remove one of them",
            );
            return None;
        }
        (true, false) => Some("rope_parameters"),
        (false, true) => Some("rope_scaling"),
        (false, false) => None,
    };
    // Transformers takes a factor only from where it stands; one that rotates a part of each
    // head was never written for these models.
    if config.number_or("partial_rotary_factor", 1.0)? != 1.0 {
        config.refuse("partial_rotary_factor", "all of the last axis is turned", "remove it");
    }
    let Some(place) = place else {
        return Some(Positions { theta: config.number("rope_theta")?, yarn: None });
    };
    config.only(place, &KNOWN);
    let field = |name: &str| format!("{place}.{name}");
    let inner = field("rope_theta");
    let theta = match (config.has(&inner), config.has("rope_theta")) {
        (true, true) => {
            let (a, b) = (config.number(&inner)?, config.number("rope_theta")?);
            if a != b {
                config.refuse(
                    "rope_theta",
                    "another base stands beside the rotary parameters",
                    "remove one of them",
                );
            }
            a
        }
        (true, false) => config.number(&inner)?,
        (false, _) => config.number("rope_theta")?,
    };
    if config.number_or(&field("partial_rotary_factor"), 1.0)? != 1.0 {
        config.refuse(
            &field("partial_rotary_factor"),
            "all of the last axis is turned",
            "remove it",
        );
    }
    let kind = if config.has(&field("rope_type")) { field("rope_type") } else { field("type") };
    let yarn = match config.text_or(&kind, "default")?.as_str() {
        "default" => None,
        "yarn" => Some(yarn(config, &field)?),
        _ => {
            config.refuse(
                &kind,
                "only `default` and `yarn` can be computed",
                "write the model in the language",
            );
            return None;
        }
    };
    Some(Positions { theta, yarn })
}

fn yarn(config: &mut Config<'_>, field: &dyn Fn(&str) -> String) -> Option<Yarn> {
    if !config.flag_or(&field("truncate"), true)? {
        config.refuse(
            &field("truncate"),
            "the ramp begins and ends at whole pairs",
            "set it to true",
        );
    }
    let optional = |config: &mut Config<'_>, name: &str| {
        let key = field(name);
        if config.has(&key) { config.number(&key).map(Some) } else { Some(None) }
    };
    let yarn = Yarn {
        factor: config.number(&field("factor"))?,
        original: config.size(&field("original_max_position_embeddings"))?,
        beta_fast: config.number_or(&field("beta_fast"), 32.0)?,
        beta_slow: config.number_or(&field("beta_slow"), 1.0)?,
        mscale: optional(config, "mscale")?,
        mscale_all_dim: optional(config, "mscale_all_dim")?,
        attention_factor: optional(config, "attention_factor")?,
    };
    let both =
        yarn.mscale.is_some_and(|m| m != 0.0) && yarn.mscale_all_dim.is_some_and(|m| m != 0.0);
    if yarn.mscale.is_some_and(|m| m != 1.0) && !both && yarn.attention_factor.is_none() {
        config.refuse(
            &field("mscale"),
            "without `mscale_all_dim`, implementations of YaRN disagree on what it means",
            "give `attention_factor`: the factor on sine and cosine",
        );
    }
    Some(yarn)
}

impl Yarn {
    /// `0.1 * m * log(factor) + 1`, which is 1 where the context does not grow.
    fn sharpness(&self, m: f64) -> String {
        if self.factor <= 1.0 {
            return "1".into();
        }
        let m = if m == 1.0 { String::new() } else { format!("{} * ", number(m)) };
        format!("0.1 * {m}log({}) + 1", number(self.factor))
    }

    /// The factor on the scores, squared later: `mscale_all_dim`'s (DeepSeek-V3 4.3).
    pub(super) fn of_scores(&self) -> Option<String> {
        self.mscale_all_dim.filter(|&m| m != 0.0).map(|m| self.sharpness(m))
    }

    /// The factor on sine and cosine, where it is not 1.
    pub(super) fn amplitude(&self) -> Option<String> {
        if let Some(factor) = self.attention_factor {
            return (factor != 1.0).then(|| number(factor));
        }
        match (self.mscale, self.mscale_all_dim) {
            (Some(m), Some(all)) if m != 0.0 && all != 0.0 => (m != all && self.factor > 1.0)
                .then(|| format!("({}) / ({})", self.sharpness(m), self.sharpness(all))),
            _ => (self.factor > 1.0).then(|| self.sharpness(1.0)),
        }
    }
}

impl Positions {
    /// The function `rope` over the last axis, called `axis`.
    pub(super) fn function(&self, axis: &str, interleaved: bool) -> String {
        let mut args = vec!["x".to_owned(), format!("theta = {}", number(self.theta))];
        if interleaved {
            args.push("interleaved".into());
        }
        if let Some(y) = &self.yarn {
            if y.amplitude().is_some() {
                args.push("amplitude = amplitude".into());
            }
            args.push(format!(
                "yarn(factor = {}, original = {}, beta_fast = {}, beta_slow = {})",
                number(y.factor),
                y.original,
                number(y.beta_fast),
                number(y.beta_slow)
            ));
        }
        format!("fn rope(x: [.., {axis}]) -> [.., {axis}] {{ rotary({}) }}\n", args.join(", "))
    }

    /// The constants of a model with heads of size `head` (an expression).
    pub(super) fn constants(&self, head: &str, sharpened: bool) -> String {
        let mut text = String::new();
        let scores = self.yarn.as_ref().filter(|_| sharpened).and_then(Yarn::of_scores);
        if let Some(y) = &self.yarn {
            text += "\n// YaRN (arXiv 2309.00071)";
            text += &format!(
                " stretches a context of {} positions {} times.\n",
                y.original,
                number(y.factor)
            );
        } else {
            text += "\n";
        }
        if let Some(amplitude) = self.yarn.as_ref().and_then(Yarn::amplitude) {
            text += &format!("let amplitude = {amplitude}\n");
        }
        match scores {
            Some(sharpness) => {
                text += &format!("let sharpness = {sharpness}\n");
                text += &format!("let softmax_scale = pow(sharpness, 2) / sqrt({head})\n");
            }
            None => text += &format!("let softmax_scale = 1 / sqrt({head})\n"),
        }
        text + "\n"
    }
}
