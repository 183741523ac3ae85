//! Block-scaled FP8: shapes, values by hand, and the printed form.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use moec_ir::graph::eval::{Context, Tensor, eval_op};
use moec_ir::graph::shape::infer;
use moec_ir::{Dim, Op, ScaleFormat, Sym};

const QUANTIZE: Op = Op::Quantize { block: 3, scales: ScaleFormat::F32 };
const SCALE: Op = Op::BlockScale { block: 3, scales: ScaleFormat::F32 };

fn shape(op: &Op, operands: &[&[u64]]) -> Result<Vec<Dim>, String> {
    let operands: Vec<Vec<Dim>> =
        operands.iter().map(|s| s.iter().map(|&n| Dim::from(n)).collect()).collect();
    let operands: Vec<&[Dim]> = operands.iter().map(Vec::as_slice).collect();
    infer(op, &operands, None)
}

fn dims(sizes: &[u64]) -> Vec<Dim> {
    sizes.iter().map(|&n| n.into()).collect()
}

fn eval(op: &Op, x: &[&Tensor], sizes: &[u64]) -> Vec<f64> {
    eval_op(op, x, &dims(sizes), Context { past: 0, tokens: 1 }).unwrap().data
}

fn tensor(shape: &[usize], data: &[f64]) -> Tensor {
    Tensor::new(shape.to_vec(), data.to_vec()).unwrap()
}

#[test]
fn a_row_has_a_scale_for_each_block_begun() {
    assert_eq!(shape(&QUANTIZE, &[&[2, 7]]).unwrap(), dims(&[2, 7]));
    assert_eq!(shape(&SCALE, &[&[2, 7]]).unwrap(), dims(&[2, 3]));
    assert_eq!(shape(&SCALE, &[&[5, 2, 6]]).unwrap(), dims(&[5, 2, 2]));
    let symbolic = [Dim::from(2), Sym::Past.into()];
    assert!(infer(&SCALE, &[&symbolic], None).unwrap_err().contains("no fixed number of blocks"));
    assert!(shape(&Op::BlockScale { block: 0, scales: ScaleFormat::F32 }, &[&[4]]).is_err());
    assert!(shape(&SCALE, &[&[]]).is_err());
}

#[test]
fn scales_fit_the_blocks_of_what_they_dequantise() {
    let op = Op::Dequantize { block: [2, 3] };
    assert_eq!(shape(&op, &[&[4, 5, 7], &[4, 3, 3]]).unwrap(), dims(&[4, 5, 7]));
    let fault = shape(&op, &[&[5, 7], &[3, 2]]).unwrap_err();
    assert!(fault.contains("[3, 3], not [3, 2]"), "{fault}");
    let tokens = [Dim::from(Sym::Tokens), Dim::from(7)];
    let rows = Op::Dequantize { block: [1, 3] };
    assert!(infer(&rows, &[&tokens, &[Dim::from(Sym::Tokens), Dim::from(3)]], None).is_ok());
    assert!(infer(&op, &[&tokens, &[Dim::from(Sym::Tokens), Dim::from(3)]], None).is_err());
}

#[test]
fn blocks_are_divided_by_their_greatest_and_rounded() {
    // Blocks of three: the greatest becomes 448, and of 0.3 / (2 / 448) = 67.2 the nearest e4m3
    // is 64 (they lie 8 apart); a block of zeros has scale 1.
    let x = tensor(&[1, 7], &[-2.0, 0.3, 0.0, 0.0, 0.0, 0.0, 7.0]);
    assert_eq!(eval(&SCALE, &[&x], &[1, 3]), [2.0 / 448.0, 1.0, 7.0 / 448.0]);
    assert_eq!(eval(&QUANTIZE, &[&x], &[1, 7]), [-448.0, 64.0, 0.0, 0.0, 0.0, 0.0, 448.0]);
    let powers = ScaleFormat::Ue8m0;
    let scale = Op::BlockScale { block: 3, scales: powers };
    // 2 / 448 lies between 2^-8 and 2^-7; 7 / 448 is 2^-6.
    assert_eq!(eval(&scale, &[&x], &[1, 3]), [2f64.powi(-7), 1.0, 2f64.powi(-6)]);
    let quantize = Op::Quantize { block: 3, scales: powers };
    assert_eq!(eval(&quantize, &[&x], &[1, 7])[0], -256.0);
}

#[test]
fn every_element_is_multiplied_by_the_scale_of_its_block() {
    let q = tensor(&[2, 3, 3], &[1.0; 18]);
    let scales = tensor(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let values = eval(&Op::Dequantize { block: [2, 2] }, &[&q, &scales], &[2, 3, 3]);
    let first = [1., 1., 2., 1., 1., 2., 3., 3., 4.];
    assert_eq!(values, [first, first.map(|v| v + 4.0)].concat());
}

#[test]
fn the_operations_read_back_as_they_are_printed() {
    for op in [QUANTIZE, SCALE, Op::Dequantize { block: [1, 128] }] {
        assert_eq!(op.to_string().parse::<Op>().unwrap(), op);
    }
    assert_eq!(SCALE.to_string(), "block_scale {\"block\":3,\"scales\":\"f32\"}");
}
