//! Instructions that the ISA has for sm_90a: every opcode with each of its modifiers, types, shapes
//! and kinds of operands, as written from the syntax in PTX ISA 9.7 and accepted by ptxas. Missing
//! are textures and surfaces, and copies in im2col mode.

use moec_emulator::Module;

const FORMS: &str = include_str!("forms/sm_90a.ptx");

/// The instructions of the list, which are its indented lines.
fn forms() -> impl Iterator<Item = &'static str> {
    FORMS.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(';'))
}

/// A kernel with one instruction between declarations of all that it may name.
fn kernel(instruction: &str) -> String {
    format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n\
         .visible .entry k() .reqntid 128, 1, 1 {{\n\
         .reg .pred %p<16>; .reg .b16 %h<40>; .reg .b32 %r<200>;\n\
         .reg .b64 %q<60>; .reg .b128 %o<8>;\n\
         {instruction};\nL: ret;\n}}\n"
    )
}

#[test]
fn every_instruction_of_sm_90a_is_decoded() {
    let mut refused = Vec::new();
    for form in forms() {
        if let Err(error) = Module::parse(&kernel(form)) {
            refused.push(format!("{form}: {error}"));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(forms().count() > 1000, "the list is cut");
    assert!(Module::parse(FORMS).is_ok(), "the list is no module");
}

#[test]
fn an_unknown_modifier_is_refused_everywhere() {
    for form in forms() {
        let (opcode, operands) = form.split_once(' ').unwrap_or((form, ""));
        let changed = format!("{opcode}.nonsense {operands}");
        // What orders memory or only advises takes any word.
        let lenient = ["fence", "membar", "createpolicy"].iter().any(|one| opcode.starts_with(one));
        let result = Module::parse(&kernel(&changed));
        assert!(lenient || result.is_err(), "`{changed}` is decoded");
    }
}
