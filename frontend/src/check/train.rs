//! The section `train`: losses, optimizer and rules for states.

use super::Checker;
use super::builder::Builder;
use super::declare::Decl;
use super::eval::{Frame, nearest};
use super::value::Value;
use crate::ast::{BinaryOp, Binding, Call, Expr, ExprKind, Member, TrainItem};
use moec_ir::graph::Function;
use moec_ir::{DType, Diagnostic, Span};
use std::rc::Rc;

/// How a model is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Train {
    /// The loss: the sum of its terms, each times its factor.
    pub loss: Vec<(f64, LossTerm)>,
    /// The optimizer.
    pub optimizer: AdamW,
    /// Rules for states that no gradient reaches.
    pub updates: Vec<Update>,
}

/// One term of a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossTerm {
    /// `cross_entropy(logits, next)`: of the next token.
    CrossEntropy,
    /// `mtp()`: cross entropy of the token after the next, by the entry `mtp`
    /// (DeepSeek-V3 2.2).
    Mtp,
    /// `balance()`: balance of experts within a sequence (DeepSeek-V3 2.1.2, equation 17).
    Balance,
    /// `distill(logits, teacher, temperature = 1)`: cross entropy against a teacher.
    Distill {
        /// Both logits are divided by it.
        temperature: f64,
    },
    /// `grpo(logits, reward, clip = 0.2, kl = 0.001)` (arXiv 2402.03300, section 4.1).
    Grpo {
        /// Bound on the ratio of policies.
        clip: f64,
        /// Factor on the divergence from the reference policy.
        kl: f64,
    },
}

/// AdamW (arXiv 1711.05101); the defaults are DeepSeek-V3's (4.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub clip: f64,
    /// How moments are stored.
    pub moments: DType,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            lr: 2.2e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            moments: DType::F32,
        }
    }
}

/// `bias += 0.001 * sign(mean(load) - load)`: a rule for a state (DeepSeek-V3 2.1.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Name of the state, in whatever block has it.
    pub state: String,
    /// From `load` (tokens that each expert got in the step, in float32, of the state's shape)
    /// to what is added; its parameter is the state before the step.
    pub function: Function,
}

impl<'a> Checker<'a> {
    /// What the train section says, if there is one.
    pub(super) fn train_section(&mut self, members: &'a [Member]) -> Option<Train> {
        let section = members.iter().find_map(|m| match m {
            Member::Train(t) => Some(t),
            _ => None,
        })?;
        let mut train = Train { loss: vec![], optimizer: AdamW::default(), updates: vec![] };
        for item in &section.items {
            match item {
                TrainItem::Update(b) => train.updates.extend(self.update(b)),
                TrainItem::Directive(b) => match b.name.text.as_str() {
                    "loss" => self.loss(&b.value, 1.0, &mut train.loss),
                    "optimizer" => {
                        train.optimizer = self.optimizer(&b.value).unwrap_or_default();
                    }
                    other => {
                        let near = nearest(other, ["loss", "optimizer"].into_iter());
                        let help = near.map_or_else(
                            || "lines are `loss …`, `optimizer …` and `state += …`".to_owned(),
                            |n| format!("did you mean `{n}`?"),
                        );
                        self.diagnostics.push(
                            Diagnostic::error(
                                "E0404",
                                format!("`{other}` is not a line of `train`"),
                            )
                            .at(b.name.span, "unknown")
                            .help(help),
                        );
                    }
                },
            }
        }
        if train.loss.is_empty() {
            self.diagnostics.push(
                Diagnostic::error("E0404", "the section `train` has no loss")
                    .at(section.span, "in this")
                    .help("add `loss cross_entropy(logits, next)`"),
            );
        }
        Some(train)
    }

    /// A sum of terms with factors.
    fn loss(&mut self, e: &'a Expr, factor: f64, terms: &mut Vec<(f64, LossTerm)>) {
        match &e.kind {
            ExprKind::Binary(BinaryOp::Add, x, y) => {
                self.loss(x, factor, terms);
                self.loss(y, factor, terms);
            }
            ExprKind::Binary(BinaryOp::Mul, x, y) => {
                let mut frame = Frame::new(Rc::clone(&self.root));
                if let Some(f) = self.scalar(&mut frame, x) {
                    self.loss(y, factor * f, terms);
                }
            }
            ExprKind::Call(call) => {
                terms.extend(self.loss_term(call, e.span).map(|t| (factor, t)));
            }
            ExprKind::Name(name) if name == "mtp" => terms.push((factor, LossTerm::Mtp)),
            _ => self.not_a_loss(e.span),
        }
    }

    fn not_a_loss(&mut self, span: Span) {
        self.diagnostics.push(
            Diagnostic::error("E0404", "this is not a loss")
                .at(span, "a term is a number times a loss")
                .help("losses are `cross_entropy(logits, next)`, `mtp`, `balance()`, `distill(logits, teacher)` and `grpo(logits, reward)`"),
        );
    }

