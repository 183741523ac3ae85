//! Matrix products of a warpgroup (PTX ISA 9.7.15, "Asynchronous Warpgroup Level Matrix
//! Multiply-Accumulate Instructions").
//!
//! A warp that comes to a `wgmma.mma_async` waits until all four of its warpgroup have; the last
//! one issues the product for all. When it is computed, before a `wgmma.wait_group` covers it, the
//! schedule decides.

use super::matrix::whole_warp;
use super::mma::sparse::{self, Metadata, Pattern};
use super::mma::{
    Tiles, accumulator_of, element_of, go_together, multiply, pack_types, unpack_types,
};
use super::operands;
use crate::decode::operand::literal;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::warpgroup::Member;
use crate::exec::{Awaited, Cx, Operation, Wait};
use crate::fault::{FaultKind, RawFault};
use crate::program::{Flow, Function, Inst, NO_REG, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;
use crate::tensor_core::descriptor::{Major, MatrixDescriptor, is_width};
use crate::tensor_core::fragments::{Row, accumulator_registers, gather, load_rows, scatter};
use crate::tensor_core::{Accumulator, Element, Rule, count_common_bits, multiply_sparse, padded};

pub(crate) const OPCODES: &[&str] = &["wgmma"];

/// What `imm` and `aux` hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    a: Element,
    b: Element,
    accumulator: Accumulator,
    columns: u32,
    a_in_registers: bool,
    /// imm-scale-a and -b are -1.
    negate: [bool; 2],
    /// imm-trans-a and -b are 1.
    transpose: [bool; 2],
    saturates: bool,
    /// Single bits, of which the sums count those that are set in both (`.and.popc`).
    is_bits: bool,
    /// Half of A is stored; metadata says which (9.7.15.6).
    is_sparse: bool,
    /// The lanes of each four that give metadata begin here.
    selector: u32,
}

impl Form {
    fn pack(self) -> u64 {
        let flags = [
            self.a_in_registers,
            self.negate[0],
            self.negate[1],
            self.transpose[0],
            self.transpose[1],
            self.saturates,
            self.is_bits,
            self.is_sparse,
        ];
        let bits = flags.iter().enumerate().fold(0, |all, (at, &one)| all | u64::from(one) << at);
        let columns = u64::from(self.columns);
        let types = pack_types(self.a, self.b, self.accumulator);
        types | columns << 16 | bits << 32 | u64::from(self.selector) << 48
    }

    fn unpack(bits: u64) -> Form {
        let (a, b, accumulator) = unpack_types(bits);
        let flag = |at: u32| bits >> (32 + at) & 1 != 0;
        Form {
            a,
            b,
            accumulator,
            columns: (bits >> 16 & 0x1ff) as u32,
            a_in_registers: flag(0),
            negate: [flag(1), flag(2)],
            transpose: [flag(3), flag(4)],
            saturates: flag(5),
            is_bits: flag(6),
            is_sparse: flag(7),
            selector: (bits >> 48 & 3) as u32,
        }
    }

    /// Elements of a row of A that are stored.
    fn depth(self) -> usize {
        (32 / self.a.bytes()) as usize
    }

    /// Elements of a column of B.
    fn b_depth(self) -> usize {
        if self.is_sparse { 2 * self.depth() } else { self.depth() }
    }

    fn d_count(self) -> usize {
        accumulator_registers(self.accumulator, self.columns as usize)
    }
}

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let verb = words.take_any(&["mma_async", "fence", "commit_group", "wait_group"]);
    if !words.take("sync") || !words.take("aligned") {
        return Err(words.wrong("`.sync.aligned` is missing"));
    }
    match verb {
        Some("mma_async") => return decode_product(cx, words, instruction),
        Some("fence") => {
            let [] = operands(instruction, words)?;
            cx.emit(Decoder::blank(fence));
        }
        Some("commit_group") => {
            let [] = operands(instruction, words)?;
            cx.emit(Decoder::blank(commit));
        }
        Some("wait_group") => {
            let [pending] = operands(instruction, words)?;
            let imm = literal(pending, Type::U32, words)?;
            cx.emit(Inst { imm, ..Decoder::blank(wait) });
        }
        _ => return Err(words.wrong("the operation is missing")),
    }
    Ok(())
}

