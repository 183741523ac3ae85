//! No text makes the parser or the decoder panic.

use moec_emulator::Module;
use proptest::prelude::*;

const TEXTS: [&str; 3] = [
    include_str!("cases/cuda_calls/kernel.ptx"),
    include_str!("cases/cuda_switch_vm/kernel.ptx"),
    include_str!("cases/triton_softmax/kernel.ptx"),
];

const PIECES: [&str; 16] = [
    "{",
    "}",
    ";",
    "[",
    "]",
    ",",
    ".reg .b32 %r<9>;",
    "0x",
    "%r1",
    ".align 3",
    "@!%p1 ",
    "-1",
    "0f123",
    ".param .b64 x[8];",
    "bra L;",
    "\"",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn mutated_text_never_panics(
        which in 0..TEXTS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..24, 0..PIECES.len()), 1..6),
    ) {
        let mut text = TEXTS[which].to_string();
        for (place, cut, piece) in edits {
            let at = text.floor_char_boundary(place.index(text.len()));
            let end = text.floor_char_boundary((at + cut).min(text.len())).max(at);
            text.replace_range(at..end, PIECES[piece]);
        }
        let _ = Module::parse(&text);
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        let _ = Module::parse(&text);
    }
}
