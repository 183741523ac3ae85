//! What can be asked of `moec`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use moec_ir::{Phase, Ranks, Target};
use moec_runtime::simulate::Routing;
use std::path::PathBuf;

/// Compiles models of the MoE / MLA family to PTX for Hopper GPUs, and runs them.
#[derive(Parser)]
#[command(name = "moec", version, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = "\
Examples:
  moec import DeepSeek-V2-Lite -o lite.moe      a `.moe` file from a checkpoint's config.json
  moec check lite.moe                           names, shapes and sections
  moec explain lite.moe --phase decode          which kernels run, and which rules led to them
  moec build lite.moe -o lite.artefact          PTX and plan, for `moec generate` elsewhere
  moec generate lite.moe --weights DeepSeek-V2-Lite --prompt 'In the beginning'
  moec simulate tiny.moe --ranks 8 --ranks-per-node 4      do ranks agree, whatever the schedule?

Without a GPU everything runs on the built-in emulator, which executes the same PTX.
Exit status: 0 done, 1 a mistake in the input, 2 a mistake in the command line.")]
pub(crate) struct Cli {
    /// Says what each stage does and how long it takes; twice for more.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Writes the `.moe` file of a Hugging Face checkpoint.
    Import(ImportArgs),
    /// Checks a `.moe` file and tells of every mistake.
    Check(CheckArgs),
    /// Lays a `.moe` file out in the one canonical way.
    Fmt(FmtArgs),
    /// Compiles a model to an artefact, or prints what a stage made of it.
    Build(BuildArgs),
    /// Tells which rules led from the model to the kernels that run, and what each gained.
    Explain(ExplainArgs),
    /// Computes the logits of given token ids.
    Logits(LogitsArgs),
    /// Continues a prompt.
    Generate(GenerateArgs),
    /// Runs a model on emulated ranks in many orders of events and compares the results.
    Simulate(SimulateArgs),
    /// Measures what FP8 products lose in each linear map.
    Numerics(NumericsArgs),
    /// Runs one kernel on the emulator, as a JSON file describes.
    Emulate(EmulateArgs),
    /// Lists the optimizer's rules, for `--without-rule`.
    Rules,
    /// Prints a completion script for a shell.
    #[command(after_help = "\
Examples:
  moec completions bash > ~/.local/share/bash-completion/completions/moec
  moec completions zsh > ~/.zfunc/_moec
  moec completions fish > ~/.config/fish/completions/moec.fish")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  moec import DeepSeek-V2-Lite              prints the file
  moec import DeepSeek-V2-Lite -o lite.moe

Known model types: deepseek_v2, deepseek_v3, mixtral, qwen3_moe. A field of config.json that
would change the mathematics and is not understood is an error.")]
pub(crate) struct ImportArgs {
    /// Folder of the checkpoint, or its config.json.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) dir: PathBuf,
    /// File to write; standard output if not given.
    #[arg(short, long, value_name = "M.moe", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// How to compute a checkpoint in FP8; if not given, as DeepSeek does, but one that
    /// transformers 5 wrote (`transformers_version` in config.json) as that does.
    #[arg(long, value_enum)]
    pub(crate) fp8: Option<Fp8>,
}

/// Whose arithmetic of FP8.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fp8 {
    /// bf16 between products, inputs of all linear maps quantised, FP8 tensor cores.
    Deepseek,
    /// float32 between products and in their sums; inputs of routed experts not quantised.
    Transformers,
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The model.
    #[arg(value_name = "M.moe", value_hint = ValueHint::FilePath)]
    pub(crate) model: PathBuf,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  moec fmt model.moe            rewrites the file
  moec fmt --check *.moe        exit status 1 if any file is not formatted")]
pub(crate) struct FmtArgs {
    /// Changes nothing; tells which files would change.
    #[arg(long)]
    pub(crate) check: bool,
    /// The files.
    #[arg(value_name = "M.moe", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) models: Vec<PathBuf>,
}

fn targets() -> impl TypedValueParser<Value = Target> {
    PossibleValuesParser::new(Target::NAMES)
        .try_map(|name| Target::named(&name).ok_or_else(|| format!("there is no target `{name}`")))
}

/// What decides how a model is compiled.
#[derive(Args, Clone)]
pub(crate) struct CompileArgs {
    /// The GPU to compile for; the file's first `target` section, else h800, if not given.
    #[arg(long, value_parser = targets())]
    pub(crate) target: Option<Target>,
    /// GPUs that share the experts; what the file's `parallel` section says, else 1, if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) ranks: Option<u32>,
    /// GPUs of a node, which reach each other over NVLink; others do over the network.
    #[arg(long, value_name = "N", default_value_t = Ranks::PER_NODE)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) ranks_per_node: u32,
    /// Switches a rewrite rule off, by name (see `moec rules`); may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) without_rule: Vec<String>,
    /// Switches all rules of a table off; may be repeated.
    #[arg(long, value_name = "FAMILY", value_enum)]
    pub(crate) without_family: Vec<RuleFamily>,
    /// Sequences in the step that costs are weighed for; 128 in decoding and 1 in prefill if not
    /// given, what is run when running. The code is right for any other step too.
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) batch: Option<u64>,
    /// Tokens of each of these sequences; 4096 if not given, what is run when running.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) length: Option<u64>,
    /// Threads of the host to use; all cores if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

/// A table of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuleFamily {
    /// Equalities of mathematics.
    Algebra,
    /// What one kernel does at once.
    Fusion,
}

