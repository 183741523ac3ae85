//! The printed form of graphs, and reading it back.
//!
//! ```text
//! graph TinyV3 context 2048
//!
//! fn head(bf16[T, 256]) {
//!   param norm: bf16[256] = "model.norm.weight"
//!   cache latent: bf16[160]
//!   %0 x = input 0 () : bf16[T, 256]
//!   return %4
//! }
//!
//! entry main(i32[T]) {
//!   %1 = embed(%0)
//!   %2 = dense@0(%1)
//!   return %2
//! }
//! ```
//!
//! Source spans are not printed; everything else round-trips.

use super::{Cache, Entry, Function, Graph, Node, NodeId, Op, Param, Step, TensorType, ValueId};
use crate::Dim;
use std::fmt;
use std::str::FromStr;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "graph {} context {}", self.name, self.context)?;
        if let Some(every) = self.promote_every {
            write!(f, " promote every {every}")?;
        }
        writeln!(f)?;
        for function in &self.functions {
            write!(f, "\n{function}")?;
        }
        for entry in &self.entries {
            writeln!(f, "\nentry {}({}) {{", entry.name, join(&entry.inputs))?;
            for step in &entry.steps {
                let name = &self.functions[step.function].name;
                let layer = step.layer.map(|l| format!("@{l}")).unwrap_or_default();
                let (to, from) = (values(&step.outputs), values(&step.inputs));
                writeln!(f, "  {to} = {name}{layer}({from})")?;
            }
            writeln!(f, "  return {}\n}}", values(&entry.outputs))?;
        }
        Ok(())
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "fn {}({}) {{", self.name, join(&self.inputs))?;
        for p in &self.params {
            writeln!(f, "  param {}: {} = {:?}", p.name, p.ty, p.tensor)?;
        }
        for c in &self.caches {
            let packed = c.packed.map(|p| format!(" as {p}")).unwrap_or_default();
            writeln!(f, "  cache {}: {}{packed}", c.name, c.ty)?;
        }
        for (i, n) in self.nodes.iter().enumerate() {
            let name = n.name.as_ref().map(|n| format!(" {n}")).unwrap_or_default();
            writeln!(f, "  %{i}{name} = {} ({}) : {}", n.op, nodes(&n.inputs), n.ty)?;
        }
        writeln!(f, "  return {}\n}}", nodes(&self.outputs))
    }
}

fn join(types: &[TensorType]) -> String {
    types.iter().map(TensorType::to_string).collect::<Vec<_>>().join("; ")
}

fn nodes(ids: &[NodeId]) -> String {
    ids.iter().map(|i| format!("%{}", i.0)).collect::<Vec<_>>().join(", ")
}

fn values(ids: &[ValueId]) -> String {
    ids.iter().map(|i| format!("%{}", i.0)).collect::<Vec<_>>().join(", ")
}

/// A line that is not a graph's: its number (from 1) and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ReadError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What was expected there.
    pub message: String,
}

impl FromStr for Graph {
    type Err = ReadError;
    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, ReadError> {
        let mut graph = Self {
            name: String::new(),
            context: 0,
            promote_every: None,
            functions: vec![],
            entries: vec![],
        };
        let mut open = Open::Nothing;
        for (at, line) in text.lines().enumerate() {
            read_line(&mut graph, &mut open, line.trim())
                .map_err(|message| ReadError { line: at + 1, message })?;
        }
        match open {
            Open::Nothing if !graph.name.is_empty() => Ok(graph),
            _ => Err(ReadError {
                line: text.lines().count(),
                message: "the graph is not complete".into(),
            }),
        }
    }
}

enum Open {
    Nothing,
    Function(Function),
    Entry(Entry),
}

fn read_line(graph: &mut Graph, open: &mut Open, line: &str) -> Result<(), String> {
    if line.is_empty() {
        return Ok(());
    }
    if line == "}" {
        match std::mem::replace(open, Open::Nothing) {
            Open::Function(f) => graph.functions.push(f),
            Open::Entry(e) => graph.entries.push(e),
            Open::Nothing => return Err("`}` closes nothing".into()),
        }
        return Ok(());
    }
    match open {
        Open::Function(f) => read_in_function(f, line),
        Open::Entry(e) => read_in_entry(e, &graph.functions, line),
        Open::Nothing => {
            if let Some(rest) = line.strip_prefix("graph ") {
                let (name, context) =
                    rest.split_once(" context ").ok_or("`graph NAME context N`")?;
                let (context, every) = match context.split_once(" promote every ") {
                    Some((context, every)) => (context, Some(every)),
                    None => (context, None),
                };
                let number =
                    |text: &str| text.parse().map_err(|_| format!("`{text}` is no number"));
                graph.promote_every = every.map(number).transpose()?;
                graph.name = name.into();
                graph.context = context.parse().map_err(|_| "`context` is a number".to_owned())?;
            } else if let Some(rest) = line.strip_prefix("fn ") {
                let (name, inputs) = header(rest)?;
                let (params, caches, nodes, outputs) = (vec![], vec![], vec![], vec![]);
                *open = Open::Function(Function { name, inputs, params, caches, nodes, outputs });
            } else if let Some(rest) = line.strip_prefix("entry ") {
                let (name, inputs) = header(rest)?;
                *open = Open::Entry(Entry { name, inputs, steps: vec![], outputs: vec![] });
            } else {
                return Err("`graph`, `fn` or `entry`".into());
            }
            Ok(())
        }
    }
}

