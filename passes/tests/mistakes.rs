//! What the optimizer refuses, and how it says so; what the verifier of plans finds.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod models;

use models::{TINY, model};
use moec_ir::plan::{Buffer, Operand};
use moec_ir::{Diagnostic, Dim, Graph, Phase, Plan, Target};
use moec_passes::{Options, optimize, verify_plan};

fn mistakes(graph: &Graph, options: &Options) -> Vec<Diagnostic> {
    optimize(graph, &Target::named("h800").unwrap(), Phase::Decode, options).unwrap_err()
}

fn without(rule: &str) -> Options {
    Options { without: vec![rule.into()], ..Default::default() }
}

#[test]
fn a_rule_that_does_not_exist_is_refused_with_the_nearest() {
    let found = mistakes(&model("Tiny", &TINY), &without("absorb-key-projektion"));
    assert_eq!((found.len(), found[0].code), (1, "E0801"));
    assert_eq!(found[0].message, "there is no rule `absorb-key-projektion`");
    assert_eq!(found[0].help.as_deref(), Some("did you mean `absorb-key-projection`?"));
    let far = mistakes(&model("Tiny", &TINY), &without("xyz"));
    assert!(far[0].help.as_ref().is_some_and(|h| h.contains("moec rules")));
}

#[test]
fn an_operation_that_no_kernel_computes_is_named() {
    let rules = ["choice-is-a-kernel", "router-in-one-kernel"].map(String::from);
    let options = Options { without: rules.into(), ..Default::default() };
    let found = mistakes(&model("Tiny", &TINY), &options);
    assert_eq!((found.len(), found[0].code), (1, "E0802"));
    assert_eq!(found[0].message, "no kernel computes the `top_k` of `chosen` in `sparse`");
}

fn one_function(inputs: &str, nodes: &str) -> Graph {
    let text = format!(
        "graph One context 16\n\nfn f({inputs}) {{\n{nodes}\n}}\n\n\
         entry main({inputs}) {{\n  %9 = f(%0)\n  return %9\n}}"
    );
    let text = text.replace("%9", &format!("%{}", inputs.split("; ").count()));
    text.parse().unwrap()
}

#[test]
fn scores_alone_are_refused_with_what_attention_can_do() {
    let graph = one_function(
        "bf16[T, 2, 4]",
        "  cache k: bf16[2, 4]\n  %0 = input 0 () : bf16[T, 2, 4]\n  \
         %1 = cache 0 () : bf16[2, 4]\n  \
         %2 k = append (%1, %0) : bf16[S, 2, 4]\n  \
         %3 z = scores (%0, %2) : f32[T, 2, S]\n  \
         %4 = unary \"tanh\" (%3) : f32[T, 2, S]\n  \
         %5 p = causal_softmax (%4) : f32[T, 2, S]\n  \
         %6 a = mix (%5, %2) : bf16[T, 2, 4]\n  \
         return %6",
    );
    let found = mistakes(&graph, &Options::default());
    assert_eq!((found.len(), found[0].code), (1, "E0802"));
    assert_eq!(found[0].message, "no kernel computes the `scores` of `z` in `f`");
    assert!(found[0].help.as_ref().is_some_and(|h| h.contains("causal_softmax(scale")));
}

#[test]
fn a_symbol_inside_a_shape_is_refused_where_it_must_be_stored() {
    let graph = one_function(
        "bf16[T, 4]",
        "  %0 = input 0 () : bf16[T, 4]\n  \
         %1 turned = transpose [1,0] (%0) : bf16[4, T]\n  \
         %2 = unary \"exp\" (%1) : bf16[4, T]\n  \
         return %2",
    );
    let found = mistakes(&graph, &Options::default());
    assert_eq!(found[0].code, "E0803");
    assert!(found[0].message.contains("bf16[4, T]"), "{}", found[0].message);
}

#[test]
fn an_ill_formed_graph_is_refused() {
    let mut graph = model("Tiny", &TINY);
    graph.functions[1].nodes[5].ty.shape[0] = Dim::from(7);
    let found = mistakes(&graph, &Options::default());
    assert_eq!(found[0].code, "E0804");
    assert!(found[0].message.contains("function `dense`"), "{}", found[0].message);
}

#[test]
fn extreme_workloads_do_not_break_the_optimizer() {
    let graph = model("Tiny", &TINY);
    for (tokens, past, sequences) in [(0, 0, 0), (1, 1, 1), (u64::MAX, u64::MAX, u64::MAX)] {
        let workload = Some(moec_ir::Sizes { tokens, past, sequences });
        let options = Options { workload, ..Default::default() };
        let target = Target::named("h800").unwrap();
        assert!(optimize(&graph, &target, Phase::Decode, &options).is_ok());
    }
}

fn sound() -> Plan {
    let graph = model("Tiny", &TINY);
    let target = Target::named("h800").unwrap();
    let plan = optimize(&graph, &target, Phase::Decode, &Options::default()).unwrap().plan;
    assert_eq!(verify_plan(&plan), Vec::<String>::new());
    plan
}

/// Breaks a sound plan and returns what the verifier says.
fn broken(change: impl FnOnce(&mut Plan)) -> String {
    let mut plan = sound();
    change(&mut plan);
    verify_plan(&plan).join("\n")
}

#[test]
fn the_verifier_finds_what_is_wrong_with_a_plan() {
    let sparse = 2;
    let said = broken(|p| p.functions[sparse].workspace[0] = Dim::from(8));
    assert!(said.contains("of 8 of Workspace(0)"), "{said}");
    let said = broken(|p| {
        p.functions[sparse].launches.remove(0);
    });
    assert!(said.contains("before anything is written there"), "{said}");
    let said = broken(|p| {
        p.functions[sparse].launches.pop();
    });
    assert!(said.contains("outputs [0] are never written"), "{said}");
    let said = broken(|p| {
        let operand = Operand { buffer: Buffer::Input(0), offset: Dim::from(0) };
        *p.functions[sparse].launches[0].operands.last_mut().unwrap() = operand;
    });
    assert!(said.contains("writes to Input(0)"), "{said}");
    let said = broken(|p| p.functions[sparse].launches[0].operands[1].offset = Dim::from(2));
    assert!(said.contains("is not aligned to 16 bytes"), "{said}");
    let said = broken(|p| {
        p.functions[sparse].launches[0].operands.pop();
    });
    assert!(said.contains("its kernel takes"), "{said}");
    let said = broken(|p| p.functions[sparse].launches[0].kernel = 999);
    assert!(said.contains("does not exist"), "{said}");
    let said = broken(|p| p.entries[0].steps[1].function = 99);
    assert!(said.contains("out of range"), "{said}");
    let said = broken(|p| {
        let storage = p.entries[0].values[1].storage;
        p.entries[0].values[2].storage = storage;
    });
    assert!(said.contains("writes to the memory of its inputs"), "{said}");
}
