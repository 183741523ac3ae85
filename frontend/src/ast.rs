//! The syntax tree: what a `.moe` file says, before anything is looked up.
//!
//! Every node has the span of bytes that it was read from. [`Ast`] prints as an indented
//! tree ([`std::fmt::Display`]), which is what `--emit ast` shows.

mod display;

use moec_ir::Span;

/// A whole file.
#[derive(Clone, Debug, PartialEq)]
pub struct Ast {
    /// `model Name { … }`, in order; a file that compiles has exactly one.
    pub models: Vec<ModelDecl>,
    /// `target name { … }`, in order.
    pub targets: Vec<TargetDecl>,
    /// The whole file.
    pub span: Span,
}

/// A name where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ident {
    /// The name.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// `model Name { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct ModelDecl {
    /// The model's name.
    pub name: Ident,
    /// What it contains, in order.
    pub members: Vec<Member>,
    /// From `model` to the closing brace.
    pub span: Span,
}

/// One declaration in a model or a block.
#[derive(Clone, Debug, PartialEq)]
pub enum Member {
    /// `dim a = 1, b = 2 * a`
    Dims(Vec<Binding>, Span),
    /// `let scale = 1 / sqrt(d)`
    Let(Binding),
    /// `param w: [n, k] = "w.weight"`, `state b: [n] = "b"`
    Param(ParamDecl),
    /// `cache latent: [r]`
    Cache(CacheDecl),
    /// `use mlp: Mlp(ff) = "mlp"`
    Use(UseDecl),
    /// `block Mlp(inner) { … }`
    Block(BlockDecl),
    /// `fn (x: [T, d]) -> [T, d] { … }`, `fn name(…) …`, `entry name(…) …`
    Function(FunctionDecl),
    /// `precision { … }`
    Precision(PrecisionDecl),
    /// `parallel { … }`
    Parallel(ParallelDecl),
    /// `train { … }`
    Train(TrainDecl),
}

/// `name = expression`
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// What is defined.
    pub name: Ident,
    /// Its value.
    pub value: Expr,
    /// The whole.
    pub span: Span,
}

/// A string where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The characters between the quotes.
    pub text: String,
    /// Where, quotes included.
    pub span: Span,
}

/// A parameter or a state of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamDecl {
    /// Its name in the language.
    pub name: Ident,
    /// Whether it is a `state`: updated by a rule instead of a gradient, kept in float32.
    pub is_state: bool,
    /// Sizes of its axes.
    pub shape: Shape,
    /// The checkpoint's tensor, below the prefix of the place where the block is used.
    pub tensor: Text,
    /// The whole.
    pub span: Span,
}

/// What a block remembers of each token.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheDecl {
    /// Its name.
    pub name: Ident,
    /// Shape of what is kept per token.
    pub shape: Shape,
    /// The whole.
    pub span: Span,
}

/// A block used inside another or in the model.
#[derive(Clone, Debug, PartialEq)]
pub struct UseDecl {
    /// The name by which it is called.
    pub name: Ident,
    /// Which block.
    pub block: Ident,
    /// Sizes given to the block.
    pub sizes: Vec<Expr>,
    /// `for i in first..end`: one copy per layer.
    pub range: Option<RangeDecl>,
    /// Prefix of the names of its tensors.
    pub prefix: Text,
    /// The whole.
    pub span: Span,
}

/// `for i in first..end`
#[derive(Clone, Debug, PartialEq)]
pub struct RangeDecl {
    /// The name that stands in braces in the prefix.
    pub variable: Ident,
    /// First layer.
    pub first: Expr,
    /// One past the last layer.
    pub end: Expr,
    /// The whole.
    pub span: Span,
}

/// A block: parameters and the function over them.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockDecl {
    /// Its name.
    pub name: Ident,
    /// Names of the sizes it takes.
    pub sizes: Vec<Ident>,
    /// What it contains, in order.
    pub members: Vec<Member>,
    /// The whole.
    pub span: Span,
}

/// What kind of function it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// What calling a block's use computes.
    Forward,
    /// A named function, inlined where it is called.
    Named,
    /// A way into the model.
    Entry,
}

/// A function over tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionDecl {
    /// What kind of function it is.
    pub kind: FunctionKind,
    /// Its name; a block's forward function has none.
    pub name: Option<Ident>,
    /// Inputs.
    pub inputs: Vec<InputDecl>,
    /// Types of the results.
    pub results: Vec<Type>,
    /// What it computes.
    pub body: Body,
    /// The whole.
    pub span: Span,
}

/// `x: [T, hidden]`
#[derive(Clone, Debug, PartialEq)]
pub struct InputDecl {
    /// Its name.
    pub name: Ident,
    /// Its type.
    pub ty: Type,
}

/// `[T, hidden]` or `int[T]`
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    /// Whether the elements are integers (token ids, expert indices).
    pub is_int: bool,
    /// Sizes of the axes.
    pub shape: Shape,
    /// The whole.
    pub span: Span,
}

/// `[T, heads * d]`
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Sizes, outermost first.
    pub axes: Vec<AxisExpr>,
    /// The whole.
    pub span: Span,
}

