//! Functions that the CUDA runtime would provide: `vprintf`, `__assertfail`, `malloc` and `free`
//! (CUDA C++ programming guide, "Formatted Output", "Assertion", "Dynamic Global Memory
//! Allocation"). The heap of a device is empty here: `malloc` answers that there is no memory.

use crate::decode::{Decoder, Place, Words};
use crate::error::Error;
use crate::exec::{Cx, lanes_of};
use crate::fault::FaultKind;
use crate::memory::window::{GLOBAL_BASE, LOCAL_BASE};
use crate::program::{Flow, Inst, NO_REG};
use crate::ptx::ast::Operand;

/// Longest text that is read from device memory.
const MAX_TEXT: usize = 4096;

/// Emits a call of a host function; false if `name` is not one.
pub(super) fn emit<'a>(
    cx: &mut Decoder<'a, '_>,
    name: &str,
    results: &[Operand<'a>],
    args: &[Operand<'a>],
    words: &Words<'_>,
) -> Result<bool, Error> {
    let exec: crate::program::Exec = match name {
        "vprintf" => vprintf,
        "__assertfail" => assert_fail,
        "malloc" | "free" => heap,
        _ => return Ok(false),
    };
    let mut slots = Vec::new();
    for operand in args.iter().chain(results) {
        let Operand::Name(name, None) = operand else {
            return Err(words.unsupported("an argument that is not a `.param` variable"));
        };
        let Some(Place::Local(offset)) = cx.place(name) else {
            return Err(words.unsupported(format!("`{name}` is not a `.param` variable")));
        };
        slots.push(offset);
    }
    let needed = match name {
        "vprintf" => 2,
        "__assertfail" => 5,
        _ => 1,
    };
    if args.len() != needed {
        return Err(words.wrong(format!("`{name}` takes {needed} arguments")));
    }
    if results.is_empty() {
        slots.push(NO_REG);
    }
    let d = cx.push_list(&slots);
    cx.emit(Inst { d, aux: slots.len() as u32, ..Decoder::blank(exec) });
    Ok(true)
}

/// Bytes at an argument's place in a lane's stack.
fn argument(cx: &mut Cx<'_>, lane: u32, slot: u32) -> u64 {
    let frame = cx.split().frame as usize;
    let base = cx.warp.frames[frame].local_base;
    let slice = cx.warp.local.slice(lane, base + slot, 8);
    slice.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8])))
}

fn byte(cx: &mut Cx<'_>, lane: u32, address: u64) -> Option<u8> {
    let host = cx.lane_host(0, lane, address, 1, false).ok()?;
    // SAFETY: `lane_host` has checked the address.
    Some(unsafe { *host })
}

