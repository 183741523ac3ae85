//! Divergence: splits of a warp, and the joins where they meet again.
//!
//! A warp starts as one split of all its lanes. A branch whose lanes disagree makes two splits and
//! a join at the branch's immediate post-dominator; lanes that reach it wait there until all
//! members came, left the function or exited. That is the classic reconvergence stack, held as a
//! tree, so that any split can run next: when one spins (a lock held by a sibling), or waits for
//! lanes that already sit at a join, those lanes are released early and meet again further on.

use super::Cx;
use super::frame::Place;
use super::warp::Warp;
use crate::fault::FaultKind;
use crate::program::{Flow, NO_PC, NO_REG};

/// No join.
pub(crate) const NO_JOIN: u32 = u32::MAX;

/// Calls nest at most this deep.
const MAX_FRAMES: usize = 2048;

/// What a split waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing.
    Ready,
    /// The end of a generation of a CTA barrier.
    Barrier { id: u8, generation: u32 },
    /// The phase of an mbarrier: its word in the host's memory, and the parity of the phase.
    Mbarrier { word: usize, parity: bool },
    /// Nothing any more: the time of a wait at an mbarrier is over.
    TimedOut,
    /// A change of memory that a loop of the warp has read; which one the warp knows.
    Poll { slot: u32 },
    /// A generation of the cluster's barrier.
    Cluster { generation: u32 },
    /// The other warps of the warpgroup.
    Warpgroup { generation: u32 },
    /// As many registers in the pool of the CTA.
    Registers { needed: u32 },
    /// The lanes of `required`, at the same instruction; `mask` are those that execute it here.
    Warp { required: u32, mask: u32 },
    /// The lanes of `required`, at any `bar.warp.sync` with the same member mask.
    Meeting { required: u32, mask: u32 },
}

/// Lanes that execute together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    /// The join that its lanes go to.
    pub(crate) join: u32,
    pub(crate) frame: u32,
    pub(crate) wait: Wait,
}

/// A place where lanes wait for each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    /// Where lanes go on; for a return, behind the call.
    pub(crate) pc: u32,
    pub(crate) members: u32,
    pub(crate) arrived: u32,
    pub(crate) parent: u32,
    /// The frame of the lanes that go on.
    pub(crate) frame: u32,
    /// The frame that a return frees.
    pub(crate) callee: Option<u32>,
    /// The call site of a return.
    pub(crate) call: u32,
}

/// What [`Cx::gather`] found.
pub(crate) enum Gathered {
    /// All required lanes are here: `cx.mask` now holds all that execute.
    All,
    /// Some are missing: return [`Flow::Wait`].
    Missing,
}

impl Warp {
    fn new_join(&mut self, join: Join) -> u32 {
        if let Some(index) = self.free_joins.pop() {
            self.joins[index as usize] = join;
            return index;
        }
        self.joins.push(join);
        self.joins.len() as u32 - 1
    }

    /// Drops the running split.
    fn drop_current(&mut self) {
        self.splits.swap_remove(self.current);
        self.current = self.splits.len().saturating_sub(1);
    }

    /// Lets the lanes go on if all members have come; frees the join once it is empty.
    fn complete(&mut self, index: u32) {
        let join = self.joins[index as usize];
        if join.arrived != join.members {
            return;
        }
        if join.arrived != 0 {
            self.push_from(&join);
        }
        if let Some(callee) = join.callee {
            self.free_frames.push(callee);
        }
        // A join that no split refers to any more: nested ones were emptied before it.
        self.joins[index as usize].members = 0;
        self.joins[index as usize].arrived = 0;
        self.free_joins.push(index);
    }

    fn push_from(&mut self, join: &Join) {
        self.splits.push(Split {
            pc: join.pc,
            mask: join.arrived,
            join: join.parent,
            frame: join.frame,
            wait: Wait::Ready,
        });
        self.current = self.splits.len() - 1;
    }

    /// Lets lanes that wait at joins go on before the others have come. False if there were none.
    pub(crate) fn release_arrived(&mut self) -> bool {
        let mut found = false;
        for index in 0..self.joins.len() {
            let join = self.joins[index];
            if join.arrived != 0 && join.arrived != join.members {
                self.push_from(&join);
                self.joins[index].members &= !join.arrived;
                self.joins[index].arrived = 0;
                found = true;
            }
        }
        found
    }

