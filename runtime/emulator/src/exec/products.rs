//! Matrix products that a warp has issued, and the rules for their registers (PTX ISA 9.7.15.6
//! "wgmma.mma_async", 9.7.15.7 "wgmma.fence", "wgmma.commit_group", "wgmma.wait_group").
//!
//! From its issue until a `wgmma.wait_group` covers its group, a product owns its accumulator and
//! the registers of A: touching an accumulator, or writing A, is an error, except by another
//! product with the same accumulator. Any other access to such registers needs a `wgmma.fence`
//! before the next product that uses them.
//!
//! Because nothing may look at an accumulator in flight, it stays in the layout of the kernels
//! from the first product to the wait, and its registers are written then.

use std::collections::VecDeque;

use super::Cx;
use crate::program::Reg;
use crate::tensor_core::Accumulator;
use crate::tensor_core::fragments::{Row, scatter};

/// A product in flight: the number of its accumulator, and the registers of A.
#[derive(Clone, Debug)]
struct Flight {
    accumulator: u32,
    a: Vec<Reg>,
}

/// An accumulator in flight.
#[derive(Debug)]
struct InFlight {
    number: u32,
    d: Vec<Reg>,
    /// Products that no wait has covered.
    products: u32,
    kind: Accumulator,
    columns: usize,
    /// The values, once a product has been computed.
    values: Vec<f32>,
    has_values: bool,
}

/// What is known of a row of registers.
#[derive(Clone, Copy, Debug, Default)]
struct RowState {
    /// Part of an accumulator in flight.
    is_result: bool,
    /// Products in flight that read it.
    sources: u32,
    /// The number of the last fence before its last access by anything but a product; 0 for none.
    touched: u32,
}

/// The products of one warp: since the last commit, and in groups that no wait has covered.
#[derive(Debug, Default)]
pub(crate) struct Products {
    open: Vec<Flight>,
    groups: VecDeque<Vec<Flight>>,
    rows: Vec<RowState>,
    /// Fences so far.
    fences: u32,
    accumulators: Vec<InFlight>,
    next_number: u32,
    free_values: Vec<Vec<f32>>,
}

/// Bytes of a row of 32 registers.
const ROW: usize = 128;

impl Products {
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.groups.clear();
        self.rows.clear();
        self.fences = 0;
        self.free_values.extend(self.accumulators.drain(..).map(|one| one.values));
    }

    pub(crate) fn fence(&mut self) {
        self.fences += 1;
    }

    fn row(&mut self, reg: Reg) -> &mut RowState {
        let index = reg as usize / ROW;
        if index >= self.rows.len() {
            self.rows.resize(index + 1, RowState::default());
        }
        &mut self.rows[index]
    }

    /// A product with these registers is issued; the error names the rule that it breaks.
    pub(crate) fn issue(
        &mut self,
        (d, kind, columns): (&[Reg], Accumulator, usize),
        a: &[Reg],
    ) -> Result<(), String> {
        let fences = self.fences;
        if fences == 0 {
            return Err("a wgmma.fence must come before the first wgmma.mma_async".to_string());
        }
        for &reg in a {
            let row = *self.row(reg);
            if row.touched == fences {
                return Err(NO_FENCE.to_string());
            }
            if row.is_result {
                return Err(OTHER_ROLE.to_string());
            }
        }
        let known = self.accumulators.iter().position(|one| one.d == d);
        let index = match known {
            // Nothing but products has touched it since it was checked.
            Some(index) => index,
            None => self.add_accumulator(d, kind, columns)?,
        };
        for &reg in a {
            self.row(reg).sources += 1;
        }
        let one = &mut self.accumulators[index];
        one.products += 1;
        self.open.push(Flight { accumulator: one.number, a: a.to_vec() });
        Ok(())
    }

    fn add_accumulator(
        &mut self,
        d: &[Reg],
        kind: Accumulator,
        columns: usize,
    ) -> Result<usize, String> {
        let fences = self.fences;
        for &reg in d {
            let row = *self.row(reg);
            if row.touched == fences {
                return Err(NO_FENCE.to_string());
            }
            if row.sources > 0 {
                return Err(OTHER_ROLE.to_string());
            }
            if row.is_result {
                return Err(
                    "a product in flight writes a part of this accumulator; only products \
                            of the same shape follow each other without a wgmma.wait_group"
                        .to_string(),
                );
            }
        }
        for &reg in d {
            self.row(reg).is_result = true;
        }
        self.next_number = self.next_number.wrapping_add(1);
        self.accumulators.push(InFlight {
            number: self.next_number,
            d: d.to_vec(),
            products: 0,
            kind,
            columns,
            values: self.free_values.pop().unwrap_or_default(),
            has_values: false,
        });
        Ok(self.accumulators.len() - 1)
    }

    /// Makes a group of those issued since the last; an empty group counts.
    pub(crate) fn commit(&mut self) {
        let group = std::mem::take(&mut self.open);
        self.groups.push_back(group);
    }

    /// Room for the values of the accumulator `d`, which is in flight, and whether they are there.
    pub(crate) fn values(&mut self, d: &[Reg]) -> Option<(bool, &mut Vec<f32>)> {
        let one = self.accumulators.iter_mut().find(|one| one.d == d)?;
        let ready = std::mem::replace(&mut one.has_values, true);
        Some((ready, &mut one.values))
    }

    /// Products that a wait with at most `pending` groups left does not cover.
    pub(crate) fn uncovered(&self, pending: u32) -> usize {
        let youngest = self.groups.iter().rev().take(pending as usize);
        self.open.len() + youngest.map(Vec::len).sum::<usize>()
    }

    /// Retires the oldest groups until at most `pending` are left, and writes the registers of
    /// accumulators that are then no longer in flight.
    ///
    /// # Safety
    /// `frame` must be the registers of the function that issued the products.
    pub(crate) unsafe fn wait(&mut self, pending: u32, frame: *mut u8) {
        while self.groups.len() > pending as usize {
            for flight in self.groups.pop_front().unwrap_or_default() {
                for &reg in &flight.a {
                    self.row(reg).sources -= 1;
                }
                let mut all = self.accumulators.iter();
                let Some(index) = all.position(|one| one.number == flight.accumulator) else {
                    continue;
                };
                self.accumulators[index].products -= 1;
                if self.accumulators[index].products == 0 {
                    // SAFETY: as the caller's.
                    unsafe { self.land(index, frame) };
                }
            }
        }
    }

    /// Writes the registers of an accumulator.
    unsafe fn land(&mut self, index: usize, frame: *mut u8) {
        let one = self.accumulators.swap_remove(index);
        for &reg in &one.d {
            self.row(reg).is_result = false;
        }
        if one.has_values {
            scatter(one.kind, one.columns, &one.values, |register| -> *mut Row {
                // SAFETY: a register of the caller's frame.
                unsafe { frame.add(one.d[register] as usize).cast() }
            });
        }
        self.free_values.push(one.values);
    }

    /// An instruction that is no product accesses a register.
    pub(crate) fn touch(&mut self, reg: Reg, writes: bool) -> Result<(), String> {
        let fences = self.fences;
        let row = self.row(reg);
        row.touched = fences;
        if row.is_result {
            return Err(
                "the instruction accesses the accumulator of a wgmma.mma_async in flight; \
                        a wgmma.wait_group is missing"
                    .to_string(),
            );
        }
        if writes && row.sources > 0 {
            return Err(
                "the instruction writes a register that a wgmma.mma_async in flight reads; \
                        a wgmma.wait_group is missing"
                    .to_string(),
            );
        }
        Ok(())
    }
}

