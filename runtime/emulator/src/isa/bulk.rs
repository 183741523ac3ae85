//! Bulk copies and reductions without a tensor map (PTX ISA 9.7.9.25.4, "cp.async.bulk",
//! "cp.reduce.async.bulk"), their groups, and `st.async` and `red.async` (9.7.9.12, 9.7.13.7).
//!
//! When a copy is done between its issue and the wait for it, the schedule decides.

use super::mbarrier::change;
use super::memory::take_cache_words;
use super::operands;
use super::pointer::{Pointer, WORDS};
use crate::decode::operand::{Address, literal};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::cluster::RANK_SHIFT;
use crate::exec::{Awaited, Cx, Operation, lanes_of};
use crate::fault::RawFault;
use crate::program::{Flow, Inst, NO_REG};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::{Space, Type};
use crate::tma::Reduction;

/// Words of a list: two or three addresses, the size, the mask of CTAs.
const SOURCE: usize = WORDS;
const BARRIER: usize = 2 * WORDS;
const SIZE: usize = 3 * WORDS;
const TARGETS: usize = 3 * WORDS + 1;
const LENGTH: u32 = 3 * WORDS as u32 + 2;

/// Bits of `aux`.
const TO_GLOBAL: u32 = 1;
const FROM_GLOBAL: u32 = 2;

/// `cp.async.bulk…` and `cp.reduce.async.bulk…` behind the words `cp`, `async`, `bulk`.
pub(super) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    match words.take_any(&["commit_group", "wait_group"]) {
        Some("commit_group") => {
            cx.emit(Decoder::blank(commit));
            return Ok(());
        }
        Some(_) => {
            let aux = u32::from(words.take("read"));
            let [most] = operands(instruction, words)?;
            let imm = literal(most, Type::U32, words)?;
            cx.emit(Inst { imm, aux, ..Decoder::blank(wait) });
            return Ok(());
        }
        None => {}
    }
    let reduces = words.take("reduce");
    let prefetches = words.take("prefetch");
    if words.take("tensor") {
        return super::bulk_tensor::decode(cx, words, instruction, (reduces, prefetches));
    }
    take_cache_words(words);
    if prefetches {
        words.take("L2");
        words.space();
        return Ok(());
    }
    let (to, from) = (words.space(), words.space());
    let with_barrier = words.take("mbarrier::complete_tx::bytes");
    if !with_barrier && !words.take("bulk_group") {
        return Err(words.wrong("the mechanism of completion is missing"));
    }
    let multicast = words.take("multicast::cluster");
    words.take("noftz");
    let reduction = match reduces {
        true => decode_reduction(words)?,
        false => 0,
    };
    let sides = match (to, from) {
        (Space::Shared, Space::Global) if with_barrier && !reduces => FROM_GLOBAL,
        (Space::Shared, Space::Shared) if with_barrier => 0,
        (Space::Global, Space::Shared) if !with_barrier => TO_GLOBAL,
        _ => return Err(words.wrong("these state spaces and this completion do not go together")),
    };
    let (dst, src, size, rest) = match instruction.operands.as_slice() {
        [dst, src, size, rest @ ..] => (dst, src, size, rest),
        _ => return Err(words.wrong("a destination, a source and a size are needed")),
    };
    let mut list = [NO_REG; LENGTH as usize];
    list[..WORDS].copy_from_slice(&Pointer::words(cx.address(dst, to, words)?));
    list[SOURCE..BARRIER].copy_from_slice(&Pointer::words(cx.address(src, from, words)?));
    list[SIZE] = cx.src(size, Type::B32, words)?;
    let mut rest = rest.iter();
    if with_barrier {
        let barrier = rest.next().ok_or_else(|| words.wrong("the mbarrier is missing"))?;
        let pointer = Pointer::words(cx.address(barrier, Space::Shared, words)?);
        list[BARRIER..SIZE].copy_from_slice(&pointer);
    }
    if multicast {
        let mask = rest.next().ok_or_else(|| words.wrong("the mask of CTAs is missing"))?;
        list[TARGETS] = cx.src(mask, Type::B16, words)?;
    }
    // Sums of several CTAs depend on their order.
    cx.facts.communicates |= reduces && to == Space::Global;
    // A cache policy may follow.
    let d = cx.push_list(&list);
    cx.emit(Inst { d, aux: sides, imm: u64::from(reduction), ..Decoder::blank(copy) });
    Ok(())
}

