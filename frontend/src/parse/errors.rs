//! pest's errors in the words of the language.

use super::Rule;
use moec_ir::{Diagnostic, Span};
use pest::error::{Error, ErrorVariant, InputLocation};
use std::collections::BTreeSet;

/// What pest says, as a diagnostic at the furthest place it could read to.
pub(super) fn explain(source: &str, error: &Error<Rule>) -> Diagnostic {
    let start = match error.location {
        InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
    };
    let found = next_token(source, start);
    let span = Span { start, end: start + found.len() };
    let shown = if found.is_empty() { "the end of the file".into() } else { format!("`{found}`") };
    if found.starts_with('"') && (found.len() == 1 || !found.ends_with('"')) {
        return Diagnostic::error("E0103", "this string has no end")
            .at(span, "starts here")
            .help("close it with `\"` on the same line");
    }
    let positives = match &error.variant {
        ErrorVariant::ParsingError { positives, .. } => positives.as_slice(),
        ErrorVariant::CustomError { .. } => &[],
    };
    let expected = expected(positives);
    let message = match expected.len() {
        0 => format!("{shown} does not belong here"),
        _ => format!("expected {}, found {shown}", list(&expected)),
    };
    let mut d = Diagnostic::error("E0101", message).at(span, "not expected here");
    if let Some(help) = help(found, &expected) {
        d = d.help(help);
    }
    d
}

/// The word, number, string or character that stands at a place.
fn next_token(source: &str, at: usize) -> &str {
    let rest = source.get(at..).unwrap_or("");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let end = match rest.chars().next() {
        None => 0,
        Some('"') => {
            let line = rest.lines().next().unwrap_or("");
            line[1..].find('"').map_or(line.len(), |n| n + 2)
        }
        Some(c) if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
        Some(c) => c.len_utf8(),
    };
    &rest[..end]
}

/// What could have stood there, without repetitions and without what could stand almost
/// anywhere (an operator, `as`) where something more telling could stand too.
fn expected(rules: &[Rule]) -> Vec<&'static str> {
    let mut seen = BTreeSet::new();
    let mut all: Vec<_> =
        rules.iter().filter_map(|&r| describe(r)).filter(|d| seen.insert(*d)).collect();
    let declarations = ["`param`", "`cache`", "`use`", "`fn`", "`dim`"];
    if declarations.iter().all(|d| all.contains(d)) {
        let others =
            ["`block`", "`entry`", "`let`", "`precision`", "`parallel`", "`train`", "`state`"];
        all.retain(|d| !declarations.contains(d) && !others.contains(d));
        all.push("a declaration");
    }
    let weak = |d: &&str| ["an operator", "`as`", "`|`", "`..`", "`let`"].contains(d);
    if all.iter().any(|d| !weak(d)) {
        all.retain(|d| !weak(d));
    }
    // Within a call, `=` would make what stands before it the name of an argument.
    if all.contains(&"`)`") {
        all.retain(|d| *d != "`=`");
    }
    let rank = |d: &str| match d {
        "`]`" | "`)`" | "`}`" => 0,
        "`,`" => 1,
        _ => 2,
    };
    all.sort_by_key(|d| rank(d));
    all
}

fn list(items: &[&str]) -> String {
    match items {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [init @ .., last] => format!("{} or {last}", init.join(", ")),
    }
}

fn describe(rule: Rule) -> Option<&'static str> {
    use Rule::*;
    Some(match rule {
        file | model | k_model => "`model`",
        target | k_target => "`target`",
        dims | k_dim => "`dim`",
        constant | let_bind | k_let => "`let`",
        param | k_param => "`param`",
        k_state => "`state`",
        cache | k_cache => "`cache`",
        use_block | k_use => "`use`",
        block | k_block => "`block`",
        entry | k_entry => "`entry`",
        function | forward | k_fn => "`fn`",
        precision | k_precision => "`precision`",
        parallel | k_parallel => "`parallel`",
        train | k_train => "`train`",
        range | k_for => "`for`",
        k_in => "`in`",
        k_int => "`int`",
        k_as => "`as`",
        over => "`over`",
        k_per => "`per`",
        shape | ty | lbracket => "`[`",
        rbracket => "`]`",
        sizes | names | signature | lparen => "`(`",
        rparen => "`)`",
        body | open => "`{`",
        close => "`}`",
        comma | each => "`,`",
        colon => "`:`",
        equals => "`=`",
        plus_equals => "`+=`",
        arrow => "`->`",
        dots => "`..`",
        pipe | lambda => "`|`",
        add_op | mul_op | plus => "an operator",
        expr | term | factor | atom | call | index | axis | arg | callee | indexed | minus => {
            "an expression"
        }
        number => "a number",
        string => "a string",
        name | ident | dim | input | named | setting | spread | choice | share | sms | update
        | directive | word | phrase => "a name",
        EOI => "the end of the file",
        WHITESPACE | COMMENT | model_member | block_member | section | letter | keyword => {
            return None;
        }
    })
}

const KEYWORDS: [&str; 18] = [
    "model",
    "block",
    "param",
    "state",
    "cache",
    "use",
    "for",
    "in",
    "fn",
    "entry",
    "let",
    "dim",
    "precision",
    "parallel",
    "train",
    "target",
    "as",
    "int",
];

fn help(found: &str, expected: &[&str]) -> Option<String> {
    if KEYWORDS.contains(&found) && expected.contains(&"a name") {
        return Some(format!("`{found}` is a word of the language; choose another name"));
    }
    if found == "}" && expected == ["an expression"] {
        return Some("a body ends with the expression that it returns".into());
    }
    let word = found.chars().next().is_some_and(char::is_alphabetic);
    let near = KEYWORDS.iter().filter(|k| word && strsim::damerau_levenshtein(found, k) <= 1);
    near.min().map(|k| format!("did you mean `{k}`?"))
}
