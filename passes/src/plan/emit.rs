//! Emits launches, value by value.

use super::KernelTable;
use super::homes;
use super::labels::labels;
use super::place::{Place, Root};
use super::weights::Weights;
use crate::cost::{CostModel, Estimate};
use crate::extract::Extracted;
use crate::language::{Kernel, Term};
use indexmap::IndexSet;
use moec_ir::kernel::exchange::Region;
use moec_ir::kernel::{Exchange, KernelSpec, Scalar};
use moec_ir::plan::{Table, Weight};
use moec_ir::{Diagnostic, Dim, Function, Op, Ranks, TensorType};

/// A launch before temporaries share memory.
pub(super) struct RawLaunch {
    pub(super) kernel: usize,
    /// Buffer, and bytes from its start.
    pub(super) operands: Vec<(Root, u64)>,
    /// Whether its `T` is the group's.
    pub(super) of_group: bool,
    pub(super) computes: String,
}

/// The launches of a function.
pub(super) struct Emitted {
    pub(super) launches: Vec<RawLaunch>,
    /// What each launch costs.
    pub(super) costs: Vec<Estimate>,
    /// Bytes of each temporary.
    pub(super) temps: Vec<Dim>,
    pub(super) weights: Vec<Weight>,
    pub(super) tables: IndexSet<Table>,
}

/// The launches so far and where values lie.
pub(super) struct Emitter<'a> {
    pub(super) function: &'a Function,
    pub(super) extracted: &'a Extracted,
    pub(super) cost: &'a CostModel,
    kernels: &'a mut KernelTable,
    weights: Weights,
    homes: Vec<Option<Place>>,
    places: Vec<Option<Place>>,
    /// Dense copies of values that some kernel could not read where they lie.
    packed: Vec<Option<Place>>,
    labels: Vec<String>,
    out: Emitted,
}

/// Emits the launches of a function.
pub(super) fn emit(
    function: &Function,
    extracted: &Extracted,
    cost: &CostModel,
    kernels: &mut KernelTable,
) -> Result<Emitted, Diagnostic> {
    let weights = Weights::of(extracted);
    let mut temps = vec![];
    let homes = homes::assign(extracted, &mut |ty: &TensorType| {
        temps.push(ty.bytes());
        temps.len() - 1
    });
    let out = Emitted {
        launches: vec![],
        costs: vec![],
        temps,
        weights: weights.describe(function, cost.ranks.unwrap_or(Ranks::ONE)),
        tables: IndexSet::new(),
    };
    let n = extracted.values.len();
    let (places, packed) = (vec![None; n], vec![None; n]);
    let labels = labels(function, extracted);
    let mut emitter =
        Emitter { function, extracted, cost, kernels, weights, homes, places, packed, labels, out };
    for value in 0..n {
        emitter.value(value)?;
    }
    for (at, &output) in extracted.outputs.iter().enumerate() {
        let ty = &extracted.values[output].ty;
        let to = emitter.dense(Root::Output(at), ty, output)?;
        let from = emitter.place(output)?;
        if from != to {
            emitter.copy(&from, &to, output);
        }
    }
    Ok(emitter.out)
}

