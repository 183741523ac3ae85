//! The precision section: how numbers are stored, and which products are FP8.

use super::Checker;
use super::eval::{Frame, nearest};
use crate::ast::{Ident, Member, Setting, Word};
use moec_ir::{DType, Diagnostic, ScaleFormat, Span};
use std::collections::BTreeSet;
use std::rc::Rc;

/// How numbers are stored. Arithmetic is float32 whatever the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Weights, activations and caches; bf16 unless the file says otherwise.
    pub storage: DType,
    /// Names of weights whose products stay float32 (their own storage does not change), and
    /// of caches that are kept in float32.
    pub f32: BTreeSet<String>,
    /// Names of weights that [`Precision::linear`] does not apply to.
    pub keep: BTreeSet<String>,
    /// FP8 products, where the file asks for them (DeepSeek-V3 3.3).
    pub linear: Option<Fp8>,
    /// What holds instead of [`Precision::linear`] for the products of routed experts.
    pub experts: Option<Fp8>,
    /// Caches in FP8, where the file asks for them.
    pub cache: Option<Fp8Cache>,
}

impl Default for Precision {
    fn default() -> Self {
        let (f32, keep) = (BTreeSet::new(), BTreeSet::new());
        Self { storage: DType::Bf16, f32, keep, linear: None, experts: None, cache: None }
    }
}

impl Precision {
    /// Element type of a cache by its name.
    pub(super) fn of_cache(&self, name: &str) -> DType {
        if self.f32.contains(name) { DType::F32 } else { self.storage }
    }

    /// Whether the product with the weight of this path (`experts.router`) stays float32.
    pub fn is_f32(&self, path: &str) -> bool {
        self.f32.contains(last(path))
    }

    /// Whether the cache of this path (`attention.latent`) stays as it is where others are FP8.
    pub fn excepts(&self, path: &str) -> bool {
        [&self.f32, &self.keep].iter().any(|names| names.contains(last(path)))
    }

    /// The FP8 recipe of the weight of this path, if it has one; `routed` tells the weights of
    /// routed experts from others.
    pub fn fp8(&self, path: &str, routed: bool) -> Option<&Fp8> {
        let own = self.experts.as_ref().filter(|_| routed);
        own.or(self.linear.as_ref()).filter(|_| !self.keep.contains(last(path)))
    }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Block-scaled FP8 products (DeepSeek-V3 3.3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fp8 {
    /// Element type of both operands.
    pub format: DType,
    /// Rows and columns of an activation that share a scale; `None` where only weights are FP8.
    pub activation_block: Option<[u64; 2]>,
    /// Rows and columns of a weight that share a scale.
    pub weight_block: [u64; 2],
    /// Products that the tensor core sums before the sum moves to float32 registers; 1 where
    /// each product is added in float32.
    pub promote_every: u64,
    /// How scales are stored.
    pub scales: ScaleFormat,
    /// Where the file asks for it.
    pub span: Span,
}

/// Caches of latents in e4m3 (deepseek-ai/FlashMLA, README, "FP8 KV Cache").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fp8Cache {
    /// Elements of a latent that share a scale.
    pub block: u64,
    /// How scales are stored.
    pub scales: ScaleFormat,
    /// Where the file asks for it.
    pub span: Span,
}

const SETTINGS: [&str; 6] = ["storage", "f32", "keep", "linear", "experts", "caches"];

impl<'a> Checker<'a> {
    /// What the precision section says; bf16 where there is none.
    pub(super) fn precision_section(&mut self, members: &'a [Member]) -> Precision {
        let mut precision = Precision::default();
        let mut seen = BTreeSet::new();
        for member in members {
            let Member::Precision(section) = member else { continue };
            for setting in &section.settings {
                if !seen.insert(setting.name.text.as_str()) {
                    self.diagnostics.push(
                        Diagnostic::error("E0401", format!("`{}` is set twice", setting.name))
                            .at(setting.span, "set again here"),
                    );
                    continue;
                }
                self.precision_line(&mut precision, setting);
            }
        }
        precision
    }