/// Operation and type, packed; never 0.
fn decode_reduction(words: &mut Words<'_>) -> Result<u32, Error> {
    let operation = words.take_map(Reduction::from_name);
    let operation = operation.ok_or_else(|| words.wrong("the operation is missing"))?;
    let ty = words.ty()?;
    if !operation.takes(ty) {
        return Err(words.unsupported(format!("no reduction {operation:?} of {ty:?}")));
    }
    Ok(1 << 16 | (operation as u32) << 8 | ty as u32)
}

/// The packed operation and type of [`decode_reduction`].
fn reduction_of(packed: u32) -> Option<(Reduction, Type)> {
    const OPERATIONS: [Reduction; 8] = [
        Reduction::Add,
        Reduction::Min,
        Reduction::Max,
        Reduction::Inc,
        Reduction::Dec,
        Reduction::And,
        Reduction::Or,
        Reduction::Xor,
    ];
    const TYPES: [Type; 10] = [
        Type::B32,
        Type::B64,
        Type::U32,
        Type::U64,
        Type::S32,
        Type::S64,
        Type::F16,
        Type::BF16,
        Type::F32,
        Type::F64,
    ];
    if packed == 0 {
        return None;
    }
    let ty = TYPES.into_iter().find(|&ty| ty as u32 == packed & 0xff)?;
    Some((OPERATIONS[(packed >> 8 & 7) as usize], ty))
}

/// The CTAs that a copy goes to: their ranks, or none for the CTA that the address names.
pub(super) unsafe fn targets_of(
    cx: &Cx<'_>,
    mask: u32,
    lane: u32,
) -> Result<Vec<Option<u32>>, Box<RawFault>> {
    if mask == NO_REG {
        return Ok(vec![None]);
    }
    // SAFETY: an operand of this frame.
    let mask = unsafe { cx.row32(mask)[lane as usize] } & 0xffff;
    let size = cx.cta.cluster.size();
    if mask == 0 || mask >> size != 0 {
        let rule = format!("the mask 0x{mask:04x} does not name CTAs of a cluster of {size}");
        return Err(Cx::lane_misuse(lane, rule));
    }
    Ok(lanes_of(mask).map(Some).collect())
}

/// The address at the same place in the CTA with rank `target`.
pub(super) fn retarget(address: u32, target: Option<u32>) -> u32 {
    match target {
        None => address,
        Some(rank) => address & ((1 << RANK_SHIFT) - 1) | (rank + 1) << RANK_SHIFT,
    }
}

/// Tells the mbarrier at a shared address that `bytes` have come.
pub(super) fn complete(
    cx: &mut Cx<'_>,
    lane: u32,
    barrier: u32,
    bytes: u32,
) -> Result<(), Box<RawFault>> {
    let word = cx.shared_range(lane, barrier, 8, 8)?.cast();
    change(cx, lane, word, |barrier| barrier.receive(bytes))
}

/// `d` the list; `aux` which sides are device memory; `imm` the reduction.
unsafe fn copy(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    for lane in lanes_of(cx.mask) {
        // SAFETY: operands of this frame.
        if let Err(fault) = unsafe { copy_lane(cx, inst, lane) } {
            return cx.raise(fault);
        }
    }
    Flow::Next
}

unsafe fn copy_lane(cx: &mut Cx<'_>, inst: &Inst, lane: u32) -> Result<(), Box<RawFault>> {
    let list = cx.list(inst.d, LENGTH);
    let (dst, src) = (Pointer::read(list), Pointer::read(&list[SOURCE..]));
    let (barrier, size, targets) = (Pointer::read(&list[BARRIER..]), list[SIZE], list[TARGETS]);
    // SAFETY: operands of this frame.
    let bytes = unsafe { cx.row32(size)[lane as usize] };
    if !bytes.is_multiple_of(16) {
        return Err(Cx::lane_misuse(lane, format!("{bytes} bytes are not a multiple of 16")));
    }
    let reduction = reduction_of(inst.imm as u32);
    let counters = &mut cx.worker.counters;
    match inst.aux {
        TO_GLOBAL => counters.add_bulk_store(u64::from(bytes)),
        FROM_GLOBAL => counters.add_bulk_load(u64::from(bytes)),
        _ => {}
    }
    // SAFETY: operands of this frame.
    unsafe {
        if inst.aux == TO_GLOBAL {
            let (to, from) = (dst.at(cx, lane), src.shared_at(cx, lane)?);
            let group = Awaited::BulkGroup(cx.warp.bulk_groups[lane as usize]);
            let store = Store { to, from, bytes, reduction, data: None };
            return cx.issue(lane, group, true, store);
        }
        for target in targets_of(cx, targets, lane)? {
            let to = retarget(dst.shared_at(cx, lane)?, target);
            let barrier = retarget(barrier.shared_at(cx, lane)?, target);
            let from = match inst.aux {
                FROM_GLOBAL => Source::Global(src.at(cx, lane)),
                _ => Source::Shared(src.shared_at(cx, lane)?),
            };
            let holds = cx.is_own(to) || matches!(from, Source::Shared(_));
            let load = Load { to, from, bytes, barrier, reduction };
            cx.issue(lane, Awaited::Mbarrier, holds, load)?;
        }
    }
    Ok(())
}

