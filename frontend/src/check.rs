//! Syntax tree to typed graph: names, shapes and sections.
//!
//! Before: any tree. After: a [`Model`] whose graph is flat (blocks inlined, each repeated
//! layer one function) and typed, or every mistake that was found. The body of a block is
//! evaluated where the block is used, on values that are nodes of the graph with the names of
//! their sizes; a value that could not be computed is poison and is not reported again.
//! It cannot see a mistake in a block with sizes that nothing uses.

mod alone;
mod builder;
mod builtins;
mod call;
mod declare;
mod entry;
mod eval;
mod layers;
mod parallel;
mod place;
mod precision;
mod sections;
mod train;
mod value;

pub use parallel::{Parallel, Spread};
pub use precision::{Fp8, Fp8Cache, Precision};
pub use sections::TargetSection;
pub use train::{AdamW, LossTerm, Train, Update};

use crate::ast::{Ast, Binding, FunctionKind, Member};
use builder::Builder;
use declare::Scope;
use moec_ir::graph::{Entry, Function, Graph};
use moec_ir::{Diagnostic, Phase, Severity, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use value::Value;

/// A checked model: the mathematics, and beside it what the sections say.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The mathematics, with the element types of [`Precision::storage`] and the `f32` list.
    pub graph: Graph,
    /// How numbers are stored.
    pub precision: Precision,
    /// What is spread over which ranks, in training and where a phase has no section of its own.
    pub parallel: Parallel,
    /// The same of phases with one of their own.
    pub phases: BTreeMap<Phase, Parallel>,
    /// How it is trained, where the file says so.
    pub train: Option<Train>,
    /// The machines that the file names, in order.
    pub targets: Vec<TargetSection>,
    /// What may not be what was meant.
    pub warnings: Vec<Diagnostic>,
}

impl Model {
    /// What the file says of a phase.
    pub fn parallel_of(&self, phase: Phase) -> &Parallel {
        self.phases.get(&phase).unwrap_or(&self.parallel)
    }
}

/// Checks a syntax tree and lowers it to a typed graph.
///
/// # Errors
/// All mistakes found, in the order of the source: E02xx (names), E03xx (shapes), E04xx
/// (sections).
pub fn check(ast: &Ast) -> Result<Model, Vec<Diagnostic>> {
    let model = match ast.models.as_slice() {
        [one] => one,
        [] => {
            return Err(vec![
                Diagnostic::error("E0104", "the file defines no model")
                    .at(ast.span, "no `model` here")
                    .help("write `model Name { … }`"),
            ]);
        }
        [first, second, ..] => {
            return Err(vec![
                Diagnostic::error("E0104", "the file defines more than one model")
                    .at(second.name.span, "a second one")
                    .and(first.name.span, "the first")
                    .help("put each model in a file of its own"),
            ]);
        }
    };
    let mut checker = Checker::new(&model.members);
    let result = checker.model(&model.name.text, &model.members, ast);
    let mut found = checker.diagnostics;
    found.sort_by_key(|d| (d.labels.first().map(|l| l.span), d.code, d.message.clone()));
    found.dedup();
    let (errors, warnings): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|d| d.severity == Severity::Error);
    match result {
        Some(model) if errors.is_empty() => Ok(Model { warnings, ..model }),
        _ => Err(errors),
    }
}

/// Most expressions that are evaluated for one model; blocks that use blocks twice, many
/// levels deep, would otherwise run for ever.
const MAX_STEPS: usize = 400_000;
/// Deepest evaluation: expressions within functions within blocks.
const MAX_EVALUATION: usize = 250;
/// Most layers of a model.
const MAX_LAYERS: u64 = 10_000;

/// Where a block is used, or the model itself: what its names stand for.
struct Place {
    /// Path of `use` names: `attention`; empty for the model.
    path: String,
    /// Prefix of its tensors' names.
    prefix: String,
    /// The block's name; `None` for the model.
    block: Option<String>,
    /// Its sizes and constants.
    values: BTreeMap<String, Value>,
}

/// The state of checking.
struct Checker<'a> {
    diagnostics: Vec<Diagnostic>,
    /// The names of the model.
    scope: Scope<'a>,
    /// The names of each block.
    blocks: BTreeMap<&'a str, Scope<'a>>,
    /// The model as a place; set once its constants are known.
    root: Rc<Place>,
    precision: Precision,
    /// The functions being built, innermost last.
    builders: Vec<Builder>,
    /// Finished functions of the graph.
    functions: Vec<Function>,
    /// Blocks and functions that something used.
    used: BTreeSet<String>,
    /// Spans of the functions being evaluated, to find recursion.
    active: Vec<Span>,
    /// Within `route`: the experts chosen for each token.
    routed: Option<value::Tensor>,
    steps: usize,
    depth: usize,
    /// Whether a limit was passed: everything from then on is poison.
    exhausted: bool,
}

