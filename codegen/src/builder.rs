//! A small typed builder over MLIR: kernels are written as Rust expressions.
//!
//! A [`Builder`] appends operations to one kernel. Values carry their type ([`F32`], [`I32`],
//! [`I64`], [`Bool`], pointers) and a reference to the builder, so that `row * stride + col`
//! appends a multiplication and an addition. Control flow takes closures. Integers are
//! unsigned and below 2^31 unless a method says otherwise.
//!
//! Each PTX instruction that has no plain counterpart in MLIR's `arith` and `llvm` dialects has
//! exactly one wrapper, whose documentation names its section of the PTX ISA.

pub(crate) mod assembly;
pub(crate) mod async_copy;
pub(crate) mod barrier;
pub(crate) mod cluster;
pub(crate) mod control;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod integer;
pub(crate) mod mbarrier;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod order;
pub(crate) mod pairs;
pub(crate) mod roles;
pub(crate) mod special;
pub(crate) mod tensor_copy;
pub(crate) mod value;
pub(crate) mod warp;
pub(crate) mod wgmma;

pub(crate) use control::Carried;
pub(crate) use memory::Ptr;
pub(crate) use value::{Bool, F32, I32, I64, Val};

use melior::Context;
use melior::ir::attribute::{Attribute, StringAttribute, TypeAttribute};
use melior::ir::operation::{OperationBuilder, OperationRef};
use melior::ir::r#type::IntegerType;
use melior::ir::{
    Block, BlockLike, BlockRef, Identifier, Location, Module, Region, RegionLike, Type, Value,
    ValueLike,
};
use mlir_sys::MlirBlock;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// Name, threads and parameters of the kernel under construction.
#[derive(Clone, Debug)]
pub(crate) struct Signature {
    /// Name of the PTX entry.
    pub(crate) name: String,
    /// Threads of a CTA.
    pub(crate) threads: u32,
    /// CTAs of a cluster, along x.
    pub(crate) cluster: u32,
    /// Number of pointer parameters.
    pub(crate) operands: usize,
    /// Number of tensor maps, the last parameters.
    pub(crate) tensor_maps: usize,
}

/// Appends operations to the body of one kernel.
pub(crate) struct Builder<'c> {
    context: &'c Context,
    location: Location<'c>,
    types: Types<'c>,
    signature: Signature,
    /// Where operations are appended.
    block: Cell<MlirBlock>,
    entry: MlirBlock,
    /// Statically allocated shared memory: symbol and bytes.
    shared: RefCell<Vec<(String, u64)>>,
    /// Whether the kernel uses dynamic shared memory.
    dynamic_shared: Cell<bool>,
    /// Functions that are called and linked later.
    externs: RefCell<BTreeSet<&'static str>>,
}

/// The types that kernels use.
#[derive(Clone, Copy)]
struct Types<'c> {
    i1: Type<'c>,
    i8: Type<'c>,
    i16: Type<'c>,
    i32: Type<'c>,
    i64: Type<'c>,
    f32: Type<'c>,
    bf16: Type<'c>,
    f16: Type<'c>,
    global: Type<'c>,
    shared: Type<'c>,
    generic: Type<'c>,
}

/// A mistake of ours while building: there is no input that a user could change.
pub(crate) fn bug(what: impl std::fmt::Display) -> ! {
    panic!("code generation: {what}; this is a bug in moec, please report it")
}

