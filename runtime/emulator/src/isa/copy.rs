//! Asynchronous copies by threads (PTX ISA 9.7.9.25.3, "cp.async").
//!
//! When a copy is done between its issue and the wait for its group, the schedule decides.

use super::memory::take_cache_words;
use crate::coherence::Order;
use crate::decode::operand::literal;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Awaited, Cx, Extend, Operation, addresses, blend, lanes_of, pack, space_number};
use crate::fault::RawFault;
use crate::program::{Flow, Inst, NO_REG};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::{Space, Type};

pub(crate) const OPCODES: &[&str] = &["cp"];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if !words.take("async") {
        return Err(words.unsupported("only asynchronous copies exist"));
    }
    if words.take("bulk") {
        return super::bulk::decode(cx, words, instruction);
    }
    if words.take("mbarrier") {
        return super::mbarrier::decode_copy_arrive(cx, words, instruction);
    }
    match words.take_any(&["commit_group", "wait_group", "wait_all"]) {
        Some("commit_group") => cx.emit(Decoder::blank(commit)),
        Some("wait_group") => {
            let [most] = super::operands(instruction, words)?;
            let imm = literal(most, Type::U32, words)?;
            cx.emit(Inst { imm, ..Decoder::blank(wait) });
        }
        Some(_) => cx.emit(Inst { aux: 1, ..Decoder::blank(wait) }),
        None => return decode_copy(cx, words, instruction),
    }
    Ok(())
}

fn decode_copy<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    take_cache_words(words);
    let (to, from) = (words.space(), words.space());
    if (to, from) != (Space::Shared, Space::Global) {
        return Err(words.wrong("the copy goes from `.global` to `.shared`"));
    }
    let (dst, src, size, rest) = match instruction.operands.as_slice() {
        [dst, src, size, rest @ ..] => (dst, src, literal(size, Type::U32, words)?, rest),
        _ => return Err(words.wrong("a destination, a source and a size are needed")),
    };
    if !matches!(size, 4 | 8 | 16) {
        return Err(words.wrong(format!("{size} bytes: the size is 4, 8 or 16")));
    }
    let dst = cx.address(dst, to, words)?;
    let src = cx.address(src, from, words)?;
    let mut inst = Decoder::blank(copy);
    (inst.a, inst.imm) = (dst.reg, dst.offset);
    inst.b = pack(1, dst.wide, Extend::Zero32);
    inst.aux = size as u32;
    (inst.c, inst.d) = (src.reg, NO_REG);
    // The optional operand: how many bytes to read (the rest becomes zeros), or a predicate that
    // says that none are read.
    let mut ignore = NO_REG;
    if let Some(operand) = rest.first() {
        match operand {
            Operand::Name(name, None)
                if cx.find_register(name, words)?.is_some_and(|(_, ty)| ty == Type::Pred) =>
            {
                ignore = cx.src(operand, Type::Pred, words)?;
            }
            Operand::Name(name, None)
                if cx.find_register(name, words)?.is_some_and(|(_, ty)| ty.bytes() == 8) => {}
            _ => inst.d = cx.src(operand, Type::U32, words)?,
        }
    }
    let site = cx.site();
    let high = (src.offset >> 32) as u32;
    let list = [site, u32::from(src.wide), src.offset as u32, high, ignore];
    let list = cx.push_list(&list);
    // The list's start travels with the size.
    inst.aux |= list << 8;
    cx.emit(inst);
    Ok(())
}