fn decode_product<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let is_sparse = words.take("sp");
    let shape = words.take_map(|word| word.strip_prefix("m64n"));
    let shape = shape.and_then(|rest| rest.split_once('k'));
    let shape = shape.and_then(|(n, k)| Some((n.parse::<u32>().ok()?, k.parse::<u32>().ok()?)));
    let (columns, depth) = shape.ok_or_else(|| words.wrong("the shape is missing"))?;
    let saturates = words.take("satfinite");
    // Bits go as bytes of eight.
    let is_bits = words.take("b1") && words.take("b1") && words.take("and") && words.take("popc");
    let (accumulator, a, b) = match *words.types().as_slice() {
        [d] if is_bits => (accumulator_of(d), Some(Element::U8), Some(Element::U8)),
        [d, a, b] => (accumulator_of(d), element_of(a), element_of(b)),
        _ => return Err(words.wrong("three types are needed")),
    };
    let (Some(accumulator), Some(a), Some(b)) = (accumulator, a, b) else {
        return Err(words.unsupported("this type of element or accumulator"));
    };
    let expected = match (is_bits, is_sparse) {
        (true, _) => 256,
        (false, true) => 64 / a.bytes(),
        (false, false) => 32 / a.bytes(),
    };
    let odd = is_bits && (is_sparse || saturates);
    if !go_together(a, b, accumulator) || depth != expected || !is_width(a, columns) || odd {
        return Err(words.wrong("these types do not go together, or not in this shape"));
    }
    let (d, x, y, metadata, scale, rest) = match instruction.operands.as_slice() {
        [d, x, y, metadata, selector, scale, rest @ ..] if is_sparse => {
            (d, x, y, Some((metadata, selector)), scale, rest)
        }
        [d, x, y, scale, rest @ ..] if !is_sparse => (d, x, y, None, scale, rest),
        _ => return Err(words.wrong("D, A, B and scale-d are needed")),
    };
    let mut form = Form {
        a,
        b,
        accumulator,
        columns,
        a_in_registers: matches!(x, Operand::Vector(_)),
        negate: [false; 2],
        transpose: [false; 2],
        saturates,
        is_bits,
        is_sparse,
        selector: 0,
    };
    decode_immediates(&mut form, rest, words)?;
    let mut list = Vec::new();
    let registers = |operand: &Operand<'a>, count: usize| match operand {
        Operand::Vector(parts) if parts.len() == count => Ok(parts.clone()),
        Operand::Vector(parts) => {
            Err(words.wrong(format!("{} registers where {count} are needed", parts.len())))
        }
        _ => Err(words.wrong("a list of registers is missing")),
    };
    for part in registers(d, form.d_count())? {
        list.push(cx.dst(&part, Type::B32, words)?);
    }
    let mut inst = Decoder::blank(product);
    if form.a_in_registers {
        for part in registers(x, 4)? {
            list.push(cx.src(&part, Type::B32, words)?);
        }
    } else {
        inst.a = cx.src(x, Type::B64, words)?;
    }
    inst.b = cx.src(y, Type::B64, words)?;
    let (c, flip) = match scale {
        Operand::Int(value) => {
            (cx.src(&Operand::Int(i128::from(*value != 0)), Type::Pred, words)?, 0)
        }
        scale => cx.pred_src(scale, words)?,
    };
    (inst.c, inst.aux) = (c, flip);
    if let Some((word, selector)) = metadata {
        // A pair of lanes begins at 0 or 2.
        form.selector = 2 * sparse::selector(selector, a.bytes() == 1, false, words)?;
        list.push(cx.src(word, Type::B32, words)?);
    }
    inst.d = cx.push_list(&list);
    inst.imm = form.pack();
    cx.emit(inst);
    Ok(())
}