fn text(cx: &mut Cx<'_>, lane: u32, address: u64) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_TEXT {
        match byte(cx, lane, address.wrapping_add(bytes.len() as u64)) {
            Some(0) | None => break,
            Some(byte) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `vprintf(format, arguments)`: each lane prints; the text comes back in the launch's report.
unsafe fn vprintf(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let (format_slot, args_slot) = match *cx.list(inst.d, 2) {
        [format, args] => (format, args),
        _ => return Flow::Next,
    };
    for lane in lanes_of(cx.mask) {
        let (format, args) = (argument(cx, lane, format_slot), argument(cx, lane, args_slot));
        let format = text(cx, lane, format);
        let line = format_text(cx, lane, &format, args);
        cx.worker.counters.printed.push_str(&line);
    }
    Flow::Next
}

/// The text of a format with arguments that lie at `args`, each at its own alignment.
fn format_text(cx: &mut Cx<'_>, lane: u32, format: &str, mut args: u64) -> String {
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    while let Some(letter) = rest.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut spec = String::new();
        while let Some(&next) = rest.peek() {
            rest.next();
            spec.push(next);
            if next.is_ascii_alphabetic() && !matches!(next, 'l' | 'h' | 'z') || next == '%' {
                break;
            }
        }
        let Some(kind) = spec.chars().last() else {
            break;
        };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let is_float = matches!(kind.to_ascii_lowercase(), 'f' | 'e' | 'g' | 'a');
        let wide = is_float || matches!(kind, 's' | 'p') || spec.contains(['l', 'z']);
        let bytes = if wide { 8 } else { 4 };
        args = args.next_multiple_of(bytes);
        let mut raw = [0u8; 8];
        for (index, slot) in raw.iter_mut().enumerate().take(bytes as usize) {
            *slot = byte(cx, lane, args + index as u64).unwrap_or(0);
        }
        args += bytes;
        let bits = u64::from_le_bytes(raw);
        let value = match kind {
            'd' | 'i' if wide => (bits as i64).to_string(),
            'd' | 'i' => (bits as u32 as i32).to_string(),
            'u' => bits.to_string(),
            'x' => format!("{bits:x}"),
            'X' => format!("{bits:X}"),
            'o' => format!("{bits:o}"),
            'p' => format!("0x{bits:x}"),
            'c' => char::from(bits as u8).to_string(),
            's' => text(cx, lane, bits),
            _ if is_float => {
                let digits = spec.split_once('.').and_then(|(_, digits)| {
                    digits.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
                });
                let value = f64::from_bits(bits);
                let text = float_text(kind, value, digits.unwrap_or(6usize).min(64));
                let plus = spec.contains('+') && !value.is_sign_negative();
                if plus { format!("+{text}") } else { text }
            }
            other => format!("%{other}"),
        };
        let width: usize = spec
            .trim_start_matches(['-', '+', ' ', '#', '0'])
            .chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap_or(0);
        let width = width.min(256);
        if spec.starts_with('-') {
            out.push_str(&format!("{value:<width$}"));
        } else if spec.starts_with('0') {
            out.push_str(&format!("{value:0>width$}"));
        } else {
            out.push_str(&format!("{value:>width$}"));
        }
    }
    out
}

/// A number as C prints it with `%f`, `%e` or `%g`; hexadecimal ones as `%e`.
fn float_text(kind: char, value: f64, digits: usize) -> String {
    let scientific = |digits: usize| {
        let text = format!("{value:.digits$e}");
        match text.split_once('e') {
            Some((number, power)) => {
                let power: i32 = power.parse().unwrap_or(0);
                let sign = if power < 0 { '-' } else { '+' };
                (number.to_string(), power, format!("e{sign}{:02}", power.abs()))
            }
            None => (text, 0, String::new()),
        }
    };
    let text = if !value.is_finite() {
        let sign = if value.is_sign_negative() { "-" } else { "" };
        format!("{sign}{}", if value.is_nan() { "nan" } else { "inf" })
    } else {
        match kind.to_ascii_lowercase() {
            'f' => format!("{value:.digits$}"),
            'g' => {
                let digits = digits.max(1);
                let (number, power, tail) = scientific(digits - 1);
                let (number, tail) = if (-4..digits as i32).contains(&power) {
                    let after = (digits as i32 - 1 - power) as usize;
                    (format!("{value:.after$}"), String::new())
                } else {
                    (number, tail)
                };
                let short = number.trim_end_matches('0').trim_end_matches('.');
                let number = if number.contains('.') { short } else { &number };
                format!("{number}{tail}")
            }
            _ => {
                let (number, _, tail) = scientific(digits);
                format!("{number}{tail}")
            }
        }
    };
    if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

/// `malloc(size)` gives a null pointer, `free(pointer)` nothing.
unsafe fn heap(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let result = cx.list(inst.d, 2)[1];
    if result != NO_REG {
        let frame = cx.split().frame as usize;
        let base = cx.warp.frames[frame].local_base;
        for lane in lanes_of(cx.mask) {
            if let Some(slice) = cx.warp.local.slice(lane, base + result, 8) {
                slice.fill(0);
            }
        }
    }
    Flow::Next
}

/// `__assertfail(message, file, line, function, size)`.
unsafe fn assert_fail(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let slots = cx.list(inst.d, 4).to_vec();
    let lane = cx.mask.trailing_zeros();
    let mut words = Vec::new();
    for &slot in &slots {
        let address = argument(cx, lane, slot);
        let is_text = (GLOBAL_BASE..LOCAL_BASE + (1 << 32)).contains(&address);
        words.push(if is_text { text(cx, lane, address) } else { (address as u32).to_string() });
    }
    let message = match words.as_slice() {
        [message, file, line, function] => {
            format!("{file}:{line}: {function}: assertion `{message}` failed")
        }
        _ => "an assertion failed".to_string(),
    };
    cx.fail(FaultKind::Trap(message))
}
