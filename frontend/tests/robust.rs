//! No input, however broken, makes the front end panic, loop or overflow.

#![allow(clippy::unwrap_used, reason = "a panic is the failure")]

use moec_frontend::{check, format, import, parse};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

fn feed(source: &str) {
    let _ = format(source);
    if let Ok(ast) = parse(source) {
        let _ = ast.to_string();
        match check(&ast) {
            Ok(model) => assert_eq!(
                moec_ir::graph::verify::verify(&model.graph),
                Vec::<String>::new(),
                "{source}"
            ),
            Err(found) => {
                assert!(!found.is_empty());
                for d in found {
                    let _ = d.render("x.moe", source, false);
                }
            }
        }
    }
}

fn codes(source: &str) -> Vec<&'static str> {
    match parse(source).and_then(|ast| check(&ast)) {
        Ok(_) => vec![],
        Err(found) => found.iter().map(|d| d.code).collect(),
    }
}

fn example(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    fs::read_to_string(root.join(format!("{name}/{name}.moe"))).unwrap()
}

fn main_of(expr: &str) -> String {
    format!(
        "model M {{ dim context = 4, n = 2 param t: [n, n] = \"t\"\n\
         entry main(ids: int[T]) -> [T, n] {{ let x = lookup(t, ids)\n{expr} }} }}"
    )
}