/// imm-scale-a, imm-scale-b, imm-trans-a, imm-trans-b, as far as the types have them.
fn decode_immediates(
    form: &mut Form,
    rest: &[Operand<'_>],
    words: &Words<'_>,
) -> Result<(), Error> {
    let value = |operand: &Operand<'_>| match operand {
        Operand::Int(value) => Ok(*value),
        _ => Err(words.wrong("the factors and transpositions are constants")),
    };
    let values = rest.iter().map(value).collect::<Result<Vec<i128>, Error>>()?;
    let halves = matches!(form.a, Element::Bf16 | Element::F16);
    let transposes = match (halves, form.a_in_registers) {
        (true, false) => 2,
        (true, true) => 1,
        _ => 0,
    };
    let expected = if form.a.is_integer() { 0 } else { 2 + transposes };
    if values.len() != expected {
        return Err(words.wrong(format!(
            "{} factors and transpositions where {expected} are needed",
            values.len()
        )));
    }
    if expected == 0 {
        return Ok(());
    }
    for (side, &factor) in values[..2].iter().enumerate() {
        if factor != 1 && factor != -1 {
            return Err(words.wrong(format!("the factor {factor}: only 1 and -1 exist")));
        }
        form.negate[side] = factor == -1;
    }
    for (at, &transpose) in values[2..].iter().enumerate() {
        if !(0..=1).contains(&transpose) {
            return Err(words.wrong(format!("the transposition {transpose}: only 0 and 1 exist")));
        }
        // With A in registers only B has one.
        form.transpose[at + 2 - transposes] = transpose == 1;
    }
    Ok(())
}

unsafe fn fence(cx: &mut Cx<'_>, _: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    if cx.follows_products() {
        cx.warp.products.fence();
    }
    Flow::Next
}

unsafe fn commit(cx: &mut Cx<'_>, _: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    if cx.follows_products() {
        cx.warp.products.commit();
    }
    Flow::Next
}

unsafe fn wait(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    if cx.follows_products() {
        let (pending, frame) = (inst.imm.min(u64::from(u32::MAX)) as u32, cx.frame);
        let uncovered = cx.warp.products.uncovered(pending);
        if let Err(fault) = cx.wait_products(uncovered) {
            return cx.raise(fault);
        }
        // SAFETY: this is the frame of the function that issued the products.
        unsafe { cx.warp.products.wait(pending, frame) };
    }
    Flow::Next
}

/// `d` the list of registers of D and perhaps A, `a` and `b` descriptors, `c` scale-d.
unsafe fn product(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Wait::Warpgroup { .. } = cx.split().wait {
        // It was waiting, and runs again: the last warp has computed.
        cx.split().wait = Wait::Ready;
        return Flow::Next;
    }
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    // SAFETY: operands of this frame.
    let member = match unsafe { member(cx, inst) } {
        Ok(member) => member,
        Err(flow) => return flow,
    };
    let group = (cx.warp.index / 4) as usize;
    if (group as u32 * 4 + 4) * 32 > cx.launch.threads().next_multiple_of(32) {
        let threads = cx.launch.threads();
        return cx.misuse(format!("a CTA of {threads} threads has no whole warpgroup here"));
    }
    cx.worker.progress += 1;
    let form = Form::unpack(inst.imm);
    let function = cx.function;
    let (d, rest) = function.lists[inst.d as usize..].split_at(form.d_count());
    let a: &[Reg] = if form.a_in_registers { &rest[..4] } else { &[] };
    if cx.follows_products()
        && let Err(rule) = cx.warp.products.issue((d, form.accumulator, form.columns as usize), a)
    {
        return cx.misuse(rule);
    }
    let warpgroup = &mut cx.cta.warpgroups[group];
    let generation = warpgroup.generation;
    warpgroup.members.push(member);
    if warpgroup.members.len() < 4 {
        return cx.wait_as(u32::MAX, Wait::Warpgroup { generation });
    }
    let mut members = std::mem::take(&mut warpgroup.members);
    warpgroup.generation = generation.wrapping_add(1);
    let first = members[0];
    let same = |one: &Member| {
        one.inst == first.inst && one.descriptors == first.descriptors && one.adds == first.adds
    };
    if !members.iter().all(same) {
        return cx.misuse(
            "the four warps of the warpgroup do not execute the same wgmma with the same matrix \
             descriptors and scale-d",
        );
    }
    members.sort_unstable_by_key(|member| member.warp);
    if cx.cta.chance.is_some() && members.iter().all(|member| member.products.is_some()) {
        let awaited = Awaited::Product { warpgroup: group as u32 };
        let lane = cx.mask.trailing_zeros();
        let work = Product { inst: *inst, function: cx.origin().function, members };
        return match cx.issue(lane, awaited, true, work) {
            Ok(()) => Flow::Next,
            Err(fault) => cx.raise(fault),
        };
    }
    // SAFETY: the four warps stand at this instruction, so that the operands are theirs.
    let result = unsafe { compute(cx, inst, function, &members) };
    members.clear();
    cx.cta.warpgroups[group].members = members;
    match result {
        Ok(()) => Flow::Next,
        Err(rule) => cx.misuse(rule),
    }
}