/// `cp.async.bulk.commit_group` (9.7.9.25.6.1).
unsafe fn commit(cx: &mut Cx<'_>, _: &Inst) -> Flow {
    for lane in lanes_of(cx.mask) {
        cx.warp.bulk_groups[lane as usize] += 1;
    }
    Flow::Next
}

/// `cp.async.bulk.wait_group{.read}` (9.7.9.25.6.2): `imm` groups may stay in flight.
unsafe fn wait(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let most = u32::try_from(inst.imm).unwrap_or(u32::MAX);
    match cx.wait_bulk(most, inst.aux != 0) {
        Ok(()) => Flow::Next,
        Err(fault) => cx.raise(fault),
    }
}

/// Where a copy to shared memory comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Global(u64),
    Shared(u32),
}

/// A copy to shared memory, of this CTA or another.
#[derive(Debug)]
struct Load {
    to: u32,
    from: Source,
    bytes: u32,
    barrier: u32,
    reduction: Option<(Reduction, Type)>,
}

impl Operation for Load {
    fn step(&mut self, cx: &mut Cx<'_>, lane: u32) -> Result<bool, Box<RawFault>> {
        let from = match self.from {
            Source::Global(address) => aligned_global(cx, lane, address, self.bytes, false)?,
            Source::Shared(address) => cx.shared_range(lane, address, self.bytes, 16)?,
        };
        let to = cx.shared_range(lane, self.to, self.bytes, 16)?;
        let seen = match self.from {
            Source::Global(address) => cx.proxy_read(address, from, self.bytes),
            Source::Shared(address) => cx.proxy_read_shared(address, from, self.bytes),
        };
        let from = seen.as_ref().map_or(from.cast_const(), |bytes| bytes.as_ptr());
        cx.proxy_write_shared(self.to, self.bytes);
        // SAFETY: both ranges were checked.
        unsafe { move_bytes(to, from, self.bytes, self.reduction) };
        complete(cx, lane, self.barrier, self.bytes)?;
        Ok(true)
    }
}

/// A copy to device memory: reads, then writes.
#[derive(Debug)]
struct Store {
    to: u64,
    from: u32,
    bytes: u32,
    reduction: Option<(Reduction, Type)>,
    /// What was read.
    data: Option<Vec<u8>>,
}

impl Operation for Store {
    fn step(&mut self, cx: &mut Cx<'_>, lane: u32) -> Result<bool, Box<RawFault>> {
        let Some(data) = self.data.take() else {
            let from = cx.shared_range(lane, self.from, self.bytes, 16)?;
            let seen = cx.proxy_read_shared(self.from, from, self.bytes);
            // SAFETY: the range was checked.
            let source = unsafe { std::slice::from_raw_parts(from, self.bytes as usize) };
            self.data = Some(seen.unwrap_or_else(|| source.to_vec()));
            return Ok(false);
        };
        let to = aligned_global(cx, lane, self.to, self.bytes, true)?;
        // SAFETY: the range was checked; `data` has as many bytes.
        unsafe { move_bytes(to, data.as_ptr(), self.bytes, self.reduction) };
        cx.proxy_write(self.to, self.bytes);
        Ok(true)
    }
}

fn aligned_global(
    cx: &mut Cx<'_>,
    lane: u32,
    address: u64,
    bytes: u32,
    writes: bool,
) -> Result<*mut u8, Box<RawFault>> {
    if !address.is_multiple_of(16) {
        let rule = format!("the address 0x{address:x} is not a multiple of 16");
        return Err(Cx::lane_misuse(lane, rule));
    }
    cx.global_range(lane, address, bytes, writes)
}

