//! Bulk copies of tiles through a tensor map (PTX ISA 9.7.9.27.1, "cp.async.bulk.tensor",
//! "cp.reduce.async.bulk.tensor", "cp.async.bulk.prefetch.tensor").
//!
//! As for other bulk copies, the schedule decides when the copy is done. The map is read at once.

use super::bulk::{complete, retarget, targets_of};
use super::memory::take_cache_words;
use super::pointer::{Pointer, WORDS};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Awaited, Cx, Operation, lanes_of};
use crate::fault::RawFault;
use crate::program::{Flow, Inst, NO_REG};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::{Space, Type};
use crate::tma::{BoxRow, Interleave, MapElement, Reduction, TensorMap};

/// Words of a list: addresses of map, shared memory and mbarrier; mask of CTAs; coordinates.
const SHARED: usize = WORDS;
const BARRIER: usize = 2 * WORDS;
const TARGETS: usize = 3 * WORDS;
const COORDINATES: usize = 3 * WORDS + 1;
const LENGTH: u32 = 3 * WORDS as u32 + 6;

/// What `imm` says.
const LOAD: u64 = 0;
const STORE: u64 = 1;
/// Plus the number of the operation.
const REDUCE: u64 = 2;

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

/// Behind the words `cp`, `async`, `bulk`, `tensor`.
pub(super) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    (reduces, prefetches): (bool, bool),
) -> Result<(), Error> {
    let rank = words.take_any(&["1d", "2d", "3d", "4d", "5d"]);
    let rank = rank.map(|word| word.as_bytes()[0] - b'0');
    let rank = rank.ok_or_else(|| words.wrong("the number of dimensions is missing"))?;
    take_cache_words(words);
    if prefetches {
        words.take("L2");
        words.space();
        words.take("tile");
        return Ok(());
    }
    let (first, second) = (words.space(), words.space());
    words.take("tile");
    let multicast = words.take("multicast::cluster");
    let operation = if reduces { words.take_map(Reduction::from_name) } else { None };
    if reduces && operation.is_none() {
        return Err(words.wrong("the operation is missing"));
    }
    let loads = match (first, second) {
        (Space::Shared, Space::Global) => true,
        (Space::Global, Space::Shared) => false,
        _ => return Err(words.wrong("the copy goes between `.global` and `.shared`")),
    };
    let completion = if loads { "mbarrier::complete_tx::bytes" } else { "bulk_group" };
    if !words.take(completion) {
        return Err(words.unsupported(format!("a copy that way completes by `.{completion}`")));
    }
    let mut rest = instruction.operands.iter();
    let mut next = || rest.next().ok_or_else(|| words.wrong("an operand is missing"));
    let (one, other) = (next()?, next()?);
    let (map, shared) = if loads { (other, one) } else { (one, other) };
    let barrier = if loads { Some(next()?) } else { None };
    let mask = if multicast { Some(next()?) } else { None };
    let Operand::Address { base, offset, rest: coordinates } = map else {
        return Err(words.wrong("a tensor map with coordinates is missing"));
    };
    let [Operand::Vector(coordinates)] = coordinates.as_slice() else {
        return Err(words.wrong("the coordinates are missing"));
    };
    if coordinates.len() != usize::from(rank) {
        return Err(words.wrong(format!("{} coordinates for {rank} dimensions", coordinates.len())));
    }
    let mut list = [NO_REG; LENGTH as usize];
    let map = cx.address_of(base, *offset, Space::Generic, words)?;
    list[..WORDS].copy_from_slice(&Pointer::words(map));
    let pointer = Pointer::words(cx.address(shared, Space::Shared, words)?);
    list[SHARED..BARRIER].copy_from_slice(&pointer);
    if let Some(barrier) = barrier {
        let pointer = Pointer::words(cx.address(barrier, Space::Shared, words)?);
        list[BARRIER..TARGETS].copy_from_slice(&pointer);
    }
    if let Some(mask) = mask {
        list[TARGETS] = cx.src(mask, Type::B16, words)?;
    }
    for (word, coordinate) in list[COORDINATES..].iter_mut().zip(coordinates) {
        *word = cx.src(coordinate, Type::S32, words)?;
    }
    // Sums of several CTAs depend on their order.
    cx.facts.communicates |= operation.is_some();
    let d = cx.push_list(&list);
    let imm = match (loads, operation) {
        (true, _) => LOAD,
        (false, None) => STORE,
        (false, Some(operation)) => REDUCE + operation as u64,
    };
    cx.emit(Inst { d, aux: u32::from(rank), imm, ..Decoder::blank(copy) });
    Ok(())
}

/// `d` the list, `aux` the rank, `imm` what to do.
unsafe fn copy(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    for lane in lanes_of(cx.mask) {
        // SAFETY: operands of this frame.
        if let Err(fault) = unsafe { copy_lane(cx, inst, lane) } {
            return cx.raise(fault);
        }
    }
    Flow::Next
}

