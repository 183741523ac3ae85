//! Work of a micro-batch on compute SMs, whose cost is a function of their number.

use crate::cost::{Attention, Machine, Product, Stream, Tiles};

/// What one launch does.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// A product on tensor cores, with the tiles of our code generation.
    Product(Product),
    /// Attention.
    Attention(Attention),
    /// Element-wise work and copies.
    Stream(Stream),
}

impl Task {
    /// Predicted seconds on a machine.
    pub fn seconds(&self, machine: &Machine) -> f64 {
        match self {
            Self::Product(product) => product.estimate(machine, Tiles::OURS).total,
            Self::Attention(attention) => attention.estimate(machine).total,
            Self::Stream(stream) => stream.estimate(machine).total,
        }
    }

    /// The same for one of `n` equal parts of the tokens. Weights are read by each part.
    #[must_use]
    pub fn part(&self, n: u32) -> Self {
        let n = f64::from(n.max(1));
        match *self {
            Self::Product(p) => {
                let weights = p.batch * p.columns * p.depth * p.element;
                let rest = (p.bytes - weights).max(0.0);
                Self::Product(Product { rows: p.rows / n, bytes: p.bytes - rest + rest / n, ..p })
            }
            // Sequences are divided, or tokens where there are too few.
            Self::Attention(a) if a.sequences >= n => {
                Self::Attention(Attention { sequences: a.sequences / n, bytes: a.bytes / n, ..a })
            }
            Self::Attention(a) => {
                Self::Attention(Attention { tokens: a.tokens / n, bytes: a.bytes / n, ..a })
            }
            Self::Stream(s) => Self::Stream(Stream { bytes: s.bytes / n, flops: s.flops / n, ..s }),
        }
    }
}

/// Launches one after the other.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// The launches.
    pub tasks: Vec<Task>,
}

impl Work {
    /// Predicted seconds on a machine.
    pub fn seconds(&self, machine: &Machine) -> f64 {
        self.tasks.iter().map(|task| task.seconds(machine)).sum()
    }

    /// The same for one of `n` equal parts of the tokens.
    #[must_use]
    pub fn part(&self, n: u32) -> Self {
        Self { tasks: self.tasks.iter().map(|task| task.part(n)).collect() }
    }
}

impl FromIterator<Task> for Work {
    fn from_iter<I: IntoIterator<Item = Task>>(tasks: I) -> Self {
        Self { tasks: tasks.into_iter().collect() }
    }
}