unsafe fn copy(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let size = inst.aux & 0xff;
    let (site, wide, offset, ignore) = match *cx.list(inst.aux >> 8, 5) {
        [site, wide, low, high, ignore] => {
            (site, wide != 0, u64::from(high) << 32 | u64::from(low), ignore)
        }
        _ => return cx.misuse("a broken instruction"),
    };
    // SAFETY: operands of this frame; all addresses are checked before use.
    unsafe {
        let to = addresses(cx, inst);
        let source = Inst { a: inst.c, b: pack(1, wide, Extend::Zero32), imm: offset, ..*inst };
        let from = addresses(cx, &source);
        let (global, shared) = (space_number(Space::Global), space_number(Space::Shared));
        let all = cx.mask;
        let mut reads = [size; 32];
        if inst.d != NO_REG {
            reads = cx.row32(inst.d).map(|bytes| bytes.min(size));
        }
        if ignore != NO_REG {
            let skip = *cx.pred(ignore);
            for lane in lanes_of(skip) {
                reads[lane as usize] = 0;
            }
        }
        let targets = match cx.hosts(shared, &to, size, true, site) {
            Ok(hosts) => hosts,
            Err(fault) => return cx.raise(fault),
        };
        // Lanes that read nothing may have any address.
        cx.mask =
            lanes_of(all).filter(|&lane| reads[lane as usize] != 0).fold(0, |m, l| m | 1 << l);
        let whole = reads.iter().all(|&bytes| bytes == size);
        let sources = if cx.mask == 0 {
            Ok([std::ptr::null_mut(); 32])
        } else if whole {
            cx.hosts(global, &from, size, false, site)
        } else {
            let mut hosts = [std::ptr::null_mut(); 32];
            let mut failed = None;
            for lane in lanes_of(cx.mask) {
                let bytes = reads[lane as usize];
                match cx.lane_host(global, lane, from[lane as usize], bytes, false) {
                    Ok(host) => hosts[lane as usize] = host,
                    Err(fault) => failed = Some(fault),
                }
            }
            failed.map_or(Ok(hosts), Err)
        };
        cx.mask = all;
        let sources = match sources {
            Ok(hosts) => hosts,
            Err(fault) => return cx.raise(fault),
        };
        let read: u32 = lanes_of(all).map(|lane| reads[lane as usize]).sum();
        cx.worker.counters.global_load_bytes += u64::from(read);
        cx.worker.counters.copy_load_bytes += u64::from(read);
        if let Some(traffic) = &mut cx.worker.counters.traffic {
            let read = lanes_of(all).map(|lane| (from[lane as usize], reads[lane as usize]));
            traffic.touch(read.filter(|(_, bytes)| *bytes != 0), false);
        }
        let mut left = all;
        while left != 0 {
            // Threads that have closed as many groups go together: as a rule all.
            let first = left.trailing_zeros();
            let group = cx.warp.copy_groups[first as usize];
            let same = lanes_of(left).filter(|&lane| cx.warp.copy_groups[lane as usize] == group);
            let lanes = same.fold(0, |mask, lane| mask | 1 << lane);
            left &= !lanes;
            let work = ThreadCopies { lanes, size, reads, from, sources, targets };
            if let Err(fault) = cx.issue(first, Awaited::CopyGroup { lanes, group }, true, work) {
                return cx.raise(fault);
            }
        }
    }
    Flow::Next
}

/// One `cp.async` of several threads.
#[derive(Debug)]
struct ThreadCopies {
    lanes: u32,
    /// Bytes written per thread; zeros behind those that are read.
    size: u32,
    reads: [u32; 32],
    from: [u64; 32],
    sources: [*mut u8; 32],
    targets: [*mut u8; 32],
}

// SAFETY: the pointers lead into memory of the device and of the CTA, which outlive the operation;
// the host thread that runs the CTA uses them.
unsafe impl Send for ThreadCopies {}
// SAFETY: as above.
unsafe impl Sync for ThreadCopies {}

impl Operation for ThreadCopies {
    fn step(&mut self, cx: &mut Cx<'_>, _: u32) -> Result<bool, Box<RawFault>> {
        for lane in lanes_of(self.lanes) {
            let lane = lane as usize;
            let mut bytes = [0u8; 16];
            let count = self.reads[lane] as usize;
            // SAFETY: both addresses were checked when the copy was issued.
            unsafe {
                if count != 0 && cx.launch.is_weak {
                    let from = (self.from[lane], self.sources[lane].cast_const());
                    bytes = cx.load_watched(from, count, Order::Weak).to_le_bytes();
                } else if count != 0 {
                    std::ptr::copy_nonoverlapping(self.sources[lane], bytes.as_mut_ptr(), count);
                }
                let target = self.targets[lane];
                cx.before_shared_store(target, self.size);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, self.size as usize);
            }
        }
        Ok(true)
    }
}

/// `cp.async.commit_group` (9.7.9.25.3.2).
unsafe fn commit(cx: &mut Cx<'_>, _: &Inst) -> Flow {
    let closed = cx.warp.copy_groups.map(|groups| groups + 1);
    blend(&mut cx.warp.copy_groups, &closed, cx.mask);
    Flow::Next
}

/// `cp.async.wait_group` and `.wait_all` (9.7.9.25.3.3): `imm` groups may stay in flight; none, and
/// no copy without a group, where `aux` is set.
unsafe fn wait(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let most = u32::try_from(inst.imm).unwrap_or(u32::MAX);
    match cx.wait_copies((inst.aux == 0).then_some(most)) {
        Ok(()) => Flow::Next,
        Err(fault) => cx.raise(fault),
    }
}