/// Reads the map that a lane's address names.
fn load_map(cx: &mut Cx<'_>, pointer: Pointer, lane: u32) -> Result<TensorMap, Box<RawFault>> {
    let mut bytes = [0u8; 128];
    // SAFETY: an operand of this frame; both halves are checked (a map is 64-byte aligned).
    unsafe {
        let address = pointer.at(cx, lane);
        for half in 0..2u32 {
            let at = address.wrapping_add(u64::from(64 * half));
            let host = cx.lane_host(pointer.space, lane, at, 64, false)?;
            let to = bytes.as_mut_ptr().add(64 * half as usize);
            std::ptr::copy_nonoverlapping(host, to, 64);
        }
    }
    TensorMap::decode(&bytes).map_err(|rule| Cx::lane_misuse(lane, rule))
}

unsafe fn copy_lane(cx: &mut Cx<'_>, inst: &Inst, lane: u32) -> Result<(), Box<RawFault>> {
    let mut list = [0; LENGTH as usize];
    list.copy_from_slice(cx.list(inst.d, LENGTH));
    let map = load_map(cx, Pointer::read(&list), lane)?;
    let rank = inst.aux as usize;
    if map.rank != rank {
        let rule = format!("the tensor map has {} dimensions, the instruction {rank}", map.rank);
        return Err(Cx::lane_misuse(lane, rule));
    }
    if map.interleave != Interleave::None {
        let rule = "interleaved layouts are not part of this machine";
        return Err(Cx::lane_misuse(lane, rule));
    }
    let mut coordinates = [0; 5];
    for (axis, coordinate) in coordinates[..rank].iter_mut().enumerate() {
        // SAFETY: an operand of this frame.
        *coordinate = unsafe { cx.row32(list[COORDINATES + axis])[lane as usize] } as i32;
    }
    // SAFETY: an operand of this frame.
    let shared = unsafe { Pointer::read(&list[SHARED..]).shared_at(cx, lane)? };
    if inst.imm != LOAD {
        let operation = inst.imm.checked_sub(REDUCE).map(|number| OPERATIONS[number as usize & 7]);
        let group = Awaited::BulkGroup(cx.warp.bulk_groups[lane as usize]);
        let store = Store { map, coordinates, from: shared, operation, data: None };
        return cx.issue(lane, group, true, store);
    }
    // SAFETY: operands of this frame.
    let (barrier, targets) = unsafe {
        let barrier = Pointer::read(&list[BARRIER..]).shared_at(cx, lane)?;
        (barrier, targets_of(cx, list[TARGETS], lane)?)
    };
    for (number, target) in targets.into_iter().enumerate() {
        let (to, barrier) = (retarget(shared, target), retarget(barrier, target));
        let load = Load { map, coordinates, to, barrier, is_first: number == 0 };
        let holds = cx.is_own(to);
        cx.issue(lane, Awaited::Mbarrier, holds, load)?;
    }
    Ok(())
}

/// A box on its way into the shared memory of one CTA.
#[derive(Debug)]
struct Load {
    map: TensorMap,
    coordinates: [i32; 5],
    to: u32,
    barrier: u32,
    /// Of the CTAs that the instruction names: what is read for all is counted once.
    is_first: bool,
}

impl Operation for Load {
    fn step(&mut self, cx: &mut Cx<'_>, lane: u32) -> Result<bool, Box<RawFault>> {
        let bytes = self.map.box_bytes();
        let host = cx.shared_range(lane, self.to, bytes, 128)?;
        let loaded = load(cx, &self.map, self.coordinates, (self.to, host), lane)?;
        cx.proxy_write_shared(self.to, bytes);
        if self.is_first {
            cx.worker.counters.add_bulk_load(loaded);
        }
        complete(cx, lane, self.barrier, bytes)?;
        Ok(true)
    }
}

/// A box on its way into the tensor: read, then written or combined.
#[derive(Debug)]
struct Store {
    map: TensorMap,
    coordinates: [i32; 5],
    from: u32,
    operation: Option<Reduction>,
    /// What was read.
    data: Option<Vec<u8>>,
}

impl Operation for Store {
    fn step(&mut self, cx: &mut Cx<'_>, lane: u32) -> Result<bool, Box<RawFault>> {
        let Some(data) = self.data.take() else {
            let bytes = self.map.box_bytes();
            let host = cx.shared_range(lane, self.from, bytes, 128)?;
            let seen = cx.proxy_read_shared(self.from, host, bytes);
            // SAFETY: the range was checked.
            let source = unsafe { std::slice::from_raw_parts(host, bytes as usize) };
            self.data = Some(seen.unwrap_or_else(|| source.to_vec()));
            return Ok(false);
        };
        let source = (self.from, data.as_ptr());
        store(cx, &self.map, self.coordinates, source, lane, self.operation)?;
        Ok(true)
    }
}

