//! Functions of each element: from operations to kernels, and kernels into each other.

use crate::language::{Kernel, Node, Term};
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::Op;
use moec_ir::graph::UnaryFn;
use moec_ir::kernel::Scalar;

/// Names of the operations that work element by element.
pub(super) const NAMES: [&str; 19] = [
    "cast", "neg", "exp", "log", "sigmoid", "silu", "tanh", "sqrt", "rsqrt", "relu", "sign", "abs",
    "add", "sub", "mul", "div", "maximum", "minimum", "constant",
];

/// Steps of the longest function that is fused: keeps a thread's values in registers.
const MOST_STEPS: usize = 24;
/// Tensors that one kernel reads at most.
const MOST_INPUTS: usize = 8;
/// Forms of one value that are kept, so that long formulas do not multiply.
const MOST_FORMS: usize = 24;

/// A function under construction: its inputs, and its steps without repetition.
#[derive(Default)]
struct Body {
    inputs: Vec<Id>,
    code: Vec<Scalar>,
}

impl Body {
    fn step(&mut self, step: Scalar) -> usize {
        self.code.iter().position(|s| *s == step).unwrap_or_else(|| {
            self.code.push(step);
            self.code.len() - 1
        })
    }

    /// A step that reads a value; a number stands in the code itself.
    fn read(&mut self, rw: &Rewriter<'_>, id: Id) -> usize {
        if let Some(c) = rw.data(id).constant {
            return self.step(Scalar::Constant(c));
        }
        let id = rw.egraph.find(id);
        let input = self.inputs.iter().position(|i| *i == id).unwrap_or_else(|| {
            self.inputs.push(id);
            self.inputs.len() - 1
        });
        self.step(Scalar::Input(input))
    }

    /// Adds the kernel to a class if it is within bounds. `result` is the step it returns.
    fn equate(mut self, rw: &mut Rewriter<'_>, class: Id, result: usize) {
        if result + 1 != self.code.len() {
            self.code.push(Scalar::Unary(UnaryFn::Identity, result));
        }
        let reads_itself = self.inputs.iter().any(|i| rw.egraph.find(*i) == rw.egraph.find(class));
        if self.code.len() > MOST_STEPS || self.inputs.len() > MOST_INPUTS || reads_itself {
            return;
        }
        let dtype = rw.ty(class).dtype;
        let kernel = Term::Kernel(Kernel::Pointwise(self.code));
        if let Some(equal) = rw.add(kernel, dtype, self.inputs) {
            rw.equate(class, equal);
        }
    }
}

/// One operation as a kernel.
pub(super) fn lower(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let mut body = Body::default();
    let result = match &node.term {
        Term::Math(Op::Constant(c)) => body.step(Scalar::Constant(*c)),
        Term::Math(Op::Unary(f)) => {
            let x = body.read(rw, node.children[0]);
            body.step(Scalar::Unary(*f, x))
        }
        Term::Math(Op::Binary(f)) => {
            let x = body.read(rw, node.children[0]);
            let y = body.read(rw, node.children[1]);
            body.step(Scalar::Binary(*f, x, y))
        }
        _ => return,
    };
    body.equate(rw, class, result);
}

/// A kernel takes in the kernel of one of its inputs, where that input may be `taken`.
pub(super) fn compose(
    rw: &mut Rewriter<'_>,
    class: Id,
    node: &Node,
    taken: fn(&Rewriter<'_>, &Node, Id, &Node) -> bool,
) {
    let Term::Kernel(Kernel::Pointwise(outer)) = &node.term else { return };
    for (at, input) in node.children.iter().enumerate() {
        for inner in rw.nodes(*input, "@pointwise") {
            if rw.nodes(class, "@pointwise").len() >= MOST_FORMS {
                return;
            }
            let Term::Kernel(Kernel::Pointwise(inner_code)) = &inner.term else { continue };
            // A cast to its own type computes a value from itself.
            let of_itself =
                inner.children.iter().any(|c| rw.egraph.find(*c) == rw.egraph.find(*input));
            if of_itself || !taken(rw, node, *input, &inner) {
                continue;
            }
            let mut body = Body::default();
            let computed = body.inline(rw, inner_code, |i| Source::Read(inner.children[i]));
            let result = body.inline(rw, outer, |i| {
                if i == at { Source::Step(computed) } else { Source::Read(node.children[i]) }
            });
            body.equate(rw, class, result);
        }
    }
}

/// Whether a value need not be stored once its readers compute it themselves.
pub(super) fn vanishes(rw: &Rewriter<'_>, _outer: &Node, input: Id, _inner: &Node) -> bool {
    let readers = rw.readers(input);
    let elementwise = |n: &&Node| matches!(n.term, Term::Math(Op::Unary(_) | Op::Binary(_)));
    readers.len() <= 1 || readers.values().all(elementwise)
}

/// Whether a value that is stored is computed from what the reader reads anyway, and from numbers
/// that all its elements share.
pub(super) fn is_read_anyway(rw: &Rewriter<'_>, outer: &Node, input: Id, inner: &Node) -> bool {
    let known = |x: &Id| {
        let read = outer.children.iter().any(|y| rw.egraph.find(*y) == rw.egraph.find(*x));
        read || rw.ty(*x).shape.is_empty()
    };
    inner.children.iter().all(known) && !vanishes(rw, outer, input, inner)
}

fn any_input(
    rw: &Rewriter<'_>,
    node: &Node,
    taken: fn(&Rewriter<'_>, &Node, Id, &Node) -> bool,
) -> bool {
    let may =
        |input: &Id| rw.nodes(*input, "@pointwise").iter().any(|i| taken(rw, node, *input, i));
    node.children.iter().any(may)
}

/// An input is a function of each element, and others than element-wise operations do not read
/// it: it had to be stored then, and reading it would be as cheap as computing it again.
pub(super) fn an_input_need_not_be_stored(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    any_input(rw, node, vanishes)
}

/// An input that is stored for others is a function of the other inputs.
pub(super) fn an_input_is_known_by_others(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    any_input(rw, node, is_read_anyway)
}

enum Source {
    Read(Id),
    Step(usize),
}

impl Body {
    /// Appends a function whose inputs come from elsewhere; returns the step of its result.
    fn inline(
        &mut self,
        rw: &Rewriter<'_>,
        code: &[Scalar],
        source: impl Fn(usize) -> Source,
    ) -> usize {
        let mut at: Vec<usize> = Vec::with_capacity(code.len());
        for step in code {
            let step = match *step {
                Scalar::Input(i) => match source(i) {
                    Source::Read(id) => self.read(rw, id),
                    Source::Step(step) => step,
                },
                Scalar::Constant(c) => self.step(Scalar::Constant(c)),
                // Nothing is rounded on the way.
                Scalar::Unary(UnaryFn::Identity, x) => at[x],
                Scalar::Unary(f, x) => self.step(Scalar::Unary(f, at[x])),
                Scalar::Binary(f, x, y) => self.step(Scalar::Binary(f, at[x], at[y])),
            };
            at.push(step);
        }
        at.last().copied().unwrap_or(0)
    }
}
