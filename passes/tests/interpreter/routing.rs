//! Routers from their logits on.

use super::Access;
use moec_ir::KernelSpec;
use moec_ir::graph::eval::{Context, Tensor, eval_op};
use moec_ir::graph::{Op, UnaryFn};
use moec_ir::kernel::Scoring;

/// Each token alone, by the operations that the model is made of.
pub(super) fn router(m: &mut Access<'_>, spec: &KernelSpec) {
    let KernelSpec::Router { logits, bias, chosen, weight, scoring, groups, normalize, scale } =
        spec
    else {
        panic!("not a router: {spec:?}")
    };
    let [tokens, n] = m.sizes(logits)[..] else { panic!("logits of {logits}") };
    let k = m.sizes(chosen)[1];
    let op = |op: &Op, x: &Tensor, n: usize| {
        let shape = [1_u64, n as u64].map(moec_ir::Dim::from);
        eval_op(op, &[x], &shape, Context { past: 0, tokens: 1 }).expect("a row")
    };
    let scoring = match scoring {
        Scoring::Sigmoid => Op::Unary(UnaryFn::Sigmoid),
        Scoring::Softmax => Op::Softmax,
    };
    for t in 0..tokens {
        let row = (0..n).map(|e| m.get(0, logits, &[t, e])).collect();
        let scores = op(&scoring, &Tensor { shape: vec![1, n], data: row }, n);
        let mut keys = scores.clone();
        if let Some(bias) = bias {
            keys.data.iter_mut().enumerate().for_each(|(e, key)| *key += m.get(1, bias, &[e]));
        }
        let experts = op(&Op::TopK { k: k as u64, groups: *groups }, &keys, k).data;
        let picked: Vec<f64> = experts.iter().map(|&e| scores.data[e as usize]).collect();
        let sum = if *normalize { picked.iter().sum() } else { 1.0 };
        let first = 1 + usize::from(bias.is_some());
        for (j, (expert, score)) in experts.iter().zip(picked).enumerate() {
            m.set(first, chosen, &[t, j], *expert);
            m.set(first + 1, weight, &[t, j], score / sum * scale.0);
        }
    }
}