/// Copies a box into shared memory at address `to`, which the host holds at `host`; gives the bytes
/// that lie inside the tensor.
fn load(
    cx: &mut Cx<'_>,
    map: &TensorMap,
    coordinates: [i32; 5],
    (to, host): (u32, *mut u8),
    lane: u32,
) -> Result<u64, Box<RawFault>> {
    let fill = map.fill();
    let size = map.element.bytes() as usize;
    let mut row_bytes = vec![0u8; (map.box_dims[0] * map.element.bytes()) as usize];
    let mut loaded = 0;
    map.for_each_row(coordinates, |row: BoxRow| {
        let (before, inside) = (row.before as usize, row.inside as usize);
        if inside < row_bytes.len() {
            for element in row_bytes.chunks_exact_mut(size) {
                element.copy_from_slice(&fill[..size]);
            }
        }
        if inside != 0 {
            let from = cx.global_range(lane, row.address, row.inside, false)?;
            let seen = cx.proxy_read(row.address, from, row.inside);
            let from = seen.as_ref().map_or(from.cast_const(), |bytes| bytes.as_ptr());
            let out = &mut row_bytes[before..before + inside];
            // SAFETY: the range was checked.
            unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), inside) };
            if matches!(map.element, MapElement::Tf32 | MapElement::Tf32Ftz) {
                round_to_tf32(out);
            }
            loaded += u64::from(row.inside);
        }
        for (index, chunk) in row_bytes.chunks_exact(16).enumerate() {
            let linear = to + row.offset + 16 * index as u32;
            let at = map.swizzle.apply(linear) as usize - to as usize;
            // SAFETY: the box was checked; a swizzle moves bytes within aligned blocks of the
            // pattern, which the last row's test covers.
            unsafe {
                if at + 16 <= map.box_bytes() as usize {
                    std::ptr::copy_nonoverlapping(chunk.as_ptr(), host.add(at), 16);
                } else {
                    return Err(outside(lane, to));
                }
            }
        }
        Ok(())
    })?;
    Ok(loaded)
}

fn outside(lane: u32, address: u32) -> Box<RawFault> {
    Cx::lane_misuse(
        lane,
        format!(
            "the box at shared address 0x{address:x} is swizzled across its ends: the address must \
             be a multiple of the pattern (1024, 512 or 256 bytes)"
        ),
    )
}

/// The float32 values of `bytes`, rounded to 10 fraction bits (nearest, ties to even).
fn round_to_tf32(bytes: &mut [u8]) {
    for word in bytes.chunks_exact_mut(4) {
        let bits = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
        let rounded = bits.wrapping_add(0x0fff + (bits >> 13 & 1)) & !0x1fff;
        let rounded = if is_nan { bits & !0x1fff | 0x0040_0000 } else { rounded };
        word.copy_from_slice(&rounded.to_le_bytes());
    }
}

/// Copies or combines a box from shared memory into the tensor; what lies outside is dropped.
fn store(
    cx: &mut Cx<'_>,
    map: &TensorMap,
    coordinates: [i32; 5],
    (from, host): (u32, *const u8),
    lane: u32,
    operation: Option<Reduction>,
) -> Result<(), Box<RawFault>> {
    let ty = reduction_type(map.element);
    if let Some(operation) = operation
        && !operation.takes(ty)
        && !operation.takes(bits_of(ty))
    {
        let rule = format!("no reduction {operation:?} of {:?}", map.element);
        return Err(Cx::lane_misuse(lane, rule));
    }
    let mut row_bytes = vec![0u8; (map.box_dims[0] * map.element.bytes()) as usize];
    let mut stored = 0;
    map.for_each_row(coordinates, |row: BoxRow| {
        if row.inside == 0 {
            return Ok(());
        }
        for (index, chunk) in row_bytes.chunks_exact_mut(16).enumerate() {
            let linear = from + row.offset + 16 * index as u32;
            let at = map.swizzle.apply(linear) as usize - from as usize;
            if at + 16 > map.box_bytes() as usize {
                return Err(outside(lane, from));
            }
            // SAFETY: the box was checked.
            unsafe { std::ptr::copy_nonoverlapping(host.add(at), chunk.as_mut_ptr(), 16) };
        }
        let (before, inside) = (row.before as usize, row.inside as usize);
        let bytes = &row_bytes[before..before + inside];
        let to = cx.global_range(lane, row.address, row.inside, true)?;
        // SAFETY: the range was checked.
        let memory = unsafe { std::slice::from_raw_parts_mut(to, inside) };
        match operation {
            None => memory.copy_from_slice(bytes),
            Some(operation) => operation.combine_all(ty, memory, bytes),
        }
        cx.proxy_write(row.address, row.inside);
        stored += u64::from(row.inside);
        Ok(())
    })?;
    cx.worker.counters.add_bulk_store(stored);
    Ok(())
}

fn reduction_type(element: MapElement) -> Type {
    match element {
        MapElement::U8 => Type::U8,
        MapElement::U16 => Type::U16,
        MapElement::U32 => Type::U32,
        MapElement::S32 => Type::S32,
        MapElement::U64 => Type::U64,
        MapElement::S64 => Type::S64,
        MapElement::F16 => Type::F16,
        MapElement::Bf16 => Type::BF16,
        MapElement::F64 => Type::F64,
        _ => Type::F32,
    }
}

/// The untyped type of the same size, for operations on bits.
fn bits_of(ty: Type) -> Type {
    match ty {
        Type::U32 | Type::S32 => Type::B32,
        Type::U64 | Type::S64 => Type::B64,
        other => other,
    }
}