    fn precision_line(&mut self, precision: &mut Precision, setting: &'a Setting) -> Option<()> {
        match setting.name.text.as_str() {
            "storage" => {
                let word = self.only_word(setting)?;
                precision.storage = match word.text.as_str() {
                    "bf16" => DType::Bf16,
                    "f16" => DType::F16,
                    "f32" => DType::F32,
                    other => {
                        return self.fail(
                            Diagnostic::error("E0403", format!("`{other}` cannot be stored"))
                                .at(word.span, "not a storage type")
                                .help("write `bf16`, `f16` or `f32`; FP8 products are `linear: fp8 …`"),
                        );
                    }
                };
            }
            "f32" => precision.f32 = self.listed(setting)?,
            "keep" => precision.keep = self.listed(setting)?,
            "linear" => precision.linear = Some(self.fp8(setting)?),
            "experts" => precision.experts = Some(self.fp8(setting)?),
            "caches" => precision.cache = Some(self.fp8_cache(setting)?),
            other => {
                let d =
                    Diagnostic::error("E0401", format!("`{other}` is not a setting of precision"))
                        .at(setting.name.span, "unknown");
                return self.fail(d.help(match nearest(other, SETTINGS.into_iter()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "the settings are {}",
                        SETTINGS.map(|s| format!("`{s}`")).join(", ")
                    ),
                }));
            }
        }
        Some(())
    }

