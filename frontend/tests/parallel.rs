//! What the sections `parallel` and `target` say.

#![allow(clippy::unwrap_used, reason = "a panic is the failure")]

use moec_frontend::{Model, check, format, parse};
use moec_ir::{Diagnostic, Phase, Ranks, Transfer};

/// A model with 32 experts and these sections.
fn source(sections: &str, targets: &str) -> String {
    format!(
        "model M {{\n  dim context = 16, vocab = 32, hidden = 8, experts = 32\n  param table: \
         [vocab, hidden] = \"t\"\n{sections}\n  entry main(ids: int[T]) -> [T, vocab] {{\n    \
         linear(lookup(table, ids), table)\n  }}\n}}\n{targets}\n"
    )
}

fn checked(sections: &str, targets: &str) -> Model {
    let text = source(sections, targets);
    let told = |found: Vec<Diagnostic>| -> String {
        found.iter().map(|d| d.render("test.moe", &text, false)).collect()
    };
    parse(&text).and_then(|ast| check(&ast)).map_err(told).unwrap_or_else(|e| panic!("{e}"))
}

/// Messages of a file that has mistakes, each with the code of these sections.
fn told(sections: &str) -> Vec<String> {
    let text = source(sections, "");
    let found = parse(&text).and_then(|ast| check(&ast)).unwrap_err();
    assert!(found.iter().all(|d| d.code == "E0406"), "{found:?}");
    found.into_iter().map(|d| d.message).collect()
}

#[test]
fn a_phase_has_its_own_section_or_that_of_all() {
    let model = checked(
        "parallel { experts over 16 ranks\n skew: 1.5 }
         parallel decode { experts over 8 ranks, 4 per node\n step over 3 micro_batches
           transfer: low_latency }",
        "",
    );
    let prefill = model.parallel_of(Phase::Prefill);
    assert_eq!(prefill.ranks, Some(Ranks::new(16, 8).unwrap()));
    assert_eq!((prefill.skew, prefill.transfer, prefill.step), (Some(1.5), None, None));
    let decode = model.parallel_of(Phase::Decode);
    assert_eq!(decode.ranks, Some(Ranks::new(8, 4).unwrap()));
    assert_eq!(decode.transfer, Some(Transfer::LowLatency));
    assert_eq!((decode.step.unwrap().count, decode.skew), (3, None));
    assert_eq!(checked("", "").parallel_of(Phase::Decode).ranks, None);
}

#[test]
fn a_split_is_known_only_where_shares_are_given() {
    let split = |targets: &str| checked("", targets).targets[0].comm_sms;
    assert_eq!(split("target h800 { }"), None);
    assert_eq!(split("target h800 { sms 100 }"), None);
    assert_eq!(split("target h800 { sms 132 = comm 20 + compute }"), Some(20));
    assert_eq!(split("target h800 { sms 132 = comm + compute 132 }"), Some(0));
}

#[test]
fn every_mistake_is_told() {
    assert_eq!(
        told(
            "parallel {
               experts over 12 ranks
               layers over 4 stages, 2 per node
               transfer: third
               skew: 0.5
               speed: 2
             }
             parallel prefil { experts over 8 ranks }
             parallel decode { experts over 24 ranks, 8 per node\n transfer: first\n transfer: second }"
        ),
        [
            "12 ranks do not fill nodes of 8",
            "`layers` are not counted per `node`",
            "no kind of transfer is called `third`",
            "`skew` is the load of the busiest rank over the mean, at least 1",
            "`speed` is not a line of `parallel`",
            "`prefil` is not a phase",
            "32 experts cannot be divided among 24 ranks",
            "`transfer` is given twice",
        ]
    );
    assert_eq!(
        told("parallel { experts over 8 ranks, 4 per board }"),
        ["ranks are counted per `node`"]
    );
}

#[test]
fn sections_keep_their_lines_and_comments_in_the_layout() {
    let text = source(
        "  parallel decode {\n    // Two boards.\n    experts over 8 ranks, 4 per node\n    step over 2 micro_batches\n    transfer: low_latency\n    skew: 1.2\n  }\n",
        "",
    );
    let formatted = format(&text).unwrap();
    assert!(formatted.contains(
        "  parallel decode {\n    // Two boards.\n    experts over 8 ranks, 4 per node\n    step over 2 micro_batches\n    transfer: low_latency\n    skew: 1.2\n  }\n"
    ), "{formatted}");
    assert_eq!(format(&formatted).unwrap(), formatted);
    let loose = text.replace("parallel decode {", "parallel   decode{").replace(", 4", " ,4");
    assert_eq!(format(&loose).unwrap(), formatted);
}