const NO_FENCE: &str = "registers of this wgmma.mma_async were accessed by other instructions \
                        since the last wgmma.fence";
const OTHER_ROLE: &str = "a product in flight uses these registers in another role; a \
                          wgmma.wait_group is missing";

impl Cx<'_> {
    /// Whether the running split executes the warp's outermost function, whose registers are
    /// followed.
    pub(crate) fn follows_products(&mut self) -> bool {
        self.split().frame == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: [Reg; 2] = [0, 128];
    const A: [Reg; 1] = [256];

    fn issue(products: &mut Products, d: &[Reg], a: &[Reg]) -> Result<(), String> {
        products.issue((d, Accumulator::F32, 0), a)
    }

    fn wait(products: &mut Products, pending: u32) {
        // SAFETY: no values were computed, so that no register is written.
        unsafe { products.wait(pending, std::ptr::null_mut()) };
    }

    #[test]
    fn an_accumulator_is_free_again_after_the_wait_that_covers_it() {
        let mut products = Products::default();
        assert!(issue(&mut products, &D, &A).unwrap_err().contains("before the first"));
        products.fence();
        issue(&mut products, &D, &A).unwrap();
        issue(&mut products, &D, &A).unwrap();
        products.commit();
        issue(&mut products, &[512, 640], &[]).unwrap();
        products.commit();
        assert!(products.touch(128, false).unwrap_err().contains("accumulator"));
        products.touch(256, false).unwrap();
        assert!(products.touch(256, true).unwrap_err().contains("reads"));
        wait(&mut products, 1);
        products.touch(128, true).unwrap();
        products.touch(256, true).unwrap();
        assert!(products.touch(640, false).is_err());
        wait(&mut products, 0);
        products.touch(640, false).unwrap();
    }

    #[test]
    fn accesses_between_products_need_a_fence() {
        let mut products = Products::default();
        products.fence();
        products.touch(0, true).unwrap();
        assert!(issue(&mut products, &D, &A).unwrap_err().contains("since the last"));
        products.fence();
        issue(&mut products, &D, &A).unwrap();
        assert!(issue(&mut products, &[128, 384], &[]).unwrap_err().contains("a part"));
        assert!(issue(&mut products, &A, &[]).unwrap_err().contains("another role"));
        assert!(issue(&mut products, &[512], &D).unwrap_err().contains("another role"));
    }

    #[test]
    fn an_empty_group_counts() {
        let mut products = Products::default();
        products.fence();
        issue(&mut products, &D, &[]).unwrap();
        products.commit();
        products.commit();
        wait(&mut products, 1);
        products.touch(0, false).unwrap();
    }

    #[test]
    fn a_wait_that_covers_a_part_of_a_chain_keeps_the_accumulator() {
        let mut products = Products::default();
        products.fence();
        for _ in 0..3 {
            issue(&mut products, &D, &[]).unwrap();
            products.commit();
        }
        wait(&mut products, 1);
        assert!(products.touch(0, false).is_err());
        wait(&mut products, 0);
        products.touch(0, false).unwrap();
    }
}
