//! Chains of views, and pieces side by side.

use super::Growth;
use moec_ir::Op;

impl Growth<'_> {
    pub(super) fn views(&mut self) {
        let mut x = self.row();
        for _ in 0..2 + self.random.below(5) {
            x = self.view(x);
        }
        self.keep(x);
    }

    fn view(&mut self, x: usize) -> usize {
        let columns = self.columns(x);
        let rank = columns.len() + 1;
        let axis = 1 + self.random.below(rank - 1);
        let size = columns[axis - 1];
        match self.random.below(8) {
            0 | 1 => {
                let start = self.random.below(size as usize) as u64;
                let len =
                    if self.random.one_in(6) { size - start } else { (size - start).div_ceil(2) };
                self.slice(x, axis, start, len)
            }
            2 if rank == 2 && size.is_multiple_of(2) => self.reshape(x, &[2, size / 2]),
            3 => self.reshape(x, &[columns.iter().product()]),
            4 if rank == 3 => self.b.op(Op::Transpose(vec![0, 2, 1]), &[x]),
            4 if rank == 2 => self.b.op(Op::Transpose(vec![0, 1]), &[x]),
            5 => {
                let one = self.slice(x, axis, 0, 1);
                let mut wide = columns;
                wide[axis - 1] = self.random.pick(&[1, 3]);
                self.b.op(Op::Broadcast(Self::with_tokens(&wide)), &[one])
            }
            6 if size >= 2 => {
                // Pieces of one value, mostly in their order.
                let cut = 1 + self.random.below(size as usize - 1) as u64;
                let a = self.slice(x, axis, 0, cut);
                let b = self.slice(x, axis, cut, size - cut);
                let pieces = if self.random.one_in(3) { [b, a] } else { [a, b] };
                self.b.op(Op::Concat { axis }, &pieces)
            }
            _ if rank == 2 => {
                let y = self.row();
                if self.dtype(y) == self.dtype(x) && self.width(x) + self.width(y) <= 24 {
                    self.b.op(Op::Concat { axis: 1 }, &[x, y])
                } else {
                    x
                }
            }
            _ => x,
        }
    }
}