impl<'a> Checker<'a> {
    fn new(members: &'a [Member]) -> Self {
        let mut diagnostics = Vec::new();
        let scope = Scope::of(members, &[], &mut diagnostics);
        let mut blocks = BTreeMap::new();
        for member in members {
            if let Member::Block(b) = member {
                blocks.insert(
                    b.name.text.as_str(),
                    Scope::of(&b.members, &b.sizes, &mut diagnostics),
                );
            }
        }
        let root = Place {
            path: String::new(),
            prefix: String::new(),
            block: None,
            values: BTreeMap::new(),
        };
        Self {
            diagnostics,
            scope,
            blocks,
            root: Rc::new(root),
            precision: Precision::default(),
            builders: Vec::new(),
            functions: Vec::new(),
            used: BTreeSet::new(),
            active: Vec::new(),
            routed: None,
            steps: 0,
            depth: 0,
            exhausted: false,
        }
    }

    /// Reports a mistake; the value that was wanted is poison.
    fn fail<T>(&mut self, d: Diagnostic) -> Option<T> {
        self.diagnostics.push(d);
        None
    }

    fn model(&mut self, name: &str, members: &'a [Member], ast: &'a Ast) -> Option<Model> {
        let root = Place {
            path: String::new(),
            prefix: String::new(),
            block: None,
            values: BTreeMap::new(),
        };
        self.root = self.constants(root, members);
        self.precision = self.precision_section(members);
        let context = self.context();
        let mut entries: Vec<Entry> = Vec::new();
        for member in members {
            if let Member::Function(f) = member
                && f.kind == FunctionKind::Entry
            {
                entries.extend(self.entry(f));
            }
        }
        let has_main = members.iter().any(|m| {
            matches!(m, Member::Function(f)
                if f.kind == FunctionKind::Entry && f.name.as_ref().is_some_and(|n| n.text == "main"))
        });
        if !has_main {
            self.diagnostics.push(
                Diagnostic::error("E0204", "the model has no entry `main`")
                    .at(ast.models[0].name.span, "this model")
                    .help("add `entry main(ids: int[T]) -> [T, vocab] { … }`"),
            );
        }
        self.check_unused(members);
        let (parallel, phases) = self.parallel_sections(members);
        let train = self.train_section(members);
        let targets = self.target_sections(&ast.targets);
        let functions = self.in_calling_order(&mut entries);
        let graph = Graph {
            name: name.to_owned(),
            context: context?,
            promote_every: None,
            functions,
            entries,
        };
        let precision = self.precision.clone();
        Some(Model { graph, precision, parallel, phases, train, targets, warnings: vec![] })
    }

    /// The size `context`, which every model must give.
    fn context(&mut self) -> Option<u64> {
        let value = self.root.values.get("context").cloned();
        match (value, self.scope.names.get("context")) {
            (Some(Value::Size(axis)), _) if axis.dim.constant().is_some() => axis.dim.constant(),
            (Some(Value::Poison), _) => None,
            (_, declared) => {
                let d = Diagnostic::error("E0204", "the model does not say how long a text may be");
                let d = match declared {
                    Some(decl) => d.at(decl.span(), "not a number of tokens"),
                    None => d,
                };
                self.fail(d.help("add `dim context = 4096`: the largest number of positions"))
            }
        }
    }

    /// The sizes and constants of a place, in the order in which they are declared.
    fn constants(&mut self, mut place: Place, members: &'a [Member]) -> Rc<Place> {
        let bindings = members.iter().flat_map(|m| match m {
            Member::Dims(dims, _) => dims.iter().map(|d| (true, d)).collect::<Vec<_>>(),
            Member::Let(b) => vec![(false, b)],
            _ => vec![],
        });
        for (is_dim, Binding { name, value, .. }) in bindings {
            let shared = Rc::new(place);
            let mut frame = eval::Frame::new(Rc::clone(&shared));
            let computed = if is_dim {
                self.dimension(&mut frame, name, value)
            } else {
                self.constant(&mut frame, value)
            };
            drop(frame);
            place = Rc::try_unwrap(shared).unwrap_or_else(|kept| Place {
                path: kept.path.clone(),
                prefix: kept.prefix.clone(),
                block: kept.block.clone(),
                values: kept.values.clone(),
            });
            place.values.insert(name.text.clone(), computed);
        }
        Rc::new(place)
    }
}

/// Whether a name is one of the symbols of a step.
fn is_symbol(name: &str) -> bool {
    moec_ir::Sym::ALL.iter().any(|s| s.name() == name)
}