/// A product in flight. The registers of its operands are those of the warps' outermost functions,
/// which nothing else touches until it is done.
#[derive(Debug)]
struct Product {
    inst: Inst,
    function: u32,
    members: Vec<Member>,
}

impl Operation for Product {
    fn step(&mut self, cx: &mut Cx<'_>, lane: u32) -> Result<bool, Box<RawFault>> {
        let launch = cx.launch;
        let function = &launch.program.functions[self.function as usize];
        // SAFETY: the operands are those of the function, the registers live as long as the warps.
        let result = unsafe { compute(cx, &self.inst, function, &self.members) };
        result.map(|()| true).map_err(|rule| RawFault::new(FaultKind::Misuse(rule), lane))
    }
}

/// This warp's part; descriptors and scale-d must be the same in all lanes.
unsafe fn member(cx: &mut Cx<'_>, inst: &Inst) -> Result<Member, Flow> {
    let mut descriptors = [0u64; 2];
    for (value, reg) in descriptors.iter_mut().zip([inst.a, inst.b]) {
        if reg == NO_REG {
            continue;
        }
        // SAFETY: an operand of this frame.
        let row = unsafe { cx.row64(reg) };
        *value = row[0];
        if row.iter().any(|one| one != value) {
            return Err(cx.misuse("lanes of the warp give different matrix descriptors"));
        }
    }
    // SAFETY: an operand of this frame.
    let scale = unsafe { *cx.pred(inst.c) } ^ inst.aux;
    if scale != 0 && scale != u32::MAX {
        return Err(cx.misuse("lanes of the warp give different values of scale-d"));
    }
    let (warp, frame, adds) = (cx.warp.index, cx.frame, scale != 0);
    let follows = cx.follows_products();
    let products = follows.then(|| std::ptr::from_mut(&mut cx.warp.products));
    let form = Form::unpack(inst.imm);
    let metadata = form.is_sparse.then(|| {
        let at = form.d_count() + if form.a_in_registers { 4 } else { 0 };
        let reg = cx.function.lists[inst.d as usize + at];
        // SAFETY: an operand of this frame.
        unsafe { *cx.row32(reg) }
    });
    let inst = std::ptr::from_ref(inst);
    Ok(Member { warp, frame, products, inst, descriptors, adds, metadata })
}

