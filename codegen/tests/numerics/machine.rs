//! Operands in memory, and a kernel run over them.

use half::{bf16, f16};
use moec_codegen::{KernelCode, Options, Step, generate_kernel};
use moec_emulator::{
    Arg, Device, DeviceConfig, LaunchConfig, LaunchReport, MapElement, Module, Swizzle,
};
use moec_ir::kernel::{KernelSpec, View};
use moec_ir::plan::TensorMap;
use moec_ir::{DType, Sizes, Target};

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// In -1 .. 1.
    pub(crate) fn number(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// The number of an e4m3 code (OCP 8-bit floating point specification 1.0, section 5).
pub(crate) fn e4m3(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = match (code & 0x7f, exponent) {
        (0x7f, _) => f64::NAN,
        (_, 0) => fraction * 2.0_f64.powi(-9),
        _ => (8.0 + fraction) * 2.0_f64.powi(exponent - 10),
    };
    if code < 0x80 { magnitude } else { -magnitude }
}

/// The code of the nearest e4m3 number, of two the even code; saturated.
pub(crate) fn e4m3_code(value: f64) -> u8 {
    if value.is_nan() {
        return 0x7f;
    }
    let distance = |code: &u8| (e4m3(*code) - value.abs().min(448.0)).abs();
    let nearer = |p: &u8, q: &u8| distance(p).total_cmp(&distance(q)).then((p & 1).cmp(&(q & 1)));
    let code = (0..0x7f).min_by(nearer).unwrap_or(0);
    if value.is_sign_negative() { code | 0x80 } else { code }
}

/// An operand: its elements in memory, gaps between them included.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<u64>,
    strides: Vec<u64>,
    align: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Bytes of memory that nothing was written to: NaN in every float type, negative as integer.
pub(crate) const POISON: u8 = 0xff;

impl Array {
    /// Memory for a view, poisoned.
    pub(crate) fn poisoned(view: &View, sizes: &Sizes) -> Self {
        let shape: Vec<u64> = view.shape.iter().map(|d| d.eval(sizes)).collect();
        Self::shaped(view, shape)
    }

    /// Memory for a view whose outermost axis has that many rows.
    pub(crate) fn with_rows(view: &View, rows: u64) -> Self {
        let shape = view.shape[1..].iter().map(|d| d.constant().unwrap());
        Self::shaped(view, [rows].into_iter().chain(shape).collect())
    }

    fn shaped(view: &View, shape: Vec<u64>) -> Self {
        let last: u64 = shape.iter().zip(&view.strides).map(|(n, s)| (n - 1) * s).sum();
        let bytes = vec![POISON; ((last + 1) * view.dtype.bytes()) as usize];
        let strides = view.strides.clone();
        Self { dtype: view.dtype, shape, strides, align: view.align, bytes }
    }

    /// Random numbers in every element.
    pub(crate) fn random(view: &View, sizes: &Sizes, random: &mut Random) -> Self {
        let mut array = Self::poisoned(view, sizes);
        array.each(|array, index| array.set(index, random.number()));
        array
    }

    /// A dense list of integers.
    pub(crate) fn integers(values: &[i32]) -> Self {
        Self {
            dtype: DType::I32,
            shape: vec![values.len() as u64],
            strides: vec![1],
            align: 4,
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    /// The same in a buffer of its own, aligned as those are.
    pub(crate) fn in_buffer(self) -> Self {
        Self { align: View::ALIGN, ..self }
    }

    /// Calls `f` with every index.
    pub(crate) fn each(&mut self, mut f: impl FnMut(&mut Self, &[u64])) {
        let total: u64 = self.shape.iter().product();
        for linear in 0..total {
            let mut rest = linear;
            let mut index = vec![0; self.shape.len()];
            for axis in (0..self.shape.len()).rev() {
                index[axis] = rest % self.shape[axis];
                rest /= self.shape[axis];
            }
            f(self, &index);
        }
    }

    fn place(&self, index: &[u64]) -> usize {
        assert!(index.iter().zip(&self.shape).all(|(i, n)| i < n), "{index:?} of {:?}", self.shape);
        let element: u64 = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
        (element * self.dtype.bytes()) as usize
    }

    pub(crate) fn get(&self, index: &[u64]) -> f64 {
        let at = &self.bytes[self.place(index)..];
        match self.dtype {
            DType::F32 => f32::from_le_bytes(at[..4].try_into().unwrap()).into(),
            DType::I32 => i32::from_le_bytes(at[..4].try_into().unwrap()).into(),
            DType::Bf16 => bf16::from_le_bytes(at[..2].try_into().unwrap()).into(),
            DType::F16 => f16::from_le_bytes(at[..2].try_into().unwrap()).into(),
            DType::F8e4m3 => e4m3(at[0]),
            other => panic!("no numbers of type {other} in these tests"),
        }
    }

    /// The bits of an 8-bit element.
    pub(crate) fn code(&self, index: &[u64]) -> u8 {
        self.bytes[self.place(index)]
    }

    /// Whether nothing was written to an element.
    pub(crate) fn is_untouched(&self, index: &[u64]) -> bool {
        let at = self.place(index);
        self.bytes[at..at + self.dtype.bytes() as usize].iter().all(|&byte| byte == POISON)
    }

    /// Sets an element, rounded to the element type.
    pub(crate) fn set(&mut self, index: &[u64], value: f64) {
        let at = self.place(index);
        match self.dtype {
            DType::F32 => self.bytes[at..at + 4].copy_from_slice(&(value as f32).to_le_bytes()),
            DType::I32 => self.bytes[at..at + 4].copy_from_slice(&(value as i32).to_le_bytes()),
            DType::Bf16 => {
                self.bytes[at..at + 2].copy_from_slice(&bf16::from_f64(value).to_le_bytes());
            }
            DType::F16 => {
                self.bytes[at..at + 2].copy_from_slice(&f16::from_f64(value).to_le_bytes());
            }
            DType::F8e4m3 => self.bytes[at] = e4m3_code(value),
            other => panic!("no numbers of type {other} in these tests"),
        }
    }

    /// Checks every element against what it should be: within half a unit of the last place that
    /// the type keeps, and `error` times `magnitude` for float32 arithmetic; and that the gaps
    /// between elements are as they were.
    pub(crate) fn check(
        &self,
        name: &str,
        error: f64,
        mut expected: impl FnMut(&[u64]) -> (f64, f64),
    ) {
        let mut gaps = vec![true; self.bytes.len()];
        self.clone().each(|_, index| {
            let (want, magnitude) = expected(index);
            let got = self.get(index);
            let half_unit = match self.dtype {
                DType::Bf16 => want.abs() / 256.0 + 1e-38,
                DType::F16 => want.abs() / 2048.0 + 3e-8,
                DType::I32 => 0.0,
                _ => want.abs() / f64::from(1 << 24) + 1e-38,
            };
            let bound = half_unit + error * magnitude;
            let same =
                (got - want).abs() <= bound || got == want || (got.is_nan() && want.is_nan());
            assert!(same, "{name}: element {index:?} is {got}, not {want} (within {bound})");
            let at = self.place(index);
            gaps[at..at + self.dtype.bytes() as usize].fill(false);
        });
        let touched = gaps.iter().zip(&self.bytes).position(|(&gap, &byte)| gap && byte != POISON);
        assert_eq!(touched, None, "{name}: a byte between elements was written");
    }
}

/// A tensor map as the driver would encode it.
pub(crate) fn encode(map: &TensorMap, address: u64, sizes: &Sizes) -> Result<[u8; 128], String> {
    let mut tensor = moec_emulator::TensorMap {
        address,
        element: match map.dtype {
            DType::Bf16 => MapElement::Bf16,
            DType::F16 => MapElement::F16,
            DType::F32 => MapElement::F32,
            DType::F8e4m3 | DType::F8e5m2 => MapElement::U8,
            other => return Err(format!("no map of {other}")),
        },
        rank: map.dims.len(),
        dims: [1; 5],
        strides: [0; 4],
        box_dims: [1; 5],
        element_strides: [1; 5],
        interleave: Default::default(),
        swizzle: match map.swizzle {
            0 => Swizzle::None,
            32 => Swizzle::Bytes32,
            64 => Swizzle::Bytes64,
            _ => Swizzle::Bytes128,
        },
        fill_nan: false,
    };
    for (axis, dim) in map.dims.iter().enumerate() {
        tensor.dims[axis] = dim.eval(sizes);
        tensor.box_dims[axis] = map.box_dims[axis];
    }
    tensor.strides[..map.strides.len()].copy_from_slice(&map.strides);
    tensor.encode()
}

/// What a run was like.
pub(crate) struct Ran {
    /// Instructions of warps.
    pub(crate) warp_instructions: u64,
    /// Instructions of threads.
    pub(crate) lane_instructions: u64,
    /// Whether tensor cores multiplied.
    pub(crate) tensor_cores: bool,
    /// All that was counted; sectors, where it was asked for.
    pub(crate) report: LaunchReport,
    /// What ran.
    pub(crate) code: KernelCode,
}

/// [`run`], which counts what is moved.
pub(crate) fn run_counting(
    name: &str,
    spec: &KernelSpec,
    step: Step,
    sizes: &Sizes,
    operands: &mut [&mut Array],
) -> Ran {
    execute(&h800(), name, spec, step, sizes, operands, true)
}

/// Compiles a kernel for `step` and runs it in a step of `sizes`. Operands lie at addresses that
/// are aligned as their views say and no better.
pub(crate) fn run(
    name: &str,
    spec: &KernelSpec,
    step: Step,
    sizes: &Sizes,
    operands: &mut [&mut Array],
) -> Ran {
    execute(&h800(), name, spec, step, sizes, operands, false)
}

/// [`run`], compiled for that target.
pub(crate) fn run_on(
    target: &Target,
    name: &str,
    spec: &KernelSpec,
    step: Step,
    sizes: &Sizes,
    operands: &mut [&mut Array],
) -> Ran {
    execute(target, name, spec, step, sizes, operands, false)
}

fn h800() -> Target {
    Target::named("h800").unwrap()
}

fn execute(
    target: &Target,
    name: &str,
    spec: &KernelSpec,
    step: Step,
    sizes: &Sizes,
    operands: &mut [&mut Array],
    traffic: bool,
) -> Ran {
    let code = generate_kernel(spec, step, target, "kernel", Options::default())
        .unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let module = Module::parse(&code.ptx).unwrap_or_else(|e| panic!("{name}: {e}\n{}", code.ptx));
    let poison = Some(POISON);
    let config = DeviceConfig { poison, threads: 1, traffic, ..DeviceConfig::default() };
    let mut device = Device::new(config);
    let mut args = Vec::new();
    let mut addresses = Vec::new();
    for (i, operand) in operands.iter().enumerate() {
        let shift = operand.align % View::ALIGN;
        let buffer = device.alloc(operand.bytes.len() + shift as usize, &format!("operand {i}"));
        let address = buffer.unwrap() + shift;
        device.write(address, &operand.bytes).unwrap();
        args.push(Arg::U64(address));
        addresses.push(address);
    }
    for size in [sizes.tokens, sizes.past, sizes.sequences] {
        args.push(Arg::U32(size as u32));
    }
    for map in &code.geometry.tensor_maps {
        let bytes = encode(map, addresses[map.operand], sizes);
        args.push(Arg::Bytes(bytes.unwrap_or_else(|e| panic!("{name}: {map:?}: {e}")).into()));
    }
    let grid = [0, 1, 2].map(|axis| code.geometry.grid[axis].eval(sizes) as u32);
    let launch = LaunchConfig {
        grid,
        block: code.geometry.block,
        dynamic_shared_bytes: code.geometry.shared_bytes,
        ..Default::default()
    };
    let report = device
        .launch(&module, "kernel", &launch, &args)
        .unwrap_or_else(|e| panic!("{name}: {e}\n{}", code.ptx));
    for (operand, address) in operands.iter_mut().zip(addresses) {
        let mut bytes = vec![0; operand.bytes.len()];
        device.read(address, &mut bytes).unwrap();
        operand.bytes = bytes;
    }
    let tensor_cores = code.ptx.contains("wgmma.mma_async");
    Ran {
        warp_instructions: report.warp_instructions,
        lane_instructions: report.lane_instructions,
        tensor_cores,
        report,
        code,
    }
}