impl Emitter<'_> {
    /// The type of a value.
    pub(super) fn ty(&self, value: usize) -> &TensorType {
        &self.extracted.values[value].ty
    }

    /// Where a value lies.
    pub(super) fn place(&self, value: usize) -> Result<Place, Diagnostic> {
        self.places[value].clone().ok_or_else(|| self.no_layout(value))
    }

    /// E0803: the value has a layout that no kernel can address.
    pub(super) fn no_layout(&self, value: usize) -> Diagnostic {
        let chosen = &self.extracted.values[value];
        let name = chosen.name.as_ref().map_or("a value".to_owned(), |n| format!("`{n}`"));
        Diagnostic::error(
            "E0803",
            format!(
                "{name} of type {} in `{}` cannot be laid out in memory",
                chosen.ty, self.function.name
            ),
        )
        .help("keep the axis that counts tokens (`T` or `S`) outermost, transposing elsewhere")
    }

    /// The whole of a buffer as a value of some type.
    pub(super) fn dense(
        &self,
        root: Root,
        ty: &TensorType,
        value: usize,
    ) -> Result<Place, Diagnostic> {
        Place::dense(root, ty).ok_or_else(|| self.no_layout(value))
    }

    /// A new temporary.
    pub(super) fn temp(&mut self, ty: &TensorType, value: usize) -> Result<Place, Diagnostic> {
        self.out.temps.push(ty.bytes());
        self.dense(Root::Temp(self.out.temps.len() - 1), ty, value)
    }

    /// The operand of a kernel in the shape that it wants, copied where no strides express that.
    pub(super) fn operand(&mut self, value: usize, shape: &[Dim]) -> Result<Place, Diagnostic> {
        let place = self.place(value)?;
        if let Some(place) = place.reshape(shape) {
            return Ok(place);
        }
        let packed = self.pack(value, &place)?;
        packed.reshape(shape).ok_or_else(|| self.no_layout(value))
    }

    /// The operand densely, for kernels that take no strides.
    pub(super) fn dense_operand(&mut self, value: usize) -> Result<Place, Diagnostic> {
        let place = self.place(value)?;
        if place.is_dense() { Ok(place) } else { self.pack(value, &place) }
    }

    fn pack(&mut self, value: usize, place: &Place) -> Result<Place, Diagnostic> {
        if let Some(packed) = &self.packed[value] {
            return Ok(packed.clone());
        }
        let ty = self.ty(value).clone();
        let packed = self.temp(&ty, value)?;
        self.copy(place, &packed, value);
        self.packed[value] = Some(packed.clone());
        Ok(packed)
    }

    /// Launches a copy.
    pub(super) fn copy(&mut self, from: &Place, to: &Place, value: usize) {
        let cost = self.cost.copy(self.ty(value));
        let spec = super::kernels::pointwise(&[from], to, vec![Scalar::Input(0)]);
        let computes = format!("copy of {}", self.labels[value]).trim_end_matches(" of ").into();
        self.push(spec, &[from, to], cost, computes);
    }

    fn push(&mut self, spec: KernelSpec, operands: &[&Place], cost: Estimate, computes: String) {
        self.out.launches.push(RawLaunch {
            kernel: self.kernels.intern(spec),
            operands: operands.iter().map(|p| (p.root, p.offset)).collect(),
            of_group: false,
            computes,
        });
        self.out.costs.push(cost);
    }

    /// Launches the kernel that computes a value.
    pub(super) fn launch(&mut self, value: usize, spec: KernelSpec, operands: &[&Place]) {
        let cost = self.extracted.values[value].cost;
        self.launch_at(cost, value, spec, operands);
    }

    /// Launches a kernel that has a share in computing a value, at a cost of its own.
    pub(super) fn launch_at(
        &mut self,
        cost: Estimate,
        value: usize,
        spec: KernelSpec,
        operands: &[&Place],
    ) {
        let computes = self.labels[value].clone();
        self.push(spec, operands, cost, computes);
    }

    /// Launches a kernel on the tokens of all ranks, whose cost is another launch's.
    pub(super) fn launch_of_group(&mut self, value: usize, spec: KernelSpec, operands: &[&Place]) {
        self.launch_at(Estimate::default(), value, spec, operands);
        if let Some(launch) = self.out.launches.last_mut() {
            launch.of_group = true;
        }
    }

    /// The number of a region that ranks share.
    pub(super) fn symmetric(&mut self, exchange: &Exchange, region: Region) -> usize {
        self.kernels.symmetric(exchange, region)
    }

    /// Where a kernel writes a value, in the shape in which it writes it. Must be followed by
    /// [`Emitter::written`].
    pub(super) fn target(&mut self, value: usize, shape: &[Dim]) -> Result<Place, Diagnostic> {
        if let Some(place) = self.homes[value].as_ref().and_then(|home| home.reshape(shape)) {
            self.places[value] = self.homes[value].clone();
            return Ok(place);
        }
        let ty = self.ty(value).clone();
        let place = self.temp(&ty, value)?;
        self.places[value] = Some(place.clone());
        place.reshape(shape).ok_or_else(|| self.no_layout(value))
    }

    /// Moves a value that could not be written to its home there.
    pub(super) fn written(&mut self, value: usize) -> Result<(), Diagnostic> {
        if let Some(home) = self.homes[value].clone() {
            let place = self.place(value)?;
            if place != home {
                self.copy(&place, &home, value);
                self.places[value] = Some(home);
            }
        }
        Ok(())
    }

    /// The number of a table.
    pub(super) fn table(&mut self, table: Table) -> usize {
        self.out.tables.insert_full(table).0
    }

    /// The values that are the first, the second and the third result of a kernel that has
    /// several.
    pub(super) fn results(&self, all: usize) -> [Option<usize>; 3] {
        let is = [
            |term: &Term| *term == Term::First,
            |term: &Term| matches!(term, Term::Second { .. }),
            |term: &Term| *term == Term::Third,
        ];
        is.map(|is| {
            let mut values = self.extracted.values.iter();
            values.position(|v| is(&v.node.term) && v.operands.first() == Some(&all))
        })
    }

    /// Says that a value has been written by the kernel of another.
    pub(super) fn has_place(&self, value: usize) -> bool {
        self.places[value].is_some()
    }

    pub(super) fn set_place(&mut self, value: usize, place: Place) {
        self.places[value] = Some(place);
    }

    fn value(&mut self, value: usize) -> Result<(), Diagnostic> {
        let chosen = &self.extracted.values[value];
        let operands = chosen.operands.clone();
        let ty = chosen.ty.clone();
        match &chosen.node.term {
            Term::Math(Op::Input(i)) => {
                self.places[value] = Some(self.dense(Root::Input(*i), &ty, value)?);
            }
            Term::Math(Op::Param(_) | Op::Concat { .. } | Op::Dequantize { .. }) => {
                let parts = chosen.weight.clone().unwrap_or_default();
                self.places[value] = self.weights.place(self.function, &parts, &ty);
            }
            Term::Math(Op::Slice { axis, start, len }) => {
                let (axis, start, len) = (*axis, *start, *len);
                self.places[value] = Some(self.place(operands[0])?.slice(axis, start, len));
            }
            Term::Math(Op::Transpose(order)) => {
                let order = order.clone();
                self.places[value] = Some(self.place(operands[0])?.transpose(&order));
            }
            Term::Math(Op::Broadcast(_)) => {
                self.places[value] = Some(self.place(operands[0])?.broadcast(&ty.shape));
            }
            Term::Math(Op::Reshape(_)) => {
                self.places[value] = Some(self.operand(operands[0], &ty.shape)?);
            }
            // Caches are read through what wrote to them.
            Term::Math(Op::Cache(_)) => {}
            // Written where the kernel of all was launched.
            Term::First | Term::Second { .. } | Term::Third => {
                debug_assert!(self.has_place(value), "the kernel of all results went before");
            }
            Term::Kernel(kernel) => {
                let kernel: Kernel = kernel.clone();
                self.kernel(value, &kernel, &operands)?;
            }
            Term::Math(op) => {
                unreachable!("bug in moec: extraction chose the mathematics `{}`", op.name())
            }
            Term::InCache => unreachable!("bug in moec: extraction chose a mark"),
        }
        Ok(())
    }
}
