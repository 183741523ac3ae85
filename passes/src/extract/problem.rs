//! The e-graph as extraction sees it: numbered classes, nodes with costs, nothing else.

use super::{ChosenValue, Extracted};
use crate::cost::CostModel;
use crate::language::{EGraph, Node};
use egg::Id;
use std::collections::{BTreeMap, BTreeSet};

/// What to extract.
pub(crate) struct Problem<'a> {
    egraph: &'a EGraph,
    names: &'a BTreeMap<Id, String>,
    /// The classes that kernels can compute, by number.
    pub(super) classes: Vec<Class>,
    /// Numbers of the classes wanted; `None` where one cannot be computed.
    pub(super) roots: Option<Vec<usize>>,
    outputs: Vec<Id>,
}

/// A class and the ways to compute it.
pub(super) struct Class {
    id: Id,
    pub(super) ways: Vec<Way>,
}

/// A node that has a cost and whose operands can all be computed.
pub(super) struct Way {
    node: Node,
    /// Seconds.
    pub(super) cost: f64,
    /// Numbers of the operands' classes, each once.
    pub(super) operands: Vec<usize>,
}

/// One way of each class, by number.
pub(super) type Choice = Vec<usize>;

impl<'a> Problem<'a> {
    /// The problem of computing some classes.
    pub(crate) fn new(
        egraph: &'a EGraph,
        names: &'a BTreeMap<Id, String>,
        outputs: &[Id],
        cost: &CostModel,
    ) -> Self {
        let mut costs: BTreeMap<Id, Vec<(&Node, f64)>> = BTreeMap::new();
        for class in egraph.classes() {
            let mut nodes: Vec<(&Node, f64)> = class
                .nodes
                .iter()
                .filter_map(|n| cost.node(egraph, class.id, n).map(|c| (n, c)))
                .collect();
            nodes.sort_by(|a, b| a.0.cmp(b.0));
            costs.insert(class.id, nodes);
        }
        let computable = computable(egraph, &costs);
        let numbers = reachable(egraph, &costs, &computable, outputs);
        let mut ordered: Vec<Id> = numbers.keys().copied().collect();
        ordered.sort_by_key(|id| numbers[id]);
        let classes = ordered
            .into_iter()
            .map(|id| {
                let usable = costs[&id].iter().filter(|(n, _)| can_compute(egraph, &computable, n));
                let ways = usable.map(|(node, cost)| {
                    let mut operands: Vec<usize> =
                        node.children.iter().map(|c| numbers[&egraph.find(*c)]).collect();
                    operands.sort_unstable();
                    operands.dedup();
                    Way { node: (*node).clone(), cost: *cost, operands }
                });
                Class { id, ways: ways.collect() }
            })
            .collect();
        let outputs: Vec<Id> = outputs.iter().map(|id| egraph.find(*id)).collect();
        let roots = outputs.iter().map(|id| numbers.get(id).copied()).collect();
        Self { egraph, names, classes, roots, outputs }
    }

    /// The classes in the order in which they can be computed, following a choice from the
    /// roots; `None` where it goes in a circle.
    pub(super) fn order(&self, choice: &Choice) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Open,
            Done,
        }
        let mut state = vec![State::New; self.classes.len()];
        let mut order = vec![];
        for &root in self.roots.as_ref()? {
            let mut stack = vec![root];
            while let Some(&class) = stack.last() {
                if state[class] == State::Done {
                    stack.pop();
                    continue;
                }
                let way = self.classes[class].ways.get(choice[class])?;
                let waiting: Vec<usize> = way
                    .operands
                    .iter()
                    .rev()
                    .copied()
                    .filter(|&operand| state[operand] != State::Done)
                    .collect();
                if waiting.is_empty() {
                    state[class] = State::Done;
                    order.push(class);
                    stack.pop();
                } else if waiting.iter().any(|&operand| state[operand] == State::Open) {
                    return None;
                } else {
                    state[class] = State::Open;
                    stack.extend(waiting);
                }
            }
        }
        Some(order)
    }

    /// Seconds of a choice, each class counted once; `None` where it goes in a circle.
    pub(super) fn seconds(&self, choice: &Choice) -> Option<f64> {
        let order = self.order(choice)?;
        Some(order.iter().map(|&c| self.classes[c].ways[choice[c]].cost).sum())
    }

    /// The values of a choice that goes in no circle.
    pub(super) fn read_off(&self, choice: &Choice) -> Extracted {
        let order = self.order(choice).unwrap_or_default();
        let mut place: BTreeMap<Id, usize> = BTreeMap::new();
        let mut values = vec![];
        for class in order {
            let Class { id, ways } = &self.classes[class];
            let way = &ways[choice[class]];
            let data = &self.egraph[*id].data;
            let operands = way.node.children.iter().map(|c| place[&self.egraph.find(*c)]).collect();
            place.insert(*id, values.len());
            values.push(ChosenValue {
                node: way.node.clone(),
                operands,
                ty: data.ty.clone(),
                weight: data.weight.clone(),
                name: self.names.get(id).cloned(),
                seconds: way.cost,
            });
        }
        let outputs = self.outputs.iter().map(|id| place[id]).collect();
        Extracted { values, outputs }
    }
}

/// The classes that kernels can compute.
fn computable(egraph: &EGraph, costs: &BTreeMap<Id, Vec<(&Node, f64)>>) -> BTreeSet<Id> {
    let mut known: BTreeSet<Id> = BTreeSet::new();
    loop {
        let before = known.len();
        for (id, nodes) in costs {
            if !known.contains(id) && nodes.iter().any(|(n, _)| can_compute(egraph, &known, n)) {
                known.insert(*id);
            }
        }
        if known.len() == before {
            return known;
        }
    }
}

fn can_compute(egraph: &EGraph, known: &BTreeSet<Id>, node: &Node) -> bool {
    node.children.iter().all(|c| known.contains(&egraph.find(*c)))
}

/// Numbers of the computable classes below the outputs: operands mostly before users, which
/// makes the fixed point quick.
fn reachable(
    egraph: &EGraph,
    costs: &BTreeMap<Id, Vec<(&Node, f64)>>,
    computable: &BTreeSet<Id>,
    outputs: &[Id],
) -> BTreeMap<Id, usize> {
    let mut numbers: BTreeMap<Id, usize> = BTreeMap::new();
    let mut entered: BTreeSet<Id> = BTreeSet::new();
    let mut next = 0;
    for output in outputs {
        let mut stack = vec![(egraph.find(*output), false)];
        while let Some((id, leave)) = stack.pop() {
            if leave {
                numbers.insert(id, next);
                next += 1;
                continue;
            }
            if !computable.contains(&id) || !entered.insert(id) {
                continue;
            }
            stack.push((id, true));
            for (node, _) in &costs[&id] {
                if can_compute(egraph, computable, node) {
                    stack.extend(node.children.iter().map(|c| (egraph.find(*c), false)));
                }
            }
        }
    }
    numbers
}