/// Text that a stage can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Emit {
    /// The syntax tree.
    Ast,
    /// The typed graph.
    Graph,
    /// Everything the optimizer found to be equal.
    Egraph,
    /// Kernels, launches and buffers, as JSON.
    Plan,
    /// How the SMs are divided where experts are spread over ranks, with the alternatives.
    Partition,
    /// The predicted schedule where experts are spread over ranks, as a trace for Perfetto.
    Timeline,
    /// The kernels as built, in MLIR.
    Mlir,
    /// The kernels in LLVM IR.
    Llvm,
    /// The kernels in PTX.
    Ptx,
    /// The kernels as ptxas assembles them; needs ptxas and nvdisasm.
    Sass,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  moec build lite.moe                                 writes lite.artefact/, both phases
  moec build lite.moe --target h100 -o out/lite       for another GPU, to another place
  moec build lite.moe --batch 1                       weighed for one sequence at a time
  moec build lite.moe --phase decode --emit ptx       prints the PTX of decoding
  moec build lite.moe --emit graph -o lite.graph      the typed graph, to a file
  moec build v3.moe --phase prefill --batch 4 --emit timeline -o v3.json
                                                      who computes and communicates when, for
                                                      ui.perfetto.dev

An artefact holds manifest.json and, per phase, plan.json and kernels.ptx. It needs no compiler
to run: `moec generate lite.artefact --weights DIR` loads it.")]
pub(crate) struct BuildArgs {
    /// The model.
    #[arg(value_name = "M.moe", value_hint = ValueHint::FilePath)]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) compile: CompileArgs,
    /// Only this phase, prefill or decode; both if not given (with --emit: decode).
    #[arg(long)]
    pub(crate) phase: Option<Phase>,
    /// The artefact's folder (with --emit: the file) to write.
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) output: Option<PathBuf>,
    /// Prints what a stage made instead of writing an artefact.
    #[arg(long, value_enum)]
    pub(crate) emit: Option<Emit>,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  moec explain deepseek-v3.moe --phase decode
  moec explain deepseek-v3.moe --phase decode --without-rule absorb-key-projection
  moec explain deepseek-v3.moe --phase decode --without-family fusion
  moec explain deepseek-v3.moe --phase prefill --why-not absorb-key-projection
  moec explain deepseek-v3.moe --mla

