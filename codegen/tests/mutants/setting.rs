//! What mutants are run in.

use super::list::Mutant;
use super::verdict::{Verdict, differs};
use crate::cases::Spread;
use crate::exchange_group::{
    Code, Launching, Layer, Load, Outs, Problem, Tokens, Weights, attempt,
};
use crate::machine::Random;

/// Ranks and layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Two ranks of a node, on tensor cores, three layers.
    Node,
    /// Two nodes of two ranks, likewise.
    Nodes,
}

impl Shape {
    pub(crate) const ALL: [Self; 2] = [Self::Node, Self::Nodes];
}

/// Layers that are run in a row.
const LAYERS: usize = 3;

/// Layers, their inputs and what they give.
pub(crate) struct Setting {
    problem: Problem,
    weights: Weights,
    layers: Vec<Tokens>,
    expected: Outs,
    pub(crate) code: Code,
    /// The same with larger experts, and its weights and tokens.
    other: (Problem, Weights, Tokens, Vec<Vec<u16>>, Code),
}

impl Setting {
    pub(crate) fn new(shape: Shape) -> Self {
        let (ranks, tokens) = match shape {
            Shape::Node => ([2, 2], vec![6, 11]),
            Shape::Nodes => ([4, 2], vec![5, 3, 0, 6]),
        };
        let spread = Spread {
            ranks,
            experts: 4,
            top_k: 2,
            sizes: [128, 64],
            fp8: false,
            promote_every: 128,
            split: [1, 2],
        };
        let problem = |spread, load| Problem {
            name: "mutants",
            spread,
            designed: 24,
            tokens: tokens.clone(),
            load,
        };
        let random = &mut Random(7);
        let large = problem(Spread { sizes: [192, 128], ..spread }, Load::Even);
        let problem = problem(spread, Load::Even);
        let weights = Weights::new(&problem, random);
        let layers: Vec<Tokens> = (0..LAYERS).map(|_| Tokens::new(&problem, random)).collect();
        let expected = layers.iter().map(|tokens| problem.expected(&weights, tokens)).collect();
        let code = Code::new(&problem);
        let (other, its) = (Weights::new(&large, random), Tokens::new(&large, random));
        let gives = large.expected(&other, &its);
        let its_code = Code::new(&large);
        Self {
            problem,
            weights,
            layers,
            expected,
            code,
            other: (large, other, its, gives, its_code),
        }
    }

    /// The code of a mutant.
    pub(crate) fn mutated(&self, mutant: &Mutant) -> Code {
        mutant.edits.iter().fold(self.code.clone(), |code, edit| {
            let ptx = edit.apply(code.ptx(edit.kernel));
            code.with(edit.kernel, ptx)
        })
    }

    /// What is wrong with a run, if anything.
    pub(crate) fn judge(&self, code: &Code, launching: Launching) -> Option<Verdict> {
        let Self { problem, weights, layers, expected, other, .. } = self;
        let mut run: Vec<Layer<'_>> =
            layers.iter().map(|tokens| Layer { problem, code, weights, tokens }).collect();
        let mut expected: Vec<_> = expected.iter().collect();
        if launching.two_sizes {
            let (problem, weights, tokens, gives, code) = other;
            run[1] = Layer { problem, code, weights, tokens };
            expected[1] = gives;
        }
        let codes: Vec<&Code> = run.iter().map(|layer| layer.code).collect();
        match attempt(&run, launching) {
            Err(error) => Some(Verdict::of_error(&error, &codes)),
            Ok((outs, races)) => {
                let wrong =
                    outs.iter().zip(&expected).enumerate().find_map(|(layer, (got, want))| {
                        differs(got, want).map(|[rank, element]| {
                            let columns = run[layer].problem.spread.sizes[0] as usize;
                            [layer, rank, element / columns, element % columns]
                        })
                    });
                Verdict::of_results(wrong, &races, &codes)
            }
        }
    }
}