/// Computes the product for the four warps, each of which holds 16 rows.
unsafe fn compute(
    cx: &mut Cx<'_>,
    inst: &Inst,
    function: &Function,
    members: &[Member],
) -> Result<(), String> {
    let form = Form::unpack(inst.imm);
    let (columns, depth) = (form.columns as usize, form.depth());
    let (d, rest) = function.lists[inst.d as usize..].split_at(form.d_count());
    let a: &[Reg] = if form.a_in_registers { &rest[..4] } else { &[] };
    let region = cx.cta.shared.region();
    let may_be_late = cx.proxy_is_late();
    let shadow = &cx.cta.memory.shadow;
    let hidden = std::cell::Cell::new(None);
    let read = |addresses: [u32; 8], out: &mut [[u8; 16]; 8]| -> Result<(), String> {
        let low = addresses.iter().fold(u32::MAX, |low, &address| low.min(address));
        let high = addresses.iter().fold(0, |high, &address| high.max(address));
        if !region.holds(u64::from(low), u64::from(high) + 16) {
            return Err(format!(
                "the matrix reaches from shared address 0x{low:x} to 0x{:x}; shared memory of the \
                 CTA: 0x{:x} to 0x{:x}",
                high + 16,
                region.start,
                region.end
            ));
        }
        for (out, address) in out.iter_mut().zip(addresses) {
            let at = (u64::from(address) - region.start) as usize;
            // SAFETY: it lies between two addresses inside the region.
            *out = unsafe { region.host.add(at).cast::<[u8; 16]>().read() };
            if !shadow.is_empty() {
                hidden.set(hidden.get().or_else(|| shadow.hidden_by(address, 16)));
            }
            if may_be_late && let Some(old) = shadow.old(address) {
                *out = old;
            }
        }
        Ok(())
    };
    let major = |transposed: bool| if transposed { Major::Line } else { Major::Depth };
    let Tiles { a: rows, b, c: tile, sums, picked } = &mut cx.worker.tiles;
    let [a_bits, b_bits] = members[0].descriptors;
    let rule = Rule::new(cx.launch.accumulation, form.a, form.accumulator, true);
    for panel in [&mut *rows, &mut *b] {
        panel.with_exponents = rule.needs_exponents();
    }
    b.reset_columns(columns, form.b_depth(), form.b, form.negate[1]);
    MatrixDescriptor::decode(b_bits)?.load(major(form.transpose[1]), columns, b, read)?;
    let descriptor =
        if form.a_in_registers { None } else { Some(MatrixDescriptor::decode(a_bits)?) };
    for (quarter, member) in members.iter().enumerate() {
        let row = |reg: Reg| -> *mut Row {
            // SAFETY: a register of the member's frame.
            unsafe { member.frame.add(reg as usize).cast() }
        };
        rows.reset_rows(16, depth, form.a, form.negate[0]);
        match descriptor {
            None => load_rows(rows, 0, 4, |index| row(a[index])),
            Some(matrix) => {
                matrix.load_from(major(form.transpose[0]), 16 * quarter, 16, rows, read)?;
            }
        }
        // SAFETY: the warp waits at this instruction, or is the one that runs.
        let kept = member.products.and_then(|products| unsafe { &mut *products }.values(d));
        let is_kept = kept.is_some();
        let (ready, tile) = kept.unwrap_or((false, &mut *tile));
        tile.resize(16 * padded(columns), 0.0);
        if !member.adds {
            tile.fill(0.0);
        } else if !ready {
            gather(form.accumulator, columns, tile, |index| row(d[index]));
        }
        match member.metadata {
            Some(words) => {
                let (pattern, row_is_word) = (Pattern::of(form.a), form.a.bytes() == 1);
                let metadata = Metadata { words, selector: form.selector, row_is_word };
                multiply_sparse(rule, (rows, b), tile, picked, form.saturates, |line, place| {
                    metadata.column(pattern, line, place)
                });
            }
            None if form.is_bits => count_common_bits(rows, b, tile),
            None => multiply(rule, (rows, b), tile, sums, form.saturates),
        }
        if !is_kept {
            scatter(form.accumulator, columns, tile, |index| row(d[index]));
        }
    }
    cx.proxy_looks(hidden.get());
    Ok(())
}
