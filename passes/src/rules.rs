//! The rules: what equals what, and which kernel computes what.
//!
//! Three tables, one rule a line: [`algebra`] (equalities of mathematics), [`fusion`] (what one
//! kernel does at once) and [`lowering`] (mathematics to kernels). `README.md` beside them is
//! the page of rules for rules.

mod algebra;
mod attention;
mod conditions;
mod diagnose;
mod exchange;
mod fusion;
mod layout;
mod lowering;
mod pointwise;
mod routing;
mod scaled;
mod sharing;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use diagnose::{Obstacle, Subject};

use crate::language::{Attr, EGraph, Node};
use crate::pattern::{Match, Names, Pattern, Rewriter, Value, match_class};
use egg::Id;
use std::fmt;

/// A rule of one of the tables.
pub(crate) struct Rule {
    /// A kebab-case sentence, unique.
    pub(crate) name: &'static str,
    /// The table it stands in.
    pub(crate) family: Family,
    /// The equation, for people.
    pub(crate) equation: &'static str,
    kind: Kind,
}

/// The tables of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Equalities of mathematics.
    Algebra,
    /// What one kernel can do at once.
    Fusion,
    /// Mathematics to kernels. Without these nothing can be compiled.
    Lowering,
}

type Given = dyn Fn(&Match<'_>) -> Option<Attr>;
type When = dyn Fn(&Match<'_>, &[&str]) -> bool;
type At = dyn Fn(&Rewriter<'_>, Id, &Node) -> bool;
type Apply = fn(&mut Rewriter<'_>, Id, &Node);

enum Kind {
    Equation(Box<Equation>),
    Function {
        roots: Vec<&'static str>,
        /// Side conditions on the node that is rewritten.
        conditions: Vec<(&'static str, Box<At>)>,
        apply: Apply,
    },
}

struct Equation {
    names: Names,
    left: Pattern,
    right: Pattern,
    /// Attributes of the right side that are computed from the match.
    given: Vec<(&'static str, usize, Box<Given>)>,
    when: Vec<(&'static str, Box<When>, &'static [&'static str])>,
}

/// Where a rule applies.
pub(crate) enum Site {
    /// What the variables of an equation stand for; the first is the class matched.
    Equation(Vec<Option<Value>>),
    /// The node that a function rewrites, and its class.
    Function(Id, Node),
}

impl Rule {
    /// `LEFT => RIGHT`. The class matched is bound to the variable `out`.
    fn equation(name: &'static str, equation: &'static str) -> Self {
        let mut names = Names::default();
        names.intern("out");
        let bug = |fault: String| -> Pattern { panic!("bug in moec: rule `{name}`: {fault}") };
        let (left, right) = equation.split_once(" => ").unwrap_or((equation, ""));
        let left = Pattern::parse(left, &mut names).unwrap_or_else(bug);
        let right = Pattern::parse(right, &mut names).unwrap_or_else(bug);
        let parsed = Equation { names, left, right, given: vec![], when: vec![] };
        let kind = Kind::Equation(Box::new(parsed));
        Self { name, family: Family::Algebra, equation, kind }
    }

    /// A rule that no single equation says: `apply` sees every node of one of those names.
    fn function(
        name: &'static str,
        equation: &'static str,
        roots: &[&'static str],
        apply: Apply,
    ) -> Self {
        let kind = Kind::Function { roots: roots.to_vec(), conditions: vec![], apply };
        Self { name, family: Family::Algebra, equation, kind }
    }

    /// Computes an attribute of the right side; where it gives none the rule does not apply.
    fn given<F>(mut self, attribute: &str, compute: F) -> Self
    where
        F: Fn(&Match<'_>) -> Option<Attr> + 'static,
    {
        if let Kind::Equation(equation) = &mut self.kind {
            let variable = equation.names.intern(attribute);
            equation.given.push((name_of::<F>(), variable, Box::new(compute)));
        }
        self
    }

    /// A side condition on variables of those names.
    fn when<F>(mut self, condition: F, on: &'static [&'static str]) -> Self
    where
        F: Fn(&Match<'_>, &[&str]) -> bool + 'static,
    {
        if let Kind::Equation(equation) = &mut self.kind {
            equation.when.push((name_of::<F>(), Box::new(condition), on));
        }
        self
    }

    /// Without a side condition: true of all operands that are well typed.
    fn anywhere(mut self) -> Self {
        match &mut self.kind {
            Kind::Equation(e) => e.when.push(("anywhere", Box::new(|_, _| true), &[])),
            Kind::Function { conditions, .. } => {
                conditions.push(("anywhere", Box::new(|_, _, _| true)));
            }
        }
        self
    }

    /// A side condition on the node that a function rewrites.
    fn at<F>(mut self, condition: F) -> Self
    where
        F: Fn(&Rewriter<'_>, Id, &Node) -> bool + 'static,
    {
        if let Kind::Function { conditions, .. } = &mut self.kind {
            conditions.push((name_of::<F>(), Box::new(condition)));
        }
        self
    }

    /// The names of the functions that are its side conditions.
    pub(crate) fn conditions(&self) -> Vec<&'static str> {
        match &self.kind {
            Kind::Equation(e) => {
                e.given.iter().map(|g| g.0).chain(e.when.iter().map(|w| w.0)).collect()
            }
            Kind::Function { conditions, .. } => conditions.iter().map(|c| c.0).collect(),
        }
    }

    fn of(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// All places where the rule applies, in the order of their classes.
    pub(crate) fn search(&self, egraph: &EGraph) -> Vec<Site> {
        match &self.kind {
            Kind::Equation(equation) => {
                let Equation { names, left, .. } = equation.as_ref();
                let Pattern::Op { name, .. } = left else { return vec![] };
                let matches = classes_of(egraph, name).into_iter().flat_map(|class| {
                    let mut values = vec![None; names.len()];
                    values[0] = Some(Value::Class(class));
                    match_class(egraph, left, class, values)
                });
                matches.filter_map(|values| equation.complete(egraph, values)).collect()
            }
            Kind::Function { roots, .. } => {
                let mut sites = vec![];
                for root in roots {
                    for class in classes_of(egraph, root) {
                        let nodes = egraph[class].nodes.iter();
                        let named = nodes.filter(|n| n.term.name() == *root);
                        sites.extend(named.map(|n| Site::Function(class, n.clone())));
                    }
                }
                sites
            }
        }
    }

    /// Adds what the rule says of one place.
    pub(crate) fn apply(&self, rewriter: &mut Rewriter<'_>, site: &Site) {
        match (&self.kind, site) {
            (Kind::Equation(equation), Site::Equation(values)) => {
                let Some(Value::Class(class)) = values[0] else { return };
                let dtype = rewriter.ty(class).dtype;
                if let Some(equal) = rewriter.build(&equation.right, values, Some(dtype)) {
                    rewriter.equate(class, equal);
                }
            }
            (Kind::Function { conditions, apply, .. }, Site::Function(class, node))
                if conditions.iter().all(|(_, holds)| holds(rewriter, *class, node)) =>
            {
                apply(rewriter, *class, node);
            }
            _ => {}
        }
    }
}

impl Equation {
    /// Computes the given attributes and checks the side conditions.
    fn complete(&self, egraph: &EGraph, mut values: Vec<Option<Value>>) -> Option<Site> {
        let names = &self.names;
        for (_, var, compute) in &self.given {
            let value = compute(&Match { egraph, names, values: &values })?;
            values[*var] = Some(Value::Attr(value));
        }
        let found = Match { egraph, names, values: &values };
        let holds = self.when.iter().all(|(_, condition, on)| condition(&found, on));
        holds.then_some(Site::Equation(values))
    }
}

/// What a function is called where it stands.
fn name_of<F>() -> &'static str {
    std::any::type_name::<F>().rsplit("::").next().unwrap_or_default()
}

/// The classes that hold a node of a name, in order.
fn classes_of(egraph: &EGraph, name: &str) -> Vec<Id> {
    let mut found: Vec<Id> = egraph
        .classes()
        .filter(|c| c.nodes.iter().any(|n| n.term.name() == name))
        .map(|c| c.id)
        .collect();
    found.sort_unstable();
    found
}

/// Every rule: lowering first, since nothing compiles without it.
pub(crate) fn all() -> Vec<Rule> {
    let tables = [
        (Family::Lowering, lowering::table()),
        (Family::Algebra, algebra::table()),
        (Family::Fusion, fusion::table()),
    ];
    tables
        .into_iter()
        .flat_map(|(family, table)| table.into_iter().map(move |rule| rule.of(family)))
        .collect()
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Algebra => "algebra",
            Self::Fusion => "fusion",
            Self::Lowering => "lowering",
        })
    }
}