/// One axis of a shape.
#[derive(Clone, Debug, PartialEq)]
pub enum AxisExpr {
    /// `..`: any leading axes; in signatures only.
    Rest(Span),
    /// A size.
    Size(Expr),
}

/// `{ let a = …  result }`
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// Definitions, in order.
    pub lets: Vec<Let>,
    /// What is returned.
    pub results: Vec<Expr>,
    /// From brace to brace.
    pub span: Span,
}

/// `let a, b = …`
#[derive(Clone, Debug, PartialEq)]
pub struct Let {
    /// What is defined; several where the value is several.
    pub names: Vec<Ident>,
    /// The value.
    pub value: Expr,
    /// The whole.
    pub span: Span,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where.
    pub span: Span,
}

/// What an expression is.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// `128`, `1e-6`: as written.
    Number(String),
    /// `x`
    Name(String),
    /// `-x`
    Neg(Box<Expr>),
    /// `x + y`
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `f(x, k = 2) |t, e| { … }`
    Call(Box<Call>),
    /// `w[e]`
    Index(Ident, Box<Expr>),
    /// `x as [T, h, d]`
    Reshape(Box<Expr>, Shape),
}

/// An operator between two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
}

impl BinaryOp {
    /// The operator as it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
        }
    }

    /// 1 for sums, 2 for products.
    pub fn precedence(self) -> u8 {
        match self {
            Self::Add | Self::Sub => 1,
            Self::Mul | Self::Div => 2,
        }
    }
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What is called: a built-in operation, a function or a used block.
    pub callee: Ident,
    /// Arguments as written.
    pub args: Vec<Arg>,
    /// `|t, e| { … }` behind the arguments.
    pub lambda: Option<Lambda>,
}

/// One argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// `name =`, where it is given.
    pub name: Option<Ident>,
    /// The value.
    pub value: Expr,
}

/// `|t, e| { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct Lambda {
    /// Names of what it is given.
    pub inputs: Vec<Ident>,
    /// What it computes.
    pub body: Body,
    /// The whole.
    pub span: Span,
}

/// `precision { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionDecl {
    /// The settings, in order.
    pub settings: Vec<Setting>,
    /// The whole.
    pub span: Span,
}

/// `name: phrase, phrase`
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// What is set.
    pub name: Ident,
    /// To what.
    pub phrases: Vec<Vec<Word>>,
    /// The whole.
    pub span: Span,
}

/// One word of a phrase.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// A name.
    Name(Ident),
    /// A number as written.
    Number(Ident),
    /// `[128, 128]`
    Shape(Shape),
}

/// `parallel { … }`, `parallel decode { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct ParallelDecl {
    /// The phase that it is for; without, all that have none of their own.
    pub phase: Option<Ident>,
    /// The lines, in order.
    pub items: Vec<ParallelItem>,
    /// The whole.
    pub span: Span,
}

/// One line of a parallel section.
#[derive(Clone, Debug, PartialEq)]
pub enum ParallelItem {
    /// `experts over 64 ranks`
    Spread(SpreadDecl),
    /// `transfer: low_latency`
    Choice(ChoiceDecl),
}

impl ParallelItem {
    /// The whole.
    pub fn span(&self) -> Span {
        match self {
            Self::Spread(s) => s.span,
            Self::Choice(c) => c.span,
        }
    }
}

/// `transfer: low_latency`
#[derive(Clone, Debug, PartialEq)]
pub struct ChoiceDecl {
    /// What is chosen.
    pub name: Ident,
    /// A name or a number.
    pub value: Ident,
    /// The whole.
    pub span: Span,
}

/// `experts over 64 ranks, 8 per node`
#[derive(Clone, Debug, PartialEq)]
pub struct SpreadDecl {
    /// What is spread.
    pub what: Ident,
    /// Over how many.
    pub count: Expr,
    /// Of what.
    pub unit: Ident,
    /// How many of them are in one of what.
    pub each: Option<(Expr, Ident)>,
    /// The whole.
    pub span: Span,
}

/// `train { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct TrainDecl {
    /// The lines, in order.
    pub items: Vec<TrainItem>,
    /// The whole.
    pub span: Span,
}

/// One line of a train section.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainItem {
    /// `loss cross_entropy(logits, next)`, `optimizer adamw()`
    Directive(Binding),
    /// `bias += 0.001 * sign(mean(load) - load)`
    Update(Binding),
}

/// `target h800 { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct TargetDecl {
    /// Which machine.
    pub name: Ident,
    /// Its lines.
    pub lines: Vec<SmsDecl>,
    /// The whole.
    pub span: Span,
}

/// `sms 132 = comm 20 + compute`
#[derive(Clone, Debug, PartialEq)]
pub struct SmsDecl {
    /// `sms`
    pub name: Ident,
    /// How many.
    pub count: Ident,
    /// What for; a share without a number takes the rest.
    pub shares: Vec<(Ident, Option<Ident>)>,
    /// The whole.
    pub span: Span,
}