    /// Lanes that wait at a `bar.warp.sync` with this member mask.
    pub(crate) fn met(&self, members: u32) -> u32 {
        let waiting = self.splits.iter().map(|split| match split.wait {
            Wait::Meeting { required, mask } if required == members => mask,
            _ => 0,
        });
        waiting.fold(0, |all, mask| all | mask)
    }

    /// Takes `mask` out of the joins from `join` up to, without, `end`.
    fn leave_joins(&mut self, mut join: u32, end: u32, mask: u32) {
        while join != end && join != NO_JOIN {
            let parent = self.joins[join as usize].parent;
            self.joins[join as usize].members &= !mask;
            self.complete(join);
            join = parent;
        }
    }
}

impl Cx<'_> {
    /// Branches for the lanes of `cx.mask`; the others go on behind the branch. `meet` is where
    /// both sides meet again.
    pub(crate) fn branch(&mut self, target: u32, meet: u32) -> Flow {
        let here = self.pc;
        let taken = self.mask;
        let split = *self.split();
        if taken == split.mask {
            self.pc = target;
            if target <= here && self.warp.is_diverged() {
                return self.back_edge();
            }
            return Flow::Jump;
        }
        self.diverge(&[(taken, target), (split.mask & !taken, here + 1)], meet)
    }

    /// Sends parts of the running split to different places.
    pub(crate) fn diverge(&mut self, sides: &[(u32, u32)], meet: u32) -> Flow {
        let split = *self.split();
        let join = if meet == NO_PC {
            split.join
        } else {
            let reusable = split.join != NO_JOIN && {
                let join = &self.warp.joins[split.join as usize];
                join.pc == meet && join.frame == split.frame && join.callee.is_none()
            };
            if reusable {
                split.join
            } else {
                self.warp.new_join(Join {
                    pc: meet,
                    members: split.mask,
                    arrived: 0,
                    parent: split.join,
                    frame: split.frame,
                    callee: None,
                    call: 0,
                })
            }
        };
        self.warp.drop_current();
        // The side that comes first in the text is pushed last and runs first.
        let mut order: Vec<(u32, u32)> = sides.to_vec();
        order.sort_by_key(|&(_, target)| std::cmp::Reverse(target));
        for (mask, target) in order {
            if mask == 0 {
                continue;
            }
            if target == meet && join != NO_JOIN {
                self.warp.joins[join as usize].arrived |= mask;
            } else {
                self.warp.splits.push(Split { pc: target, mask, join, ..split });
                self.warp.current = self.warp.splits.len() - 1;
            }
        }
        if join != NO_JOIN {
            self.warp.complete(join);
        }
        Flow::Switch
    }

    /// A diverged split went backwards: after a while its siblings get their turn.
    fn back_edge(&mut self) -> Flow {
        self.warp.back_edges += 1;
        if self.warp.back_edges < self.launch.patience {
            return Flow::Jump;
        }
        self.warp.back_edges = 0;
        let pc = self.pc;
        self.split().pc = pc;
        if !self.warp.release_arrived() {
            self.warp.current += 1;
        }
        Flow::Switch
    }

    /// The pseudo-instruction at a post-dominator.
    pub(crate) fn arrive_at_join(&mut self) -> Flow {
        let split = *self.split();
        if split.join == NO_JOIN {
            return Flow::Next;
        }
        let join = &mut self.warp.joins[split.join as usize];
        if join.pc != self.pc || join.frame != split.frame || join.callee.is_some() {
            return Flow::Next;
        }
        join.arrived |= split.mask;
        self.warp.drop_current();
        self.warp.complete(split.join);
        Flow::Switch
    }

    /// `exit` for the lanes of `cx.mask`.
    pub(crate) fn exit(&mut self) -> Flow {
        let split = *self.split();
        let leaving = self.mask;
        self.worker.progress += 1;
        self.warp.live &= !leaving;
        self.leave_cluster(leaving);
        if leaving == split.mask {
            self.warp.drop_current();
        } else {
            let pc = self.pc + 1;
            let rest = self.split();
            rest.mask &= !leaving;
            rest.pc = pc;
        }
        self.warp.leave_joins(split.join, NO_JOIN, leaving);
        Flow::Switch
    }

    /// Where the stack of these lanes ends: above the variables and what `alloca` has taken.
    fn stack_end(&self, frame: u32, mask: u32) -> u32 {
        let base = self.warp.frames[frame as usize].local_base + self.function.local_bytes;
        if self.function.stack_top == NO_REG {
            return base;
        }
        // SAFETY: the decoder allotted the row in this function's frame.
        let taken = unsafe { self.row32(self.function.stack_top) };
        let most = super::lanes_of(mask).map(|lane| taken[lane as usize]).max();
        (base + most.unwrap_or(0)).next_multiple_of(16)
    }

    /// Calls a function for the lanes of `cx.mask`; the others go on behind the call.
    pub(crate) fn call(&mut self, callee: u32, call: u32) -> Flow {
        let (mask, pc) = (self.mask, self.pc);
        let launch = self.launch;
        let Some(function) = launch.program.functions.get(callee as usize) else {
            return self.misuse("the callee is not a function of this module");
        };
        if !function.has_body {
            return self.misuse(format!("`{}` has no body", function.name));
        }
        if self.warp.frames.len() - self.warp.free_frames.len() >= MAX_FRAMES {
            return self.fail(FaultKind::Limit(format!("calls nest deeper than {MAX_FRAMES}")));
        }
        let split = *self.split();
        let base = self.stack_end(split.frame, mask);
        if !self.warp.local.reserve(base + function.local_bytes) {
            return self.fail(FaultKind::Limit(format!(
                "the stack of a thread grows past {} bytes",
                crate::memory::MAX_LOCAL
            )));
        }
        let frame = self.warp.free_frames.pop().unwrap_or_else(|| {
            self.warp.frames.push(Default::default());
            self.warp.frames.len() as u32 - 1
        });
        let place = Place { sm: self.cta.sm, ctaid: self.cta.ctaid, warp: self.warp.index };
        self.warp.frames[frame as usize].enter((callee, function), base, launch, place);
        let caller_base = self.warp.frames[split.frame as usize].local_base;
        let site = &self.function.calls[call as usize];
        for (from, to) in site.args.iter().zip(&function.formals) {
            self.warp.local.copy(
                mask,
                caller_base + from.offset,
                base + to.offset,
                to.bytes.min(from.bytes),
            );
        }
        let join = self.warp.new_join(Join {
            pc: pc + 1,
            members: mask,
            arrived: 0,
            parent: split.join,
            frame: split.frame,
            callee: Some(frame),
            call,
        });
        if mask == split.mask {
            self.warp.drop_current();
        } else {
            let rest = self.split();
            rest.mask &= !mask;
            rest.pc = pc + 1;
        }
        self.warp.splits.push(Split { pc: 0, mask, join, frame, wait: Wait::Ready });
        self.warp.current = self.warp.splits.len() - 1;
        Flow::Switch
    }

    /// As [`Cx::call`] for the lanes of `some`; the others execute the call again.
    pub(crate) fn call_some(&mut self, callee: u32, call: u32, some: u32) -> Flow {
        let split = *self.split();
        if split.mask != some {
            let rest = Split { pc: self.pc, mask: split.mask & !some, ..split };
            self.warp.splits.push(rest);
            self.split().mask = some;
        }
        self.mask = some;
        self.call(callee, call)
    }

    /// `ret` for the lanes of `cx.mask`; from a kernel it is `exit`.
    pub(crate) fn ret(&mut self) -> Flow {
        let split = *self.split();
        let mut join = split.join;
        while join != NO_JOIN && self.warp.joins[join as usize].callee.is_none() {
            join = self.warp.joins[join as usize].parent;
        }
        if join == NO_JOIN {
            return self.exit();
        }
        let leaving = self.mask;
        let target = self.warp.joins[join as usize];
        let caller = &self.warp.frames[target.frame as usize];
        let (caller_base, caller_function) = (caller.local_base, caller.function);
        let base = self.warp.frames[split.frame as usize].local_base;
        let launch = self.launch;
        let caller = &launch.program.functions[caller_function as usize];
        let site = &caller.calls[target.call as usize];
        for (to, from) in site.results.iter().zip(&self.function.results) {
            self.warp.local.copy(
                leaving,
                base + from.offset,
                caller_base + to.offset,
                to.bytes.min(from.bytes),
            );
        }
        if leaving == split.mask {
            self.warp.drop_current();
        } else {
            let pc = self.pc + 1;
            let rest = self.split();
            rest.mask &= !leaving;
            rest.pc = pc;
        }
        self.warp.leave_joins(split.join, join, leaving);
        self.warp.joins[join as usize].arrived |= leaving;
        self.warp.complete(join);
        Flow::Switch
    }

    /// Waits until the lanes of `required` that still live execute some `bar.warp.sync` of this
    /// member mask, not necessarily this one (PTX ISA 9.7.13.2).
    pub(crate) fn meet(&mut self, required: u32) -> Gathered {
        let mask = self.mask;
        let here = mask | self.warp.met(required);
        let needed = required & self.warp.live;
        if here & needed != needed {
            self.wait_as(mask, Wait::Meeting { required, mask });
            return Gathered::Missing;
        }
        let current = self.warp.current;
        for (index, other) in self.warp.splits.iter_mut().enumerate() {
            if matches!(other.wait, Wait::Meeting { required: same, .. } if same == required) {
                other.wait = Wait::Ready;
                other.pc += u32::from(index != current);
            }
        }
        self.merge();
        Gathered::All
    }

    /// Makes one split of those that now stand behind this instruction.
    fn merge(&mut self) {
        let pc = self.pc;
        let split = self.split();
        split.pc = pc;
        let frame = split.frame;
        self.warp.merge(frame);
        self.active = self.split().mask;
    }

    /// Waits until the lanes of `required` that still live execute this very instruction; then
    /// `cx.mask` holds all of them and the other splits have gone past it.
    pub(crate) fn gather(&mut self, required: u32) -> Gathered {
        let needed = required & self.warp.live;
        if self.mask & needed == needed {
            self.split().wait = Wait::Ready;
            return Gathered::All;
        }
        let (mask, pc) = (self.mask, self.pc);
        let frame = self.split().frame;
        let mut union = mask;
        for other in &self.warp.splits {
            if let Wait::Warp { mask, .. } = other.wait
                && other.pc == pc
                && other.frame == frame
            {
                union |= mask;
            }
        }
        if union & needed != needed {
            self.wait_as(mask, Wait::Warp { required, mask });
            return Gathered::Missing;
        }
        self.split().wait = Wait::Ready;
        let current = self.warp.current;
        for (index, other) in self.warp.splits.iter_mut().enumerate() {
            if matches!(other.wait, Wait::Warp { .. }) && other.pc == pc && other.frame == frame {
                other.wait = Wait::Ready;
                other.pc += u32::from(index != current);
            }
        }
        self.mask = union;
        self.merge();
        Gathered::All
    }
}