impl<'c> Builder<'c> {
    /// Builds a module with one kernel, whose body `body` appends.
    pub(crate) fn kernel(
        context: &'c Context,
        signature: Signature,
        body: impl for<'k> FnOnce(&'k Builder<'k>),
    ) -> Module<'c> {
        let location = Location::unknown(context);
        let module = Module::new(location);
        let region = Region::new();
        {
            let builder = Builder::entry(context, signature.clone(), &region);
            body(&builder);
            builder.op("llvm.return", &[], &[], &[]);
            for (name, bytes) in builder.shared.borrow().iter() {
                let array = shared_array(context, name, *bytes, Linkage::Internal);
                module.body().append_operation(array);
            }
            if builder.dynamic_shared.get() {
                let name = builder.dynamic_shared_name();
                let array = shared_array(context, &name, 0, Linkage::External);
                module.body().append_operation(array);
            }
            for declaration in builder.declarations() {
                module.body().append_operation(declaration);
            }
        }
        module.body().append_operation(function(context, &signature, region));
        module
    }

    fn entry(context: &'c Context, signature: Signature, region: &Region<'c>) -> Self {
        let location = Location::unknown(context);
        let types = Types::new(context);
        let arguments: Vec<_> =
            parameters(context, &signature).into_iter().map(|t| (t, location)).collect();
        let block = region.append_block(Block::new(&arguments)).to_raw();
        Self {
            context,
            location,
            types,
            signature,
            block: Cell::new(block),
            entry: block,
            shared: RefCell::default(),
            dynamic_shared: Cell::new(false),
            externs: RefCell::default(),
        }
    }

    /// Threads of a CTA.
    pub(crate) fn threads(&self) -> u32 {
        self.signature.threads
    }

    /// Appends an operation at the current position.
    fn op(
        &self,
        name: &str,
        operands: &[Value<'c, 'c>],
        results: &[Type<'c>],
        attributes: &[(&str, Attribute<'c>)],
    ) -> OperationRef<'c, 'c> {
        self.op_with_regions(name, operands, results, attributes, vec![])
    }

    fn op_with_regions(
        &self,
        name: &str,
        operands: &[Value<'c, 'c>],
        results: &[Type<'c>],
        attributes: &[(&str, Attribute<'c>)],
        regions: Vec<Region<'c>>,
    ) -> OperationRef<'c, 'c> {
        let attributes: Vec<_> = attributes.iter().map(|(n, a)| (self.identifier(n), *a)).collect();
        let operation = OperationBuilder::new(name, self.location)
            .add_operands(operands)
            .add_results(results)
            .add_attributes(&attributes)
            .add_regions_vec(regions)
            .build()
            .unwrap_or_else(|e| bug(format_args!("`{name}`: {e}")));
        block_at(self.block.get()).append_operation(operation)
    }

    /// Appends an operation with one result and returns that.
    fn value(
        &self,
        name: &str,
        operands: &[Value<'c, 'c>],
        result: Type<'c>,
        attributes: &[(&str, Attribute<'c>)],
    ) -> Value<'c, 'c> {
        result_of(self.op(name, operands, &[result], attributes), 0)
    }

    /// Calls an LLVM intrinsic.
    fn intrinsic(&self, name: &str, operands: &[Value<'c, 'c>], result: Type<'c>) -> Value<'c, 'c> {
        let count = i32::try_from(operands.len()).unwrap_or_else(|e| bug(e));
        let attributes = [
            ("intrin", StringAttribute::new(self.context, name).into()),
            ("op_bundle_sizes", self.parse("array<i32>")),
            ("operandSegmentSizes", self.parse(&format!("array<i32: {count}, 0>"))),
        ];
        self.value("llvm.call_intrinsic", operands, result, &attributes)
    }

    fn dynamic_shared_name(&self) -> String {
        format!("{}_dynamic_shared", self.signature.name)
    }

    fn identifier(&self, name: &str) -> Identifier<'c> {
        Identifier::new(self.context, name)
    }

    fn parse(&self, attribute: &str) -> Attribute<'c> {
        Attribute::parse(self.context, attribute)
            .unwrap_or_else(|| bug(format_args!("`{attribute}` is not an attribute")))
    }

    fn vector(&self, len: u64, element: Type<'c>) -> Type<'c> {
        Type::vector(&[len], element)
    }
}

impl<'c> Types<'c> {
    fn new(context: &'c Context) -> Self {
        let int = |bits| IntegerType::new(context, bits).into();
        Self {
            i1: int(1),
            i8: int(8),
            i16: int(16),
            i32: int(32),
            i64: int(64),
            f32: Type::float32(context),
            bf16: Type::bfloat16(context),
            f16: Type::float16(context),
            global: parse_type(context, "!llvm.ptr<1>"),
            shared: parse_type(context, "!llvm.ptr<3>"),
            generic: parse_type(context, "!llvm.ptr"),
        }
    }
}

fn parse_type<'c>(context: &'c Context, text: &str) -> Type<'c> {
    Type::parse(context, text).unwrap_or_else(|| bug(format_args!("`{text}` is not a type")))
}

fn block_at<'c>(raw: MlirBlock) -> BlockRef<'c, 'c> {
    // SAFETY: only blocks of the kernel under construction are kept, and those outlive the builder.
    unsafe { BlockRef::from_raw(raw) }
}

fn argument_of<'c>(block: MlirBlock, index: usize) -> Value<'c, 'c> {
    let argument = block_at(block).argument(index).unwrap_or_else(|e| bug(e));
    // SAFETY: the argument lives as long as its block, which outlives the builder.
    unsafe { Value::from_raw(argument.to_raw()) }
}

fn result_of<'c>(operation: OperationRef<'c, 'c>, index: usize) -> Value<'c, 'c> {
    let result = operation.result(index).unwrap_or_else(|e| bug(e));
    // SAFETY: the operation lives in a block that outlives the builder.
    unsafe { Value::from_raw(result.to_raw()) }
}

/// One pointer per operand, then `T`, `S` and `B`, then the tensor maps.
fn parameters<'c>(context: &'c Context, signature: &Signature) -> Vec<Type<'c>> {
    let types = Types::new(context);
    let mut parameters = vec![types.global; signature.operands];
    parameters.extend([types.i32; 3]);
    parameters.extend(vec![types.generic; signature.tensor_maps]);
    parameters
}

