//! Module level: addresses of variables, functions by number, kernels and their needs.

use std::collections::{BTreeMap, BTreeSet};

use super::body::decode_function;
use crate::error::Error;
use crate::memory::window::SHARED_RESERVED;
use crate::program::{Facts, Fixup, Function, Kernel, Program, SharedVariable, Slot};
use crate::ptx::ast::{Ast, Function as Source, Init, Variable};
use crate::ptx::types::Space;

/// Largest block of module variables.
const MAX_IMAGE: u64 = 1 << 30;
/// Shared memory of a CTA on sm_90, with the reserved KiB (CUDA C++ programming guide, table
/// "Technical Specifications per Compute Capability").
pub(crate) const MAX_SHARED: u32 = 228 * 1024;

/// What a name stands for at module level.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Symbol {
    /// Device memory: offset in the image.
    Global(u64),
    /// A shared variable by number.
    Shared(u32),
    /// A function by number.
    Function(u32),
}

/// Names and numbers that all bodies share.
#[derive(Debug, Default)]
pub(crate) struct Names<'a> {
    pub(crate) symbols: BTreeMap<&'a str, Symbol>,
    pub(crate) shared: Vec<SharedVariable>,
    pub(crate) image: Vec<u8>,
    pub(crate) fixups: Vec<(usize, Fixup)>,
    pub(crate) sites: u32,
    /// The code follows memory.
    pub(crate) watched: bool,
}

impl<'a> Names<'a> {
    /// Gives a shared variable its number.
    pub(crate) fn add_shared(&mut self, variable: &Variable<'a>) -> Result<u32, Error> {
        let bytes = u32::try_from(variable.bytes()).unwrap_or(u32::MAX);
        if bytes > MAX_SHARED {
            return Err(Error::parse(
                variable.line,
                format!(
                    "`{}` takes {bytes} bytes of shared memory, a CTA has {MAX_SHARED}",
                    variable.name
                ),
            ));
        }
        self.shared.push(SharedVariable {
            bytes,
            align: variable.align,
            is_dynamic: variable.is_extern && bytes == 0,
        });
        Ok(self.shared.len() as u32 - 1)
    }

    /// Gives a variable of device memory its place in the image.
    pub(crate) fn add_global(&mut self, variable: &Variable<'a>) -> Result<u64, Error> {
        let offset = (self.image.len() as u64).next_multiple_of(u64::from(variable.align.max(16)));
        let end = offset.saturating_add(variable.bytes());
        if end > MAX_IMAGE {
            return Err(Error::parse(
                variable.line,
                format!("variables of this module take more than {MAX_IMAGE} bytes"),
            ));
        }
        self.image.resize(end as usize, 0);
        Ok(offset)
    }

    /// Writes a variable's initial value once all names are known.
    pub(crate) fn initialise(&mut self, variable: &Variable<'a>, at: u64) -> Result<(), Error> {
        let element = variable.ty.bytes() as usize;
        for (index, item) in variable.init.iter().enumerate() {
            let from = at as usize + index * element;
            if index as u64 >= variable.count {
                return Err(Error::parse(
                    variable.line,
                    format!("`{}` has more initial values than elements", variable.name),
                ));
            }
            let bits = match item {
                Init::Bits(bits) => *bits,
                Init::Symbol(name, offset) => {
                    let fixup = match self.symbols.get(name) {
                        Some(Symbol::Global(base)) => {
                            Fixup::Global(base.wrapping_add_signed(*offset))
                        }
                        Some(Symbol::Function(number)) => Fixup::Function(*number),
                        _ => {
                            return Err(Error::parse(
                                variable.line,
                                format!("`{name}` has no address that a variable could hold"),
                            ));
                        }
                    };
                    if element != 8 {
                        return Err(Error::parse(
                            variable.line,
                            format!("the address of `{name}` needs 64 bits"),
                        ));
                    }
                    self.fixups.push((from, fixup));
                    0
                }
            };
            let bytes = u128::from(bits).to_le_bytes();
            self.image[from..from + element].copy_from_slice(&bytes[..element]);
        }
        Ok(())
    }
}