impl Cx<'_> {
    /// Lets the lanes of `mask`, a part of the running split, wait at this instruction; the other
    /// lanes of the split go past it.
    pub(crate) fn wait_as(&mut self, mask: u32, wait: Wait) -> Flow {
        let pc = self.pc;
        let split = *self.split();
        if mask & split.mask != split.mask {
            let rest = Split { pc: pc + 1, mask: split.mask & !mask, wait: Wait::Ready, ..split };
            self.warp.splits.push(rest);
            self.split().mask = mask & split.mask;
        }
        // After a gather, lanes of other splits wait as well: they stand behind this instruction
        // already, and go on with the running split.
        let gathered = mask & !split.mask;
        if gathered != 0 {
            self.absorb(gathered, wait);
        }
        let split = self.split();
        (split.pc, split.wait) = (pc, wait);
        Flow::Wait
    }

    /// Takes lanes of splits that a gather has sent past this instruction back to it, each as a
    /// waiting split of its own join.
    fn absorb(&mut self, lanes: u32, wait: Wait) {
        let (pc, current) = (self.pc, self.warp.current);
        for (index, other) in self.warp.splits.iter_mut().enumerate() {
            if index != current && other.pc == pc + 1 && other.mask & lanes == other.mask {
                (other.pc, other.wait) = (pc, wait);
            }
        }
    }
}

impl Cx<'_> {
    /// Parts the running split: the lanes of `group` and the others execute this instruction
    /// again, each for themselves, and meet at the join that they had in common.
    pub(crate) fn split_off(&mut self, group: u32) -> Flow {
        let pc = self.pc;
        let split = *self.split();
        self.split().pc = pc;
        if group != 0 && group & split.mask != split.mask {
            self.warp.splits.push(Split { pc, mask: split.mask & !group, ..split });
            self.split().mask = split.mask & group;
        }
        Flow::Switch
    }
}
