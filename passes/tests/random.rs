//! Plans of random functions compute what the functions mean.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod interpreter;
mod models;

use interpreter::{Caches, Step, checkpoint, run};
use models::Builder;
use moec_ir::graph::eval::{Evaluator, Tensor};
use moec_ir::graph::{BinaryFn, Entry, NodeId, ReduceFn, UnaryFn, ValueId};
use moec_ir::{DType, Dim, Graph, Op, Phase, Sym, Target, TensorType};
use moec_passes::{Options, optimize};
use proptest::prelude::*;

/// Choices that a function is made from, each taken modulo what is possible.
type Choices = Vec<(u8, u8, u8)>;

/// Axes of a value beside the tokens.
fn columns(b: &Builder, x: usize) -> Vec<u64> {
    b.0.nodes[x].ty.shape[1..].iter().map(|d| d.constant().unwrap()).collect()
}

fn with_tokens(columns: &[u64]) -> Vec<Dim> {
    std::iter::once(Dim::from(Sym::Tokens)).chain(columns.iter().map(|&n| n.into())).collect()
}

/// Appends one operation on values made before.
fn grow(b: &mut Builder, values: &[usize], (kind, first, second): (u8, u8, u8)) -> usize {
    let x = values[first as usize % values.len()];
    let y = values[second as usize % values.len()];
    let (cx, cy) = (columns(b, x), columns(b, y));
    let last = cx[cx.len() - 1];
    let axis = cx.len();
    match kind % 11 {
        0 => {
            let n = u64::from(second) % 5 + 1;
            let w = b.weight(&format!("w{}", b.0.params.len()), &[n, last]);
            b.linear(x, w)
        }
        1 => {
            let start = u64::from(second) % last;
            let len = (last - start).div_ceil(2);
            b.op(Op::Slice { axis, start, len }, &[x])
        }
        2 if cx[..cx.len() - 1] == cy[..cy.len() - 1] => b.op(Op::Concat { axis }, &[x, y, x]),
        3 if cx.len() == 1 && last.is_multiple_of(2) => b.reshape(x, &with_tokens(&[2, last / 2])),
        4 => b.reshape(x, &with_tokens(&[cx.iter().product()])),
        5 if cx.len() == 2 => b.op(Op::Transpose(vec![0, 2, 1]), &[x]),
        6 if cx == cy => b.binary(BinaryFn::Add, x, y),
        7 => {
            let sum = b.op(Op::Reduce(ReduceFn::Sum), &[x]);
            b.binary(BinaryFn::Mul, x, sum)
        }
        8 => {
            let w = b.weight(&format!("w{}", b.0.params.len()), &[last]);
            b.op(Op::RmsNorm { eps: 0.01.into() }, &[x, w])
        }
        9 => {
            let one = b.op(Op::Slice { axis, start: 0, len: 1 }, &[x]);
            let mut wide = cx.clone();
            wide[axis - 1] = 3;
            b.op(Op::Broadcast(with_tokens(&wide)), &[one])
        }
        _ => b.op(Op::Unary(UnaryFn::Silu), &[x]),
    }
}

fn function(choices: &Choices, outputs: &[u8]) -> Graph {
    let input = TensorType::new(DType::Bf16, with_tokens(&[6]));
    let mut b = Builder::new("f", std::slice::from_ref(&input));
    let mut values = vec![b.input(0)];
    for choice in choices {
        let value = grow(&mut b, &values, *choice);
        // Sizes stay small: repeated pieces would grow without end.
        if columns(&b, value).iter().product::<u64>() <= 64 {
            values.push(value);
        }
    }
    let returned = outputs.iter().map(|o| values[*o as usize % values.len()]);
    b.0.outputs = returned.map(NodeId).collect();
    let results: Vec<ValueId> = (1..=outputs.len()).map(ValueId).collect();
    let step = moec_ir::graph::Step {
        function: 0,
        layer: None,
        inputs: vec![ValueId(0)],
        outputs: results.clone(),
    };
    let main =
        Entry { name: "main".into(), inputs: vec![input], steps: vec![step], outputs: results };
    Graph {
        name: "Random".into(),
        context: 8,
        promote_every: None,
        functions: vec![b.0],
        entries: vec![main],
    }
}

fn check(graph: &Graph) -> Result<(), TestCaseError> {
    let input = Tensor::new(vec![3, 6], checkpoint("input", 18)).unwrap();
    let load = |p: &moec_ir::graph::Param, _| -> Result<Tensor, String> {
        let shape: Vec<usize> = p.ty.shape.iter().map(|d| d.constant().unwrap() as usize).collect();
        let count = shape.iter().product();
        Tensor::new(shape, checkpoint(&p.tensor, count))
    };
    let inputs = std::slice::from_ref(&input);
    let wanted = Evaluator::new(graph, load).unwrap().run("main", inputs).unwrap();
    for phase in Phase::ALL {
        let target = Target::named("h800").unwrap();
        let made = optimize(graph, &target, phase, &Options::default());
        let plan = made.map_err(|e| TestCaseError::fail(format!("{e:?}\n{graph}")))?.plan;
        let step = Step::new(&[0], &[3], &[0]);
        let given = run(&plan, "main", &step, inputs, &mut Caches::default());
        for (g, w) in given.iter().zip(&wanted) {
            let equal = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-9 * (1.0 + b.abs());
            prop_assert!(g.data.iter().zip(&w.data).all(equal), "{graph}\n{plan}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..Default::default() })]

    #[test]
    fn plans_of_random_functions_compute_them(
        choices in prop::collection::vec(any::<(u8, u8, u8)>(), 1..24),
        outputs in prop::collection::vec(any::<u8>(), 1..4),
    ) {
        check(&function(&choices, &outputs))?;
    }
}