Costs are predictions for the target, in the step that the plan is weighed for. `--why-not` says
of each function whether the rule found what it looks for, which part of it or which condition
failed and where in the file, or what the cheapest plan with it would cost, by unit. `--mla` says
from how many query tokens on latent attention is cheaper in its expanded form.")]
pub(crate) struct ExplainArgs {
    /// The model.
    #[arg(value_name = "M.moe", value_hint = ValueHint::FilePath)]
    pub(crate) model: PathBuf,
    /// prefill or decode.
    #[arg(long, required_unless_present = "mla")]
    pub(crate) phase: Option<Phase>,
    /// Says why a rule does not shape the plan.
    #[arg(long, value_name = "RULE", conflicts_with = "mla")]
    pub(crate) why_not: Option<String>,
    /// Prints where absorbed and expanded latent attention cost the same, for both phases.
    #[arg(long, conflicts_with = "phase")]
    pub(crate) mla: bool,
    #[command(flatten)]
    pub(crate) compile: CompileArgs,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// The compiled PTX on the CPU, instruction by instruction.
    Emulator,
    /// The compiled PTX on an NVIDIA GPU of the Hopper generation.
    Cuda,
    /// The model's equations in float64, without compiling.
    Reference,
}

/// What decides where a model runs.
#[derive(Args, Clone)]
pub(crate) struct RunArgs {
    /// The model, or an artefact that `moec build` wrote.
    #[arg(value_name = "M.moe|ARTEFACT", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,
    /// Folder of the checkpoint: safetensors files, and tokenizer.json and config.json if there.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) weights: PathBuf,
    /// What computes.
    #[arg(long, value_enum, default_value_t = DeviceName::Emulator)]
    pub(crate) device: DeviceName,
    /// Runs on the emulator in an order of events that the hardware allows, chosen by the seed; in
    /// the order of numbers if not given. A model that is right gives the same in all.
    #[arg(long, value_name = "S")]
    pub(crate) schedule_seed: Option<u64>,
    #[command(flatten)]
    pub(crate) compile: CompileArgs,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  moec logits tiny.moe --weights tiny --ids ids.safetensors -o logits.safetensors
  moec logits tiny.moe --weights tiny --ids ids.safetensors -o exact.safetensors --device reference
  moec logits tiny.moe --weights tiny --ids ids.safetensors -o l.safetensors --ranks 8 --ranks-per-node 4")]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// File with the tensor `input_ids`, [B, S] or [S], int32 or int64.
    #[arg(long, value_name = "FILE.safetensors", value_hint = ValueHint::FilePath)]
    pub(crate) ids: PathBuf,
    /// File to write: the tensor `logits`, [B, S, vocab] float32.
    #[arg(short, long, value_name = "OUT.safetensors", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
}

/// Which experts tokens go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoutingName {
    /// Those that the model chooses; ranks have different numbers of tokens, and one has none.
    Model,
    /// All experts equally often.
    Balanced,
    /// As many experts of a single rank as a token can choose.
    OneRank,
    /// Balanced, and an expert of each rank that no token chooses.
    EmptyExpert,
    /// As one-rank, with memory for no more rows than come.
    ExactCapacity,
    /// Log-normal, with a standard deviation of 1.
    LogNormal,
}