    fn loss_term(&mut self, call: &'a Call, span: Span) -> Option<LossTerm> {
        let name = call.callee.text.as_str();
        if !["cross_entropy", "mtp", "balance", "distill", "grpo"].contains(&name) {
            self.not_a_loss(span);
            return None;
        }
        let args = self.args(call, span)?;
        let mut frame = Frame::new(Rc::clone(&self.root));
        let expected: &[&str] = match name {
            "cross_entropy" => &["logits", "next"],
            "distill" => &["logits", "teacher"],
            "grpo" => &["logits", "reward"],
            _ => &[],
        };
        for (e, expected) in args.plain.iter().zip(expected) {
            if !matches!(&e.kind, ExprKind::Name(n) if n == expected) {
                return self.fail(
                    Diagnostic::error("E0404", format!("`{name}` takes `{expected}` here"))
                        .at(e.span, "something else"),
                );
            }
        }
        Some(match name {
            "cross_entropy" => LossTerm::CrossEntropy,
            "mtp" => LossTerm::Mtp,
            "balance" => LossTerm::Balance,
            "distill" => LossTerm::Distill {
                temperature: self.setting(&mut frame, &args, "temperature", 1.0)?,
            },
            _ => LossTerm::Grpo {
                clip: self.setting(&mut frame, &args, "clip", 0.2)?,
                kl: self.setting(&mut frame, &args, "kl", 0.001)?,
            },
        })
    }

    /// `adamw(lr = 2.2e-4, moments = bf16)`
    fn optimizer(&mut self, e: &'a Expr) -> Option<AdamW> {
        let call = match &e.kind {
            ExprKind::Call(call) if call.callee.text == "adamw" => call,
            _ => {
                return self.fail(
                    Diagnostic::error("E0404", "the optimizer is not known")
                        .at(e.span, "here")
                        .help("write `optimizer adamw(lr = 2.2e-4, moments = bf16)`"),
                );
            }
        };
        let args = self.args(call, e.span)?;
        let mut frame = Frame::new(Rc::clone(&self.root));
        let d = AdamW::default();
        let moments = match args.named.get("moments") {
            None => d.moments,
            Some(e) => match &e.kind {
                ExprKind::Name(n) if n == "bf16" => DType::Bf16,
                ExprKind::Name(n) if n == "f32" => DType::F32,
                _ => {
                    return self.fail(
                        Diagnostic::error("E0404", "moments are `bf16` or `f32`")
                            .at(e.span, "here"),
                    );
                }
            },
        };
        Some(AdamW {
            lr: self.setting(&mut frame, &args, "lr", d.lr)?,
            beta1: self.setting(&mut frame, &args, "beta1", d.beta1)?,
            beta2: self.setting(&mut frame, &args, "beta2", d.beta2)?,
            eps: self.setting(&mut frame, &args, "eps", d.eps)?,
            weight_decay: self.setting(&mut frame, &args, "weight_decay", d.weight_decay)?,
            clip: self.setting(&mut frame, &args, "clip", d.clip)?,
            moments,
        })
    }

    /// `state += expression in load`
    fn update(&mut self, b: &'a Binding) -> Option<Update> {
        let name = b.name.text.as_str();
        let scopes = std::iter::once((None, &self.scope))
            .chain(self.blocks.iter().map(|(name, scope)| (Some(*name), scope)));
        let found = scopes.into_iter().find_map(|(block, scope)| match scope.names.get(name) {
            Some(Decl::Param(p)) if p.is_state => Some((block, *p, scope.members)),
            _ => None,
        });
        let Some((block, state, members)) = found else {
            let states = std::iter::once(&self.scope).chain(self.blocks.values());
            let states = states.flat_map(|s| s.names.iter());
            let states = states.filter_map(|(n, d)| match d {
                Decl::Param(p) if p.is_state => Some(*n),
                _ => None,
            });
            let help = match nearest(name, states) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "declare it with `state` instead of `param`".to_owned(),
            };
            return self.fail(
                Diagnostic::error("E0404", format!("no state is called `{name}`"))
                    .at(b.name.span, "unknown")
                    .help(help),
            );
        };
        let place = match block {
            None => Rc::clone(&self.root),
            Some(block) => self.constants(
                super::Place {
                    path: String::new(),
                    prefix: String::new(),
                    block: Some(block.to_owned()),
                    values: std::collections::BTreeMap::new(),
                },
                members,
            ),
        };
        self.builders.push(Builder::default());
        let function = self.update_function(&place, state, b);
        let builder = self.builders.pop()?;
        let output = function?;
        Some(Update { state: name.to_owned(), function: self.lone_function(name, builder, output) })
    }

    fn update_function(
        &mut self,
        place: &Rc<super::Place>,
        state: &'a crate::ast::ParamDecl,
        b: &'a Binding,
    ) -> Option<moec_ir::graph::NodeId> {
        let param = self.param(place, state)?;
        let mut frame = Frame::new(Rc::clone(place));
        let load = self.new_input(DType::F32, param.axes.clone(), b.name.span);
        frame.locals.insert("load".into(), load);
        frame.locals.insert(b.name.text.clone(), Value::Tensor(param.clone()));
        let added = self.tensor(&mut frame, &b.value)?;
        let fits = added.axes.len() == param.axes.len()
            && added.axes.iter().zip(&param.axes).all(|(a, b)| a.dim == b.dim);
        if fits {
            return Some(added.node);
        }
        self.fail(
            Diagnostic::error(
                "E0301",
                format!(
                    "{} is added to {}",
                    super::value::full_shape(&added.axes),
                    super::value::full_shape(&param.axes)
                ),
            )
            .at(b.value.span, "must have the shape of the state")
            .and(state.shape.span, "declared here"),
        )
    }
}