    fn only_word<'s>(&mut self, setting: &'s Setting) -> Option<&'s Ident> {
        if let [one] = setting.phrases.as_slice()
            && let [Word::Name(word)] = one.as_slice()
        {
            return Some(word);
        }
        self.fail(
            Diagnostic::error("E0403", format!("`{}` takes one word", setting.name))
                .at(setting.span, "as in `storage: bf16`"),
        )
    }

    /// Names of parameters and caches, which must exist (E0402).
    fn listed(&mut self, setting: &Setting) -> Option<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let mut sound = true;
        for phrase in &setting.phrases {
            match phrase.as_slice() {
                [Word::Name(name)] if self.is_stored(&name.text) => {
                    names.insert(name.text.clone());
                }
                [Word::Name(name)] => {
                    sound = false;
                    let d = Diagnostic::error(
                        "E0402",
                        format!("no parameter or cache is called `{name}`"),
                    )
                    .at(name.span, "unknown");
                    let d = match nearest(&name.text, self.stored().into_iter()) {
                        Some(near) => d.help(format!("did you mean `{near}`?")),
                        None => d,
                    };
                    self.diagnostics.push(d);
                }
                _ => {
                    sound = false;
                    self.diagnostics.push(
                        Diagnostic::error(
                            "E0403",
                            format!("`{}` takes names with commas between", setting.name),
                        )
                        .at(setting.span, "not a list of names"),
                    );
                }
            }
        }
        sound.then_some(names)
    }

    fn is_stored(&self, name: &str) -> bool {
        self.stored().contains(name)
    }

    /// The names of all parameters, states and caches.
    fn stored(&self) -> BTreeSet<&'a str> {
        use super::declare::Decl;
        let scopes = std::iter::once(&self.scope).chain(self.blocks.values());
        let names = scopes.flat_map(|s| s.names.iter());
        names
            .filter(|(_, d)| matches!(d, Decl::Param(_) | Decl::Cache(_)))
            .map(|(name, _)| *name)
            .collect()
    }

    /// `fp8 e4m3, activation [1, 128], weight [128, 128], accumulate f32 every 128`; activations
    /// stay as they are where no block is given for them.
    fn fp8(&mut self, setting: &'a Setting) -> Option<Fp8> {
        let mut format = None;
        let mut activation = None;
        let mut weight = None;
        let mut every = None;
        let mut scales = ScaleFormat::F32;
        for phrase in &setting.phrases {
            let head: Vec<&str> = phrase
                .iter()
                .map_while(|w| match w {
                    Word::Name(n) | Word::Number(n) => Some(n.text.as_str()),
                    Word::Shape(_) => None,
                })
                .collect();
            match (head.as_slice(), phrase.last()) {
                (["fp8", "e4m3"], _) => format = Some(DType::F8e4m3),
                (["fp8", "e5m2"], _) => format = Some(DType::F8e5m2),
                (["activation"], Some(Word::Shape(s))) if phrase.len() == 2 => {
                    activation = Some(self.block(s)?);
                }
                (["weight"], Some(Word::Shape(s))) if phrase.len() == 2 => {
                    weight = Some(self.block(s)?);
                }
                (["accumulate", "f32", "every", n], _) => {
                    every = n.parse().ok().filter(|&n: &u64| n > 0)
                }
                (["accumulate", "f32"], _) => every = Some(1),
                (["scales", "f32"], _) => scales = ScaleFormat::F32,
                (["scales", "ue8m0"], _) => scales = ScaleFormat::Ue8m0,
                _ => {
                    return self.not_fp8(setting.span, "a part of this is not understood");
                }
            }
        }
        let (Some(format), Some(weight_block)) = (format, weight) else {
            return self.not_fp8(setting.span, "the format or the block of weights is missing");
        };
        let promote_every = every.unwrap_or(weight_block[1]);
        let fits = |block: [u64; 2]| block[1] == weight_block[1];
        if !activation.is_none_or(fits) || weight_block[1] % promote_every != 0 {
            return self
                .not_fp8(setting.span, "the blocks do not fit each other along the summed axis");
        }
        Some(Fp8 {
            format,
            activation_block: activation,
            weight_block,
            promote_every,
            scales,
            span: setting.span,
        })
    }

    /// `fp8 e4m3 [1, 128], scales ue8m0`
    fn fp8_cache(&mut self, setting: &'a Setting) -> Option<Fp8Cache> {
        let (mut block, mut scales) = (None, ScaleFormat::F32);
        for phrase in &setting.phrases {
            let text = |word: &'a Word| match word {
                Word::Name(n) | Word::Number(n) => n.text.as_str(),
                Word::Shape(_) => "",
            };
            let words: Vec<&str> = phrase.iter().map(text).collect();
            match (words.as_slice(), phrase.last()) {
                (["fp8", "e4m3", ""], Some(Word::Shape(shape))) => block = Some(self.block(shape)?),
                (["scales", "f32"], _) => scales = ScaleFormat::F32,
                (["scales", "ue8m0"], _) => scales = ScaleFormat::Ue8m0,
                _ => return self.not_fp8_cache(setting.span, "a part of this is not understood"),
            }
        }
        match block {
            Some([1, block]) => Some(Fp8Cache { block, scales, span: setting.span }),
            Some([rows, _]) => {
                let why = format!("a row of a cache is quantised alone, not {rows} rows together");
                self.not_fp8_cache(setting.span, &why)
            }
            None => self.not_fp8_cache(setting.span, "the format and the block are missing"),
        }
    }

    fn not_fp8_cache<T>(&mut self, span: Span, why: &str) -> Option<T> {
        let mistake = Diagnostic::error("E0403", why).at(span, "in this recipe");
        self.fail(mistake.help("write `caches: fp8 e4m3 [1, 128]`, perhaps with `, scales ue8m0`"))
    }

    fn not_fp8<T>(&mut self, span: Span, why: &str) -> Option<T> {
        self.fail(Diagnostic::error("E0403", why).at(span, "in this recipe").help(
            "write `linear: fp8 e4m3, activation [1, 128], weight [128, 128], accumulate f32 every 128`",
        ))
    }

    fn block(&mut self, shape: &'a crate::ast::Shape) -> Option<[u64; 2]> {
        let mut frame = Frame::new(Rc::clone(&self.root));
        let axes = self.shape(&mut frame, shape)?;
        let sizes: Vec<u64> = axes.iter().filter_map(|a| a.dim.constant()).collect();
        match sizes.as_slice() {
            [rows, columns] if axes.len() == 2 => Some([*rows, *columns]),
            _ => self.fail(
                Diagnostic::error("E0403", "a block has two sizes")
                    .at(shape.span, "rows and columns"),
            ),
        }
    }
}