/// Decodes a whole module; `watched` for launches whose memory is followed.
pub(crate) fn decode(ast: &Ast<'_>, watched: bool) -> Result<Program, Error> {
    let mut names = Names { watched, ..Names::default() };
    let mut sources: Vec<&Source<'_>> = Vec::new();
    for source in &ast.functions {
        match names.symbols.get(source.name) {
            Some(Symbol::Function(number)) => {
                let known = &mut sources[*number as usize];
                if source.body.is_some() && known.body.is_some() {
                    return Err(Error::parse(
                        source.line,
                        format!(
                            "`{}` has two bodies, the first at line {}",
                            source.name, known.line
                        ),
                    ));
                }
                if source.body.is_some() {
                    *known = source;
                }
            }
            _ => {
                names.symbols.insert(source.name, Symbol::Function(sources.len() as u32));
                sources.push(source);
            }
        }
    }
    let mut initialised = Vec::new();
    for variable in &ast.variables {
        let symbol = match variable.space {
            Space::Shared => Symbol::Shared(names.add_shared(variable)?),
            Space::Global => {
                let at = names.add_global(variable)?;
                initialised.push((variable, at));
                Symbol::Global(at)
            }
            _ => {
                return Err(Error::parse(
                    variable.line,
                    format!("`{}` cannot lie in that space at module level", variable.name),
                ));
            }
        };
        names.symbols.insert(variable.name, symbol);
    }
    for (variable, at) in initialised {
        names.initialise(variable, at)?;
    }
    let mut functions = Vec::new();
    for source in &sources {
        functions.push(decode_function(source, &mut names)?);
    }
    let mut kernels = BTreeMap::new();
    for (number, source) in sources.iter().enumerate().filter(|(_, source)| source.is_entry) {
        let kernel = kernel(number as u32, source, &functions, &names.shared)?;
        kernels.insert(source.name.to_string(), kernel);
    }
    Ok(Program { functions, kernels, image: names.image, fixups: names.fixups, sites: names.sites })
}

/// Functions that a call from `start` can reach.
fn reachable(start: u32, functions: &[Function]) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([start]);
    let mut left = vec![start];
    while let Some(number) = left.pop() {
        let function = &functions[number as usize];
        let mut callees = function.callees.clone();
        if function.facts.calls_indirectly {
            callees.extend(0..functions.len() as u32);
        }
        left.extend(callees.into_iter().filter(|&callee| found.insert(callee)));
    }
    found
}

fn kernel(
    number: u32,
    source: &Source<'_>,
    functions: &[Function],
    shared: &[SharedVariable],
) -> Result<Kernel, Error> {
    let (params, param_bytes) = lay_out(&source.params);
    let mut facts = Facts::default();
    let mut used = BTreeSet::new();
    for callee in reachable(number, functions) {
        let function = &functions[callee as usize];
        facts.communicates |= function.facts.communicates;
        facts.can_spin |= function.facts.can_spin;
        facts.most_registers = facts.most_registers.max(function.facts.most_registers);
        used.extend(function.shared.iter().copied());
    }
    let mut offsets = vec![None; shared.len()];
    let mut end = u64::from(SHARED_RESERVED);
    for &index in used.iter().filter(|&&index| !shared[index as usize].is_dynamic) {
        let variable = &shared[index as usize];
        end = end.next_multiple_of(u64::from(variable.align));
        offsets[index as usize] = Some(end as u32);
        end += u64::from(variable.bytes);
        if end > u64::from(MAX_SHARED) {
            return Err(Error::parse(
                source.line,
                format!("`{}` needs more than {MAX_SHARED} bytes of shared memory", source.name),
            ));
        }
    }
    for &index in used.iter().filter(|&&index| shared[index as usize].is_dynamic) {
        end = end.next_multiple_of(u64::from(shared[index as usize].align.max(16)));
    }
    for &index in used.iter().filter(|&&index| shared[index as usize].is_dynamic) {
        offsets[index as usize] = Some(end as u32);
    }
    Ok(Kernel {
        function: number,
        params,
        param_bytes,
        limits: source.limits.clone(),
        shared_offsets: offsets,
        static_shared: end as u32,
        facts,
    })
}

/// Places parameters one behind the other, each at its alignment.
pub(crate) fn lay_out(params: &[Variable<'_>]) -> (Vec<Slot>, u32) {
    let (mut slots, mut end) = (Vec::new(), 0u32);
    for param in params {
        let bytes = u32::try_from(param.bytes()).unwrap_or(u32::MAX).min(1 << 16);
        let offset = end.next_multiple_of(param.align);
        slots.push(Slot { offset, bytes });
        end = offset.saturating_add(bytes);
    }
    (slots, end)
}