impl RoutingName {
    pub(crate) fn of(self) -> Routing {
        match self {
            Self::Model => Routing::Model,
            Self::Balanced => Routing::Balanced,
            Self::OneRank => Routing::OneRank,
            Self::EmptyExpert => Routing::EmptyExpert,
            Self::ExactCapacity => Routing::ExactCapacity,
            Self::LogNormal => Routing::LogNormal,
        }
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  moec simulate tiny.moe --weights tiny --ranks 8 --ranks-per-node 4
  moec simulate tiny.moe --ranks 4 --routing one-rank --tokens 8      random weights
  moec simulate tiny.moe --ranks 4 --only-schedule 17                 repeats what failed

A prefill and a decode step run on emulated GPUs, once in the order of numbers and then under
seeded schedules, which order warps, CTAs and ranks otherwise and hold ranks back. All must give
the same bits. One rank alone must give the same bits too where the ranks lie on one node, and
nearly the same where sums are rounded between nodes. A hang is told as who waits for whom.")]
pub(crate) struct SimulateArgs {
    /// The model.
    #[arg(value_name = "M.moe", value_hint = ValueHint::FilePath)]
    pub(crate) model: PathBuf,
    /// Folder of the checkpoint; random weights if not given.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) weights: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) compile: CompileArgs,
    /// How many schedules.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) schedules: u64,
    /// Runs this schedule alone, as a failure names it.
    #[arg(long, value_name = "SEED")]
    pub(crate) only_schedule: Option<u64>,
    /// Writes what ran when, by rank and role of SMs, as a trace for Perfetto or chrome://tracing;
    /// of the run in order, or of --only-schedule. A nanosecond is an instruction of an SM.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) timeline: Option<PathBuf>,
    /// Which experts tokens go to: by changing the weights of routers, so that they choose so.
    #[arg(long, value_enum, default_value_t = RoutingName::Model)]
    pub(crate) routing: RoutingName,
    /// Tokens of each rank in the prefill.
    #[arg(long, value_name = "T", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) tokens: u64,
    /// Decides tokens, random weights and routing; not the schedules.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  moec numerics tiny.moe --weights tiny
  moec numerics tiny.moe --weights tiny --ids ids.safetensors --format json

The model is evaluated in float64. Each linear map's operands are then quantised to e4m3, and the
quantised product is added up as tensor cores would: exactly, as Hopper does, and in the 22-bit
and 14-bit registers of the literature (DeepSeek-V3 3.5.2; ISCA 2025, \"Insights into
DeepSeek-V3\", 3.1.1), moved to float32 after so many products or never. Errors are relative (L2)
to the float64 product of the same quantised operands, over a sample of the results.")]
pub(crate) struct NumericsArgs {
    /// The model.
    #[arg(value_name = "M.moe", value_hint = ValueHint::FilePath)]
    pub(crate) model: PathBuf,
    /// Folder of the checkpoint.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) weights: PathBuf,
    /// File with the tensor `input_ids`, of which the first sequence is read; 64 tokens spread
    /// over the vocabulary if not given.
    #[arg(long, value_name = "FILE.safetensors", value_hint = ValueHint::FilePath)]
    pub(crate) ids: Option<PathBuf>,
    /// A table, or JSON.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["prompt", "prompt_ids"])))]
#[command(after_help = "\
Examples:
  moec generate tiny.moe --weights tiny --prompt 'In the beginning'
  moec generate tiny.moe --weights tiny --prompt 'And God' --temperature 0
  moec generate tiny.artefact --weights tiny --prompt-ids 5,17,3 --format json --device cuda
  moec generate tiny.moe --weights tiny --prompt 'And God' --ranks 4     experts on four ranks

The same command prints the same text: the seed is 0 unless given. Generation ends after N
tokens or at the checkpoint's end-of-text token: that of generation_config.json, or that of
config.json where there is a tokenizer.json too.")]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Text to continue; needs the checkpoint's tokenizer.json.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Token ids to continue.
    #[arg(long, value_name = "1,2,3", value_delimiter = ',')]
    pub(crate) prompt_ids: Option<Vec<u32>>,
    /// Most tokens to add.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) max_new_tokens: u64,
    /// 0 always takes the most likely token; higher is more varied.
    #[arg(long, value_name = "T", default_value_t = 0.7, allow_negative_numbers = true)]
    pub(crate) temperature: f64,
    /// Only the K most likely tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Only the most likely tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub(crate) top_p: f64,
    /// Decides what is drawn.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Goes on after an end-of-text token.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// `text`: prompt and continuation as they come, token ids where there is no tokenizer;
    /// `json`: `{"ids": [..], "text": ".."}` of the continuation.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  moec emulate launch.json -o out.safetensors

launch.json names a PTX file, a kernel, grid, block and arguments:
  {\"ptx\": \"k.ptx\", \"kernel\": \"scale\", \"grid\": [1, 1, 1], \"block\": [32, 1, 1],
   \"args\": [{\"buffer\": {\"name\": \"x\", \"dtype\": \"f32\", \"shape\": [32], \"fill\": 1}},
            {\"scalar\": {\"dtype\": \"f32\", \"value\": 2}}]}
Every named buffer is written to the output after the launch.")]
pub(crate) struct EmulateArgs {
    /// The description of the launch.
    #[arg(value_name = "LAUNCH.json", value_hint = ValueHint::FilePath)]
    pub(crate) launch: PathBuf,
    /// File for the buffers after the launch.
    #[arg(short, long, value_name = "OUT.safetensors", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
}