/// Tensor maps are passed by value and never written: `.param .align 64 .b8 map[128]`, read in
/// place (`grid_constant`; otherwise each thread would copy them to its stack).
fn parameter_attributes(signature: &Signature) -> String {
    const TENSOR_MAP: &str =
        "{llvm.align = 64 : i64, llvm.byval = !llvm.array<128 x i8>, nvvm.grid_constant}";
    let plain = vec!["{}"; signature.operands + 3];
    let all = [plain, vec![TENSOR_MAP; signature.tensor_maps]].concat();
    format!("[{}]", all.join(", "))
}

fn function<'c>(
    context: &'c Context,
    signature: &Signature,
    region: Region<'c>,
) -> melior::ir::Operation<'c> {
    let parameters: Vec<String> =
        parameters(context, signature).iter().map(|t| mlir_llvm_name(&t.to_string())).collect();
    let ty = parse_type(context, &format!("!llvm.func<void ({})>", parameters.join(", ")));
    let attribute = |text: &str| {
        Attribute::parse(context, text).unwrap_or_else(|| bug(format_args!("attribute `{text}`")))
    };
    let id = |name| Identifier::new(context, name);
    let cluster =
        (id("nvvm.cluster_dim"), attribute(&format!("array<i32: {}>", signature.cluster)));
    OperationBuilder::new("llvm.func", Location::unknown(context))
        .add_attributes(if signature.cluster > 1 { std::slice::from_ref(&cluster) } else { &[] })
        .add_attributes(&[
            (id("sym_name"), StringAttribute::new(context, &signature.name).into()),
            (id("function_type"), TypeAttribute::new(ty).into()),
            (id("arg_attrs"), attribute(&parameter_attributes(signature))),
            (id("linkage"), attribute("#llvm.linkage<external>")),
            (id("nvvm.kernel"), attribute("unit")),
            // Says that occupancy is not worth spills; without it ptxas 13 caps registers.
            (id("nvvm.minctasm"), attribute("1 : i32")),
            (id("nvvm.maxntid"), attribute(&format!("array<i32: {}>", signature.threads))),
        ])
        .add_regions([region])
        .build()
        .unwrap_or_else(|e| bug(e))
}

/// How a type is written inside `!llvm.func`.
fn mlir_llvm_name(name: &str) -> String {
    name.trim_start_matches("!llvm.").to_owned()
}

/// Whose memory a shared array is.
#[derive(Clone, Copy)]
enum Linkage {
    /// The array's own: static.
    Internal,
    /// Dynamic shared memory, whose size the launch says.
    External,
}

/// `.shared .align 16 .b8 name[bytes]`, or `.extern .shared .align 1024 .b8 name[]`: tiles with
/// the 128-byte swizzle begin at multiples of 1024 (PTX ISA 5.5.7).
fn shared_array<'c>(
    context: &'c Context,
    name: &str,
    bytes: u64,
    linkage: Linkage,
) -> melior::ir::Operation<'c> {
    let attribute = |text: &str| {
        Attribute::parse(context, text).unwrap_or_else(|| bug(format_args!("attribute `{text}`")))
    };
    let id = |name| Identifier::new(context, name);
    let ty = parse_type(context, &format!("!llvm.array<{bytes} x i8>"));
    let (linkage, alignment) = match linkage {
        Linkage::Internal => ("#llvm.linkage<internal>", "16 : i64"),
        Linkage::External => ("#llvm.linkage<external>", "1024 : i64"),
    };
    OperationBuilder::new("llvm.mlir.global", Location::unknown(context))
        .add_attributes(&[
            (id("sym_name"), StringAttribute::new(context, name).into()),
            (id("global_type"), TypeAttribute::new(ty).into()),
            (id("linkage"), attribute(linkage)),
            (id("addr_space"), attribute("3 : i32")),
            (id("alignment"), attribute(alignment)),
        ])
        .add_regions([Region::new()])
        .build()
        .unwrap_or_else(|e| bug(e))
}
