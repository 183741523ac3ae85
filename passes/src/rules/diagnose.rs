//! Why a rule that changed nothing did not.

use super::{Equation, Kind, Rule, Site, classes_of};
use crate::language::{Attr, EGraph};
use crate::pattern::{Match, Miss, Pattern, Rewriter, Value, furthest, match_class};
use egg::Id;

/// Why a rule did not apply anywhere in an e-graph.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// Nothing has the form of the left side.
    NoMatch {
        /// Operations that the left side has.
        of: usize,
        /// How far the best match got; `None` where the outermost operation does not occur.
        best: Option<Miss>,
        /// The outermost operation.
        root: String,
    },
    /// Something has the form, but a side condition does not hold.
    Refused {
        /// The name of its function.
        condition: &'static str,
        /// What it was asked of.
        on: Vec<(String, Subject)>,
        /// Other places that have the form.
        others: usize,
    },
    /// All conditions hold and nothing new is said, or nothing well typed.
    NothingNew(Id),
}

/// What a side condition is asked of.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// A value.
    Class(Id),
    /// An attribute.
    Attr(Attr),
}

impl Rule {
    /// Why the rule does not apply.
    pub(crate) fn obstacle(&self, egraph: &mut EGraph) -> Obstacle {
        match &self.kind {
            Kind::Equation(equation) => equation.obstacle(egraph),
            Kind::Function { roots, conditions, .. } => {
                let sites = self.search(egraph);
                let rewriter = Rewriter::new(egraph);
                // The place where most conditions hold.
                let mut best: Option<(usize, Obstacle)> = None;
                for site in &sites {
                    let Site::Function(class, node) = site else { continue };
                    let held =
                        conditions.iter().take_while(|(_, holds)| holds(&rewriter, *class, node));
                    let held = held.count();
                    if best.as_ref().is_some_and(|(most, _)| held <= *most) {
                        continue;
                    }
                    let obstacle = match conditions.get(held) {
                        Some((condition, _)) => {
                            let operand = |c: &Id| ("operand".to_owned(), Subject::Class(*c));
                            let itself = (node.term.name().to_owned(), Subject::Class(*class));
                            let on = [itself].into_iter().chain(node.children.iter().map(operand));
                            let others = sites.len() - 1;
                            Obstacle::Refused { condition, on: on.collect(), others }
                        }
                        None => Obstacle::NothingNew(*class),
                    };
                    best = Some((held, obstacle));
                }
                let root = roots.join("` or `");
                let none = Obstacle::NoMatch { of: 1, best: None, root };
                best.map_or(none, |(_, obstacle)| obstacle)
            }
        }
    }
}

impl Equation {
    fn obstacle(&self, egraph: &EGraph) -> Obstacle {
        let (left, names) = (&self.left, &self.names);
        let Pattern::Op { name, .. } = left else { unreachable_left(left) };
        let (mut best, mut refused, mut matches): (Option<Miss>, _, _) = (None, None, 0);
        for class in classes_of(egraph, name) {
            let mut values = vec![None; names.len()];
            values[0] = Some(Value::Class(class));
            let found = match_class(egraph, left, class, values);
            matches += found.len();
            for values in found {
                let obstacle = self.refusal(egraph, values).unwrap_or(Obstacle::NothingNew(class));
                refused.get_or_insert(obstacle);
            }
            if let Some(miss) = furthest(egraph, names, left, class)
                && best.as_ref().is_none_or(|best| miss.found > best.found)
            {
                best = Some(miss);
            }
        }
        match refused {
            Some(Obstacle::Refused { condition, on, .. }) => {
                Obstacle::Refused { condition, on, others: matches - 1 }
            }
            Some(obstacle) => obstacle,
            None => Obstacle::NoMatch { of: left.operations(), best, root: name.clone() },
        }
    }

    /// The first condition that does not hold of a match.
    fn refusal(&self, egraph: &EGraph, mut values: Vec<Option<Value>>) -> Option<Obstacle> {
        let names = &self.names;
        let refused = |values: &[Option<Value>], condition, on: Vec<&str>| {
            let subject = |name: &str| {
                let value = match values.get(names.find(name)?)?.as_ref()? {
                    Value::Class(id) => Subject::Class(*id),
                    Value::Attr(attr) => Subject::Attr(attr.clone()),
                };
                Some((name.to_owned(), value))
            };
            let on = on.into_iter().filter_map(subject).collect();
            Some(Obstacle::Refused { condition, on, others: 0 })
        };
        for (condition, var, compute) in &self.given {
            let value = compute(&Match { egraph, names, values: &values });
            match value {
                Some(value) => values[*var] = Some(Value::Attr(value)),
                None => return refused(&values, *condition, names.iter().collect()),
            }
        }
        let found = Match { egraph, names, values: &values };
        let (condition, _, on) = self.when.iter().find(|(_, holds, on)| !holds(&found, on))?;
        refused(&values, *condition, on.to_vec())
    }
}

fn unreachable_left(left: &Pattern) -> ! {
    panic!("bug in moec: the left side {left:?} of a rule is a variable")
}