/// Copies or combines `bytes`.
///
/// # Safety
/// Both ranges must be good.
unsafe fn move_bytes(
    to: *mut u8,
    from: *const u8,
    bytes: u32,
    reduction: Option<(Reduction, Type)>,
) {
    // SAFETY: the caller's ranges; a copy within one CTA may overlap itself.
    unsafe {
        match reduction {
            None => std::ptr::copy(from, to, bytes as usize),
            Some((operation, ty)) => {
                let source = std::slice::from_raw_parts(from, bytes as usize).to_vec();
                let memory = std::slice::from_raw_parts_mut(to, bytes as usize);
                operation.combine_all(ty, memory, &source);
            }
        }
    }
}

/// `st.async{.weak}.shared::cluster.mbarrier::complete_tx::bytes{.v2,.v4}` and
/// `red.async.relaxed.cluster…`: a value to another CTA's shared memory, and its bytes to the
/// mbarrier beside it.
pub(super) fn decode_async_store<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    words.take_any(&["weak", "relaxed"]);
    words.take("cluster");
    // Without a space the address is one of shared memory all the same (9.7.13.7, "red.async").
    let space = match words.space() {
        Space::Generic => Space::Shared,
        space => space,
    };
    if !words.take("mbarrier::complete_tx::bytes") || space != Space::Shared {
        return Err(
            words.unsupported("only the form that completes on an mbarrier exists on sm_90")
        );
    }
    let reduction = if instruction.opcode == "red" { decode_reduction(words)? } else { 0 };
    let count = words.take_any(&["v2", "v4"]).map_or(1, |word| if word == "v2" { 2 } else { 4 });
    let ty = match reduction_of(reduction) {
        Some((_, ty)) => ty,
        None => words.ty()?,
    };
    let [address, value, barrier] = operands(instruction, words)?;
    let address: Address = cx.address(address, space, words)?;
    let barrier: Address = cx.address(barrier, space, words)?;
    let mut list = Vec::new();
    list.extend(Pointer::words(address));
    list.extend(Pointer::words(barrier));
    match value {
        Operand::Vector(parts) if parts.len() == count => {
            for part in parts {
                list.push(cx.src(part, ty, words)?);
            }
        }
        value if count == 1 => list.push(cx.src(value, ty, words)?),
        _ => return Err(words.wrong(format!("{count} values are needed"))),
    }
    let d = cx.push_list(&list);
    let aux = count as u32 | ty.bytes() << 8;
    cx.emit(Inst { d, aux, imm: u64::from(reduction), ..Decoder::blank(async_store) });
    Ok(())
}

unsafe fn async_store(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    for lane in lanes_of(cx.mask) {
        // SAFETY: operands of this frame.
        if let Err(fault) = unsafe { async_store_lane(cx, inst, lane) } {
            return cx.raise(fault);
        }
    }
    Flow::Next
}

unsafe fn async_store_lane(cx: &mut Cx<'_>, inst: &Inst, lane: u32) -> Result<(), Box<RawFault>> {
    let (count, size) = (inst.aux & 0xff, inst.aux >> 8);
    let list = cx.list(inst.d, 2 * WORDS as u32 + count);
    let (dst, barrier) = (Pointer::read(list), Pointer::read(&list[WORDS..]));
    let mut bytes = Vec::with_capacity(32);
    for &reg in &list[2 * WORDS..] {
        // SAFETY: operands of this frame, of the width that the decoder checked.
        let value = unsafe {
            match size {
                8 => cx.row64(reg)[lane as usize],
                _ => u64::from(cx.row32(reg)[lane as usize]),
            }
        };
        bytes.extend_from_slice(&value.to_le_bytes()[..size as usize]);
    }
    // SAFETY: operands of this frame.
    let (address, barrier) = unsafe { (dst.shared_at(cx, lane)?, barrier.shared_at(cx, lane)?) };
    let store = AsyncStore { address, barrier, bytes, reduction: reduction_of(inst.imm as u32) };
    let holds = cx.is_own(address);
    cx.issue(lane, Awaited::Mbarrier, holds, store)
}

/// A value on its way to another CTA.
#[derive(Debug)]
struct AsyncStore {
    address: u32,
    barrier: u32,
    bytes: Vec<u8>,
    reduction: Option<(Reduction, Type)>,
}

impl Operation for AsyncStore {
    fn step(&mut self, cx: &mut Cx<'_>, lane: u32) -> Result<bool, Box<RawFault>> {
        let total = self.bytes.len() as u32;
        let to = cx.shared_range(lane, self.address, total, total)?;
        // SAFETY: the range was checked.
        unsafe { move_bytes(to, self.bytes.as_ptr(), total, self.reduction) };
        complete(cx, lane, self.barrier, total)?;
        Ok(true)
    }
}