/// `NAME(TYPE; TYPE) {`
fn header(text: &str) -> Result<(String, Vec<TensorType>), String> {
    let (name, rest) = text.split_once('(').ok_or("`NAME(TYPES) {`")?;
    let types = rest.strip_suffix(") {").ok_or("`) {` ends the line")?;
    let types = types.split("; ").filter(|t| !t.is_empty()).map(str::parse);
    Ok((name.into(), types.collect::<Result<_, _>>()?))
}

fn read_in_function(f: &mut Function, line: &str) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("param ") {
        let (name, rest) = rest.split_once(": ").ok_or("`param NAME: TYPE = \"TENSOR\"`")?;
        let (ty, tensor) = rest.split_once(" = ").ok_or("`= \"TENSOR\"`")?;
        let tensor =
            serde_json::from_str(tensor).map_err(|_| "a tensor's name in quotes".to_owned())?;
        f.params.push(Param { name: name.into(), tensor, ty: ty.parse()? });
    } else if let Some(rest) = line.strip_prefix("cache ") {
        let (name, ty) = rest.split_once(": ").ok_or("`cache NAME: TYPE`")?;
        let (ty, packed) = match ty.split_once(" as ") {
            Some((ty, packed)) => (ty, Some(packed.parse()?)),
            None => (ty, None),
        };
        f.caches.push(Cache { name: name.into(), ty: ty.parse()?, packed });
    } else if let Some(rest) = line.strip_prefix("return ") {
        f.outputs = ids(rest)?.into_iter().map(NodeId).collect();
    } else {
        let (left, right) = line.split_once(" = ").ok_or("`%N = OP (..) : TYPE`")?;
        let (id, name) =
            left.split_once(' ').map_or((left, None), |(i, n)| (i, Some(n.to_owned())));
        if id != format!("%{}", f.nodes.len()) {
            return Err(format!("`%{}` comes next", f.nodes.len()));
        }
        let (rest, ty) = right.rsplit_once(" : ").ok_or("`: TYPE`")?;
        let (op, inputs) = rest.rsplit_once(" (").ok_or("operands in parentheses")?;
        let inputs = ids(inputs.strip_suffix(')').ok_or("`)`")?)?;
        let inputs = inputs.into_iter().map(NodeId).collect();
        f.nodes.push(Node { op: op.parse()?, inputs, ty: ty.parse()?, name, spans: vec![] });
    }
    Ok(())
}

fn read_in_entry(e: &mut Entry, functions: &[Function], line: &str) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("return ") {
        e.outputs = ids(rest)?.into_iter().map(ValueId).collect();
        return Ok(());
    }
    let (to, call) = line.split_once(" = ").ok_or("`%N = FUNCTION(..)`")?;
    let (callee, from) = call.split_once('(').ok_or("arguments in parentheses")?;
    let from = from.strip_suffix(')').ok_or("`)`")?;
    let (name, layer) = callee.split_once('@').map_or((callee, None), |(n, l)| (n, Some(l)));
    let layer = layer.map(|l| l.parse().map_err(|_| "a layer's number".to_owned())).transpose()?;
    let function = functions.iter().position(|f| f.name == name);
    let function = function.ok_or_else(|| format!("there is no function `{name}`"))?;
    let (outputs, inputs) = (ids(to)?, ids(from)?);
    let to_values = |ids: Vec<usize>| ids.into_iter().map(ValueId).collect();
    e.steps.push(Step { function, layer, inputs: to_values(inputs), outputs: to_values(outputs) });
    Ok(())
}

/// `%1, %2`
fn ids(text: &str) -> Result<Vec<usize>, String> {
    let items = text.split(", ").filter(|t| !t.is_empty());
    items
        .map(|t| {
            t.strip_prefix('%')
                .and_then(|t| t.parse().ok())
                .ok_or_else(|| format!("`%N`, not `{t}`"))
        })
        .collect()
}

impl FromStr for TensorType {
    type Err = String;
    /// Reads `bf16[T, 128]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (dtype, rest) =
            text.split_once('[').ok_or_else(|| format!("`{text}` is not a type"))?;
        let dims = rest.strip_suffix(']').ok_or_else(|| format!("`{text}` is not a type"))?;
        let dims = dims.split(", ").filter(|d| !d.is_empty()).map(str::parse::<Dim>);
        Ok(Self { dtype: dtype.parse()?, shape: dims.collect::<Result<_, _>>()? })
    }
}

/// An operation's attributes are its serialised form: `slice {"axis":1,"start":0,"len":64}`.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_value(self).map_err(|_| fmt::Error)? {
            serde_json::Value::Object(fields) => {
                for (name, attributes) in fields {
                    write!(f, "{name} {attributes}")?;
                }
                Ok(())
            }
            name => f.write_str(name.as_str().unwrap_or("?")),
        }
    }
}

impl FromStr for Op {
    type Err = String;
    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, String> {
        let json = match text.split_once(' ') {
            Some((name, attributes)) => format!("{{{name:?}:{attributes}}}"),
            None => format!("{text:?}"),
        };
        serde_json::from_str(&json).map_err(|e| format!("`{text}` is not an operation: {e}"))
    }
}

impl Op {
    /// The name alone: `slice`.
    pub fn name(&self) -> String {
        let text = self.to_string();
        text.split_once(' ').map_or(text.clone(), |(name, _)| name.to_owned())
    }
}
