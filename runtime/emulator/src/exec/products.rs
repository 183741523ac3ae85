//! Matrix products that a warp has issued, and the rules for their registers (PTX ISA 9.7.15.6
//! "wgmma.mma_async", 9.7.15.7 "wgmma.fence", "wgmma.commit_group", "wgmma.wait_group").
//!
//! From its issue until a `wgmma.wait_group` covers its group, a product owns its accumulator and
//! the registers of A: touching an accumulator, or writing A, is an error, except by another
//! product with the same accumulator. Any other access to such registers needs a `wgmma.fence`
//! before the next product that uses them.

use std::collections::VecDeque;

use super::Cx;
use crate::program::Reg;

/// Registers of a product.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flight {
    d: Vec<Reg>,
    a: Vec<Reg>,
}

/// What is known of a row of registers.
#[derive(Clone, Copy, Debug, Default)]
struct RowState {
    /// Products in flight that write it.
    results: u32,
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
}

/// Bytes of a row of 32 registers.
const ROW: usize = 128;

impl Products {
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.groups.clear();
        self.rows.clear();
        self.fences = 0;
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
    pub(crate) fn issue(&mut self, d: &[Reg], a: &[Reg]) -> Result<(), String> {
        let fences = self.fences;
        if fences == 0 {
            return Err("a wgmma.fence must come before the first wgmma.mma_async".to_string());
        }
        let flight = Flight { d: d.to_vec(), a: a.to_vec() };
        for &reg in d.iter().chain(a) {
            if self.row(reg).touched == fences {
                return Err(
                    "registers of this wgmma.mma_async were accessed by other instructions \
                            since the last wgmma.fence"
                        .to_string(),
                );
            }
        }
        if d.iter().any(|&reg| self.row(reg).sources > 0)
            || a.iter().any(|&reg| self.row(reg).results > 0)
        {
            return Err("a product in flight uses these registers in another role; a \
                        wgmma.wait_group is missing"
                .to_string());
        }
        if d.iter().any(|&reg| self.row(reg).results > 0) {
            let mut earlier = self.open.iter().chain(self.groups.iter().flatten());
            let overlaps = |one: &Flight| one.d != flight.d && one.d.iter().any(|r| d.contains(r));
            if earlier.any(overlaps) {
                return Err(
                    "a product in flight writes a part of this accumulator; only products \
                            of the same shape follow each other without a wgmma.wait_group"
                        .to_string(),
                );
            }
        }
        for &reg in d {
            self.row(reg).results += 1;
        }
        for &reg in a {
            self.row(reg).sources += 1;
        }
        self.open.push(flight);
        Ok(())
    }

    /// Makes a group of those issued since the last; an empty group counts.
    pub(crate) fn commit(&mut self) {
        let group = std::mem::take(&mut self.open);
        self.groups.push_back(group);
    }

    /// Retires the oldest groups until at most `pending` are left.
    pub(crate) fn wait(&mut self, pending: u32) {
        while self.groups.len() > pending as usize {
            for flight in self.groups.pop_front().unwrap_or_default() {
                for &reg in &flight.d {
                    self.row(reg).results -= 1;
                }
                for &reg in &flight.a {
                    self.row(reg).sources -= 1;
                }
            }
        }
    }

    /// An instruction that is no product accesses a register.
    pub(crate) fn touch(&mut self, reg: Reg, writes: bool) -> Result<(), String> {
        let fences = self.fences;
        let row = self.row(reg);
        row.touched = fences;
        if row.results > 0 {
            return Err(
                "the instruction accesses the accumulator of a wgmma.mma_async in flight; a \
                        wgmma.wait_group is missing"
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

    #[test]
    fn an_accumulator_is_free_again_after_the_wait_that_covers_it() {
        let mut products = Products::default();
        assert!(products.issue(&D, &A).unwrap_err().contains("before the first"));
        products.fence();
        products.issue(&D, &A).unwrap();
        products.issue(&D, &A).unwrap();
        products.commit();
        products.issue(&[512, 640], &[]).unwrap();
        products.commit();
        assert!(products.touch(128, false).unwrap_err().contains("accumulator"));
        products.touch(256, false).unwrap();
        assert!(products.touch(256, true).unwrap_err().contains("reads"));
        products.wait(1);
        products.touch(128, true).unwrap();
        products.touch(256, true).unwrap();
        assert!(products.touch(640, false).is_err());
        products.wait(0);
        products.touch(640, false).unwrap();
    }

    #[test]
    fn accesses_between_products_need_a_fence() {
        let mut products = Products::default();
        products.fence();
        products.touch(0, true).unwrap();
        assert!(products.issue(&D, &A).unwrap_err().contains("since the last"));
        products.fence();
        products.issue(&D, &A).unwrap();
        assert!(products.issue(&[128, 384], &[]).unwrap_err().contains("a part"));
        assert!(products.issue(&A, &[]).unwrap_err().contains("another role"));
    }

    #[test]
    fn an_empty_group_counts() {
        let mut products = Products::default();
        products.fence();
        products.issue(&D, &[]).unwrap();
        products.commit();
        products.commit();
        products.wait(1);
        products.touch(0, false).unwrap();
    }
}
