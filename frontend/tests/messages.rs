//! What mistakes look like, as drawn.

use moec_frontend::{check, parse};

fn drawn(source: &str) -> String {
    match parse(source).and_then(|ast| check(&ast)) {
        Ok(_) => "no mistake".into(),
        Err(found) => found.iter().map(|d| d.render("m.moe", source, false)).collect(),
    }
}

fn body(text: &str) -> String {
    drawn(&format!(
        "model M {{\n  dim context = 8, vocab = 4, hidden = 6, inner = 3\n  param table: [vocab, hidden] = \"t\"\n  \
         param up: [inner, hidden] = \"u\"\n  cache rows: [hidden]\n  entry main(ids: int[T]) -> [T, hidden] {{\n    {text}\n  }}\n}}\n"
    ))
}

macro_rules! snapshot {
    ($name:ident, $value:expr) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), $value);
        }
    };
}

snapshot!(an_empty_file, drawn(""));
snapshot!(a_word_in_place_of_a_model, drawn("modle M {}"));
snapshot!(a_missing_brace, drawn("model M {\n  dim a = 1\n"));
snapshot!(a_missing_bracket, drawn("model M {\n  param w: [a, b = \"w\"\n}"));
snapshot!(a_missing_parenthesis, body("linear(lookup(table, ids), up"));
snapshot!(a_string_without_end, drawn("model M {\n  param w: [a] = \"w\n}"));
snapshot!(a_string_left_out, drawn("model M {\n  param w: [a]\n}"));
snapshot!(a_keyword_as_a_name, body("let state = lookup(table, ids)\n    state"));
snapshot!(a_mistyped_keyword, drawn("model M {\n  pram w: [a] = \"w\"\n}"));
snapshot!(a_body_without_result, body("let x = lookup(table, ids)"));
snapshot!(an_operator_without_operand, body("lookup(table, ids) * "));
snapshot!(a_strange_character, body("lookup(table, ids) § 2"));
snapshot!(a_mistyped_name, body("lookup(tabel, ids)"));
snapshot!(a_mistyped_operation, body("lokup(table, ids)"));
snapshot!(sizes_that_disagree, body("linear(linear(lookup(table, ids), up), up)"));
snapshot!(shapes_that_do_not_fit, body("let x = lookup(table, ids)\n    x + linear(x, up)"));
snapshot!(a_result_of_another_type, body("linear(lookup(table, ids), up)"));
snapshot!(
    a_split_that_does_not_add_up,
    body("let a, b = split(lookup(table, ids), inner, 2)\n    a")
);
snapshot!(an_argument_that_is_not_known, body("rms_norm(lookup(table, ids), table, epsilon = 1)"));
snapshot!(
    a_missing_scale,
    body("let x = append(rows, lookup(table, ids))\n    attend(x, x, x, causal)")
);
snapshot!(
    several_mistakes_at_once,
    body(
        "let a = lookup(ids, table)\n    let b = missing(a)\n    let c = lookup(table, ids) + up\n    b + c"
    )
);

#[test]
fn the_tree_of_a_file() {
    let source = "model M {\n  dim n = 2 * 3\n  param w: [n, n] = \"w\"\n  block Twice(m) {\n    \
                  fn (x: [.., m]) -> [.., m] { -x + x * 2 as [T, m] }\n  }\n  use twice: Twice(n) for i in 0..2 = \"l.{i}\"\n  \
                  precision { f32: w }\n}\ntarget h800 { sms 132 = comm 20 + compute }";
    insta::assert_snapshot!(parse(source).unwrap().to_string());
}