#[test]
fn deep_nesting_is_refused() {
    for depth in [100, 10_000, 200_000] {
        let brackets = format!("{}x{}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(codes(&main_of(&brackets)), ["E0102"]);
        let minuses = format!("x * {}x", "-".repeat(depth.max(200)));
        assert_eq!(codes(&main_of(&minuses)), ["E0102"]);
        let sum = format!("x{}", " + x".repeat(depth.max(200)));
        assert_eq!(codes(&main_of(&sum)), ["E0102"]);
        let calls = format!("{}x{}", "silu(".repeat(depth), ")".repeat(depth));
        assert_eq!(codes(&main_of(&calls)), ["E0102"]);
        let lambdas = "route(x, x, x) |t, e| {".repeat(depth);
        assert_eq!(codes(&main_of(&lambdas)), ["E0102"]);
        assert!(!codes(&"{".repeat(depth)).is_empty());
    }
}

#[test]
fn the_deepest_tree_that_is_read_is_also_checked_and_laid_out() {
    // 60 brackets, each with a sum before it: as deep as both limits allow.
    let deep = format!("{}x{}", "x + (".repeat(60), ")".repeat(60));
    assert_eq!(codes(&main_of(&deep)), Vec::<&str>::new());
    feed(&main_of(&deep));
    feed(&main_of(&format!("{}x{}", "silu(x) * silu(".repeat(60), ")".repeat(60))));
}

#[test]
fn huge_numbers_are_refused() {
    for number in
        ["99999999999999999999999999", "18446744073709551615", "1e999", "4611686018427387904 * 8"]
    {
        let source = main_of(&format!("x * ({number})"));
        assert_eq!(codes(&source), ["E0303"], "{number}");
    }
    let dims = "dim a = 1099511627776 * 1099511627776";
    assert_eq!(
        codes(&format!("model M {{ dim context = 4 {dims} entry main(x: [T]) -> [T] {{ x }} }}")),
        ["E0303"]
    );
    let symbolic = main_of("x as [T * 1099511627776 * 1099511627776, 2]");
    assert_eq!(codes(&symbolic), ["E0303"]);
    let weight = "model M { dim context = 4, n = 1000000000 param w: [n, n, n] = \"w\" entry main(x: [T]) -> [T] { x * max(w) } }";
    assert_eq!(codes(weight), ["E0303"]);
}

#[test]
fn models_that_grow_without_bound_are_refused() {
    let mut source = String::from("model M { dim context = 4\nfn f0(x: [T]) -> [T] { x + 1 }\n");
    for i in 1..40 {
        source += &format!("fn f{i}(x: [T]) -> [T] {{ f{0}(f{0}(x)) }}\n", i - 1);
    }
    source += "entry main(x: [T]) -> [T] { f39(x) } }";
    assert_eq!(codes(&source), ["E0209"]);
    let layers = "model M { dim context = 4 block Inc { fn (x: [T]) -> [T] { x + 1 } }
        use b: Inc for i in 0..1000000000 = \"l.{i}\" entry main(x: [T]) -> [T] { b(x) } }";
    assert_eq!(codes(layers), ["E0208"]);
}

#[test]
fn a_long_chain_of_functions_does_not_overflow_the_stack() {
    let mut source = String::from("model M { dim context = 4\nfn f0(x: [T]) -> [T] { x + 1 }\n");
    for i in 1..5000 {
        source += &format!("fn f{i}(x: [T]) -> [T] {{ f{}(x) }}\n", i - 1);
    }
    source += "entry main(x: [T]) -> [T] { f4999(x) } }";
    assert_eq!(codes(&source), ["E0209"]);
}

#[test]
fn broken_configurations_are_refused() {
    for text in
        ["", "{", "[]", "null", "{}", "{\"model_type\": 3}", "{\"model_type\": \"mixtral\"}"]
    {
        assert!(import(text, None, None).is_err(), "{text}");
    }
    assert!(import(&"[".repeat(100_000), None, None).is_err());
}

const PIECES: [&str; 40] = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "=",
    "+=",
    "->",
    "..",
    "|",
    "\"",
    "//",
    "+",
    "-",
    "*",
    "/",
    " as ",
    "let ",
    "dim ",
    "use ",
    "fn ",
    "entry ",
    "T",
    "S",
    "0",
    "1",
    "1e308",
    "99999999999",
    "x",
    "linear",
    "route",
    "append",
    "split",
    "top_k",
    "rotary",
    "é",
    "\u{0}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_examples_never_panic(
        which in 0usize..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, 0usize..40, any::<prop::sample::Index>()), 1..6),
    ) {
        let mut source = example(["tiny-v3", "deepseek-v3", "qwen3-30b-a3b"][which]);
        for (place, kind, piece, other) in edits {
            let at = floor(&source, place.index(source.len() + 1));
            match kind {
                0 => source.insert_str(at, PIECES[piece]),
                1 => { source.truncate(at); }
                2 => {
                    let end = floor(&source, (at + 1 + piece).min(source.len())).max(at);
                    source.replace_range(at..end, "");
                }
                _ => {
                    // One word takes the place of another.
                    let words: Vec<(usize, usize)> = words(&source);
                    if words.is_empty() { continue; }
                    let (a, b) = words[place.index(words.len())];
                    let (c, d) = words[other.index(words.len())];
                    let taken = source[c..d].to_owned();
                    source.replace_range(a..b, &taken);
                }
            }
        }
        feed(&source);
    }

    #[test]
    fn formatting_is_idempotent_and_keeps_the_tree(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4), 1..12),
    ) {
        let mut source = example("tiny-v3");
        for (place, kind) in edits {
            // Blanks and comments between words change nothing but the layout.
            let words = words(&source);
            let (at, _) = words[place.index(words.len())];
            let before = &source[..at];
            let in_string = before.lines().last().unwrap_or("").matches('"').count() % 2 == 1;
            let in_comment = before.lines().last().unwrap_or("").contains("//");
            let joined = before.ends_with(|c: char| !c.is_whitespace() && c != '(' && c != '[');
            if in_string || in_comment || joined { continue; }
            source.insert_str(at, ["\n", "\n\n\n", "   ", "// noted\n"][kind]);
        }
        let once = format(&source).unwrap();
        let twice = format(&once).unwrap();
        let differ: Vec<_> = once.lines().zip(twice.lines()).filter(|(a, b)| a != b).collect();
        prop_assert!(once == twice, "{differ:#?}");
        prop_assert_eq!(source.matches("// noted").count(), once.matches("// noted").count());
        let graph = |text: &str| {
            let mut model = check(&parse(text).unwrap()).unwrap();
            for f in &mut model.graph.functions {
                f.nodes.iter_mut().for_each(|n| n.spans.clear());
            }
            model.graph
        };
        prop_assert_eq!(graph(&source), graph(&once));
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn words(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = None;
    for (i, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (c.is_ascii_alphanumeric() || c == '_', start) {
            (true, None) => start = Some(i),
            (false, Some(s)) => {
                found.push((s, i));
                start = None;
            }
            _ => {}
        }
    }
    found
}
